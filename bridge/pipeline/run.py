"""The pipeline of one process: deliveries in, settled deliveries out. Group commit.

Flows in: `Delivery`, from the doors, by `submit`. Flows out: each delivery's one call of `settle`, with a receipt for
each of its readings; what is stored goes on to the outbox. Imports steps, settings and domain types, and no door.

Theory of operation
-------------------

A delivery is in one state at a time, and leaves a state in the order in which it came, so that the readings of a
sensor reach the database, and the streams, in the order they came:

    submit ──► known sensors? ──yes──► ready ──► in the one batch under way ──► settled
                   └──no──► waiting ──► one look-up for all that wait ──► ready

- *waiting* (`_waiting`): a sensor is not in the cache. While any delivery waits, those behind it wait, too.
- *ready* (`_ready`): validated, and counted as received in the ledger. One call of the store runs at a time; whatever
  becomes ready meanwhile is the next batch, which leaves as soon as the database is free. Nothing waits for a timer.
  What is refused as a whole goes beside the readings, a bounded number of bytes a batch (`ReadyEntries`).
- *in the batch*: its rows are with the store (`BatchWriter`), which enters a receipt for each row once it is committed.
  With the last receipt the delivery is settled; nowhere else does a receipt come from that says stored.

When the store goes away (`_mark_down`), what becomes of a delivery depends on its door. Either way nothing is
acknowledged that is not committed:

    state         HTTP (the sender comes again)           MQTT, `retry_in_place` (the broker does not)
    submit        refused with StoreUnavailable           taken, and waits for the store
    waiting       settled as FAILED                       stays
    ready         settled as FAILED, ledger corrected     stays
    in the batch  tried once more, then as if ready       tried once more, then the first to be ready again
    in doubt      settled as FAILED, ledger left open     the first to be ready again, ledger left open

*In doubt* is a batch whose connection was lost after it was sent: it may have been committed. Its rows are not tried
a second time before the store has said what became of it (`InDoubtBatches`); then the ledger is corrected, and rows
that are written again are found to be duplicates by their identity. A process that was away for so long that another
one closed its ledger (`InstanceExpired`) begins a new one, with what it still holds.

The store is back with the first call that succeeds (`_mark_up`): the writer asks again and again, with a delay, also
when there is nothing to write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from time import perf_counter

import structlog

from bridge.errors import Backpressure, InstanceExpired, StoreUnavailable
from bridge.model.reading import Delivery, Outcome, Receipt, Source
from bridge.pipeline.batch import Entry, accounts, make_entry
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.ports import Outbox, Store
from bridge.pipeline.ready import ReadyEntries
from bridge.pipeline.resolve import Resolver, SensorsByRef
from bridge.pipeline.validate import Validator
from bridge.pipeline.write import BatchWriter
from bridge.settings.process import PipelineSettings
from bridge.tasks import delay_s
from bridge.telemetry import Metrics

log = structlog.get_logger("pipeline")

IDLE_FLUSH_S = 1.0
"""Ledger totals that no batch has carried are written after this long."""
HEARTBEAT_S = 5.0
"""The store is asked this often when nothing comes in: `problem` must not wait for the first reading."""
STALLED_S = 3.0
"""A call of the store that takes longer is a problem to be told, before it fails."""


class Pipeline:
    """The pipeline of one process. `run` must be running for anything to be settled.

    `keep_unknown`: a sensor that cannot be resolved here is stored as unresolved, not quarantined (a gateway).
    `judges_times`: whether a reading's time can be held against ours now; else it is left to the service (a gateway).
    `heartbeat_s` and `stalled_s`: see `HEARTBEAT_S` and `STALLED_S`.
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
        judges_times: Callable[[], bool] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        stalled_s: float = STALLED_S,
    ) -> None:
        self._resolver = resolver
        self._settings = settings
        self._metrics = metrics
        self._random = random
        self._now_us = now_us
        self._validator = Validator(settings, keep_unknown=keep_unknown, judges_times=judges_times)
        self._heartbeat_s = heartbeat_s
        self._ledger = DoorLedger()
        self._writer = BatchWriter(store, outbox, self._ledger, instance, metrics, stalled_s=stalled_s)
        self._waiting: deque[Delivery] = deque()
        self._ready = ReadyEntries()
        self._wake_resolver = asyncio.Event()
        self._wake_writer = asyncio.Event()
        self._drained = asyncio.Event()
        self._up = asyncio.Event()
        self._up.set()
        self._failure = ""
        self._queued = 0
        self._received = {source: metrics.received.labels(source) for source in Source}
        self._door_latency = metrics.stage.labels("door")
        metrics.queued.set_function(lambda: self._queued)
        metrics.store_up.set(1)

    @property
    def queued(self) -> int:
        """Readings taken in and not yet settled."""
        return self._queued

    @property
    def problem(self) -> str:
        """Why nothing can be stored at the moment, as anybody may read; empty when it can."""
        return self._failure or self._writer.problem

    @property
    def at_rest(self) -> int | None:
        """Number of the last batch, where nothing is pending and the ledger is written; None at any other time."""
        if self._queued or self._ledger.dirty or self._writer.in_doubt:
            return None
        return self._writer.number

    def submit(self, delivery: Delivery) -> None:
        """Take a delivery in; `delivery.settle` is called when it is settled.

        Raises Backpressure when the queue is full, and StoreUnavailable while the store is away, for a delivery that is
        not to be retried in place. In both cases nothing was taken.
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
        """Validate a delivery that is resolved as far as it can be, count it as received, queue it for the store.

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
                await self._writer.in_doubt.settle()
                await self._write_next()
            except StoreUnavailable as error:
                if isinstance(error, InstanceExpired):
                    self._begin_ledger()
                self._mark_down(error)
            else:
                attempt = 0
                self._mark_up()

    async def _idle(self) -> None:
        """Wait for something to write, or until it is time to look whether the ledger or a heartbeat is due."""
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
        entries = self._ready.take(self._settings.max_batch)
        rows = [row for entry in entries for row in entry.todo]
        is_heartbeat_due = not self._up.is_set() or perf_counter() - self._writer.asked_s >= self._heartbeat_s
        if not rows and not self._ledger.dirty and not is_heartbeat_due:
            return
        try:
            await self._writer.write(rows)
        except StoreUnavailable:
            self._keep_or_fail(entries)
            raise
        self._finish(entries)

    def _finish(self, entries: Iterable[Entry]) -> None:
        """Settle what is written."""
        now_us = self._now_us()
        for entry in entries:
            self._queued -= len(entry.todo)
            entry.todo = []
            self._door_latency.observe((now_us - entry.delivery.received_us) / 1_000_000)
            entry.settle_if_done()

    # -- when the store is away

    def _keep_or_fail(self, entries: list[Entry]) -> None:
        """Part of the batch is not written: put what is retried in place back in front, and fail the rest."""
        for entry in reversed(entries):
            before = len(entry.todo)
            entry.todo = [row for row in entry.todo if entry.receipts[row.index] is None]
            self._queued -= before - len(entry.todo)
            if entry.delivery.retry_in_place and entry.todo:
                self._ready.put_back(entry)
            else:
                self._fail(entry)

    def _fail(self, entry: Entry) -> None:
        self._metrics.readings.labels(entry.delivery.source, "failed").inc(len(entry.todo))
        # Rows in doubt are booked once the database has said what became of them.
        for (device_id, source), count in accounts(row for row in entry.todo if not row.in_doubt).items():
            self._ledger.give_back(device_id, source, count)
        self._queued -= len(entry.todo)
        entry.fail()

    def _begin_ledger(self) -> None:
        """Begin a new ledger: ours was closed as a dead process's, balanced, whatever became of batches in doubt.

        The outbox rows of those are swept like a dead process's, too.
        """
        log.warning("books_begun_anew", queued=self._queued)
        self._writer.in_doubt.clear()
        held = [row for entry in self._ready for row in entry.todo]
        for row in held:
            row.in_doubt = False
        self._ledger.begin(accounts(held))

    def _mark_down(self, error: StoreUnavailable) -> None:
        """Fail all that is queued and not retried in place; from now on `submit` refuses the like at the door."""
        self._metrics.store_errors.labels(error.code).inc()
        if self._up.is_set():
            log.error("store_unavailable", detail=error.detail)
        self._up.clear()
        self._failure = error.told
        self._metrics.store_up.set(0)
        for entry in self._ready.remove_where(lambda entry: not entry.delivery.retry_in_place):
            self._fail(entry)
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
