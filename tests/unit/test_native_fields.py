"""Our own forms: each reads the same fields, and of a message nothing disappears."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import DecodeError
from bridge.model.reading import Code, DecodedReading, Packet, Source
from bridge.mqtt.topics import decode_message, parse_topic
from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_bare, decode_packet, excerpts
from bridge.pipeline.forms import MAX_IGNORED
from bridge.pipeline.ignored import DAY_S, MAX_SENDERS, IgnoredFields
from bridge.telemetry import Metrics

SENSOR = "4be0643f-1d98-573b-97cd-ca98a65347dd"
OTHER = "5f0c1f5e-0000-4000-8000-00000000000b"
DEVICE = "11111111-2222-4333-8444-555555555555"
MAX = 50


def message(topic: str) -> Callable[[bytes], Packet]:
    return lambda body: decode_message(parse_topic(topic), body, max_readings=MAX)


class Form:
    """One form: how a reading is written in it, and where its fields then are."""

    def __init__(self, decode: Callable[[bytes], Packet], names: dict[str, Any], *, is_packet: bool = False) -> None:
        self._decode = decode
        self._names = names
        self._is_packet = is_packet
        self.at = "$.readings[0]" if is_packet else "$"

    def packet(self, **fields: Any) -> Packet:
        return self.decode({**self._names, **fields})

    def decode(self, reading: dict[str, Any]) -> Packet:
        return self._decode(json.dumps({"readings": [reading]} if self._is_packet else reading).encode())

    def reading(self, **fields: Any) -> DecodedReading:
        (reading,) = self.packet(**fields).readings
        return reading

    def refusal(self, **fields: Any) -> tuple[Code, str]:
        """Of a reading that is refused, alone or with its body."""
        try:
            (rejection,) = self.packet(**fields).rejections
        except DecodeError as error:
            return Code(error.reason), error.detail
        return rejection.code, rejection.detail


FORMS = {
    "packet": Form(lambda body: decode_packet(body, max_readings=MAX), {"sensor_uuid": SENSOR}, is_packet=True),
    "bulk": Form(lambda body: decode_api_bulk(body, max_readings=MAX), {"sensor_id": 42}, is_packet=True),
    "api": Form(decode_api_reading, {"sensor_id": 42}),
    "mqtt packet": Form(message(f"devices/{DEVICE}/readings"), {"sensor_uuid": SENSOR}, is_packet=True),
    "one reading": Form(message(f"devices/{DEVICE}/readings"), {"sensor_uuid": SENSOR}),
    "bare": Form(message(f"devices/{DEVICE}/sensors/{SENSOR}"), {}),
    "legacy": Form(message("iot/sensors/42/readings"), {}),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


# -- the same fields in every form


def test_every_form_reads_the_same_fields(form: Form) -> None:
    reading = form.reading(value=21.5, sensor_ts=1769594400.25, sequence=7, msgId="m-1")
    assert (reading.value, reading.ts_us, reading.sequence, reading.key) == (21.5, 1769594400_250000, 7, "m-1")
    assert form.packet(value=21.5, sensor_ts=1769594400.25, sequence=7, msgId="m-1").ignored == ()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"sensor_ts": 3, "ts": 2, "timestamp": 1}, 3),
        ({"ts": 2, "timestamp": 1}, 2),
        ({"timestamp": 1}, 1),
        ({"timestamp": 1, "sensor_ts": 3}, 3),
        ({"sensor_ts": None, "ts": 2}, 2),
        ({"ts": "1970-01-01T00:00:02Z", "sensor_ts": "3"}, 3),
        ({}, None),
    ],
)
def test_of_several_times_the_most_specific_counts(form: Form, times: dict[str, Any], expected: int | None) -> None:
    reading = form.reading(value=1, **times)
    assert reading.ts_us == (None if expected is None else expected * 1_000_000)
    assert form.packet(value=1, **times).ignored == ()


@pytest.mark.parametrize("field", ["sensor_ts", "ts", "timestamp"])
def test_time_that_is_none_is_refused_where_it_counts(form: Form, field: str) -> None:
    assert form.refusal(value=1, **{field: "yesterday"})[0] == Code.BAD_TIME


@pytest.mark.parametrize("field", ["sensor_ts", "ts", "timestamp"])
def test_time_of_a_packet_is_for_readings_without_one(field: str) -> None:
    for decode, names in ((decode_packet, {"sensor_uuid": SENSOR}), (decode_api_bulk, {"sensor_id": 42})):
        readings = [{**names, "value": 1}, {**names, "value": 2, "timestamp": 5}]
        packet = decode(json.dumps({"readings": readings, field: 3}).encode(), max_readings=MAX)
        assert [reading.ts_us for reading in packet.readings] == [3_000_000, 5_000_000]
        assert packet.ignored == ()


def test_time_of_a_packet_goes_with_the_excerpt_of_a_reading() -> None:
    body = b'{"readings":[{"a":1},{"b":2}],"timestamp":3}'
    assert excerpts(body, [1]) == {1: b'{"timestamp":3,"readings":[{"b":2}]}'}


def test_legacy_sequence_is_that_of_the_metadata_where_there_are_two() -> None:
    assert FORMS["legacy"].reading(value=1, sequence=4, metadata={"sequence": 5}).sequence == 5
    assert FORMS["legacy"].reading(value=1, sequence=4, metadata={}).sequence == 4


def test_one_reading_names_its_device_as_a_packet_does() -> None:
    assert FORMS["one reading"].packet(value=1, device_uuid=DEVICE).device_uuid == DEVICE
    for kind in ("one reading", "mqtt packet"):
        body = {"sensor_uuid": SENSOR, "value": 1}
        named = {"device_uuid": OTHER, **(body if kind == "one reading" else {"readings": [body]})}
        with pytest.raises(DecodeError, match="not the one in the topic"):
            message(f"devices/{DEVICE}/readings")(json.dumps(named).encode())


# -- what nobody knows is said


def test_unknown_field_is_said_and_the_reading_taken(form: Form) -> None:
    packet = form.packet(value=21.5, colour="red", rssi={"dbm": -70}, sensor_ts=3)
    assert [(reading.value, reading.ts_us) for reading in packet.readings] == [(21.5, 3_000_000)]
    assert packet.ignored == (f"{form.at}.colour", f"{form.at}.rssi")


def test_unknown_field_is_said_beside_a_value_that_needs_a_second_look(form: Form) -> None:
    assert form.packet(value=True, colour=1).ignored == (f"{form.at}.colour",)
    assert form.packet(value=None, colour=1) == Packet((), ignored=(f"{form.at}.colour",))


def test_unknown_fields_of_envelope_and_metadata_are_said() -> None:
    body = b'{"gateway":"g","readings":[{"sensor_uuid":"%s","value":1}]}' % SENSOR.encode()
    assert decode_packet(body, max_readings=MAX).ignored == ("$.gateway",)
    assert FORMS["legacy"].packet(value=1, metadata={"rssi": 1, "sequence": 2}).ignored == ("$.metadata.rssi",)
    assert FORMS["legacy"].packet(value=1, v=1, type="reading", metadata=None).ignored == ()


def test_unknown_fields_are_said_beside_a_reading_that_is_refused() -> None:
    good, bad = ({"sensor_uuid": SENSOR, "value": value, "colour": 1} for value in (1, "x"))
    packet = decode_packet(json.dumps({"x": 1, "readings": [bad, good]}).encode(), max_readings=MAX)
    assert packet.ignored == ("$.x", "$.readings[1].colour")
    assert [rejection.index for rejection in packet.rejections] == [0]


@pytest.mark.parametrize("more", [{}, {"value": "x"}])
def test_places_of_unknown_fields_are_bounded(more: dict[str, Any]) -> None:
    readings = [{"sensor_uuid": SENSOR, "value": 1, "x" * 200: 1} for _ in range(MAX - 1)]
    body = json.dumps({"readings": [*readings, {"sensor_uuid": SENSOR, "value": 1, **more}]}).encode()
    ignored = decode_packet(body, max_readings=MAX).ignored
    assert len(ignored) == MAX_IGNORED + 1
    assert ignored[-1] == "…"
    assert max(map(len, ignored)) < 100


def test_place_shows_only_visible_characters() -> None:
    assert FORMS["api"].packet(value=1, **{"a b\x1b[2J": 1}).ignored == ('$["a b\\u001b[2J"]',)


def test_sensor_uuid_beside_the_topics_is_known_where_it_is_the_same() -> None:
    same = b'{"value":1,"sensor_uuid":"%s"}' % SENSOR.upper().encode()
    assert decode_bare(same, SENSOR) == Packet((DecodedReading(0, SENSOR, 1.0),))
    other = b'{"value":1,"sensor_uuid":"%s"}' % OTHER.encode()
    assert decode_bare(other, SENSOR) == Packet((DecodedReading(0, SENSOR, 1.0),), ignored=("$.sensor_uuid",))


def test_value_that_another_one_hides_is_said() -> None:
    twice = b'{"sensor_uuid":"%s","value":1,"value":2,"ts":3,"ts":4}' % SENSOR.encode()
    one, packets = message(f"devices/{DEVICE}/readings"), b'{"x":1,"readings":[%s,%s]}'
    assert one(twice) == Packet((DecodedReading(0, SENSOR, 2.0, 4_000_000),), ignored=("$.value", "$.ts"))
    good = b'{"sensor_uuid":"%s","value":1}' % SENSOR.encode()
    assert decode_packet(packets % (good, twice), max_readings=MAX).ignored == (
        "$.x",
        "$.readings[1].value",
        "$.readings[1].ts",
    )
    bad = b'{"sensor_uuid":"%s","value":"x"}' % SENSOR.encode()
    assert decode_packet(packets % (bad, twice), max_readings=MAX).ignored[1:] == (
        "$.readings[1].value",
        "$.readings[1].ts",
    )
    assert decode_bare(b'{"value":1,"value":2}', SENSOR).ignored == ("$.value",)


def test_text_that_is_called_value_hides_nothing() -> None:
    packet = FORMS["api"].packet(value=1, msgId="value")
    assert (packet.readings[0].key, packet.ignored) == ("value", ())
    deep = b'{"value":1,"x":["value",' + b"[" * 500 + b"]" * 500 + b"]}"
    assert decode_bare(deep, SENSOR).ignored == ("$.x",)


KNOWN = ("value", "sensor_ts", "ts", "timestamp", "sequence", "msgId")
names = st.sampled_from([*KNOWN, "sensor_uuid", "sensor_id", "colour", "Value", "seq", "value "])
values = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.sampled_from(["1", "x", "1 V", [], {}])
NAMING = {
    "packet": {"sensor_uuid"},
    "bulk": {"sensor_id"},
    "api": {"sensor_id"},
    "mqtt packet": {"sensor_uuid"},
    "one reading": {"sensor_uuid", "device_uuid"},
    "bare": set(),
    "legacy": {"sensor_id", "sensorId", "metadata", "v", "type"},
}


@given(st.sampled_from(list(FORMS)), st.dictionaries(names, values))
def test_every_field_is_taken_known_or_said(kind: str, reading: dict[str, Any]) -> None:
    """Whatever the fields: the reading is refused as a whole, or each of them is read or said."""
    form = FORMS[kind]
    try:
        packet = form.decode(reading)
    except DecodeError:
        return
    said = {path.removeprefix(form.at).removeprefix(".") for path in packet.ignored}
    unknown = {'["value "]' if name == "value " else name for name in reading.keys() - {*KNOWN, *NAMING[kind]}}
    if packet.rejections:
        assert (len(packet.rejections), packet.readings) == (1, ())
    else:
        assert said == unknown
        assert len(packet.readings) == (reading["value"] is not None)


# -- what is a number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (False, 0.0),
        ("21.5", 21.5),
        (" 21.50", 21.5),  # dtostrf pads to its width: avr-libc, stdlib.h
        ("21.5\r\n", 21.5),  # println of Arduino's Print
        ("+21.5", 21.5),  # printf("%+f"): C17, 7.21.6.1
        ("021.5", 21.5),  # printf("%05.1f")
        (".5", 0.5),  # String(x, 1) of some BASICs leaves the zero out
        ("5.", 5.0),  # printf("%#.0f")
        ("1E3", 1000.0),
        ("-0.0", 0.0),  # toFixed of a small negative number: ECMA-262, 21.1.3.3
        (-0.0, 0.0),
        (9007199254740993, 9007199254740992.0),  # a float of 64 bits holds 53 of an integer
        (int("9" * 30), 1e30),
        (1e-400, 0.0),
    ],
)
def test_value_that_is_a_number(form: Form, value: object, expected: float) -> None:
    assert form.reading(value=value).value == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("21,5", "the comma at character 3"),
        ("3008.0.1", "the point at character 7"),
        (" 21 5", "the blank at character 4"),
        ("21\x005", "the NUL at character 3"),
        ("21.5\x00", "the NUL at character 5"),
        ("21.5°C", 'the unit "°C" behind it'),
        ("1013 hPa", 'the unit "hPa" behind it'),
        ("55 %", 'the unit "%" behind it'),
        ("٢١", "U+0662 ARABIC-INDIC DIGIT TWO at character 1"),
        ("２１", "U+FF12 FULLWIDTH DIGIT TWO at character 1"),
        ("−3.5", "U+2212 MINUS SIGN at character 1"),
        ("1\xa0013", "U+00A0 NO-BREAK SPACE at character 2"),
        ("\ufeff21", "the byte order mark at character 1"),
        ("1_000", 'the character "_" at character 2'),
        ("21.5;3", 'the character ";" at character 5'),
        ("0x1F", "it is hexadecimal"),
        ("-Infinity", "finite"),
        ("NaN", "finite"),
        ("", "it is empty"),
        ("-", "it has no digits"),
        ("on", 'the character "o" at character 1'),
        ("true", 'the character "t" at character 1'),
        ("1e400", "beyond a float of 64 bits"),
        ("9" * 600, "more than 512 characters"),
        ([21.5], "is a list"),
        ({"value": 21.5}, "is an object"),
    ],
)
def test_value_that_is_no_number_says_what_is_at_fault(form: Form, value: object, why: str) -> None:
    code, detail = form.refusal(value=value)
    assert code == Code.BAD_VALUE
    assert "$.value" in detail
    assert why in detail
    assert len(detail) < 200


@pytest.mark.parametrize("literal", ["1e400", "-1e400", "9" * 400])
def test_number_beyond_a_float_is_refused(literal: str) -> None:
    for body, decode in (
        (b'{"sensor_id":1,"value":%s}', decode_api_reading),
        (b'{"value":%s}', lambda body: decode_bare(body, SENSOR)),
        (b"%s", lambda body: decode_bare(body, SENSOR)),
    ):
        with pytest.raises(DecodeError, match="beyond a float") as caught:
            decode(body % literal.encode())
        assert caught.value.reason == Code.BAD_VALUE


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        (5, 5),
        (5.0, 5),
        ("3008", 3008),
        ("5.0", 5),
        (" 7", 7),
        ("+7", 7),
        (-1, -1),
        (None, None),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_sequence_that_is_a_whole_number(form: Form, sequence: object, expected: int | None) -> None:
    assert form.reading(value=1, sequence=sequence).sequence == expected


@pytest.mark.parametrize(
    ("sequence", "why"),
    [
        ("3008.0.1", "the point at character 7"),
        ("3,008", "the comma at character 2"),
        (5.5, "fraction"),
        (1e30, "fraction, or more digits"),
        (True, "a boolean"),
        ([1], "a list"),
        ("", "it is empty"),
        (2**63, "64-bit"),
        ("9" * 30, "64-bit"),
    ],
)
def test_sequence_that_is_none_says_what_is_at_fault(form: Form, sequence: object, why: str) -> None:
    code, detail = form.refusal(value=1, sequence=sequence)
    assert (code, "sequence" in detail) == (Code.BAD_FORM, True)
    assert why in detail


def test_null_was_not_measured(form: Form) -> None:
    assert form.packet(value=None, ts="2026-11-26T06:32:07Z") == Packet(())


def test_nulls_of_a_packet_leave_the_places_of_the_others() -> None:
    readings = [{"sensor_uuid": SENSOR, "value": value} for value in (None, 1, None, "x", 2)]
    packet = decode_packet(json.dumps({"readings": readings}).encode(), max_readings=MAX)
    assert [(reading.index, reading.value) for reading in packet.readings] == [(1, 1.0), (4, 2.0)]
    assert [rejection.index for rejection in packet.rejections] == [3]


def test_value_that_is_missing_is_refused(form: Form) -> None:
    code, detail = form.refusal(ts=1)
    assert (code, "`value`" in detail) == (Code.BAD_FORM, True)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"21.5", 21.5),
        (b'"21.5"', 21.5),
        (b" 21.50", 21.5),
        (b"+21.5", 21.5),
        (b"021.5", 21.5),
        (b".5", 0.5),
        (b"5.", 5.0),
        (b"true", 1.0),
        (b"false", 0.0),
        (b"null", None),
        (b"21.5\0", 21.5),
        (b"21.5\0\0", 21.5),
        (b"21.5\r\n\0", 21.5),
        (b"21.5\0\n", 21.5),
        (b"\xef\xbb\xbf21.5", 21.5),
        (b"\xef\xbb\xbf21.5\0", 21.5),
    ],
)
def test_bare_payload(payload: bytes, expected: float | None) -> None:
    assert [reading.value for reading in decode_bare(payload, SENSOR).readings] == (
        [] if expected is None else [expected]
    )


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"21,5", "the comma at character 3"),
        (b" 21 5", "the blank at character 3"),
        (b"21\x005", "the NUL at character 3"),
        ("21.5°C".encode(), 'the unit "°C" behind it'),
        (b"21.5 C", 'the unit "C" behind it'),
        ("٢١".encode(), "ARABIC-INDIC DIGIT TWO"),
        (b"0x1F", "hexadecimal"),
        (b"NaN", "finite"),
        (b"warm", 'the character "w" at character 1'),
        (b"T=21.5", 'the character "T" at character 1'),
        ("21".encode("utf-16"), "UTF-16"),
        (b'{"value":21,5}', "comma"),
        (b'{"value":1\0}', "the NUL"),
        (b"{'value':1}", 'the character "\'"'),
        (b'{"value":"21,5"}', "the comma at character 3"),
    ],
)
def test_bare_payload_that_is_refused_says_what_is_at_fault(payload: bytes, why: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_bare(payload, SENSOR)
    assert why in caught.value.detail


# -- how it is told


def test_ignored_fields_are_counted_and_named_once_a_day(mqtt_log: Any) -> None:
    metrics = Metrics()
    ignored = IgnoredFields(Source.MQTT, metrics)
    for now_s in (0.0, 1.0, DAY_S - 1, DAY_S):
        ignored.note(DEVICE, f"devices/{DEVICE}/readings", ("$.colour",), now_s)
    assert metrics.registry.get_sample_value("iot_bridge_ignored_fields_total", {"source": "mqtt"}) == 4
    lines = [entry for entry in mqtt_log.entries if entry["event"] == "fields_ignored"]
    assert [(line["sender"], line["fields"]) for line in lines] == [(DEVICE, ["$.colour"])] * 2


def test_log_of_ignored_fields_is_bounded(mqtt_log: Any) -> None:
    ignored = IgnoredFields(Source.HTTP, Metrics())
    for number in range(MAX_SENDERS + 10):
        ignored.note(f"api:{number}", "/ingest/readings", ("$.colour",), 5.0)
    assert sum(entry["event"] == "fields_ignored" for entry in mqtt_log.entries) == MAX_SENDERS
