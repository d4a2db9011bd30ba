"""`iot-bridge tail`: what is on the streams."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from bridge.cli.console import Config, DataDir, Json, settings, show
from bridge.errors import ConfigError


class Stream(StrEnum):
    READINGS = "readings"
    ALERTS = "alerts"
    DECISIONS = "decisions"


def register(app: typer.Typer) -> None:
    app.command()(tail)


def tail(
    stream: Annotated[Stream, typer.Argument(help="Which stream.")],
    count: Annotated[int | None, typer.Option(min=1, help="The newest N and stop; without it, follow.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print stream entries, oldest first.

    Example: iot-bridge tail readings --count 5 --data-dir var/bridge
    """
    import redis

    from bridge.errors import BrokerUnavailable

    with settings(config, data_dir) as found:
        if not found.redis.url:
            raise ConfigError(["no Redis to read: redis.url is not set, or the embedded service is not running"])
        client = redis.Redis.from_url(found.redis.url, decode_responses=True, socket_connect_timeout=5)
        try:
            entries = _newest(client, f"iot:{stream.value}", count or 10)
            if json and count is not None:
                show([{"id": entry, **fields} for entry, fields in entries], json)
                return
            for entry, fields in entries:
                _line(entry, fields, json)
            if count is None:
                _follow(client, f"iot:{stream.value}", entries[-1][0] if entries else "0", json)
        except redis.RedisError as error:
            raise BrokerUnavailable(f"Redis: {error}") from error
        except KeyboardInterrupt:
            pass


def _newest(client: object, stream: str, count: int) -> list[tuple[str, dict[str, str]]]:
    return list(reversed(client.xrevrange(stream, count=count)))  # type: ignore[attr-defined]


def _follow(client: object, stream: str, after: str, json: bool) -> None:
    while True:
        fresh = client.xrange(stream, min=f"({after}", count=100)  # type: ignore[attr-defined]
        for entry, fields in fresh:
            _line(entry, fields, json)
            after = entry
        if not fresh:
            client.xread({stream: "$"}, block=1000)  # type: ignore[attr-defined]


def _line(entry: str, fields: dict[str, str], json: bool) -> None:
    if json:
        show({"id": entry, **fields}, json)
    else:
        print(entry, " ".join(f"{name}={value}" for name, value in fields.items() if value), flush=True)
