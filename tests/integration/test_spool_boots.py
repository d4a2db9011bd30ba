"""Boots in a spool whose clock was never set: found among many readings, and bounded by their neighbours."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import msgspec
import pytest

from bridge.model.reading import SOFTWARE_DATE_US, Reading, TsQuality
from edge.record import Record
from edge.spool import Spool
from edge.spool.boot_times import OVERLAP_US
from tests.support.spool_site import SpoolFeeder, SteadyTime, junk, make_spool, read_all, reading

S_US = 1_000_000
START_US = SOFTWARE_DATE_US + 200 * 86_400 * S_US


class SettableTime(SteadyTime):
    """Of a boot at `booted_us`, `uptime_us` ago; what it says is off by `off_us`."""

    def __init__(self, boot_id: str, booted_us: int, off_us: int = 0, *, known: bool = True) -> None:
        super().__init__(booted_us + off_us, boot_id)
        self.booted_us = booted_us + off_us
        self.known = known

    def at(self, uptime_us: int) -> int:
        self.time_us = self.booted_us + uptime_us
        return self.time_us


def untimed(number: int, received_us: int) -> Reading:
    return msgspec.structs.replace(
        reading(number), ts_us=received_us, received_us=received_us, ts_quality=TsQuality.SERVER
    )


class Boots:
    """One spool through several boots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0

    async def live(self, time: SettableTime, *uptimes_us: int) -> Spool:
        """Receive a reading at each of these uptimes."""
        spool = make_spool(self.folder, time)
        feeder = SpoolFeeder(spool)
        for uptime_us in uptimes_us:
            self.number += 1
            await feeder.send(untimed(self.number, time.at(uptime_us)))
        await spool.maintain()
        return spool

    async def ended(self, time: SettableTime, *uptimes_us: int) -> None:
        await (await self.live(time, *uptimes_us)).close()


def seconds(records: list[Record]) -> list[float]:
    return [(record.ts_us - START_US) / S_US for record in records]


