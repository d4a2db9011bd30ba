"""`iot-bridge sensor`: the state of a sensor."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from bridge.cli.console import Config, DataDir, Json, NotFound, settings, show


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Sensors.")
    noun.command("status")(status)
    app.add_typer(noun, name="sensor")


def status(
    sensor_id: Annotated[int, typer.Argument(min=1)],
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Its alert, warning and prediction, as GET /sensors/{id}/status answers.

    Example: iot-bridge sensor status 42 --json
    """
    from bridge.store.postgres import PostgresStore
    from bridge.store.registry import Registry

    async def ask() -> dict[str, object] | None:
        store = PostgresStore(found.database, "command")
        await store.open_pool()
        try:
            return await Registry(store).sensor_status(sensor_id)
        finally:
            await store.close()

    with settings(config, data_dir) as found:
        answer = asyncio.run(ask())
    if answer is None:
        raise NotFound(f"no sensor {sensor_id}; iot-bridge device show lists those of a device")
    show(answer, json)
