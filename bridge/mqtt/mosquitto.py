"""The files of a production Mosquitto, as text. Pure: users in, text out.

Forms: mosquitto.conf(5), mosquitto_passwd(1). Both lists are read again at SIGHUP; a client that is no
longer in them is disconnected then. Why the listeners are as they are: docs/decisions/0023.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bridge.errors import ConfigError

CONF, ACL, PASSWORDS = "mosquitto.conf", "acl", "passwd"
_DEVICE_MAY = (
    "pattern write devices/%u/#",
    "pattern read devices/%u/rejected",
    "pattern read devices/%u/commands/+",
)
"""Nothing that it has sent comes back: one that does not read would have the broker keep MAX_QUEUED_BYTES of it."""
MAX_QUEUED_MESSAGES = 1_000_000
MAX_QUEUED_BYTES = 256 * 1024 * 1024
"""What Mosquitto keeps for the bridge while it is away: about 1,000,000 readings."""
MAX_INFLIGHT_MESSAGES = 1_000
"""Sent to the bridge before it acknowledges, half of mqtt.max_inflight. With the default no commit has more than 20."""
PACKET_OVERHEAD_BYTES = 65_536
"""The longest topic, and what else a packet has. A payload may be as much too large and is quarantined, not cut off."""
MAX_DEVICES = 900
MAX_PUBLISHERS = 50
MAX_BRIDGES = 50
"""Connections: together below the 1,024 files that systemd lets Debian's Mosquitto open, so none fills another's."""

_BRIDGE_MAY = (
    "topic read #",
    "topic read $SYS/broker/version",  # beside `#`, which has nothing of $SYS: see broker_version
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
    publisher_port: int = 0  # for publishers that share an account; 0: no such listener
    publisher_ca: Path | None = None  # they show certificates of this CA; without it, the listener is on loopback
    max_devices: int = MAX_DEVICES
    max_payload_bytes: int = 262_144
    included: bool = False  # by Debian's mosquitto.conf, which says where sessions are kept


def passwords(users: Iterable[User]) -> str:
    """The password file."""
    return "".join(f"{user.name}:{user.hash}\n" for user in users)


def acl(users: Iterable[User]) -> str:
    """The access list: what each account may do, and the patterns for all devices."""
    parts = ["# Written by iot-bridge mqtt config mosquitto: changes are lost.", ""]
    for user in users:
        if user.role == "bridge":
            parts += [f"user {user.name}", *_BRIDGE_MAY, ""]
        elif user.role == "publisher":
            parts += [f"user {user.name}", "topic write iot/sensors/+/readings", ""]
    parts += [
        "# A device: below its own UUID, which is its user name. It hears what is meant for it.",
        *_DEVICE_MAY,
        "",
    ]
    return "\n".join(parts)


def conf(layout: Layout) -> str:
    """mosquitto.conf. Raises ConfigError where TLS is wanted and has no certificate."""
    wants_tls = layout.tls_port or layout.publisher_ca is not None
    if wants_tls and (layout.certificate is None or layout.key is None):
        raise ConfigError(["TLS wants a certificate: name --certificate and --key, or --tls-port 0 for no devices"])
    if layout.publisher_ca is not None and layout.publisher_ca == layout.client_ca:
        raise ConfigError(["--publisher-ca is the devices' --client-ca: a device could connect as a publisher does"])
    lines = [
        "# Written by iot-bridge mqtt config mosquitto. Yours to change: it is not written again without --force.",
        "# per_listener_settings stays off: with it, Mosquitto since 2.0.12 keeps nothing for a bridge that is away.",
        "",
        *_bridge_listener(layout),
        *(_device_listener(layout) if layout.tls_port else ()),
        *(_publisher_listener(layout) if layout.publisher_port else ()),
        "allow_anonymous false",
        f"password_file {layout.folder / PASSWORDS}",
        f"acl_file {layout.folder / ACL}",
        "",
        *_limits(layout),
        "",
    ]
    return "\n".join(lines)


def protects_client_ids(text: str) -> bool:
    """Whether devices that connect by this mosquitto.conf cannot take the bridge's client id."""
    lines = [line.split() for line in text.splitlines()]
    is_open = any(line[:1] == ["listener"] and line[2:] != ["127.0.0.1"] for line in lines)
    return not is_open or ["use_username_as_clientid", "true"] in lines


def _bridge_listener(layout: Layout) -> list[str]:
    return [
        "# The bridge. Who connects here chooses its client id, so it is for this host alone.",
        f"listener {layout.port} 127.0.0.1",
        f"max_connections {MAX_BRIDGES}",
        "",
    ]


def _device_listener(layout: Layout) -> list[str]:
    lines = [
        "# Devices. Their client id is their user name, whatever they send: none can take the session of the bridge,",
        "# or of another device. One connection for each device.",
        f"listener {layout.tls_port}",
        f"max_connections {layout.max_devices}",
        "use_username_as_clientid true",
        *_tls(layout),
    ]
    if layout.client_ca is not None:
        lines += [
            "# The common name of a device's certificate is its UUID, and stands for user name and password.",
            f"cafile {layout.client_ca}",
            "require_certificate true",
            "use_identity_as_username true",
        ]
    return [*lines, ""]


def _publisher_listener(layout: Layout) -> list[str]:
    if layout.publisher_ca is None:
        where = [
            "# Publishers that share an account. Who connects here chooses its client id: for this host alone.",
            f"listener {layout.publisher_port} 127.0.0.1",
        ]
    else:
        where = [
            "# Publishers that share an account, and bridges of other hosts. Who connects here chooses its client id:",
            "# only with a certificate of this CA, which devices do not have.",
            f"listener {layout.publisher_port}",
            *_tls(layout),
            f"cafile {layout.publisher_ca}",
            "require_certificate true",
        ]
    return [*where, f"max_connections {MAX_PUBLISHERS}", ""]


def _tls(layout: Layout) -> list[str]:
    return [f"certfile {layout.certificate}", f"keyfile {layout.key}", "tls_version tlsv1.2"]


def _limits(layout: Layout) -> list[str]:
    kept_where = ["persistence true", f"persistence_location {layout.data_folder}/"]
    return [
        "# Sessions and messages outlive a restart; a crash may lose what came in 5 s while the bridge was away.",
        *(() if layout.included else kept_where),
        "autosave_interval 5",
        "persistent_client_expiration 14d",
        "",
        "# What waits for the bridge while it is away. The default of 1,000 messages would drop the rest;",
        "# with 0, no limit, Mosquitto 2.0.11 disconnects a client whose publish it denies.",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"max_inflight_messages {MAX_INFLIGHT_MESSAGES}",
        "",
        "# Who sends a larger packet is disconnected before memory is spent on it, known or not. What is only a little",
        "# too large comes through to quarantine. message_size_limit would acknowledge it and drop it.",
        f"max_packet_size {layout.max_payload_bytes + PACKET_OVERHEAD_BYTES}",
    ]
