"""The example configurations under the programs that read them; skipped where a program is not installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bridge.mqtt.mosquitto import PACKET_OVERHEAD_BYTES, protects_client_ids
from bridge.settings.mqtt import MqttSettings
from tests.support import needs
from tests.support.certificates import Authority
from tests.support.reference import ROOT
from tests.support.servers import free_port, listens, wait_until

CONFIG = ROOT / "config"
DEVICE = "3a1f0c52-0000-4000-8000-000000000001"
OTHER = "3a1f0c52-0000-4000-8000-000000000002"
PASSWORD = "secret"


class SecureBroker:
    """Mosquitto by config/mosquitto, its paths moved to a folder, with two devices and the bridge as users."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        authority = Authority(folder)
        self.ca_file = authority.certificate
        certificate, key = authority.issue("DNS:localhost", "IP:127.0.0.1")
        passwords = folder / "passwords"
        passwords.write_text("".join(f"{user}:{PASSWORD}\n" for user in ("iot-bridge", DEVICE, OTHER)))
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
        text = (CONFIG / "mosquitto" / "mosquitto.conf").read_text()
        for placed, here in (
            ("/etc/mosquitto/certs/ca.crt", self.ca_file),
            ("/etc/mosquitto/certs/server.crt", certificate),
            ("/etc/mosquitto/certs/server.key", key),
            ("/etc/mosquitto/passwords", passwords),
            ("/etc/mosquitto/acl.conf", CONFIG / "mosquitto" / "acl.conf"),
        ):
            assert placed in text
            text = text.replace(placed, str(here))
        conf = folder / "conf.d" / "iot-bridge.conf"
        conf.parent.mkdir()
        text = text.replace("listener 1883", f"listener {free_port()}")
        conf.write_text(text.replace("listener 8883", f"listener {self.port} 127.0.0.1") + "user root\n")
        debian = folder / "mosquitto.conf"  # as Debian's, which includes ours
        debian.write_text(f"persistence true\npersistence_location {folder}/\ninclude_dir {conf.parent}\n")
        self._log = (folder / "mosquitto.log").open("w")
        self._process = subprocess.Popen([program, "-c", str(debian)], stdout=self._log, stderr=self._log)
        wait_until(lambda: listens(self.port), 20)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def client(self, user: str) -> mqtt.Client:
        """A connected client, with its network loop in a thread."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.username_pw_set(user, PASSWORD)
        client.tls_set(ca_certs=str(self.ca_file))
        client.connect("localhost", self.port)
        client.loop_start()
        wait_until(client.is_connected, 20)
        return client


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SecureBroker]:
    needs.program(needs.MOSQUITTO_PASSWD)
    made = SecureBroker(needs.program(needs.MOSQUITTO), tmp_path)
    yield made
    made.close()


def test_mosquitto_example_keeps_devices_apart(broker: SecureBroker) -> None:
    bridge = broker.client("iot-bridge")
    granted: list[bool] = []
    received: list[str] = []
    bridge.on_subscribe = lambda _c, _u, _mid, reasons, _p: granted.extend(not r.is_failure for r in reasons)
    bridge.on_message = lambda _c, _u, message: received.append(message.topic)
    bridge.subscribe([(topic, 1) for topic in MqttSettings().topics])
    wait_until(lambda: len(granted) == 3, 20)
    assert all(granted)
    topics = [
        f"devices/{DEVICE}/readings",
        f"devices/{OTHER}/readings",
        "iot/sensors/1/readings",
        f"devices/{DEVICE}/sensors/{OTHER}",
    ]
    for topic in topics:
        publish(broker, topic)
    wait_until(lambda: topics[3] in received, 20)
    assert received == [topics[0], topics[3]]
    device = broker.client(DEVICE)
    rejected: list[bytes | bytearray] = []
    device.on_message = lambda _c, _u, message: rejected.append(message.payload)
    device.subscribe(f"devices/{DEVICE}/rejected", 1)

    def told() -> bool:
        bridge.publish(f"devices/{DEVICE}/rejected", "no")
        return bool(rejected)

    wait_until(told, 20)
    for client in (bridge, device):
        client.disconnect()
        client.loop_stop()


def publish(broker: SecureBroker, topic: str) -> None:
    """From the device, on a connection of its own: Mosquitto 2.0.11 at times hangs up after a denial."""
    client = broker.client(DEVICE)
    sent = client.publish(topic, "1", qos=1)
    wait_until(lambda: sent.is_published() or not client.is_connected(), 20)
    client.disconnect()
    client.loop_stop()


def test_mosquitto_example_fits_the_bridge() -> None:
    text = (CONFIG / "mosquitto" / "mosquitto.conf").read_text()
    limits = {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}
    assert "message_size_limit" not in limits, "it acknowledges what it drops"
    assert limits["max_packet_size"] == MqttSettings().max_payload_bytes + PACKET_OVERHEAD_BYTES
    assert protects_client_ids(text)
    assert limits["max_inflight_messages"] <= MqttSettings().max_inflight


@pytest.mark.parametrize("name", ["iot-bridge.service", "iot-bridge-consumer@.service"])
def test_systemd_unit_is_valid(name: str, tmp_path: Path) -> None:
    needs.program(needs.SYSTEMD_ANALYZE)
    command = Path(sys.executable).parent / "iot-bridge"
    text = (CONFIG / "systemd" / name).read_text()
    unit = tmp_path / name.replace("@", "@ml")
    unit.write_text(text.replace("/opt/iot-bridge/bin/iot-bridge", str(command)))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_prometheus_files_are_valid() -> None:
    needs.program(needs.PROMTOOL)
    subprocess.run(["promtool", "check", "config", str(CONFIG / "prometheus" / "prometheus.yml")], check=True)
