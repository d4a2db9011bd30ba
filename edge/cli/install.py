"""`iot-edge install`, `uninstall`, `upgrade`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.console import FAILED, Json, say, show

if TYPE_CHECKING:
    from edge.host.broker_files import AdmittedDevices

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
    """Write the systemd unit, the settings and the broker's configuration, and start the gateway.

    What is there is left as it is.

    Example: sudo iot-edge install
    """
    _do(root, mosquitto, device_keys, json, overwrite=False, commands=("daemon-reload", "enable --now iot-edge"))


def upgrade(
    root: Root = Path("/"), mosquitto: Broker = True, device_keys: DeviceKeys = None, json: Json = False
) -> None:
    """Bring unit and broker files to this version, and start it. Settings, key and spool stay, and who may connect.

    Example: sudo iot-edge upgrade
    """
    _do(root, mosquitto, device_keys, json, overwrite=True, commands=("daemon-reload", "restart iot-edge"))


def broker_passwords(
    root: Root = Path("/"),
    before_start: Annotated[
        bool, typer.Option("--before-start", help="See to the files that Mosquitto needs to start; as root.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring the device keys that the gateway has written to Mosquitto. iot-edge-passwords.service runs it.

    Example: iot-edge broker-passwords
    """
    from edge.host.broker_files import prepare, take_over_passwords

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
    """Stop the gateway and remove its unit. Settings, key and spool stay.

    Example: sudo iot-edge uninstall
    """
    from edge.host import install as files

    left = files.systemctl(root, *(f"disable --now {unit}" for unit in files.units(root)))
    gone = files.uninstall(root)
    left += files.systemctl(root, "daemon-reload")
    if json:
        show({"removed": gone, "to_do": left})
        return
    for path in gone:
        print(f"removed  {path}")
    print("kept     /etc/iot-edge (settings) and /var/lib/iot-edge (key and spool)")
    _to_do(left, root)


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
    from edge.host.broker_files import AdmittedDevices, conflicts_with_others, present_access

    asked = None if device_keys is None else AdmittedDevices.KEYS if device_keys else AdmittedDevices.ANYBODY
    before = present_access(root)
    access = files.access_to(root, asked, upgrade=overwrite) if mosquitto else None
    command = Path(sys.executable).parent / "iot-edge"  # of the environment that runs this; not a link to it
    written = files.install(root, command, access, overwrite=overwrite)
    first = ["daemon-reload"] if access is AdmittedDevices.KEYS else []
    first += ["enable --now iot-edge-passwords.path"] if access is AdmittedDevices.KEYS else []
    if any(each.written and "mosquitto" in str(each.path) for each in written):
        first.append("restart mosquitto")
    left = files.systemctl(root, *first, *commands)
    notes = _notes(before, access) + [each.detail for each in conflicts_with_others(root)]
    if json:
        listed = [{"path": each.path, "written": each.written} for each in written]
        show({"files": listed, "devices": access, "notes": notes, "to_do": left})
    else:
        for each in written:
            print(f"{'wrote' if each.written else 'kept '}  {each.path}")
        for note in notes:
            print(f"note     {note}")
        _to_do(left, root)
        print("then     iot-edge enrol URL CODE; iot-edge check")
    if left and root == Path("/"):
        raise SystemExit(FAILED)


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
