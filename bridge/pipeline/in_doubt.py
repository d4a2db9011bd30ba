"""Batches of which nobody has told us whether they were committed: they stay pending in the ledger until we can ask.

Flows in: rows of a batch whose connection was lost. Flows out: corrections of the ledger, once the store has
said what became of it. Rows of a batch that was committed are no first deliveries any more when they are written
again: their keys are known, and are their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import structlog

from bridge.model.reading import Reading
from bridge.pipeline.batch import BatchRow, accounts
from bridge.pipeline.ledger import Account, DoorLedger
from bridge.pipeline.ports import Outbox, Store

log = structlog.get_logger("pipeline")


class _InDoubtBatch:
    """One batch: whose rows were failed, and which are tried again."""

    __slots__ = ("failed", "number", "rows")

    def __init__(self, number: int, failed: Mapping[Account, int], rows: Sequence[BatchRow]) -> None:
        self.number = number
        self.failed = failed
        self.rows = rows


class InDoubtBatches:
    """True while there are any."""

    def __init__(self, store: Store, ledger: DoorLedger, outbox: Outbox) -> None:
        self._store = store
        self._ledger = ledger
        self._outbox = outbox
        self._open: list[_InDoubtBatch] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, number: int, rows: Sequence[BatchRow]) -> None:
        """The rows of a batch that may have been committed."""
        failed = accounts(row for row in rows if not row.entry.delivery.retry_in_place)
        retried = [row for row in rows if row.entry.delivery.retry_in_place]
        for row in rows:
            row.in_doubt = True
        self._open.append(_InDoubtBatch(number, failed, retried))

    async def settle(self) -> None:
        """Ask what became of them. Raises StoreUnavailable."""
        while self._open:
            doubt = self._open[0]
            if await self._store.was_committed(doubt.number):
                # The database has counted these rows. Those that are retried come in a second time.
                for (device_id, source), count in accounts(doubt.rows).items():
                    self._ledger.receive(device_id, source, count)
                for row in doubt.rows:
                    if isinstance(row.content, Reading) and not row.content.redelivered:
                        row.content = msgspec.structs.replace(row.content, redelivered=True)
                self._outbox.recover()
            else:
                for (device_id, source), count in doubt.failed.items():
                    self._ledger.give_back(device_id, source, count)
            log.info("batch_doubt_settled", number=doubt.number)
            del self._open[0]

    def clear(self) -> None:
        """Nobody will ask any more."""
        self._open.clear()
