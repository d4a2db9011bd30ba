"""Device keys at a gateway's Mosquitto, from `iot-edge install` to a reading at the service: all of it real."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bridge.store import admin
from edge.host import broker_files, client_id, install
from edge.host.broker_files import AdmittedDevices
from tests.acceptance.gateway import GatewayProcess
from tests.support.debian_broker import debian_broker, debian_mosquitto
from tests.support.gateway_service import open_gateway_service
from tests.support.servers import free_port, listens, until

pytestmark = pytest.mark.timeout(120)


class InstalledBroker:
    """A Mosquitto by Debian's main configuration and what `iot-edge install` wrote, both below a root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.port, self.own_port = free_port(), free_port()
        install.install(root, Path("/opt/iot-edge/bin/iot-edge"), AdmittedDevices.KEYS)
        conf = root / broker_files.CONF
        text = conf.read_text().replace("listener 1884 ", f"listener {self.own_port} ")
        conf.write_text(text.replace("listener 1883", f"listener {self.port} 127.0.0.1"))
        self.password = (root / broker_files.OWN_PASSWORD).read_text().strip()
        command = [*debian_mosquitto().command, "-c", str(debian_broker(root))]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def reload(self) -> None:
        """What iot-edge-passwords.service does."""
        broker_files.take_over_passwords(self._root)
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@contextmanager
def client(port: int, user: str, password: str, client_id: str = "") -> Iterator[tuple[paho.Client, list[bool]]]:
    """A client that tries to connect for as long as the body runs, and what it was answered: whether it may."""
    answers: list[bool] = []
    made = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
    if user:
        made.username_pw_set(user, password)
    made.on_connect = lambda _c, _u, _flags, reason, _p: answers.append(not reason.is_failure)
    made.connect("127.0.0.1", port)
    made.loop_start()
    try:
        yield made, answers
    finally:
        made.disconnect()
        made.loop_stop()


async def answer(port: int, user: str, password: str, client_id: str = "") -> bool:
    with client(port, user, password, client_id) as (_, answers):
        await until(lambda: answers, 20)
        return answers[0]


async def test_device_needs_its_key_at_the_gateways_broker(postgres_url: str, tmp_path: Path) -> None:
    with admin.connect(postgres_url) as connection:
        devices: list[dict[str, Any]] = [connection.add_device(n, [("t", "temperature", None)]) for n in ("a", "b")]
    a, b = devices
    broker = InstalledBroker(tmp_path / "root")
    try:
        async with open_gateway_service(postgres_url) as service:
            await until(lambda: listens(broker.port) and listens(broker.own_port), 20)
            assert not await answer(broker.port, a["device_uuid"], a["device_key"]), "before there is a registry"
            url = f"mqtt://127.0.0.1:{broker.own_port}"
            gateway = GatewayProcess(
                tmp_path, url, mqtt__username="iot-edge", mqtt__password=broker.password, mqtt__protocol="5"
            )
            state = tmp_path / "root" / broker_files.WRITTEN_BY_GATEWAY.parent
            state.parent.mkdir(parents=True, exist_ok=True)
            state.symlink_to(gateway.data_dir)
            await gateway.start()
            try:
                await gateway.command("enrol", service.url, service.add_gateway())
                written = gateway.data_dir / "mosquitto.passwd"
                await until(written.exists, 30)
                check = await gateway.command("check", "--listen", "0", expect=None)
                assert check["findings"][-1]["detail"].startswith("2 of 2 devices may connect")
                broker.reload()

                async def admitted() -> bool:
                    return await answer(broker.port, a["device_uuid"], a["device_key"])

                await until(admitted, 20)
                for user, password in (("", ""), (a["device_uuid"], b["device_key"]), ("iot-edge", "guessed")):
                    assert not await answer(broker.port, user, password), user

                # Under the gateway's client id, with a clean session: it takes nothing from the gateway.
                own_id = (gateway.data_dir / client_id.FILE).read_text().split()[0]
                with client(broker.port, a["device_uuid"], a["device_key"], own_id) as (device, answers):
                    await until(lambda: answers, 20)
                    sensor = a["sensors"][0]["sensor_uuid"]
                    device.publish(f"devices/{a['device_uuid']}/sensors/{sensor}", b'{"value": 21, "sequence": 5}', 1)
                    query = "SELECT sequence FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id"
                    await until(lambda: service.rows(query) == [(5,)], 30)
                    assert gateway.log.count('"mqtt_connected"') == 1

                    before = written.read_bytes()
                    service.rows("UPDATE devices SET status = 'disabled' WHERE name = 'a' RETURNING id")
                    await until(lambda: written.read_bytes() != before, 30)
                    broker.reload()
                    await until(lambda: not answers[-1], 20)  # it comes again, and is not let in
                assert await answer(broker.port, b["device_uuid"], b["device_key"])

                # A device of another name than its topic's gets nothing through.
                with client(broker.port, b["device_uuid"], b["device_key"]) as (device, answers):
                    await until(lambda: answers, 20)
                    device.publish(f"devices/{a['device_uuid']}/sensors/{sensor}", b'{"value": 1, "sequence": 6}', 1)
                    own = b["sensors"][0]["sensor_uuid"]
                    device.publish(f"devices/{b['device_uuid']}/sensors/{own}", b'{"value": 1, "sequence": 7}', 1)
                    await until(lambda: (7,) in service.rows(query), 30)
                    assert (6,) not in service.rows(query)
                    assert service.rows("SELECT count(*) FROM quarantine") == [(0,)]

                # All that the gateway publishes, it may; with MQTT 5 the broker would say no.
                with client(broker.port, b["device_uuid"], b["device_key"]) as (device, answers):
                    heard: list[str] = []
                    device.on_message = lambda _c, _u, message: heard.append(message.topic)
                    await until(lambda: answers, 20)
                    device.subscribe([("site/#", 1), (f"devices/{b['device_uuid']}/rejected", 1)])
                    device.publish(f"devices/{b['device_uuid']}/sensors/{own}", b"nonsense", 1)
                    await until(lambda: {topic.split("/")[-1] for topic in heard} >= {"rejected"}, 20)
                    await until(lambda: any(topic.startswith("site/sensors/") for topic in heard), 20)
                    status = (await asyncio.to_thread(httpx.get, f"{gateway.http}/status.json")).json()
                    assert (status["mqtt"]["problem"], status["mqtt"]["refused"]) == ("", {})
                    assert "mqtt_publish_refused" not in gateway.log
            finally:
                gateway.stop()
    finally:
        broker.stop()
