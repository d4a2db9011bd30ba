"""Converters on anything at all: a packet, nothing, or a refusal; never another exception, never a bomb."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import DecodeError
from bridge.model.reading import Code, ExternalId, Packet, SensorRef
from bridge.mqtt.converters.message import MAX_FIELDS, MAX_ID, walk
from bridge.mqtt.converters.select import Conversion, Converters
from bridge.pipeline.timestamps import parse_time
from bridge.settings.mqtt import ConverterSettings, MqttSettings
from tests.support.golden import RECEIVED_US, converters_of, load, payload_of, samples
from tests.support.sparkplug import encode, metric

UUID = "5f0c1f5e-0000-4000-8000-00000000000b"
MAPPING: dict[str, Any] = {
    "each": "payload.items || [payload]",
    "device": "item.device || levels[0]",
    "sensor": "item.sensor",
    "value": "item.value",
    "time": "item.time",
}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("plant/a/readings", "packet", {"filter": "plant/+/readings"}),
    ("old/x", "legacy", {"filter": "old/#"}),
    ("meters/a/b", "value", {"filter": "meters/+/+"}),
    ("meters/a/b", "value", {"filter": "meters/+/+", "decimal": "comma", "zone": "Europe/Madrid"}),
    ("tele/a/SENSOR", "tasmota", {"filter": "tele/+/SENSOR"}),
    ("tele/a/STATE", "tasmota", {"filter": "tele/#", "skip": []}),
    ("zigbee2mqtt/a", "zigbee2mqtt", {"filter": "zigbee2mqtt/#"}),
    ("zigbee2mqtt/a/b", "zigbee2mqtt", {"filter": "zigbee2mqtt/#", "take": ["*"]}),
    ("shellies/a/relay/0", "shelly1", {"filter": "shellies/+/#"}),
    ("shellies/a", "shelly1", {"filter": "shellies/#"}),
    ("a/events/rpc", "shelly2", {"filter": "+/events/rpc"}),
    ("a/status/switch:0", "shelly2", {"filter": "+/status/+", "take": ["*"]}),
    ("a/sensor/b/state", "esphome", {"filter": "+/+/+/state"}),
    ("homie/5/a/b/c", "homie", {"filter": "homie/5/#", "take": ["*"]}),
    ("application/1/device/0a/event/up", "chirpstack", {"filter": "application/#"}),
    ("v3/a@b/devices/c/up", "ttn", {"filter": "v3/#"}),
    ("senml/a", "senml", {"filter": "senml/+"}),
    ("rtl_433/a/events", "rtl_433", {"filter": "rtl_433/+/events", "take": ["*"]}),
    ("rtl_433/a/devices/b/c/temperature_C", "rtl_433", {"filter": "rtl_433/#"}),
    ("spBv1.0/g/NBIRTH/n", "sparkplug", {"filter": "spBv1.0/#"}),
    ("spBv1.0/g/DDATA/n/d", "sparkplug", {"filter": "spBv1.0/#"}),
    ("plant/a/report", "mapping", {"filter": "plant/+/report", **MAPPING}),
    ("x", "ignore", {"filter": "#"}),
]


def converters(format_name: str, options: dict[str, Any]) -> Converters:
    return Converters(MqttSettings(converters=(ConverterSettings(format=format_name, **options),)))


def convert(case: tuple[str, str, dict[str, Any]], payload: bytes, *, retained: bool = False) -> Conversion:
    topic, format_name, options = case
    return converters(format_name, options).convert(topic, payload, received_us=RECEIVED_US, retained=retained)


def check(conversion: Conversion) -> None:
    """Whatever comes out can be stored, quarantined and put into a log."""
    packet = conversion.packet
    indexes = [draft.index for draft in packet.readings] + [refusal.index for refusal in packet.rejections]
    assert len(set(indexes)) == len(indexes)
    assert all(0 <= index <= MAX_FIELDS for index in indexes)
    for draft in packet.readings:
        assert math.isfinite(draft.value)
        if isinstance(draft.sensor, ExternalId):
            assert len(draft.sensor.text) <= MAX_ID
            assert draft.sensor.text.isprintable()  # no NUL, no surrogates: it is asked of the database
        if draft.ts_us is not None:
            assert abs(draft.ts_us) < 1 << 63
    for refusal in packet.rejections:
        assert Code(refusal.code)
        assert len(refusal.detail) < 2_000
        refusal.detail.encode(errors="strict" if refusal.detail.isprintable() else "replace")
    if packet.excerpts is not None and indexes:
        assert set(packet.excerpts(indexes)) == set(indexes)


scalars = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from([10**400, -(10**18), "2026-01-28T10:00:00", "21.5", "21,5", "on", "nan", "\0", "\ud800", "", "#"])
    | st.text(max_size=5)
)
NAMES = """
    Time TempUnit AM2301 Temperature ENERGY StatusSNS last_seen temperature state method params ts deviceInfo devEui
    object fCnt time end_device_ids device_id uplink_message decoded_payload received_at bn bt bv bver n v vb vs t
    model id channel temperature_C items device sensor value readings sensor_uuid sensorId a#b must_
