"""Bodies of both doors: one reason for the same fault whatever decodes it, and no cost before the bound."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from bridge.errors import DecodeError
from bridge.http.commands import read_command_request
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.formats import FORMATS
from bridge.mqtt.converters.message import IncomingMessage
from bridge.mqtt.topics import decode_message, parse_topic
from bridge.pipeline.decode import (
    decode_any,
    decode_api_bulk,
    decode_api_reading,
    decode_packet,
    excerpts,
)
from bridge.settings.mqtt import ConverterSettings
from bridge.settings.service import CommandSettings

SENSOR = "4be0643f-1d98-573b-97cd-ca98a65347dd"
DEVICE = "11111111-2222-4333-8444-555555555555"
MAX_READINGS = 5_000


def message(topic: str) -> Callable[[bytes], Packet]:
    return lambda body: decode_message(parse_topic(topic), body, max_readings=MAX_READINGS)


def foreign(format_name: str, topic: str) -> Callable[[bytes], Packet]:
    settings = ConverterSettings(format=format_name, filter=topic)
    decode = FORMATS[format_name].make(settings)
    return lambda body: decode(IncomingMessage(topic, tuple(topic.split("/")), body, 0, settings))


DECODERS: dict[str, Callable[[bytes], object]] = {
    "POST /devices/{uuid}/readings": lambda body: decode_packet(body, max_readings=MAX_READINGS),
    "POST /ingest/readings": decode_api_reading,
    "POST /ingest/readings/bulk": lambda body: decode_api_bulk(body, max_readings=MAX_READINGS),
    "POST /devices/{uuid}/commands": lambda body: read_command_request(body, CommandSettings()),
    "devices/{uuid}/readings": message(f"devices/{DEVICE}/readings"),
    "devices/{uuid}/sensors/{uuid}": message(f"devices/{DEVICE}/sensors/{SENSOR}"),
    "iot/sensors/{id}/readings": message("iot/sensors/42/readings"),
    "packet": foreign("packet", f"site/{DEVICE}"),
    "legacy": foreign("legacy", "site/42"),
    "tasmota": foreign("tasmota", "tele/plug/SENSOR"),
    "ttn": foreign("ttn", "v3/app/devices/one/up"),
    "chirpstack": foreign("chirpstack", "application/1/device/2/event/up"),
}

GOOD = b'{"sensor_uuid":"%s","value":1}' % SENSOR.encode()

NOT_JSON = {
    "nothing": b"",
    "blanks": b" \n",
    "a word": b"offline",
    "a form": b"value=20.5",
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "binary": b"\xff\xfe\x00\x01",
    "bytes of a Latin text": b'{"value":"20.5\xb0C","readings":5}',
    "cut after a wrong type": b'{"readings":5',
    "cut in a text": b'{"readings":[{"sensor_uuid":"4be0',
    "cut in a list": b'{"readings":[' + GOOD + b",",
    "NaN in a field": b'{"readings":[{"value":NaN}],"value":NaN}',
    "NaN after a wrong type": b'{"value":[],"readings":5,"x":NaN}',
    "something after it": b'{"value":[],"readings":5} x',
    "another after it": b"{}{}",
    "a comma too many": b'{"value":[],"readings":5,}',
    "a key without quotes": b"{value:1}",
    "quotes of Python": b"{'value':1}",
    "a lone surrogate": b'{"value":"\\ud800","readings":"\\ud800"}',
    "an unknown escape": b'{"value":"\\x41","readings":5}',
    "a line end in a text": b'{"value":"a\nb","readings":5}',
    "a zero before a number": b'{"value":01,"readings":5}',
    "many values, then cut": b'{"readings":[' + b"1," * 200_000,
    "too deep": b"[" * 200_000,
    "too deep in a field": b'{"value":[],"readings":5,"x":' + b"[" * 200_000,
}


@pytest.mark.parametrize(
    ("fault", "decoder"),
    [
        (fault, decoder)
        for fault in NOT_JSON
        for decoder in DECODERS
        if "NaN" not in fault or decoder not in ("tasmota", "ttn", "chirpstack")  # firmware that stays as it is
    ],
)
def test_what_is_not_json_has_one_reason_on_both_doors(fault: str, decoder: str) -> None:
    with pytest.raises(DecodeError) as caught:
        DECODERS[decoder](NOT_JSON[fault])
    assert caught.value.reason == Code.BAD_JSON, caught.value.detail
    assert len(caught.value.detail) < 200


OTHER_JSON = {
    "a text": b'"abc"',
    "a list": b"[]",
    "a list of readings": b"[%s]" % GOOD,
    "an empty object": b"{}",
    "an object of an object": b'{"readings":{"value":{}}}',
}


@pytest.mark.parametrize("decoder", [name for name in DECODERS if "/" in name])
@pytest.mark.parametrize("form", OTHER_JSON)
def test_json_of_another_form_has_one_reason_on_both_doors(form: str, decoder: str) -> None:
    with pytest.raises(DecodeError) as caught:
        DECODERS[decoder](OTHER_JSON[form])
    assert caught.value.reason == Code.BAD_FORM, caught.value.detail


@pytest.mark.parametrize("value", ["1e999", "-1e999", '"nan"', '"1e999"', "9" * 400])
def test_number_beyond_a_float_is_a_bad_value_on_both_doors(value: str) -> None:
    for name, body in {
        "POST /ingest/readings": f'{{"sensor_id":1,"value":{value}}}',
        "iot/sensors/{id}/readings": f'{{"value":{value}}}',
        "devices/{uuid}/sensors/{uuid}": f'{{"value":{value}}}',
    }.items():
        with pytest.raises(DecodeError) as caught:
            DECODERS[name](body.encode())
        assert caught.value.reason == Code.BAD_VALUE


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("after", [b"", b"\0", b"\0\0\0"])
def test_what_text_functions_leave_around_the_json_is_taken_off(before: bytes, after: bytes) -> None:
    packet = before + b'{"readings":[%s,%s]}' % (GOOD, GOOD) + after
    assert len(decode_packet(packet, max_readings=5).readings) == 2
    assert excerpts(packet, [1]) == {1: b'{"readings":[%s]}' % GOOD}
    for body, decode in (
        (b"21.5", message(f"devices/{DEVICE}/sensors/{SENSOR}")),
        (b'{"sensor_id":42,"value":21.5}', decode_api_reading),
        (b'{"value":21.5}', message("iot/sensors/42/readings")),
        (GOOD, message(f"devices/{DEVICE}/readings")),
    ):
        assert len(decode(before + body + after).readings) == 1


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_too_costly_is_too_large_on_both_doors(decoder: str) -> None:
    with pytest.raises(DecodeError) as caught:
        DECODERS[decoder](b'{"readings":[' + b"1," * 200_000 + b"1]}")
    assert caught.value.reason == Code.TOO_LARGE


LARGE = 4_000_000
BOMBS = {
    "numbers": b'{"readings":[' + b"1," * LARGE + b"1]}",
    "objects": b'{"readings":[' + b"{}," * (LARGE // 2) + b"{}]}",
    "readings": b'{"readings":[' + (GOOD + b",") * 100_000 + GOOD + b"]}",
    "lists in lists": b'{"readings":[' + (b"[" * 700 + b"]" * 700 + b",") * 5_000 + b"1]}",
    "lists again and again": b'{"readings":[1]' + b',"readings":[1,1,1]' * 400_000 + b"}",
    "a long text": b'{"readings":[{"value":1,"sensor_uuid":"' + b"a" * LARGE + b'"}]}',
    "a long text beyond Latin": b'{"value":1,"readings":[{"sensor_uuid":"'
    + b"a" * LARGE
    + "\U0001f600".encode()
    + b'"}]}',
    "a long time": b'{"value":1,"readings":[],"ts":"' + b"1" * LARGE + b'"}',
    "a long number": b'{"readings":[{"value":' + b"1" * LARGE + b"}]}",
    "a long counter": b'{"readings":[{"sequence":"' + b"1" * LARGE + b'"}],"sequence":' + b"1" * LARGE + b"}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_large_body_costs_neither_memory_nor_time(bomb: str) -> None:
    body = BOMBS[bomb]
    decoders = [decode for name, decode in DECODERS.items() if "/" in name]
    decoders += [decode_any, partial(excerpts, indexes=[0])]
    slowest = 0.0
    for decode in decoders:
        started = time.process_time()
        with suppress(DecodeError):
            decode(body)
        slowest = max(slowest, time.process_time() - started)
        tracemalloc.start()
        with suppress(DecodeError):
            decode(body)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12_000_000 + len(body)
    assert slowest < 1.0


def test_long_name_is_not_kept_for_each_record() -> None:
    records = ",".join(['{"n":"a","v":1}'] * 4_000)
    pack = f'[{{"bn":"{"b" * 200_000}","n":"a","v":1}},{records}]'.encode()
    tracemalloc.start()
    with pytest.raises(DecodeError):
        foreign("senml", "site/pack")(pack)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_packet_of_the_largest_size_is_taken() -> None:
    fields = b",".join(b'"x%d":0' % number for number in range(10))
    reading = b'{"sensor_uuid":"%s","value":1,"sensor_ts":1769594400.5,"sequence":7,%s}' % (SENSOR.encode(), fields)
    packet = decode_packet(b'{"readings":[' + b",".join([reading] * MAX_READINGS) + b"]}", max_readings=MAX_READINGS)
    assert len(packet.readings) == MAX_READINGS
