"""A change of the spool: adopted whole once it is committed, and without a trace where any part of it failed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.errors import BridgeError, StoreRefused, StoreUnavailable
from bridge.model.reading import LedgerLine, Outcome, Source
from edge.spool.hashes import hash_of
from edge.spool.ledger import account_of
from edge.spool.memory import LEDGER_CARRIED, LEDGER_TAKEN, LEDGER_WANTED, RecoveryState
from edge.spool.quarantine_quota import ROW_BYTES
from edge.spool.rows import SqlRow, reading_row, refused_row, sensor_name, source_number
from edge.spool.state import SpoolState
from edge.telemetry import SpoolMetrics
from tests.support.spool_site import Fault, FaultyDisk, SteadyTime, junk, reading, settings_in

ASIDE = "spool.db.damaged-20260101T000000Z-0000"
ACCOUNT = account_of(7, source_number(Source.MQTT))
STATEMENTS = 30  # more than a change has
OF_A_RUN = ("ids", "last_use", "key", "leased")  # not in the file, or only as far as it matters to the next run


class SpoolUnderTest:
    """A spool's state on a disk that fails as told, with two readings and two quarantined rows in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "spool"
        self.copies = folder / "copy"
        self.folder.mkdir()
        (self.folder / ASIDE).touch()
        self.disk = FaultyDisk()
        self.state = SpoolState(settings_in(self.folder), SteadyTime(), SpoolMetrics(), connect=self.disk.connect)
        self.state.open()
        self.last = self.state.memory.newest_id  # ids of rows are counted from here
        with self.state.change(batch=1) as change:
            for n in (1, 2):
                change.put_readings([self.row(n, change.names.ref(sensor_name(reading(n, sensor=n)), self.last + n))])
            change.put_refused([self.refused(n, b"12345") for n in (3, 4)])
            change.give_ids(self.last + 4)
            change.ledger.count("spooled", ACCOUNT, 2)
            change.ledger.count("quarantined", ACCOUNT, 2)
        self.state.lease([self.last + 1, self.last + 2], 10)

    def row(self, n: int, sensor: int) -> SqlRow:
        return reading_row(reading(n, sensor=sensor), self.last + n, sensor, 0, 1, 0, clock_set=True)

    def refused(self, n: int, payload: bytes) -> SqlRow:
        return refused_row(junk(payload), self.last + n, 0, 1, clock_set=True)

    @contextmanager
    def change_of_everything(self) -> Iterator[None]:
        """One of each kind; the body is its end."""
        state = self.state
        with state.change(batch=2) as change:
            change.reserve(state.memory.reserved_id + 1)
            change.ledger.doors([LedgerLine(7, "mqtt", 9, 1)])
            sensor = change.names.ref(sensor_name(reading(5, sensor=0, unresolved="unknown")), 5)
            change.put_readings([self.row(5, sensor)])
            change.put_refused([self.refused(6, b"1234567")])
            change.give_ids(self.last + 6)
            change.add_keys([hash_of("a key")])
            change.ledger.count("spooled", ACCOUNT)
            change.ledger.count("quarantined", ACCOUNT)
            change.remove([self.last + 1, self.last + 2], [self.last + 3])
            change.deliver([hash_of("delivered")])
            change.ledger.deliver(ACCOUNT, Outcome.STORED, 3)
            change.release([self.last + 1])
            state.file.execute("restore_boot", ("another boot", 5))
            change.reload_boots()
            state.file.execute("salvage_books", (LEDGER_TAKEN, ASIDE))
            change.recoveries = (change.recoveries[0]._replace(ledger=LEDGER_TAKEN),)
            yield

    def on_disk(self) -> dict[str, object]:
        """What another start would know, asked of a copy: a start itself writes to the file."""
        shutil.rmtree(self.copies, ignore_errors=True)
        self.copies.mkdir()
        for file in self.folder.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, self.copies)
        state = SpoolState(settings_in(self.copies), SteadyTime(), SpoolMetrics())
        state.open()
        found = known(state)
        state.close()
        return {name: value for name, value in found.items() if name not in OF_A_RUN}


