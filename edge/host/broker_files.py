"""Mosquitto's files on a gateway: who may connect to it, by device keys or anybody. Written under a root.

Flows in: what the engineer asks for, and what is there. Flows out: the configuration, the access list, passwords.
The first two are texts that never change with the machine (installed/mosquitto*): whoever packages them may have them
as conffiles. What differs from machine to machine stands in the password file alone.
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
from edge.host.broker_conflicts import Conflict, find_conflicts
from edge.host.private_files import open_private

CONF = Path("etc/mosquitto/conf.d/iot-edge.conf")
ACL = Path("etc/mosquitto/iot-edge.acl")
PASSWORDS = Path("etc/mosquitto/iot-edge.passwd")
OWN_PASSWORD = Path("etc/iot-edge/credentials/mqtt.password")
WRITTEN_BY_GATEWAY = Path("var/lib/iot-edge/mosquitto.passwd")
"""In the gateway's data folder, by its user."""

ACCOUNT = "iot-edge"
MOSQUITTO = "mosquitto"
"""The user that Mosquitto becomes, and its group."""
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
    return written


def prepare(root: Path) -> list[Conflict]:
    """See to what Mosquitto needs to start, before each start of it; what else keeps it from starting.

    Mosquitto may have been installed after us, when its user was not there to give files to. It does not start
    without a password file that it can read. Raises OSError.
    """
    access = present_access(root)
    if access is None:
        return []
    if access is AdmittedDevices.KEYS:
        make_own_account(root)
        _give_to_mosquitto(root, root / PASSWORDS)
    if (root / ACL).exists():
        _give_to_mosquitto(root, root / ACL)
    return find_conflicts(root, CONF, (root / CONF).read_text())


def conflicts_with_others(root: Path) -> list[Conflict]:
    """What other files of Mosquitto do not go with ours, as far as they may be read; for whoever looks for a fault."""
    try:
        return find_conflicts(root, CONF, (root / CONF).read_text())
    except OSError:
        return []


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
        _give_to_mosquitto(root, new)
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


def _give_to_mosquitto(root: Path, path: Path) -> None:
    """Make a file Mosquitto's own, and nobody else's: 2.0.21 warns of any other, and that later ones refuse it.

    Its numbers are those of the root: an image has its own. Where Mosquitto is not installed yet, nothing changes.
    """
    user, group = _number(root, "etc/passwd"), _number(root, "etc/group")
    if user is not None and group is not None and os.geteuid() == 0:
        path.chmod(0o600)
        os.chown(path, user, group)


def _number(root: Path, file: str) -> int | None:
    """Of Mosquitto's user or group."""
    try:
        lines = (root / file).read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((int(fields[2]) for line in lines if (fields := line.split(":"))[0] == MOSQUITTO), None)
