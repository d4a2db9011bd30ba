"""`iot-bridge db`: the schema."""

from __future__ import annotations

import typer

from bridge.cli.console import FAILED, Config, DataDir, Json, admin, settings, show


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="The database schema.")
    noun.command("migrate")(migrate)
    noun.command("status")(status)
    noun.command("new-epoch")(new_epoch)
    app.add_typer(noun, name="db")


def migrate(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Bring the schema up to date, in one transaction.

    Example: iot-bridge db migrate --config bridge.toml
    """
    from bridge.store.migrate import migrate as run

    with settings(config, data_dir) as found:
        show({"applied": run(found.database.session_url)}, json)


def status(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Which migrations are still to be applied; exit code 1 when there are any.

    Example: iot-bridge db status --data-dir var/bridge
    """
    from bridge.store.migrate import pending

    with settings(config, data_dir) as found:
        todo = pending(found.database.session_url)
    show({"pending": todo}, json)
    if todo:
        raise SystemExit(FAILED)


def new_epoch(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Have gateways accept the registry of a restored database, which is older than the one they have seen.

    Example: iot-bridge db new-epoch --config bridge.toml
    """
    with admin(config, data_dir) as connection:
        show(connection.fetch("begin_epoch")[0], json)
