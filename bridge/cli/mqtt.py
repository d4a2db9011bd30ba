"""`iot-bridge mqtt`: accounts of the MQTT broker, and its files."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import Config, DataDir, Json, NotFound, connect_admin, settings, show
from bridge.cli.console import admin as open_admin
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.mqtt.mosquitto import User
    from bridge.store.admin import Admin

WATCH_S = 1.0
REWRITE_S = 60.0
"""Keys expire without a change in the registry."""

_UNPROTECTED = (
    "with {} a device can take the bridge's client id, and what the broker keeps for it: give devices a listener with "
    "use_username_as_clientid, or write the file anew with --force (docs/brokers.md, An existing Mosquitto)"
)


class AccountRole(StrEnum):
    PUBLISHER = "publisher"
    BRIDGE = "bridge"


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="The MQTT broker: its accounts and its files.")
    account = typer.Typer(no_args_is_help=True, help="Accounts of the broker that are no devices.")
    account.command("add")(add)
    account.command("list")(list_accounts)
    account.command("revoke")(revoke)
    noun.add_typer(account, name="account")
    files = typer.Typer(no_args_is_help=True, help="Configuration of a broker.")
    files.command("mosquitto")(mosquitto)
    noun.add_typer(files, name="config")
    app.add_typer(noun, name="mqtt")


def add(
    name: Annotated[str, typer.Argument(help="User name at the broker.")],
    role: Annotated[
        AccountRole, typer.Option(help="publisher: may publish iot/sensors/+/readings; bridge: the bridge itself.")
    ] = AccountRole.PUBLISHER,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make an account. Its password is shown this once.

    Example: iot-bridge mqtt account add bridge --role bridge
    """
    from psycopg.errors import UniqueViolation

    from bridge.auth.broker_access import OUR_CLIENT_IDS
    from bridge.pipeline.decode import normal_uuid

    name = name.strip()
    if not 0 < len(name) <= 64 or not name.isprintable() or set(name) & set(" :+#/%") or normal_uuid(name):
        raise ConfigError([f"{name}: an account's name has 1 to 64 characters, none of ' :+#/%', and is no UUID"])
    if role is AccountRole.PUBLISHER and name.startswith(OUR_CLIENT_IDS):
        raise ConfigError([f"{name}: on the devices' listener the name is the client id, and this may be a bridge's"])
    with open_admin(config, data_dir) as connection:
        try:
            show(connection.add_mqtt_account(name, role.value), json)
        except UniqueViolation:
            raise ConfigError([f"there is an account {name}; revoke it first"]) from None


