"""Times as devices write them: what is taken, as which instant, and what is refused; the same on each Python."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import DecodeError
from bridge.model.reading import MAX_TIME_US, MIN_TIME_US, Code
from bridge.pipeline.decode import decode_bare, decode_packet
from bridge.pipeline.timestamps import TimeUnit, candidates, parse_time

NOW_US = 1_795_714_526_000_000  # 2026-11-26T17:35:26Z
NEW_YORK = ZoneInfo("America/New_York")
SENSOR = "03842dcf-89d7-4862-b026-dd7d12101ec3"
IN_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
units = st.sampled_from(["s", "ms", "us", "ns"])
recent = st.integers(1_000_000_000_000_000, MAX_TIME_US)  # from 2001: of no other unit
moments = st.integers(MIN_TIME_US, MAX_TIME_US)


def written(ts_us: int, unit: str) -> int:
    """A time as a whole number of a unit."""
    return ts_us * IN_A_SECOND[unit] // 1_000_000


def tried(value: float | str, zone: tzinfo = UTC, unit: TimeUnit = "") -> tuple[int, ...]:
    """The instants of a time; none where it is refused, and refused it may only be so."""
    try:
        return candidates(value, "$.ts", zone, unit)
    except DecodeError as error:
        if error.reason != Code.BAD_TIME or "$.ts" not in error.detail:
            raise
        return ()


@given(recent, units)
def test_number_is_of_the_unit_that_its_size_says(ts_us: int, unit: str) -> None:
    number = written(ts_us, unit)
    expected = number * 1_000_000 // IN_A_SECOND[unit]
    assert parse_time(number, "$") == expected
    assert parse_time(str(number), "$") == expected
    assert parse_time(f"+{number}", "$") == expected


@given(recent, units)
def test_number_as_float_is_the_same_within_a_microsecond(ts_us: int, unit: str) -> None:
    number = written(ts_us, unit)
    found = parse_time(float(number), "$")
    assert found is not None
    assert abs(found - number * 1_000_000 // IN_A_SECOND[unit]) <= 1


@given(moments, units)
def test_unit_that_is_given_is_believed(ts_us: int, unit: TimeUnit) -> None:
    number = written(ts_us, unit)
    assert parse_time(number, "$", unit=unit) == number * 1_000_000 // IN_A_SECOND[unit]
    assert parse_time(str(number), "$", unit=unit) == number * 1_000_000 // IN_A_SECOND[unit]


@given(st.integers(-(10**30), 10**30) | st.floats(), st.sampled_from(["", "s", "ms", "us", "ns"]))
def test_any_number_is_a_time_within_the_bounds_or_refused(number: float, unit: TimeUnit) -> None:
    found = tried(number, unit=unit)
    assert len(found) <= 1
    assert all(MIN_TIME_US <= instant <= MAX_TIME_US for instant in found)


@given(st.text(max_size=80) | st.from_regex(r"[0-9]{4}[-/]?[0-9]{2}.[0-9]{2}[T ]?[0-9:.,+\-Z ]*", fullmatch=True))
def test_any_text_is_a_time_within_the_bounds_or_refused(text: str) -> None:
    for zone in (UTC, NEW_YORK):
        found = tried(text, zone)
        assert len(found) <= 2
        assert list(found) == sorted(set(found))
        assert all(MIN_TIME_US <= instant <= MAX_TIME_US for instant in found)
        assert text.isascii() or not found


offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(1901, 1, 2), datetime(2199, 12, 30)), offsets, st.sampled_from("T t_"))
def test_every_way_to_write_a_moment_is_the_same_instant(moment: datetime, zone: timezone, separator: str) -> None:
    separator = " " if separator == "_" else separator
    aware = moment.replace(tzinfo=zone)
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    iso = aware.isoformat(sep=separator, timespec="microseconds")
    basic = moment.strftime("%Y%m%dT%H%M%S.%f") + aware.strftime("%z")
    with_comma = iso.replace(".", ",")
    nanoseconds = re.sub(r"(\.\d{6})", r"\g<1>999", iso)
    universal = aware.astimezone(UTC).isoformat(sep=separator, timespec="microseconds")
    for text in (iso, basic, with_comma, nanoseconds, f" {iso}\n", iso.replace("+", " +") if "+" in iso else iso):
        assert parse_time(text, "$") == expected, text
    for end in ("Z", "z", " UTC", " GMT"):
        assert parse_time(universal.replace("+00:00", end), "$") == expected
    slashes = iso[:10].replace("-", "/") + iso[10:]
    assert parse_time(slashes, "$") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-26T17:35:26Z", NOW_US),
        ("20261126173526", NOW_US),
        ("1711011200000", 1_711_011_200_000_000),  # not the year 1711
        ("2026-11-25T24:00:00Z", 1_795_651_200_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2026", 2_026_000_000),  # digits are a number: 1970, which is too old to be stored
        (" 12.5 ", 12_500_000),
        ("1.5e3", 1_500_000_000),
        ("-1.5", -1_500_000),
    ],
)
def test_text_is_this_time(text: str, expected: int) -> None:
    assert parse_time(text, "$") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "nan", "inf", "-inf", "Infinity", "1_000", "0x10", "1e400", "1e", "--1", "1 2", "5 s", "12,5"),
        *("١٢٣", "٢٠٢٦-١١-٢٦T17:35:26Z", "２０２６-11-26T17:35:26Z", "1795714526\N{SUPERSCRIPT TWO}"),
        *("2026-11", "26.11.2026", "11/26/2026", "2026-11-26X10:00", "17:35:26", "2026-13-01", "2026-02-30T00:00:00"),
        *("2026-11-26T25:00:00", "2026-11-26T24:00:01", "2026-11-26T10:60:00", "2026-11-26T10:00:61", "2026-330"),
        *("2026-11-26T10:00:00+25:00", "2026-11-26T10:00:00 EST", "Thu, 26 Nov 2026 17:35:26 GMT", "now", "null"),
        *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "1899-12-31T23:59:59Z", "2200-01-01T00:00:01Z"),
        "2026-11-26T17:35:26." + "0" * 100 + "Z",
    ],
)
def test_text_that_is_no_time(text: str) -> None:
    with pytest.raises(DecodeError) as error:
        parse_time(text, "$.ts")
    assert error.value.reason == Code.BAD_TIME


def test_bounds_are_times_and_what_is_beyond_is_none() -> None:
    last_s = MAX_TIME_US // 1_000_000
    assert parse_time(last_s, "$") == MAX_TIME_US
    assert parse_time(last_s + 1, "$") == (last_s + 1) * 1_000  # as milliseconds
    assert parse_time(MIN_TIME_US // 1_000_000, "$") == MIN_TIME_US
    for number in (MIN_TIME_US // 1_000_000 - 1, last_s * 1_000_000_000 + 1, 10**400, float("nan")):
        with pytest.raises(DecodeError):
            parse_time(number, "$")


def test_nanoseconds_keep_their_microsecond_on_both_doors() -> None:
    """As a float they would be off by up to 128 ns, which may be another microsecond."""
    ns = 1_795_714_526_123_456_999
    assert int(float(ns)) // 1_000 != ns // 1_000
    (bare,) = decode_bare(b'{"value": 1, "ts": %d}' % ns, SENSOR).readings
    body = b'{"ts": %d, "readings": [{"sensor_uuid": "%s", "value": 1}]}' % (ns, SENSOR.encode())
    (packed,) = decode_packet(body, max_readings=1).readings
    assert bare.ts_us == packed.ts_us == ns // 1_000


# -- local time


ZONES = (
    "America/New_York",
    "America/St_Johns",
    "Europe/Berlin",
    "Europe/Dublin",  # whose winter is the exception
    "Australia/Lord_Howe",  # half an hour
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Pacific/Apia",  # a day left out in 2011
)


@given(st.sampled_from(ZONES), st.integers(0, 4_102_444_800))
def test_every_instant_is_a_candidate_of_its_local_time(name: str, unix_s: int) -> None:
    zone = ZoneInfo(name)
    local = datetime.fromtimestamp(unix_s, zone).replace(tzinfo=None)
    found = candidates(local.isoformat(), "$", zone)
    assert unix_s * 1_000_000 in found
    for instant in found:
        assert datetime.fromtimestamp(instant // 1_000_000, zone).replace(tzinfo=None) == local


@pytest.mark.parametrize(
    ("name", "local", "utc"),
    [
        ("America/New_York", "2026-11-01T01:30:00", ["05:30", "06:30"]),
        ("America/New_York", "20261101013000", ["05:30", "06:30"]),
        ("America/New_York", "2026-11-01 01:59:59.9", ["05:59", "06:59"]),
        ("America/New_York", "2026-11-01T02:00:00", ["07:00"]),
        ("Europe/Berlin", "2026-10-25T02:00:00", ["00:00", "01:00"]),
        ("Australia/Lord_Howe", "2026-04-05T01:45:00", ["14:45", "15:15"]),
        ("Asia/Kathmandu", "2026-11-01T01:30:00", ["19:45"]),
        ("America/New_York", "2026-03-08T02:30:00", ["07:30"]),  # left out
        ("Europe/Berlin", "2026-03-29T02:30:00", ["01:30"]),
        ("America/New_York", "2026-11-01T01:30:00-05:00", ["06:30"]),
        ("America/New_York", "1793511000", ["05:30"]),
    ],
)
def test_local_time_has_these_instants(name: str, local: str, utc: list[str]) -> None:
    found = candidates(local, "$", ZoneInfo(name))
    assert [datetime.fromtimestamp(instant // 1_000_000, UTC).strftime("%H:%M") for instant in found] == utc
