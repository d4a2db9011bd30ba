"""The streams, held against the tables: what is stored is on the stream, or waits in the outbox.

Flows in: what the tables say, and a stream's reader. Flows out: what is missing. Streams are trimmed, and a
Redis may have been emptied, so only what was stored after the oldest entry that is left can be asked for:
it was published later than that entry, and is there. Alerts are of `iot:alerts` and never throttled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from bridge.broker.events import ALERTS, READINGS
from bridge.broker.message import StreamMessage
from bridge.broker.redis import RedisBroker
from bridge.broker.split import is_first
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.telemetry import Metrics

PAGE = 5_000
MOST_CHECKED = 200_000
"""Readings asked for, the newest: about 60 MB while they are looked for."""
CLOCKS_AGREE_US = 5_000_000
"""How far the clocks of Redis and PostgreSQL may be apart."""
AHEAD_US = 300_000_000
"""Alerts are known by the time of their reading alone, which may be ahead of ours (pipeline.max_ahead_s)."""

Key = tuple[int | str, ...]
"""(sensor_id, ts_us, sequence or "") of a reading, (sensor_id, kind, alert_id) of an alert."""


class Tables(Protocol):
    """Reads tables: what is needed of the store's admin."""

    def fetch(self, query: str, **arguments: Any) -> list[dict[str, Any]]: ...


class Reader(Protocol):
    """Reads streams: what is needed of a broker."""

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]: ...


class StreamAudit(msgspec.Struct, frozen=True):
    """Counts what one stream holds of what it should."""

    stream: str
    entries: int = 0  # that are on it now; 0: there is none, or it has been emptied
    expected: int = 0  # stored since its oldest entry, and not in the outbox
    missing: Mapping[int, int] = {}  # by device
    unreadable: int = 0  # entries that are none of ours: others have added them
    why_not: str = ""  # why it was not looked at

    @property
    def found(self) -> int:
        """Return how much of what was expected is there."""
        return self.expected - sum(self.missing.values())

    def of(self, device_id: int | None) -> StreamAudit:
        """Return the same audit with what is missing of one device alone."""
        missing = {device: n for device, n in self.missing.items() if device_id in (None, device)}
        return msgspec.structs.replace(self, missing=missing)

    def as_row(self) -> dict[str, str | int]:
        """Return the audit as a row for people and scripts."""
        return {
            "stream": self.stream,
            "entries": self.entries,
            "expected": self.expected,
            "found": self.found,
            "unreadable": self.unreadable,
            "why_not": self.why_not,
        }

    def problems(self) -> list[str]:
        """Return a line for each device of which something is missing."""
        hint = "" if self.entries else "; the stream is empty: Redis has lost it, or it is another Redis"
        return [f"device {device}: {n} stored, but not on {self.stream}{hint}" for device, n in self.missing.items()]


async def audit_stream(redis: RedisSettings, broker: BrokerSettings, tables: Tables) -> list[StreamAudit]:
    """Compare both streams that the bridge writes with the tables. Raises BrokerUnavailable."""
    if broker.kind == "memory" or broker.redis_percent == 0:
        return [StreamAudit(stream, why_not="it is in the service's own memory") for stream in (READINGS, ALERTS)]
    if not redis.url:
        return [StreamAudit(stream, why_not="redis.url is not set") for stream in (READINGS, ALERTS)]
    reader = RedisBroker(redis, broker, Metrics())

    def concerns(sensor_id: int) -> bool:
        return is_first(sensor_id, broker.redis_percent)

    try:
        if broker.throttle_interval_s:
            readings = StreamAudit(READINGS, why_not="it is thinned by broker.throttle_interval_s")
        else:
            readings = await audit_one_stream(READINGS, tables, reader, concerns)
        return [readings, await audit_one_stream(ALERTS, tables, reader, lambda _: True)]
    finally:
        await reader.close()


async def audit_one_stream(stream: str, tables: Tables, reader: Reader, concerns: Callable[[int], bool]) -> StreamAudit:
    """Look for everything stored that must be there; `concerns` chooses sensors. Raises BrokerUnavailable."""
    since_us = await _complete_since_us(stream, reader)
    # The tables first: what they show as published is on the stream from here on, until it is trimmed.
    wanted = _stored(stream, tables, since_us, concerns)
    expected = len(wanted)
    entries, unreadable, last = 0, 0, "0"
    while page := await reader.read_after(stream, last, PAGE, 0):
        for message in page:
            try:
                wanted.pop(_key(stream, message.fields), None)
            except (KeyError, ValueError):
                unreadable += 1
        entries += len(page)
        last = page[-1].id
    trimmed_us = await _complete_since_us(stream, reader)
    missing = Counter(device_id for device_id, at_us in wanted.values() if at_us > trimmed_us)
    return StreamAudit(stream, entries, expected, missing, unreadable)


async def _complete_since_us(stream: str, reader: Reader) -> int:
    """Return from when on the stream holds all that was published; 0 where there is no stream."""
    first = await reader.read_after(stream, "0", 1, 0)
    if not first:
        return 0
    ms, _, ordinal = first[0].id.partition("-")
    if ordinal == "1":  # nothing was ever trimmed
        return int(ms) * 1_000
    return int(ms) * 1_000 + CLOCKS_AGREE_US + (AHEAD_US if stream == ALERTS else 0)


def _stored(stream: str, tables: Tables, since_us: int, concerns: Callable[[int], bool]) -> dict[Key, tuple[int, int]]:
    """Return (device_id, since when) of everything stored since, less what waits in the outbox."""
    rows = tables.fetch(
        "readings_since" if stream == READINGS else "alerts_since", since_us=since_us, limit=MOST_CHECKED
    )
    return {_row_key(stream, row): (row["device_id"], row["since_us"]) for row in rows if concerns(row["sensor_id"])}


def _row_key(stream: str, row: Mapping[str, Any]) -> Key:
    if stream == ALERTS:
        return row["sensor_id"], row["kind"], row["alert_id"]
    return row["sensor_id"], row["ts_us"], "" if row["sequence"] is None else row["sequence"]


def _key(stream: str, fields: Mapping[str, str]) -> Key:
    """What an entry is of. Raises KeyError, ValueError for one that is none of ours."""
    if stream == ALERTS:
        return int(fields["sensor_id"]), fields["kind"], int(fields["alert_id"])
    sequence = fields["sequence"]
    return int(fields["sensor_id"]), _us(fields["timestamp"]), int(sequence) if sequence else ""


def _us(seconds: str) -> int:
    """Read `1769594403.100000` as microseconds, exactly, unlike a float."""
    whole, _, fraction = seconds.partition(".")
    micros = int(whole.lstrip("-")) * 1_000_000 + int(fraction.ljust(6, "0"))
    return -micros if whole.startswith("-") else micros
