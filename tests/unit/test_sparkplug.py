"""Sparkplug payloads: every metric is taken, known, unknown or refused, whatever clients put into them."""

from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import DecodeError
from bridge.model.reading import Code, ExternalId, Packet
from bridge.mqtt.converters.select import Converters
from bridge.mqtt.converters.sparkplug_compressed import MAX_INFLATED_BYTES, UUID, inflate
from bridge.mqtt.converters.sparkplug_metric import MAX_TEMPLATE_DEPTH
from bridge.mqtt.converters.sparkplug_payload import MAX_METRICS, decode_payload
from bridge.settings.mqtt import ConverterSettings, MqttSettings
from tests.support.golden import RECEIVED_US
from tests.support.sparkplug import encode, metric

SENT_MS = 1_769_594_400_000
QUALITY = {"keys": ["engUnit", "Quality"], "values": [{"type": 12}, {"type": 3, "int_value": 500}]}


def converters(**options: Any) -> Converters:
    settings_ = ConverterSettings.model_validate({"filter": "spBv1.0/#", "format": "sparkplug", **options})
    return Converters(MqttSettings(converters=(settings_,)))


def birth(metrics: list[dict[str, Any]], **options: Any) -> Packet:
    payload = encode(SENT_MS, metrics, 0)
    return converters(**options).convert("spBv1.0/g/NBIRTH/n", payload, received_us=RECEIVED_US).packet


def values(packet: Packet) -> dict[str, float]:
    return {d.sensor.text.partition("#")[2]: d.value for d in packet.readings if isinstance(d.sensor, ExternalId)}


def unknown(packet: Packet) -> dict[str, str]:
    return {field.name.partition("#")[2]: field.reason for field in packet.unknown}


def accounted(packet: Packet) -> int:
    return len(packet.readings) + len(packet.rejections) + len(packet.unknown) + packet.known


VALUES: Sequence[st.SearchStrategy[dict[str, Any]]] = (
    st.fixed_dictionaries({"int_value": st.integers(0, 2**32 - 1)}),
    st.fixed_dictionaries({"long_value": st.integers(0, 2**64 - 1)}),
    st.fixed_dictionaries({"double_value": st.floats()}),
    st.fixed_dictionaries({"boolean_value": st.booleans()}),
    st.fixed_dictionaries({"string_value": st.sampled_from(["21.5", "on", "MSN0573", "", "\0"])}),
    st.fixed_dictionaries({"bytes_value": st.binary(max_size=3)}),
    st.fixed_dictionaries({"dataset_value": st.just({"columns": ["a"]})}),
    st.fixed_dictionaries({"template_value": st.just({"is_definition": True})}),
    st.fixed_dictionaries({"template_value": st.just({"version": "1"})}),
    st.fixed_dictionaries({"is_null": st.just(True)}),
    st.just({}),
)


@st.composite
def metrics(draw: st.DrawFn) -> dict[str, Any]:
    found = draw(st.one_of(VALUES))
    optional = {
        "name": st.sampled_from(["a", "b/c", "bdSeq", "Properties/x", "x" * 300, "\0", ""]),
        "alias": st.integers(0, 3),
        "datatype": st.integers(0, 34),
        "timestamp": st.integers(0, 2**64 - 1),
        "properties": st.just(QUALITY),
    }
    return draw(st.fixed_dictionaries({}, optional=optional)) | found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["NBIRTH", "NDATA", "NDEATH"]), st.lists(metrics(), max_size=5)), max_size=4))
def test_every_metric_is_accounted_for(messages: list[tuple[str, list[dict[str, Any]]]]) -> None:
    node = converters()
    for number, (kind, found) in enumerate(messages):
        payload = encode(SENT_MS, found, number)
        packet = node.convert(f"spBv1.0/g/{kind}/n", payload, received_us=RECEIVED_US).packet
        assert accounted(packet) == len(found)
        numbers = [one.index for one in packet.readings]
        numbers += [one.index for one in packet.rejections] + [one.index for one in packet.unknown]
        assert len(set(numbers)) == len(numbers)
        assert all(1 <= one <= len(found) for one in numbers)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=40) | st.text(min_size=1, max_size=40).map(str.encode))
