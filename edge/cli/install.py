"""`iot-edge install`, `uninstall`, `upgrade`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.errors import ConfigError
from edge.cli.console import FAILED, Json, say, show

if TYPE_CHECKING:
    from edge.host.broker_files import AdmittedDevices
    from edge.host.laid_files import LaidFile

Root = Annotated[Path, typer.Option("--root", help="Write below this folder, for an image; nothing is started then.")]
Broker = Annotated[bool, typer.Option("--mosquitto/--no-mosquitto", help="Whether to configure Mosquitto as well.")]
DeviceKeys = Annotated[
    bool | None,
    typer.Option(
        "--device-keys/--anonymous-lan",
        help="Whether devices need their key at Mosquitto, or anybody on the network may publish as any of them. "
        "Without either: as it is; a new one asks for keys.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    for command in (install, upgrade, uninstall):
        app.command()(command)
    app.command(hidden=True)(broker_passwords)


def install(
    root: Root = Path("/"), mosquitto: Broker = True, device_keys: DeviceKeys = None, json: Json = False
) -> None:
    """Write user, systemd units, settings and the broker's configuration, and start the gateway.

    What is there is left as it is.

    Example: sudo iot-edge install
    """
    _do(root, mosquitto, device_keys, json, overwrite=False, commands=("daemon-reload", "enable --now iot-edge"))


def upgrade(
    root: Root = Path("/"), mosquitto: Broker = True, device_keys: DeviceKeys = None, json: Json = False
) -> None:
    """Bring units, settings and broker files to this version, and start it. What was changed by hand stays as it is.

    This version's is then beside it, with the ending .new. Key and spool stay, and who may connect to Mosquitto.

    Example: sudo iot-edge upgrade
    """
    _do(root, mosquitto, device_keys, json, overwrite=True, commands=("daemon-reload", "restart iot-edge"))


def broker_passwords(
    root: Root = Path("/"),
    own: Annotated[bool, typer.Option("--own", help="Make the gateway's own account, where it has none.")] = False,
    before_start: Annotated[
        bool, typer.Option("--before-start", help="See to the files that Mosquitto needs to start; as root.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring the device keys that the gateway has written to Mosquitto. iot-edge-passwords.service runs it.

    Example: iot-edge broker-passwords
    """
    from edge.host.broker_files import make_own_account, prepare, take_over_passwords

    if own:
        try:
            written = make_own_account(root)
        except OSError as error:
            raise ConfigError([f"{error.filename}: {error.strerror}; run this as root"]) from error
        show({"written": written}) if json else print(f"{len(written)} files written")
        return
    if before_start:
        conflicts = prepare(root)
        if json:
            show({"conflicts": [{"detail": each.detail, "fatal": each.fatal} for each in conflicts]})
        for each in conflicts if not json else ():
            say(each.detail)
        if any(each.fatal for each in conflicts):
            raise SystemExit(FAILED)
        return
    count = take_over_passwords(root)
    if json:
        show({"accounts": count})
    else:
        print(f"{count} accounts")


def uninstall(root: Root = Path("/"), json: Json = False) -> None:
    """Stop the gateway and remove its units, and Mosquitto's files. Settings, key and spool stay.

    Example: sudo iot-edge uninstall
    """
    from edge.host import install as files
    from edge.host.program import refuse_beside_package

    refuse_beside_package(root, Path(__file__))
    left = files.systemctl(root, *(f"disable --now {unit}" for unit in files.units(root)))
    gone = files.uninstall(root)
    left += files.systemctl(root, "daemon-reload")
    if any("mosquitto" in str(each.path) for each in gone):
        left += files.systemctl(root, "try-restart mosquitto")
    stays = [
        "/etc/iot-edge (settings, passwords)",
        "/var/lib/iot-edge (key and spool)",
        "the user iot-edge",
        *(f"/{each.beside} (was changed by hand)" for each in gone if each.beside is not None),
    ]
    if json:
        show({"removed": [f"/{each.path}" for each in gone], "kept": stays, "to_do": left})
    else:
        for each in gone:
            say(f"removed  {root / each.path}")
        for text in stays:
            say(f"kept     {text}")
        _to_do(left, root)
    if left and root == Path("/"):
        raise SystemExit(FAILED)


