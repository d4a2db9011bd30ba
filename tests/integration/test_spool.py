"""The spool as the pipeline and the uplink use it, on a disk that works, and on one that is full."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from bridge.errors import StoreRefused, StoreUnavailable
from bridge.model.reading import Batch, Outcome, Reading, ReadingClass, Source, TsQuality
from edge.host.clock import HostClock
from edge.record import Settlement
from edge.spool import Spool
from edge.telemetry import SpoolMetrics
from tests.support.spool_site import (
    NOW_US,
    Fault,
    FaultyDisk,
    SpoolFeeder,
    SteadyTime,
    imbalance,
    junk,
    make_spool,
    read_all,
    reading,
    settings_in,
)

STORED, DUPLICATE = Outcome.STORED, Outcome.DUPLICATE
MANY = 1 << 20


async def settle_all(spool: Spool, outcome: Outcome = STORED) -> None:
    await spool.acknowledge([Settlement(record.id, outcome) for record in await read_all(spool)])


async def test_spool_gives_back_what_it_was_given(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sent = reading(
        3,
        sensor=9,
        value=-0.5,
        sequence=-(1 << 63),
        source=Source.HTTP,
        updates_liveness=False,
        redelivered=False,
    )
    await SpoolFeeder(spool).send(sent, junk=[junk(b"{", device=0)])
    record, refused = await read_all(spool)
    assert (record.sensor, record.resolved, record.device_uuid, record.device_id) == (9, True, sent.device_uuid, 7)
    assert (record.value, record.ts_us, record.received_us) == (-0.5, sent.ts_us, sent.received_us)
    assert (record.sequence, record.source, record.ts_quality) == (sent.sequence, Source.HTTP, TsQuality.DEVICE)
    assert (record.updates_liveness, record.redelivered) == (False, False)
    assert (record.key, record.label) == (None, ReadingClass.CLEAN)
    assert (record.boot_id, record.monotonic_us, record.clock_set) == ("boot-1", 3_603_250_000, True)
    assert (refused.code, refused.payload, refused.topic) == ("bad_json", b"{", "devices/x/readings")
    assert record.id < refused.id
    assert len(record.epoch) == 8
    await spool.close()


async def test_sensor_that_is_not_resolved_is_spooled_with_its_sender(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    unknown = [reading(n, sensor=0, unresolved="5b0e0000-0000-4000-8000-000000000002") for n in (1, 1, 2)]
    other = reading(1, sensor=0, unresolved=4711)
    assert (await sender.send(*unknown, other)).outcomes == [STORED, DUPLICATE, STORED, STORED]
    assert [(record.sensor, record.resolved) for record in await read_all(spool)] == [
        ("5b0e0000-0000-4000-8000-000000000002", False),
        ("5b0e0000-0000-4000-8000-000000000002", False),
        (4711, False),
    ]
    await spool.close()


async def test_unknown_sensors_are_limited_and_forgotten(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_unknown_sensors=10)
    sender = SpoolFeeder(spool)
    await sender.send(*(reading(n, sensor=0, unresolved=f"made up {n}") for n in range(10)))
    with pytest.raises(StoreRefused, match="not registered"):
        await sender.send(reading(11, sensor=0, unresolved="one more"))
    await sender.send(reading(11, sensor=5))
    await settle_all(spool)
    await spool.maintain()
    assert (await sender.send(reading(12, sensor=0, unresolved="one more"))).outcomes == [STORED]
    assert not imbalance(await spool.totals(), spool.backlog().depth)
    await spool.close()


@pytest.mark.parametrize("key", [None, "k-1"])
async def test_reading_sent_again_after_the_uplink_took_it_is_duplicate(tmp_path: Path, key: str | None) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    assert (await sender.send(reading(1, key=key))).outcomes == [STORED]
    await settle_all(spool)
    assert (await sender.send(reading(1, key=key))).outcomes == [DUPLICATE]
    await spool.close()
    spool = make_spool(tmp_path)
    assert (await SpoolFeeder(spool).send(reading(1, key=key))).outcomes == [DUPLICATE]
    assert spool.backlog().depth == 0
    await spool.close()


@pytest.mark.parametrize("key", [None, "k-1"])
@pytest.mark.parametrize("sequence", [None, 5])
async def test_another_value_under_one_identity_is_for_the_service_to_judge(
    tmp_path: Path, key: str | None, sequence: int | None
) -> None:
    """Two pulses within a second of the device's clock; or a retry whose body has changed."""
    spool = make_spool(tmp_path)
    values = [19.0, 1830.0, 19.0, -0.0, 0.0]
    sent = [reading(1, value=value, sequence=sequence, key=key) for value in values]
    assert (await SpoolFeeder(spool).send(*sent)).outcomes == [STORED, STORED, DUPLICATE, STORED, DUPLICATE]
    records = await read_all(spool)
    assert [record.value for record in records] == [19.0, 1830.0, 0.0]
    assert {record.ts_us for record in records} == {sent[0].ts_us}  # as the device gave it
    await settle_all(spool)
    await spool.close()
    spool = make_spool(tmp_path)
    assert set((await SpoolFeeder(spool).send(*sent)).outcomes) == {DUPLICATE}
    assert (await SpoolFeeder(spool).send(reading(1, value=7.0, sequence=sequence, key=key))).outcomes == [STORED]
    await spool.close()


