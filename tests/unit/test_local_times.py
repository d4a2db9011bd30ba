"""The hour that a clock shows twice: which instant is meant, with a memory, without one, and for the same bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model.reading import ExternalId
from bridge.mqtt.converters.local_times import AHEAD_US, RECENT, LocalClock, LocalTimes, choose
from bridge.mqtt.converters.select import Converters
from bridge.pipeline.timestamps import candidates
from bridge.settings.mqtt import ConverterSettings, MqttSettings

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
FIRST = 1_793_511_000_000_000  # 2026-11-01T05:30Z: 01:30 in New York, and an hour later again
SECOND = FIRST + HOUR_US
NIGHTS = {  # the first instant of the repeated time, and how long it lasts, in minutes
    "America/New_York": ("2026-11-01T05:00:00+00:00", 60),
    "Europe/Berlin": ("2026-10-25T00:00:00+00:00", 60),
    "Australia/Lord_Howe": ("2026-04-04T14:30:00+00:00", 30),
    "Africa/Casablanca": ("2026-02-15T01:00:00+00:00", 60),
}


@pytest.mark.parametrize(
    ("received_us", "last_us", "chosen"),
    [
        # without a memory: the latest that is not after arrival
        (FIRST, None, FIRST),
        (FIRST - AHEAD_US, None, FIRST),
        (FIRST - HOUR_US, None, FIRST),  # both ahead: the earlier is less so
        (0, FIRST - MINUTE_US, FIRST),  # both far ahead: our own clock is not set, and order decides
        (0, FIRST, SECOND),
        (0, FIRST + MINUTE_US, SECOND),
        (0, SECOND + MINUTE_US, SECOND),
        (SECOND - AHEAD_US - 1, None, FIRST),
        (SECOND - AHEAD_US, None, SECOND),  # a clock may be some minutes ahead
        (SECOND + 100 * HOUR_US, None, SECOND),
        # with one: the earliest that is not before it
        (SECOND, FIRST - MINUTE_US, FIRST),
        (SECOND, FIRST + MINUTE_US, SECOND),
        (SECOND, FIRST - 100 * HOUR_US, FIRST),
        (FIRST + 2 * MINUTE_US, FIRST + MINUTE_US, FIRST),  # out of order, and the second would be ahead of time
        (SECOND + MINUTE_US, SECOND + MINUTE_US, SECOND),  # out of order in the second hour
        # the same local time again, with other bytes
        (SECOND, FIRST, SECOND),
        (FIRST + MINUTE_US, FIRST, FIRST),
        (SECOND + MINUTE_US, SECOND, SECOND),
    ],
)
def test_choice(received_us: int, last_us: int | None, chosen: int) -> None:
    assert choose((FIRST, SECOND), received_us, last_us) == chosen


@given(st.integers(-(10**15), 10**15), st.none() | st.integers(-(10**15), 10**15))
def test_of_one_candidate_there_is_no_choice(received_us: int, last_us: int | None) -> None:
    assert choose((FIRST,), received_us, last_us) == FIRST


@given(
    st.integers(FIRST - 3 * HOUR_US, SECOND + 3 * HOUR_US), st.none() | st.integers(FIRST - HOUR_US, SECOND + HOUR_US)
)
def test_choice_is_a_candidate_and_never_ahead_where_one_is_not(received_us: int, last_us: int | None) -> None:
    chosen = choose((FIRST, SECOND), received_us, last_us)
    assert chosen in (FIRST, SECOND)
    assert chosen <= received_us + AHEAD_US or received_us + AHEAD_US < FIRST


class Station:
    """A device that writes local time, and the converters that hear it."""

    def __init__(self, zone: str, **options: object) -> None:
        self.zone = ZoneInfo(zone)
        settings = ConverterSettings.model_validate(
            {"filter": "tele/+/SENSOR", "format": "tasmota", "zone": zone, **options}
        )
        self.converters = Converters(MqttSettings(converters=(settings,)))

    def payload(self, at_us: int, value: float, timespec: str = "seconds") -> bytes:
        local = datetime.fromtimestamp(at_us / 1_000_000, self.zone).replace(tzinfo=None)
        return json.dumps({"Time": local.isoformat(timespec=timespec), "T": value}).encode()

    def hear(self, payload: bytes, received_us: int, device: str = "a", *, retained: bool = False) -> int:
        packet = self.converters.convert(
            f"tele/{device}/SENSOR", payload, received_us=received_us, retained=retained
        ).packet
        (decoded,) = packet.readings
        assert decoded.ts_us is not None
        return decoded.ts_us


nights = st.sampled_from(sorted(NIGHTS))


def night(zone: str) -> tuple[int, int]:
    """When the repeated time begins, in microseconds, and its length in minutes."""
    start, minutes = NIGHTS[zone]
    return int(datetime.fromisoformat(start).timestamp()) * 1_000_000, minutes


@pytest.mark.parametrize("zone", NIGHTS)
def test_nights_are_nights(zone: str) -> None:
    start, minutes = night(zone)
    local = datetime.fromtimestamp(start // 1_000_000, ZoneInfo(zone)).replace(tzinfo=None)
    assert candidates(local.isoformat(), "$", ZoneInfo(zone)) == (start, start + minutes * MINUTE_US)


@given(
    nights,
    st.lists(st.integers(-120, 240), min_size=1, max_size=20, unique=True).map(sorted),
    st.integers(0, 240),
)
def test_live_messages_in_order_have_their_true_times(zone: str, minutes: list[int], late_s: int) -> None:
    """Whatever minutes of the night a device reports in, as long as they come within minutes."""
    station = Station(zone)
    start, length = night(zone)
    last = None
    for value, minute in enumerate(minutes):
        true_us = start + minute * MINUTE_US
        found = station.hear(station.payload(true_us, value), true_us + late_s * 1_000_000)
        if length <= minute < 2 * length and (last is None or last < start + (minute - length) * MINUTE_US):
            # Nothing was heard since before the first time: which of the two it is cannot be known.
            assert found in (true_us, true_us - length * MINUTE_US)
        else:
            assert found == true_us
        last = found


@given(nights, st.integers(1, 5), st.integers(0, 10_000))
def test_backlog_in_order_has_its_true_times(zone: str, step: int, delay_minutes: int) -> None:
    """All of a night, received at once and however much later, after a message from before."""
    station = Station(zone)
    start, length = night(zone)
    received_us = start + (3 * length + delay_minutes) * MINUTE_US
    for value, minute in enumerate(range(-step, 3 * length, step)):
        true_us = start + minute * MINUTE_US
        assert station.hear(station.payload(true_us, value), received_us) == true_us


@given(
    nights,
    st.lists(st.tuples(st.integers(0, 119), st.integers(1, 30)), min_size=1, max_size=RECENT),
    st.integers(0, 600),
    st.data(),
)
def test_the_same_bytes_keep_their_instant(
    zone: str, sent: list[tuple[int, int]], wait_minutes: int, data: st.DataObject
) -> None:
    """A resend, a redelivery or a retained repetition: in any order, and whenever it comes."""
    station = Station(zone)
    start, _ = night(zone)
    received_us = start
    first: dict[bytes, int] = {}
    for value, (minute, pause) in enumerate(sent):
        received_us += pause * MINUTE_US
        payload = station.payload(start + minute * MINUTE_US, value)
        first[payload] = station.hear(payload, received_us)
    for payload in data.draw(st.lists(st.sampled_from(sorted(first)), max_size=20)):
        again = station.hear(payload, received_us + wait_minutes * MINUTE_US, retained=data.draw(st.booleans()))
        assert again == first[payload]


def test_resent_bytes_do_not_move_the_clock() -> None:
    """What comes after a resend is judged as if that had not been."""
    station = Station("America/New_York")
    one, two = station.payload(FIRST, 1), station.payload(FIRST + MINUTE_US, 2)
    assert station.hear(one, FIRST) == FIRST
    assert station.hear(two, FIRST + MINUTE_US) == FIRST + MINUTE_US
    assert station.hear(one, SECOND) == FIRST
    assert station.hear(two, SECOND) == FIRST + MINUTE_US
    assert station.hear(station.payload(SECOND, 3), SECOND) == SECOND


def test_two_values_in_one_second_of_the_first_hour_are_of_that_second() -> None:
    station = Station("America/New_York")
    assert station.hear(station.payload(FIRST, 1), FIRST) == FIRST
    assert station.hear(station.payload(FIRST, 2), FIRST + 1_000_000) == FIRST
    assert station.hear(station.payload(SECOND, 2), SECOND + 1_000_000) == FIRST  # the same bytes: nobody can tell


def test_a_clock_far_ahead_says_nothing_of_what_comes_after() -> None:
    station = Station("America/New_York")
    station.hear(station.payload(SECOND + 10_000 * HOUR_US, 1), FIRST)
    assert station.hear(station.payload(FIRST, 2), SECOND + HOUR_US) == SECOND  # as without a memory


def test_a_clock_that_begins_in_1970_is_not_the_last_instant() -> None:
    """A device that starts anew in the second hour, before it has asked for the time."""
    station = Station("America/New_York")
    station.hear(station.payload(SECOND - MINUTE_US, 1), SECOND - MINUTE_US)
    packet = station.converters.convert(
        "tele/a/SENSOR", b'{"Time": "1970-01-01T00:00:10", "T": 2}', received_us=SECOND
    ).packet
    assert packet.readings[0].ts_us is None  # it came when it came
    assert station.hear(station.payload(SECOND + MINUTE_US, 3), SECOND + MINUTE_US) == SECOND + MINUTE_US


def test_order_decides_while_our_own_clock_is_not_set() -> None:
    """A gateway without a battery clock hears the night before it knows the time."""
    station = Station("America/New_York")
    for value, true_us in enumerate((FIRST - MINUTE_US, FIRST, FIRST + MINUTE_US, SECOND - MINUTE_US, SECOND)):
        assert station.hear(station.payload(true_us, value), 60_000_000) == true_us


def test_each_topic_has_a_clock_of_its_own() -> None:
    station = Station("America/New_York")
    assert station.hear(station.payload(FIRST, 1), FIRST, "a") == FIRST
    assert station.hear(station.payload(FIRST, 2), SECOND, "b") == SECOND  # nothing is known of b
    assert station.hear(station.payload(FIRST, 2), SECOND, "a") == SECOND


def test_without_a_memory_after_a_start() -> None:
    payload = Station("America/New_York").payload(FIRST, 1)
    assert Station("America/New_York").hear(payload, FIRST) == FIRST
    assert Station("America/New_York").hear(payload, SECOND) == SECOND


def test_clock_of_receipt_asks_nothing_of_local_time() -> None:
    station = Station("America/New_York", clock="receipt")
    (decoded,) = station.converters.convert(
        "tele/a/SENSOR", station.payload(FIRST, 1), received_us=SECOND
    ).packet.readings
    assert decoded.ts_us is None


def test_channels_of_one_message_have_clocks_of_their_own() -> None:
    """A history of two devices in one message, in order for each."""
    converters = Converters(
        MqttSettings(
            converters=(
                ConverterSettings(
                    filter="hub/+",
                    format="mapping",
                    zone="America/New_York",
                    each="payload",
                    device="item.d",
                    sensor="'t'",
                    value="item.v",
                    time="item.at",
                ),
            )
        )
    )
    rows = [
        ("a", "00:50"),
        ("a", "01:40"),
        ("b", "00:45"),
        ("a", "01:10"),
        ("b", "01:10"),
        ("b", "01:05"),
        ("a", "02:00"),
    ]
    payload = json.dumps([{"d": d, "at": f"2026-11-01 {at}:00", "v": n} for n, (d, at) in enumerate(rows)]).encode()
    expected = ["04:50", "05:40", "04:45", "06:10", "05:10", "06:05", "07:00"]
    for received_us in (SECOND + 4 * HOUR_US, SECOND + 400 * HOUR_US):  # and the same bytes later
        packet = converters.convert("hub/x", payload, received_us=received_us).packet
        found = [datetime.fromtimestamp((decoded.ts_us or 0) // 1_000_000, UTC) for decoded in packet.readings]
        assert [at.strftime("%H:%M") for at in found] == expected
    assert packet.readings[0].sensor == ExternalId("mapping/a#t")


# -- bounds


def test_channels_are_forgotten_before_they_fill_the_memory() -> None:
    memory = LocalTimes(remembered=10)
    for number in range(1_000):
        LocalClock(memory, f"{number}" * 1_000, b"x", SECOND).instant("y" * 1_000, (FIRST, SECOND))
    assert len(memory) == 10
    assert all(len(key) == 16 for key in memory._channels)


def test_channel_that_speaks_is_not_the_one_forgotten() -> None:
    memory = LocalTimes(remembered=2)
    for topic in ("a", "b", "a", "c"):
        LocalClock(memory, topic, topic.encode(), FIRST).instant("", (FIRST,))
    assert LocalClock(memory, "a", b"other", SECOND).instant("", (FIRST, SECOND)) == SECOND
    assert memory.channel("a", "").last_us == SECOND
    assert memory.channel("b", "").last_us is None  # forgotten


def test_of_one_channel_a_few_messages_are_known_again() -> None:
    memory = LocalTimes()
    for number in range(100):
        LocalClock(memory, "a", b"%d" % number, SECOND).instant("", (FIRST, SECOND))
    assert len(memory.channel("a", "").recent) == RECENT


def test_zone_without_repetition_remembers_nothing() -> None:
    station = Station("UTC")
    station.hear(station.payload(FIRST, 1), FIRST)
    assert len(station.converters._local_times) == 0
