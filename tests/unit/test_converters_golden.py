"""Golden samples of every format: documented messages become what they say, malformed ones name the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.mqtt.converters.formats import FORMATS
from bridge.mqtt.converters.message import NOTHING
from bridge.pipeline.decode import parse_time
from tests.support.golden import FOLDER, RECEIVED_US, converters_of, load, outcome, payload_of, samples


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", samples(), ids=name)
def test_golden_sample(path: Path) -> None:
    check_sample(path)


def check_sample(path: Path) -> None:
    """Every message of a sample becomes what the sample says."""
    sample = load(path)
    assert sample["converter"]["format"] == path.parent.name
    assert sample["source"]
    converters = converters_of(sample)
    received_us = parse_time(sample.get("received_at"), "received_at") or RECEIVED_US
    for message in sample["messages"]:
        received_us += round(message.get("after_s", 0) * 1_000_000)
        found = outcome(
            converters.convert(
                message["topic"],
                payload_of(message),
                received_us=received_us,
                retained=message.get("retained", False),
            )
        )
        assert found["readings"] == message["readings"], message["topic"]
        assert found["asks"] == message.get("asks", [])
        for kind in ("unknown", "known"):
            assert kind not in message or found[kind] == message[kind], (message["topic"], kind)
        check_refused(found["refused"], message.get("refused", []))


def check_refused(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same codes, and details that name the field."""
    assert [(row["index"], row["code"]) for row in found] == [(row["index"], row["code"]) for row in expected], found
    for row, wanted in zip(found, expected, strict=True):
        assert wanted["detail"] in row["detail"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_has_samples(format_name: str) -> None:
    messages = [message for path in samples() if path.parent.name == format_name for message in load(path)["messages"]]
    assert messages
    if format_name != "ignore":
        assert any(message["readings"] for message in messages)
        assert any(message.get("refused") for message in messages)


def test_every_folder_is_a_format() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FORMATS)


def test_a_message_of_nothing_settles_at_once() -> None:
    assert not NOTHING.readings
    assert not NOTHING.rejections


def test_golden_samples_are_json_as_it_is_sent() -> None:
    """A payload goes through the same bytes in a replay: nothing in a sample depends on the spelling of JSON."""
    for path in samples():
        for message in load(path)["messages"]:
            if "json" in message:
                assert json.loads(payload_of(message)) == message["json"]
