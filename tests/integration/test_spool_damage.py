"""Spools that are cut off, overwritten, of another kind or not there: set aside, read as far as they go, replaced."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.errors import StoreUnavailable
from bridge.model.reading import Outcome
from edge.record import Record, Settlement
from edge.spool import Spool
from tests.integration.test_spool_killed import run_and_kill
from tests.support.spool_site import (
    Fault,
    FaultyDisk,
    SpoolFeeder,
    SteadyTime,
    imbalance,
    junk,
    make_spool,
    read_all,
    reading,
)

READINGS = 3_000
PAGE = 1024

Damage = Callable[[Path], object]


async def fill(folder: Path) -> list[Record]:
    """A spool that has seen some traffic, closed in order, its newest part still in the log."""
    spool = make_spool(folder / "alive", checkpoint_bytes=100_000)
    sender = SpoolFeeder(spool)
    for start in range(0, READINGS, 100):
        rows = [
            reading(n, sensor=n % 40 + 1, device=n % 5 + 1, key=f"k-{n}" if n % 3 == 0 else None)
            for n in range(start, start + 100)
        ]
        await sender.send(*rows, junk=[junk(bytes(n % 251 for n in range(start, start + 5_000)), device=2)])
    early = await spool.read(above=0, count=500, max_bytes=1 << 20)
    await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in early])
    await sender.send(reading(READINGS))
    left = await read_all(spool)
    for file in (folder / "alive").iterdir():
        if not file.name.endswith("-shm"):
            shutil.copy(file, folder)
    await spool.close()
    return left


class Filled:
    """A spool's files, and what is in them. Not a tuple: its representation would be a megabyte."""

    def __init__(self, folder: Path, records: list[Record]) -> None:
        self.folder = folder
        self.records = records


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    folder = tmp_path_factory.mktemp("filled")
    return Filled(folder, asyncio.run(fill(folder)))


