"""`iot-bridge simulate`: devices that are not there."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, MAX_DAYS, MAX_WAIT_S, Config, DataDir, Json, finite, settings, show
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.settings.mqtt import MqttSettings
    from bridge.simulation.fleet import Tally

SHOW_EVERY_S = 0.5


MAX_FILE_BYTES = 64 * 1024 * 1024


def register(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    devices: Annotated[int, typer.Option(min=1, max=5_000, help="How many devices.")] = 10,
    rate: Annotated[
        float,
        typer.Option(min=0.01, max=1_000_000, callback=finite, help="Readings per second of all devices together."),
    ] = 50.0,
    http: Annotated[str, typer.Option(help="URL of the HTTP door.")] = "",
    mqtt: Annotated[str, typer.Option(help="URL of the MQTT broker.")] = "",
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, max=MAX_WAIT_S, callback=finite, help="Stop after so long; without it, on Ctrl-C."),
    ] = None,
    day: Annotated[
        float, typer.Option(min=1, max=86_400 * MAX_DAYS, callback=finite, help="Seconds in a simulated day.")
    ] = 86_400.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same values.")] = 1,
    prefix: Annotated[str, typer.Option(help="Names of the devices begin with it.")] = "sim",
    registered: Annotated[
        Path | None, typer.Option(help="File of JSON lines as `device add --json` prints them: nothing is registered.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Run simulated devices against a service. With both URLs, half of the devices take each door.

    Without a URL the doors of the embedded service in --data-dir are used. Devices are registered in the
    service's database, under names that the next run finds again.

    Example: iot-bridge simulate --devices 20 --rate 200 --seconds 30 --data-dir var/bridge
    """
    from bridge.settings.mqtt import MqttSettings

    ready, broker = _registered(registered) if registered else None, MqttSettings()
    if ready is None or not (http or mqtt):
        with settings(config, data_dir) as found:
            broker = found.mqtt
            if not (http or mqtt):
                http, mqtt = _doors(data_dir), found.mqtt.url
            ready = ready or _register(found.database.session_url, devices, prefix)
    if not (http or mqtt):
        raise ConfigError(["no door to send to: name --http URL, --mqtt URL, or a running service by --data-dir"])
    doors = _check_doors(http, mqtt)
    # The URL alone: an account of the service is not for devices.
    broker = MqttSettings(url=mqtt, ca_file=broker.ca_file)
    total, tallies, elapsed_s = asyncio.run(
        _run(ready[:devices], doors, broker, rate=rate, seconds=seconds, day_s=day, seed=seed, live=not json)
    )
    doors_shown = tallies if json else [{"door": name, **tally} for name, tally in tallies.items()]
    show({"devices": len(ready[:devices]), "seconds": round(elapsed_s, 3), **total, "doors": doors_shown}, json)
    if total["unacknowledged"]:
        raise SystemExit(FAILED)


def _registered(path: Path) -> list[dict[str, Any]]:
    import msgspec

    from bridge.settings.files import read_bytes

    try:
        rows = [msgspec.json.decode(line) for line in read_bytes(path, MAX_FILE_BYTES).splitlines() if line.strip()]
        for row in rows:
            _ = row["device_uuid"], row["device_key"], [(s["sensor_uuid"], s["sensor_type"]) for s in row["sensors"]]
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError([f"{path}: not the JSON lines of iot-bridge device add --json: {error}"]) from error
    if not rows:
        raise ConfigError([f"{path}: names no device"])
    return rows


def _register(url: str, count: int, prefix: str) -> list[dict[str, Any]]:
    from bridge.cli.console import check_name
    from bridge.simulation.registration import register as register_devices
    from bridge.store.admin import connect

    with connect(url) as connection:
        return list(register_devices(connection, count, check_name(prefix)))


def _doors(data_dir: Path | None) -> str:
    """The HTTP URL of the embedded service that runs in a folder, or nothing."""
    from bridge.embedded.stack import running_urls

    return running_urls(data_dir).get("http", "") if data_dir is not None else ""


def _check_doors(http: str, mqtt: str) -> dict[str, str]:
    problems = []
    if http and not http.startswith(("http://", "https://")):
        problems.append(f"--http {http}: write http://host:port")
    if mqtt and not mqtt.startswith(("mqtt://", "mqtts://")):
        problems.append(f"--mqtt {mqtt}: write mqtt://host:port")
    if problems:
        raise ConfigError(problems)
    return {name: url for name, url in (("http", http), ("mqtt", mqtt)) if url}


async def _run(
    registered: Sequence[dict[str, Any]],
    doors: dict[str, str],
    broker: MqttSettings,
    *,
    rate: float,
    seconds: float | None,
    day_s: float,
    seed: int,
    live: bool,
) -> tuple[dict[str, Any], dict[str, dict[str, int]], float]:
    from bridge.embedded.stack import require_server

    require_server("aiomqtt", "what simulated devices speak MQTT with (aiomqtt)")
    from bridge.simulation.device import Character
    from bridge.simulation.fleet import Fleet, connect_members
    from bridge.simulation.registration import simulated

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    started_s = time.monotonic()
    async with AsyncExitStack() as stack:
        fleet_devices = [simulated(row, Character.STEADY, seed, day_s) for row in registered]
        members, tallies = await connect_members(stack, fleet_devices, doors, broker)
        async with asyncio.TaskGroup() as group:
            shown = group.create_task(_show(tallies, started_s, seconds)) if live else None
            await Fleet(members, rate, Random(seed)).run(stop)
            if shown is not None:
                shown.cancel()
    elapsed_s = time.monotonic() - started_s
    by_door = {name: tally.as_dict() for name, tally in tallies.items()}
    total: dict[str, Any] = {key: sum(one[key] for one in by_door.values()) for key in next(iter(by_door.values()))}
    total["readings_per_s"] = round(total["acknowledged"] / elapsed_s, 1)
    return total, by_door, elapsed_s


async def _show(tallies: dict[str, Tally], started_s: float, seconds: float | None) -> None:
    """One line for people, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seconds)
        while True:
            parts = [
                f"{name}: {tally.acknowledged} acknowledged, {tally.retries} retries" for name, tally in tallies.items()
            ]
            progress.update(task, completed=time.monotonic() - started_s, description="; ".join(parts))
            await asyncio.sleep(SHOW_EVERY_S)
