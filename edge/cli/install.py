"""`iot-edge install`, `uninstall`, `upgrade`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge.cli.console import FAILED, Json, show

Root = Annotated[Path, typer.Option("--root", help="Write below this folder, for an image; nothing is started then.")]
Broker = Annotated[bool, typer.Option("--mosquitto/--no-mosquitto", help="Whether to configure Mosquitto as well.")]


def register(app: typer.Typer) -> None:
    for command in (install, upgrade, uninstall):
        app.command()(command)


def install(root: Root = Path("/"), mosquitto: Broker = True, json: Json = False) -> None:
    """Write the systemd unit, the settings and the broker's configuration, and start the gateway.

    What is there is left as it is.

    Example: sudo iot-edge install
    """
    _do(root, mosquitto, json, overwrite=False, commands=("daemon-reload", "enable --now iot-edge"))


def upgrade(root: Root = Path("/"), mosquitto: Broker = True, json: Json = False) -> None:
    """Bring unit and broker files to this version, and start it. Settings, key and spool stay.

    Example: sudo iot-edge upgrade
    """
    _do(root, mosquitto, json, overwrite=True, commands=("daemon-reload", "restart iot-edge"))


def uninstall(root: Root = Path("/"), json: Json = False) -> None:
    """Stop the gateway and remove its unit. Settings, key and spool stay.

    Example: sudo iot-edge uninstall
    """
    from edge.host import install as files

    left = files.systemctl(root, "disable --now iot-edge")
    gone = files.uninstall(root)
    left += files.systemctl(root, "daemon-reload")
    if json:
        show({"removed": gone, "to_do": left})
        return
    for path in gone:
        print(f"removed  {path}")
    print("kept     /etc/iot-edge (settings) and /var/lib/iot-edge (key and spool)")
    _to_do(left, root)


def _do(root: Path, mosquitto: bool, json: bool, *, overwrite: bool, commands: tuple[str, ...]) -> None:
    from edge.host import install as files

    command = Path(sys.executable).parent / "iot-edge"  # of the environment that runs this; not a link to it
    written = files.install(root, command, mosquitto=mosquitto, overwrite=overwrite)
    restart = (
        ("restart mosquitto",) if mosquitto and any(w.written and "mosquitto" in str(w.path) for w in written) else ()
    )
    left = files.systemctl(root, *restart, *commands)
    if json:
        show({"files": [{"path": each.path, "written": each.written} for each in written], "to_do": left})
    else:
        for each in written:
            print(f"{'wrote' if each.written else 'kept '}  {each.path}")
        _to_do(left, root)
        print("then     iot-edge enrol URL CODE; iot-edge check")
    if left and root == Path("/"):
        raise SystemExit(FAILED)


def _to_do(left: list[str], root: Path) -> None:
    for command in left:
        print(f"to do    {command}" if root == Path("/") else f"to do    there: {command}")
