"""Writes batches: rows in, receipts out; what is committed goes on to the outbox.

Flows in: rows of admitted deliveries, in order. Flows out: a receipt for each row, in its entry; the ledger's totals
and what was published, with the batch; a `Publication` of what was stored. Knows no queues and does not wait: what to
do with rows that could not be written is the pipeline's to say.

A batch that fails as a whole is tried a second time at once, unless it may have been committed: then it is in doubt,
and `InDoubtBatches` asks the store before anything else is written. A batch that the store refuses is halved until
the one bad reading is found, which becomes a quarantine row.
"""

from __future__ import annotations

from collections import Counter
from time import perf_counter

import structlog

from bridge.errors import InstanceExpired, StoreRefused, StoreUnavailable
from bridge.model.reading import Batch, CommitResult, Outcome, Publication, QuarantineRow, Reading, Receipt
from bridge.pipeline.batch import BatchRow, quarantine, split
from bridge.pipeline.in_doubt import InDoubtBatches
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.ports import Outbox, Store
from bridge.telemetry import Metrics

log = structlog.get_logger("pipeline")

OUTCOMES = tuple(Outcome)


class BatchWriter:
    """One call of the store at a time. `number` is that of the last batch; `asked_s` when the store was last called,
    by `perf_counter`.
    """

    def __init__(
        self, store: Store, outbox: Outbox, ledger: DoorLedger, instance: int, metrics: Metrics, *, stalled_s: float
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._ledger = ledger
        self._instance = instance
        self._metrics = metrics
        self._stalled_s = stalled_s
        self._latency = metrics.stage.labels("store")
        self._calling_since_s: float | None = None
        self.in_doubt = InDoubtBatches(store, ledger, outbox)
        self.number = 0
        self.asked_s = 0.0

    @property
    def problem(self) -> str:
        """That a call of the store takes suspiciously long; empty when none does."""
        since_s = self._calling_since_s
        if since_s is None or (waited_s := perf_counter() - since_s) <= self._stalled_s:
            return ""
        return f"the database has not answered for {waited_s:.0f} s"

    async def write(self, rows: list[BatchRow]) -> None:
        """Write rows, of which there may be none; a lost connection or a deadlock costs a second try.

        Raises StoreUnavailable: those rows without a receipt are not known to be written.
        """
        try:
            await self._write_rows(rows)
        except StoreUnavailable as error:
            if error.in_doubt or isinstance(error, InstanceExpired):
                raise
            await self._write_rows([row for row in rows if row.entry.receipts[row.index] is None])

    async def _write_rows(self, rows: list[BatchRow]) -> None:
        """Write rows; where the store refuses, halve until the one bad reading is found."""
        try:
            await self._write_batch(rows)
        except StoreRefused as error:
            self._metrics.store_errors.labels(error.code).inc()
            if len(rows) > 1:
                for half in split(rows):
                    await self._write_rows(half)
            elif rows and isinstance(rows[0].content, Reading):
                log.warning("reading_refused_by_store", detail=error.detail)
                quarantine(rows[0], error.detail)
                await self._write_rows(rows)
            else:
                raise StoreUnavailable(f"the database refuses its own books: {error.detail}") from error

    async def _write_batch(self, rows: list[BatchRow]) -> None:
        self.number += 1
        for row in rows:
            row.in_doubt = False
        readings = [row.content for row in rows if isinstance(row.content, Reading)]
        lines = self._ledger.take()
        published = self._outbox.take_published()
        batch = Batch(
            self.number,
            readings,
            [row.content for row in rows if isinstance(row.content, QuarantineRow)],
            lines,
            published,
        )
        started_s = self.asked_s = self._calling_since_s = perf_counter()
        try:
            committed = await self._store.write(batch)
        except (StoreUnavailable, StoreRefused) as error:
            self._ledger.put_back(lines)
            self._outbox.give_back(published)
            if isinstance(error, StoreUnavailable) and error.in_doubt:
                self.in_doubt.add(self.number, rows)
            raise
        finally:
            self._calling_since_s = None
        self._latency.observe(perf_counter() - started_s)
        if rows:
            self._metrics.batch_size.observe(len(rows))
        self._publish(readings, committed)
        self._enter_receipts(rows, committed)

    def _publish(self, readings: list[Reading], committed: CommitResult) -> None:
        """Pass what was stored on to the outbox; duplicates were published before."""
        if committed.outbox_id is None:
            return
        for alert in committed.alerts:
            self._metrics.alerts.labels(alert.kind).inc()
        outcomes = committed.outcomes
        if any(outcomes):
            stored = [i for i, outcome in enumerate(outcomes) if outcome == Outcome.STORED]
            readings = [readings[i] for i in stored]
            classes = [committed.classes[i] for i in stored]
        else:
            classes = list(committed.classes)
        self._outbox.enqueue(
            Publication(
                committed.instance or self._instance,
                committed.outbox_id,
                readings,
                classes,
                committed.stored_us,
                committed.alerts,
                committed.depends_on,
            )
        )

    def _enter_receipts(self, rows: list[BatchRow], committed: CommitResult) -> None:
        """Enter a receipt for each row, and count them."""
        outcomes = iter(committed.outcomes)
        settled: Counter[tuple[str, Outcome]] = Counter()
        for row in rows:
            receipt = row.receipt
            if receipt is None:
                receipt = Receipt(row.index, OUTCOMES[next(outcomes)])
            elif receipt.code is not None:
                self._metrics.quarantined.labels(receipt.code).inc()
            row.entry.receipts[row.index] = receipt
            settled[row.content.source, receipt.outcome] += 1
        for code in committed.thinned:
            self._metrics.thinned.labels(code).inc()
        for (source, outcome), count in settled.items():
            self._metrics.readings.labels(source, outcome.name.lower()).inc(count)
