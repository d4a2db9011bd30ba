"""External ids and units of sensors: what is asked for in, what is to be written out, or every mistake together.

A CSV file has a header line and the columns `external_id` and `sensor` (id or UUID), and perhaps `unit_in`, `unit`
and others, which are left alone. A row without a sensor is one that nobody has mapped yet.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec

from bridge.cli.units import conversion
from bridge.errors import ConfigError
from bridge.pipeline.decode import normal_uuid
from bridge.settings.files import read_bytes

COLUMNS = ("external_id", "sensor")
EXTERNAL_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}/[^#]+#.+")
MAX_EXTERNAL_ID = 255
MAX_FILE_BYTES = 16 * 1024 * 1024


class Wish(msgspec.Struct, frozen=True):
    """What is wanted of one sensor. None leaves as it is, empty text takes away."""

    place: str  # for messages: where the wish stands
    sensor_id: int | None
    sensor_uuid: str | None
    external_id: str | None = None
    unit_in: str | None = None
    unit: str | None = None


def read(path: Path) -> tuple[list[Wish], int]:
    """The wishes of a file, and how many of its rows name no sensor. Raises ConfigError with every mistake."""
    try:
        with StringIO(read_bytes(path, MAX_FILE_BYTES).decode("utf-8-sig"), newline="") as file:
            reader = csv.DictReader(file, strict=True)
            there = reader.fieldnames or []
            missing = [column for column in COLUMNS if column not in there]
            if missing:
                raise ConfigError([f"{path}: no column {', '.join(missing)}; there are {', '.join(there) or 'none'}"])
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not CSV in UTF-8: {error}"]) from error
    wishes: list[Wish] = []
    problems: list[str] = []
    unmapped = 0
    for number, row in enumerate(rows, start=2):
        cells = {name: (cell or "").strip() for name, cell in row.items() if isinstance(name, str | None)}
        if not cells["sensor"]:
            unmapped += 1
            continue
        try:
            sensor_id, sensor_uuid = sensor_of(cells["sensor"])
        except ConfigError as error:
            problems += [f"{path}, line {number}: {problem}" for problem in error.problems]
            continue
        units = {name: cells[name] for name in ("unit_in", "unit") if cells.get(name)}
        wishes.append(Wish(f"{path}, line {number}", sensor_id, sensor_uuid, cells["external_id"], **units))
    if problems:
        raise ConfigError(problems)
    return wishes, unmapped


def sensor_of(text: str) -> tuple[int | None, str | None]:
    """(id, None) or (None, UUID). Raises ConfigError."""
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text), None
    uuid = normal_uuid(text)
    if uuid is None:
        raise ConfigError([f"{text[:80]!r} is neither a sensor id nor a sensor UUID"])
    return None, uuid


def plan(wishes: Sequence[Wish], known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for `Admin.map_sensors`. `known` are the sensors named, and those that have one of the external ids.

    Raises ConfigError with every mistake.
    """
    by_id = {row["sensor_id"]: row for row in known}
    by_uuid = {row["sensor_uuid"]: row for row in known}
    rows: dict[int, dict[str, Any]] = {}
    named: dict[str, str] = {}
    problems: list[str] = []
    for wish in wishes:
        sensor = by_uuid.get(wish.sensor_uuid) if wish.sensor_id is None else by_id.get(wish.sensor_id)
        if sensor is None:
            problems.append(f"{wish.place}: no sensor {wish.sensor_id or wish.sensor_uuid}")
            continue
        try:
            row = _row(wish, sensor)
        except ConfigError as error:
            problems += [f"{wish.place}: {problem}" for problem in error.problems]
            continue
        if row["sensor_id"] in rows:
            problems.append(f"{wish.place}: sensor {row['sensor_id']} stands here twice; a sensor has one external id")
        name = row["external_id"]
        if name is not None and name in named:
            problems.append(f"{wish.place}: {name} stands here twice, first at {named[name]}")
        if name is not None:
            named.setdefault(name, wish.place)
        rows[row["sensor_id"]] = row
    for row in known:
        place = named.get(row["external_id"] or "")
        if place is not None and row["sensor_id"] not in rows:
            problems.append(
                f"{place}: {row['external_id']} is sensor {row['sensor_id']} ({row['device']}/{row['name']})"
            )
    if problems:
        raise ConfigError(problems)
    return list(rows.values())


def _row(wish: Wish, sensor: dict[str, Any]) -> dict[str, Any]:
    external_id = sensor["external_id"] if wish.external_id is None else wish.external_id or None
    if external_id is not None and wish.external_id is not None:
        check_external_id(external_id)
    unit_in = sensor["unit_in"] if wish.unit_in is None else wish.unit_in or None
    unit = sensor["unit"] if wish.unit is None else wish.unit or None
    factor, offset = 1.0, 0.0
    if unit_in is not None:
        if unit is None:
            raise ConfigError([f"the sensor has no unit that {unit_in} could be turned into; set it with --unit"])
        factor, offset = conversion(unit_in, unit)
    return {
        "sensor_id": sensor["sensor_id"],
        "device": sensor["device"],
        "name": sensor["name"],
        "external_id": external_id,
        "unit_in": unit_in,
        "unit": unit,
        "factor": factor,
        "offset": offset,
    }


def check_external_id(text: str) -> None:
    """Raises ConfigError where no converter could ever give this name."""
    if not EXTERNAL_ID.fullmatch(text) or len(text) > MAX_EXTERNAL_ID or not text.isprintable():
        form = "<namespace>/<device>#<channel>, as in tasmota/kitchen#AM2301.Temperature"
        raise ConfigError([f"{text[:80]!r} is no external id: {form}"])