def known(state: SpoolState) -> dict[str, object]:
    """All that a state has in memory."""
    memory = state.memory
    return {
        "ids": (memory.epoch, memory.reserved_id, memory.newest_id, memory.last_id),
        "oldest": memory.oldest,
        "depth": memory.depth,
        "held": (memory.held.total, +memory.held.by_slot),
        "ledger": memory.ledger.totals(),
        "names": (dict(memory.names.by_ref), dict(memory.names.refs), memory.names.next_ref),
        "last_use": dict(memory.names.last_use),
        "boots": dict(memory.boots.by_ref),
        "delivered": (list(memory.identities.delivered_rows), memory.identities.has(hash_of("delivered"), keyed=False)),
        "key": memory.identities.has(hash_of("a key"), keyed=True),
        "recoveries": memory.recoveries,
        "leased": list(memory.leased),
    }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SpoolUnderTest]:
    site = SpoolUnderTest(tmp_path)
    yield site
    site.state.close()


def test_committed_change_is_in_memory_and_in_the_file(site: SpoolUnderTest) -> None:
    before = known(site.state)
    with site.change_of_everything():
        assert known(site.state) == before, "memory has changed before the commit"
    after = known(site.state)
    memory = site.state.memory
    assert memory.newest_id == memory.last_id == site.last + 6
    assert (memory.depth, memory.held.total, memory.oldest.id) == (3, 12 + 2 * ROW_BYTES, site.last + 4)
    assert memory.names.by_ref[3].name == "unknown"
    assert memory.names.last_use == {3: 5}
    assert memory.boots.ref("another boot") == 2
    assert memory.recoveries == (RecoveryState(ASIDE, 0, LEDGER_TAKEN),)
    assert list(memory.leased) == [site.last + 2]
    assert after["delivered"] == ([(1, 1)], True)
    assert after["key"]
    (totals,) = memory.ledger.totals()
    assert (totals.received, totals.returned, totals.spooled, totals.quarantined, totals.stored) == (9, 1, 3, 3, 3)
    assert all(after[name] != before[name] for name in after), "a change of everything"
    assert site.on_disk() == {name: after[name] for name in after if name not in OF_A_RUN}


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR_WRITE])
def test_change_that_fails_at_any_statement_leaves_all_as_it_was(site: SpoolUnderTest, code: int) -> None:
    before, file = known(site.state), site.on_disk()
    for skip in range(STATEMENTS):
        memory = site.state.memory
        site.disk.faults = [Fault("", code, skip=skip)]
        try:
            with site.change_of_everything():
                pass
        except StoreUnavailable:
            assert not site.disk.faults, "it failed for another reason"
            assert site.state.memory is memory
            assert known(site.state) == before
            assert site.on_disk() == file
            site.state.open()  # the connection is gone after an I/O error
            assert known(site.state) == before | {"ids": known(site.state)["ids"]}
            before = known(site.state)
        else:
            break
    assert skip > 15
    assert site.disk.faults, "not every statement has failed once"
    assert known(site.state) != before


@pytest.mark.parametrize("error", [StoreRefused("a value"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_change_whose_body_raises_leaves_all_as_it_was(site: SpoolUnderTest, error: BaseException) -> None:
    before, file = known(site.state), site.on_disk()
    with pytest.raises(type(error)), site.change_of_everything():
        raise error
    assert known(site.state) == before
    assert site.on_disk() == file
    with site.change_of_everything():
        pass
    assert site.state.memory.newest_id == site.last + 6


def test_change_in_doubt_is_what_the_file_says(site: SpoolUnderTest) -> None:
    before = known(site.state)
    site.disk.faults = [Fault("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, after=True)]
    with pytest.raises(StoreUnavailable) as caught, site.change_of_everything():
        pass
    assert caught.value.in_doubt
    assert known(site.state) == before
    site.state.open()
    after = known(site.state)
    assert (site.state.memory.depth, site.state.memory.oldest.id) == (3, site.last + 4)
    assert {name: after[name] for name in after if name not in OF_A_RUN} == site.on_disk()


def test_change_of_a_damaged_file_is_given_up_with_it(site: SpoolUnderTest) -> None:
    connection = sqlite3.connect(site.folder / "spool.db")
    connection.execute("DROP TABLE refused")
    connection.close()
    with pytest.raises(BridgeError, match="set aside"), site.change_of_everything():
        pass
    memory = site.state.memory
    assert memory.depth == 4, "the ledger is carried, and what it knows of is to be recovered"
    assert memory.newest_id >= site.last + 4
    assert (memory.oldest.id, list(memory.leased)) == (0, [])
    assert [recovery.ledger for recovery in memory.recoveries] == [LEDGER_WANTED, LEDGER_CARRIED]
    assert memory.recoveries[0].file == ASIDE
