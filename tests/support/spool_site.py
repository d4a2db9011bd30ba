"""A spool on a disk that fails as told, and readings to put in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bridge.model.reading import Batch, Code, CommitResult, LedgerLine, QuarantineRow, Reading, Source, TsQuality
from edge.host.clock import Stamp
from edge.ports import Classifier
from edge.record import LedgerTotals, Record
from edge.settings import SpoolSettings
from edge.spool import Spool
from edge.telemetry import SpoolMetrics

NOW_US = 1_769_594_400_000_000
DEVICE_UUID = "6f1c2d9e-0000-4000-8000-000000000001"


class SteadyTime:
    """A clock that is set, and stands where it is put."""

    def __init__(self, now_us: int = NOW_US, boot_id: str = "boot-1") -> None:
        self.boot_id = boot_id
        self.time_us = now_us
        self.booted_us = now_us - 3_600_000_000
        self.known = True
        self.proven = True

    @property
    def anchor_us(self) -> int | None:
        return self.booted_us if self.known else None

    def now_us(self) -> int:
        return self.time_us

    def is_proven(self) -> bool:
        return self.proven

    def stamp(self, given_us: int) -> Stamp:
        return Stamp(given_us - self.booted_us, self.known)


class Fault:
    """The next statement that begins with `prefix` fails, before it is run or after."""

    def __init__(self, prefix: str, code: int, *, after: bool = False, skip: int = 0) -> None:
        self.prefix = prefix
        self.code = code
        self.after = after
        self.skip = skip

    def error(self) -> sqlite3.OperationalError:
        error = sqlite3.OperationalError(f"injected {self.code}")
        error.sqlite_errorcode = self.code
        error.sqlite_errorname = f"INJECTED_{self.code}"
        return error


class FaultyDisk:
    """Makes connections. A fault in `faults` happens once."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.committed: Callable[[sqlite3.Connection, str], None] = lambda connection, synchronous: None
        """Called after each COMMIT that SQLite has made, with the `synchronous` it was made under."""

    def connect(self, path: str) -> sqlite3.Connection:
        disk = self

        class Connection(sqlite3.Connection):
            synchronous = "FULL"

            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                fault = disk.take(sql)
                if fault is not None and not fault.after:
                    raise fault.error()
                cursor = super().execute(sql, parameters)
                if sql.startswith("PRAGMA synchronous"):
                    self.synchronous = sql.rsplit(maxsplit=1)[-1]
                if sql == "COMMIT":
                    disk.committed(self, self.synchronous)
                if fault is not None:
                    raise fault.error()
                return cursor

        return sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False, factory=Connection)

    def take(self, sql: str) -> Fault | None:
        for fault in self.faults:
            if sql.startswith(fault.prefix):
                if fault.skip:
                    fault.skip -= 1
                    return None
                self.faults.remove(fault)
                return fault
        return None


def settings_in(folder: Path, **values: Any) -> SpoolSettings:
    return SpoolSettings(**{"path": folder / "spool.db", "min_free_bytes": 0, "maintain_every_s": 0.01} | values)


def make_spool(
    folder: Path,
    time: SteadyTime | None = None,
    disk: FaultyDisk | None = None,
    classifier: Classifier | None = None,
    **settings: Any,
) -> Spool:
    disk = disk or FaultyDisk()
    time = time or SteadyTime()
    return Spool(settings_in(folder, **settings), time, SpoolMetrics(), classifier=classifier, connect=disk.connect)


def reading(
    number: int,
    *,
    sensor: int = 1,
    device: int = 7,
    value: float | None = None,
    key: str | None = None,
    source: Source = Source.MQTT,
    **columns: Any,
) -> Reading:
    """The reading of a sensor at second `number`; with a key, one whose time is ours."""
    ts_us = NOW_US + number * 1_000_000
    return Reading(
        sensor_id=sensor,
        value=20.0 + number / 7 if value is None else value,
        ts_us=ts_us,
        received_us=ts_us if key else ts_us + 250_000,
        device_id=device,
        sensor_type="temperature",
        source=source,
        key=key,
        ts_quality=TsQuality.SERVER if key else TsQuality.DEVICE,
        device_uuid=DEVICE_UUID,
        **columns,
    )


def junk(payload: bytes = b"\xff", *, device: int = 7, code: Code = Code.BAD_JSON) -> QuarantineRow:
    return QuarantineRow(code, "why", payload, Source.MQTT, "devices/x/readings", NOW_US, device)


class SpoolFeeder:
    """Writes batches as the pipeline does, with the door's totals."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.number = 0
        self.received: dict[tuple[int, Source], int] = {}

    async def send(self, *readings: Reading, junk: Sequence[QuarantineRow] = ()) -> CommitResult:
        self.number += 1
        received = dict(self.received)
        contents: list[Reading | QuarantineRow] = [*readings, *junk]
        for content in contents:
            account = (content.device_id, content.source)
            received[account] = received.get(account, 0) + 1
        lines = [LedgerLine(device, source, count, 0) for (device, source), count in received.items()]
        committed = await self.spool.write(Batch(self.number, readings, junk, lines))
        self.received = received
        return committed


async def read_all(spool: Spool, *, above: int = 0, step: int = 1_000) -> list[Record]:
    """Everything that is spooled, in order."""
    records: list[Record] = []
    while part := await spool.read(above=above, count=step, max_bytes=1 << 20):
        records += part
        above = part[-1].id
    return records


def imbalance(totals: Sequence[LedgerTotals], depth: int) -> list[str]:
    """What does not add up."""
    problems = [f"{t}: the doors" for t in totals if t.received != t.returned + t.spooled + t.duplicate + t.quarantined]
    left = sum(t.spooled + t.quarantined - t.delivered - t.shed - t.lost for t in totals)
    if left != depth:
        problems.append(f"{left} must be in the spool, and {depth} are")
    return problems
