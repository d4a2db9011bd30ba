"""What senders in the field put on our own topics and endpoints: the value that it is, or what is said of it.

Each payload is in our own words, after the report or the document that is cited.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bridge.errors import DecodeError
from bridge.model.reading import Packet
from bridge.mqtt.topics import decode_message, parse_topic
from bridge.pipeline.decode import decode_api_reading, decode_packet

SENSOR = "4be0643f-1d98-573b-97cd-ca98a65347dd"
DEVICE = "11111111-2222-4333-8444-555555555555"


def on(topic: str) -> Callable[[bytes], Packet]:
    return lambda payload: decode_message(parse_topic(topic), payload, max_readings=5)


VALUE = on(f"devices/{DEVICE}/sensors/{SENSOR}")
PACKET = on(f"devices/{DEVICE}/readings")
LEGACY = on("iot/sensors/42/readings")


def post(body: bytes) -> Packet:
    return decode_packet(body, max_readings=5)


READING = b'{"sensor_uuid":"%s","value":19.5}' % SENSOR.encode()
BOM = b"\xef\xbb\xbf"

TAKEN = [
    # -- NULs behind
    ("https://github.com/monstrenyatko/ArduinoMqtt/issues/16: strlen + 1", VALUE, b'{"value":15}\0', 15),
    ("https://github.com/philbowles/PangolinMQTT/issues/7: a String with its NUL", VALUE, b"21.5\0", 21.5),
    ("https://github.com/tuanpmt/espduino/issues/10: filled up to a multiple of four", VALUE, b"21.5\0\0\0\0", 21.5),
    ("https://github.com/eclipse-paho/paho.mqtt.c/issues/264: NULL_TERMINATED_PAYLOAD", PACKET, READING + b"\0", 19.5),
    (
        "https://infosys.beckhoff.com/content/1033/tf6701_tc3_iot_communication_mqtt/12560701579.html: its zero",
        LEGACY,
        b'{"value":19.5}\0',
        19.5,
    ),
    ("SIZEOF of a STRING(80) of IEC 61131-3, sent whole", VALUE, b"21.5" + bytes(77), 21.5),
    ("a NUL, and the line end that println adds", VALUE, b"21.5\0\r\n", 21.5),
    ("the same over HTTP", post, b'{"readings":[%s]}\0\0' % READING, 19.5),
    ("the same over HTTP", decode_api_reading, b'{"sensor_id":1,"value":19.5}\0\n', 19.5),
    # -- a byte order mark before
    ("https://github.com/axodotdev/axoasset/pull/87: PowerShell writes one, always", VALUE, BOM + b'{"value":15}', 15),
    (
        "https://github.com/Badgerati/Pode/issues/1604: VS Code's REST Client sends a file with it",
        PACKET,
        BOM + READING,
        19.5,
    ),
    ("https://github.com/JamesNK/Newtonsoft.Json/issues/583: .NET's Encoding.UTF8", LEGACY, BOM + b'{"value":15}', 15),
    ("https://www.rfc-editor.org/rfc/rfc8259#section-8.1: parsers may ignore it", VALUE, BOM + b"21.5", 21.5),
    ("both, as of a file of Windows that C has read", VALUE, BOM + b"21.5\r\n\0", 21.5),
    ("the same over HTTP", post, BOM + b'{"readings":[%s]}' % READING, 19.5),
    ("the same over HTTP", decode_api_reading, BOM + b'{"sensor_id":1,"value":19.5}', 19.5),
    # -- numbers as text
    ("https://hoeser-medien.de/2017/11/openhab-leading-spaces-dtostrf/", VALUE, b" 6.8", 6.8),
    (
        "https://forum.arduino.cc/t/try-to-convert-float-to-character-array-without-leading-whitespaces/219456",
        VALUE,
        b'{"value":" 2.0"}',
        2.0,
    ),
    (
        "https://github.com/allangood/rtlamr2mqtt/issues/426: a meter's format, zeros before",
        VALUE,
        b"0003092.68",
        3092.68,
    ),
    ("printf %+.1f: C17, 7.21.6.1", VALUE, b"+21.5", 21.5),
    ("ECMA-262, Number.prototype.toFixed: text, in LoRaWAN codecs", LEGACY, b'{"value":"-0.50"}', -0.5),
    # -- true, false, null
    ("a contact of Zigbee2MQTT, passed on as it is", VALUE, b"true", 1),
    ("battery_low of Zigbee2MQTT, passed on as it is", VALUE, b'{"value":false}', 0),
    ("a PLC's BOOL by JSON (IEC 61131-3)", LEGACY, b'{"value":true,"v":1}', 1),
    ("ArduinoJson writes NaN as null: https://arduinojson.org/v7/config/enable_nan/", VALUE, b'{"value":null}', None),
    ("JSON.stringify(NaN), ECMA-262 25.5.2", VALUE, b"null", None),
    (
        "Python's None, where a read of the sensor failed",
        LEGACY,
        b'{"value":null,"timestamp":"2026-11-26T06:32:07Z"}',
        None,
    ),
]


@pytest.mark.parametrize(("source", "decode", "payload", "expected"), TAKEN)
def test_payload_is_taken(
    source: str, decode: Callable[[bytes], Packet], payload: bytes, expected: float | None
) -> None:
    packet = decode(payload)
    assert [reading.value for reading in packet.readings] == ([] if expected is None else [expected]), source
    assert (packet.rejections, packet.ignored) == ((), ())


REFUSED = [
    (
        "https://github.com/hjelev/rpi-mqtt-monitor/issues/144: the locale's comma",
        VALUE,
        b"40,78",
        "the comma at character 3",
    ),
    (
        "https://github.com/bersim/OpenKPs/issues/4: the same, in JSON",
        VALUE,
        b'{"value":"40,78"}',
        "the comma at character 3",
    ),
    ("the same, without quotes", LEGACY, b'{"value":40,78}', "comma"),
    ("https://github.com/allangood/rtlamr2mqtt/issues/426: a quote behind it", VALUE, b"0003092.68'", "'"),
    ("https://github.com/fvanroie/MqttClientPlugin/issues/12: a unit beside it", VALUE, b"29.0 \xc2\xb0C", '"°C"'),
    (
        "https://github.com/jqlang/jq/issues/2351: PowerShell's > writes UTF-16",
        VALUE,
        '{"value":1}'.encode("utf-16"),
        "UTF-16",
    ),
    (
        "https://github.com/marvinroger/async-mqtt-client/issues/170: sizeof of a buffer with what was in it",
        VALUE,
        b'{"value":15}\0\xe8\x9f\xfe\x3f@\x9a',
        "the NUL",
    ),
    ("https://www.unicode.org/charts/PDF/U0600.pdf: digits of another script", VALUE, "٢١".encode(), "ARABIC-INDIC"),
    ("ArduinoJson with ARDUINOJSON_ENABLE_NAN", VALUE, b'{"value":NaN}', "byte 9: NaN is no number of JSON; send null"),
    ("a firmware's version where its number was due", LEGACY, b'{"value":"3008.0.1"}', "the point at character 7"),
]


@pytest.mark.parametrize(("source", "decode", "payload", "why"), REFUSED)
def test_payload_is_refused_by_what_is_at_fault(
    source: str, decode: Callable[[bytes], Packet], payload: bytes, why: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(payload)
    assert why in caught.value.detail, source
