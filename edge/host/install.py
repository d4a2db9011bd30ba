"""Files that make a gateway of a machine: written under a root, so that an image or a test can be one.

Flows in: where the command stands. Flows out: the user, the systemd units, the settings, the Mosquitto configuration;
what an engineer has changed of them stays (laid_files.py). What is spooled is never touched.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

from bridge.errors import ConfigError
from bridge.settings.toml import load_toml
from edge.host import system_user
from edge.host.broker_conflicts import fatal, find_conflicts
from edge.host.broker_files import ACL, CONF, PASSWORDS, AdmittedDevices, make_own_account, prepare, present_access
from edge.host.installation import INSTALLED, USER
from edge.host.laid_files import PLACEHOLDER, Fate, LaidFile, LaidFiles, Rule, open_folders
from edge.host.system_user import SYSUSERS

UNIT = Path("etc/systemd/system/iot-edge.service")
ENROL_UNIT = Path("etc/systemd/system/iot-edge-enrol.service")
PASSWORDS_UNIT = Path("etc/systemd/system/iot-edge-passwords.service")
PASSWORDS_PATH = Path("etc/systemd/system/iot-edge-passwords.path")
BROKER_DROP_IN = Path("etc/systemd/system/mosquitto.service.d/iot-edge.conf")
SETTINGS = Path("etc/iot-edge/edge.toml")
CREDENTIALS = Path("etc/iot-edge/credentials")
COMMAND = Path(PLACEHOLDER)
CONF_OF = {AdmittedDevices.KEYS: "mosquitto-keys.conf", AdmittedDevices.ANYBODY: "mosquitto.conf"}
OWN_LISTENER = {AdmittedDevices.KEYS: "mqtt://127.0.0.1:1884", AdmittedDevices.ANYBODY: "mqtt://127.0.0.1:1883"}


def access_to(root: Path, asked: AdmittedDevices | None, *, upgrade: bool) -> AdmittedDevices | None:
    """Return whom the broker is to let in: what is asked for; else as it is now; else, a new one, devices with keys.

    None on an upgrade where no broker of ours is installed: somebody else has set up the one that devices connect to.
    """
    present = present_access(root)
    return asked or present or (None if upgrade else AdmittedDevices.KEYS)


def install(
    root: Path, command: Path | None, access: AdmittedDevices | None, *, overwrite: bool = False
) -> list[LaidFile]:
    """Write every file that is not there; with `overwrite` bring those to this version that nobody has changed.

    `command` None is for a packaged gateway: only Mosquitto's files then.

    `access` None leaves Mosquitto alone; one that differs from what is installed changes its files. Raises ConfigError.
    """
    try:
        switched = access is not None and present_access(root) not in (None, access)
        laid = LaidFiles(root)
        written = [] if command is None else _own_files(laid, root, command, access, renew=overwrite or switched)
        for path, text, over in [] if access is None else _broker_files(command or COMMAND, access, overwrite):
            if command is not None or path.parts[1] == "mosquitto":
                rule = Rule.REPLACE if switched else Rule.UPGRADE if over else Rule.LEAVE
                written.append(laid.lay(path, text, rule))
        laid.save()
        if access is AdmittedDevices.KEYS:
            written += [LaidFile(path.relative_to(root), Fate.WRITTEN) for path in make_own_account(root)]
        if access is not None:
            prepare(root)
        return written
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}; run this as root, or with --root DIR"]) from error


def _own_files(
    laid: LaidFiles, root: Path, command: Path, access: AdmittedDevices | None, *, renew: bool
) -> list[LaidFile]:
    """Lay units and settings. Raises OSError."""
    open_folders((root / CREDENTIALS).parent)
    (root / CREDENTIALS).mkdir(exist_ok=True)
    (root / CREDENTIALS).chmod(0o700)
    texts = {
        UNIT: template("iot-edge.service").replace(PLACEHOLDER, str(command)),
        ENROL_UNIT: template("iot-edge-enrol.service").replace(PLACEHOLDER, str(command)),
        SETTINGS: template("edge.toml").replace(OWN_LISTENER[AdmittedDevices.ANYBODY], _own_listener(root, access)),
    }
    return [laid.lay(path, text, Rule.UPGRADE if renew else Rule.LEAVE) for path, text in texts.items()]


def _own_listener(root: Path, access: AdmittedDevices | None) -> str:
    """Return where the gateway finds its broker; where that is none of ours, as the settings that are there have it."""
    if access is not None:
        return OWN_LISTENER[access]
    try:
        is_there = OWN_LISTENER[AdmittedDevices.KEYS] in (root / SETTINGS).read_text(errors="replace")
    except OSError:
        is_there = False
    return OWN_LISTENER[AdmittedDevices.KEYS if is_there else AdmittedDevices.ANYBODY]


def make_user(root: Path) -> list[str]:
    """Make the gateway's user. Returns what is left to do by hand, in an image; raises ConfigError where it is here.

    The unit of a release before has a DynamicUser of the same name: it is stopped, else the name is taken.
    """
    try:
        laid = LaidFiles(root)
        laid.lay(SYSUSERS, template("iot-edge.sysusers"), Rule.UPGRADE)
        laid.save()
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}; run this as root, or with --root DIR"]) from error
    if system_user.exists(root) and not system_user.was_dynamic(root):
        return []
    if (root / UNIT).exists():
        systemctl(root, "stop iot-edge")
    left = system_user.make(root)
    if not left:
        _carry_over(root)
    if left and root == Path("/"):
        if (root / UNIT).exists():
            systemctl(root, "start iot-edge")
        raise ConfigError([f"there is no user {USER}, and none could be made; run: {left[0]}"])
    return left


def _carry_over(root: Path) -> None:
    """Give the state of a release before to the user. Raises ConfigError; then the gateway goes on as it was."""
    try:
        system_user.carry_over(root)
    except OSError as error:
        if (root / UNIT).exists():
            systemctl(root, "start iot-edge")
        raise ConfigError([f"{error.filename}: {error.strerror}; it could not be given to the gateway"]) from error


def refuse_moved_paths(root: Path) -> None:
    """Raise ConfigError where the settings name other folders than the unit of a release before, which overrode them.

    With the unit that follows they would count, and the gateway would find neither its key nor its spool.
    """
    try:
        unit = (root / UNIT).read_text(errors="replace")
        named = load_toml(root / SETTINGS)
    except (OSError, ConfigError):
        return
    state = str(INSTALLED.state)
    found = {
        f"{section}.{key}": value
        for section, key in (("gateway", "data_dir"), ("spool", "path"))
        if (value := named.get(section, {}).get(key)) is not None
    }
    wanted = {"gateway.data_dir": state, "spool.path": f"{state}/spool.db"}
    wrong = [name for name, value in found.items() if value != wanted[name]]
    if wrong and f"IOT_EDGE_GATEWAY__DATA_DIR={state}" in unit:
        said = f"{', '.join(wrong)} did not count until now: key and spool are in {state}"
        raise ConfigError([f"/{SETTINGS}: {said}; take the line out, or move the files there first"])


def refuse_conflicts(root: Path, access: AdmittedDevices | None) -> None:
    """Raise ConfigError where Mosquitto would not start with our file, which is not there yet."""
    if access is None or present_access(root) is not None:
        return
    if problems := fatal(find_conflicts(root, CONF, template(CONF_OF[access]))):
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
    return [path.name for path in (UNIT, ENROL_UNIT, PASSWORDS_PATH) if (root / path).exists()]


def uninstall(root: Path) -> list[LaidFile]:
    """Remove the units and the broker's files; settings, key and spool stay. Raises ConfigError."""
    gone = []
    for path in (UNIT, ENROL_UNIT, PASSWORDS_UNIT, PASSWORDS_PATH, BROKER_DROP_IN, CONF, ACL, PASSWORDS):
        try:
            laid = LaidFiles(root)
            if path == PASSWORDS:  # the gateway writes it, no engineer
                found = LaidFile(path, Fate.WRITTEN) if (root / path).exists() else None
                (root / path).unlink(missing_ok=True)
            else:
                found = laid.remove(path)
            laid.save()
        except OSError as error:
            raise ConfigError([f"{root / path}: {error.strerror}; run this as root"]) from error
        if found is not None:
            gone.append(found)
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
