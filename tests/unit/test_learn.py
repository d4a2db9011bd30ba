"""Learning: golden samples are recognised as what they are, and what is written can be read by what reads it."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.mqtt.converters import learn
from bridge.mqtt.converters.learn import MAX_UNKNOWN, Learner, channel_rows, csv_rows, golden, toml
from bridge.mqtt.converters.recognise import recognise
from bridge.settings.mqtt import MqttSettings
from tests.support.golden import RECEIVED_US, load, payload_of, samples
from tests.unit.test_converters_golden import check_sample

BY_SHAPE = {"tasmota", "zigbee2mqtt", "shelly1", "shelly2", "esphome", "homie", "chirpstack", "ttn", "senml", "rtl_433"}
BY_SHAPE |= {"sparkplug"}


def heard() -> Learner:
    """Every golden sample of a format that can be told by its looks."""
    learner = Learner()
    for number, path in enumerate(samples()):
        if path.parent.name in BY_SHAPE and path.stem != "malformed":
            for message in load(path)["messages"]:
                if not message["topic"].startswith("zigbee/"):  # a base topic of somebody's own
                    learner.hear(
                        message["topic"],
                        payload_of(message),
                        received_us=RECEIVED_US + number * 1_000_000,
                        retained=message.get("retained", False),
                    )
    return learner


@pytest.mark.parametrize("path", [p for p in samples() if p.parent.name in BY_SHAPE], ids=lambda p: p.parent.name)
def test_samples_with_readings_are_recognised(path: Path) -> None:
    for message in load(path)["messages"]:
        if message["readings"] and not message["topic"].startswith("zigbee/"):
            guess = recognise(message["topic"], payload_of(message))
            assert guess is not None
            assert guess[0] == path.parent.name


def test_what_is_learned_can_be_used(tmp_path: Path) -> None:
    learner = heard()
    everything = BY_SHAPE | {"value"}  # a version of a text sensor looks like a number
    assert {finding.format for finding in learner.findings} == everything
    configuration = tomllib.loads(toml(learner.findings))
    found = MqttSettings(converters=configuration["mqtt"]["converters"])
    assert {converter.format for converter in found.converters} == everything
    rows = csv_rows(learner.findings)
    assert rows[0] == ("external_id", "sensor", "unit_in", "example")
    assert ("tasmota/kitchen#AM2301.Temperature", "", "", "24.6") in rows
    for finding in learner.findings:
        path = tmp_path / finding.format / "learned.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode(golden(finding, "learned")))
        check_sample(path)


@pytest.mark.parametrize(
    ("local", "hint"), [("2026-01-28T10:00:20", ""), ("2026-01-28T12:00:07", "+2 h"), ("2026-01-28T04:29:58", "-5.5 h")]
)
def test_times_that_are_local(local: str, hint: str) -> None:
    learner = Learner()
    payload = b'{"Time":"%s","AM2301":{"Temperature":20.5}}' % local.encode()
    learner.hear("tele/kitchen/SENSOR", payload, received_us=RECEIVED_US, retained=False)
    written = toml(learner.findings)
    assert (f"about {hint} from UTC" in written) if hint else ("zone" not in written)


def test_base_topic_of_zigbee2mqtt_is_told_by_its_bridge() -> None:
    learner = Learner()
    for topic, payload in (("home/bridge/state", b'{"state":"online"}'), ("home/hall", b'{"temperature":20.5}')):
        learner.hear(topic, payload, received_us=RECEIVED_US, retained=False)
    (finding,) = learner.findings
    assert finding.summary()["filter"] == "home/#"
    assert finding.channels == {"zigbee2mqtt/hall#temperature": 20.5}


@pytest.mark.parametrize(
    ("topic", "payload", "guess"),
    [
        ("devices/5f0c1f5e-0000-4000-8000-00000000000a/readings", b"{}", ("native", "")),
        ("kitchen/tele/SENSOR", b"{}", ("tasmota", "+/tele/+")),
        ("meters/hall/pressure", b"1013.2", ("value", "meters/+/+")),
        ("pressure", b"1013.2", ("value", "pressure")),
        ("plant/x", b'{"value": 1}', ("value", "plant/+")),
        ("plant/x", b'{"a": 1}', None),
        ("plant/x", b"[1, 2]", None),
        ("plant/x", b"\x81\xa2\x00aa\x02\x01", ("senml", "plant/+")),
        ("plant/x", b"\x81\xff", None),
        ("plant/x", b"", None),
        ("tele/LWT", b"Online", None),
    ],
)
def test_recognise(topic: str, payload: bytes, guess: tuple[str, str] | None) -> None:
    assert recognise(topic, payload) == guess


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["tele", "SENSOR", "shellies", "homie", "5", "events", "rpc", "state", "sensor", "v3", "", "$x"]
        )
        | st.text(st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), max_size=4),
        min_size=1,
        max_size=6,
    ).map("/".join),
    st.binary(max_size=30) | st.text(max_size=10).map(str.encode),
    st.booleans(),
)
def test_learning_from_anything(topic: str, payload: bytes, retained: bool) -> None:
    learner = Learner()
    for _ in range(2):
        learner.hear(topic, payload, received_us=RECEIVED_US, retained=retained)
    tomllib.loads(toml(learner.findings))
    csv_rows(learner.findings)
    for finding in learner.findings:
        finding.summary()
        if finding.settings is not None:
            msgspec.json.encode(golden(finding, "learned"))


@pytest.mark.parametrize("topic", ["", "a\x1b/b"])
def test_topic_that_no_settings_can_name_is_unknown(topic: str) -> None:
    learner = Learner()
    learner.hear(topic, b"1", received_us=RECEIVED_US, retained=False)
    assert (learner.findings, list(learner.unknown)) == ([], [topic])


def test_learning_is_bounded() -> None:
    learner = Learner()
    for number in range(MAX_UNKNOWN + 100):
        learner.hear(f"plant/{number}/x", b'{"a": 1}', received_us=0, retained=False)
    assert len(learner.unknown) == len(learner.examples) == MAX_UNKNOWN
    assert learner.messages == MAX_UNKNOWN + 100


def test_sensors_file_is_what_the_map_command_reads(tmp_path: Path) -> None:
    from bridge.cli.sensor_map import read

    file = tmp_path / "sensors.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(csv_rows(heard().findings))
    wishes, unmapped = read(file)
    assert wishes == []
    assert unmapped > 30


TTN = b"""{"end_device_ids": {"device_id": "lht65"}, "uplink_message": {"f_cnt": 1, "decoded_payload":
{"TempC_SHT": "21.30", "Ext_sensor": "Temperature Sensor"}}}"""


def test_what_is_taken_and_what_is_not_is_listed_with_an_example() -> None:
    learner = Learner()
    for _ in range(3):
        learner.hear("v3/m5@ttn/devices/lht65/up", TTN, received_us=RECEIVED_US, retained=False)
    name = "ttn/m5@ttn/lht65#"
    assert channel_rows(learner.findings) == [
        {"external_id": f"{name}Ext_sensor", "taken": False, "example": "'Temperature Sensor'", "reason": "text"},
        {"external_id": f"{name}TempC_SHT", "taken": True, "example": "21.3", "reason": ""},
    ]
    (finding,) = learner.findings
    assert finding.not_taken[f"{name}Ext_sensor"].count == 3
    assert finding.summary()["not_taken"] == 1
    assert '# not taken: skip_also = ["Ext_sensor"]' in toml(learner.findings)


def test_channels_that_are_not_taken_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "MAX_CHANNELS", 10)
    learner = Learner()
    for number in range(100):
        payload = b'{"state_%d": 1, "AM2301": {"x%d": "text"}}' % (number, number)
        learner.hear("tele/kitchen/SENSOR", payload, received_us=RECEIVED_US, retained=False)
    assert len(channel_rows(learner.findings)) == 10
