"""History from a CSV file through the pipeline: bodies of `POST /devices/{uuid}/readings`, made of rows.

Flows in: a plan. Flows out: readings in the store, and how far the file has been read. Interrupted, it
goes on where it was; started over, it stores nothing twice.
"""

from __future__ import annotations

import asyncio
import csv
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import msgspec

from bridge.errors import ConfigError
from bridge.model.reading import Delivery, Outcome, Receipt, Source
from bridge.pipeline.decode import decode_packet
from bridge.pipeline.ports import DeliverySink
from bridge.settings.files import open_regular

CHUNK_READINGS = 1_000
IN_FLIGHT = 4
"""Chunks handed to the pipeline at a time: the next are decoded while the database works."""
MAX_LINE_BYTES = 1_048_576
MAX_EXCERPT = 500
INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class ImportPlan(msgspec.Struct, frozen=True):
    """Says which file is imported, and how its columns are read."""

    path: str
    device_uuid: str
    device_id: int
    columns: Mapping[str, str]  # column -> sensor_uuid
    time_column: str
    sequence_column: str | None = None
    delimiter: str = ","
    time_zone: str | None = None  # of times that name none; None: UTC
    time_format: str | None = None  # as strptime takes it; None: ISO 8601, or Unix seconds


class Chunk(msgspec.Struct, frozen=True):
    """Holds some rows as one body."""

    body: bytes
    rows: int  # of the file, up to and with this chunk
    position: int  # bytes of the file, likewise


class Totals:
    """Counts what became of the readings of this run."""

    def __init__(self, skipped_rows: int) -> None:
        self.skipped_rows = skipped_rows
        self.rows = skipped_rows
        self.position = 0
        self.inserted = 0
        self.duplicates = 0
        self.rejected: Counter[str] = Counter()

    def add(self, chunk: Chunk, receipts: Sequence[Receipt]) -> None:
        self.rows = chunk.rows
        self.position = chunk.position
        for receipt in receipts:
            self.inserted += receipt.outcome == Outcome.STORED
            self.duplicates += receipt.outcome == Outcome.DUPLICATE
            if receipt.outcome == Outcome.QUARANTINED:
                self.rejected[receipt.code or "unknown"] += 1


class Bookmark:
    """Keeps how far a file has been imported, in a small file of its own."""

    def __init__(self, path: Path, plan: ImportPlan) -> None:
        self.path = path
        self._file = Path(plan.path)
        self._state = _state(self._file)
        with open_regular(self._file) as file:
            head = sha256(file.read(65_536)).hexdigest()
        self._of = {"head": head, "state": self._state, "plan": msgspec.to_builtins(plan)}

    def rows(self) -> int:
        """Return the rows that are done; 0 where there is no bookmark of this file and plan."""
        with suppress(OSError, msgspec.DecodeError, TypeError, KeyError, ValueError):
            kept = msgspec.json.decode(self.path.read_bytes())
            if kept["of"] == self._of:
                return max(0, int(kept["rows"]))
        return 0

    def keep(self, rows: int) -> None:
        """Remember how far it is. Raises ConfigError where it cannot be written, or the file is another one."""
        self._check_unchanged()
        new = self.path.with_name(self.path.name + ".new")
        try:
            new.write_bytes(msgspec.json.encode({"rows": rows, "of": self._of}))
            new.replace(self.path)
        except OSError as error:
            raise ConfigError([f"{self.path}: {error.strerror}; name another place with --bookmark FILE"]) from error

    def drop(self) -> None:
        """Delete the bookmark. Raises ConfigError where the file is another one."""
        self._check_unchanged()
        self.path.unlink(missing_ok=True)

    def _check_unchanged(self) -> None:
        if _state(self._file) != self._state:
            raise ConfigError(
                [f"{self._file}: has changed while it was read; import it again, nothing is stored twice"]
            )


