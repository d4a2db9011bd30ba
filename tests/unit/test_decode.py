"""Decoders: any bytes give a packet or a DecodeError, and one bad reading is refused alone."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import DecodeError
from bridge.model.reading import Code, DecodedReading, Packet
from bridge.pipeline.decode import (
    decode_api_bulk,
    decode_api_reading,
    decode_bare,
    decode_legacy,
    decode_mqtt_packet,
    decode_packet,
    excerpts,
    parse_time,
)

SENSOR = "4be0643f-1d98-573b-97cd-ca98a65347dd"
DEVICE = "11111111-2222-4333-8444-555555555555"

DECODERS: list[Callable[[bytes], Packet]] = [
    lambda b: decode_packet(b, max_readings=10),
    decode_api_reading,
    lambda b: decode_api_bulk(b, max_readings=10),
    lambda b: decode_mqtt_packet(b, max_readings=10),
    lambda b: decode_bare(b, SENSOR),
    lambda b: decode_legacy(b, 42),
    lambda b: decode_legacy(b, None),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=15,  # larger ones are refused by hypothesis, now and then
)
field_names = st.sampled_from(
    ["readings", "ts", "device_uuid", "sensor_uuid", "sensor_id", "sensorId", "value", "sequence", "metadata", "msgId"]
)
near_misses = st.dictionaries(
    field_names, json_values | st.lists(st.dictionaries(field_names, json_values), max_size=5), min_size=1
).map(lambda value: json.dumps(value).encode())


def test_mqtt_packet_or_one_reading_of_it() -> None:
    one = b'{"sensor_uuid":"%s","value":1,"ts":"2026-01-28T10:00:00Z"}' % SENSOR.encode()
    assert decode_mqtt_packet(one, max_readings=1).readings == (DecodedReading(0, SENSOR, 1.0, 1769594400_000000),)
    packet = b'{"readings":[%s,%s]}' % (one, one)
    assert len(decode_mqtt_packet(packet, max_readings=2).readings) == 2


def check_invariant(body: bytes) -> None:
    for decode in DECODERS:
        try:
            packet = decode(body)
        except DecodeError as error:
            Code(error.reason)  # raises for a reason that is not documented
            continue
        indexes = sorted([d.index for d in packet.readings] + [r.index for r in packet.rejections])
        assert indexes == list(range(len(indexes)))
        assert all(math.isfinite(draft.value) for draft in packet.readings)
        assert set(excerpts(body, indexes)) == set(indexes) if indexes else True


@given(st.binary())
def test_decode_any_bytes(body: bytes) -> None:
    check_invariant(body)


@given(near_misses)
def test_decode_near_misses(body: bytes) -> None:
    check_invariant(body)


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000, b'{"readings":' + b"[" * 200_000])
def test_decode_deep_nesting(body: bytes) -> None:
    check_invariant(body)


def test_packet_of_the_contract() -> None:
    body = json.dumps(
        {
            "ts": "2026-01-28T10:00:00Z",
            "readings": [
                {"sensor_uuid": SENSOR.upper(), "value": 23.5},
                {"sensor_uuid": SENSOR, "value": "24.5", "sensor_ts": 1769594400.25, "sequence": 7},
            ],
        }
    ).encode()
    assert decode_packet(body, max_readings=10).readings == (
        DecodedReading(0, SENSOR, 23.5, 1769594400_000000),
        DecodedReading(1, SENSOR, 24.5, 1769594400_250000, 7),
    )


def test_packet_refuses_bad_readings_alone() -> None:
    body = (
        b'{"readings":[{"sensor_uuid":"%(s)s","value":1},{"sensor_uuid":"%(s)s","value":"abc"},'
        b'{"sensor_uuid":"nope","value":1},5,{"sensor_uuid":"%(s)s","value":2,"sensor_ts":"yesterday"}]}'
    ) % {b"s": SENSOR.encode()}
    packet = decode_packet(body, max_readings=10)
    assert [d.index for d in packet.readings] == [0]
    assert [(r.index, r.code) for r in packet.rejections] == [
        (1, Code.BAD_VALUE),
        (2, Code.BAD_FORM),
        (3, Code.BAD_FORM),
        (4, Code.BAD_TIME),
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Code.BAD_JSON),
        (b"{", Code.BAD_JSON),
        (b'{"readings":[{"value":NaN}]}', Code.BAD_JSON),
        (b"[]", Code.BAD_FORM),
        (b"{}", Code.BAD_FORM),
        (b'{"readings":5}', Code.BAD_FORM),
        (b'{"readings":[],"ts":"soon"}', Code.BAD_TIME),
        (b'{"readings":[],"device_uuid":"x"}', Code.BAD_FORM),
        (b'{"readings":[1,1,1,1,1,1,1,1,1,1,1]}', Code.TOO_LARGE),
        (b"\xff\xfe", Code.BAD_JSON),
    ],
)
def test_packet_with_a_bad_envelope(body: bytes, reason: Code) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_packet(body, max_readings=10)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", '""', "[]"])
def test_value_that_is_no_finite_number(value: str) -> None:
    for text in (value, f'"{value}"') if value[0] in "ni-1" else (value,):
        body = f'{{"sensor_id": 1, "value": {text}}}'.encode()
        with pytest.raises(DecodeError) as caught:
            decode_api_reading(body)
        assert caught.value.reason in {Code.BAD_VALUE, Code.BAD_JSON}


@pytest.mark.parametrize("body", [b"23.5", b" 23.5\n", b'"23.5"', b'{"value": 23.5}'])
def test_bare_number(body: bytes) -> None:
    assert decode_bare(body, SENSOR).readings == (DecodedReading(0, SENSOR, 23.5),)


def test_legacy_form() -> None:
    body = json.dumps(
        {
            "v": 1,
            "sensorId": "42",
            "value": 23.456,
            "timestamp": "2026-01-28T10:00:00.5Z",
            "type": "reading",
            "msgId": "m1",
            "metadata": {"deviceUuid": DEVICE, "sequence": 3},
        }
    ).encode()
    assert decode_legacy(body, 42) == Packet(
        (DecodedReading(0, 42, 23.456, 1769594400_500000, 3, "m1"),), device_uuid=DEVICE
    )
    with pytest.raises(DecodeError, match="which the topic names"):
        decode_legacy(body, 43)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-28T10:00:00Z", 1769594400_000000),
        ("2026-01-28T12:00:00+02:00", 1769594400_000000),
        ("2026-01-28T10:00:00", 1769594400_000000),
        ("2026-01-28T10:00:00.000001Z", 1769594400_000001),
        ("1769594400.5", 1769594400_500000),
        (1769594400.123456, 1769594400_123456),
        (0, 0),
        (None, None),
    ],
)
def test_parse_time(text: str | float | None, expected: int | None) -> None:
    assert parse_time(text, "$.ts") == expected


@pytest.mark.parametrize("text", ["", "x", "nan", 1e300, float("inf"), "0001-01-01T00:00:00+99:00"])
def test_parse_time_that_is_none(text: str | float) -> None:
    with pytest.raises(DecodeError):
        parse_time(text, "$.ts")


def test_excerpts_hold_one_reading_in_its_own_bytes() -> None:
    broken = b'{"ts": "2026-01-28T10:00:00Z", "readings": [{"a":1 }, {"b": nope'
    assert excerpts(broken, [1]) == {1: broken}
    whole = b'{"ts": "2026-01-28T10:00:00Z", "readings": [{"a":1 }, {"b":  2}]}'
    assert excerpts(whole, [1]) == {1: b'{"ts":"2026-01-28T10:00:00Z","readings":[{"b":  2}]}'}


@pytest.mark.parametrize("token", ["nan", "NaN", "-nan", "-nan(ind)", "inf", "-Infinity"])
def test_nan_costs_its_reading_and_not_those_beside_it(token: str) -> None:
    """https://github.com/sensebox/openSenseMap-API/issues/190: a sensor that does not answer, among several."""
    readings = ",".join(f'{{"sensor_uuid":"{SENSOR}","value":{value}}}' for value in (token, "24.5", '"nan"'))
    body = f'{{"readings":[{readings}]}}'
    for packet in (decode_packet(body.encode(), max_readings=10), decode_mqtt_packet(body.encode(), max_readings=10)):
        assert [(decoded.index, decoded.value) for decoded in packet.readings] == [(1, 24.5)]
        assert [(refusal.index, refusal.code) for refusal in packet.rejections] == [
            (0, Code.BAD_VALUE),
            (2, Code.BAD_VALUE),
        ]
    kept = excerpts(body.encode(), [0])[0]
    assert decode_packet(kept, max_readings=1).rejections[0].code == Code.BAD_VALUE


@pytest.mark.parametrize(
    "body",
    [
        '{"readings":[{"sensor_uuid":"%s","value":nan}]}',
        '{"sensor_uuid":"%s","value":nan}',
        '{"ts":nan,"readings":[{"sensor_uuid":"%s","value":1}]}',
        '{"readings":[{"sensor_uuid":"%s","value":1},{"value":nan}}',
    ],
)
def test_nan_is_no_json_where_nothing_can_be_saved(body: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_mqtt_packet((body % SENSOR).encode(), max_readings=10)
    assert caught.value.reason == Code.BAD_JSON
