"""`iot-bridge ledger`: the books."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, UNAVAILABLE, Config, DataDir, Json, connect_admin, settings, show
from bridge.cli.device import find
from bridge.errors import BrokerUnavailable

if TYPE_CHECKING:
    from bridge.settings import Settings
    from bridge.store.admin import Admin


def register(app: typer.Typer) -> None:
    app.command()(ledger)


def ledger(
    device: Annotated[str | None, typer.Option(help="UUID or id of one device.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recount tables and streams; exit code 1 on a difference.")
    ] = False,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """received = stored + duplicate + quarantined + returned + pending, for every device.

    `returned` went back to its sender unacknowledged (503, a process that died); `pending` is on its way.
    `missing` are gaps in a device's sequence: lost before our door, which is no imbalance. Exit code 1 where
    the books do not balance, 3 where --verify finds no Redis to recount.

    Example: iot-bridge ledger --verify --data-dir var/bridge
    """
    streams: list[dict[str, Any]] = []
    away = ""
    with settings(config, data_dir, streams=verify) as found, connect_admin(found) as connection:
        device_id = find(connection, device)["device_id"] if device is not None else None
        rows = connection.ledger(device_id)
        problems, gaps = connection.verify(device_id) if verify else ([], [])
        if verify:
            try:
                streams = asyncio.run(_recount(found, connection, device_id, problems))
            except BrokerUnavailable as error:
                away = error.detail
    total = {name: sum(row[name] for row in rows) for name in _COUNTS}
    balanced = not problems and all(row["pending"] >= 0 for row in rows)
    if json:
        answer: dict[str, Any] = {"balanced": balanced, "total": total, "problems": problems, "missing": gaps}
        show(answer | {"streams": streams, "devices": rows}, json)
    else:
        show([*rows, {"device_id": "total", "device_uuid": "", "name": "", **total}], json)
        _say(problems, gaps, streams)
        if verify and balanced:
            print("balanced")
    if away:
        print(f"error: the streams are not recounted: {away}", file=sys.stderr)
    if not balanced:
        raise SystemExit(FAILED)
    if away:
        raise SystemExit(UNAVAILABLE)


_COUNTS = ("received", "stored", "duplicate", "quarantined", "returned", "pending")


def _say(problems: list[str], gaps: list[dict[str, Any]], streams: list[dict[str, Any]]) -> None:
    for line in problems:
        print(f"does not balance: {line}")
    for gap in gaps:
        print(f"missing before our door: device {gap['device_id']}, {gap['missing']} sequence numbers")
    for stream in streams:
        print(f"{stream['stream']}: {stream['found']} of {stream['expected']} found", stream["why_not"])


async def _recount(
    found: Settings, connection: Admin, device_id: int | None, problems: list[str]
) -> list[dict[str, Any]]:
    """Hold the streams against the tables; what is missing is added to `problems`. Raises BrokerUnavailable."""
    from bridge.broker.events import ALERTS, READINGS
    from bridge.broker.redis import RedisBroker
    from bridge.broker.split import is_first
    from bridge.recount import recount_stream
    from bridge.telemetry import Metrics

    chosen = found.broker
    if why_not := _no_streams(found):
        return [
            {"stream": stream, "entries": 0, "expected": 0, "found": 0, "why_not": why_not}
            for stream in (READINGS, ALERTS)
        ]
    answers: list[dict[str, Any]] = []
    broker = RedisBroker(found.redis, chosen, Metrics())
    try:
        for stream in (READINGS, ALERTS):
            if stream == READINGS and chosen.throttle_interval_s:
                why_not = "readings are thinned by broker.throttle_interval_s, so they cannot be recounted"
                answers.append({"stream": stream, "entries": 0, "expected": 0, "found": 0, "why_not": why_not})
                continue
            finding = await recount_stream(
                stream, connection, broker, lambda sensor: is_first(sensor, chosen.redis_percent)
            )
            missing = {one: n for one, n in finding.missing.items() if device_id in (None, one)}
            hint = "" if finding.entries else "; the stream is empty: Redis has lost it, or it is another Redis"
            problems += [f"device {one}: {n} stored, but not on {stream}{hint}" for one, n in missing.items()]
            found_there = finding.expected - finding.missing.total()
            answer = {"stream": stream, "entries": finding.entries, "expected": finding.expected, "found": found_there}
            answers.append(answer | {"why_not": ""})
    finally:
        await broker.close()
    return answers


def _no_streams(found: Settings) -> str:
    if found.broker.kind == "memory" or found.broker.redis_percent == 0:
        return "the streams are in the service's own memory"
    return "" if found.redis.url else "redis.url is not set"
