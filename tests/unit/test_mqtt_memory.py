"""What senders choose and converters keep: bounded in count and in size, for every format there is."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.mqtt.converters.formats import FORMATS
from bridge.mqtt.converters.learn import MAX_FINDINGS, Learner
from bridge.mqtt.converters.select import Converters
from bridge.mqtt.converters.sparkplug_nodes import Nodes
from bridge.mqtt.converters.sparkplug_payload import decode_payload
from bridge.settings.mqtt import ConverterSettings, MqttSettings
from tests.support.golden import RECEIVED_US, converters_of, load, payload_of, samples
from tests.support.sparkplug import encode, metric

LONG = 50_000
MESSAGES = 400
KEPT_BYTES = 4 << 20
"""What is sent is five to ten times as much."""


class HeldBytes:
    """What is held more than when it was made."""

    def __init__(self) -> None:
        gc.collect()
        tracemalloc.start()

    def grown(self) -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


@pytest.fixture
def memory() -> Iterator[HeldBytes]:
    yield HeldBytes()
    tracemalloc.stop()


def hostile(number: int) -> Iterator[tuple[str, bytes]]:
    """Topics and payloads that have a long text of their own wherever there is one."""
    text = f"{number}-".ljust(LONG, "x")
    birth = encode(1_000, [metric(text, 1_000, 9, alias=number, float_value=1.5)], 0)
    yield f"spBv1.0/g/NBIRTH/{text}", b""
    yield "spBv1.0/g/NBIRTH/n", birth
    yield f"spBv1.0/g/DBIRTH/n/{text}", birth
    for topic in (f"devices/{text}/readings", f"iot/sensors/{text}/readings", f"x/{text}", f"{text}/x/state", text):
        yield topic, b"1"
        yield topic, b'{"' + text.encode() + b'": 1}'


@pytest.mark.parametrize("name", FORMATS)
def test_converter_keeps_no_texts_of_its_senders(name: str, memory: HeldBytes) -> None:
    options = {"device": "levels[0]", "sensor": "levels[1]", "value": "payload"} if name == "mapping" else {}
    entry = ConverterSettings.model_validate({"filter": "#", "format": name, **options})
    converters = Converters(MqttSettings(converters=(entry,)))
    for number in range(MESSAGES // 4):
        for topic, payload in hostile(number):
            converters.convert(topic, payload, received_us=RECEIVED_US)
    assert memory.grown() < KEPT_BYTES


def test_learner_keeps_no_texts_of_its_senders(memory: HeldBytes) -> None:
    learner = Learner()
    for number in range(MESSAGES // 4):
        for topic, payload in hostile(number):
            learner.hear(topic, payload, received_us=RECEIVED_US, retained=False)
    assert memory.grown() < KEPT_BYTES


def test_learner_bounds_what_it_finds() -> None:
    learner = Learner()
    for number in range(MAX_FINDINGS + 10):
        learner.hear(f"{number}/a/b", b"1", received_us=RECEIVED_US, retained=False)
    assert len(learner.findings) == MAX_FINDINGS
    assert len(learner.unknown) == 10


@pytest.mark.parametrize("kind", ["DBIRTH", "NBIRTH"])
def test_one_sparkplug_node_cannot_hold_more_than_all_may(kind: str) -> None:
    nodes = Nodes(max_names=50)
    for number in range(200):
        metrics = [metric(f"m{number}", 1_000, 9, alias=1_000 * number + i, float_value=1.5) for i in range(4)]
        nodes.see(kind, "g/n", f"d{number}", decode_payload(encode(1_000, metrics if number % 2 else [], 0)), 0)
        assert nodes.names <= 50


@pytest.mark.parametrize("path", samples(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_sender_of_a_message_is_short(path: Path) -> None:
    sample = load(path)
    converters = converters_of(sample)
    for message in sample["messages"]:
        found = converters.convert(message["topic"], payload_of(message), received_us=RECEIVED_US)
        assert 0 < len(found.sender) <= 255
