"""`iot-bridge mqtt learn` at a real broker: what it hears is what it writes, and what it writes can be used."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.settings.service import load
from tests.support.mqtt_door import Device
from tests.support.servers import MosquittoProcess
from tests.unit.test_converters_golden import check_sample

COMMAND = (sys.executable, "-m", "bridge", "mqtt", "learn")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("IOT_BRIDGE_")}
SENSOR = b'{"Time":"2026-01-28T10:00:00","AM2301":{"Temperature":24.6,"Humidity":58.2},"TempUnit":"C"}'


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


async def test_learn_from_a_broker(mosquitto: MosquittoProcess, tmp_path: Path) -> None:
    out = tmp_path / "learned"
    process = started("--url", mosquitto.url, "--seconds", "4", "--out", str(out), "--json")
    with Device(mosquitto.port) as device:
        while process.poll() is None:  # it is listening for four seconds of these
            await device.publish(SENSOR, topic="tele/kitchen/SENSOR")
            await device.publish(b'{"temperature": 20.5}', topic="zigbee2mqtt/hall")
            await device.publish(b'{"who": "knows"}', topic="plant/x")
            await asyncio.sleep(0.05)  # a pace, not a wait
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    process.stdout.close()
    assert process.returncode == 0
    assert {(row["format"], row["devices"], row["channels"]) for row in report["formats"]} == {
        ("tasmota", 1, 2),
        ("zigbee2mqtt", 1, 1),
    }
    assert [row["topic"] for row in report["unknown"]] == ["plant/x"]
    assert [converter.format for converter in load(out / "converters.toml").mqtt.converters]
    samples = sorted(out.glob("golden/*/*.json"))
    assert {path.parent.name for path in samples} == {"tasmota", "zigbee2mqtt"}
    for path in samples:
        check_sample(path)
    assert "tasmota/kitchen#AM2301.Temperature,,,24.6" in (out / "sensors.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--url", "mqtt://127.0.0.1:1", "--seconds", "1"), 3, "Connection refused"),
        (("--seconds", "1"), 2, "no broker"),
        (("--url", "mqtt://127.0.0.1:1", "--filter", "a#"), 2, "# stands alone"),
        (("--url", "http://x"), 2, "url"),
    ],
)
def test_learn_that_cannot(arguments: tuple[str, ...], code: int, text: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