def _do(
    root: Path,
    mosquitto: bool,
    device_keys: bool | None,
    json: bool,
    *,
    overwrite: bool,
    commands: tuple[str, ...],
) -> None:
    from edge.host import install as files
    from edge.host.broker_files import AdmittedDevices, present_access
    from edge.host.program import command_of, is_packaged, refuse_beside_package

    asked = None if device_keys is None else AdmittedDevices.KEYS if device_keys else AdmittedDevices.ANYBODY
    packaged = is_packaged(root, Path(__file__))
    if packaged and (asked is None or overwrite):
        refuse_beside_package(root, Path(__file__))
    before = present_access(root)
    access = files.access_to(root, asked, upgrade=overwrite) if mosquitto else None
    files.refuse_conflicts(root, access)
    command, left = None, list[str]()
    if not packaged:
        command = command_of(Path(sys.executable), root)
        files.refuse_moved_paths(root)
        left = files.make_user(root)
    laid = files.install(root, command, access, overwrite=overwrite)
    left += files.systemctl(root, *_commands(laid, access, commands, packaged=packaged))
    _tell(laid, before, access, left, root, json=json)
    if left and root == Path("/"):
        raise SystemExit(FAILED)


def _commands(
    laid: list[LaidFile], access: AdmittedDevices | None, commands: tuple[str, ...], *, packaged: bool
) -> list[str]:
    """Return what systemctl is to do."""
    from edge.host.broker_files import AdmittedDevices

    found = ["daemon-reload"]
    if access is AdmittedDevices.KEYS:
        found.append("enable --now iot-edge-passwords.path")
    if any(each.written and "mosquitto" in str(each.path) for each in laid):
        found.append("restart mosquitto")
    return [*found, "restart iot-edge"] if packaged else [*found, "enable iot-edge-enrol", *commands]


def _tell(
    laid: list[LaidFile],
    before: AdmittedDevices | None,
    access: AdmittedDevices | None,
    left: list[str],
    root: Path,
    *,
    json: bool,
) -> None:
    """Say what became of each file, and what is left to do."""
    from edge.host.broker_files import conflicts_with_others

    notes = _notes(before, access) + [text for each in laid if (text := _edited(each))]
    notes += [each.detail for each in conflicts_with_others(root)]
    if json:
        listed = [
            {"path": each.path, "written": each.written, "state": each.fate, "beside": each.beside, "diff": each.diff}
            for each in laid
        ]
        show({"files": listed, "devices": access, "notes": notes, "to_do": left})
        return
    for each in laid:
        say(f"{each.fate:<8} {root / each.path}")
        for line in each.diff:
            say(f"         {line}")
    for note in notes:
        say(f"note     {note}")
    _to_do(left, root)
    say("then     iot-edge enrol URL CODE; iot-edge check")


def _edited(laid: LaidFile) -> str:
    """Say what to do with a file that somebody has changed."""
    from edge.host.laid_files import Fate

    if laid.fate is Fate.EDITED and laid.beside is not None:
        return f"/{laid.path} was changed here, and stays; this version's is /{laid.beside}: take over what you need"
    if laid.fate is Fate.REPLACED:
        return f"/{laid.path} was changed here, and is replaced as you asked; what it was is /{laid.beside}"
    if laid.fate is Fate.LEFT:
        return (
            f"/{laid.path} is another than this version's, and stays; iot-edge upgrade brings what nobody has changed"
        )
    return ""


def _notes(before: AdmittedDevices | None, access: AdmittedDevices | None) -> list[str]:
    """Say who may connect to Mosquitto now, and what that means."""
    from edge.host.broker_files import AdmittedDevices
    from edge.host.install import OWN_LISTENER

    if access is AdmittedDevices.ANYBODY:
        anybody = "anybody who reaches port 1883 may publish as any device"
        kept = "as before, devices connect without a key, and " if before is access else ""
        return [f"{kept}{anybody}; to ask for device keys: iot-edge install --device-keys"]
    if access is AdmittedDevices.KEYS:
        notes = [
            "devices connect on port 1883 with their UUID as user name and their device key, once this is enrolled"
        ]
        if before is AdmittedDevices.ANYBODY:
            url = OWN_LISTENER[access]
            notes.append(f'devices without a key are locked out now; set mqtt.url = "{url}" in /etc/iot-edge/edge.toml')
        return notes
    return []


def _to_do(left: list[str], root: Path) -> None:
    for command in left:
        print(f"to do    {command}" if root == Path("/") else f"to do    there: {command}")
