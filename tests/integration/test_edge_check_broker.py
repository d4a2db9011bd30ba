"""`iot-edge check` of the broker: real Mosquittos that refuse, deny, are not there, or have not the devices' keys."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bridge.store.passwords import mosquitto_hash
from edge.check import broker, mosquitto
from edge.check.devices import look_at_broker
from edge.check.machine import Machine
from edge.check.result import CheckResult
from edge.settings import DoorSettings, EdgeSettings, GatewaySettings, SiteMqttSettings
from tests.support import needs
from tests.support.servers import free_port, listens, until, wait_until

WHOLE = """\
user iot-edge
topic read devices/#
topic read iot/sensors/+/readings
topic write devices/+/rejected
topic write bridge/+/status
topic write site/#
"""
DEVICE = "6f1c2d9e-0000-4000-8000-000000000003"


class BrokerHost:
    """A machine below a root, with a gateway's settings, and a Mosquitto where `running` is entered."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        self.port = free_port()
        for path in ("etc/mosquitto/conf.d", "usr/sbin", "var/log/mosquitto"):
            (self.root / path).mkdir(parents=True)
        (self.root / "usr/sbin/mosquitto").write_text("")
        self.passwd, self.acl = self.root / "etc/mosquitto/iot-edge.passwd", self.root / "etc/mosquitto/iot-edge.acl"
        self.conf = self.root / "etc/mosquitto/conf.d/iot-edge.conf"
        self.passwd.write_text(f"iot-edge:{mosquitto_hash('right')}\n")
        self.password = "right"
        self.machine = Machine(self.root, 0)

    def configure(self, acl: str = WHOLE, more: str = "") -> None:
        self.acl.write_text(acl)
        self.conf.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {self.passwd}\nacl_file {self.acl}\n"
            f"log_dest file {self.root}/var/log/mosquitto/mosquitto.log\nuser root\n{more}"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        program = needs.program(needs.MOSQUITTO)
        process = subprocess.Popen([program, "-c", str(self.conf)], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: listens(self.port), 20)
            yield
        finally:
            process.terminate()
            process.wait(20)

    @property
    def settings(self) -> EdgeSettings:
        mqtt = SiteMqttSettings(url=f"mqtt://127.0.0.1:{self.port}", username="iot-edge", password=self.password)
        return EdgeSettings(gateway=GatewaySettings(data_dir=self.data_dir), mqtt=mqtt)

    async def found(self, document: dict[str, Any] | None = None, listen_s: float = 0) -> dict[str, CheckResult]:
        results = look_at_broker(self.settings, self.machine, document, listen_s)
        return {each.name: each async for each in results}


@pytest.fixture
def host(tmp_path: Path) -> BrokerHost:
    return BrokerHost(tmp_path)


def running(**mqtt: Any) -> dict[str, Any]:
    """The document of a gateway that is well."""
    known = {"address": "mqtt://127.0.0.1:1884", "embedded": False, "problem": "", "contested": "", "refused": {}}
    return {
        "gateway": "north",
        "mqtt": known | mqtt,
        "registry": {"known": True},
        "devices": [{"device_id": 1, "device_uuid": DEVICE, "heard_s": 1.0}],
    }


async def test_broker_that_takes_everything_is_well(host: BrokerHost) -> None:
    host.configure()
    with host.running():
        found = await host.found(running())
    assert {name: each.ok for name, each in found.items()} == {
        "broker": True,
        "publishing": True,
        "devices heard": True,
    }


@pytest.mark.parametrize("more", ["", "max_queued_messages 0\n"], ids=["told", "hung up"])
async def test_publish_that_the_acl_denies_is_found(host: BrokerHost, more: str) -> None:
    """2.0.11 says so to MQTT 5; with max_queued_messages 0 it hangs up, on 3.1.1 for ever."""
    host.configure(WHOLE.replace("topic write site/#\n", "").replace("topic write bridge/+/status\n", ""), more)
    with host.running():
        denied = (await host.found(running()))["publishing"]
        assert denied.ok is False
        assert denied.detail == "the broker's ACL denies what the gateway publishes: site/#, bridge/+/status"
        assert "below 'user iot-edge': topic write site/#, topic write bridge/+/status" in denied.advice
        assert broker.ask(host.settings.mqtt, 0).heard == set()


async def test_trials_are_kept_by_nobody(host: BrokerHost) -> None:
    host.configure(WHOLE + "topic read #\n")
    with host.running():
        await host.found()
        received: list[str] = []
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set("iot-edge", "right")
        client.on_message = lambda _client, _userdata, message: received.append(message.topic)
        client.connect("127.0.0.1", host.port)
        client.loop_start()
        await until(client.is_connected, 20)
        client.subscribe("#")
        client.publish("site/last", b"")
        await until(lambda: received, 20)
        client.disconnect()
        client.loop_stop()
        assert received == ["site/last"]


async def test_broker_that_is_not_installed(host: BrokerHost) -> None:
    (host.root / "usr/sbin/mosquitto").unlink()
    found = (await host.found())["broker"]
    assert (found.ok, found.advice) == (False, "sudo apt-get install mosquitto")


async def test_broker_without_our_configuration(host: BrokerHost) -> None:
    found = (await host.found())["broker"]
    assert "/etc/mosquitto/conf.d/iot-edge.conf is missing" in found.detail
    assert found.advice == "sudo iot-edge install"
    (host.root / "usr/lib/iot-edge").mkdir(parents=True)
    assert "--force-confmiss iot-edge" in (await host.found())["broker"].advice, "the package refuses iot-edge install"


async def test_broker_whose_configuration_has_another_port(host: BrokerHost) -> None:
    host.configure()
    host.conf.write_text(host.conf.read_text().replace(f"listener {host.port}", "listener 1"))
    assert "no listener on port" in (await host.found())["broker"].detail


