"""Spool files that are brought back: each reading once, whatever the file, beside a gateway that runs or not."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bridge.errors import ConfigError
from bridge.model.reading import Outcome, Reading, TsQuality
from edge.record import Record, Settlement
from edge.spool import Spool
from edge.spool.imports import Contents, copy_beside, files_to_import, look, open_source
from tests.support.spool_as_user import NOBODY
from tests.support.spool_site import (
    SpoolFeeder,
    SteadyTime,
    imbalance,
    junk,
    make_spool,
    read_all,
    reading,
)

READINGS = 300
MAX_BYTES = 2 * 1024**3


async def fill(folder: Path, *, boot: str = "boot-1", device: int = 7) -> list[Record]:
    """A spool as after a kill: some handed over, readings of all three kinds, the newest in its log alone."""
    alive = folder / "alive"
    spool = make_spool(alive, SteadyTime(boot_id=boot), checkpoint_bytes=100_000)
    sender = SpoolFeeder(spool)
    for start in range(0, READINGS, 50):
        rows = [
            reading(n, sensor=n % 7 + 1, device=device, key=f"k-{device}-{n}" if n % 3 == 0 else None)
            for n in range(start, start + 50)
        ]
        await sender.send(
            *rows, *(untimed(n, device) for n in range(start, start + 5)), junk=[junk(b"%d" % start, device=device)]
        )
    early = await spool.read(above=0, count=50, max_bytes=1 << 20)
    await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in early])
    left = await read_all(spool)
    for suffix in ("", "-wal"):
        shutil.copy(alive / f"spool.db{suffix}", folder / f"old.db{suffix}")
    await spool.close()
    shutil.rmtree(alive)
    return left


def untimed(number: int, device: int = 7) -> Reading:
    """A reading with neither a time nor a key of its sender's."""
    return replace(reading(500_000 + number, sensor=20, device=device), ts_quality=TsQuality.SERVER)


async def work_off(spool: Spool) -> None:
    while await spool.maintain():
        pass


def content(record: Record) -> tuple[object, ...]:
    return (record.sensor, record.value, record.ts_us, record.sequence, record.code, record.payload, record.device_id)


async def test_file_of_another_gateway_comes_in_once(tmp_path: Path) -> None:
    before = await fill(tmp_path)
    site = tmp_path / "site"
    spool = make_spool(site, SteadyTime(boot_id="boot-2"))
    sender = SpoolFeeder(spool)
    await sender.send(*(reading(n, sensor=99, device=9) for n in range(100)))
    counted = look(tmp_path / "old.db")
    assert (counted.readings + counted.quarantined, counted.damaged) == (len(before), 0)
    for _ in range(2):
        copy_beside(tmp_path / "old.db", site / "spool.db", "south", MAX_BYTES)
        await work_off(spool)
        await sender.send(reading(1_000 + spool.backlog().depth, sensor=99, device=9))
    records = await read_all(spool)
    old = [record for record in records if record.device_id != 9]
    assert [content(record) for record in old] == [content(record) for record in before], "all, once, in their order"
    epoch = before[0].epoch
    untimed = {record.key for record in old if record.sensor == 20}
    assert untimed == {f"g-south-{epoch}-{record.id}" for record in before if record.sensor == 20}
    assert not imbalance(await spool.totals(), len(records))
    assert not files_to_import(site / "spool.db")
    await spool.close()


async def test_files_of_one_other_gateway_push_out_nothing_of_each_other(tmp_path: Path) -> None:
    """Ids of the second are those of the first."""
    site = tmp_path / "site"
    spool = make_spool(site, SteadyTime(boot_id="boot-2"))
    await spool.open()
    wanted = 0
    for device in (7, 8):
        folder = tmp_path / str(device)
        folder.mkdir()
        wanted += len(await fill(folder, device=device))
        copy_beside(folder / "old.db", site / "spool.db", "south", MAX_BYTES)
        await work_off(spool)
    records = await read_all(spool)
    assert len(records) == wanted
    assert not imbalance(await spool.totals(), wanted)
    await spool.close()


async def test_copy_of_the_spool_itself_adds_nothing(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    sender = SpoolFeeder(spool)
    await sender.send(*(reading(n) for n in range(100)), *(untimed(n) for n in range(10)), junk=[junk()])
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"spool.db{suffix}", tmp_path / f"copy{suffix}")
    early = await spool.read(above=0, count=50, max_bytes=1 << 20)
    await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in early])
    before = await read_all(spool)
    copy_beside(tmp_path / "copy", tmp_path / "spool.db", "north", MAX_BYTES)
    await work_off(spool)
    assert await read_all(spool) == before
    assert not imbalance(await spool.totals(), len(before))
    await spool.close()


