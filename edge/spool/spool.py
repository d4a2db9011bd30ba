"""The spool of a gateway: readings are safe in it until the service has them.

Flows in: `Batch` from the pipeline. Flows out: `CommitResult`, after the fsync; and to the uplink `Record`, oldest
first, until they are acknowledged. Implements `Store`, `SpoolQueue` and `SpoolTotals`. `edge/spool/__init__.py` says
how it works, docs/spool.md what happens at each limit.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import ParamSpec, TypeVar

import structlog

from bridge.errors import StoreUnavailable
from bridge.model.reading import Batch, CommitResult
from edge.ports import Classifier, Time
from edge.record import Backlog, LedgerTotals, Record, SetAside, Settlement
from edge.settings import SpoolSettings
from edge.spool.capacity import Capacity, FreeBytes, free_bytes
from edge.spool.file import Connect, SpoolFull, connect
from edge.spool.reader import SpoolReader
from edge.spool.recovery import Recovery, recount
from edge.spool.state import MAX_ID, SpoolState
from edge.spool.writer import SpoolWriter
from edge.telemetry import SpoolMetrics

log = structlog.get_logger("spool")

P = ParamSpec("P")
T = TypeVar("T")

BYTES_A_ROW = 170
"""What a reading adds to the log, with its part of the index and the ledger, when many are committed together."""
BYTES_A_COMMIT = 4_096
BYTES_A_PAGE_MOVED = 4_096
"""The page, its parent, and those that keep count of both."""
REST = 3
"""What a step of maintenance takes, it rests so many times as long: readings come first."""


class Spool:
    """A spool and its thread. `open` before use, `run` beside it. Without `classifier` every reading is clean."""

    def __init__(
        self,
        settings: SpoolSettings,
        time: Time,
        metrics: SpoolMetrics,
        *,
        classifier: Classifier | None = None,
        connect: Connect = connect,
        free: FreeBytes = free_bytes,
    ) -> None:
        self._settings = settings
        self._classifier = classifier
        self._metrics = metrics
        self._state = SpoolState(settings, time, metrics, connect=connect)
        self._writer = SpoolWriter(self._state)
        self._reader = SpoolReader(self._state)
        self._capacity = Capacity(self._state, self._reader, free)
        self._recovery = Recovery(self._state)
        self._thread = ThreadPoolExecutor(1, "spool")
        self._arrived = asyncio.Event()
        self._next_commit_s = 0.0
        self._log_estimate = 0
        self._shrinking = False
        self._problem = "the spool is not open"
        metrics.records.set_function(lambda: self._state.memory.depth)
        metrics.bytes.set_function(lambda: self._capacity.used_bytes)
        metrics.limit.set_function(lambda: self._capacity.limit_bytes)

    async def open(self) -> None:
        """Open the file, set a damaged one aside. Raises StoreUnavailable; may be called again, and need not be."""
        await self._call(self._open)

    async def close(self) -> None:
        """Close the file. What is spooled stays."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def run(self) -> None:
        """Call `maintain` for ever. Ends by cancellation."""
        while True:
            busy = False
            started_s = perf_counter()
            try:
                busy = await self.maintain()
            except StoreUnavailable as error:
                log.debug("spool_unavailable", detail=error.detail)  # the pipeline says so, and `backlog`
            rest_s = REST * (perf_counter() - started_s)
            await asyncio.sleep(
                min(rest_s, self._settings.maintain_every_s) if busy else self._settings.maintain_every_s
            )

    async def maintain(self) -> bool:
        """A step of what must be done beside the main job; True where more of it is waiting.

        Keeps within age and disk, follows the clock, gives space back, recovers from damaged files.
        Raises StoreUnavailable.
        """
        busy = await self._call(self._maintain)
        if self._recovery.recount_wanted:
            await self._recount()
        return busy

    async def _recount(self) -> None:
        """Hold the ledger against the rows: what a damaged spool has lost is entered."""
        self._recovery.recount_wanted = False
        try:
            missing = await asyncio.to_thread(recount, self._settings.path, self._state.file.sql)
        except sqlite3.Error as error:
            log.warning("recount_failed", detail=str(error))
            self._recovery.recount_wanted = True
            return
        await self._call(self._recovery.correct_ledger, missing)

    # -- Store

    async def write(self, batch: Batch) -> CommitResult:
        """See `Store.write`."""
        await self._await_interval()
        labels = [0] * len(batch.readings) if self._classifier is None else self._classifier.classify(batch.readings)
        committed = await self._call(self._write, batch, labels)
        self._arrived.set()
        self._logged(len(batch.readings), sum(len(row.payload) for row in batch.quarantined))
        return committed

    async def was_committed(self, number: int) -> bool:
        """See `Store.was_committed`."""
        return await self._call(self._writer.was_committed, number)

    def _logged(self, rows: int, payload_bytes: int = 0) -> None:
        """A commit has made the log longer: write it back, once it is long enough."""
        self._log_estimate += BYTES_A_COMMIT + BYTES_A_ROW * rows + payload_bytes
        if self._log_estimate >= self._settings.checkpoint_bytes:
            # Behind the answer: nobody's acknowledgement waits for a checkpoint, but for the next commit.
            self._log_estimate = 0
            self._thread.submit(self._checkpoint)

    async def _await_interval(self) -> None:
        if self._settings.commit_interval_s:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, self._next_commit_s - loop.time()))
            self._next_commit_s = loop.time() + self._settings.commit_interval_s

    # -- SpoolQueue, SpoolTotals

    async def read(self, *, above: int, upto: int | None = None, count: int, max_bytes: int) -> Sequence[Record]:
        """See `SpoolQueue.read`."""
        return await self._call(self._reader.read, above, MAX_ID if upto is None else upto, count, max_bytes)

    async def acknowledge(self, settlements: Sequence[Settlement]) -> None:
        """See `SpoolQueue.acknowledge`."""
        await self._call(self._acknowledge, settlements)
        self._logged(len(settlements))

    def backlog(self) -> Backlog:
        """See `SpoolQueue.backlog`."""
        memory = self._state.memory
        rows = memory.ledger.totals()
        return Backlog(
            depth=memory.depth,
            used_bytes=self._capacity.used_bytes,
            limit_bytes=self._capacity.limit_bytes,
            oldest_id=memory.oldest.id,
            newest_id=memory.newest_id,
            oldest_received_us=memory.oldest.received_us,
            problem=self._problem,
            shed=sum(row.shed for row in rows),
            lost=sum(row.lost for row in rows),
            set_aside=tuple(SetAside(each.file, each.page) for each in memory.recoveries),
        )

    async def wait_above(self, record_id: int) -> None:
        """See `SpoolQueue.wait_above`."""
        while self._state.memory.last_id <= record_id:
            self._arrived.clear()
            await self._arrived.wait()

    async def totals(self) -> list[LedgerTotals]:
        """See `SpoolTotals.totals`."""
        return await self._call(self._totals)

    # -- in the spool's thread

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in the spool's thread, and remember whether it could."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))
        except StoreUnavailable as error:
            self._problem = error.detail
            raise
        self._problem = ""
        return result

    def _open(self) -> None:
        with self._state.guarded():
            self._capacity.measure()

    def _close(self) -> None:
        self._recovery.close()
        self._state.close()

    def _write(self, batch: Batch, labels: Sequence[int]) -> CommitResult:
        with self._state.guarded():
            if batch.readings or batch.quarantined:
                payloads = sum(len(row.payload) for row in batch.quarantined)
                self._capacity.require(len(batch.readings) + payloads // BYTES_A_ROW)
        try:
            return self._writer.write(batch, labels)
        except SpoolFull:
            with self._state.guarded():
                self._capacity.evict_some()
            return self._writer.write(batch, labels)

    def _acknowledge(self, settlements: Sequence[Settlement]) -> None:
        self._state.file.with_reserve(lambda: self._reader.acknowledge(settlements))

    def _totals(self) -> list[LedgerTotals]:
        self._state.open()
        return self._state.memory.ledger.totals()

    def _checkpoint(self) -> bool:
        started = perf_counter()
        done = self._state.file.checkpoint()
        self._metrics.checkpoint.observe(perf_counter() - started)
        return done

    def _maintain(self) -> bool:
        state, capacity = self._state, self._capacity
        with state.guarded():
            state.follow_clock()
            capacity.limit_quarantine()
            busy = bool(capacity.expire())
            capacity.keep_within()
            capacity.keep_reserve()
            state.forget_unused()
        if self._recovery.step():
            busy = True
            capacity.start_over()
        with state.guarded():
            if pages := capacity.vacuum():
                busy = self._shrinking = True
                self._log_estimate += pages * BYTES_A_PAGE_MOVED
            if self._shrinking and (not pages or capacity.disk_is_short):  # it is the checkpoint that cuts the file off
                self._shrinking = bool(pages)
                self._log_estimate = self._settings.checkpoint_bytes
        if self._log_estimate >= self._settings.checkpoint_bytes:
            self._log_estimate = 0
            self._checkpoint()
        return busy
