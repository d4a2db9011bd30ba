"""`iot-bridge sensor`: the state of a sensor, and what foreign formats call it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import MAX_ID, Config, DataDir, Json, NotFound, admin, connect_admin, settings, show
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.cli.sensor_map import Wish
    from bridge.store.admin import Admin

SHOWN = ("sensor_id", "device", "name", "external_id", "unit_in", "unit")


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Sensors.")
    noun.command("status")(status)
    noun.command("set")(set_sensor)
    noun.command("map")(map_sensors)
    noun.command("recompute")(recompute)
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
    from bridge.store.registry import PostgresRegistry

    async def ask() -> dict[str, object] | None:
        # As any command it goes past a pooler.
        direct = found.database.model_copy(update={"url": found.database.session_url})
        store = PostgresStore(direct, "command")
        await store.open_pool()
        try:
            return await PostgresRegistry(store).sensor_status(sensor_id)
        finally:
            await store.close()

    # A pool tries again, and says no more than that it waited; a connection says why it is refused.
    with settings(config, data_dir) as found, connect_admin(found):
        answer = asyncio.run(ask())
    if answer is None:
        raise NotFound(f"no sensor {sensor_id}; iot-bridge device show lists those of a device")
    show(answer, json)


def set_sensor(
    sensor: Annotated[str, typer.Argument(help="Id or UUID of the sensor.")],
    external_id: Annotated[
        str | None, typer.Option(help="Its name in a foreign format: NAMESPACE/DEVICE#CHANNEL; '' takes it away.")
    ] = None,
    unit_in: Annotated[
        str | None, typer.Option(help="Unit the device sends, e.g. °F; '' for the sensor's own.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of the sensor, in which readings are stored.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """What foreign formats call a sensor, and the unit in which it sends. In force within 5 s.

    `waiting` is how much waits in quarantine for it: the service stores that by itself, in its order.

    Example: iot-bridge sensor set 42 --external-id 'tasmota/kitchen#AM2301.Temperature' --unit-in °F
    """
    from bridge.cli.sensor_map import Wish, sensor_of

    if external_id is None and unit_in is None and unit is None:
        raise ConfigError(["nothing to set: name --external-id, --unit-in or --unit"])
    sensor_id, sensor_uuid = sensor_of(sensor)
    wish = Wish(f"sensor {sensor}", sensor_id, sensor_uuid, external_id, unit_in, unit)
    with admin(config, data_dir) as connection:
        if not connection.fetch(
            "mapped_sensors",
            ids=[] if sensor_id is None else [sensor_id],
            uuids=[] if sensor_uuid is None else [sensor_uuid],
            external_ids=[],
        ):
            raise NotFound(f"no sensor {sensor}; see iot-bridge device show")
        rows = _planned(connection, [wish])
        connection.map_sensors(rows)
        waiting = _waiting(connection, rows)
    show({name: rows[0][name] for name in SHOWN} | {"waiting": waiting}, json)


def map_sensors(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="CSV with a header line.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what is wrong, and change nothing.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """External ids and units of many sensors, from a CSV file: all of them, or, with a mistake, none.

    Columns: external_id, sensor (id or UUID), and if wanted unit_in, unit. Rows without a sensor are passed over,
    so that the file of iot-bridge mqtt learn can be filled in little by little. `waiting` is how much waits in
    quarantine for these sensors: the service stores that by itself, in its order.

    Example: iot-bridge sensor map sensors.csv --dry-run
    """
    from bridge.cli.sensor_map import read

    wishes, unmapped = read(file)
    with admin(config, data_dir) as connection:
        rows = _planned(connection, wishes)
        changed = [] if dry_run else connection.map_sensors(rows)
        waiting = {} if dry_run else {"waiting": _waiting(connection, rows)}
    answer: dict[str, Any] = {"mapped": len(rows), "changed": len(changed), "unmapped": unmapped, "dry_run": dry_run}
    show(answer | waiting, json)


def recompute(
    sensors: Annotated[list[int] | None, typer.Argument(min=1, help="Ids of sensors.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All sensors in which a time in the future stands.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of them, and change nothing.")
    ] = False,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Mend sensors that a time in the future has made deaf: nothing newer than it comes, so nothing raises an alert.

    The latest value becomes the newest reading that is not ahead of now; alert, warning and state are judged again by
    it, and what was raised or resolved in the future, was now. Readings stay as they are stored.

    Example: iot-bridge sensor recompute 42 --dry-run
    """
    if bool(sensors) == everyone:
        raise ConfigError(["name sensors, or --all"])
    with admin(config, data_dir) as connection:
        wanted = sensors or [row["sensor_id"] for row in connection.fetch("deaf_sensors")]
        rows = []
        for sensor_id in wanted:
            found = None if sensor_id > MAX_ID else connection.recompute(sensor_id, dry_run=dry_run)
            if found is None:
                raise NotFound(f"no sensor {sensor_id}; iot-bridge device show lists those of a device")
            rows.append({"sensor_id": sensor_id, "changed": found["before"] != found["after"], **found})
    show({"dry_run": dry_run, "sensors": rows} if json else [_in_short(row) for row in rows], json)


def _waiting(connection: Admin, rows: Sequence[dict[str, Any]]) -> int:
    """How much waits in quarantine for these sensors; a service that runs stores it within a few seconds."""
    found: int = connection.fetch("waiting_for", ids=[row["sensor_id"] for row in rows])[0]["rows"]
    return found


def _in_short(row: dict[str, Any]) -> dict[str, Any]:
    before, after = row["before"], row["after"]
    return {
        "sensor_id": row["sensor_id"],
        "changed": row["changed"],
        "readings_ahead": row["readings_ahead"],
        "latest_before": before["latest_timestamp"],
        "latest": after["latest_timestamp"],
        "value": after["latest_value"],
        "state_before": before["operational_state"],
        "state": after["operational_state"],
        "alert": (after["alert_active"] or {}).get("severity"),
    }


def _planned(connection: Admin, wishes: Sequence[Wish]) -> list[dict[str, Any]]:
    from bridge.cli.sensor_map import plan

    known = connection.fetch(
        "mapped_sensors",
        ids=[wish.sensor_id for wish in wishes if wish.sensor_id is not None],
        uuids=[wish.sensor_uuid for wish in wishes if wish.sensor_uuid is not None],
        external_ids=[wish.external_id for wish in wishes if wish.external_id],
    )
    return plan(wishes, known)
