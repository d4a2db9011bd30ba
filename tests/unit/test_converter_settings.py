"""`mqtt.converters` in the configuration: what is taken, and each mistake with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.mqtt.converters.formats import FORMATS
from bridge.settings.mqtt import ConverterSettings
from bridge.settings.service import load


def loaded(tmp_path: Path, text: str) -> list[str]:
    """Problems of a configuration."""
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    try:
        load(file)
    except ConfigError as error:
        return error.problems
    return []


def test_formats_of_the_settings_are_those_that_there_are() -> None:
    allowed = ConverterSettings.model_fields["format"].annotation.__args__  # type: ignore[union-attr]
    assert set(allowed) == set(FORMATS)


def test_every_mistake_is_reported_with_its_key(tmp_path: Path) -> None:
    problems = loaded(
        tmp_path,
        """
        [[mqtt.converters]]
        filter = "tele/+/SENSOR"
        format = "tasmoto"
        zone = "Europe/Nowhere"
        colour = "red"
        [[mqtt.converters]]
        filter = "a/b+"
        format = "senml"
        namespace = "a/b"
        [[mqtt.converters]]
        filter = "x/+"
        format = "mapping"
        device = "levels[0"
        value = "payload.v"
        [[mqtt.converters]]
        filter = "y/+"
        format = "tasmota"
        sensor = "a"
        """,
    )
    assert [problem.split(" ")[0].rstrip(":") for problem in problems] == [
        "mqtt.converters.0.format",
        "mqtt.converters.0.zone",
        "mqtt.converters.0.colour",
        "mqtt.converters.1.filter",
        "mqtt.converters.1.namespace",
        "mqtt.converters.2",
        "mqtt.converters.3",
    ]
    assert "'tasmota'" in problems[0]
    assert "sensor is missing; device is not JMESPath" in problems[5]
    assert "sensor: only for format = 'mapping'" in problems[6]


def test_mistake_of_a_table_does_not_print_its_secrets(tmp_path: Path) -> None:
    text = '[mqtt]\npassword = "s3cret"\n[[mqtt.converters]]\nfilter = "x/+"\nformat = "mapping"\n'
    assert "s3cret" not in "".join(loaded(tmp_path, text))


def test_subscriptions_are_none_that_another_contains(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(
        '[[mqtt.converters]]\nfilter = "z/bridge/#"\nformat = "ignore"\n'
        '[[mqtt.converters]]\nfilter = "z/#"\nformat = "zigbee2mqtt"\n'
        '[[mqtt.converters]]\nfilter = "z/#"\nformat = "value"\n'
    )
    settings = load(file).mqtt
    assert settings.subscriptions == [*settings.topics, "z/#"]


def test_converters_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_BRIDGE_MQTT__CONVERTERS", '[{"filter": "tele/+/SENSOR", "format": "tasmota"}]')
    (converter,) = load(None).mqtt.converters
    assert converter == ConverterSettings(filter="tele/+/SENSOR", format="tasmota")


DOCS = (Path(__file__).parent.parent.parent / "docs" / "converters.md").read_text()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_documented(name: str) -> None:
    assert any(line.startswith("### ") and f"`{name}`" in line for line in DOCS.splitlines())


@pytest.mark.parametrize("key", ConverterSettings.model_fields)
def test_every_key_is_documented(key: str) -> None:
    assert any(line.startswith("| ") and f"`{key}`" in line for line in DOCS.splitlines())
