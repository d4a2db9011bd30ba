"""Rows of quarantine that wait for a sensor, as the running service asks for them. All raise StoreUnavailable."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from bridge.model.reading import MIN_TIME_US
from bridge.store import queries
from bridge.store.postgres import PostgresStore


class WaitingRow(NamedTuple):
    """A row that waits. Its last three columns say where it is in the order of arrival."""

    id: int
    size: int  # bytes of its payload
    received_us: int
    reading_index: int


START = WaitingRow(0, 0, MIN_TIME_US, -1)
"""Before all rows."""


class WaitingRows:
    """Queries of `sql/admin.sql` on the store's pooled connections."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._sql = queries.load("admin")

    async def waiting(self, refs: Sequence[str] | None, after: WaitingRow, limit: int) -> list[WaitingRow]:
        """What waits for these sensors (None: for any) behind the row `after`, in the order in which it came."""
        rows = await self._fetch(
            "quarantine_waiting",
            refs=None if refs is None else list(refs),
            after_us=after.received_us,
            after_index=after.reading_index,
            after_id=after.id,
            limit=limit,
        )
        return [WaitingRow(**row) for row in rows]

    async def page(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """What a replay needs of these rows."""
        return await self._fetch("quarantine_page", ids=list(ids))

    async def gateway_speakers(self, ids: Collection[int], names: Collection[str]) -> list[dict[str, Any]]:
        """For which devices these gateways may speak now."""
        return await self._fetch("speakers", ids=list(ids), names=list(names))

    async def api_key_speakers(self, ids: Collection[int]) -> list[dict[str, Any]]:
        """For which devices these API keys may speak now."""
        return await self._fetch("api_key_speakers", ids=list(ids))

    async def mark_replayed(self, ids: Sequence[int]) -> None:
        """Note that these rows are stored now."""
        if ids:
            await self._fetch("mark_replayed", ids=list(ids))

    async def _fetch(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        async with self._store.pooled() as connection:
            cursor = await connection.execute(self._sql[query], arguments)
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]
