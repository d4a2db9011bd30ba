"""Writes batches: rows in, receipts out; what is committed goes on to the outbox.

Flows in: rows of admitted deliveries, in order. Flows out: a receipt for each row, in its entry; the ledger's totals
and what was published, with the batch; a `Publication` of what was stored. Knows no queues and does not wait: what to
do with rows that could not be written is the pipeline's to say.

A batch that fails as a whole is tried a second time at once, unless it may have been committed: then it is in doubt,
and `InDoubtBatches` asks the store before anything else is written.

A batch that the store refuses has something in it that can never be stored. Whatever that is, all else is written:

    ledger lines   first and alone, so that at no moment more is settled than was received; one that is refused is
                   set aside, and tried again once a minute
    readings       halved until the bad ones are found; these become quarantine rows
    quarantine     written in plainer forms until one is taken; where none is, that row alone is FAILED: its sender
                   keeps it

A reading that the store takes for another one than is stored in its place, or that is beyond its sensor's limits, is
refused alone, with all else of its batch committed. It becomes a quarantine row, which is written before anything is
settled; whatever happens in between, its sender has no acknowledgement, comes again, and is refused again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import perf_counter

import msgspec
import structlog

from bridge.errors import InstanceExpired, StoreRefused, StoreUnavailable
from bridge.model.reading import (
    Batch,
    Code,
    CommitResult,
    LedgerLine,
    Outcome,
    Publication,
    QuarantineRow,
    Reading,
    Receipt,
)
from bridge.pipeline.batch import NOT_STORED, PLAINER_FORMS, BatchRow, accounts, quarantine
from bridge.pipeline.in_doubt import InDoubtBatches
from bridge.pipeline.isolate import in_parts
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.ports import Outbox, Store
from bridge.telemetry import Metrics

log = structlog.get_logger("pipeline")

OUTCOMES = tuple(Outcome)
SET_ASIDE_S = 60.0
"""How long a ledger line that the store refuses is kept out of batches."""


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
        self._set_aside_s = 0.0
        self._refused: list[BatchRow] = []  # by a batch that was committed: to be written to quarantine
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

    async def _write_rows(self, rows: Sequence[BatchRow]) -> None:
        """Write rows with the ledger lines that are due; where the store refuses, all but what it refuses."""
        if self._ledger.set_aside and perf_counter() - self._set_aside_s > SET_ASIDE_S:
            self._ledger.take_back()
        lines = self._ledger.take()
        self._refused = []
        try:
            await self._write_batch(rows, lines)
        except StoreRefused:
            await self._write_lines(lines)
        else:
            rows = self._take_refused()
        await self._write_in_parts(rows)

    def _take_refused(self) -> list[BatchRow]:
        refused, self._refused = self._refused, []
        return refused

    async def _write_lines(self, lines: Sequence[LedgerLine]) -> None:
        """Write ledger lines without rows, and set aside those that the store refuses."""

        async def write_some(some: Sequence[LedgerLine]) -> None:
            await self._write_batch((), some)

        for line, error in await in_parts(lines, write_some):
            log.error("ledger_line_refused", device=line.device_id, source=line.source, detail=error.detail)
            self._metrics.unstorable.labels("ledger").inc()
            self._ledger.put_aside(line)
            self._set_aside_s = perf_counter()

    async def _write_in_parts(self, rows: Sequence[BatchRow]) -> None:
        """Write all rows but those that are refused alone, and these as quarantine rows, in ever plainer forms."""
        forms: dict[BatchRow, int] = {}  # how many plainer forms of a row were tried
        while rows:
            refused = await in_parts(rows, self._write_batch)
            rows = self._take_refused()
            for row, error in refused:
                if isinstance(row.content, Reading):
                    log.warning("reading_refused_by_store", detail=error.detail, device=row.content.device_id)
                    quarantine(row, row.content, Code.STORE_REFUSED, error.detail, NOT_STORED)
                elif (tried := forms.get(row, 0)) < len(PLAINER_FORMS):
                    row.content = PLAINER_FORMS[tried](row.content, error.detail)
                    forms[row] = tried + 1
                else:
                    self._fail(row, error)
                    continue
                rows.append(row)

    def _fail(self, row: BatchRow, error: StoreRefused) -> None:
        """Enter that a row is not stored in any form: it stays with its sender."""
        ((device_id, source),) = accounts([row])
        log.error("quarantine_refused_by_store", detail=error.detail, device=device_id, source=source)
        self._metrics.unstorable.labels("quarantine").inc()
        self._metrics.readings.labels(row.content.source, "failed").inc()
        self._ledger.give_back(device_id, source)
        row.entry.receipts[row.index] = Receipt(row.index, Outcome.FAILED)

    async def _write_batch(self, rows: Sequence[BatchRow], lines: Sequence[LedgerLine] = ()) -> None:
        """One call of the store. Raises StoreRefused, StoreUnavailable; nothing of it is written then."""
        self.number += 1
        for row in rows:
            row.in_doubt = False
        readings = [row.content for row in rows if isinstance(row.content, Reading)]
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
            if isinstance(error, StoreRefused):
                self._metrics.store_errors.labels(error.code).inc()
            elif error.in_doubt:
                self.in_doubt.add(self.number, rows)
            raise
        finally:
            self._calling_since_s = None
        self._latency.observe(perf_counter() - started_s)
        if rows:
            self._metrics.batch_size.observe(len(rows))
        self._publish(readings, committed)
        if committed.rejected:
            rows = self._set_refused_apart(rows, committed)
        self._enter_receipts(rows, committed)

    def _set_refused_apart(self, rows: Sequence[BatchRow], committed: CommitResult) -> list[BatchRow]:
        """Turn what was refused into quarantine rows, for a batch of their own. Return the other rows."""
        settled = []
        place = -1
        for row in rows:
            reading = row.content
            if not isinstance(reading, Reading):
                settled.append(row)
                continue
            place += 1
            refusal = committed.rejected.get(place)
            if refusal is None:
                settled.append(row)
            else:
                code, detail = refusal
                quarantine(row, reading, code, detail, detail)
                self._refused.append(row)
        return settled

    def _publish(self, readings: list[Reading], committed: CommitResult) -> None:
        """Pass what was stored on to the outbox, as it is stored; duplicates were published before."""
        if committed.outbox_id is None:
            return
        for alert in committed.alerts:
            self._metrics.alerts.labels(alert.kind).inc()
        if committed.stored_ts_us:
            readings = [
                reading if reading.ts_us == ts_us else msgspec.structs.replace(reading, ts_us=ts_us)
                for reading, ts_us in zip(readings, committed.stored_ts_us, strict=True)
            ]
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

    def _enter_receipts(self, rows: Sequence[BatchRow], committed: CommitResult) -> None:
        """Enter a receipt for each row, and count them."""
        outcomes = iter(committed.outcomes)
        if committed.rejected:  # their rows are not among these
            outcomes = iter([outcome for outcome in committed.outcomes if outcome != Outcome.QUARANTINED])
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