"""
names = st.sampled_from(NAMES.split())
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=12
)
frames = st.sampled_from(
    [
        {"method": "NotifyStatus", "params": None},
        {"deviceInfo": {"devEui": "0A"}, "object": None, "data": "qg=="},
        {"end_device_ids": {"device_id": "c"}, "uplink_message": {"decoded_payload": None}},
        {"model": "x", "time": None},
        {"items": None},
    ]
)


@st.composite
def near_misses(draw: st.DrawFn) -> bytes:
    document = draw(documents)
    if draw(st.booleans()):
        frame = json.loads(json.dumps(draw(frames)))
        for key, value in list(frame.items()):
            if value is None:
                frame[key] = document
            elif isinstance(value, dict) and None in value.values():
                value.update({inner: document for inner, item in value.items() if item is None})
        document = frame
    return json.dumps(document).encode()


@st.composite
def sparkplug_payloads(draw: st.DrawFn) -> bytes:
    metrics = draw(
        st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "name": st.sampled_from(["a", "bdSeq", "\0", "x" * 300]),
                    "alias": st.integers(0, 2**64 - 1),
                    "timestamp": st.integers(0, 2**64 - 1),
                    "datatype": st.integers(0, 40),
                    "is_null": st.booleans(),
                    "int_value": st.integers(0, 2**32 - 1),
                    "long_value": st.integers(0, 2**64 - 1),
                    "double_value": st.floats(),
                    "float_value": st.floats(width=32),
                    "bytes_value": st.binary(max_size=4),
                },
            ),
            max_size=4,
        )
    )
    data = encode(draw(st.none() | st.integers(0, 2**64 - 1)), metrics, draw(st.none() | st.integers(0, 2**64 - 1)))
    if draw(st.booleans()) and data:  # one byte is not what it was
        place = draw(st.integers(0, len(data) - 1))
        data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
    return data


cbor = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-7, 9) | st.text(max_size=2), inner, max_size=5)
        | st.builds(lambda tag, value: cbor2.CBORTag(tag, value), st.integers(0, 300), inner)
    ),
    max_leaves=12,
).map(cbor2.dumps)


words = st.text(max_size=12).map(lambda text: text.encode(errors="surrogatepass"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}:{case[0]}")
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80) | near_misses() | sparkplug_payloads() | cbor | words, st.booleans())
def test_any_payload_is_a_packet_nothing_or_refused(
    case: tuple[str, str, dict[str, Any]], payload: bytes, retained: bool
) -> None:
    check(convert(case, payload, retained=retained))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["NBIRTH/n", "NDATA/n", "NDEATH/n", "DBIRTH/n/d", "DDATA/n/d", "DDEATH/n/d", "NCMD/n"]),
            sparkplug_payloads(),
        ),
        max_size=8,
    )
)
def test_any_sequence_of_sparkplug_messages(messages: list[tuple[str, bytes]]) -> None:
    node = converters("sparkplug", {"filter": "spBv1.0/#"})
    for number, (topic, payload) in enumerate(messages):
        check(node.convert(f"spBv1.0/g/{topic}", payload, received_us=RECEIVED_US + number * 1_000_000))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.lists(st.sampled_from(["", "a", "#", "+", "\0", "state", "\ud800"])).map("/".join))
def test_any_topic_of_any_format(topic: str) -> None:
    for _, format_name, options in CASES:
        check(converters(format_name, options | {"filter": "#"}).convert(topic, b'{"a": 1}', received_us=RECEIVED_US))


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "deep arrays", b"[" * 100_000
    yield "deep objects", b'{"a":' * 40_000
    yield "deep and closed", b'{"a":' * 900 + b"1" + b"}" * 900
    yield (
        "one long key over many fields",
        b'{"' + b"k" * 100_000 + b'":{' + b",".join(b'"%d":1' % i for i in range(15_000)) + b"}}",
    )
    yield "many fields", b"{" + b",".join(b'"%d":1' % i for i in range(20_000)) + b"}"
    yield "a huge integer", b'{"Temperature":' + b"9" * 200_000 + b"}"
    yield "a long number in text", b'{"Temperature":"' + b"9" * 200_000 + b'"}'
    yield "a long text", b'{"temperature":"' + b"a" * 200_000 + b'"}'
    yield "deep CBOR", b"\x81" * 200_000
    yield "CBOR that promises much", b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"
    yield "CBOR with a big exponent", b"\x81\xa1\x02\xc4\x82\x1a\x7f\xff\xff\xff\x03"
    yield "CBOR with a reference to itself", b"\x81\xd8\x1c\xa1\x02\xd8\x1d\x00"
    yield "CBOR with a regular expression", b"\x81\xa1\x03\xd8\x23\x68(a+)+b$x"
    yield "protobuf that ends never", b"\xff" * 200_000
    yield "protobuf with many metrics", b"\x12\x00" * 100_000
    yield "protobuf in itself", b"".join(b"\x12" + bytes([0x80 | n & 0x7F, n >> 7]) for n in range(10_000, 128, -3))
    yield "SenML with many records", b"[" + b",".join([b'{"n":"a","v":1}'] * 12_000) + b"]"
    yield "items without end", b'{"items":[' + b",".join([b"{}"] * 60_000) + b"]}"


@pytest.mark.parametrize(("name", "payload"), list(bombs()), ids=lambda value: value if isinstance(value, str) else "")
def test_bombs_cost_no_more_than_their_length(name: str, payload: bytes) -> None:
    for case in CASES:
        tracemalloc.start()
        started = time.process_time()
        try:
            check(convert(case, payload))
            seconds = time.process_time() - started
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 64 << 20, (name, case[1])
        assert seconds < 10, (name, case[1])  # by far; tracing makes everything slow


def test_message_that_would_fill_the_quarantine_is_one_refusal() -> None:
    payload = json.dumps({f"field {n}": 1 for n in range(4_000)}).encode()
    (refusal,) = convert(CASES[6], payload).packet.rejections
    assert (refusal.index, refusal.code) == (0, Code.TOO_LARGE)


def test_message_that_is_too_large_is_refused_before_it_is_looked_at() -> None:
    settings_ = MqttSettings(max_payload_bytes=10, converters=(ConverterSettings(filter="#", format="value"),))
    (refusal,) = Converters(settings_).convert("a/b", b"1" * 11, received_us=0).packet.rejections
    assert refusal.code == Code.TOO_LARGE


# -- a quarantined reading is found again


@pytest.mark.parametrize("path", samples(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_reading_is_found_again_in_what_quarantine_keeps(path: Any) -> None:
    """In the same bytes by its index; or in an excerpt of its own, by a converter that has seen nothing else.

    But for local times of a repeated hour that only the messages before it tell apart.
    """
    sample = load(path)
    first = converters_of(sample)
    received_us = parse_time(sample.get("received_at"), "received_at") or RECEIVED_US
    for message in sample["messages"]:
        received_us += round(message.get("after_s", 0) * 1_000_000)
        payload = payload_of(message)
        packet = first.convert(message["topic"], payload, received_us=received_us).packet
        if not first.is_foreign(message["topic"]):
            continue
        for draft in packet.readings:
            kept = payload if packet.excerpts is None else packet.excerpts([draft.index])[draft.index]
            again = converters_of(sample).convert(message["topic"], kept, received_us=received_us).packet
            found = (
                again.readings if packet.excerpts is not None else [d for d in again.readings if d.index == draft.index]
            )
            (one,) = found
            assert (one.sensor, one.value) == (draft.sensor, draft.value)
            assert one.ts_us == draft.ts_us or sample.get("in_order")


@pytest.mark.parametrize("path", samples(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_marks_around_text_are_no_part_of_it(path: Any) -> None:
    """A byte order mark before, NULs and line ends after, as some clients' text functions leave them."""
    sample = load(path)
    plain, marked = converters_of(sample), converters_of(sample)
    for message in sample["messages"]:
        payload = payload_of(message)
        if "hex" in message or not payload or path.parent.name == "ignore":
            continue
        found = [
            converters_.convert(message["topic"], body, received_us=RECEIVED_US).packet
            for converters_, body in ((plain, payload), (marked, b"\xef\xbb\xbf" + payload + b"\0\n\0\r\n"))
        ]
        assert found[0].readings == found[1].readings
        assert [(one.index, one.code) for one in found[0].rejections] == [
            (one.index, one.code) for one in found[1].rejections
        ]
        assert [one.name for one in found[0].unknown] == [one.name for one in found[1].unknown]


