"""Mosquitto's files on a gateway: who may connect to it, by device keys or anybody. Written under a root.

Flows in: what the engineer asks for, and what is there. Flows out: the configuration, the access list, passwords.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from enum import StrEnum
from pathlib import Path

from bridge.errors import ConfigError
from bridge.store.passwords import mosquitto_hash
from edge.host.private_files import open_private

CONF = Path("etc/mosquitto/conf.d/iot-edge.conf")
ACL = Path("etc/mosquitto/iot-edge.acl")
PASSWORDS = Path("etc/mosquitto/iot-edge.passwd")
OWN_PASSWORD = Path("etc/iot-edge/credentials/mqtt.password")
WRITTEN_BY_GATEWAY = Path("var/lib/iot-edge/mosquitto.passwd")

ACCOUNT = "iot-edge"
GROUP = "mosquitto"
LINE = re.compile(rb"[^\s:]{1,64}:\$7\$[0-9]{1,9}\$[A-Za-z0-9+/=]{1,100}\$[A-Za-z0-9+/=]{1,100}\n")
MAX_BYTES = 64 * 1024 * 1024


class AdmittedDevices(StrEnum):
    """Who may connect to Mosquitto."""

    KEYS = "keys"  # devices, with their UUID and device key
    ANYBODY = "anybody"


def present_access(root: Path) -> AdmittedDevices | None:
    """Return whom the installed configuration lets in; None where none is installed. Raises OSError."""
    try:
        text = (root / CONF).read_text()
    except FileNotFoundError:
        return None
    return (
        AdmittedDevices.ANYBODY
        if re.search(r"^\s*allow_anonymous\s+true\b", text, re.MULTILINE)
        else AdmittedDevices.KEYS
    )


def make_own_account(root: Path) -> list[Path]:
    """Make the gateway's password, where it has none, and the first password file; returns what was written.

    Raises OSError.
    """
    written = []
    credential, passwords = root / OWN_PASSWORD, root / PASSWORDS
    if not credential.exists():
        _write(credential, f"{secrets.token_urlsafe(32)}\n".encode())
        written.append(credential)
    if not passwords.exists():
        _write(passwords, f"{ACCOUNT}:{mosquitto_hash(credential.read_text().strip())}\n".encode())
        written.append(passwords)
    _for_mosquitto(root, passwords)
    return written


def take_over_passwords(root: Path) -> int:
    """Bring what the gateway has written to Mosquitto, as root; returns the number of accounts. Raises ConfigError.

    The gateway is trusted with who may connect, and with nothing else: no link is followed out of its folder, and
    what is no password file is not taken.
    """
    source = root / WRITTEN_BY_GATEWAY
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError([f"{source}: is no file"])
            content = file.read(MAX_BYTES + 1)
        lines = content.splitlines(keepends=True)
        if len(content) > MAX_BYTES or not all(map(LINE.fullmatch, lines)):
            raise ConfigError([f"{source}: is no password file of Mosquitto"])
        new = root / PASSWORDS.with_name(f"{PASSWORDS.name}.new")
        _write(new, content)
        _for_mosquitto(root, new)
        new.replace(root / PASSWORDS)
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}; this is run by iot-edge-passwords.service"]) from error
    return len(lines)


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with open(path, "xb", opener=open_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _for_mosquitto(root: Path, path: Path) -> None:
    """Let Mosquitto's group read a file. The group is that of the root: an image has its own numbers."""
    try:
        groups = (root / "etc/group").read_text().splitlines()
    except FileNotFoundError:
        return
    numbers = [int(fields[2]) for line in groups if (fields := line.split(":"))[0] == GROUP and len(fields) > 2]
    if numbers and os.geteuid() == 0:
        os.chown(path, 0, numbers[0])
        path.chmod(0o640)
