"""`iot-bridge device`: devices, their sensors and their keys."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import (
    MAX_ID,
    Config,
    DataDir,
    Json,
    NotFound,
    Rows,
    admin,
    check_expiry,
    check_name,
    show,
    warn,
)
from bridge.errors import ConfigError
from bridge.model.reading import UNITS

if TYPE_CHECKING:
    from bridge.store.admin import Admin

Device = Annotated[str, typer.Argument(help="UUID or id of the device.")]
Expires = Annotated[str | None, typer.Option(help="When the key ends, e.g. 2027-01-31.")]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Devices, their sensors and keys.")
    noun.command("add")(add)
    noun.command("list")(list_devices)
    noun.command("show")(show_device)
    noun.command("disable")(disable)
    noun.command("enable")(enable)
    key = typer.Typer(no_args_is_help=True, help="Keys of a device.")
    key.command("rotate")(rotate)
    key.command("revoke")(revoke)
    noun.add_typer(key, name="key")
    app.add_typer(noun, name="device")


def add(
    name: Annotated[str, typer.Argument(help="A name for people.")],
    sensor: Annotated[list[str] | None, typer.Option(help="NAME:TYPE[:UNIT], once for each sensor.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Register a device. Its key is shown this once.

    Example: iot-bridge device add greenhouse --sensor air:temperature --sensor soil:humidity:%
    """
    label = check_name(name)
    sensors = [parse_sensor(text) for text in sensor or []]
    twice = [name for name, count in Counter(name for name, _, _ in sensors).items() if count > 1]
    if twice:
        raise ConfigError([f"--sensor {name}: the name is there twice" for name in twice])
    with admin(config, data_dir) as connection:
        show(connection.add_device(label, sensors), json)


def parse_sensor(text: str) -> tuple[str, str, str | None]:
    """(name, type, unit) of NAME:TYPE[:UNIT]. Raises ConfigError."""
    parts = text.split(":", 2)
    if len(parts) < 2 or not all(parts[:2]):
        raise ConfigError([f"--sensor {text}: write NAME:TYPE or NAME:TYPE:UNIT, e.g. air:temperature:°C"])
    name, kind = check_name(parts[0]), check_name(parts[1])
    near = get_close_matches(kind, UNITS, n=1)
    if kind not in UNITS and near:
        warn(f"warning: {kind} has no physical limits of its own; did you mean {near[0]}?")
    return name, kind, check_name(parts[2]) if len(parts) > 2 else UNITS.get(kind)


def list_devices(
    limit: Rows = 1000,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List devices.

    Example: iot-bridge device list --data-dir var/bridge
    """
    with admin(config, data_dir) as connection:
        show(connection.fetch("list_devices", limit=limit), json)


def show_device(device: Device, config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """A device with its sensors and keys.

    Example: iot-bridge device show 1
    """
    with admin(config, data_dir) as connection:
        show(find(connection, device), json)


def disable(device: Device, config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Take nothing from a device any more, within seconds.

    Example: iot-bridge device disable 1
    """
    _set_status(device, "disabled", config, data_dir, json)


def enable(device: Device, config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Take readings from a disabled device again.

    Example: iot-bridge device enable 1
    """
    _set_status(device, "offline", config, data_dir, json)


def _set_status(device: str, status: str, config: Config, data_dir: DataDir, json: bool) -> None:
    with admin(config, data_dir) as connection:
        found = find(connection, device)
        connection.fetch("set_device_status", device_id=found["device_id"], status=status)
        show({"device_id": found["device_id"], "device_uuid": found["device_uuid"], "status": status}, json)


def rotate(
    device: Device,
    expires: Expires = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """A new key, shown this once. The newest key before it stays usable; older ones are revoked.

    Example: iot-bridge device key rotate 1 --expires 2027-01-31
    """
    until = check_expiry(expires)
    with admin(config, data_dir) as connection:
        show(connection.rotate_device_key(find(connection, device)["device_id"], until), json)


def revoke(
    device: Device,
    key_id: Annotated[int | None, typer.Option("--key", min=1, help="Id of one key; without it, all of them.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Revoke keys; they stop working within 5 s.

    Example: iot-bridge device key revoke 1 --key 3
    """
    with admin(config, data_dir) as connection:
        found = find(connection, device)
        is_beyond = key_id is not None and key_id > MAX_ID
        gone = [] if is_beyond else connection.fetch("revoke_device_keys", device_id=found["device_id"], key_id=key_id)
        if not gone:
            raise NotFound("no such active key; see iot-bridge device show")
        show({"revoked": [row["id"] for row in gone]}, json)


def find(connection: Admin, device: str) -> dict[str, Any]:
    """A device by UUID or id. Raises NotFound, ConfigError."""
    found = connection.device(*_uuid_or_id(device))
    if found is None:
        raise NotFound(f"no device {device}; see iot-bridge device list")
    return found


def find_books(connection: Admin, device: str) -> int:
    """Whose line of the ledger it is, by UUID or id: also of a deleted device. Raises NotFound, ConfigError."""
    uuid, number = _uuid_or_id(device)
    deleted = connection.fetch("find_deleted_device", uuid=uuid, id=number)
    found = connection.device(uuid, number) or next(iter(deleted), None)
    if found is None:
        raise NotFound(f"no device {device}; see iot-bridge ledger")
    return int(found["device_id"])


def _uuid_or_id(device: str) -> tuple[str | None, int | None]:
    """One of the two. Raises NotFound, ConfigError."""
    from bridge.pipeline.decode import normal_uuid

    # Of what is longer no id is made: Python reads 4,300 digits at most.
    number = (int(device) if len(device) < 20 else MAX_ID + 1) if device.isascii() and device.isdecimal() else None
    if number is not None and number > MAX_ID:
        raise NotFound(f"no device {device[:80]}; see iot-bridge device list")
    uuid = normal_uuid(device) if number is None else None
    if number is None and uuid is None:
        raise ConfigError([f"{device}: neither a device UUID nor a device id"])
    return uuid, number