def test_what_is_protobuf_by_chance_is_not_nothing(payload: bytes) -> None:
    conversion = converters().convert("spBv1.0/g/NDATA/n", payload, received_us=RECEIVED_US)
    try:
        decoded = decode_payload(payload)
    except DecodeError:
        assert conversion.outcome == "refused"
    else:
        packet = conversion.packet
        assert accounted(packet) == len(decoded.metrics) + len(decoded.unknown)
        # With no metric it is a payload by its time, its counter or its body.
        assert decoded.metrics or decoded.unknown or (decoded.timestamp_ms, decoded.seq) != (None, None)


def test_why_what_is_not_taken_is_not() -> None:
    packet = birth(
        [
            metric("serial", SENT_MS, 12, string_value="MSN0573"),
            metric("blob", SENT_MS, 17, bytes_value=b"\1"),
            metric("table", SENT_MS, 16, dataset_value={"columns": ["a"]}),
            metric("empty", SENT_MS, 9),
            metric("frozen", SENT_MS, 9, float_value=1.5, properties=QUALITY),
            metric("null", SENT_MS, 9, is_null=True),
            metric("started", SENT_MS, 13, long_value=SENT_MS),
            metric("Properties/os", SENT_MS, 12, string_value="x"),
            metric("good", SENT_MS, 12, string_value="21.5"),
        ]
    )
    assert unknown(packet) == {
        "serial": "text",
        "blob": "neither a number nor text",
        "table": "neither a number nor text",
        "empty": "neither a number nor text",
        "frozen": "its quality is bad or stale",
    }
    assert packet.known == 3
    assert values(packet) == {"good": 21.5}


def test_what_take_names_must_be_a_number() -> None:
    packet = birth(
        [
            metric("serial", SENT_MS, 12, string_value="MSN0573"),
            metric("blob", SENT_MS, 17, bytes_value=b"\1"),
            metric("started", SENT_MS, 13, long_value=5),
            metric("other", SENT_MS, 9, float_value=1.5),
        ],
        take=["serial", "blob", "started"],
    )
    assert [(one.index, one.code) for one in packet.rejections] == [(1, Code.BAD_VALUE), (2, Code.BAD_VALUE)]
    assert values(packet) == {"started": 5.0}
    assert unknown(packet) == {"other": "not among take"}


def test_members_without_a_name_have_a_place() -> None:
    template = {"metrics": [metric(None, None, 9, float_value=1.0), metric("b", None, 9, float_value=2.0)]}
    assert values(birth([metric("m", SENT_MS, 19, template_value=template)])) == {"m/[0]": 1.0, "m/b": 2.0}


def nested(depth: int) -> dict[str, Any]:
    found = metric("x", None, 9, float_value=1.0)
    for _ in range(depth):
        found = metric("m", SENT_MS, 19, template_value={"metrics": [found]})
    return found


def test_templates_in_one_another_without_end() -> None:
    deepest = birth([nested(MAX_TEMPLATE_DEPTH)])
    assert values(deepest) == {"m/" * MAX_TEMPLATE_DEPTH + "x": 1.0}
    (refusal,) = birth([nested(MAX_TEMPLATE_DEPTH + 1)]).rejections
    assert (refusal.index, refusal.code) == (0, Code.TOO_LARGE)


