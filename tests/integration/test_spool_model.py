"""The spool held against a queue in memory, while its disk fails, its process dies and its power is cut.

What fsync has promised is modelled by copies: a power cut brings back the files as they were after the last commit
that was made with synchronous=FULL.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bridge.errors import StoreUnavailable
from bridge.model.reading import Batch, LedgerLine, Outcome, QuarantineRow, Reading, ReadingClass, Source
from edge.record import Record, Settlement
from edge.spool import Spool
from tests.support.spool_site import Fault, FaultyDisk, SteadyTime, imbalance, junk, make_spool, read_all, reading

Content = Reading | QuarantineRow

CLEAN_ERRORS = [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY]
IO_ERRORS = [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_READ]
STATEMENTS = ["BEGIN", "INSERT", "DELETE", "UPDATE", "SELECT", "PRAGMA page_count", "ROLLBACK"]

DISK_FAULTS = (
    st.none()
    | st.builds(Fault, st.sampled_from(STATEMENTS), st.sampled_from(CLEAN_ERRORS + IO_ERRORS), skip=st.integers(0, 3))
    | st.builds(Fault, st.just("COMMIT"), st.sampled_from(CLEAN_ERRORS + IO_ERRORS))
    # A commit that fails for want of room or of a lock is not made; after an I/O error nobody knows.
    | st.builds(Fault, st.just("COMMIT"), st.sampled_from(IO_ERRORS), after=st.just(True))
)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Few sensors, times and keys, so that much of it is sent again."""
    if draw(st.integers(0, 9)) == 0:
        return junk(draw(st.binary(max_size=3_000)))
    number, sensor = draw(st.integers(0, 12)), draw(st.integers(1, 3))
    key = draw(st.sampled_from([None, None, f"k{number}-{sensor}"]))
    return reading(
        number,
        sensor=sensor,
        device=7 + sensor % 2,
        key=key,
        sequence=draw(st.sampled_from([None, 3])),
        redelivered=key is None or draw(st.booleans()),
    )


class AllAlerts:
    """So that nothing but what is quarantined may be shed."""

    def classify(self, readings: Sequence[Reading]) -> Sequence[int]:
        return [ReadingClass.ALERT] * len(readings)


