"""`iot-bridge job`: batch jobs, for a timer."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from bridge.cli.console import (
    MAX_DAYS,
    MAX_ROWS,
    UNAVAILABLE,
    Config,
    DataDir,
    Json,
    Told,
    finite,
    settings,
    show,
    warn,
)
from bridge.errors import ConfigError


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Batch jobs, for a timer.")
    noun.command("predictions")(predictions)
    noun.command("explain")(explain)
    app.add_typer(noun, name="job")


def predictions(
    hours: Annotated[
        float,
        typer.Option(min=0.1, max=24 * MAX_DAYS, callback=finite, help="Readings of how many hours are learned from."),
    ] = 24.0,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Predict for sensors that have no prediction of what is to come: what the online worker has missed.

    Example: iot-bridge job predictions --hours 48
    """
    from bridge.maintenance.predictions import predict
    from bridge.store.jobs import connect

    with settings(config, data_dir) as found, connect(found.database.session_url) as table:
        done = predict(table, found.ml, hours, time.time_ns() // 1_000)
    show({"sensors": done.sensors, "forecasts": done.forecasts, "anomalies": done.anomalies}, json)


def explain(
    limit: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="At most so many anomalies.")] = 1_000,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Have anomalies explained by the service that explain.url names; those it cannot are left to the next run.

    Exit code 3 where it is down.

    Example: iot-bridge job explain --limit 100
    """
    from bridge.maintenance.predictions import Explainer
    from bridge.maintenance.predictions import explain as run
    from bridge.store.jobs import connect

    with settings(config, data_dir) as found:
        if not found.explain.url:
            raise ConfigError(["explain.url is not set: the external explainer"])
        with connect(found.database.session_url) as table:
            done = run(table, Explainer(found.explain), limit)
    show({"explained": done.explained, "skipped": done.skipped, "problem": done.problem}, json)
    if done.down:
        warn(f"error: {done.problem}; the rest is left to the next run")
        raise Told(UNAVAILABLE)
