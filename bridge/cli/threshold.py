"""`iot-bridge threshold`: when a sensor raises an alert."""

from __future__ import annotations

from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.console import MAX_ID, Config, DataDir, Json, NotFound, admin, show
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.store.admin import Admin

SensorId = Annotated[int, typer.Argument(min=1, help="Id of the sensor.")]


class Condition(StrEnum):
    GREATER_THAN = "greater_than"
    LESS_THAN = "less_than"
    EQUAL_TO = "equal_to"
    OUT_OF_RANGE = "out_of_range"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Alert thresholds.")
    noun.command("set")(set_threshold)
    noun.command("list")(list_thresholds)
    noun.command("clear")(clear)
    app.add_typer(noun, name="threshold")


def set_threshold(
    sensor_id: SensorId,
    low: Annotated[float | None, typer.Option("--min", help="Lower bound, or the value to compare with.")] = None,
    high: Annotated[float | None, typer.Option("--max", help="Upper bound.")] = None,
    condition: Annotated[Condition, typer.Option(help="When it is violated.")] = Condition.OUT_OF_RANGE,
    severity: Annotated[Severity, typer.Option(help="How bad that is.")] = Severity.WARNING,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Set the threshold of a sensor for one severity; the one it had is replaced.

    Example: iot-bridge threshold set 42 --min 2 --max 8 --severity critical
    """
    check_bounds(condition, low, high)
    with admin(config, data_dir) as connection:
        _known(connection, sensor_id)
        show(connection.set_threshold(sensor_id, condition.value, low, high, severity.value), json)


def check_bounds(condition: Condition, low: float | None, high: float | None) -> None:
    """Raises ConfigError for bounds that make no sense together."""
    problems = [
        f"{name} is not a finite number"
        for name, v in (("--min", low), ("--max", high))
        if v is not None and not isfinite(v)
    ]
    if condition is Condition.OUT_OF_RANGE and low is None and high is None:
        problems.append("out_of_range takes --min, --max or both")
    if condition in (Condition.GREATER_THAN, Condition.EQUAL_TO) and low is None:
        problems.append(f"{condition} compares with --min, which is missing")
    if condition in (Condition.GREATER_THAN, Condition.EQUAL_TO) and high is not None:
        problems.append(f"{condition} compares with --min alone; leave --max out")
    if condition is Condition.LESS_THAN and (low is None) == (high is None):
        problems.append("less_than compares with one value: give it as --max or as --min")
    if low is not None and high is not None and low > high:
        problems.append(f"--min {low:g} is above --max {high:g}")
    if problems:
        raise ConfigError(problems)


def list_thresholds(
    sensor_id: Annotated[int | None, typer.Argument(min=1, help="Id of a sensor; without it, all.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List active thresholds.

    Example: iot-bridge threshold list 42
    """
    with admin(config, data_dir) as connection:
        is_beyond = sensor_id is not None and sensor_id > MAX_ID
        show([] if is_beyond else connection.fetch("list_thresholds", sensor_id=sensor_id), json)


def clear(sensor_id: SensorId, config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Take all thresholds off a sensor.

    Example: iot-bridge threshold clear 42
    """
    with admin(config, data_dir) as connection:
        _known(connection, sensor_id)
        gone = connection.fetch("clear_thresholds", sensor_id=sensor_id)
        show({"sensor_id": sensor_id, "cleared": len(gone)}, json)


def _known(connection: Admin, sensor_id: int) -> None:
    if sensor_id > MAX_ID or not connection.fetch("sensor_exists", sensor_id=sensor_id):
        raise NotFound(f"no sensor {sensor_id}; see iot-bridge device show")
