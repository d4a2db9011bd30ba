"""`iot-bridge simulate` where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.commands import Commands

DEVICE = {
    "device_uuid": "5f0c1f5e-0000-4000-8000-00000000000d",
    "device_key": "dk_1",
    "sensors": [{"sensor_uuid": "5f0c1f5e-0000-4000-8000-000000000001", "sensor_type": "temperature"}],
}


def test_simulate_against_a_door_that_is_closed(commands: Commands, tmp_path: Path) -> None:
    devices = tmp_path / "devices"
    devices.write_text(json.dumps(DEVICE) + "\n")
    arguments = ["simulate", "--registered", str(devices), "--http", "http://127.0.0.1:1", "--seconds", "0.5"]
    answer = commands.json(*arguments, "--rate", "20", expect=1)
    assert answer["acknowledged"] == 0
    assert answer["unacknowledged"] > 0
    assert answer["retries"] > 0


def test_simulate_says_every_mistake(commands: Commands, tmp_path: Path) -> None:
    devices = tmp_path / "devices"
    devices.write_text(json.dumps(DEVICE) + "\n")
    registered = ["simulate", "--registered", str(devices)]
    assert commands.problems(*registered, "--http", "ftp://x", "--mqtt", "x") == [
        "--http ftp://x: write http://host:port",
        "--mqtt x: write mqtt://host:port",
    ]
    devices.write_text("{}\n")
    assert "iot-bridge device add --json" in commands.problems(*registered, "--http", "http://h")[0]
    devices.write_text("\n")
    assert "no device" in commands.problems(*registered, "--http", "http://h")[0]
    for option in ("--devices=0", "--rate=0", "--seconds=0"):
        commands.json("simulate", option, expect=2)