async def test_boot_is_placed_before_the_next_and_after_the_last(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    await boots.ended(SettableTime("a", START_US), 10 * S_US, 20 * S_US)
    await boots.ended(SettableTime("b", 0, known=False), 5 * S_US, 65 * S_US)
    spool = await boots.live(SettableTime("c", START_US + 1_000 * S_US), 2 * S_US)
    records = await read_all(spool)
    assert seconds(records) == [10, 20, 940, 1_000, 1_002]
    assert [record.earlier_us for record in records] == [None, None, 915 * S_US, 915 * S_US, None]
    assert all(record.clock_set for record in records)
    await spool.close()


async def test_several_boots_follow_each_other(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    await boots.ended(SettableTime("a", START_US), 10 * S_US)
    await boots.ended(SettableTime("b", 0, known=False), 5 * S_US, 100 * S_US)
    await boots.ended(SettableTime("c", 0, known=False), 7 * S_US)
    spool = await boots.live(SettableTime("d", START_US + 1_000 * S_US, known=False), 3 * S_US)
    assert [record.clock_set for record in await read_all(spool)] == [True, False, False, False, False]
    await spool.close()
    time = SettableTime("d", START_US + 1_000 * S_US)
    spool = await boots.live(time)
    assert seconds(await read_all(spool)) == [10, 898, 993, 1_000, 1_003]
    await spool.close()


async def test_saved_time_bounds_a_boot_from_below_unless_it_is_too_late(tmp_path: Path) -> None:
    for number, (off_s, earlier_s) in enumerate(((-300, 300), (-2_000, 980), (3_600, 980))):
        (tmp_path / str(number)).mkdir()
        boots = Boots(tmp_path / str(number))
        await boots.ended(SettableTime("a", START_US), 10 * S_US)
        # In truth it began at 990 s, and said so, give or take.
        await boots.ended(SettableTime("b", START_US + 990 * S_US, off_s * S_US, known=False), 10 * S_US)
        spool = await boots.live(SettableTime("c", START_US + 1_000 * S_US))
        _, record = await read_all(spool)
        assert (seconds([record]), record.earlier_us) == ([1_000], earlier_s * S_US)
        await spool.close()


async def test_boot_that_ends_after_the_next_began_had_a_wrong_clock(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    await boots.ended(SettableTime("a", START_US), 10 * S_US)
    await boots.ended(SettableTime("b", START_US + 500 * S_US, 2 * 86_400 * S_US), 5 * S_US, 65 * S_US)
    spool = await boots.live(SettableTime("c", START_US + 1_000 * S_US), 2 * S_US)
    assert seconds(await read_all(spool)) == [10, 940, 1_000, 1_002]
    await spool.close()


async def test_boot_that_overlaps_by_a_little_is_left_as_it_is(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    await boots.ended(SettableTime("a", START_US), 10 * S_US + OVERLAP_US)
    spool = await boots.live(SettableTime("b", START_US + 10 * S_US))
    (record,) = await read_all(spool)
    assert (seconds([record]), record.earlier_us) == ([70], None)
    await spool.close()


async def test_next_boot_counts_also_where_nothing_of_it_is_left(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    await boots.ended(SettableTime("a", 0, known=False), 5 * S_US)
    await boots.ended(SettableTime("b", START_US))
    spool = await boots.live(SettableTime("c", START_US + 9_000 * S_US))
    assert seconds(await read_all(spool)) == [0]
    await spool.close()


async def test_what_is_quarantined_is_placed_with_its_boot(tmp_path: Path) -> None:
    time = SettableTime("a", 0, known=False)
    spool = make_spool(tmp_path, time)
    row = msgspec.structs.replace(junk(), received_us=time.at(5 * S_US))
    await SpoolFeeder(spool).send(untimed(1, time.at(9 * S_US)), junk=[row])
    await spool.close()
    spool = await Boots(tmp_path).live(SettableTime("b", START_US))
    records = await read_all(spool)
    assert sorted((record.received_us - START_US) / S_US for record in records) == [-4, 0]
    await spool.close()


async def test_boots_are_found_among_ids_with_gaps(tmp_path: Path) -> None:
    random = Random(5)
    boots = Boots(tmp_path)
    truth: list[float] = []
    began_s = 0
    for number in range(12):
        uptimes = sorted(random.sample(range(1, 200), random.randint(1, 40)))
        is_set = number == 11
        booted_us = START_US + began_s * S_US if is_set else 0
        await boots.ended(SettableTime(f"boot-{number}", booted_us, known=is_set), *(at * S_US for at in uptimes))
        truth += [began_s + at for at in uptimes]
        began_s += uptimes[-1]  # the power is back at once
    with sqlite3.connect(tmp_path / "spool.db") as file:
        kept = [row for (row,) in file.execute("SELECT id FROM record ORDER BY id")]
        last = {row for (row,) in file.execute("SELECT max(id) FROM record GROUP BY boot")}
        gone = {each for each in kept if each not in last and random.random() < 0.6}
        file.executemany("DELETE FROM record WHERE id = ?", [(each,) for each in gone])
    spool = await boots.live(SettableTime("boot-11", START_US + (began_s - uptimes[-1]) * S_US))
    left = [at for each, at in zip(kept, truth, strict=True) if each not in gone]
    assert seconds(await read_all(spool)) == pytest.approx(left)
    await spool.close()


async def test_damaged_spool_gives_its_unset_boots_back_bounded(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    await boots.ended(SettableTime("a", 0, known=False), 5 * S_US, 65 * S_US)
    with (tmp_path / "spool.db").open("r+b") as file:
        file.write(b"\0" * 100)  # its header: SQLite does not open it, its pages are whole
    spool = await boots.live(SettableTime("b", START_US), 2 * S_US)
    while await spool.maintain():
        pass
    assert seconds(await read_all(spool)) == [-60, 0, 2]
    await spool.close()
