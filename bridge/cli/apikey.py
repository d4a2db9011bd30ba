"""`iot-bridge apikey`: keys of API clients."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.cli.console import Config, DataDir, Json, NotFound, admin, check_expiry, check_name, show
from bridge.cli.device import find
from bridge.errors import ConfigError
from bridge.model.scopes import DEFAULT_SCOPES, SCOPES

_SCOPES_HELP = "What the key may do, once for each: " + "; ".join(f"{name}: {what}" for name, what in SCOPES.items())
Scope = Annotated[
    list[str] | None,
    typer.Option(help=f"{_SCOPES_HELP}. Without any: {', '.join(DEFAULT_SCOPES)}."),
]
Device = Annotated[
    list[str] | None, typer.Option(help="UUID or id of a device, once for each: it may speak for no others.")
]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Keys of API clients.")
    noun.command("add")(add)
    noun.command("list")(list_keys)
    noun.command("revoke")(revoke)
    app.add_typer(noun, name="apikey")


def add(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    scope: Scope = None,
    device: Device = None,
    expires: Annotated[str | None, typer.Option(help="When it ends, e.g. 2027-01-31.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make an API key. It is shown this once.

    Example: iot-bridge apikey add dashboard --scope status:read --json
    """
    label, until = check_name(name), check_expiry(expires)
    scopes = list(dict.fromkeys(scope or DEFAULT_SCOPES))
    problems = [f"--scope {each}: allowed is one of {', '.join(SCOPES)}" for each in scopes if each not in SCOPES]
    if problems:
        raise ConfigError(problems)
    with admin(config, data_dir) as connection:
        found = [find(connection, text) for text in device or []]
        devices = {each["device_id"]: each["device_uuid"] for each in found}
        made = connection.add_api_key(label, until, scopes, list(devices) or None)
    uuids = list(devices.values()) or None
    if json:
        show(made | {"devices": uuids}, json)
    else:
        show(made | {"scopes": ", ".join(scopes), "devices": ", ".join(uuids or ["all"])}, json)


def list_keys(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List API keys, with what they may do.

    Example: iot-bridge apikey list
    """
    with admin(config, data_dir) as connection:
        keys = connection.fetch("list_api_keys")
    if not json:
        keys = [key | {"devices": "all" if key["devices"] is None else key["devices"]} for key in keys]
    show(keys, json)


def revoke(
    key_id: Annotated[int, typer.Argument(help="Id of the key.")],
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Revoke an API key; it stops working within 5 s.

    Example: iot-bridge apikey revoke 2
    """
    with admin(config, data_dir) as connection:
        if not connection.fetch("revoke_api_key", key_id=key_id):
            raise NotFound(f"no active API key {key_id}; see iot-bridge apikey list")
        show({"revoked": [key_id]}, json)