async def test_readings_without_time_and_key_are_always_new(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    untimed = msgspec.structs.replace(reading(1), ts_quality=TsQuality.SERVER)
    assert (await sender.send(untimed, untimed)).outcomes == [STORED, STORED]
    await settle_all(spool)
    assert (await sender.send(untimed)).outcomes == [STORED]
    await spool.close()


async def test_readings_of_a_clock_that_was_set_later_keep_their_spacing(tmp_path: Path) -> None:
    time = SteadyTime()
    time.known = False
    spool = make_spool(tmp_path, time)
    untimed = msgspec.structs.replace(reading(1), ts_quality=TsQuality.SERVER)
    received_us = untimed.received_us
    await SpoolFeeder(spool).send(*(msgspec.structs.replace(untimed, ts_us=received_us + place) for place in range(3)))
    time.known = True
    time.booted_us += 86_400_000_000
    await spool.maintain()
    records = await read_all(spool)
    assert [record.ts_us - record.received_us for record in records] == [0, 1, 2]
    assert records[0].received_us == received_us + 86_400_000_000
    await spool.close()


async def test_file_of_a_former_release_takes_values_into_account(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    assert (await SpoolFeeder(spool).send(reading(1, value=19.0))).outcomes == [STORED]
    await spool.close()
    with sqlite3.connect(tmp_path / "spool.db") as file:
        file.executescript(
            "DROP INDEX record_identity; CREATE UNIQUE INDEX record_identity"
            " ON record (ts_us, sensor, ifnull(sequence, '')) WHERE key IS NULL"
        )
    file.close()
    spool = make_spool(tmp_path)
    again = (await SpoolFeeder(spool).send(reading(1, value=19.0), reading(1, value=1830.0))).outcomes
    assert again == [DUPLICATE, STORED]
    await spool.close()
    disk = FaultyDisk()
    disk.faults.append(Fault("DROP INDEX", sqlite3.SQLITE_IOERR))
    spool = make_spool(tmp_path, disk=disk)
    assert (await SpoolFeeder(spool).send(reading(1, value=1830.0))).outcomes == [DUPLICATE]
    assert disk.faults  # it is made once
    await spool.close()


async def test_old_index_stays_where_there_is_no_room_for_another(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    await SpoolFeeder(spool).send(reading(1))
    await spool.close()
    with sqlite3.connect(tmp_path / "spool.db") as file:
        file.executescript(
            "DROP INDEX record_identity;CREATE UNIQUE INDEX record_identity ON record (ts_us, sensor) WHERE key IS NULL"
        )
    file.close()
    disk = FaultyDisk()
    disk.faults.append(Fault("CREATE UNIQUE INDEX", sqlite3.SQLITE_FULL))
    spool = make_spool(tmp_path, disk=disk)
    assert (await SpoolFeeder(spool).send(reading(1), reading(2))).outcomes == [DUPLICATE, STORED]
    assert not disk.faults
    await spool.close()


async def test_first_delivery_under_a_used_key_is_another_reading(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    await sender.send(reading(1, key="m-1"))
    assert (await sender.send(reading(9, key="m-1", redelivered=False))).outcomes == [STORED]
    await spool.close()


async def test_delivered_identities_are_bounded(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, recent_identities=50)
    sender = SpoolFeeder(spool)
    for start in range(0, 600, 20):
        await sender.send(*(reading(n) for n in range(start, start + 20)))
        await settle_all(spool)
    assert set((await sender.send(*(reading(n) for n in range(550, 600)))).outcomes) == {DUPLICATE}
    assert (await sender.send(reading(0))).outcomes == [STORED]
    await spool.close()
    with sqlite3.connect(tmp_path / "spool.db") as file:
        (kept,) = file.execute("SELECT sum(length(hashes)) / 8 FROM delivered").fetchone()
    file.close()
    assert 50 <= kept <= 120


async def test_value_that_is_not_finite_is_refused_alone(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    with pytest.raises(StoreRefused):
        await sender.send(reading(1), reading(2, value=float("inf")))
    with pytest.raises(StoreRefused):
        await sender.send(reading(1, sequence=1 << 63))
    assert (await sender.send(reading(1))).outcomes == [STORED]
    await spool.close()


async def test_text_that_utf8_cannot_hold_is_kept_all_the_same(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    odd = junk()
    odd = type(odd)(odd.code, "half a \ud800 pair", b"\0", odd.source, "t/\udfff\0", odd.received_us)
    await SpoolFeeder(spool).send(junk=[odd])
    (record,) = await read_all(spool)
    assert record.topic == "t/?\0"
    await spool.close()


async def test_lanes_are_read_in_order_and_within_their_bytes(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    for n in range(10):
        await sender.send(reading(n), junk=[junk(b"x" * 10_000)])
    frontier = spool.backlog().newest_id
    await sender.send(reading(10), reading(11))
    backlog = await spool.read(above=0, upto=frontier, count=100, max_bytes=MANY)
    live = await spool.read(above=frontier, count=100, max_bytes=MANY)
    assert [len(backlog), len(live)] == [20, 2]
    assert [record.quarantined for record in backlog] == [False, True] * 10
    part = await spool.read(above=0, count=100, max_bytes=25_000)
    assert [record.id for record in part] == [record.id for record in backlog[:5]]
    assert len(await spool.read(above=1, count=100, max_bytes=1)) == 1
    assert len(await spool.read(above=0, count=3, max_bytes=MANY)) == 3
    await spool.close()


async def test_reader_is_woken_by_the_next_reading(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    await sender.send(reading(1))
    newest = spool.backlog().newest_id
    await asyncio.wait_for(spool.wait_above(newest - 1), 20)
    waiting = asyncio.create_task(spool.wait_above(newest))
    await sender.send(reading(1))  # a duplicate is nothing to read
    await sender.send(reading(1), reading(1))
    assert not waiting.done()
    assert spool.backlog().newest_id == newest
    await sender.send(reading(2))
    await asyncio.wait_for(waiting, 20)
    await spool.close()


async def test_ledger_says_what_the_service_made_of_it(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    await SpoolFeeder(spool).send(*(reading(n) for n in range(4)), reading(0), junk=[junk()])
    records = await read_all(spool)
    outcomes = [STORED, DUPLICATE, Outcome.QUARANTINED, Outcome.FAILED, Outcome.QUARANTINED]
    settlements = [Settlement(record.id, outcome) for record, outcome in zip(records, outcomes, strict=True)]
    await spool.acknowledge(settlements)
    await spool.acknowledge(settlements)
    (totals,) = await spool.totals()
    assert (totals.received, totals.spooled, totals.duplicate, totals.quarantined) == (6, 4, 1, 1)
    assert (totals.stored, totals.known, totals.refused, spool.backlog().depth) == (1, 1, 2, 1)
    await spool.close()


async def test_doors_count_from_zero_in_each_run(tmp_path: Path) -> None:
    for run in range(3):
        spool = make_spool(tmp_path)
        await SpoolFeeder(spool).send(reading(run))
        (totals,) = await spool.totals()
        assert totals.received == run + 1
        await spool.close()


async def test_ids_go_on_after_everything_has_left(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    await SpoolFeeder(spool).send(reading(1), reading(2))
    last = (await read_all(spool))[-1]
    await settle_all(spool)
    await spool.close()
    spool = make_spool(tmp_path)
    await SpoolFeeder(spool).send(reading(3))
    (record,) = await read_all(spool)
    assert record.id > last.id
    assert record.epoch == last.epoch
    await spool.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY])
async def test_disk_error_withholds_and_recovers(tmp_path: Path, code: int) -> None:
    disk = FaultyDisk()
    spool = make_spool(tmp_path, disk=disk)
    sender = SpoolFeeder(spool)
    await sender.send(reading(1))
    disk.faults = [Fault("INSERT", code), *(Fault("PRAGMA journal_mode", code) for _ in range(3))]
    for _ in range(4):
        with pytest.raises(StoreUnavailable):
            await sender.send(reading(2))
        assert spool.backlog().problem
    assert (await sender.send(reading(2), reading(1))).outcomes == [STORED, DUPLICATE]
    assert spool.backlog().problem == ""
    await spool.close()


async def test_connection_after_an_io_error_writes_the_log_back_before_it_is_believed(tmp_path: Path) -> None:
    disk = FaultyDisk()
    spool = make_spool(tmp_path, disk=disk)
    sender = SpoolFeeder(spool)
    await sender.send(reading(1))
    disk.faults = [
        Fault("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, after=True),
        Fault("PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR_FSYNC),
    ]
    with pytest.raises(StoreUnavailable) as caught:
        await sender.send(reading(2))
    assert caught.value.in_doubt
    with pytest.raises(StoreUnavailable):
        await spool.was_committed(sender.number)
    assert await spool.was_committed(sender.number)
    assert not await spool.was_committed(sender.number + 1)
    await spool.close()


async def test_commits_keep_their_interval(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, commit_interval_s=0.2)
    sender = SpoolFeeder(spool)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for n in range(3):
        await sender.send(reading(n))
    assert loop.time() - started >= 0.4
    await spool.close()


class Host:
    """A host whose clock can be put."""

    def __init__(self) -> None:
        self.wall_us = 1_000_000
        self.boot_us = 5_000_000
        self.in_step = False
        self.clock = HostClock(
            "boot-2", wall_us=lambda: self.wall_us, boottime_us=lambda: self.boot_us, synchronised=lambda: self.in_step
        )

    def pass_s(self, seconds: float) -> None:
        self.wall_us += round(seconds * 1_000_000)
        self.boot_us += round(seconds * 1_000_000)

    def stamped(self, number: int) -> Reading:
        now_us = self.clock.now_us()
        return Reading(1, 20.0, now_us, now_us, 7, "temperature", Source.MQTT, number, ts_quality=TsQuality.SERVER)


async def test_readings_stamped_before_the_clock_was_set_are_corrected(tmp_path: Path) -> None:
    host = Host()
    spool = Spool(settings_in(tmp_path), host.clock, SpoolMetrics())
    sender = SpoolFeeder(spool)
    await sender.send(host.stamped(1), reading(1, sensor=2))
    (early, by_device) = await read_all(spool)
    assert (early.ts_us, early.clock_set, early.ts_quality) == (1_000_000, False, TsQuality.GATEWAY)
    host.pass_s(10)
    between = host.stamped(2)
    host.pass_s(10)
    host.wall_us, host.in_step = NOW_US, True
    host.clock.check()
    await sender.send(between, host.stamped(3))  # `between` was received before, and is written now
    await spool.maintain()
    first, by_device, second, third = await read_all(spool)
    assert [r.ts_us for r in (first, second, third)] == [NOW_US - 20_000_000, NOW_US - 10_000_000, NOW_US]
    assert [r.received_us for r in (first, second, third)] == [r.ts_us for r in (first, second, third)]
    assert all(r.clock_set and r.ts_quality == TsQuality.GATEWAY for r in (first, second, third))
    assert by_device.ts_us == reading(1).ts_us  # the device's own time is never touched
    assert spool.backlog().oldest_received_us == NOW_US - 20_000_000
    await spool.close()


async def test_boot_whose_clock_was_never_set_ends_before_the_next_begins(tmp_path: Path) -> None:
    host = Host()
    spool = Spool(settings_in(tmp_path), host.clock, SpoolMetrics())
    await SpoolFeeder(spool).send(host.stamped(1))
    await spool.close()
    time = SteadyTime()
    time.known = False
    spool = make_spool(tmp_path, time)
    await spool.maintain()
    (record,) = await read_all(spool)
    assert (record.received_us, record.clock_set, record.boot_id) == (1_000_000, False, "boot-2")
    assert spool.backlog().oldest_received_us is None
    time.known = True
    (record,) = await read_all(spool)
    assert (record.received_us, record.ts_us, record.clock_set) == (time.booted_us, time.booted_us, True)
    assert record.earlier_us is not None
    assert spool.backlog().oldest_received_us == time.booted_us
    await spool.close()


async def test_clock_that_jumps_back_reorders_and_drops_nothing(tmp_path: Path) -> None:
    time = SteadyTime()
    spool = make_spool(tmp_path, time, max_age_s=3_600)
    sender = SpoolFeeder(spool)
    await sender.send(reading(1), reading(2))
    time.time_us -= 10 * 86_400_000_000
    await sender.send(reading(-800_000), reading(3))
    await spool.maintain()
    records = await read_all(spool)
    assert [record.ts_us for record in records] == [reading(n).ts_us for n in (1, 2, -800_000, 3)]
    await spool.close()


async def test_time_of_day_that_is_not_proven_sheds_nothing_of_a_former_boot(tmp_path: Path) -> None:
    """A time server, or a service, that says it is 2100: what waits is no older for it."""
    spool = make_spool(tmp_path, SteadyTime(), max_age_s=3_600)
    await SpoolFeeder(spool).send(reading(0), junk=[junk()])
    await spool.close()
    time = SteadyTime(boot_id="boot-2")
    time.booted_us += 74 * 365 * 86_400_000_000
    time.time_us = time.booted_us + 60_000_000
    time.proven = False
    spool = make_spool(tmp_path, time, max_age_s=3_600)
    await SpoolFeeder(spool).send(msgspec.structs.replace(reading(1, sensor=2), received_us=time.time_us))
    for uptime_s, depth in ((60, 3), (3_600, 3), (3_601, 1)):  # then each former boot is longer ago than that
        time.time_us = time.booted_us + uptime_s * 1_000_000
        while await spool.maintain():
            pass
        assert spool.backlog().depth == depth, uptime_s
    await spool.close()


async def test_what_is_too_old_is_shed_once_the_clock_is_set(tmp_path: Path) -> None:
    time = SteadyTime()
    spool = make_spool(tmp_path, time, max_age_s=3_600)
    sender = SpoolFeeder(spool)
    await sender.send(reading(0), junk=[junk()])
    await sender.send(reading(1_800))
    time.time_us += 3_700_000_000
    time.known = False
    await spool.maintain()
    assert spool.backlog().depth == 3
    time.known = True
    while await spool.maintain():
        pass
    (record,) = await read_all(spool)
    assert record.ts_us == reading(1_800).ts_us
    (totals,) = await spool.totals()
    assert totals.shed == 2
    assert not imbalance([totals], 1)
    await spool.close()


async def test_batch_of_ledger_lines_alone_is_written(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    committed = await spool.write(Batch(1, ()))
    assert (committed.outcomes, committed.outbox_id) == ([], None)
    await spool.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR_READ])
@pytest.mark.parametrize("prefix", ["BEGIN", "SELECT epoch", "UPDATE ledger", "SELECT * FROM ledger", "COMMIT"])
async def test_spool_that_could_not_be_loaded_is_loaded_at_the_next_try(tmp_path: Path, prefix: str, code: int) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    await sender.send(reading(1), reading(2), junk=[junk()])
    await settle_all(spool)
    await sender.send(reading(3))
    await spool.close()
    disk = FaultyDisk()
    spool = make_spool(tmp_path, disk=disk)
    disk.faults = [Fault(prefix, code)]
    with pytest.raises(StoreUnavailable):
        await spool.open()
    assert (await SpoolFeeder(spool).send(reading(1), reading(3), reading(4))).outcomes == [
        DUPLICATE,
        DUPLICATE,
        STORED,
    ]
    records = await read_all(spool)
    assert [record.ts_us for record in records] == [reading(3).ts_us, reading(4).ts_us]
    assert not imbalance(await spool.totals(), 2)
    assert spool.backlog().depth == 2
    await spool.close()