@pytest.mark.parametrize(("topic", "name", "options"), CASES)
def test_message_without_a_payload_takes_a_retained_one_back(topic: str, name: str, options: dict[str, Any]) -> None:
    """MQTT 3.1.1, section 3.3.1.3. Those who are subscribed get it without the RETAIN flag."""
    taken_back = converters(name, options)
    for cleared in (topic, f"devices/{UUID}/readings", f"devices/{UUID}/sensors/{UUID}", "iot/sensors/42/readings"):
        packet = taken_back.convert(cleared, b"", received_us=RECEIVED_US).packet
        assert (packet.readings, packet.rejections, packet.unknown) == ((), (), ())
    assert taken_back.convert("iot/sensors/x/readings", b"", received_us=RECEIVED_US).packet.rejections


def test_numbers_of_fields_do_not_depend_on_what_is_taken() -> None:
    payload = json.dumps({"a": 1, "b": {"c": 2, "d": "text"}, "e": [3, 4]}).encode()

    def numbered(**options: Any) -> dict[str, int]:
        packet = convert(("z/x", "zigbee2mqtt", {"filter": "z/+", **options}), payload).packet
        return {draft.sensor.text: draft.index for draft in packet.readings if isinstance(draft.sensor, ExternalId)}

    everything = numbered()
    assert everything == {f"zigbee2mqtt/x#{name}": n for n, name in ((1, "a"), (2, "b.c"), (4, "e.0"), (5, "e.1"))}
    assert numbered(take=["e.*"]).items() <= everything.items()
    assert numbered(skip=["a"]).items() <= everything.items()


