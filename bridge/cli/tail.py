"""`iot-bridge tail`: what is on the streams."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.console import MAX_ROWS, Config, DataDir, Json, say, settings, show
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.settings.service import Settings


class Stream(StrEnum):
    READINGS = "readings"
    ALERTS = "alerts"
    DECISIONS = "decisions"


def register(app: typer.Typer) -> None:
    app.command()(tail)


def tail(
    stream: Annotated[Stream, typer.Argument(help="Which stream.")],
    count: Annotated[
        int | None, typer.Option(min=1, max=MAX_ROWS, help="The newest N and stop; without it, follow.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print stream entries, oldest first. With --json a list; following, a document a line.

    Example: iot-bridge tail readings --count 5 --data-dir var/bridge
    """
    import asyncio

    with settings(config, data_dir, streams=count is not None) as found, suppress(KeyboardInterrupt):
        if found.broker.kind == "memory":
            raise ConfigError(['broker.kind = "memory": the streams are in the service\'s own memory, not in Redis'])
        if not found.redis.url:
            raise ConfigError(
                ["no Redis to read: set redis.url; what an embedded service that is stopped keeps, --count N reads"]
            )
        asyncio.run(_tail(found, f"iot:{stream.value}", count, json))


async def _tail(found: Settings, stream: str, count: int | None, json: bool) -> None:
    from bridge.broker.build import redis_streams
    from bridge.telemetry import Metrics

    streams = redis_streams(found, Metrics())
    try:
        entries = await streams.tail(stream, count or 10)
        if json and count is not None:
            show([{"id": entry.id, **entry.fields} for entry in entries], json)
            return
        after = "0"
        while True:
            for entry in entries:
                _line(entry.id, entry.fields, json)
                after = entry.id
            if count is not None:
                return
            entries = await streams.read_after(stream, after, 100, 1.0)
    finally:
        await streams.close()


def _line(entry: str, fields: Mapping[str, str], json: bool) -> None:
    if json:
        show({"id": entry, **fields}, json)
    else:
        say(entry, *(f"{name}={value}" for name, value in fields.items() if value))
