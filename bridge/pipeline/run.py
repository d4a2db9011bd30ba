"""The pipeline: deliveries in, settled deliveries out. Group commit.

    offer ──► known sensors? ──yes──► ready ──► one writer: Store.write ──► Outbox.offer, settle
                   └──no──► waiting ──► one look-up for all of them ──► ready

One call of the store runs at a time; whatever arrives meanwhile is the next batch, which leaves as
soon as the database is free. Nothing waits for a timer. Arrival order is kept throughout, so the
readings of a sensor reach the database, and the streams, in the order they came.

When the store is away, impatient deliveries (HTTP) fail at once and their senders come again;
patient ones (MQTT) stay and are retried in place. Either way nothing is acknowledged that is not
committed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from random import Random
from time import perf_counter

import structlog

from bridge.errors import Backpressure, InstanceExpired, StoreRefused, StoreUnavailable
from bridge.model.reading import (
    Batch,
    CommitResult,
    Delivery,
    Outcome,
    Publication,
    QuarantineRow,
    Reading,
    Receipt,
    Source,
)
from bridge.pipeline.batch import BatchRow, Entry, accounts, make_entry, quarantine, split
from bridge.pipeline.in_doubt import InDoubtBatches
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.ports import Outbox, Store
from bridge.pipeline.resolve import Resolver, SensorsByRef
from bridge.pipeline.validate import Validator
from bridge.settings.process import PipelineSettings
from bridge.tasks import delay_s
from bridge.telemetry import Metrics

log = structlog.get_logger("pipeline")

OUTCOMES = tuple(Outcome)
IDLE_FLUSH_S = 1.0
"""Ledger totals that no batch has carried are written after this long."""
HEARTBEAT_S = 5.0
"""The store is asked this often when nothing comes in: `problem` must not wait for the first reading."""
STALLED_S = 3.0
"""A call of the store that takes longer is a problem to be told, before it fails."""


class Pipeline:
    """The pipeline of one process. `run` must be running for anything to be settled.

    `keep_unknown`: a sensor that cannot be resolved here is stored as unresolved, not quarantined (a gateway).
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        store: Store,
        outbox: Outbox,
        instance: int,
        settings: PipelineSettings,
        metrics: Metrics,
        random: Random,
        now_us: Callable[[], int],
        keep_unknown: bool = False,
    ) -> None:
        self._resolver = resolver
        self._store = store
        self._outbox = outbox
        self._instance = instance
        self._settings = settings
        self._metrics = metrics
        self._random = random
        self._now_us = now_us
        self._validator = Validator(settings, keep_unknown=keep_unknown)
        self._ledger = DoorLedger()
        self._waiting: deque[Delivery] = deque()
        self._ready: deque[Entry] = deque()
        self._wake_resolver = asyncio.Event()
        self._wake_writer = asyncio.Event()
        self._drained = asyncio.Event()
        self._up = asyncio.Event()
        self._up.set()
        self._failure = ""
        self._writing_since: float | None = None
        self._asked_at = 0.0
        self._in_doubt = InDoubtBatches(store, self._ledger, outbox)
        self._number = 0
        self._queued = 0
        self._received = {source: metrics.received.labels(source) for source in Source}
        self._door_latency = metrics.stage.labels("door")
        self._store_latency = metrics.stage.labels("store")
        metrics.queued.set_function(lambda: self._queued)
        metrics.store_up.set(1)

    @property
    def queued(self) -> int:
        """Readings taken in and not yet settled."""
        return self._queued

    @property
    def problem(self) -> str:
        """Why nothing can be stored at the moment; empty when it can."""
        since = self._writing_since
        if not self._failure and since is not None and (waited_s := perf_counter() - since) > STALLED_S:
            return f"the database has not answered for {waited_s:.0f} s"
        return self._failure

    @property
    def at_rest(self) -> int | None:
        """Number of the last batch where nothing is pending and the books are written; None at any other time."""
        if self._queued or self._ledger.dirty or self._in_doubt:
            return None
        return self._number

    def submit(self, delivery: Delivery) -> None:
        """Take a delivery in; `delivery.settle` is called when it is settled.

        Raises Backpressure when the queue is full, and StoreUnavailable for an impatient delivery
        while the store is away. In both cases nothing was taken.
        """
        packet = delivery.packet
        size = len(packet.readings) + len(packet.rejections)
        if not self._up.is_set() and not delivery.retry_in_place:
            raise StoreUnavailable(self._failure)
        if self._queued and self._queued + size > self._settings.max_queued:
            self._metrics.limited.labels("queue").inc()
            raise Backpressure(f"{self._queued} readings are waiting for the database")
        self._received[delivery.source].inc(size)
        self._queued += size
        answers = None if self._waiting else self._resolver.known(packet.readings)
        if answers is None:
            self._waiting.append(delivery)
            self._wake_resolver.set()
        else:
            self._admit(delivery, answers)

    async def run(self) -> None:
        """Resolve and write for ever. Returns only by cancellation."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resolve_forever(), name="resolver")
            tasks.create_task(self._write_forever(), name="writer")

    async def drain(self, deadline_s: float) -> bool:
        """Wait until everything taken in is settled and written; False if the deadline came first."""
        try:
            async with asyncio.timeout(deadline_s):
                while self._queued or self._ledger.dirty:
                    self._drained.clear()
                    self._wake_writer.set()
                    await self._drained.wait()
        except TimeoutError:
            return False
        return True

    # -- resolve

    async def _resolve_forever(self) -> None:
        attempt = 0
        while True:
            await self._wake_resolver.wait()
            await self._up.wait()
            try:
                waiting = {decoded.sensor for delivery in self._waiting for decoded in delivery.packet.readings}
                answers = await self._resolver.answers(waiting)
            except StoreUnavailable as error:
                self._mark_down(error)
                await asyncio.sleep(self._delay_s(attempt))
                attempt += 1
                continue
            attempt = 0
            # What came in meanwhile may need another look-up; what waited may have failed with the store.
            while self._waiting and all(decoded.sensor in answers for decoded in self._waiting[0].packet.readings):
                self._admit(self._waiting.popleft(), answers)
            if not self._waiting:
                self._wake_resolver.clear()

    def _admit(self, delivery: Delivery, answers: SensorsByRef) -> None:
        """Resolved as far as it can be: validate, enter into the ledger, queue for the store.

        By these answers, not by the cache: that forgets at any time, and what it has forgotten is not unknown.
        """
        entry = make_entry(delivery, lambda decoded: answers[decoded.sensor], self._validator)
        for (device_id, source), count in accounts(entry.todo).items():
            self._ledger.receive(device_id, source, count)
        if not entry.todo:
            entry.settle_if_done()
            return
        self._ready.append(entry)
        self._wake_writer.set()

    # -- write

    async def _write_forever(self) -> None:
        attempt = 0
        while True:
            if not self._up.is_set():
                await asyncio.sleep(self._delay_s(attempt))
                attempt += 1
            elif not self._ready:
                await self._idle()
            try:
                await self._in_doubt.settle()
                await self._write_next()
            except StoreUnavailable as error:
                if isinstance(error, InstanceExpired):
                    self._begin_books()
                self._mark_down(error)
            else:
                attempt = 0
                self._mark_up()

    async def _idle(self) -> None:
        if not self._queued and not self._ledger.dirty:
            self._drained.set()
        self._wake_writer.clear()
        try:
            async with asyncio.timeout(IDLE_FLUSH_S):
                await self._wake_writer.wait()
        except TimeoutError:
            pass

    async def _write_next(self) -> None:
        """Write the next batch, and settle what it completes."""
        entries: list[Entry] = []
        rows: list[BatchRow] = []
        while self._ready and len(rows) < self._settings.max_batch:
            entry = self._ready.popleft()
            entries.append(entry)
            rows.extend(entry.todo)
        is_heartbeat_due = not self._up.is_set() or perf_counter() - self._asked_at >= HEARTBEAT_S
        if not rows and not self._ledger.dirty and not is_heartbeat_due:
            return
        try:
            await self._write_twice(rows)
        except StoreUnavailable:
            self._keep_or_fail(entries)
            raise
        self._finish(entries)

    async def _write_twice(self, rows: list[BatchRow]) -> None:
        """A lost connection or a deadlock costs a second try, not an error to every sender."""
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
        self._number += 1
        for row in rows:
            row.in_doubt = False
        readings = [row.content for row in rows if isinstance(row.content, Reading)]
        lines = self._ledger.take()
        published = self._outbox.take_published()
        batch = Batch(
            self._number,
            readings,
            [row.content for row in rows if isinstance(row.content, QuarantineRow)],
            lines,
            published,
        )
        started = self._asked_at = self._writing_since = perf_counter()
        try:
            committed = await self._store.write(batch)
        except (StoreUnavailable, StoreRefused) as error:
            self._ledger.put_back(lines)
            self._outbox.give_back(published)
            if isinstance(error, StoreUnavailable) and error.in_doubt:
                self._in_doubt.add(self._number, rows)
            raise
        finally:
            self._writing_since = None
        self._store_latency.observe(perf_counter() - started)
        if rows:
            self._metrics.batch_size.observe(len(rows))
        self._publish(readings, committed)
        self._book(rows, committed)

    def _publish(self, readings: list[Reading], committed: CommitResult) -> None:
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

    def _book(self, rows: list[BatchRow], committed: CommitResult) -> None:
        """Enter the receipts and count them."""
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
        for (source, outcome), count in settled.items():
            self._metrics.readings.labels(source, outcome.name.lower()).inc(count)

    def _finish(self, entries: Iterable[Entry]) -> None:
        now_us = self._now_us()
        for entry in entries:
            self._queued -= len(entry.todo)
            entry.todo = []
            self._door_latency.observe((now_us - entry.delivery.received_us) / 1_000_000)
            entry.settle_if_done()

    # -- when the store is away

    def _keep_or_fail(self, entries: list[Entry]) -> None:
        """Part of the batch is not written: fail impatient deliveries, put patient ones back in front."""
        for entry in reversed(entries):
            before = len(entry.todo)
            entry.todo = [row for row in entry.todo if entry.receipts[row.index] is None]
            self._queued -= before - len(entry.todo)
            if entry.delivery.retry_in_place and entry.todo:
                self._ready.appendleft(entry)
            else:
                self._fail(entry)

    def _fail(self, entry: Entry) -> None:
        self._metrics.readings.labels(entry.delivery.source, "failed").inc(len(entry.todo))
        # Rows in doubt are booked once the database has said what became of them.
        for (device_id, source), count in accounts(row for row in entry.todo if not row.in_doubt).items():
            self._ledger.give_back(device_id, source, count)
        self._queued -= len(entry.todo)
        entry.fail()

    def _begin_books(self) -> None:
        """Ours were closed as a dead process's: balanced, whatever became of batches in doubt.

        The outbox rows of those are swept like a dead process's, too.
        """
        log.warning("books_begun_anew", queued=self._queued)
        self._in_doubt.clear()
        held = [row for entry in self._ready for row in entry.todo]
        for row in held:
            row.in_doubt = False
        self._ledger.begin(accounts(held))

    def _mark_down(self, error: StoreUnavailable) -> None:
        """Fail everything impatient that is queued; from now on `submit` refuses it at the door."""
        self._metrics.store_errors.labels(error.code).inc()
        if self._up.is_set():
            log.error("store_unavailable", detail=error.detail)
        self._up.clear()
        self._failure = error.detail
        self._metrics.store_up.set(0)
        kept = [entry for entry in self._ready if entry.delivery.retry_in_place]
        for entry in [entry for entry in self._ready if not entry.delivery.retry_in_place]:
            self._fail(entry)
        self._ready = deque(kept)
        waiting = list(self._waiting)
        self._waiting = deque(delivery for delivery in waiting if delivery.retry_in_place)
        for delivery in waiting:
            if not delivery.retry_in_place:
                self._fail_unresolved(delivery)

    def _fail_unresolved(self, delivery: Delivery) -> None:
        """Fail a delivery that never reached the ledger."""
        packet = delivery.packet
        indexes = [decoded.index for decoded in packet.readings] + [rejection.index for rejection in packet.rejections]
        self._queued -= len(indexes)
        self._metrics.readings.labels(delivery.source, "failed").inc(len(indexes))
        delivery.settle([Receipt(index, Outcome.FAILED) for index in indexes])

    def _mark_up(self) -> None:
        if not self._up.is_set():
            log.info("store_available", queued=self._queued)
            self._up.set()
            self._failure = ""
            self._metrics.store_up.set(1)

    def _delay_s(self, attempt: int) -> float:
        return delay_s(
            attempt,
            minimum_s=self._settings.retry_min_s,
            maximum_s=self._settings.retry_max_s,
            random=self._random.random(),
        )