# -- choosing


def test_our_own_topics_are_never_a_converters() -> None:
    everything = converters("value", {"filter": "#"})
    device = "5f0c1f5e-0000-4000-8000-00000000000a"
    for topic in (f"devices/{device}/readings", f"devices/{device}/sensors/nonsense", "iot/sensors/0/readings"):
        conversion = everything.convert(topic, b"1", received_us=0)
        assert conversion.format == "native"
        assert conversion.packet.rejections
        assert not everything.is_foreign(topic)


def test_no_payload_on_any_topic_forges_an_id_or_a_uuid() -> None:
    """External ids are of a type of their own: no text of a device equals another kind of name."""
    names: dict[SensorRef, int] = {ExternalId("42"): 1, ExternalId(UUID): 2}
    assert 42 not in names
    assert "42" not in names
    assert UUID not in names


def test_a_device_cannot_speak_for_another_by_the_name_of_a_channel() -> None:
    forged = convert(("z/a", "zigbee2mqtt", {"filter": "z/#"}), b'{"b#temperature": 1, "/b#temperature": 2}').packet
    honest = convert(("z/a/b", "zigbee2mqtt", {"filter": "z/#"}), b'{"temperature": 1}').packet
    assert not {draft.sensor for draft in forged.readings} & {draft.sensor for draft in honest.readings}


def test_first_filter_that_matches_is_taken() -> None:
    both = Converters(
        MqttSettings(
            converters=(
                ConverterSettings(filter="z/bridge/#", format="ignore"),
                ConverterSettings(filter="z/#", format="value"),
            )
        )
    )
    assert both.convert("z/bridge/x", b"1", received_us=0).outcome == "nothing"
    assert both.convert("z/a/x", b"1", received_us=0).outcome == "readings"
    (refusal,) = both.convert("y/a", b"1", received_us=0).packet.rejections
    assert refusal.code == Code.BAD_TOPIC


@pytest.mark.parametrize(("retained", "kept"), [("skip", 0), ("take", 1)])
def test_retained_message_without_a_time(retained: str, kept: int) -> None:
    case = ("m/a/b", "value", {"filter": "m/+/+", "retained": retained})
    assert len(convert(case, b"1", retained=True).packet.readings) == kept
    assert len(convert(case, b'{"value": 1, "ts": 1769594400}', retained=True).packet.readings) == 1
    assert len(convert(case, b"1").packet.readings) == 1


