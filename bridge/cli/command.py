"""`iot-bridge command`: commands to devices, over MQTT. A running service publishes what is sent here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from bridge.cli.console import Config, DataDir, Json, NotFound, Rows, connect_admin, settings, show
from bridge.cli.console import admin as open_admin
from bridge.cli.device import Device, find
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.store.admin import Admin


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Commands to devices.")
    noun.command("send")(send)
    noun.command("list")(list_commands)
    noun.command("show")(show_command)
    app.add_typer(noun, name="command")


def send(
    device: Device,
    payload: Annotated[str, typer.Argument(help="What the device gets: JSON, or text.")],
    expires_in: Annotated[float | None, typer.Option(help="Seconds that it may wait for the device.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Send a command to a device. It is published by a running service, at once or when there is one.

    Example: iot-bridge command send 1 '{"interval_s": 30}' --expires-in 600
    """
    with settings(config, data_dir) as found:
        limits = found.commands
        expires_s = limits.default_expiry_s if expires_in is None else expires_in
        document = as_json(payload)
        problems = []
        if not 1 <= expires_s <= limits.max_expiry_s:
            problems.append(f"--expires-in {expires_s:g}: is from 1 to {limits.max_expiry_s:g} s")
        if len(document) > limits.max_payload_bytes:
            problems.append(f"the payload is over {limits.max_payload_bytes} bytes")
        if problems:
            raise ConfigError(problems)
        with connect_admin(found) as connection:
            uuid = find(connection, device)["device_uuid"]
            most = limits.max_open_per_device
            made = connection.fetch(
                "add_command", uuid=uuid, payload=document.decode(), expires_s=expires_s, key=None, most=most
            )[0]
            if made["refusal"]:
                raise ConfigError([f"the device takes no command: {made['refusal']}"])
            show(_shown(connection, uuid, made["id"], json)[0], json)


def as_json(payload: str) -> bytes:
    """JSON as it is given; anything else is text, a JSON string."""
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return msgspec.json.encode(payload.encode(errors="replace").decode())
    return payload.encode()


def list_commands(
    device: Device,
    limit: Rows = 100,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Commands of a device, the newest first.

    Example: iot-bridge command list 1
    """
    with open_admin(config, data_dir) as connection:
        uuid = find(connection, device)["device_uuid"]
        show(
            _shown(connection, uuid, None, json, limit),
            json,
            ["command_id", "state", "payload", "created_at", "result"],
        )


def show_command(
    device: Device,
    command_id: Annotated[str, typer.Argument(help="Id of the command.")],
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """A command, its state and what the device answered.

    Example: iot-bridge command show 1 5f0c1f5e-0000-4000-8000-00000000000c
    """
    from bridge.pipeline.decode import normal_uuid

    wanted = normal_uuid(command_id)
    if wanted is None:
        raise ConfigError([f"{command_id}: no id of a command, which is a UUID"])
    with open_admin(config, data_dir) as connection:
        found = _shown(connection, find(connection, device)["device_uuid"], wanted, json)
        if not found:
            raise NotFound(f"no command {wanted} of this device; see iot-bridge command list")
        show(found[0], json)


def _shown(connection: Admin, uuid: str, command_id: str | None, as_raw: bool, limit: int = 1) -> list[dict[str, Any]]:
    from bridge.store.commands import document

    rows = connection.fetch("show_commands", uuid=uuid, id=command_id, limit=limit)
    documents = [document(list(row.values())) for row in rows]
    return documents if as_raw else [{name: _text(part) for name, part in each.items()} for each in documents]


def _text(part: Any) -> Any:
    """For people, raw JSON is text."""
    return bytes(part).decode() if isinstance(part, msgspec.Raw) else part