def _state(path: Path) -> list[int]:
    """Return the file's identity: another one where it has been written to, or replaced. Raises ConfigError."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def chunks(plan: ImportPlan, skip_rows: int = 0) -> Iterator[Chunk]:
    """Read the file as bodies of about a thousand readings. Raises ConfigError for what is not CSV."""
    readings: list[dict[str, Any]] = []
    rows = 0
    try:
        with open_regular(Path(plan.path)) as raw:
            reader = csv.DictReader(_lines(raw), delimiter=plan.delimiter, strict=True)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            _check_columns(plan, names)
            for row in reader:
                rows += 1
                if rows > skip_rows:
                    readings += _readings(plan, row, names)
                if len(readings) >= CHUNK_READINGS:
                    yield Chunk(msgspec.json.encode({"readings": readings}), rows, raw.tell())
                    readings = []
            yield Chunk(msgspec.json.encode({"readings": readings}), rows, raw.tell())
    except OSError as error:
        raise ConfigError([f"{plan.path}: {error.strerror}"]) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError([f"{plan.path}, after row {rows}: not CSV in UTF-8: {error}"]) from error


async def import_rows(
    plan: ImportPlan,
    bookmark: Bookmark,
    sink: DeliverySink,
    now_us: Callable[[], int],
    seen: Callable[[Totals], None],
) -> Totals:
    """Import a file; `seen` is called after each chunk. Raises ConfigError."""
    totals = Totals(bookmark.rows())
    bookmark.keep(totals.skipped_rows)  # what cannot be remembered is better said now than after an hour
    under_way: deque[tuple[Chunk, asyncio.Future[Sequence[Receipt]]]] = deque()

    async def finish_oldest() -> None:
        chunk, settled = under_way.popleft()
        totals.add(chunk, await settled)
        bookmark.keep(chunk.rows)
        seen(totals)

    for chunk in chunks(plan, totals.skipped_rows):
        under_way.append((chunk, _submit(plan, chunk, sink, now_us())))
        if len(under_way) >= IN_FLIGHT:
            await finish_oldest()
    while under_way:
        await finish_oldest()
    bookmark.drop()
    return totals


def _submit(plan: ImportPlan, chunk: Chunk, sink: DeliverySink, received_us: int) -> asyncio.Future[Sequence[Receipt]]:
    settled: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
    packet = decode_packet(chunk.body, max_readings=len(chunk.body))
    if not packet.readings and not packet.rejections:
        settled.set_result(())
        return settled
    delivery = Delivery(
        packet,
        Source.IMPORT,
        chunk.body,
        received_us,
        lambda receipts: None if settled.done() else settled.set_result(receipts),
        device_uuid=plan.device_uuid,
        device_id=plan.device_id,
        topic=f"/devices/{plan.device_uuid}/readings",  # what a replay decodes it as
        retry_in_place=True,
        retained=True,  # says nothing of the device being alive now
    )
    sink.submit(delivery)
    return settled


def _lines(raw: BinaryIO) -> Iterator[str]:
    """Read lines with their position: a text file does not tell where it is while it is iterated over."""
    encoding = "utf-8-sig"  # spreadsheets begin a file with a byte order mark
    while line := raw.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise csv.Error(f"a line of more than {MAX_LINE_BYTES} bytes")
        yield line.decode(encoding)
        encoding = "utf-8"


def _check_columns(plan: ImportPlan, there: Sequence[str]) -> None:
    wanted = [*plan.columns, plan.time_column, *([plan.sequence_column] if plan.sequence_column else [])]
    columns = ", ".join(map(repr, there)) or "none"
    problems = [f"{plan.path}: no column {name!r}; there are {columns}" for name in wanted if name not in there]
    problems += [f"{plan.path}: the column {name!r} is there twice" for name in wanted if there.count(name) > 1]
    if problems:
        raise ConfigError(problems)


def _readings(plan: ImportPlan, row: Mapping[str | None, Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Return the readings of one row. What is no number or no time goes on as text, for the pipeline to refuse."""
    when = _when(plan, (row[plan.time_column] or "").strip())
    sequence = _cell(row[plan.sequence_column]) if plan.sequence_column else ""
    # With cells to spare (a decimal comma, a forgotten quote) no cell is known to be what its column says.
    whole = plan.delimiter.join([*(row[name] or "" for name in names), *row[None]]) if None in row else None
    for column, sensor in plan.columns.items():
        value = _cell(row[column]) if whole is None else whole[:MAX_EXCERPT]
        if value == "":
            continue  # not measured
        reading = {"sensor_uuid": sensor, "value": value, "sensor_ts": when}
        if sequence != "":
            reading["sequence"] = int(sequence) if isinstance(sequence, float) and sequence.is_integer() else sequence
        yield reading


def _when(plan: ImportPlan, text: str) -> float | str:
    """Return the time of a row as the pipeline reads it: Unix seconds, or ISO 8601 with its zone."""
    if plan.time_format is None and plan.time_zone is None:
        return _cell(text)
    if plan.time_format is None and NUMBER.fullmatch(text):
        return _cell(text)  # Unix seconds know no zones
    try:
        moment = datetime.strptime(text, plan.time_format) if plan.time_format else datetime.fromisoformat(text)
    except ValueError:
        # Not as it was promised to be: what could be read in some other way must not pass for it.
        return f"not {plan.time_format}: {text}" if plan.time_format else text
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(plan.time_zone) if plan.time_zone else UTC)
    return moment.isoformat()


def _cell(text: str | None) -> float | str:
    text = (text or "").strip()
    if INTEGER.fullmatch(text):
        return int(text)  # exact, as a counter must be
    if NUMBER.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text
