"""Topics, payloads and broker URLs: what is ours is taken apart, anything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ConfigError, DecodeError
from bridge.model.reading import Code, DecodedReading
from bridge.mqtt.address import parse_address, tls_context
from bridge.mqtt.topics import Route, decode_message, device_of, parse_topic
from bridge.settings.mqtt import MqttSettings

DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
SENSOR = "5f0c1f5e-0000-4000-8000-00000000000b"
OTHER = "5f0c1f5e-0000-4000-8000-00000000000c"
T = TypeVar("T")
TOPICS = {
    f"devices/{DEVICE}/readings": Route(device_uuid=DEVICE),
    f"devices/{DEVICE}/sensors/{SENSOR}": Route(device_uuid=DEVICE, sensor_uuid=SENSOR),
    "iot/sensors/42/readings": Route(sensor_id=42),
}


def attempt(decode: Callable[[], T]) -> T | DecodeError:
    try:
        return decode()
    except DecodeError as error:
        return error


@pytest.mark.parametrize(("topic", "route"), TOPICS.items())
def test_topic_of_each_form(topic: str, route: Route) -> None:
    assert parse_topic(topic) == route


@pytest.mark.parametrize("spelling", [DEVICE.upper(), DEVICE.replace("-", ""), f"{{{DEVICE}}}"])
def test_topic_with_another_spelling_of_a_uuid(spelling: str) -> None:
    assert parse_topic(f"devices/{spelling}/readings") == Route(device_uuid=DEVICE)


@pytest.mark.parametrize(
    ("topic", "device"),
    [
        (f"devices/{DEVICE}/sensors/zz", DEVICE),
        (f"devices/{DEVICE.upper()}/a/b/c", DEVICE),
        (f"devices/{DEVICE}/" + "x" * 60_000, DEVICE),
        (f"devices/{DEVICE}", None),
        (f"devices/{DEVICE}x/readings", None),
        (f"devices/{'-' * 60_000}{DEVICE}/readings", None),
        (f"other/{DEVICE}/readings", None),
        ("", None),
    ],
)
def test_device_of_a_topic_is_known_whatever_its_rest(topic: str, device: str | None) -> None:
    assert device_of(topic) == device


@pytest.mark.parametrize("sensor_id", ["1", "007", str(2**63 - 1)])
def test_legacy_topic_with_any_bigint(sensor_id: str) -> None:
    assert parse_topic(f"iot/sensors/{sensor_id}/readings") == Route(sensor_id=int(sensor_id))


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "////",
        "devices",
        "devices//readings",
        "devices/+/readings",
        "devices/#",
        "#",
        f"devices/{DEVICE}",
        f"devices/{DEVICE}/",
        f"devices/{DEVICE}/readings/",
        f"/devices/{DEVICE}/readings",
        f"devices/{DEVICE}/Readings",
        f"devices/{DEVICE}/rejected",
        f"devices/{DEVICE}/sensors/",
        f"devices/{DEVICE}/sensors/+",
        f"devices/{DEVICE}/sensors/{SENSOR}/more",
        f"devices/{DEVICE}\0/readings",
        f"devices/ {DEVICE}/readings",
        f"devices/{DEVICE[:-1]}/readings",
        "iot/sensors//readings",
        "iot/sensors/+/readings",
        "iot/sensors/0/readings",
        "iot/sensors/-1/readings",
        "iot/sensors/+1/readings",
        "iot/sensors/1_0/readings",
        "iot/sensors/1.5/readings",
        "iot/sensors/0x10/readings",
        "iot/sensors/\N{ARABIC-INDIC DIGIT FOUR}/readings",
        "iot/sensors/\N{SUPERSCRIPT TWO}/readings",
        f"iot/sensors/{2**63}/readings",
        f"iot/sensors/{'9' * 5_000}/readings",
        "iot/sensors/42/readings\n",
        "$SYS/broker/uptime",
        "x" * 65_535,
        "/" * 65_535,
        "\ud800",
    ],
)
def test_hostile_topic_is_refused(topic: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_topic(topic)
    assert caught.value.reason == Code.BAD_TOPIC
    assert len(caught.value.detail) < 2_000
    caught.value.detail.encode()  # it goes to the database and to logs


@given(
    st.lists(
        st.sampled_from(["devices", "readings", "sensors", "iot", DEVICE, "42", ""]) | st.text(max_size=20), max_size=5
    )
)
def test_any_topic_is_one_route_or_refused(levels: list[str]) -> None:
    result = attempt(lambda: parse_topic("/".join(levels)))
    if isinstance(result, DecodeError):
        assert result.reason == Code.BAD_TOPIC
    else:
        assert (result.device_uuid is None) != (result.sensor_id is None)
        assert result.sensor_uuid is None or result.device_uuid is not None


def reading(**fields: object) -> bytes:
    return json.dumps({"value": 20.5, **fields}).encode()


@pytest.mark.parametrize(
    ("topic", "payload", "draft"),
    [
        (
            f"devices/{DEVICE}/readings",
            b'{"readings": [%s]}' % reading(sensor_uuid=SENSOR, sequence=3),
            DecodedReading(0, SENSOR, 20.5, None, 3),
        ),
        (
            f"devices/{DEVICE}/readings",
            reading(sensor_uuid=SENSOR, sensor_ts=1.5, msgId="a"),
            DecodedReading(0, SENSOR, 20.5, 1_500_000, None, "a"),
        ),
        (f"devices/{DEVICE}/sensors/{SENSOR}", b" 20.5\n", DecodedReading(0, SENSOR, 20.5)),
        (
            f"devices/{DEVICE}/sensors/{SENSOR}",
            reading(ts=2, sequence=4),
            DecodedReading(0, SENSOR, 20.5, 2_000_000, 4),
        ),
        (
            "iot/sensors/42/readings",
            reading(v=1, sensorId="42", type="reading", timestamp="1970-01-01T00:00:03Z", metadata={"sequence": 5}),
            DecodedReading(0, 42, 20.5, 3_000_000, 5),
        ),
        ("iot/sensors/42/readings", reading(sensor_id=42, msgId="b"), DecodedReading(0, 42, 20.5, key="b")),
    ],
)
def test_payload_of_each_form(topic: str, payload: bytes, draft: DecodedReading) -> None:
    packet = decode_message(parse_topic(topic), payload, max_readings=10)
    assert packet.readings == (draft,)
    assert packet.rejections == ()


@pytest.mark.parametrize(
    ("topic", "payload", "code"),
    [
        (f"devices/{DEVICE}/readings", b'{"device_uuid": "%s", "readings": []}' % OTHER.encode(), Code.BAD_FORM),
        (f"devices/{DEVICE}/readings", b"20.5", Code.BAD_FORM),
        (f"devices/{DEVICE}/readings", b"", Code.BAD_JSON),
        (f"devices/{DEVICE}/readings", b'{"readings": [%s]}' % b",".join([b"{}"] * 11), Code.TOO_LARGE),
        (f"devices/{DEVICE}/sensors/{SENSOR}", b"NaN", Code.BAD_JSON),
        (f"devices/{DEVICE}/sensors/{SENSOR}", b"\xff", Code.BAD_JSON),
        ("iot/sensors/42/readings", reading(sensorId="43"), Code.BAD_FORM),
        ("iot/sensors/42/readings", b'{"a":' * 100_000, Code.BAD_JSON),
    ],
)
def test_payload_that_is_not_of_its_topics_form(topic: str, payload: bytes, code: Code) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_message(parse_topic(topic), payload, max_readings=10)
    assert caught.value.reason == code


@given(
    st.sampled_from(list(TOPICS.values())),
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["readings", "value", "ts", "sensorId"]), inner)
        ),
    ).map(lambda document: json.dumps(document).encode()),
)
def test_any_payload_is_a_packet_or_refused(route: Route, payload: bytes) -> None:
    result = attempt(lambda: decode_message(route, payload, max_readings=10))
    if isinstance(result, DecodeError):
        assert Code(result.reason)
    else:
        indexes = [draft.index for draft in result.readings] + [refusal.index for refusal in result.rejections]
        assert sorted(indexes) == list(range(len(indexes)))


# -- the broker's address


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "shown"),
    [
        ("mqtt://broker", "broker", 1883, False, "mqtt://broker:1883"),
        ("mqtt://broker/", "broker", 1883, False, "mqtt://broker:1883"),
        ("mqtts://broker", "broker", 8883, True, "mqtts://broker:8883"),
        ("mqtt://10.0.0.1:18830", "10.0.0.1", 18830, False, "mqtt://10.0.0.1:18830"),
        ("mqtts://[2001:db8::1]", "2001:db8::1", 8883, True, "mqtts://[2001:db8::1]:8883"),
        ("mqtt://u:p@[::1]:1884", "::1", 1884, False, "mqtt://[::1]:1884"),
        ("mqtt://broker:65535", "broker", 65535, False, "mqtt://broker:65535"),
    ],
)
def test_address_of_a_url(url: str, host: str, port: int, tls: bool, shown: str) -> None:
    address = parse_address(MqttSettings(url=url))
    assert (address.host, address.port, address.tls, str(address)) == (host, port, tls, shown)


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("mqtt://broker", "set", "secret"),
        ("mqtt://user@broker", "user", "secret"),
        ("mqtt://user:pass@broker", "user", "pass"),
        ("mqtt://us%40er:p%2Fa%3As%23s%25@broker", "us@er", "p/a:s#s%"),
        ("mqtt://us@er:pa:ss@broker", "us@er", "pa:ss"),
        ("mqtt://%C3%BC:%E2%82%AC@broker", "ü", "€"),
    ],
)
def test_credentials_of_a_url_win_over_the_settings(url: str, username: str, password: str) -> None:
    address = parse_address(MqttSettings(url=url, username="set", password="secret"))
    assert (address.host, address.username, address.password) == ("broker", username, password)
    assert password not in str(address)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://",
        "mqtt://:1883",
        "mqtt://user:secret@",
        "mqtt://user:secret@broker:0",
        "mqtt://user:secret@broker:65536",
        "mqtt://user:secret@broker:-1",
        "mqtt://user:secret@broker:http",
        "mqtt://user:secret@[::1",
        "mqtt://user:1/secret@broker",
        "mqtt://user:1?secret@broker",
        "mqtt://user:1#secret@broker",
        "mqtt://user:secret@broker..example",
        f"mqtt://user:secret@{'a' * 64}.example",
    ],
)
def test_url_that_names_no_broker(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(MqttSettings(url=url))
    assert [problem.startswith("mqtt.url: ") for problem in caught.value.problems] == [True]
    assert "secret" not in caught.value.detail


def test_ca_file_that_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_bytes(b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    for path in (tmp_path / "missing.pem", tmp_path, empty, rubbish):
        with pytest.raises(ConfigError, match=r"^mqtt.ca_file = "):
            tls_context(MqttSettings(url="mqtts://broker", ca_file=path))
