"""Our files under Debian's own Mosquitto and its own main configuration, and our own processes against them.

Another Mosquitto than the system's is named in MOSQUITTO: see tests/support/debian_broker.py.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from bridge.store import admin
from bridge.store.passwords import mosquitto_hash
from edge.host import broker_files, install
from edge.host.broker_files import AdmittedDevices
from tests.acceptance.gateway import GatewayProcess
from tests.acceptance.service import Service
from tests.support import needs
from tests.support.certificates import Authority
from tests.support.debian_broker import MAIN, debian_broker, debian_mosquitto
from tests.support.mqtt_door import DEVICE, TOPIC, Device
from tests.support.reference import ROOT
from tests.support.servers import free_port, listens, until, wait_until

pytestmark = pytest.mark.timeout(120)

VARIANTS = {
    "keys": [1883, 1884],
    "anybody": [1883],
    "service": [1883, 8883],
}
"""And the ports that each listens on."""
AS_INSTALLED = """
mount --bind "$0/etc/mosquitto" /etc/mosquitto
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir /run/mosquitto /var/log/mosquitto
for each in lib run log; do chown mosquitto: "$0/$each"; done
mount --bind "$0/lib" /var/lib/mosquitto
mount --bind "$0/log" /var/log/mosquitto
chown mosquitto: /run/mosquitto
"$1" -c "$2"
shift 2
exec "$@" -c /etc/mosquitto/mosquitto.conf
"""
"""With nothing of the files moved: the folders of the package, and a network, of this process alone."""
LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS, netdevice(7)
"""
PASSWORD = "secret"
STATUS_ALLOWED = "topic write bridge/+/status"


def place(root: Path, variant: str, devices: Sequence[str] = ()) -> None:
    """Write the files of a variant below a root. The service's have a password for each device."""
    folder = root / "etc/mosquitto"
    if variant != "service":
        install.install(root, Path("/opt/iot-edge/bin/iot-edge"), AdmittedDevices(variant))
        return
    (folder / "conf.d").mkdir(parents=True)
    (folder / "certs").mkdir()
    shutil.copy(ROOT / "config/mosquitto/mosquitto.conf", folder / "conf.d/iot-bridge.conf")
    shutil.copy(ROOT / "config/mosquitto/acl.conf", folder / "acl.conf")
    (folder / "passwords").write_text(
        "".join(f"{name}:{mosquitto_hash(PASSWORD)}\n" for name in ("iot-bridge", *devices))
    )
    authority = Authority(root)
    for source, name in zip(authority.issue("DNS:localhost"), ("server.crt", "server.key"), strict=True):
        shutil.copy(source, folder / "certs" / name)
    shutil.copy(authority.certificate, folder / "certs/ca.crt")


