"""The package for arm64, installed in a Debian 12 for arm64 and run by qemu-user: a reading over each door.

qemu-user runs no systemd: Mosquitto and the gateway are started by hand, with what their units say.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import kill
from pathlib import Path

import pytest

from tests.field.debian import copied, prepare
from tests.field.devices import Senders
from tests.field.machine import Machine
from tests.field.namespaces import SiteNetwork, children
from tests.field.site import open_site, tls_proxy
from tests.support import debs, needs
from tests.support.certificates import Authority
from tests.support.servers import PostgresServer, wait_until

READY_S = 120.0


class Root:
    """A root of another machine, whose programs run on the gateway's end of the cable."""

    def __init__(self, root: Path, network: SiteNetwork) -> None:
        self._root = root
        self._network = network
        network.run("mount", "-t", "proc", "proc", str(root / "proc"))
        network.run("mount", "--bind", "/dev", str(root / "dev"))

    def command(self, *arguments: str) -> list[str]:
        network = f"--net=/proc/{self._network.gateway_pid}/ns/net"
        return self._network.command("nsenter", network, "chroot", str(self._root), *arguments)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A program that runs beside the body, and is ended after it."""
        with open(self._root.with_name(f"{Path(arguments[0]).name}.log"), "wb") as log:
            process = subprocess.Popen(self.command(*arguments), stdout=log, stderr=log)
        try:
            yield process
        finally:
            kill(own_pid(process), signal.SIGTERM)
            process.wait(30)


def own_pid(process: subprocess.Popen[bytes]) -> int:
    """Of the program itself: nsenter waits for it, since a process never changes its own process namespace."""
    (pid,) = children(process.pid)
    return pid


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_package_for_arm64_takes_a_reading_over_each_door(postgres_server: PostgresServer, short_dir: Path) -> None:
    needs.program(needs.QEMU_AARCH64)
    debian = prepare("bookworm", "arm64")
    deb = debs.built("bookworm", "arm64")
    (servers := short_dir / "servers").mkdir()
    with (
        SiteNetwork() as network,
        copied(debian) as folder,
        open_site(postgres_server, servers) as service,
        tls_proxy(network, service.service.port, authority := Authority(short_dir)),
    ):
        machine = Machine(folder, network)
        shutil.copy(authority.certificate, folder / "usr/local/share/ca-certificates/site.crt")
        shutil.copy(deb, folder / "root")
        shutil.copytree(debian.archive, folder / "srv/archive")
        machine.write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/archive ./\n")
        root = Root(folder, network)
        root.run("update-ca-certificates")
        root.run("apt-get", "update", "--quiet=2")
        root.run("apt-get", "install", "--yes", f"/root/{deb.name}", "mosquitto")
        settings = machine.read("/etc/iot-edge/edge.toml")
        settings = re.sub(r"(?m)^enabled = false", "enabled = true", settings)
        machine.write("/etc/iot-edge/edge.toml", re.sub(r"(?m)^host = .*", 'host = "0.0.0.0"', settings))
        root.run("iot-edge", "enrol", "https://iot.example.com", service.add_gateway("north"))
        device = service.add_device("shed", "mqtt", "http")
        senders = Senders(network, device)
        began_s = time.monotonic()
        log = folder.with_name("iot-edge.log")
        with root.running("iot-edge", "run", "--config", "/etc/iot-edge/edge.toml") as gateway:
            wait_until(lambda: gateway.poll() is not None or b"ready http" in log.read_bytes(), READY_S)
            assert gateway.poll() is None, log.read_text()
            ready_s = time.monotonic() - began_s
            wait_until(lambda: (folder / "var/lib/iot-edge/mosquitto.passwd").exists(), READY_S)
            root.run("iot-edge", "broker-passwords")
            root.run("install", "-d", "-o", "mosquitto", "/run/mosquitto")
            with root.running("mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"), senders.sending():
                wait_until(lambda: all(map(service.stored, device.sensors.values())), READY_S)
            memory = Path(f"/proc/{own_pid(gateway)}/status").read_text()
        resident = next(line for line in memory.splitlines() if line.startswith("VmRSS")).split()[1]
        installed = root.run("du", "--summarize", "--block-size=1M", "/usr/lib/iot-edge").split()[0]
        sys.stderr.write(f"arm64: installed {installed} MB, ready in {ready_s:.1f} s, {resident} KiB with qemu's own\n")
