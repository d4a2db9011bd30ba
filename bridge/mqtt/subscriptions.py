"""Decides what a session subscribes to and unsubscribes from: settings and what was remembered, in; filters, out.

A persistent session keeps its subscriptions at the broker, also those that are in the configuration no
longer, and no broker lists them to its client. So they are remembered, by client id and broker: on the
service in the database, and not in a file, since a process may come back on another host, which is how the
session of a host that is gone is taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from bridge.errors import Unavailable
from bridge.mqtt.converters.formats import FORMATS
from bridge.settings.mqtt import MqttSettings

RESULTS = "devices/+/commands/+/result"
"""Where devices answer commands."""


class SubscriptionStore(Protocol):
    """Remembers, across restarts, what the session of a client id is subscribed to. Raises Unavailable."""

    async def recall(self, client_id: str, broker: str) -> Sequence[str]: ...

    async def remember(self, client_id: str, broker: str, filters: Sequence[str]) -> None: ...


class NoSubscriptionStore:
    """For a session without a place to remember: what is no longer in the configuration lingers."""

    async def recall(self, client_id: str, broker: str) -> Sequence[str]:
        return ()

    async def remember(self, client_id: str, broker: str, filters: Sequence[str]) -> None:
        return


class Subscriptions:
    """The filters of one session: those it wants, and the stale ones that the broker may still have for it."""

    def __init__(self, store: SubscriptionStore, client_id: str, broker: str, filters: Sequence[str]) -> None:
        self._store = store
        self._client_id = client_id
        self._broker = broker
        self._filters = filters
        self.stale: list[str] = []
        """The filters to unsubscribe from."""

    async def recall(self) -> None:
        """Look up the stale filters, and remember the wanted ones before they are asked for. Raises Unavailable."""
        before = await self._store.recall(self._client_id, self._broker)
        self.stale = stale(before, self._filters)
        if set(before) != {*self._filters, *self.stale}:
            await self._store.remember(self._client_id, self._broker, [*self._filters, *self.stale])

    async def drop_stale(self, retry_s: float) -> None:
        """Remember the wanted filters alone: the broker has dropped the others. Waits while the store is away."""
        while True:
            try:
                await self._store.remember(self._client_id, self._broker, self._filters)
            except Unavailable:
                await asyncio.sleep(retry_s)
            else:
                self.stale = []
                return


def wanted(settings: MqttSettings, *, results: bool) -> list[str]:
    """The filters to subscribe to, as the broker is told.

    A format that remembers what came before (Sparkplug's births) is not shared: each process needs all of it.
    """
    filters = [*settings.subscriptions, *([RESULTS] if results else [])]
    if not settings.share:
        return filters
    whole = {entry.filter for entry in settings.converters if FORMATS[entry.format].remembers}
    return [each if each in whole else f"$share/{settings.share}/{each}" for each in filters]


def stale(before: Iterable[str], now: Sequence[str]) -> list[str]:
    """The filters to unsubscribe from."""
    return sorted(set(before) - set(now))