def list_accounts(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List accounts.

    Example: iot-bridge mqtt account list
    """
    with open_admin(config, data_dir) as connection:
        show(connection.fetch("list_mqtt_accounts"), json)


def revoke(
    name: Annotated[str, typer.Argument(help="User name at the broker.")],
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Revoke an account.

    Example: iot-bridge mqtt account revoke weather
    """
    with open_admin(config, data_dir) as connection:
        if not connection.fetch("revoke_mqtt_account", name=name):
            raise NotFound(f"no active account {name}; see iot-bridge mqtt account list")
        show({"revoked": [name]}, json)


def mosquitto(
    out: Annotated[Path, typer.Option(help="Folder to write into, e.g. /etc/mosquitto/iot-bridge.")],
    certificate: Annotated[Path | None, typer.Option(help="Certificate of the broker, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="CA of client certificates whose CN is the device's UUID.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Listener for the bridge, on loopback.")] = 1883,
    tls_port: Annotated[int, typer.Option(min=0, max=65535, help="Listener for devices; 0: none.")] = 8883,
    publisher_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Listener for publishers that share an account; 0: none.")
    ] = 0,
    publisher_ca: Annotated[
        Path | None, typer.Option(help="CA of their certificates; without it, the listener is on loopback.")
    ] = None,
    max_devices: Annotated[int, typer.Option(min=1, max=1_000_000, help="Connections of devices.")] = 900,
    persistence: Annotated[Path, typer.Option(help="Where Mosquitto keeps sessions.")] = Path("/var/lib/mosquitto"),
    included: Annotated[
        bool, typer.Option("--included", help="It goes into Debian's conf.d, which says where sessions are kept.")
    ] = False,
    owner: Annotated[str, typer.Option(help="Group that may read the files, where it exists.")] = "mosquitto",
    force: Annotated[bool, typer.Option("--force", help="Write mosquitto.conf again.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and write and reload at every change.")] = False,
    reload: Annotated[
        str, typer.Option(help="Command that reloads Mosquitto, e.g. 'systemctl reload mosquitto'.")
    ] = "",
    pid_file: Annotated[Path | None, typer.Option(help="Or: Mosquitto's pid file, to send SIGHUP.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Write listeners, TLS, access list and password file of a production Mosquitto.

    With --watch it goes on: a new, rotated or revoked key reaches Mosquitto within seconds, and a device
    without a usable key is disconnected.

    Example: iot-bridge mqtt config mosquitto --out /etc/mosquitto/iot-bridge --certificate b.pem --key b.key
    """
    from bridge.mqtt.mosquitto import CONF, Layout, conf, protects_client_ids

    with settings(config, data_dir) as found, connect_admin(found) as connection:
        layout = Layout(
            folder=out.resolve(),
            data_folder=persistence,
            port=port,
            tls_port=tls_port,
            certificate=certificate and certificate.resolve(),
            key=key and key.resolve(),
            client_ca=client_ca and client_ca.resolve(),
            publisher_port=publisher_port,
            publisher_ca=publisher_ca and publisher_ca.resolve(),
            max_devices=max_devices,
            included=included,
            max_payload_bytes=found.mqtt.max_payload_bytes,
        )
        group = _group(owner)
        if force or not (out / CONF).exists():
            text = conf(layout)
            _make_folder(out, group)
            _write(out / CONF, text, group)
        answer = _write_lists(connection, out, group)
        _reload(reload, pid_file)
        show(answer, json)
        if not answer["bridge_accounts"]:
            print("no account for the bridge: iot-bridge mqtt account add bridge --role bridge", file=sys.stderr)
        if not protects_client_ids((out / CONF).read_text()):
            print(_UNPROTECTED.format(out / CONF), file=sys.stderr)
        if answer["without_hash"]:
            print(
                f"{answer['without_hash']} devices must rotate their key first: iot-bridge device key rotate",
                file=sys.stderr,
            )
        while watch:
            _wait_for_change(connection)
            _write_lists(connection, out, group)
            _reload(reload, pid_file)


def _write_lists(connection: Admin, out: Path, group: int | None) -> dict[str, Any]:
    from bridge.mqtt.mosquitto import ACL, PASSWORDS, User, acl, passwords

    rows = [*connection.fetch("mosquitto_accounts"), *connection.fetch("mosquitto_users")]
    users = [User(row["name"], row["role"], row["mosquitto_hash"]) for row in rows if row["mosquitto_hash"]]
    _write(out / PASSWORDS, passwords(users), group)
    _write(out / ACL, acl(users), group)
    return {
        "folder": str(out),
        "devices": _count(users, "device"),
        "publisher_accounts": _count(users, "publisher"),
        "bridge_accounts": _count(users, "bridge"),
        "without_hash": len(rows) - len(users),
    }


def _count(users: Iterable[User], role: str) -> int:
    return sum(user.role == role for user in users)


def _wait_for_change(connection: Admin) -> None:
    before, started_s = connection.fetch("newest_access_change"), time.monotonic()
    while time.monotonic() - started_s < REWRITE_S:
        time.sleep(WATCH_S)
        if connection.fetch("newest_access_change") != before:
            return


def _reload(command: str, pid_file: Path | None) -> None:
    if command:
        try:
            subprocess.run(shlex.split(command), check=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            raise ConfigError([f"--reload {command}: {error}"]) from error
    if pid_file is not None:
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):  # it does not run: it reads them at start
            os.kill(int(pid_file.read_text()), signal.SIGHUP)


def _group(name: str) -> int | None:
    import grp

    try:
        return grp.getgrnam(name).gr_gid if os.geteuid() == 0 else None
    except KeyError:
        return None


def _make_folder(folder: Path, group: int | None) -> None:
    """Make the folder, for us and the broker's group; one that is there already stays as it is."""
    try:
        if not folder.exists():
            above = [parent for parent in folder.parents if not parent.exists()]
            folder.mkdir(parents=True)
            _hand_to(folder, group, 0o750)
            if group is not None:  # and a way to it, which our umask would close
                for parent in above:
                    parent.chmod(0o755)
    except OSError as error:
        raise ConfigError([f"--out {folder}: {error.strerror}"]) from error


def _write(path: Path, text: str, group: int | None) -> None:
    """Whole or not at all: Mosquitto may be reading."""
    new = path.with_name(path.name + ".new")
    try:
        new.touch(mode=0o600)
        new.write_text(text)
        _hand_to(new, group, 0o640)
        new.replace(path)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error


def _hand_to(path: Path, group: int | None, mode: int) -> None:
    """Let a group read; without one it stays its owner's alone."""
    if group is not None:
        shutil.chown(path, group=group)
        path.chmod(mode)
