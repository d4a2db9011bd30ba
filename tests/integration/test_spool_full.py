"""A spool that is full, and a disk that is: shed in order, withhold, and take in again when there is room."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from bridge.errors import StoreUnavailable
from bridge.model.reading import Code, Outcome, Reading, ReadingClass
from edge.record import Settlement
from edge.spool import Spool
from edge.spool.rows import label_of
from edge.telemetry import SpoolMetrics
from tests.support import needs
from tests.support.spool_site import (
    SpoolFeeder,
    SteadyTime,
    imbalance,
    junk,
    make_spool,
    read_all,
    reading,
    settings_in,
)

LEAST_BYTES = 16 * 1024 * 1024  # the smallest limit: 8 MiB of it are kept for the log


class ByValue:
    """Above 1000 an alert, above 500 a warning."""

    def classify(self, readings: Sequence[Reading]) -> Sequence[int]:
        return [ReadingClass(int(r.value > 500) + int(r.value > 1_000)) for r in readings]


def batch(start: int, count: int, value: float = 20.0) -> list[Reading]:
    """Sensor 1 sends nine of ten."""
    return [reading(n, sensor=1 if n % 10 else 2 + n // 10 % 5, value=value) for n in range(start, start + count)]


def labels_in(folder: Path) -> Counter[ReadingClass]:
    """The classes in the file, without reading it through the queue: what that has read is spared."""
    with closing(sqlite3.connect(folder / "spool.db")) as file:
        return Counter(label_of(flags) for (flags,) in file.execute("SELECT flags FROM record"))


async def test_full_spool_sheds_the_oldest_of_the_busiest_and_no_alert(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=LEAST_BYTES, classifier=ByValue())
    sender = SpoolFeeder(spool)
    alerts = [reading(n, sensor=9, value=2_000.0) for n in range(100)]
    await sender.send(*alerts)
    sent = 0
    while sent < 200_000:
        await sender.send(*batch(1_000 + sent, 1_000))
        sent += 1_000
    backlog = spool.backlog()
    assert backlog.used_bytes <= LEAST_BYTES
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if not path.name.endswith("-shm")) <= LEAST_BYTES
    records = await read_all(spool)
    left = Counter(record.sensor for record in records)
    (totals,) = await spool.totals()
    assert left[9] == 100
    assert totals.shed == 200_100 - len(records) > 50_000
    assert not imbalance([totals], len(records))
    # The busiest is thinned; who sends seldom keeps a far larger share of its readings.
    assert left[1] / 180_000 < 0.95 * sum(left[s] for s in range(2, 7)) / 20_000
    newest = [record for record in records if record.ts_us >= reading(1_000 + 190_000).ts_us]
    assert len(newest) == 10_000
    await spool.close()


async def test_spool_full_of_alerts_withholds_until_the_uplink_takes_some(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=LEAST_BYTES, classifier=ByValue())
    await spool.open()
    sender = SpoolFeeder(spool)
    sent = 0
    while not spool.backlog().problem and sent < 400_000:
        with suppress(StoreUnavailable):
            await sender.send(*batch(sent, 1_000, value=2_000.0))
            sent += 1_000
    assert "full" in spool.backlog().problem
    records = await read_all(spool)
    assert len(records) == sent
    for start in range(0, 40_000, 1_000):
        await spool.acknowledge([Settlement(r.id, Outcome.STORED) for r in records[start : start + 1_000]])
    await sender.send(*batch(sent, 1_000, value=2_000.0))
    assert spool.backlog().problem == ""
    await spool.close()


async def test_warnings_are_shed_only_where_nothing_is_clean(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=LEAST_BYTES, classifier=ByValue())
    sender = SpoolFeeder(spool)
    for start in range(0, 40_000, 1_000):
        await sender.send(*batch(start, 1_000, value=600.0))
    for start in range(40_000, 150_000, 1_000):
        await sender.send(*batch(start, 1_000))
    assert labels_in(tmp_path)[ReadingClass.WARNING] == 40_000
    for start in range(150_000, 300_000, 1_000):
        await sender.send(*batch(start, 1_000, value=600.0))
    labels = labels_in(tmp_path)
    assert labels[ReadingClass.CLEAN] == 0
    assert labels[ReadingClass.WARNING] > 40_000
    await spool.close()


async def test_records_on_their_way_are_not_shed(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=LEAST_BYTES)
    sender = SpoolFeeder(spool)
    await sender.send(*batch(0, 1_000))
    on_their_way = await spool.read(above=0, count=1_000, max_bytes=1 << 20)
    for start in range(1_000, 200_000, 1_000):
        await sender.send(*batch(start, 1_000))
    await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in on_their_way])
    (totals,) = await spool.totals()
    assert totals.stored == 1_000
    await spool.close()


async def test_quarantined_payloads_keep_to_their_share(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=LEAST_BYTES, quarantine_share=0.1)
    sender = SpoolFeeder(spool)
    await sender.send(*batch(0, 1_000))
    for _ in range(100):
        await sender.send(junk=[junk(os.urandom(60_000))])
        await spool.maintain()
    records = await read_all(spool)
    assert sum(len(record.payload) for record in records) <= 0.1 * LEAST_BYTES
    assert sum(not record.quarantined for record in records) == 1_000
    assert not imbalance(await spool.totals(), len(records))
    await spool.close()


async def test_device_that_floods_quarantine_takes_nothing_from_others(tmp_path: Path) -> None:
    """Neither with what no remedy can store, nor with what one can; and a restart knows what is held."""
    spool = make_spool(tmp_path, max_bytes=LEAST_BYTES)
    sender = SpoolFeeder(spool)
    await sender.send(junk=[junk(b"{}", device=8, code=Code.UNKNOWN_SENSOR)])
    for _ in range(100):
        await sender.send(junk=[junk(os.urandom(20_000))])
        await spool.maintain()
    bad = [record for record in await read_all(spool) if record.code == Code.BAD_JSON]
    assert 0.2 < sum(len(record.payload) for record in bad) / (0.1 * LEAST_BYTES) <= 0.25
    await spool.close()

    spool = make_spool(tmp_path, max_bytes=LEAST_BYTES)
    await spool.open()
    sender = SpoolFeeder(spool)
    for _ in range(100):
        await sender.send(junk=[junk(os.urandom(20_000)), junk(os.urandom(20_000), code=Code.UNKNOWN_SENSOR)])
        await spool.maintain()
    await sender.send(junk=[junk(os.urandom(20_000), device=9), junk(b"{}", device=8, code=Code.UNKNOWN_SENSOR)])
    records = await read_all(spool)
    assert 0.7 < sum(len(record.payload) for record in records if record.device_id == 7) / (0.1 * LEAST_BYTES) <= 0.75
    assert Counter(record.device_id for record in records if record.device_id != 7) == {8: 2, 9: 1}
    assert not imbalance(await spool.totals(), len(records))

    await spool.acknowledge([Settlement(record.id, Outcome.QUARANTINED) for record in records])
    await sender.send(junk=[junk(os.urandom(20_000))])
    assert len(await read_all(spool, above=records[-1].id)) == 1, "what was handed over makes room"
    await spool.close()


class SharedDisk:
    """A disk of 100 MB with the files of others, and ours in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.others = 0

    def taken(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def free(self, _: Path) -> int:
        return max(0, 100_000_000 - self.others - self.taken())


async def test_disk_that_others_fill_sheds_nothing_while_there_is_room(tmp_path: Path) -> None:
    """The space that is held back is used down to an eighth of it; then readings take the place of older ones."""
    disk = SharedDisk(tmp_path)
    held_back = 8_000_000
    spool = Spool(settings_in(tmp_path, min_free_bytes=held_back), SteadyTime(), SpoolMetrics(), free=disk.free)
    sender = SpoolFeeder(spool)
    sent = 0
    for _ in range(20):
        await sender.send(*batch(sent, 1_000))
        sent += 1_000
    disk.others = 100_000_000 - held_back + 1_000_000 - disk.taken()
    while await spool.maintain():
        pass
    while disk.free(tmp_path) > held_back // 8 + 1_500_000:
        await sender.send(*batch(sent, 500))
        await spool.maintain()
        sent += 500
        assert spool.backlog().shed == 0, disk.free(tmp_path)
    assert disk.free(tmp_path) < held_back // 2
    assert (tmp_path / "spool.db-reserve").stat().st_size, "the reserve is for the day that nothing is left"

    disk.others += disk.free(tmp_path)  # now nothing is left
    while await spool.maintain():
        pass
    assert spool.backlog().shed == 0, "it frees no page that anybody needs"
    size = disk.taken()
    for _ in range(20):
        await sender.send(*batch(sent, 500))
        sent += 500
    assert 0 < spool.backlog().shed < 20 * 500 + 10_000
    assert disk.taken() < size + 5_000_000, "the log alone"
    records = await read_all(spool)
    assert [record.ts_us for record in records][-500:] == [reading(n).ts_us for n in range(sent - 500, sent)]
    assert not imbalance(await spool.totals(), len(records))
    await spool.close()


async def test_spool_gives_free_pages_to_others_and_sheds_nothing_for_them(tmp_path: Path) -> None:
    disk = SharedDisk(tmp_path)
    spool = Spool(settings_in(tmp_path, min_free_bytes=1_000_000), SteadyTime(), SpoolMetrics(), free=disk.free)
    sender = SpoolFeeder(spool)
    for start in range(0, 40_000, 1_000):
        await sender.send(*batch(start, 1_000))
    records = await read_all(spool)
    for start in range(0, 36_000, 1_000):
        await spool.acknowledge([Settlement(r.id, Outcome.STORED) for r in records[start : start + 1_000]])
    before = (tmp_path / "spool.db").stat().st_size
    disk.others = 99_500_000 - disk.taken()
    for _ in range(200):
        await spool.maintain()
    await sender.send(reading(50_000))
    await spool.maintain()
    assert (tmp_path / "spool.db").stat().st_size < before / 2
    assert spool.backlog().shed == 0
    await spool.close()


async def test_drained_spool_gives_its_disk_back(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    for start in range(0, 150_000, 1_000):
        await sender.send(*batch(start, 1_000))
    while records := await spool.read(above=0, count=5_000, max_bytes=1 << 24):
        await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in records])
    await sender.send(reading(1_000_000))
    while await spool.maintain():
        pass
    assert (tmp_path / "spool.db").stat().st_size < 5_000_000
    assert len(await read_all(spool)) == 1
    await spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, for root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        needs.leave_out(needs.ROOT)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_disk_that_is_really_full_withholds_and_recovers(small_disk: Path) -> None:
    spool = make_spool(small_disk, classifier=ByValue(), checkpoint_bytes=200_000)
    sender = SpoolFeeder(spool)
    sent = 0
    for _ in range(200):
        try:
            await sender.send(*batch(sent, 500, value=2_000.0))
        except StoreUnavailable:
            break
        sent += 500
    else:
        pytest.fail("6 MB do not hold 100,000 readings")
    assert "full" in spool.backlog().problem
    with pytest.raises(StoreUnavailable):
        await sender.send(*batch(sent, 500, value=2_000.0))
    records = await read_all(spool)
    assert len(records) == sent
    for start in range(0, len(records) // 2, 200):  # what the uplink takes makes room, also on a full disk
        await spool.acknowledge([Settlement(r.id, Outcome.STORED) for r in records[start : start + 200]])
    await sender.send(*batch(sent, 500, value=2_000.0))
    await spool.close()
    spool = make_spool(small_disk)
    depth = len(await read_all(spool))
    assert not imbalance(await spool.totals(), depth)
    await spool.close()


async def test_disk_that_others_fill_in_truth_sheds_nothing_while_the_reserve_lasts(small_disk: Path) -> None:
    spool = make_spool(small_disk, checkpoint_bytes=200_000)
    sender = SpoolFeeder(spool)
    await sender.send(*batch(0, 500))
    reserve = (small_disk / "spool.db-reserve").stat().st_size
    with (small_disk / "others").open("wb", buffering=0) as others, suppress(OSError):
        while others.write(bytes(4_096)) == 4_096:
            pass
    sent = 500
    while spool.backlog().shed == 0 and sent < 40_000:
        await sender.send(*batch(sent, 100))
        sent += 100
        if spool.backlog().shed == 0:
            assert not imbalance(await spool.totals(), sent)
        else:
            assert (small_disk / "spool.db-reserve").stat().st_size < reserve, "the reserve was not used first"
    assert spool.backlog().shed > 0
    assert sent > 1_000, "what the reserve frees is used"
    assert (small_disk / "spool.db-reserve").stat().st_size > 0, "and a part is for what leaves"
    records = await read_all(spool)
    for start in range(0, len(records), 100):
        await spool.acknowledge([Settlement(r.id, Outcome.STORED) for r in records[start : start + 100]])
    await sender.send(*batch(sent, 100))
    (small_disk / "others").unlink()
    while await spool.maintain():
        pass
    assert (small_disk / "spool.db-reserve").stat().st_size == reserve, "made again once there is room"
    depth = len(await read_all(spool))
    assert not imbalance(await spool.totals(), depth)
    await spool.close()


async def test_write_that_the_system_cuts_short_withholds_and_recovers(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes write(2) fail with EFBIG, after part of it: a real I/O error, in the log and in the file."""
    spool = make_spool(tmp_path, checkpoint_bytes=100_000)
    sender = SpoolFeeder(spool)
    await sender.send(*batch(0, 500))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sent = 500
    try:
        for limit in (130_001, 200_001, 333_333):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            while not spool.backlog().problem and sent < 100_000:
                with suppress(StoreUnavailable):
                    await sender.send(*batch(sent, 500))
                    sent += 500
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            committed = await sender.send(*batch(sent, 500))
            assert set(committed.outcomes) <= {Outcome.STORED, Outcome.DUPLICATE}
            sent += 500
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    records = await read_all(spool)
    assert [record.ts_us for record in records] == [reading(n).ts_us for n in range(sent)]
    await spool.close()