def copy_of(filled: Path, folder: Path) -> Path:
    for file in filled.glob("spool.db*"):
        shutil.copy(file, folder)
    return folder / "spool.db"


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def statement(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.close()


def without_log(damage: Damage) -> Damage:
    """The log has some of the pages, and would heal them."""

    def both(path: Path) -> None:
        statement(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        damage(path)

    return both


def pages_of_noise(path: Path) -> None:
    """Every seventh page, but the first ten, which would be too easy to notice."""
    random = Random(1)
    for number in range(11, path.stat().st_size // PAGE, 7):
        overwrite(path, number * PAGE, random.randbytes(PAGE))


DAMAGES: dict[str, tuple[Damage, float]] = {
    "header of zeros": (without_log(lambda path: overwrite(path, 0, bytes(100))), 0.99),
    "first page of noise": (without_log(lambda path: overwrite(path, 0, Random(1).randbytes(PAGE))), 0.99),
    "cut off in the middle": (without_log(lambda path: os.truncate(path, path.stat().st_size // 2)), 0.2),
    "pages of noise": (without_log(pages_of_noise), 0.3),
    "a table gone": (lambda path: statement(path, "DROP TABLE meta"), 1.0),
    "another schema version": (lambda path: statement(path, "PRAGMA user_version = 99"), 1.0),
    "another application": (lambda path: statement(path, "PRAGMA application_id = 7"), 1.0),
    "no database": (without_log(lambda path: path.write_text("hello\n" * 1_000)), 0.0),
}


async def work_off(spool: Spool) -> None:
    """Let it recover; a spool that notices damage says so once, and is another one then."""
    for _ in range(2_000):
        try:
            if not await spool.maintain():
                return
        except StoreUnavailable:
            continue
    raise AssertionError("recovery does not end")


async def read_patiently(spool: Spool) -> list[Record]:
    for _ in range(5):
        try:
            return await read_all(spool)
        except StoreUnavailable:
            await work_off(spool)
    raise AssertionError("the spool stays damaged")


def content(record: Record) -> tuple[object, ...]:
    return (
        record.sensor, record.value, record.ts_us, record.sequence, record.key, record.received_us, record.device_id,
        record.device_uuid, record.source, record.boot_id, record.code, record.detail, record.payload, record.topic,
    )  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
async def test_damaged_spool_is_set_aside_and_recovered(tmp_path: Path, filled: Filled, name: str) -> None:
    damage, least = DAMAGES[name]
    source, before = filled.folder, filled.records
    damage(copy_of(source, tmp_path))
    spool = make_spool(tmp_path)
    await spool.open()
    sender = SpoolFeeder(spool)
    assert (await sender.send(reading(10_000, device=9))).outcomes == [Outcome.STORED]  # at once, before the recovery
    await work_off(spool)
    await read_patiently(spool)
    await work_off(spool)
    records = await read_patiently(spool)
    assert [path for path in tmp_path.glob("spool.db.*") if "-2026" in path.name], "nothing was set aside"
    old = [record for record in records if record.device_id != 9]
    known = {content(record): record.id for record in before}
    assert len(old) >= least * len(before)
    assert all(content(record) in known for record in old), "a reading that nobody sent"
    assert len({content(record) for record in old}) == len(old)
    assert all(known[content(record)] == record.id for record in old)
    assert not imbalance(await spool.totals(), len(records))
    assert spool.backlog().depth == len(records)
    await spool.close()


def renumber(path: Path, row_id: int, other_id: int) -> None:
    """Give a reading another rowid where it lies, so that its table is out of order.

    A cell is the length of its row, the rowid in two bytes (for 128 to 16,383), and the row: its header of 12 bytes, of
    which the first column's is 0 ("Database File Format", sqlite.org/fileformat2.html, 1.6 and 2.1).
    """
    cell, other = (bytes([0x80 | n >> 7, n & 0x7F, 12, 0]) for n in (row_id, other_id))
    data = path.read_bytes()
    assert data.count(cell) == 1
    path.write_bytes(data.replace(cell, other))


async def test_damaged_row_that_a_search_does_not_find_ends_no_reader(tmp_path: Path, filled: Filled) -> None:
    path = copy_of(filled.folder, tmp_path)
    row_id = next(record.id for record in filled.records[200:] if not record.quarantined)
    without_log(lambda path: renumber(path, row_id, 9_000))(path)
    with closing(sqlite3.connect(path)) as file:  # a scan finds it, and a search does not
        assert (9_000,) in file.execute("SELECT id FROM record NOT INDEXED WHERE id > 0").fetchall()
        assert not file.execute("SELECT id FROM record WHERE id = 9000").fetchall()
    spool = make_spool(tmp_path)
    with pytest.raises(StoreUnavailable):
        await read_all(spool)
    await work_off(spool)
    records = await read_patiently(spool)
    assert len(records) == len(filled.records) - 1
    assert row_id not in [record.id for record in records]
    await spool.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=60),
    file=st.sampled_from(["spool.db", "spool.db-wal"]),
)
def test_flipped_bytes_never_make_another_reading(
    tmp_path_factory: pytest.TempPathFactory,
    filled: Filled,
    flips: list[tuple[float, int]],
    file: str,
) -> None:
    source, before = filled.folder, filled.records
    folder = tmp_path_factory.mktemp("flipped")
    copy_of(source, folder)
    data = bytearray((folder / file).read_bytes())
    for place, bits in flips:
        data[int(place * len(data))] ^= bits
    (folder / file).write_bytes(data)

    async def use() -> None:
        spool = make_spool(folder)
        sender = SpoolFeeder(spool)
        for n in range(3):
            try:
                await sender.send(reading(20_000 + n, device=9))
            except StoreUnavailable:
                continue
        await work_off(spool)
        await read_patiently(spool)
        await work_off(spool)
        records = await read_patiently(spool)
        known = {content(record) for record in before}
        old = [record for record in records if record.device_id != 9]
        # Without its log the file is as it was before: what had left since comes again, and the service knows it.
        if file == "spool.db":
            assert all(content(record) in known for record in old)
        assert all(record.code or record.value == 20.0 + round((record.value - 20) * 7) / 7 for record in old)
        await spool.close()

    asyncio.run(use())
    shutil.rmtree(folder)


async def test_spool_without_its_log_gives_no_id_again(tmp_path: Path, filled: Filled) -> None:
    source, before = filled.folder, filled.records
    copy_of(source, tmp_path)
    (tmp_path / "spool.db-wal").unlink()
    spool = make_spool(tmp_path)
    await SpoolFeeder(spool).send(reading(10_000, device=9))
    await work_off(spool)
    newest = (await read_patiently(spool))[-1]
    assert newest.epoch == before[0].epoch
    assert newest.id > before[-1].id
    await spool.close()


def rows_in(folder: Path, *files: str) -> int:
    """How many readings a spool has with these of its files."""
    with TemporaryDirectory() as copy:
        for name in files:
            shutil.copy(folder / name, copy)
        with closing(sqlite3.connect(Path(copy) / "spool.db")) as connection:
            return int(connection.execute("SELECT count(*) FROM record").fetchone()[0])


async def test_deleted_log_is_said_and_entered_as_lost(tmp_path: Path) -> None:
    """A real kill, then the log deleted: the file looks whole, and is only older."""
    for attempt in range(10):  # a kill right behind a checkpoint leaves nothing in the log that is not in the file
        folder = tmp_path / str(attempt)
        folder.mkdir()
        said = run_and_kill(folder, 0, 0.5)
        if rows_in(folder, "spool.db", "spool.db-wal") > rows_in(folder, "spool.db"):
            break
    tmp_path = folder
    acknowledged = sum(line.startswith("acknowledged") for line in said)
    assert acknowledged > 20
    (tmp_path / "spool.db-wal").unlink()
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    await sender.send(reading(2_000_000, device=9))
    records = await read_all(spool)
    lost = spool.backlog().lost
    totals = await spool.totals()
    written = sum(each.spooled + each.quarantined for each in totals)
    assert written - 1 >= acknowledged
    assert 0 < lost <= written
    assert not imbalance(totals, len(records))
    assert lost + sum(each.delivered for each in totals) + len(records) == written
    await spool.close()
    again = make_spool(tmp_path)
    await SpoolFeeder(again).send(reading(2_000_001, device=9))
    assert again.backlog().lost == lost, "said once"
    await again.close()


async def test_deleted_spool_is_said_and_entered_as_lost(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    await SpoolFeeder(spool).send(*(reading(n) for n in range(100)))
    early = (await read_all(spool))[:40]
    await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in early])
    await spool.close()
    (tmp_path / "spool.db").unlink()
    spool = make_spool(tmp_path)
    await spool.open()
    assert spool.backlog().lost == 60
    assert not imbalance(await spool.totals(), 0)
    await spool.close()


async def test_recovery_goes_on_after_a_restart(tmp_path: Path, filled: Filled) -> None:
    source, before = filled.folder, filled.records
    without_log(DAMAGES["header of zeros"][0])(copy_of(source, tmp_path))
    for _ in range(4):
        spool = make_spool(tmp_path)
        await spool.open()
        for _ in range(3):
            await spool.maintain()
        await spool.close()
    spool = make_spool(tmp_path)
    await work_off(spool)
    records = await read_all(spool)
    assert [record.id for record in records] == [record.id for record in before]
    assert not imbalance(await spool.totals(), len(records))
    await spool.close()


async def test_damage_is_noticed_in_the_middle_of_a_run(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    for start in range(0, 2_000, 100):
        await sender.send(*(reading(n, sensor=n % 7 + 1) for n in range(start, start + 100)))
    statement(tmp_path / "spool.db", "DROP TABLE delivered")
    first = await spool.read(above=0, count=10, max_bytes=1 << 20)
    with pytest.raises(StoreUnavailable):
        await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in first])
    assert (await sender.send(reading(2_000))).outcomes == [Outcome.STORED]
    await work_off(spool)
    records = await read_all(spool)
    assert [record.ts_us for record in records] == [reading(n).ts_us for n in range(2_001)]
    assert not imbalance(await spool.totals(), 2_001)
    await spool.close()


async def test_half_made_spool_is_made_again(tmp_path: Path) -> None:
    """The power went between making the file and its tables."""
    connection = sqlite3.connect(tmp_path / "spool.db")
    connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.close()
    assert (tmp_path / "spool.db").stat().st_size
    spool = make_spool(tmp_path)
    await SpoolFeeder(spool).send(reading(1))
    assert not list(tmp_path.glob("*damaged*"))
    await spool.close()


async def test_folder_that_cannot_be_made_withholds(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = make_spool(tmp_path / "file" / "below", SteadyTime())
    with pytest.raises(StoreUnavailable):
        await spool.open()
    assert spool.backlog().problem
    await spool.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE])
@pytest.mark.parametrize("prefix", ["PRAGMA journal_mode", "INSERT OR REPLACE INTO meta", "INSERT INTO boot", "COMMIT"])
async def test_spool_that_cannot_be_replaced_at_once_is_replaced_later(tmp_path: Path, prefix: str, code: int) -> None:
    """The disk fails while an empty file takes the place of a damaged one."""
    disk = FaultyDisk()
    spool = make_spool(tmp_path, disk=disk)
    sender = SpoolFeeder(spool)
    await sender.send(*(reading(n) for n in range(100)))
    await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in (await read_all(spool))[:40]])
    newest_id = spool.backlog().newest_id
    statement(tmp_path / "spool.db", "DROP TABLE delivered")
    disk.faults = [Fault(prefix, code)]
    left = [Settlement(record.id, Outcome.STORED) for record in await read_all(spool)]
    with suppress(StoreUnavailable):  # where the disk is full it is tried again at once
        await spool.acknowledge(left)
    assert not disk.faults
    assert (await sender.send(reading(100))).outcomes == [Outcome.STORED]
    assert spool.backlog().newest_id > newest_id
    await work_off(spool)
    records = await read_all(spool)
    assert [record.ts_us for record in records] == [reading(n).ts_us for n in range(40, 101)]
    (totals,) = await spool.totals()
    assert (totals.received, totals.spooled, totals.stored, totals.lost) == (101, 101, 40, 0)
    assert spool.backlog().depth == 61
    await spool.close()


