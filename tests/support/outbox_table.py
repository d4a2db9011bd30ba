"""The outbox table in memory. Implements `OutboxTable`; can be away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from bridge.errors import StoreUnavailable
from bridge.model.reading import Publication


class MemoryOutboxTable:
    """Rows of `instance` are its own; all others are of processes that are gone, unless they are `living`."""

    def __init__(self, instance: int = 1, living: Collection[int] = ()) -> None:
        self.instance = instance
        self.living = {instance, *living}
        self.rows: dict[int, Publication] = {}
        self.away = False
        self.reads = 0

    def commit(self, *publications: Publication) -> None:
        """What the stored procedure does."""
        self.rows.update({publication.outbox_id: publication for publication in publications})

    async def own(self, above: int, limit: int) -> list[Publication]:
        self._ask()
        self.reads += 1
        return [row for row in self._sorted() if row.instance == self.instance and row.outbox_id > above][:limit]

    @asynccontextmanager
    async def orphans(self, limit: int) -> AsyncIterator[list[Publication]]:
        self._ask()
        yield [row for row in self._sorted() if row.instance not in self.living][:limit]

    async def existing(self, ids: Sequence[int]) -> set[int]:
        self._ask()
        return self.rows.keys() & set(ids)

    async def delete(self, ids: Sequence[int]) -> None:
        self._ask()
        for outbox_id in ids:
            self.rows.pop(outbox_id, None)

    async def stats(self) -> tuple[int, float]:
        self._ask()
        return len(self.rows), 0.5 if self.rows else 0.0

    def _ask(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def _sorted(self) -> list[Publication]:
        return [self.rows[outbox_id] for outbox_id in sorted(self.rows)]
