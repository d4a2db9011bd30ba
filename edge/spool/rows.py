"""The rows of the spool file: readings and quarantine rows in, `Record` out. Pure.

Each row has a CRC over all of it, so that what comes out of a damaged file is what went in or nothing.
What repeats (sensor, device, boot) is kept once and named by a small number.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

from bridge.errors import StoreRefused
from bridge.model.reading import Code, DoorFacts, QuarantineRow, Reading, ReadingClass, Source, TsQuality
from edge.record import Record

SOURCES = tuple(Source)
"""A source is kept as its place in this order."""
_SOURCE_NUMBERS = {source: number for number, source in enumerate(SOURCES)}

SOURCE_BITS = 0b111
TIME_OURS = 1 << 3  # ts_us is the time of receipt
STALE = 1 << 4  # says nothing of the device being alive
FIRST_DELIVERY = 1 << 5
CLASS_SHIFT = 6  # two bits
CLASS_BITS = 0b11 << CLASS_SHIFT
CLOCK_UNSET = 1 << 8

_HAS_SEQUENCE = 1 << 9  # in the CRC alone
WHOLE = 1 << 10  # of a quarantined row: it is all that was sent
PART = 1 << 11  # it is the reading at its index alone; neither: of a former release, which did not say
KEYED = 1 << 12  # its topic ends in NUL and the key: with a column of their own, older spools could not be read

READING_COLUMNS = 11
DEVICE_ID, DEVICE_UUID, PAYLOAD = 1, 2, 10  # columns of a quarantined row

SqlRow = tuple[Any, ...]
"""A row of any table of the spool, as SQLite gives and takes it."""


class SensorName(NamedTuple):
    """A sensor as readings name it."""

    name: int | str
    device_uuid: str | None
    device_id: int
    resolved: bool

    @property
    def crc(self) -> int:
        return crc32(repr(tuple(self)).encode(errors="surrogatepass"))


class Boot(NamedTuple):
    """A boot of the gateway. `anchor_us`: time of day minus CLOCK_BOOTTIME, as last set; None where it never was.

    `earlier_us`: by how much it may have been earlier, where it is an estimate (`boot_times`); None where it is known.
    """

    boot_id: str
    anchor_us: int | None
    earlier_us: int | None = None


STAMP_IS_RIGHT_US = 1_000_000
"""What a row's own stamp may differ from its boot's anchor and be kept. Farther off, it was stamped before a jump."""


def receipt_of(stamped_us: int, mono_us: int, is_set: bool, boot: Boot) -> tuple[int, bool, int | None]:
    """When a row was received, by what is known of its boot; whether that is known; by how much it may be earlier.

    The newest anchor of a boot is right for all of it: CLOCK_BOOTTIME is slewed as the time of day is, and never set.
    """
    if boot.anchor_us is None:
        return stamped_us, is_set, None
    by_boot_us = mono_us + boot.anchor_us
    if is_set and -STAMP_IS_RIGHT_US < by_boot_us - stamped_us < STAMP_IS_RIGHT_US:
        return stamped_us, True, None
    return by_boot_us, True, boot.earlier_us


def sensor_name(reading: Reading) -> SensorName:
    """How the spool names the sensor of a reading."""
    if reading.unresolved is None:
        return SensorName(reading.sensor_id, reading.device_uuid, reading.device_id, True)
    return SensorName(reading.unresolved, reading.device_uuid, reading.device_id, False)


def identity(name: SensorName, value: float, ts_us: int, sequence: int | None) -> str:
    """What tells a reading from others by the device's time: only one that is equal in all of it is the same.

    Another value at one time is the service's to judge: it has all that was ever stored.
    """
    known = f"{name.name}" if name.resolved else f"{name.device_uuid}/{name.name}"
    return f"{known}-{ts_us}-{'' if sequence is None else sequence}={value!r}"


def keyed_identity(key: str, value: float) -> str:
    """What tells a reading from others by the key that its sender gave."""
    return f"{key}={value!r}"


def row_identity(name: SensorName, row: SqlRow) -> str:
    """What tells a written reading from others. With neither a time nor a key of its sender's it is like no other."""
    row_id, _, value, ts_us, sequence, _, _, _, flags, key = row[:10]
    if key is not None:
        return keyed_identity(key, value)
    return f"untimed-{row_id}" if flags & TIME_OURS else identity(name, value, ts_us, sequence)


def refused_identity(row_id: int) -> str:
    """What tells a quarantined row from others of its file: it has nothing of its own that would."""
    return f"refused-{row_id}"


def source_number(source: Source) -> int:
    """Tell the place of a source in SOURCES."""
    return _SOURCE_NUMBERS[source]


def label_of(flags: int) -> ReadingClass:
    """The class that a row's flags carry."""
    return ReadingClass((flags & CLASS_BITS) >> CLASS_SHIFT)


def reading_row(
    reading: Reading, row_id: int, sensor: int, mono_us: int, boot: int, label: int, *, clock_set: bool
) -> SqlRow:
    """The row of a reading. Raises StoreRefused where it can never be kept."""
    if not math.isfinite(reading.value):
        raise StoreRefused("a value is not finite")
    flags = _SOURCE_NUMBERS[reading.source] | label << CLASS_SHIFT
    if reading.ts_quality != TsQuality.DEVICE:
        flags |= TIME_OURS
    if not reading.updates_liveness:
        flags |= STALE
    if not reading.redelivered:
        flags |= FIRST_DELIVERY
    if not clock_set:
        flags |= CLOCK_UNSET
    row = (
        row_id,
        sensor,
        reading.value + 0.0,  # SQLite keeps -0.0 as 0
        reading.ts_us,
        reading.sequence,
        reading.received_us - reading.ts_us,
        mono_us,
        boot,
        flags,
        reading.key,
    )
    return (*row, reading_crc(row))


