"""The spool against bare SQLite: `python -m bench.spool`.

Bare SQLite is the ceiling: the same file settings, a table of the same columns with the same index, rows
inserted and deleted in the same batches by executemany, and nothing else. Both run in this process, one after the
other, on the same disk; so the ratios say what the spool costs, whatever the machine.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter

import msgspec

from bridge.model.reading import Batch, Outcome, Reading, Source
from edge.host.clock import host_clock
from edge.record import Settlement
from edge.settings import SpoolSettings
from edge.spool import Spool
from edge.spool.file import PAGE_BYTES
from edge.telemetry import SpoolMetrics

SENSORS = 160
START_US = 1_769_594_400_000_000
CHECKPOINT_BYTES = 2 * 1024 * 1024

BARE_PRAGMAS = (
    f"page_size = {PAGE_BYTES}",
    "auto_vacuum = INCREMENTAL",
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = OFF",
    f"wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE_BYTES}",
)
BARE_TABLE = """
    CREATE TABLE record (id INTEGER PRIMARY KEY, sensor INTEGER, value REAL, ts_us INTEGER, sequence INTEGER,
                         delay_us INTEGER, mono_us INTEGER, boot INTEGER, flags INTEGER, key TEXT, crc INTEGER);
    CREATE UNIQUE INDEX record_identity ON record (ts_us, sensor, ifnull(sequence, ''), value)
        WHERE key IS NULL AND NOT flags & 8;
"""
BARE_INSERT = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Measured(msgspec.Struct, frozen=True):
    """One way of working, the spool's and bare SQLite's. Rates are readings a second."""

    name: str
    readings: int
    rate: float
    bare_rate: float
    written_bytes: float  # to the disk, for each reading
    bare_written_bytes: float

    @property
    def ratio(self) -> float:
        return self.rate / self.bare_rate


def written() -> int:
    """Bytes that this process has caused to be sent to the disk, page by page (proc(5), write_bytes)."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


def memory_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def readings(start: int, count: int) -> list[Reading]:
    """Of sensors that take turns, four a second."""
    return [
        Reading(
            n % SENSORS + 1,
            20.0 + n % 97 / 7,
            START_US + n * 250_000,
            START_US + n * 250_000 + 1_500 + n % 999,
            n % SENSORS // 4 + 1,
            "temperature",
            Source.MQTT,
            n // SENSORS,
            device_uuid=f"6f1c2d9e-0000-4000-8000-{n % SENSORS // 4 + 1:012d}",
        )
        for n in range(start, start + count)
    ]


def batches(total: int, size: int) -> Iterator[list[Reading]]:
    for start in range(0, total, size):
        yield readings(start, min(size, total - start))


async def measure(folder: Path, total: int, size: int) -> list[Measured]:
    """Write `total` readings in batches of `size`, each acknowledged; then drain them in batches of 1,000."""
    bare_in, bare_out = _bare(folder / "bare.db", total, size)
    spool = open_spool(folder)
    await spool.open()
    before, busy_s = written(), 0.0
    for number, batch in enumerate(batches(total, size), start=1):
        started = perf_counter()
        await spool.write(Batch(number, batch))
        busy_s += perf_counter() - started
    spooled = written() - before
    before, started = written(), perf_counter()
    count = await drain(spool)
    drain_s = perf_counter() - started
    drained = written() - before
    await spool.close()
    if count != total:
        raise RuntimeError(f"{count} of {total} records came back")
    name = "one by one" if size == 1 else f"by {size}"
    return [
        Measured(f"write {name}", total, total / busy_s, total / bare_in[0], spooled / total, bare_in[1] / total),
        Measured("drain", total, total / drain_s, total / bare_out[0], drained / total, bare_out[1] / total),
    ]


def open_spool(folder: Path, **settings: int) -> Spool:
    """A spool of its own, with its usual settings."""
    spool_settings = SpoolSettings(path=folder / "spool.db", checkpoint_bytes=CHECKPOINT_BYTES, **settings)
    return Spool(spool_settings, host_clock(assume_set=True), SpoolMetrics())


async def drain(spool: Spool) -> int:
    """Read and acknowledge everything; returns how many there were."""
    above = count = 0
    while records := await spool.read(above=above, count=1_000, max_bytes=1 << 22):
        await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in records])
        above = records[-1].id
        count += len(records)
    return count


def _bare(path: Path, total: int, size: int) -> tuple[tuple[float, int], tuple[float, int]]:
    """Seconds and bytes of inserting, and of reading and deleting, without a spool."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for pragma in (f"page_size = {PAGE_BYTES}", "auto_vacuum = INCREMENTAL", "journal_mode = WAL"):
            file.execute(f"PRAGMA {pragma}")
        for pragma in (
            "synchronous = FULL",
            "secure_delete = OFF",
            f"wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE_BYTES}",
        ):
            file.execute(f"PRAGMA {pragma}")
        file.executescript(BARE_TABLE)
        before, busy_s, last = written(), 0.0, 0
        for batch in batches(total, size):
            rows = _bare_rows(batch, last)
            started = perf_counter()
            file.execute("BEGIN IMMEDIATE")
            file.executemany(BARE_INSERT, rows)
            file.execute("COMMIT")
            busy_s += perf_counter() - started
            last += len(rows)
        inserted = busy_s, written() - before
        before, started = written(), perf_counter()
        file.execute("PRAGMA synchronous = NORMAL")
        above = 0
        while read := file.execute("SELECT * FROM record WHERE id > ? ORDER BY id LIMIT 1000", (above,)).fetchall():
            above = read[-1][0]
            file.execute("BEGIN IMMEDIATE")
            file.execute("DELETE FROM record WHERE id <= ?", (above,))
            file.execute("COMMIT")
        return inserted, (perf_counter() - started, written() - before)


def _bare_rows(batch: Sequence[Reading], last: int) -> list[tuple[object, ...]]:
    return [
        (
            last + place, r.sensor_id, r.value, r.ts_us, r.sequence, r.received_us - r.ts_us,
            r.ts_us - START_US, 1, 1, None, r.ts_us % 0xFFFF_FFFF,
        )
        for place, r in enumerate(batch, start=1)
    ]  # fmt: skip


def run(*, quick: bool = False) -> dict[str, object]:
    """All figures, as one document."""
    scale = 10 if quick else 1
    results: list[Measured] = []
    for total, size in ((4_000, 1), (40_000, 20), (400_000, 500)):
        with tempfile.TemporaryDirectory(prefix="bench-spool") as folder:
            results += asyncio.run(measure(Path(folder), total // scale, size))
    drains = [result for result in results if result.name == "drain"]
    kept = [result for result in results if result.name != "drain"] + drains[-1:]
    return {
        "readings_per_s": {r.name: round(r.rate) for r in kept},
        "ratio_to_bare_sqlite": {r.name: round(r.ratio, 2) for r in kept},
        "bytes_written_per_reading": {r.name: round(r.written_bytes) for r in kept},
        "bare_bytes_written_per_reading": {r.name: round(r.bare_written_bytes) for r in kept},
        "memory_bytes": memory_bytes(),
    }


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv), indent=2))