class Model:
    """What must be in the spool, and what it must know."""

    def __init__(self) -> None:
        self.queue: list[Content] = []
        self.known: set[str] = set()

    def take(self, content: Content) -> Outcome:
        if isinstance(content, QuarantineRow):
            self.queue.append(content)
            return Outcome.QUARANTINED
        if content.event_id in self.known and (content.key is None or content.redelivered):
            return Outcome.DUPLICATE
        self.known.add(content.event_id)
        self.queue.append(content)
        return Outcome.STORED

    def shed(self, count: int) -> None:
        """The oldest quarantined rows have been shed."""
        junk = [content for content in self.queue if isinstance(content, QuarantineRow)][:count]
        assert len(junk) == count
        self.queue = [content for content in self.queue if not any(content is gone for gone in junk)]


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool"))
        self.runner = asyncio.Runner()
        self.disk = FaultyDisk()
        self.disk.committed = self.on_commit
        self.model = Model()
        self.durable_model = Model()
        self.durable_number = 0  # the last batch that a power cut would leave
        self.number = 0
        self.received: dict[tuple[int, Source], int] = {}
        self.given: set[int] = set()
        self.ids: list[int] = []  # of the model's queue
        self.durable_ids: list[int] = []
        self.pending: Model | None = None  # what the model will be if the commit in hand is made
        self.shed = 0
        self.spool: Spool

    @initialize()
    def begin(self) -> None:
        self.start()

    def start(self) -> None:
        self.disk.faults.clear()
        self.number = 0
        self.received.clear()
        self.spool = make_spool(self.folder, SteadyTime(), self.disk, classifier=AllAlerts())
        self.runner.run(self.spool.open())
        self.shed = self.shed_so_far()

    def shed_so_far(self) -> int:
        return sum(total.shed for total in self.runner.run(self.spool.totals()))

    def on_commit(self, connection: sqlite3.Connection, synchronous: str) -> None:
        """SQLite has committed: a durable commit carries everything before it to the disk."""
        if synchronous != "FULL":
            return
        copies = self.folder / "durable"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        for file in self.folder.glob("spool.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, copies)
        ask = partial(sqlite3.Connection.execute, connection)  # no fault is meant for these
        (batch,) = ask("SELECT max(batch) FROM ledger").fetchone()
        self.durable_number = batch
        there = {row_id for (row_id,) in ask("SELECT id FROM record UNION SELECT id FROM refused")}
        made = self.pending if self.pending is not None and batch == self.number else self.model
        self.durable_model = Model()
        self.durable_model.known = set(made.known)
        self.durable_model.queue = [
            content for content, row_id in zip(self.model.queue, self.ids, strict=True) if row_id in there
        ]
        self.durable_ids = sorted(there)
        self.durable_model.queue += made.queue[len(self.model.queue) :]

    # -- rules

    @rule(batch=st.lists(contents(), min_size=1, max_size=40), fault=DISK_FAULTS)
    def write(self, batch: list[Content], fault: Fault | None) -> None:
        """As the pipeline does: a batch that failed is given back, one in doubt is asked about."""
        readings = [content for content in batch if isinstance(content, Reading)]
        quarantined = [content for content in batch if isinstance(content, QuarantineRow)]
        after = deepcopy(self.model)
        expected = [after.take(content) for content in readings]
        for row in quarantined:
            after.take(row)
        received = dict(self.received)
        for content in batch:
            account = (content.device_id, content.source)
            received[account] = received.get(account, 0) + 1
        lines = [LedgerLine(device, source, count, 0) for (device, source), count in received.items()]
        self.number += 1
        self.disk.faults[:] = [fault] if fault else []
        self.pending = after
        try:
            committed = self.runner.run(self.spool.write(Batch(self.number, readings, quarantined, lines)))
        except StoreUnavailable as error:
            self.disk.faults.clear()
            done = error.in_doubt and self.runner.run(self.spool.was_committed(self.number))
            if not error.in_doubt:
                assert not self.runner.run(self.spool.was_committed(self.number))
        else:
            done = True
            assert list(committed.outcomes) == expected
        self.disk.faults.clear()
        self.pending = None
        if done:
            assert self.durable_number == self.number, "acknowledged, and a power cut would lose it"
            self.model, self.received = after, received
        self.model.shed(self.shed_so_far() - self.shed)
        self.shed = self.shed_so_far()

    @rule(count=st.integers(1, 60), every=st.integers(1, 3), fault=DISK_FAULTS)
    def deliver(self, count: int, every: int, fault: Fault | None) -> None:
        """Acknowledge some of the oldest; what a failed call let go of, a second call lets go of too."""
        records = self.runner.run(self.spool.read(above=0, count=count, max_bytes=1 << 20))
        settlements = [
            Settlement(record.id, Outcome.FAILED if place % every else Outcome.STORED)
            for place, record in enumerate(records)
        ]
        self.disk.faults[:] = [fault] if fault else []
        try:
            self.runner.run(self.spool.acknowledge(settlements))
        except StoreUnavailable:
            self.disk.faults.clear()
            self.runner.run(self.spool.acknowledge(settlements))
        self.disk.faults.clear()
        going = {place for place in range(len(records)) if place % every == 0}
        self.model.queue = [content for place, content in enumerate(self.model.queue) if place not in going]

    @rule(fault=DISK_FAULTS)
    def maintain(self, fault: Fault | None) -> None:
        self.disk.faults[:] = [fault] if fault else []
        try:
            self.runner.run(self.spool.maintain())
        except StoreUnavailable:
            pass
        finally:
            self.disk.faults.clear()

    @rule()
    def stop_and_start(self) -> None:
        self.runner.run(self.spool.close())
        self.start()

    @rule()
    def power_cut(self) -> None:
        """Only what was made durable is there: acknowledgements of the uplink may be gone, nothing else."""
        copies = Path(tempfile.mkdtemp(prefix="cut"))
        shutil.copytree(self.folder / "durable", copies, dirs_exist_ok=True)
        model, ids = deepcopy(self.durable_model), self.durable_ids
        self.runner.run(self.spool.close())
        for file in self.folder.glob("spool.db*"):
            file.unlink()
        shutil.copytree(copies, self.folder, dirs_exist_ok=True)
        shutil.rmtree(copies)
        self.model = model
        self.ids = ids
        self.start()

    # -- what always holds

    @invariant()
    def holds_the_queue(self) -> None:
        if not hasattr(self, "spool"):
            return
        records = self.runner.run(read_all(self.spool, step=17))
        assert [_seen(record) for record in records] == [_meant(content) for content in self.model.queue]
        ids = [record.id for record in records]
        assert ids == sorted(set(ids))
        backlog = self.spool.backlog()
        assert backlog.depth == len(self.model.queue)
        assert backlog.oldest_id == (ids[0] if ids else 0)
        assert all(row_id in self.given or row_id > max(self.given, default=0) for row_id in ids), "an id came again"
        self.given.update(ids)
        self.ids = ids
        assert not imbalance(self.runner.run(self.spool.totals()), backlog.depth)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.runner.run(self.spool.close())
        self.runner.close()
        shutil.rmtree(self.folder)


def _seen(record: Record) -> tuple[object, ...]:
    if record.quarantined:
        return record.code, record.payload, record.device_id, record.received_us
    return record.sensor, record.value, record.ts_us, record.sequence, record.key, record.received_us


def _meant(content: Content) -> tuple[object, ...]:
    if isinstance(content, QuarantineRow):
        return content.code, content.payload, content.device_id, content.received_us
    return content.sensor_id, content.value, content.ts_us, content.sequence, content.key, content.received_us


class TestSpoolMachine(SpoolMachine.TestCase):  # type: ignore[valid-type, misc]
    settings = settings(
        max_examples=30,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes: the long run does
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
class TestSpoolMachineAtLength(SpoolMachine.TestCase):  # type: ignore[valid-type, misc]
    settings = settings(
        max_examples=1_000, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