def reading_crc(row: SqlRow) -> int:
    """The CRC of a reading's row, of all but its last column. Raises StoreRefused for numbers beyond 64 bits."""
    sequence, key = row[4], row[9]
    flags = row[8] if sequence is None else row[8] | _HAS_SEQUENCE
    try:
        fixed = struct.pack("<qqdqqqqqq", *row[:4], sequence or 0, *row[5:8], flags)
    except (struct.error, TypeError) as error:
        raise StoreRefused(f"a number is beyond 64 bits: {error}") from error
    return crc32(fixed if key is None else fixed + key.encode(errors="surrogatepass"))


def is_whole(row: SqlRow) -> bool:
    """Whether a reading's row is as it was written."""
    try:
        return bool(reading_crc(row) == row[10])
    except (StoreRefused, TypeError, AttributeError):  # values of other types than ours
        return False


def source_in(flags: object) -> int:
    """The source of a row's flags, as its place in SOURCES; the first where the flags are damaged."""
    number = flags & SOURCE_BITS if isinstance(flags, int) else 0
    return number if number < len(SOURCES) else 0


def refused_row(row: QuarantineRow, row_id: int, mono_us: int, boot: int, *, clock_set: bool) -> SqlRow:
    """The row of something quarantined. Raises StoreRefused where it can never be kept."""
    facts = row.facts or DoorFacts()
    flags = _SOURCE_NUMBERS[row.source]
    if not clock_set:
        flags |= CLOCK_UNSET
    if facts.whole is not None:
        flags |= WHOLE if facts.whole else PART
    if facts.retained:
        flags |= STALE
    if not facts.redelivered:
        flags |= FIRST_DELIVERY
    if facts.key is not None:
        flags |= KEYED
    columns = (
        row_id,
        row.device_id,
        row.device_uuid,
        row.received_us,
        mono_us,
        boot,
        flags,
        row.code.value,
        _clean(row.detail),
        _clean(row.topic if facts.key is None else f"{row.topic}\0{facts.key}"),
        row.payload,
        row.index,
    )
    try:
        return (*columns, refused_crc(columns))
    except struct.error as error:
        raise StoreRefused(f"a number is beyond 64 bits: {error}") from error


def is_whole_refused(row: SqlRow) -> bool:
    """Whether a quarantined row is as it was written."""
    try:
        return bool(refused_crc(row[:12]) == row[12])
    except (struct.error, TypeError):
        return False


def refused_crc(row: SqlRow) -> int:
    """The CRC of a quarantined row, of all but its last column."""
    return crc32(repr(row[:10]).encode() + struct.pack("<q", row[11]), crc32(row[10]))


def _clean(text: str) -> str:
    """Replace what UTF-8 cannot hold: half a surrogate pair cannot be stored."""
    return text.encode(errors="replace").decode()


def reading_record(
    row: SqlRow, names: Mapping[int, SensorName], boots: Mapping[int, Boot], epoch: str
) -> Record | None:
    """The record of a row; None where the row is damaged, or names a sensor or boot that is gone."""
    row_id, sensor, value, ts_us, sequence, delay_us, mono_us, boot_ref, flags, key, _ = row
    name, boot = names.get(sensor), boots.get(boot_ref)
    if name is None or boot is None or not is_whole(row):
        return None
    received_us, clock_set, earlier_us = receipt_of(ts_us + delay_us, mono_us, not flags & CLOCK_UNSET, boot)
    if flags & TIME_OURS:
        ts_us = received_us - delay_us  # readings of one packet stay apart
    return Record(
        row_id,
        epoch,
        SOURCES[flags & SOURCE_BITS],
        received_us,
        boot.boot_id,
        mono_us,
        clock_set,
        name.device_uuid,
        name.device_id,
        name.name,
        name.resolved,
        value,
        ts_us,
        sequence,
        TsQuality.GATEWAY if flags & TIME_OURS else TsQuality.DEVICE,
        key,
        not flags & STALE,
        not flags & FIRST_DELIVERY,
        label_of(flags),
        earlier_us=earlier_us,
    )


def refused_record(row: SqlRow, boots: Mapping[int, Boot], epoch: str) -> Record | None:
    """The record of a quarantined row; None where it is damaged."""
    row_id, device_id, device_uuid, received_us, mono_us, boot_ref, flags, code, detail, topic, payload, place, crc = (
        row
    )
    boot = boots.get(boot_ref)
    if boot is None or refused_crc(row[:12]) != crc:
        return None
    received_us, clock_set, earlier_us = receipt_of(received_us, mono_us, not flags & CLOCK_UNSET, boot)
    key = None
    if flags & KEYED:
        topic, _, key = topic.rpartition("\0")
    return Record(
        row_id,
        epoch,
        SOURCES[flags & SOURCE_BITS],
        received_us,
        boot.boot_id,
        mono_us,
        clock_set,
        device_uuid,
        device_id,
        key=key,
        updates_liveness=not flags & STALE,
        redelivered=not flags & FIRST_DELIVERY,
        whole=bool(flags & WHOLE) if flags & (WHOLE | PART) else None,
        code=Code(code),
        detail=detail,
        topic=topic,
        payload=payload,
        index=place,
        earlier_us=earlier_us,
    )