@contextmanager
def as_installed(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Debian's Mosquitto, with the files below a root where they belong; its user is the package's."""
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    shell = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", AS_INSTALLED, str(root)]
    process = subprocess.Popen([*shell, sys.executable, LOOPBACK_UP, *debian_mosquitto().command])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_start_as_installed_and_after_a_reload(tmp_path: Path, variant: str) -> None:
    for folder in ("lib", "log", "run"):
        (tmp_path / folder).mkdir()
    place(tmp_path, variant)
    (tmp_path / MAIN).write_text(debian_mosquitto().main)
    shutil.copy("/etc/passwd", tmp_path / "etc/passwd")
    shutil.copy("/etc/group", tmp_path / "etc/group")
    assert broker_files.prepare(tmp_path) == []
    if variant == "service":  # as docs/brokers.md has it done by hand
        for name in ("passwords", "acl.conf", "certs/server.key"):
            shutil.chown(tmp_path / "etc/mosquitto" / name, "mosquitto", "mosquitto")
            (tmp_path / "etc/mosquitto" / name).chmod(0o600)
    log = tmp_path / "log/mosquitto.log"

    def logged(text: str, times: int = 1) -> bool:
        return process.poll() is not None or (log.exists() and log.read_text().count(text) >= times)

    with as_installed(tmp_path) as process:
        wait_until(lambda: logged(" running"), 20)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: logged("Reloading config"), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    said = log.read_text()
    assert [port for port in VARIANTS[variant] if f"listen socket on port {port}." not in said] == []
    assert "Error" not in said
    assert "Warning: File" not in said, "2.0.21 says which files later versions will refuse"
    assert (tmp_path / "lib/mosquitto.db").stat().st_uid == pwd.getpwnam("mosquitto").pw_uid


class Broker:
    """Debian's Mosquitto by the files of a variant, on other ports, below a root.

    `hangs_up`: an engineer's own file has it hang up at what it denies, and its access list denies our status.
    """

    def __init__(self, root: Path, variant: str, devices: Sequence[str] = (), *, hangs_up: bool = False) -> None:
        place(root, variant, devices)
        self.root = root
        self.ports = {port: free_port() for port in VARIANTS[variant]}
        for conf in (root / "etc/mosquitto/conf.d").iterdir():
            text = conf.read_text()
            for port, here in self.ports.items():
                text = text.replace(f"listener {port} 127.0.0.1", f"listener {port}")
                text = text.replace(f"listener {port}\n", f"listener {here} 127.0.0.1\n")
            conf.write_text(text)
        if hangs_up:
            acl = root / "etc/mosquitto" / ("acl.conf" if variant == "service" else "iot-edge.acl")
            assert STATUS_ALLOWED in acl.read_text()
            acl.write_text(acl.read_text().replace(STATUS_ALLOWED, ""))
            (root / "etc/mosquitto/conf.d/site.conf").write_text("max_queued_messages 0\n")
        command = [*debian_mosquitto().command, "-c", str(debian_broker(root))]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: all(map(listens, self.ports.values())), 20)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@contextmanager
def service_on(broker: Broker, database: str, protocol: str) -> Iterator[Service]:
    url = f"mqtt://iot-bridge:{PASSWORD}@127.0.0.1:{broker.ports[1883]}"
    settings = {"broker__kind": "memory", "mqtt__protocol": protocol, "service__name": "1"}
    made = Service(broker.root, database, "", url, **settings)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def device(postgres_url: str) -> dict[str, Any]:
    with admin.connect(postgres_url) as connection:
        return connection.add_device("pump", [("t", "temperature", None)])


async def wait_stored(database: str, value: float) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:

        async def stored() -> bool:
            rows = await connection.execute("SELECT id FROM sensor_readings WHERE value = %s", (value,))
            return bool(await rows.fetchall())

        await until(stored, 30, step_s=0.05)


async def asked(url: str) -> Any:
    return (await asyncio.to_thread(httpx.get, url)).json()


async def test_service_may_do_all_that_it_does(postgres_url: str, tmp_path: Path, device: dict[str, Any]) -> None:
    """With MQTT 5, in which the broker says what it denies."""
    uuid = device["device_uuid"]
    broker = Broker(tmp_path, "service", [uuid])
    try:
        with (
            service_on(broker, postgres_url, "5") as service,
            Device(broker.ports[1883], username=uuid, password=PASSWORD, session=uuid) as client,
        ):
            await client.subscribe(f"devices/{uuid}/rejected")
            await client.subscribe(f"devices/{uuid}/commands/+", 1)
            topic = f"devices/{uuid}/sensors/{device['sensors'][0]['sensor_uuid']}"
            await client.publish(b"21.5", b"nonsense", topic=topic)
            await wait_stored(postgres_url, 21.5)
            await asyncio.to_thread(service.command, "command", "send", uuid, '"reboot"')
            await until(lambda: len(client.received) >= 2, 30)
            assert {name.split("/")[2] for name, _ in client.received} == {"rejected", "commands"}
            assert (await asked(f"{service.http}/health/ready"))["degraded"] == []
            assert "mqtt_publish_refused" not in service.log
    finally:
        broker.stop()


async def test_gateway_among_anybody_may_do_all_that_it_does(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "anybody")
    url = f"mqtt://127.0.0.1:{broker.ports[1883]}"
    gateway = GatewayProcess(tmp_path, url, mqtt__username="iot-edge", mqtt__protocol="5")
    try:
        await gateway.start()
        with Device(broker.ports[1883]) as client:
            await client.subscribe(f"devices/{DEVICE}/rejected")
            await until(lambda: "mqtt_connected" in gateway.log, 20)
            await client.publish(b"nonsense", b"21.5", topic=TOPIC)
            await until(lambda: client.received, 20)
            status = await asked(f"{gateway.http}/status.json")
            assert (status["mqtt"]["problem"], status["mqtt"]["refused"]) == ("", {})
            assert "mqtt_publish_refused" not in gateway.log
    finally:
        gateway.stop()
        broker.stop()


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_service_at_whose_status_the_broker_hangs_up_stores_on_and_says_why(
    postgres_url: str, tmp_path: Path, device: dict[str, Any], protocol: str
) -> None:
    uuid = device["device_uuid"]
    broker = Broker(tmp_path, "service", [uuid], hangs_up=True)
    try:
        with (
            service_on(broker, postgres_url, protocol) as service,
            Device(broker.ports[1883], username=uuid, password=PASSWORD, session=uuid) as client,
        ):
            topic = f"devices/{uuid}/sensors/{device['sensors'][0]['sensor_uuid']}"
            await client.publish(b"21.5", topic=topic)
            await wait_stored(postgres_url, 21.5)
            problem = "mqtt: the broker refuses our publish to bridge/1/status: its ACL must allow us to write"

            async def told() -> bool:
                return any(
                    each.startswith(problem) for each in (await asked(f"{service.http}/health/ready"))["degraded"]
                )

            await until(told, 30, step_s=0.2)
            metrics = await asyncio.to_thread(httpx.get, f"{service.http}/metrics")
            assert "iot_bridge_mqtt_refused 1.0" in metrics.text
            await client.publish(b"22.5", topic=topic)
            await wait_stored(postgres_url, 22.5)
            assert "client id" not in service.log
    finally:
        broker.stop()


async def test_gateway_at_whose_status_the_broker_hangs_up_spools_on_and_says_why(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "anybody", hangs_up=True)
    gateway = GatewayProcess(tmp_path, f"mqtt://127.0.0.1:{broker.ports[1883]}", mqtt__username="iot-edge")
    try:
        await gateway.start()

        async def spooled() -> int:
            return int((await asked(f"{gateway.http}/status.json"))["spool"]["records"])

        async def refused() -> list[str]:
            return list((await asked(f"{gateway.http}/status.json"))["mqtt"]["refused"])

        with Device(broker.ports[1883]) as client:
            await client.publish(b"1", topic=TOPIC)
            await until(spooled, 20)
            assert await until(refused, 30, step_s=0.2) == ["bridge/bridge/status"]
            before = await spooled()
            await client.publish(b"2", topic=TOPIC)

            async def more() -> bool:
                return await spooled() > before

            await until(more, 20)
        assert "client id" not in gateway.log
    finally:
        gateway.stop()
        broker.stop()
