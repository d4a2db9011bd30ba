"""`iot-bridge serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.cli.console import Config, DataDir, Json, load_settings
from bridge.errors import ConfigError


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    config: Config = None,
    data_dir: DataDir = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Bring PostgreSQL, Redis and an MQTT broker.")] = False,
    json: Json = False,
) -> None:
    """Run the service: both doors, one process. Prints one line when it can store; stops on SIGTERM.

    Example: iot-bridge serve --config /etc/iot-bridge/bridge.toml
    """
    from bridge.service.app import serve as run

    settings = load_settings(config, embedded=embedded or data_dir is not None)
    if json:
        settings = settings.model_copy(update={"log": settings.log.model_copy(update={"format": "json"})})
    if data_dir is not None:
        settings = settings.model_copy(update={"service": settings.service.model_copy(update={"data_dir": data_dir})})
        embedded = True
    if not embedded:
        missing = [] if settings.database.url else ["database.url is not set; set it, or use --embedded"]
        if not settings.redis.url and settings.broker.kind == "redis":
            missing.append('redis.url is not set; set it, use --embedded, or broker.kind = "memory"')
        if missing:
            raise ConfigError(missing)
    raise SystemExit(run(settings, embedded=embedded))
