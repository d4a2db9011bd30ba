"""`value` and `mapping`: each value of a document is taken, known, unknown or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model.reading import Code, ExternalId, Packet
from bridge.mqtt.converters.select import Converters
from bridge.settings.mqtt import ConverterSettings, MqttSettings
from tests.support.golden import RECEIVED_US

scalars = st.none() | st.booleans() | st.integers(0, 10**10) | st.sampled_from(["21.5", "ON", "x", "2026-01-28"])
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)
)
names = st.sampled_from(["value", "ts", "sensor_ts", "timestamp", "sequence", "msgId", "unit", "battery", "meta"])


def converted(payload: bytes, topic: str = "meters/hall/p", **options: Any) -> Packet:
    settings = ConverterSettings.model_validate({"filter": "meters/+/+", "format": "value", **options})
    return Converters(MqttSettings(converters=(settings,))).convert(topic, payload, received_us=RECEIVED_US).packet


def leaves(document: Any) -> Iterator[Any]:
    if isinstance(document, dict | list):
        for item in document.values() if isinstance(document, dict) else document:
            yield from leaves(item)
    else:
        yield document


@given(st.dictionaries(names, anything, max_size=6), st.sampled_from([(), ("p",), ("other",)]), st.booleans())
def test_every_leaf_of_a_value_is_accounted_for(document: dict[str, Any], take: tuple[str, ...], receipt: bool) -> None:
    packet = converted(
        json.dumps(document).encode(), take=take, clock="receipt" if receipt else "device", skip_also=["unit"]
    )
    if any(rejection.index == 0 for rejection in packet.rejections):
        assert len(packet.rejections) == 1
        assert not packet.readings
        return
    found = len(packet.readings) + len(packet.rejections) + len(packet.unknown) + packet.known
    # Of our own fields each is one, whatever it holds; a value that is missing is a refusal without a leaf.
    ours = {"value", "ts", "sensor_ts", "timestamp", "sequence", "msgId"} & document.keys()
    others = sum(1 for key in document.keys() - ours for _ in leaves(document[key]))
    assert found == len(ours) + others + ("value" not in document)


def test_fields_that_nobody_knows_are_said() -> None:
    packet = converted(b'{"value": 1, "unit": "bar", "battery": {"v": 3.1, "low": null}}')
    assert [(field.name, field.value) for field in packet.unknown] == [
        ("value/hall#unit", "bar"),
        ("value/hall#battery.v", 3.1),
    ]
    assert packet.known == 1  # null


def test_msg_id_is_the_identity_of_a_reading() -> None:
    (decoded,) = converted(b'{"value": 1, "msgId": "m1"}').readings
    assert decoded.key == "m1"
    for wrong in (b'""', b"7", b'"%s"' % (b"x" * 256)):
        (refusal,) = converted(b'{"value": 1, "msgId": %s}' % wrong).rejections
        assert (refusal.index, refusal.code) == (0, Code.BAD_FORM)


def test_text_of_a_mapping_is_no_measurement_and_is_said() -> None:
    options = {"format": "mapping", "each": "payload", "device": "levels[0]", "sensor": "item.n", "value": "item.v"}
    rows = [{"n": "a", "v": 1}, {"n": "b", "v": "MSN0573"}, {"n": "c", "v": "1.5"}, {"n": "d", "v": None}]
    rows += [{"n": "e", "v": [1]}, {"n": "f", "v": True}]
    payload = json.dumps(rows).encode()
    packet = converted(payload, **options)
    assert [(d.sensor, d.value) for d in packet.readings] == [
        (ExternalId("mapping/hall#a"), 1.0),
        (ExternalId("mapping/hall#c"), 1.5),
        (ExternalId("mapping/hall#f"), 1.0),
    ]
    assert [(field.name, field.reason) for field in packet.unknown] == [
        ("mapping/hall#b", "text"),
        ("mapping/hall#e", "neither a number nor text"),
    ]
    assert (packet.known, packet.rejections) == (1, ())
    refused = converted(payload, **options, take=["b"]).rejections
    assert [(one.index, one.code) for one in refused] == [(2, Code.BAD_VALUE)]


@pytest.mark.parametrize("body", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}', b'\xef\xbb\xbf \n{"a": 1}\0\0'])
def test_mapping_of_a_document_with_marks_around_it(body: bytes) -> None:
    options = {"format": "mapping", "device": "levels[0]", "sensor": "'a'", "value": "payload.a"}
    assert [d.value for d in converted(body, **options).readings] == [1.0]


@pytest.mark.parametrize("format_name", ["packet", "legacy"])
def test_unit_of_time_is_not_for_our_own_packets(format_name: str) -> None:
    with pytest.raises(ValueError, match="time_unit: not for format"):
        ConverterSettings.model_validate({"filter": "a/#", "format": format_name, "time_unit": "ms"})
