"""What MQTT sessions are subscribed to, by client id and broker. Implements `mqtt.subscriptions.SubscriptionStore`."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.store.postgres import PostgresStore


class SubscriptionTable:
    """Remembers what was subscribed, in the database. All methods raise StoreUnavailable."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def recall(self, client_id: str, broker: str) -> Sequence[str]:
        """Return the filters; none where nothing is known."""
        row = await self._store.fetch_one("recall_subscriptions", {"client_id": client_id, "broker": broker})
        return list(row[0]) if row else ()

    async def remember(self, client_id: str, broker: str, filters: Sequence[str]) -> None:
        """Remember these filters, in place of those before."""
        arguments = {"client_id": client_id, "broker": broker, "filters": list(filters)}
        await self._store.fetch("remember_subscriptions", arguments)