def test_members_count_as_metrics() -> None:
    template = {"metrics": [metric("a", None, 9, float_value=1.0)] * (MAX_METRICS // 2)}
    packet = birth([metric("m", SENT_MS, 19, template_value=template)] * 3)
    assert [one.code for one in packet.rejections] == [Code.TOO_LARGE]


def test_member_of_a_template_is_found_again_in_its_excerpt() -> None:
    """Its name, its time and its quality come from the template around it."""
    inner = [metric("a", None, 1, int_value=251), metric("b", SENT_MS + 1, 9, float_value=2.0)]
    packet = birth([metric("m", SENT_MS, 19, template_value={"metrics": inner})])
    assert packet.excerpts is not None
    for decoded in packet.readings:
        kept = packet.excerpts([decoded.index])[decoded.index]
        (again,) = converters().convert("spBv1.0/g/NDATA/n", kept, received_us=RECEIVED_US).packet.readings
        assert (again.sensor, again.value, again.ts_us) == (decoded.sensor, decoded.value, decoded.ts_us)
    stale = birth([metric("m", SENT_MS, 19, template_value={"metrics": inner}, properties=QUALITY)])
    assert stale.excerpts is not None
    kept = stale.excerpts([1])[1]
    assert unknown(converters().convert("spBv1.0/g/NDATA/n", kept, received_us=RECEIVED_US).packet) == {
        "m/a": "its quality is bad or stale"
    }


def test_fields_beside_the_metrics_are_unknown() -> None:
    payload = encode(SENT_MS, [metric("a", SENT_MS, 9, float_value=1.0)], 0, body=b"\1\2") + b"\x78\x05"
    packet = converters().convert("spBv1.0/g/NBIRTH/n", payload, received_us=RECEIVED_US).packet
    assert values(packet) == {"a": 1.0}
    assert set(unknown(packet)) == {"field 15", "body"}
    assert packet.excerpts is not None
    assert packet.excerpts([2, 3]) == {2: payload, 3: payload}


# -- compression


def test_what_stands_beside_a_compressed_body_is_unknown() -> None:
    body = zlib.compress(encode(SENT_MS, [metric("a", SENT_MS, 9, float_value=1.0)], 0, body=b"again"))
    outer = [metric("algorithm", None, 12, string_value="DEFLATE"), metric("b", None, 9, float_value=2.0)]
    payload = encode(SENT_MS, outer, None, uuid=UUID, body=body)
    packet = converters().convert("spBv1.0/g/NBIRTH/n", payload, received_us=RECEIVED_US).packet
    assert values(packet) == {"a": 1.0}
    assert set(unknown(packet)) == {"b", "body"}


@given(st.binary(max_size=2_000), st.sampled_from(["GZIP", "DEFLATE", "gzip", None]))
def test_what_is_compressed_comes_out_as_it_was(data: bytes, algorithm: str | None) -> None:
    assert (
        inflate(gzip.compress(data) if (algorithm or "").upper() == "GZIP" else zlib.compress(data), algorithm) == data
    )


@given(st.binary(max_size=200), st.sampled_from(["GZIP", "DEFLATE", "LZ4", "", None]))
def test_any_body_inflates_or_is_refused(body: bytes, algorithm: str | None) -> None:
    try:
        assert len(inflate(body, algorithm)) <= MAX_INFLATED_BYTES
    except DecodeError as error:
        assert Code(error.reason)  # noqa: PT017


@pytest.mark.parametrize("algorithm", ["GZIP", "DEFLATE"])
def test_bomb_costs_no_more_than_its_bound(algorithm: str) -> None:
    blocks = zlib.compressobj(9, zlib.DEFLATED, 31 if algorithm == "GZIP" else 15)
    body = b"".join(blocks.compress(bytes(1 << 20)) for _ in range(200)) + blocks.flush()
    assert len(body) < 262_144
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="1048576"):
            inflate(body, algorithm)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_INFLATED_BYTES


@given(st.floats(width=32, allow_nan=False))
def test_float_is_the_same_float_in_no_more_digits_than_it_needs(value: float) -> None:
    packet = birth([metric("a", SENT_MS, 9, float_value=value)])
    if math.isinf(value):
        assert not packet.readings
        return
    found = packet.readings[0].value
    assert struct.unpack("<f", struct.pack("<f", found))[0] == value
    assert len(repr(found).strip("-").partition("e")[0].replace(".", "").strip("0")) <= 9