async def test_power_cut_between_setting_aside_and_beginning_anew_loses_nothing(tmp_path: Path, filled: Filled) -> None:
    copy_of(filled.folder, tmp_path)
    for suffix in ("", "-wal"):
        (tmp_path / f"spool.db{suffix}").rename(tmp_path / f"spool.db.damaged-20260101T000000Z-0000{suffix}")
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    for n in range(1_000):
        await sender.send(reading(10_000 + n, device=9))
    await work_off(spool)
    records = await read_all(spool)
    assert [record.id for record in records[:-1_000]] == [record.id for record in filled.records]
    assert not imbalance(await spool.totals(), len(records))
    await spool.close()


@pytest.mark.parametrize(
    "line", [b"1 99999999999999999999999999 0", b"1 5 99999999999999999999", b"9 9 9 9", b"\xff" * 9, b"\0" * 64]
)
async def test_line_of_totals_that_is_garbled_stops_nothing(tmp_path: Path, line: bytes) -> None:
    for number, garbled in ((1, b""), (2, line)):
        if garbled:
            (tmp_path / "spool.db-lock").write_bytes(garbled.ljust(63) + b"\n")
        spool = make_spool(tmp_path)
        await SpoolFeeder(spool).send(reading(number))
        assert (spool.backlog().depth, spool.backlog().lost) == (number, 0)
        await spool.close()
