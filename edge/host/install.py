"""Files that make a gateway of a machine: written under a root, so that an image or a test can be one.

Flows in: where the command stands. Flows out: the systemd unit, the settings (never over those that are there), the
Mosquitto configuration. What is spooled is never touched.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import msgspec

from bridge.errors import ConfigError
from edge.host.broker_conflicts import fatal, find_conflicts
from edge.host.broker_files import ACL, CONF, PASSWORDS, AdmittedDevices, make_own_account, prepare, present_access

UNIT = Path("etc/systemd/system/iot-edge.service")
PASSWORDS_UNIT = Path("etc/systemd/system/iot-edge-passwords.service")
PASSWORDS_PATH = Path("etc/systemd/system/iot-edge-passwords.path")
BROKER_DROP_IN = Path("etc/systemd/system/mosquitto.service.d/iot-edge.conf")
SETTINGS = Path("etc/iot-edge/edge.toml")
CREDENTIALS = Path("etc/iot-edge/credentials")
PLACEHOLDER = "/opt/iot-edge/bin/iot-edge"
CONF_OF = {AdmittedDevices.KEYS: "mosquitto-keys.conf", AdmittedDevices.ANYBODY: "mosquitto.conf"}
OWN_LISTENER = {AdmittedDevices.KEYS: "mqtt://127.0.0.1:1884", AdmittedDevices.ANYBODY: "mqtt://127.0.0.1:1883"}


class Written(msgspec.Struct, frozen=True):
    """Names a file, and says whether it was written or left as it was."""

    path: Path
    written: bool


def access_to(root: Path, asked: AdmittedDevices | None, *, upgrade: bool) -> AdmittedDevices | None:
    """Return whom the broker is to let in: what is asked for; else as it is now; else, a new one, devices with keys.

    None on an upgrade where no broker of ours is installed: somebody else has set up the one that devices connect to.
    """
    present = present_access(root)
    return asked or present or (None if upgrade else AdmittedDevices.KEYS)


def install(root: Path, command: Path, access: AdmittedDevices | None, *, overwrite: bool = False) -> list[Written]:
    """Write every file that is not there, and with `overwrite` all but the settings. Raises ConfigError.

    `access` None leaves Mosquitto alone; one that differs from what is installed changes its files.
    """
    if any(part in command.parts[1:2] for part in ("home", "root")):
        raise ConfigError([f"{command}: stands in a home folder, which the unit does not see; install it in /opt"])
    settings = template("edge.toml").replace(
        OWN_LISTENER[AdmittedDevices.ANYBODY], OWN_LISTENER[access or AdmittedDevices.ANYBODY]
    )
    files = [(UNIT, template("iot-edge.service").replace(PLACEHOLDER, str(command)), overwrite)]
    try:
        if access is not None:
            _refuse_conflicts(root, access)
            files += _broker_files(command, access, overwrite or present_access(root) is not access)
        files.append((SETTINGS, settings, False))
        (root / CREDENTIALS).mkdir(parents=True, exist_ok=True)
        (root / CREDENTIALS).chmod(0o700)
        written = [_write(root / path, text, over) for path, text, over in files]
        if access is AdmittedDevices.KEYS:
            written += [Written(path, True) for path in make_own_account(root)]
        if access is not None:
            prepare(root)
        return written
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}; run this as root, or with --root DIR"]) from error


def _refuse_conflicts(root: Path, access: AdmittedDevices) -> None:
    """Raise ConfigError where Mosquitto would not start with our file, which is not there yet."""
    if present_access(root) is None and (problems := fatal(find_conflicts(root, CONF, template(CONF_OF[access])))):
        raise ConfigError([*problems, "or leave Mosquitto to yourself: iot-edge install --no-mosquitto"])


def _broker_files(command: Path, access: AdmittedDevices, overwrite: bool) -> list[tuple[Path, str, bool]]:
    if access is AdmittedDevices.ANYBODY:
        return [
            (CONF, template("mosquitto.conf"), overwrite),
            (ACL, template("mosquitto.acl"), overwrite),
            _drop_in(command, overwrite),
        ]
    unit = template("iot-edge-passwords.service").replace(PLACEHOLDER, str(command))
    return [
        (CONF, template("mosquitto-keys.conf"), overwrite),
        (ACL, template("mosquitto-keys.acl"), overwrite),
        _drop_in(command, overwrite),
        (PASSWORDS_UNIT, unit, overwrite),
        (PASSWORDS_PATH, template("iot-edge-passwords.path"), overwrite),
    ]


def _drop_in(command: Path, overwrite: bool) -> tuple[Path, str, bool]:
    return BROKER_DROP_IN, template("mosquitto-service.conf").replace(PLACEHOLDER, str(command)), overwrite


def units(root: Path) -> list[str]:
    """Return the units that are installed and run by themselves."""
    return [path.name for path in (UNIT, PASSWORDS_PATH) if (root / path).exists()]


def uninstall(root: Path) -> list[Path]:
    """Remove the unit and the broker's files; settings, key and spool stay. Raises ConfigError."""
    gone = []
    for path in (UNIT, PASSWORDS_UNIT, PASSWORDS_PATH, BROKER_DROP_IN, CONF, ACL, PASSWORDS):
        try:
            (root / path).unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError([f"{root / path}: {error.strerror}; run this as root"]) from error
        gone.append(root / path)
    return gone


def template(name: str) -> str:
    """Return one of the files in edge/host/installed/."""
    return resources.files("edge.host").joinpath("installed", name).read_text()


def systemctl(root: Path, *commands: str) -> list[str]:
    """Run systemctl where systemd runs and the root is this machine's; return what is left to do by hand."""
    if root != Path("/") or not Path("/run/systemd/system").exists() or shutil.which("systemctl") is None:
        return [f"systemctl {command}" for command in commands]
    failed = []
    for command in commands:
        if subprocess.run(["systemctl", *command.split()], check=False).returncode:
            failed.append(f"systemctl {command}")
    return failed


def _write(path: Path, text: str, overwrite: bool) -> Written:
    if path.exists() and (not overwrite or path.read_text() == text):
        return Written(path, False)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
    return Written(path, True)
