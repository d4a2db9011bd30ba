"""`iot-bridge replay`: give a consumer group what it has lost."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import Annotated

import typer

from bridge.cli.console import Config, DataDir, Json, moment_us, settings, show
from bridge.errors import ConfigError


class Stream(StrEnum):
    READINGS = "readings"
    ALERTS = "alerts"


def register(app: typer.Typer) -> None:
    app.command()(replay)


def replay(
    group: Annotated[str, typer.Option(help="Consumer group that is to get the entries; others pass them over.")],
    since: Annotated[str, typer.Option("--from", help="Stored from then on: ISO 8601, or 90m, 2h, 3d ago.")],
    until: Annotated[str | None, typer.Option(help="Stored before then, in the same form; without it, now.")] = None,
    stream: Annotated[Stream, typer.Option(help="Which stream.")] = Stream.READINGS,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Add to a stream again, from the database, what a group has lost: trimmed unread, or gone with Redis.

    Example: iot-bridge replay --group ml-worker-group --from 2h
    """
    import asyncio

    from bridge.maintenance.stream_replay import Progress, ReplayPlan
    from bridge.maintenance.stream_replay import replay as run

    now_s = time.time()
    plan = ReplayPlan(
        f"iot:{stream.value}", group, moment_us(since, now_s), moment_us(until, now_s) if until else round(now_s * 1e6)
    )

    def seen(progress: Progress) -> None:
        if sys.stderr.isatty():
            waiting = f", waiting for the group to read {progress.waiting}" if progress.waiting else ""
            print(f"\r{progress.entries} added{waiting}\033[K", end="", file=sys.stderr, flush=True)

    with settings(config, data_dir) as found:
        if not found.redis.url:
            raise ConfigError(["no Redis to add to: redis.url is not set, or the embedded service is not running"])
        done = asyncio.run(run(found, plan, seen))
    if sys.stderr.isatty():
        print(file=sys.stderr)
    show({"stream": plan.stream, "group": group, "added": done.entries}, json)