def test_clock_that_is_not_believed() -> None:
    case = ("m/a/b", "value", {"filter": "m/+/+", "clock": "receipt"})
    (draft,) = convert(case, b'{"value": 1, "ts": "nonsense"}').packet.readings
    assert draft.ts_us is None


def test_namespace_of_a_converter() -> None:
    packet = convert(("m/a/b", "value", {"filter": "m/+/+", "namespace": "site-7"}), b"1").packet
    assert packet == Packet(packet.readings)
    assert packet.readings[0].sensor == ExternalId("site-7/a#b")


def test_walk_of_a_scalar_and_of_nothing() -> None:
    assert list(walk(5, "a", "b")) == [("a.b", "b", 5)]
    assert list(walk({"a": {}, "b": []})) == []


def test_walk_of_a_path_without_end() -> None:
    with pytest.raises(DecodeError):
        list(walk({"k" * 2_000: {"x": 1}}))


# -- Sparkplug's reader against the protobuf library


@settings(max_examples=300, deadline=None)
@given(
    st.none() | st.integers(0, 2**63),
    st.none() | st.integers(0, 255),
    st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            st.none() | st.integers(0, 2**64 - 1),
            st.none() | st.integers(0, 2**64 - 1),
            st.none() | st.integers(0, 2**32 - 1),
            st.sampled_from(["int_value", "long_value", "double_value", "boolean_value", "string_value"]),
            st.integers(0, 2**32 - 1),
        ),
        max_size=5,
    ),
)
def test_sparkplug_reader_agrees_with_the_library(
    timestamp: int | None, seq: int | None, rows: list[tuple[Any, ...]]
) -> None:
    from bridge.mqtt.converters.sparkplug_payload import decode_payload

    metrics = [
        metric(
            name,
            at,
            datatype,
            **({} if alias is None else {"alias": alias}),
            **{kind: {"boolean_value": bool, "string_value": str, "double_value": float}.get(kind, int)(value)},
        )
        for name, alias, at, datatype, kind, value in rows
    ]
    payload = decode_payload(encode(timestamp, metrics, seq))
    assert (payload.timestamp_ms, payload.seq) == (timestamp, seq)
    for found, given_ in zip(payload.metrics, metrics, strict=True):
        assert (found.name, found.alias) == (given_.get("name"), given_.get("alias"))
        assert (found.timestamp_ms, found.datatype) == (given_.get("timestamp"), given_.get("datatype"))
        expected = next(given_[key] for key in given_ if key.endswith("_value"))
        assert found.value == expected


def test_rebirth_request_as_the_library_reads_it() -> None:
    from bridge.mqtt.converters.sparkplug_payload import rebirth_request
    from tests.support.sparkplug import Payload

    message = Payload.FromString(rebirth_request(1_769_594_400_000))
    assert (message.timestamp, len(message.metrics)) == (1_769_594_400_000, 1)
    (only,) = message.metrics
    assert (only.name, only.datatype, only.boolean_value) == ("Node Control/Rebirth", 11, True)


def test_sparkplug_nodes_are_forgotten_before_they_fill_the_memory() -> None:
    from bridge.mqtt.converters.sparkplug_nodes import Known, Nodes, Seen
    from bridge.mqtt.converters.sparkplug_payload import decode_payload

    nodes = Nodes(max_nodes=3)
    birth = decode_payload(encode(1_000, [metric("a", 1_000, 9, alias=1, float_value=1.5)], 0))
    data = decode_payload(encode(2_000, [metric(None, 2_000, None, alias=1, float_value=2.5)], 1))
    for name in "abcd":
        nodes.see("NBIRTH", f"g/{name}", "", birth, RECEIVED_US)
    assert nodes.see("NDATA", "g/d", "", data, RECEIVED_US) == Seen([Known("a", 9)])
    forgotten = nodes.see("NDATA", "g/a", "", data, RECEIVED_US)
    assert forgotten.ask
    assert [known.problem != "" for known in forgotten.metrics] == [True]