async def test_file_that_waits_is_read_at_the_next_start_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    before = await fill(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    copy_beside(tmp_path / "old.db", site / "spool.db", "south", MAX_BYTES)
    for _ in range(6):  # a step or two, then again from where it was
        spool = make_spool(site, SteadyTime(boot_id="boot-2"))
        await spool.open()
        await spool.maintain()
        await spool.maintain()
        await spool.close()
    spool = make_spool(site, SteadyTime(boot_id="boot-2"))
    await work_off(spool)
    records = await read_all(spool)
    assert sorted(map(repr, map(content, records))) == sorted(map(repr, map(content, before)))
    assert not imbalance(await spool.totals(), len(records))
    await spool.close()


async def test_damaged_file_gives_what_is_whole(tmp_path: Path) -> None:
    before = await fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "old.db")) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((tmp_path / "old.db").read_bytes())
    data[:100] = bytes(100)
    (tmp_path / "old.db").write_bytes(data[: len(data) * 9 // 10])
    site = tmp_path / "site"
    spool = make_spool(site, SteadyTime(boot_id="boot-2"))
    await spool.open()
    copy_beside(tmp_path / "old.db", site / "spool.db", "", MAX_BYTES)
    await work_off(spool)
    known = set(map(content, before))
    records = await read_all(spool)
    assert len(records) > len(before) / 2
    assert all(content(record) in known for record in records)
    assert not imbalance(await spool.totals(), len(records))
    await spool.close()


def test_copy_that_was_killed_leaves_nothing_for_ever(tmp_path: Path) -> None:
    source, spool = tmp_path / "old.db", tmp_path / "site/spool.db"
    source.write_bytes(b"x" * 5_000)
    spool.parent.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for number, suffix in ((ended.pid, ""), (ended.pid, "-wal"), (os.getpid(), ""), (1, "")):
        spool.with_name(f"spool.db.partial-{number}{suffix}").write_bytes(b"half")
    copy = copy_beside(source, spool, "north", MAX_BYTES)
    assert {file.name for file in spool.parent.iterdir()} == {copy.name, "spool.db.partial-1"}


def test_copy_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path))
    site = tmp_path / "site"
    site.mkdir()
    if os.geteuid() == 0:
        os.chown(site, NOBODY, NOBODY)
    copy = copy_beside(tmp_path / "old.db", site / "spool.db", "north", MAX_BYTES)
    for path in (copy, Path(f"{copy}-wal")):
        found = path.stat()
        assert found.st_uid == site.stat().st_uid
        assert stat.S_IMODE(found.st_mode) == 0o600
    assert {path.name for path in site.iterdir()} == {copy.name, f"{copy.name}-wal"}


def later_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.executescript("PRAGMA user_version = 99")


def as_link(path: Path) -> None:
    path.rename(path.with_name("target"))
    path.symlink_to("target")


def as_device(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


REFUSED = {
    "a link": (as_link, "name the file itself"),
    "a pipe": (as_device, "is no file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is no file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "not there": (Path.unlink, "No such file"),
    "huge": (lambda path: os.truncate(path, MAX_BYTES + 1), "at most"),
    "of a later schema": (later_schema, "upgrade"),
    "random bytes": (lambda path: path.write_bytes(Random(1).randbytes(500_000)), "nothing"),
    "text": (lambda path: path.write_text("hello\n" * 10_000), "nothing"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_file_that_is_no_spool_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    asyncio.run(fill(tmp_path))
    make, says = REFUSED[kind]
    make(tmp_path / "old.db")  # type: ignore[operator]

    def read() -> Contents:
        open_source(tmp_path / "old.db", MAX_BYTES).close()
        return look(tmp_path / "old.db")

    if says == "nothing":
        (tmp_path / "old.db-wal").unlink()
        counted = read()
        assert counted.readings == counted.quarantined == 0
        return
    with pytest.raises(ConfigError) as refused:
        read()
    assert says in str(refused.value.problems)


async def command(site: Path, *arguments: str, expect: int = 0) -> Any:
    """What `iot-edge` says in JSON, as a process of its own."""
    settings = {
        "GATEWAY__DATA_DIR": str(site),
        "SPOOL__PATH": str(site / "spool.db"),
        "SPOOL__MIN_FREE_BYTES": "0",
        "SPOOL__MAX_BYTES": str(16 * 1024 * 1024),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "edge", "spool", *arguments, "--json"),
        env=os.environ | {f"IOT_EDGE_{name}": value for name, value in settings.items()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == expect, (out, err)
    assert b"Traceback" not in err
    return msgspec.json.decode(out)


async def test_command_hands_over_to_the_gateway_that_runs_and_says_what_came_of_it(tmp_path: Path) -> None:
    before = await fill(tmp_path)
    site = tmp_path / "site"
    waits = await command(tmp_path, "import", str(tmp_path / "old.db"), "--gateway", "a" * 64, expect=2)
    assert "63 small letters" in waits["error"]["problems"][0]
    spool = make_spool(site, SteadyTime(boot_id="boot-2"), max_bytes=16 * 1024 * 1024)
    await spool.open()
    running = asyncio.create_task(spool.run())
    try:
        old = str(tmp_path / "old.db")
        answer = await command(site, "import", old, "--gateway", "south")
        assert (answer["state"], answer["restored"], answer["known"], answer["left"]) == ("done", len(before), 0, 0)
        assert answer["readings"] + answer["quarantined"] == len(before)
        assert (await command(site, "import", old, "--gateway", "south"))["state"] == "imported already"
        own = await command(site, "import", str(site / "spool.db"), expect=2)
        assert "the gateway works with" in own["error"]["problems"][0]
        assert len(await read_all(spool)) == len(before)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await spool.close()
    assert (await command(site, "import", old, "--gateway", "west"))["state"] == "waits for the gateway to start"
    (row,) = await command(site, "list")
    assert row["state"] == "waits to be read"


async def test_copy_that_may_not_be_read_is_waited_for(tmp_path: Path) -> None:
    """Nothing is known of it, so nothing is lost; root may read what others may not, hence a loop of links."""
    before = await fill(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    copy = copy_beside(tmp_path / "old.db", site / "spool.db", "south", MAX_BYTES)
    away = copy.rename(tmp_path / "away")
    copy.symlink_to(copy.name)
    spool = make_spool(site, SteadyTime(boot_id="boot-2"))
    await spool.open()
    for _ in range(3):
        await spool.maintain()
    (waiting,) = spool.backlog().set_aside
    assert "circle" in waiting.problem
    copy.unlink()
    away.rename(copy)
    await work_off(spool)
    assert len(await read_all(spool)) == len(before)
    assert spool.backlog().set_aside == ()
    await spool.close()
