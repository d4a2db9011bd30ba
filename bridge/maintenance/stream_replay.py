"""Adds to a stream again what a group has lost: from the tables, as far as they know. Wiring of `iot-bridge replay`.

Each entry names the group it is for (`replay_for`): consumers of other groups pass it over. The group is never given
more than it can take: while it is behind, nothing is added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bridge.broker.build import redis_streams
from bridge.broker.events import ALERT_FIELDS, ALERTS, READING_FIELDS, READINGS, unix_seconds
from bridge.broker.streams import Streams
from bridge.errors import ConfigError
from bridge.settings.service import Settings
from bridge.store.replay import stored
from bridge.telemetry import Metrics

PART = 1_000
"""Entries added in one step."""
WAIT_S = 0.2


class ReplayPlan(msgspec.Struct, frozen=True):
    """Says what is replayed: entries stored from one time until before another, microseconds since the epoch."""

    stream: str  # READINGS or ALERTS
    group: str
    from_us: int
    until_us: int


class Progress(msgspec.Struct, frozen=True):
    """Says how far a replay is."""

    entries: int
    waiting: int = 0  # entries the group has still to read before more is added


async def replay(settings: Settings, plan: ReplayPlan, seen: Callable[[Progress], None]) -> Progress:
    """Append the entries; `seen` is called after each part. Raises ConfigError, StoreUnavailable, BrokerUnavailable."""
    broker = redis_streams(settings, Metrics())
    names = [*(READING_FIELDS if plan.stream == READINGS else ALERT_FIELDS), "replay_for"]
    entries_of = _readings if plan.stream == READINGS else _alerts
    room = settings.broker.stream_maxlen // 2
    progress = Progress(0)
    try:
        await _check(broker, plan)
        query = "readings" if plan.stream == READINGS else "alerts"
        async for rows in stored(settings.database, query, plan.from_us, plan.until_us, PART):
            while (behind := (await broker.lag(plan.stream)).get(plan.group, 0)) > room:
                seen(Progress(progress.entries, behind - room))
                await asyncio.sleep(WAIT_S)
            await broker.extend(plan.stream, names, [[*entry, plan.group] for entry in entries_of(rows)])
            progress = Progress(progress.entries + len(rows))
            seen(progress)
    finally:
        await broker.close()
    return progress


async def _check(broker: Streams, plan: ReplayPlan) -> None:
    groups = await broker.lag(plan.stream)
    if plan.group not in groups:
        there = ", ".join(sorted(groups)) or "none"
        raise ConfigError(
            [f"no group {plan.group!r} reads {plan.stream}; there are: {there}. Start its consumer first"]
        )


def _readings(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [
        [event_id, sensor, kind, repr(value), unix_seconds(ts), unix_seconds(at), sequence, label, device, "replay", ""]
        for event_id, sensor, kind, value, ts, at, sequence, label, device in rows
    ]


def _alerts(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [
        [
            *(event_id, alert, sensor, kind, severity, repr(value), threshold, unix_seconds(at), of, past),
            "" if until is None else unix_seconds(until),
            resolution,
        ]
        for event_id, alert, sensor, kind, severity, value, threshold, at, of, past, until, resolution in rows
    ]


__all__ = ["ALERTS", "READINGS", "Progress", "ReplayPlan", "replay"]