@pytest.mark.parametrize("tagged", [b"\xd8\x23\x68(a+)+b$x", b"\xd8\x1c\x80", b"\xc2\x41a", b"\xc0\x61a"])
def test_senml_of_a_tag_that_it_has_no_use_for(tagged: bytes) -> None:
    (refusal,) = convert(("senml/a", "senml", {"filter": "senml/+"}), b"\x81\xa1\x03" + tagged).packet.rejections
    assert (refusal.index, refusal.code) == (0, Code.BAD_FORM)


def test_senml_of_decimal_fractions() -> None:
    pack = b"\x81\xa2\x00\x61n\x02\xc4\x82\x21\x19\x01\x01"  # 257 * 10^-2
    (draft,) = convert(("senml/a", "senml", {"filter": "senml/+"}), pack).packet.readings
    assert draft.value == 2.57


class Edge:
    """An edge node with one metric, and the converter that hears it."""

    def __init__(self) -> None:
        self.converters = converters("sparkplug", {"filter": "spBv1.0/#"})
        self.now_us = RECEIVED_US

    def birth(self, seq: int, sent_ms: int, bd_seq: int = 0) -> Conversion:
        metrics = [
            metric("bdSeq", sent_ms, 4, long_value=bd_seq),
            metric("a", sent_ms, 3, alias=1, int_value=2**32 - 1),
        ]
        return self._send("NBIRTH", encode(sent_ms, metrics, seq))

    def data(self, seq: int, sent_ms: int) -> Conversion:
        return self._send("NDATA", encode(sent_ms, [metric(None, sent_ms, None, alias=1, int_value=5)], seq))

    def death(self, bd_seq: int) -> Conversion:
        return self._send("NDEATH", encode(None, [metric("bdSeq", None, 4, long_value=bd_seq)], None))

    def _send(self, kind: str, payload: bytes) -> Conversion:
        return self.converters.convert(f"spBv1.0/g/{kind}/n", payload, received_us=self.now_us)


def test_sparkplug_integers_are_as_their_birth_says() -> None:
    assert Edge().birth(0, 1_000).packet.readings[0].value == -1


def test_sparkplug_message_that_comes_twice_is_no_gap() -> None:
    edge = Edge()
    edge.birth(0, 1_000)
    for _ in range(2):
        assert edge.data(1, 2_000).outcome == "readings"
    edge.now_us += 60_000_000
    again = edge.data(2, 3_000)
    assert (again.outcome, again.outgoing) == ("readings", ())


def test_sparkplug_birth_that_was_missed_shows_in_the_count() -> None:
    """57 was due; 1 comes, and is newer."""
    edge = Edge()
    edge.birth(0, 1_000)
    for seq in range(1, 57):
        edge.data(seq, 1_000 + seq)
    conversion = edge.data(1, 90_000)
    assert conversion.outcome == "refused"
    assert [ask.topic for ask in conversion.outgoing] == ["spBv1.0/g/NCMD/n"]
    assert edge.birth(0, 91_000).outcome == "readings"
    assert edge.data(1, 92_000).outcome == "readings"


def test_sparkplug_count_goes_round() -> None:
    edge = Edge()
    edge.birth(0, 1_000)
    for number in range(1, 600):
        edge.now_us += 10_000_000
        conversion = edge.data(number % 256, 1_000 + number)
        assert (conversion.outcome, conversion.outgoing) == ("readings", ())


def test_sparkplug_will_of_the_session_before_is_not_this_ones_death() -> None:
    edge = Edge()
    edge.birth(0, 1_000, bd_seq=4)
    edge.death(3)
    assert edge.data(1, 2_000).outcome == "readings"
    edge.death(4)
    assert edge.data(2, 3_000).outcome == "refused"


def test_sparkplug_metric_that_was_in_doubt_can_be_replayed() -> None:
    """It keeps the name and the type that it had when it came."""
    edge = Edge()
    edge.birth(0, 1_000)
    edge.data(1, 2_000)
    doubtful = edge.data(250, 3_000)
    assert doubtful.outcome == "refused"
    assert doubtful.packet.excerpts is not None
    kept = doubtful.packet.excerpts([1])[1]
    again = Edge().converters.convert("spBv1.0/g/NDATA/n", kept, received_us=RECEIVED_US)
    (draft,) = again.packet.readings
    assert (draft.sensor, draft.value, draft.ts_us) == (ExternalId("sparkplug/g/n#a"), 5.0, 3_000_000)
    assert again.outgoing  # of whoever replays: nobody publishes it