async def test_broker_that_has_not_read_its_configuration(host: BrokerHost) -> None:
    host.configure()
    assert (await host.found())["broker"].advice == "sudo systemctl restart mosquitto"


async def test_port_that_something_else_has(host: BrokerHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", host.port)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        found = (await host.found())["broker"]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in accepted:
            each.close()
    assert "is no MQTT broker" in found.detail
    assert found.advice == f"sudo ss -ltnp 'sport = :{host.port}'"


async def test_password_that_mosquitto_does_not_take(host: BrokerHost) -> None:
    host.configure()
    with host.running():
        host.password = "another"
        assert "is another one than that of /etc/mosquitto/iot-edge.passwd" in (await host.found())["broker"].detail
        (host.data_dir / "mosquitto.passwd").write_text(f"iot-edge:{mosquitto_hash('another')}\n")
        assert (await host.found())["broker"].advice == mosquitto.BRING
        host.passwd.write_text(f"iot-edge:{mosquitto_hash('another')}\n")
        assert (await host.found())["broker"].advice == "sudo systemctl reload mosquitto"
        host.password = ""
        assert "there is no password" in (await host.found())["broker"].detail


async def test_device_keys_that_have_not_come_to_mosquitto(host: BrokerHost) -> None:
    host.configure()
    written = host.data_dir / "mosquitto.passwd"
    written.write_text(f"{host.passwd.read_text()}{DEVICE}:{mosquitto_hash('key')}\n")
    with host.running():
        found = (await host.found())["passwords"]
        assert (found.ok, found.detail, found.advice) == (False, "1 keys have not come to Mosquitto", mosquitto.BRING)
        host.passwd.write_bytes(written.read_bytes())
        assert (await host.found())["passwords"].ok


async def test_device_that_mosquitto_turns_away_is_told(host: BrokerHost) -> None:
    host.configure()
    with host.running():
        wrong = host.settings.mqtt.model_copy(update={"username": DEVICE})
        assert broker.ask(wrong, 0).login_refused
        found = (await host.found())["devices heard"]
        assert found.ok is False
        assert "Mosquitto has turned" in found.detail
        assert "not authorised" in found.advice


async def test_command_that_shows_what_devices_publish_works(host: BrokerHost) -> None:
    """With the gateway's account: mosquitto_sub without a password is turned away."""
    host.configure()
    needs.program(needs.MOSQUITTO_PUB)
    with host.running():
        advice = (await host.found())["devices heard"].advice
        assert advice.startswith("sudo apt-get install mosquitto-clients; mosquitto_sub -h 127.0.0.1 ")
        command = advice.partition("; ")[2].replace('"$(sudo cat /etc/iot-edge/credentials/mqtt.password)"', "right")
        publish = ["mosquitto_pub", "-p", str(host.port), "-u", DEVICE, "-P", "key", "-t", f"devices/{DEVICE}/readings"]
        host.passwd.write_text(f"{host.passwd.read_text()}{DEVICE}:{mosquitto_hash('key')}\n")
        host.acl.write_text(f"{WHOLE}pattern write devices/%u/#\n")
    with host.running():
        assert _shown(command, [*publish, "-m", "21.5"]) == f"devices/{DEVICE}/readings 21.5\n"


def _shown(command: str, publish: list[str]) -> str:
    """What a command prints of what is published while it runs."""
    shown = subprocess.Popen(["sh", "-c", f"exec {command} -C 1"], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: subprocess.run(publish, check=True) and shown.poll() is not None, 20)
    return shown.communicate()[0]


async def test_untied_device_is_told_with_the_command(host: BrokerHost) -> None:
    host.configure()
    document = running()
    document["devices"] = [{"device_id": None, "device_uuid": DEVICE, "heard_s": 2.0}]
    with host.running():
        found = (await host.found(document))["untied device"]
    assert found.ok is False
    assert found.advice == f"on the service: iot-bridge gateway allow north --device {DEVICE}"


async def test_session_that_another_takes_is_told(host: BrokerHost) -> None:
    host.configure()
    with host.running():
        found = (await host.found(running(contested="another client has connected with our client id")))["broker"]
    assert (found.ok, found.detail) == (False, "another client has connected with our client id")


async def test_embedded_broker_is_no_absent_one(tmp_path: Path, host: BrokerHost) -> None:
    """`run --embedded-broker`: mqtt.url is empty, and devices do not come over HTTP."""
    host.configure()
    host.conf.write_text(f"listener {host.port} 127.0.0.1\nallow_anonymous true\nuser root\n")
    empty = EdgeSettings(gateway=GatewaySettings(data_dir=tmp_path))
    document = running(address=f"mqtt://127.0.0.1:{host.port}", embedded=True)
    with host.running():
        found = [each async for each in look_at_broker(empty, Machine(host.root, 0), document, 0)]
    assert found[0].ok
    assert "of the gateway itself" in found[0].detail
    (none,) = [each async for each in look_at_broker(empty, Machine(host.root, 0), None, 0)]
    assert (none.ok, "no door is open" in none.detail) == (False, True)
    http = EdgeSettings(http=DoorSettings(enabled=True))
    (over_http,) = [each async for each in look_at_broker(http, Machine(host.root, 0), None, 0)]
    assert (over_http.ok, over_http.detail) == (None, "mqtt.url is not set: devices come over HTTP")


async def test_broker_by_a_user_who_may_not_read_the_password(
    host: BrokerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "hides_credentials", lambda _: True)
    host.password = ""
    assert (await host.found())["broker"].needs_root
    found = await host.found(running())
    assert found["broker"].ok
    assert found["publishing"].needs_root
    assert (await host.found(running(problem="nothing listens at the broker's address")))["broker"].ok is False
