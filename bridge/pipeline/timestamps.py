"""Times as devices write them: a number or text in, microseconds since the epoch out, or `DecodeError`.

A number is seconds, milliseconds, microseconds or nanoseconds by its size, unless its unit is given. Text that names
no zone is local time, which a zone repeats for an hour a year: then there are two instants, and `candidates` has both.
No clock: `local_times` chooses between the two.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from bridge.errors import DecodeError
from bridge.model.reading import MAX_TIME_US, MIN_TIME_US, Code
from bridge.pipeline.number_text import quoted

TimeUnit = Literal["", "s", "ms", "us", "ns"]
"""Of numbers; empty: by their size."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_HERE = datetime(1970, 1, 1)  # of local time
_MICROSECOND = timedelta(microseconds=1)
_MAX_TEXT = 64  # characters; longer than any time
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_CALENDAR = re.compile(
    r"(\d{4})([-/]?)(\d\d)\2(\d\d)"  # 2026-01-28, 2026/01/28, 20260128
    r"(?:[Tt ]?(\d\d)(:?)(\d\d)(?:\6(\d\d)(?:[.,](\d+))?)?)?"  # T10:00, 10:00:00.5, T100000
    r" ?(Z|z|UTC|GMT|[+-]\d\d:?\d\d|[+-]\d\d)?",
    re.ASCII,
)
"""What is taken beyond `datetime.fromisoformat`, and by each version of Python alike."""
_COMPACT = (8, 14)  # digits of YYYYMMDD and YYYYMMDDhhmmss
_COMPACT_YEARS = range(1970, 2200)

_SECONDS_FROM = MIN_TIME_US // 1_000_000
_SECONDS_TO = MAX_TIME_US // 1_000_000  # 2200: nobody means a second beyond, nor this many milliseconds (March 1970)
_UNIT_UP_TO: tuple[tuple[int, TimeUnit], ...] = (
    (_SECONDS_TO, "s"),
    (_SECONDS_TO * 1_000, "ms"),
    (_SECONDS_TO * 1_000_000, "us"),
    (_SECONDS_TO * 1_000_000_000, "ns"),
)
_MICROSECONDS_IN = {"s": 1_000_000, "ms": 1_000, "us": 1}


def parse_time(value: float | str | None, where: str, zone: tzinfo = UTC, unit: TimeUnit = "") -> int | None:
    """ISO 8601 text (in `zone` where it names none) or a Unix time, to microseconds since the epoch.

    Of a local time that comes twice, the earlier. None where there is none. Raises DecodeError(BAD_TIME).
    """
    if value is None:
        return None
    if type(value) is float and not unit and _SECONDS_FROM <= value <= _SECONDS_TO:  # the commonest by far
        return round(value * 1_000_000)
    return candidates(value, where, zone, unit)[0]


def candidates(value: float | str, where: str, zone: tzinfo = UTC, unit: TimeUnit = "") -> tuple[int, ...]:
    """The instants that a time may stand for, the earlier first: two where the zone's clock shows it twice.

    One that the clock leaves out (in spring) is as if it had not been put forward. Raises DecodeError(BAD_TIME).
    """
    if isinstance(value, str):
        moment = _of_text(value, where, unit)
        if isinstance(moment, datetime):
            return _of_calendar(moment, where, zone)
        value = moment
    return (_bounded(_of_number(value, where, unit), where),)


def _of_number(value: float, where: str, unit: TimeUnit) -> int:
    size = abs(value)
    for up_to, by_size in _UNIT_UP_TO:
        if size <= up_to:
            unit = unit or by_size
            break
    else:  # NaN is here, too
        raise DecodeError(Code.BAD_TIME, f"{where} is no Unix time, in any unit", where=where)
    if unit == "ns":
        return int(value) // 1_000
    return round(value * _MICROSECONDS_IN[unit])


def _of_text(text: str, where: str, unit: TimeUnit) -> float | datetime:
    """A number, or a moment, which has a zone or not."""
    if len(text) > _MAX_TEXT:
        raise DecodeError(Code.BAD_TIME, f"{where} is too long for a time", where=where)
    if text[4:5] == "-" and text[10:11] in ("T", " ", ""):  # nearly all; and no number
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    text = text.strip()
    if _NUMBER.fullmatch(text) and not (unit == "" and _is_compact(text)):
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    found = _CALENDAR.fullmatch(text)
    if found is None:
        detail = f"{where} is neither ISO 8601 nor a Unix time: {quoted(text) if text else 'it is empty'}"
        raise DecodeError(Code.BAD_TIME, detail, where=where)
    return _built(found, where)


def _is_compact(text: str) -> bool:
    """Whether digits are a date: as seconds or microseconds they would be of 1970."""
    return len(text) in _COMPACT and text.isdecimal() and int(text[:4]) in _COMPACT_YEARS and "01" <= text[4:6] <= "12"


def _built(found: re.Match[str], where: str) -> datetime:
    year, _, month, day, hour, _, minute, second, fraction, zone = found.groups(default="")
    try:
        moment = datetime(int(year), int(month), int(day))
        if int(minute or 0) > 59 or int(second or 0) > 60 or (hour == "24" and minute + second not in ("00", "0000")):
            raise ValueError("no time of day")
        if int(hour or 0) > 24:
            raise ValueError("no hour")
        # 24:00 is the next day's first moment; :60, a leap second, the next minute's.
        moment += timedelta(
            hours=int(hour or 0),
            minutes=int(minute or 0),
            seconds=int(second or 0),
            microseconds=int(fraction[:6].ljust(6, "0")),
        )
        if not zone:
            return moment
        return moment.replace(tzinfo=UTC if zone[0] not in "+-" else datetime.strptime(zone, "%z").tzinfo)
    except (ValueError, OverflowError):
        detail = f"{where} is no time of the calendar: {quoted(found[0])}"
        raise DecodeError(Code.BAD_TIME, detail, where=where) from None


def _of_calendar(moment: datetime, where: str, zone: tzinfo) -> tuple[int, ...]:
    try:
        if moment.tzinfo is not None:
            return (_bounded((moment - _EPOCH) // _MICROSECOND, where),)
        if zone is UTC:
            return (_bounded((moment - _EPOCH_HERE) // _MICROSECOND, where),)
        first, second = (
            (moment.replace(tzinfo=zone, fold=fold).astimezone(UTC) - _EPOCH) // _MICROSECOND for fold in (0, 1)
        )
    except (ValueError, OverflowError):
        raise DecodeError(Code.BAD_TIME, f"{where} is no time of the calendar", where=where) from None
    _bounded(first, where)
    return (first, _bounded(second, where)) if first < second else (first,)


def _bounded(ts_us: int, where: str) -> int:
    if not MIN_TIME_US <= ts_us <= MAX_TIME_US:
        raise DecodeError(Code.BAD_TIME, f"{where} is not between 1900 and 2200", where=where)
    return ts_us
