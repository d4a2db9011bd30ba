"""Each value of a message is taken, refused, known to be no measurement, or unknown: of every golden sample, and of
samples whose fields are dropped, renamed, of another type, or there twice.

The leaves are counted here, by their own rule, from the bytes. What stands around the measurements by definition of
a format is not counted, on either side: see `BODIES`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.model.reading import DecodedReading, Packet, Rejection, UnknownField
from bridge.mqtt.converters.formats import FORMATS
from tests.support.golden import RECEIVED_US, converters_of, load, payload_of, samples

BODIES = {"ttn": ("uplink_message", "decoded_payload"), "chirpstack": ("object",)}
"""Where the codec's values are; all else is the network server's, as its documentation says."""
OTHERS = {"packet", "legacy", "ignore", "sparkplug", "value", "mapping"}
"""Our own forms, protobuf, and expressions that say what they take: their own tests count."""
SENML_VALUES = {"v", "vb", "vs", "vd", "s", 2, 3, 4, 8, 5}

Leaf = tuple[tuple[Any, ...], Any]


class Members(list[tuple[str, Any]]):
    """An object as it stands in the bytes: a name may be there twice."""


def leaves(document: Any, *path: Any) -> Iterator[Leaf]:
    """Every scalar, with its path."""
    if isinstance(document, Members):
        for key, value in document:
            yield from leaves(value, *path, key)
    elif isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, *path, key)
    elif isinstance(document, list):
        for place, value in enumerate(document):
            yield from leaves(value, *path, place)
    else:
        yield path, document


def expected(format_name: str, payload: bytes) -> int:
    """How many values a message has."""
    if format_name == "senml":
        return senml_leaves(payload)
    if payload.lstrip()[:1] != b"{":
        return 1
    document = loads(payload)
    if format_name not in BODIES:
        document = loads(payload, object_pairs_hook=Members)
    for key in BODIES.get(format_name, ()):
        document = document[key]
    return sum(1 for _ in leaves(document))


_BARE_NAN = re.compile(rb":\s*[-+]?(nan(\(ind\))?|inf|ovf|1\.#ind00)(?=\s*[,}\]])", re.IGNORECASE)


def loads(payload: bytes, **options: Any) -> Any:
    """JSON, with null for what is no number of JSON."""
    return json.loads(_BARE_NAN.sub(b":null", payload), **options)


def senml_leaves(payload: bytes) -> int:
    """A value that is no scalar is one refused value; one that `bv` alone gives is a reading without a leaf."""
    twice = 0
    if payload.lstrip()[:1] == b"[":
        twice = sum(1 for _ in leaves(loads(payload, object_pairs_hook=Members)))
        twice -= sum(1 for _ in leaves(loads(payload)))
    pack = loads(payload) if payload.lstrip()[:1] == b"[" else cbor2.loads(payload)
    count, based = twice, False
    for record in pack:
        based = based or bool(record.keys() & {"bv", -5})
        count += based and not record.keys() & SENML_VALUES
        for key, value in record.items():
            count += 1 if key in SENML_VALUES else sum(1 for _ in leaves(value))
    return count


def accounted(packet: Packet) -> int | None:
    """How many values a packet accounts for; None: all of them, the message is judged as a whole."""
    if packet.no_measurement or 0 in indexes_of(packet):
        assert not packet.readings
        return None
    return len(packet.readings) + len(packet.rejections) + len(packet.unknown) + packet.known


def indexes_of(packet: Packet) -> list[int]:
    parts: list[DecodedReading | Rejection | UnknownField] = [*packet.readings, *packet.rejections, *packet.unknown]
    return [part.index for part in parts]


def check(format_name: str, packet: Packet, payload: bytes) -> None:
    found = accounted(packet)
    assert found is None or found == expected(format_name, payload), packet
    indexes = indexes_of(packet)
    assert len(indexes) == len(set(indexes))


@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize(
    "path",
    [path for path in samples() if path.parent.name not in OTHERS],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_leaf_of_a_golden_sample(path: Path, retained: bool) -> None:
    sample = load(path)
    converters = converters_of(sample)
    for message in sample["messages"]:
        payload = payload_of(message)
        packet = converters.convert(message["topic"], payload, received_us=RECEIVED_US, retained=retained).packet
        check(path.parent.name, packet, payload)


def documents() -> list[tuple[dict[str, Any], str, Any]]:
    """(sample, topic, document) of every message that is JSON, and is not judged as a whole."""
    found = []
    for path in samples():
        if path.parent.name in OTHERS:
            continue
        sample = load(path)
        for message in sample["messages"]:
            payload = payload_of(message)
            packet = converters_of(sample).convert(message["topic"], payload, received_us=RECEIVED_US).packet
            if payload.lstrip()[:1] in (b"{", b"[") and accounted(packet) is not None:
                found.append((sample, message["topic"], loads(payload)))
    return found


VALUES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        -1,
        21.5,
        1e300,
        10**30,
        "",
        "21.5",
        "-0.10",
        "nan",
        "ON",
        "off",
        "warm",
        "2026-01-28T10:00:00",
    ]
) | st.sampled_from([[], {}, [1, "x"], {"a": {"b": 2}}, [[None]], {"": 1}])


def mutate(document: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """One field of the document is dropped, renamed, of another type, or repeated."""
    parents = [document, *containers(document)]
    parent = draw(st.sampled_from(parents))
    if not parent:
        return
    kind = draw(st.sampled_from(["drop", "rename", "retype", "repeat"]))
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    key = draw(st.sampled_from(keys))
    name = draw(st.sampled_from(["x", "Temperature", "temperature", "state", "v", "vs", "s", "Id", "a.b", "StatusSNS"]))
    if kind == "retype":
        parent[key] = copy.deepcopy(draw(VALUES))
    elif kind == "drop":
        del parent[key]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[name] = copy.deepcopy(parent[key]) if kind == "repeat" else parent.pop(key)


def repeat_in_bytes(payload: bytes, value: str) -> bytes:
    """The first member of the first object stands before itself, with another value."""
    name, colon, rest = payload.partition(b":")
    head, _, name = name.rpartition(b"{")
    if not colon or not name.strip().startswith(b'"'):
        return payload
    return b"%s{%s:%s,%s:%s" % (head, name, value.encode(), name, rest)


def containers(document: Any) -> Iterator[Any]:
    for value in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        if isinstance(value, dict | list):
            yield value
            yield from containers(value)


@settings(max_examples=1_500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_leaf_of_a_mutated_sample(data: st.DataObject) -> None:
    sample, topic, document = data.draw(st.sampled_from(documents_once))
    document = copy.deepcopy(document)
    body = document
    if data.draw(st.integers(0, 4)):  # mostly not what stands around the values: that is refused as a whole
        for key in BODIES.get(sample["converter"]["format"], ()):
            body = body[key]
    for _ in range(data.draw(st.integers(1, 4))):
        mutate(body, data.draw)
    payload = json.dumps(
        document, separators=data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]))
    ).encode()
    if sample["converter"]["format"] not in BODIES and data.draw(st.booleans()):
        payload = repeat_in_bytes(payload, data.draw(st.sampled_from(["21.5", '"text"', "null", '{"a": [1, 2]}'])))
    extra = data.draw(st.sampled_from([{}, {"skip": ()}, {"take": ("*emp*",)}, {"skip_also": ("*a*", "x")}]))
    converters = converters_of(sample | {"converter": sample["converter"] | extra})
    packet = converters.convert(topic, payload, received_us=RECEIVED_US, retained=data.draw(st.booleans())).packet
    check(sample["converter"]["format"], packet, payload)


documents_once = documents()


def test_every_format_is_counted_or_says_why_not() -> None:
    assert {path.parent.name for path in samples()} - OTHERS == set(FORMATS) - OTHERS


def test_what_stands_before_a_name_again_is_unknown() -> None:
    twice = b'{"Temperature":21.5,"Temperature":22.5}'
    payload = b'{"Time":"2026-11-26T09:15:32","DS18B20":{"Temperature":20.5},"DS18B20":%s}' % twice
    converters = converters_of({"converter": {"filter": "tele/+/SENSOR", "format": "tasmota"}})
    packet = converters.convert("tele/kitchen/SENSOR", payload, received_us=RECEIVED_US).packet
    assert [reading.value for reading in packet.readings] == [22.5]
    assert [(field.index, field.name, field.value) for field in packet.unknown] == [
        (3, "tasmota/kitchen#DS18B20.Temperature", 20.5),
        (4, "tasmota/kitchen#DS18B20.Temperature", 21.5),
    ]
    assert packet.known == 1


def test_text_that_looks_like_a_name_is_no_name() -> None:
    payload = b'{"DS18B20" : {"Id":"a\\":b","Temperature":20.5}}'
    converters = converters_of({"converter": {"filter": "tele/+/SENSOR", "format": "tasmota"}})
    packet = converters.convert("tele/kitchen/SENSOR", payload, received_us=RECEIVED_US).packet
    assert (len(packet.readings), packet.unknown, packet.known) == (1, (), 1)
