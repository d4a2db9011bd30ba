"""The outbox table, as the relay sees it. Implements `bridge.broker.relay.OutboxTable`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bridge.model.reading import Publication, Reading, Source
from bridge.store import queries
from bridge.store.postgres import PostgresStore, alert_event

SOURCES = frozenset(source.value for source in Source)


class PostgresOutbox:
    """Reads and deletes rows of `ingest_outbox`, on the store's pooled connections."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._sql = queries.load("service")

    async def own(self, above: int, limit: int) -> list[Publication]:
        """See `OutboxTable.own`."""
        rows = await self._store.fetch("own_unpublished", {"own": self._store.instance, "above": above, "limit": limit})
        return [_publication(row) for row in rows]

    @asynccontextmanager
    async def orphans(self, limit: int) -> AsyncIterator[list[Publication]]:
        """See `OutboxTable.orphans`."""
        async with self._store.pooled() as connection:
            # The lock of a transaction, so that a pooler in transaction mode keeps it on one session.
            await connection.execute("BEGIN")
            try:
                cursor = await connection.execute(self._sql["try_sweep"])
                row = await cursor.fetchone()
                if row is None or not row[0]:
                    yield []
                    return
                cursor = await connection.execute(self._sql["orphans"], {"own": self._store.instance, "limit": limit})
                yield [_publication(row) for row in await cursor.fetchall()]
            finally:
                await connection.execute("COMMIT")

    async def existing(self, ids: Sequence[int]) -> set[int]:
        """See `OutboxTable.existing`."""
        return {row[0] for row in await self._store.fetch("outbox_exists", {"ids": list(ids)})}

    async def delete(self, ids: Sequence[int]) -> None:
        """See `OutboxTable.delete`."""
        if ids:
            await self._store.fetch("delete_outbox", {"ids": list(ids)})

    async def stats(self) -> tuple[int, float]:
        """See `OutboxTable.stats`."""
        row = await self._store.fetch_one("outbox_stats")
        return (row[0], row[1]) if row else (0, 0.0)


def _publication(row: tuple[Any, ...]) -> Publication:
    outbox_id, instance, stored_us, *columns, classes, alerts, after_instance, after_outbox = row
    filled = [_fitted(column, len(classes)) for column in columns]
    readings = [
        Reading(
            sensor_id=sensor_id,
            value=value,
            ts_us=ts_us,
            received_us=received_us,
            device_id=device_id or 0,
            sensor_type=sensor_type or "",
            source=_source(source),
            sequence=sequence,
            gateway=gateway,
            key=key,
        )
        for sensor_id, value, ts_us, sequence, received_us, key, source, gateway, sensor_type, device_id in zip(
            *filled, strict=True
        )
    ]
    return Publication(
        instance,
        outbox_id,
        readings,
        classes,
        stored_us,
        [alert_event(alert) for alert in alerts],
        list(zip(after_instance, after_outbox, strict=True)),
    )


def _fitted(column: list[Any] | None, size: int) -> list[Any]:
    """Of one dimension, as long as there are readings: an earlier release has taken arrays of any form from others."""
    flat = column or []
    while any(isinstance(item, list) for item in flat):
        flat = [inner for item in flat for inner in (item if isinstance(item, list) else [item])]
    return [*flat[:size], *[None] * (size - len(flat))]


def _source(text: str | None) -> Source:
    """The door; what other programs have called themselves is `sql`."""
    return Source(text) if text in SOURCES else Source.SQL
