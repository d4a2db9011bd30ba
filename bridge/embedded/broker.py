"""An MQTT broker of our own, for a bench test: a Mosquitto where there is one, and amqtt where not."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from pathlib import Path

from bridge.embedded.children import Child, start_child
from bridge.errors import ConfigError, Unavailable

START_S = 15.0


def start_mqtt(data_dir: Path, port: int) -> tuple[Child, str]:
    """Start an MQTT broker on loopback. Returns it and its URL. Port 0: a free one. Raises ConfigError, Unavailable."""
    port = port or free_port()
    if _listens(port):
        raise ConfigError([f"mqtt.port = {port}: something listens there already; choose another, or 0"])
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is not None:
        folder = data_dir / "mosquitto"
        folder.mkdir(exist_ok=True)
        command = [program, "-c", str(write_mosquitto_conf(folder, port))]
    else:
        command = [sys.executable, "-m", "bridge.embedded.amqtt_broker", str(port)]
    return start_server("mqtt", "the MQTT broker", command, data_dir, port), f"mqtt://127.0.0.1:{port}"


def write_mosquitto_conf(folder: Path, port: int) -> Path:
    """Write the configuration of a Mosquitto on loopback, without passwords, that keeps its state in `folder`."""
    path = folder / "mosquitto.conf"
    path.write_text(
        f"listener {port} 127.0.0.1\n"
        "allow_anonymous true\n"
        "persistence true\n"
        f"persistence_location {folder}/\n"
        "autosave_interval 5\n"
        # The default drops messages of a session that is away after 1,000.
        "max_queued_messages 0\n"
        f"user {_user()}\n"
    )
    return path


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _user() -> str:
    return "root" if os.geteuid() == 0 else str(os.environ.get("USER", "nobody"))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start_server(name: str, what: str, command: list[str], data_dir: Path, port: int) -> Child:
    """Start a child, and wait until it listens on its port. Raises Unavailable."""
    child = start_child(name, command, data_dir)
    deadline = time.monotonic() + START_S
    while not _listens(port):
        if time.monotonic() > deadline:
            child.stop()
            raise Unavailable(f"{what} did not start; see {data_dir / f'{name}.log'}")
        time.sleep(0.02)
    return child
