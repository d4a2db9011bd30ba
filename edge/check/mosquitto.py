"""Mosquitto on this machine: why it does not answer, does not know us, or does not know the devices.

Flows in: the machine's files and units. Flows out: what is wrong, and the one command that mends it.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode
from pathlib import Path

from bridge.mqtt.address import BrokerAddress
from bridge.store.passwords import mosquitto_hash
from edge.check.machine import Machine
from edge.check.result import CheckResult, failed, passed, unseen
from edge.host.broker_files import CONF, PASSWORDS, conflicts_with_others
from edge.host.program import PACKAGE
from edge.registry.broker_passwords import PASSWORDS_FILE

PROGRAM = "usr/sbin/mosquitto"
UNIT, PASSWORDS_UNIT, PASSWORDS_PATH = "mosquitto.service", "iot-edge-passwords.service", "iot-edge-passwords.path"
LOG = "var/log/mosquitto/mosquitto.log"
BRING = f"sudo systemctl start {PASSWORDS_UNIT}"
RESTART = "sudo systemctl restart iot-edge"
"""As it starts, it is handed the password anew, and writes the file that Mosquitto is given."""
MAX_LOG = 262_144
TURNED_AWAY = re.compile(rb"Client \S+ (?:\[[^\]]*\] )?disconnected, not authorised")


def is_here(address: BrokerAddress) -> bool:
    """Return whether the broker that is meant is this machine's."""
    return address.host in ("localhost", "::1") or address.host.startswith("127.")


def why_silent(address: BrokerAddress, machine: Machine) -> tuple[str, str]:
    """Say why nothing listens where Mosquitto should, and what to do."""
    if not machine.has_program(PROGRAM):
        return "Mosquitto is not installed", "sudo apt-get install mosquitto"
    if fatal := next((each for each in conflicts_with_others(machine.root) if each.fatal), None):
        return f"Mosquitto does not start with this: {fatal.detail}", f"sudo systemctl restart {UNIT}"
    state = machine.unit_state(UNIT)
    if state == "failed":
        return "Mosquitto has failed to start", "sudo journalctl -u mosquitto -n 20 --no-pager"
    if state not in ("active", ""):
        return f"Mosquitto is not running ({state})", "sudo systemctl enable --now mosquitto"
    if not (machine.root / CONF).exists():
        return f"Mosquitto has no configuration of ours: /{CONF} is missing", _bring_back(machine)
    if address.port not in listeners(machine):
        detail = f"/{CONF} has no listener on port {address.port}, which mqtt.url names"
        return detail, f"grep listener /{CONF}"
    return f"Mosquitto does not listen on port {address.port}", "sudo systemctl restart mosquitto"


def _bring_back(machine: Machine) -> str:
    """Return how our configuration of Mosquitto comes back: dpkg lets a conffile be that somebody has removed."""
    if (machine.root / f"{CONF}.unused").exists():
        return "sudo nano /etc/iot-edge/edge.toml: mqtt.url is to name a listener of yours"
    if (machine.root / PACKAGE.relative_to("/")).is_dir():
        return "sudo apt-get install --reinstall -o Dpkg::Options::=--force-confmiss iot-edge"
    return "sudo iot-edge install"


def look_at_conflicts(machine: Machine) -> list[CheckResult]:
    """Return what other files of Mosquitto undo of ours."""
    found = conflicts_with_others(machine.root)
    return [failed("broker files", each.detail, f"sudo systemctl restart {UNIT}") for each in found]


def listeners(machine: Machine) -> set[int]:
    """Return the ports in our configuration of Mosquitto."""
    try:
        text = (machine.root / CONF).read_text(errors="replace")
    except OSError:
        return set()
    return {int(port) for port in re.findall(r"^\s*listener\s+(\d{1,5})\b", text, re.MULTILINE)}


def other_listener(address: BrokerAddress) -> tuple[str, str]:
    """Say that something else has the port."""
    detail = f"what listens on port {address.port} is no MQTT broker"
    return detail, f"sudo ss -ltnp 'sport = :{address.port}'"


def why_refused(address: BrokerAddress, machine: Machine, data_dir: Path) -> tuple[str, str]:
    """Say why Mosquitto does not take our password, as far as its files tell."""
    if not address.password:
        return "there is no password for it", "sudo ls -l /etc/iot-edge/credentials/mqtt.password"
    known = _hash_of(address.username, machine.root / PASSWORDS)
    if known is None:
        if _hash_of(address.username, data_dir / PASSWORDS_FILE):
            return f"/{PASSWORDS} has no account {address.username}", BRING
        return f"/{PASSWORDS} has no account {address.username}", RESTART
    if _matches(address.password, known):
        return f"the password is that of /{PASSWORDS}, which Mosquitto has not read", "sudo systemctl reload mosquitto"
    written = _hash_of(address.username, data_dir / PASSWORDS_FILE)
    if written is not None and _matches(address.password, written):
        return f"the password is another one than that of /{PASSWORDS}", BRING
    detail = f"the password is another one than that of /{PASSWORDS}"
    return detail, RESTART


def _hash_of(account: str, path: Path) -> str | None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    named = (line.partition(":") for line in lines)
    return next((hashed for name, _, hashed in named if name == account), None)


def _matches(password: str, hashed: str) -> bool:
    try:
        _, form, _, salt, _ = hashed.split("$")
        return form == "7" and hmac.compare_digest(mosquitto_hash(password, b64decode(salt)), hashed)
    except ValueError:
        return False


def look_at_passwords(machine: Machine, data_dir: Path) -> CheckResult | None:
    """Return whether Mosquitto has the device keys that the gateway has written; None where it has written none."""
    name, written, brought = "passwords", data_dir / PASSWORDS_FILE, machine.root / PASSWORDS
    try:
        if not written.exists():
            return None
        ours = written.read_bytes()
    except OSError:
        return unseen(name, "whether Mosquitto has the devices' keys only root sees")
    try:
        theirs = brought.read_bytes()
    except FileNotFoundError:
        theirs = b""
    except OSError:
        return unseen(name, "whether Mosquitto has the devices' keys only root sees")
    if ours == theirs:
        return passed(name, "Mosquitto has the devices' keys")
    new = len(set(ours.splitlines()) - set(theirs.splitlines()))
    detail = f"{new} keys have not come to Mosquitto" if new else "keys that have ended are still Mosquitto's"
    if machine.unit_state(PASSWORDS_PATH) not in ("active", ""):
        return failed(
            name, f"{detail}: {PASSWORDS_PATH} does not run", f"sudo systemctl enable --now {PASSWORDS_PATH}; {BRING}"
        )
    return failed(name, detail, BRING)


def turned_away(machine: Machine) -> int | None:
    """Return how often Mosquitto has turned somebody away of late, by its log; None where that may not be read."""
    try:
        with (machine.root / LOG).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - MAX_LOG))
            return len(TURNED_AWAY.findall(file.read(MAX_LOG)))
    except OSError:
        return None
