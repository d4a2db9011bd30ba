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

UNIT = Path("etc/systemd/system/iot-edge.service")
SETTINGS = Path("etc/iot-edge/edge.toml")
CREDENTIALS = Path("etc/iot-edge/credentials")
MOSQUITTO = Path("etc/mosquitto/conf.d/iot-edge.conf")
ACL = Path("etc/mosquitto/iot-edge.acl")
PLACEHOLDER = "/opt/iot-edge/bin/iot-edge"


class Written(msgspec.Struct, frozen=True):
    """Names a file, and says whether it was written or left as it was."""

    path: Path
    written: bool


def install(root: Path, command: Path, *, mosquitto: bool, overwrite: bool = False) -> list[Written]:
    """Write every file that is not there, and with `overwrite` all but the settings. Raises ConfigError."""
    if any(part in command.parts[1:2] for part in ("home", "root")):
        raise ConfigError([f"{command}: stands in a home folder, which the unit does not see; install it in /opt"])
    files = [
        (UNIT, template("iot-edge.service").replace(PLACEHOLDER, str(command)), overwrite),
        (SETTINGS, template("edge.toml"), False),
    ]
    if mosquitto:
        files += [(MOSQUITTO, template("mosquitto.conf"), overwrite), (ACL, template("mosquitto.acl"), overwrite)]
    try:
        (root / CREDENTIALS).mkdir(parents=True, exist_ok=True)
        (root / CREDENTIALS).chmod(0o700)
        return [_write(root / path, text, over) for path, text, over in files]
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}; run this as root, or with --root DIR"]) from error


def uninstall(root: Path) -> list[Path]:
    """Remove the unit and the broker's files; settings, key and spool stay. Raises ConfigError."""
    gone = []
    for path in (UNIT, MOSQUITTO, ACL):
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
