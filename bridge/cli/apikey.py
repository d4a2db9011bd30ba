"""`iot-bridge apikey`: keys of API clients."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.cli.console import Config, DataDir, Json, NotFound, admin, check_expiry, check_name, show


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Keys of API clients.")
    noun.command("add")(add)
    noun.command("list")(list_keys)
    noun.command("revoke")(revoke)
    app.add_typer(noun, name="apikey")


def add(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    expires: Annotated[str | None, typer.Option(help="When it ends, e.g. 2027-01-31.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make an API key. It is shown this once.

    Example: iot-bridge apikey add dashboard --json
    """
    label, until = check_name(name), check_expiry(expires)
    with admin(config, data_dir) as connection:
        show(connection.add_api_key(label, until), json)


def list_keys(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List API keys.

    Example: iot-bridge apikey list
    """
    with admin(config, data_dir) as connection:
        show(connection.fetch("list_api_keys"), json)


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
