"""`iot-bridge tail`: what is on the streams."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import Config, DataDir, Json, settings, show
from bridge.errors import ConfigError

if TYPE_CHECKING:
    import redis

    from bridge.settings import Settings

Entry = tuple[str, dict[str, str]]


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
    """Print stream entries, oldest first. With --json a list; following, a document a line.

    Example: iot-bridge tail readings --count 5 --data-dir var/bridge
    """
    import redis

    from bridge.errors import BrokerUnavailable

    with settings(config, data_dir, streams=count is not None) as found:
        client = redis.Redis.from_url(
            _url(found), decode_responses=True, encoding_errors="replace", socket_connect_timeout=5
        )
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
        finally:
            client.close()


def _url(found: Settings) -> str:
    if found.broker.kind == "memory":
        raise ConfigError(['broker.kind = "memory": the streams are in the service\'s own memory, not in Redis'])
    if not found.redis.url:
        raise ConfigError(
            ["no Redis to read: set redis.url; what an embedded service that is stopped keeps, --count N reads"]
        )
    return found.redis.url


def _newest(client: redis.Redis, stream: str, count: int) -> list[Entry]:
    entries: list[Entry] = client.xrevrange(stream, count=count)  # type: ignore[assignment]
    return entries[::-1]


def _follow(client: redis.Redis, stream: str, after: str, json: bool) -> None:
    while True:
        answer: Any = client.xread({stream: after}, count=100, block=1000)
        for entry, fields in (entry for _, entries in answer or () for entry in entries):
            _line(entry, fields, json)
            after = entry


def _line(entry: str, fields: dict[str, str], json: bool) -> None:
    if json:
        show({"id": entry, **fields}, json)
    else:
        print(entry, " ".join(f"{name}={value}" for name, value in fields.items() if value), flush=True)
