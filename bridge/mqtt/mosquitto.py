"""The files of a production Mosquitto, as text. Pure: users in, text out.

Forms: mosquitto.conf(5), mosquitto_passwd(1). Both lists are read again at SIGHUP; a client that is no
longer in them is disconnected then.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bridge.errors import ConfigError

CONF, ACL, PASSWORDS = "mosquitto.conf", "acl", "passwd"
DEVICE_TOPICS = "devices/%u/#"
MAX_QUEUED_MESSAGES = 1_000_000
MAX_QUEUED_BYTES = 256 * 1024 * 1024
"""What Mosquitto keeps for the bridge while it is away: about 1,000,000 readings."""

_BRIDGE_MAY = (
    "topic read #",
    "topic write devices/+/rejected",
    "topic write devices/+/commands/+",
    "topic write bridge/+/status",
    "topic write spBv1.0/+/NCMD/+",
)


class User(msgspec.Struct, frozen=True):
    """A line of the password file. `name` of a device is its UUID in lower case."""

    name: str
    role: str  # device, publisher, bridge
    hash: str  # `$7$…`


class Layout(msgspec.Struct, frozen=True):
    """Where things are on the broker's host. Paths are as Mosquitto will see them."""

    folder: Path
    data_folder: Path
    port: int  # without TLS, on loopback, for the bridge
    tls_port: int  # for devices; 0: no such listener
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None  # devices show certificates of this CA, their CN is their UUID
    max_payload_bytes: int = 262_144


def passwords(users: Iterable[User]) -> str:
    """The password file."""
    return "".join(f"{user.name}:{user.hash}\n" for user in users)


def acl(users: Iterable[User]) -> str:
    """The access list: what each account may do, and the one pattern for all devices."""
    parts = ["# Written by iot-bridge mqtt config mosquitto: changes are lost.", ""]
    for user in users:
        if user.role == "bridge":
            parts += [f"user {user.name}", *_BRIDGE_MAY, ""]
        elif user.role == "publisher":
            parts += [f"user {user.name}", "topic write iot/sensors/+/readings", ""]
    parts += ["# A device: below its own UUID, which is its user name.", f"pattern readwrite {DEVICE_TOPICS}", ""]
    return "\n".join(parts)


def conf(layout: Layout) -> str:
    """mosquitto.conf. Raises ConfigError where TLS is wanted and has no certificate."""
    lines = [
        "# Written by iot-bridge mqtt config mosquitto. Yours to change: it is not written again without --force.",
        "",
        "# The bridge, on this host.",
        f"listener {layout.port} 127.0.0.1",
        "",
    ]
    if layout.tls_port:
        if layout.certificate is None or layout.key is None:
            raise ConfigError(["devices want TLS: name --certificate and --key, or --tls-port 0 for none"])
        lines += [
            "# Devices.",
            f"listener {layout.tls_port}",
            f"certfile {layout.certificate}",
            f"keyfile {layout.key}",
            "tls_version tlsv1.2",
        ]
        if layout.client_ca is not None:
            lines += [
                "# The common name of a device's certificate is its UUID, and stands for user name and password.",
                f"cafile {layout.client_ca}",
                "require_certificate true",
                "use_identity_as_username true",
            ]
        lines.append("")
    lines += [
        "allow_anonymous false",
        f"password_file {layout.folder / PASSWORDS}",
        f"acl_file {layout.folder / ACL}",
        "",
        "# Sessions and messages outlive a restart; what a crash may lose is half a minute.",
        "persistence true",
        f"persistence_location {layout.data_folder}/",
        "autosave_interval 30",
        "persistent_client_expiration 14d",
        "",
        "# What waits for the bridge while it is away. The default of 1,000 messages would drop the rest;",
        "# with 0, no limit, Mosquitto 2.0.11 disconnects a client whose publish it denies.",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        "",
        "# No device sends more.",
        f"message_size_limit {layout.max_payload_bytes}",
        "",
    ]
    return "\n".join(lines)
