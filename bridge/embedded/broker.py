"""An MQTT broker of our own, for a bench test: a Mosquitto where there is one, and amqtt where not."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

from bridge.embedded.children import Child, listens, start_server, until_silent
from bridge.embedded.private import make_private_folder, open_private
from bridge.errors import ConfigError, Unavailable

LOOPBACK = "127.0.0.1"
FORMER_STOP_S = 1.0
SERVER_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Where Mosquitto is looked for; Debian has it where an ordinary user's PATH does not lead."""
"""How long a broker that was told to end is waited for; anything else may listen there for ever."""


def start_mqtt(data_dir: Path, port: int) -> tuple[Child, str]:
    """Start an MQTT broker on loopback. Returns it and its URL. Port 0: a free one. Raises ConfigError, Unavailable.

    It asks for no password, as the simulated devices have none: every user of this machine may publish there.
    """
    port = port or free_port()
    with suppress(Unavailable):  # the broker of a service that was killed a moment ago may still save its state
        until_silent("the MQTT broker", (LOOPBACK, port), data_dir / "mqtt.log", FORMER_STOP_S)
    if listens((LOOPBACK, port)):
        raise ConfigError([f"mqtt.port = {port}: something listens there already; choose another, or 0"])
    program = shutil.which("mosquitto", path=SERVER_PATH)
    if program is not None:
        folder = make_private_folder(data_dir / "mosquitto")
        command = [program, "-c", str(write_mosquitto_conf(folder, port))]
    else:
        command = [sys.executable, "-m", "bridge.embedded.amqtt_broker", str(port)]
    return start_server("mqtt", "the MQTT broker", command, data_dir, (LOOPBACK, port)), f"mqtt://{LOOPBACK}:{port}"


def write_mosquitto_conf(folder: Path, port: int) -> Path:
    """Write the configuration of a Mosquitto on loopback, without passwords, that keeps its state in `folder`."""
    path = folder / "mosquitto.conf"
    text = (
        f"listener {port} {LOOPBACK}\n"
        "allow_anonymous true\n"
        "persistence true\n"
        f"persistence_location {folder}/\n"
        "autosave_interval 5\n"
        # The default drops messages of a session that is away after 1,000.
        "max_queued_messages 0\n"
        f"user {_user()}\n"
    )
    with open_private(path, "w") as file:
        file.write(text)
    return path


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _user() -> str:
    return "root" if os.geteuid() == 0 else str(os.environ.get("USER", "nobody"))
