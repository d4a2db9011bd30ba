"""Makes the messages of `bridge/{name}/status`, retained: the bridge's own availability. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version

import msgspec

from bridge.mqtt.connection import Will

VERSION = version("iot-edge-bridge")


class Status(msgspec.Struct, frozen=True):
    """What is published. `since` is null where the broker publishes it, as our will: it tells no time."""

    status: str
    since: str | None
    version: str = VERSION


def topic_of(name: str) -> str:
    """`name`: service.name."""
    return f"bridge/{name}/status"


def online(now_us: int) -> bytes:
    return msgspec.json.encode(Status("online", _iso(now_us)))


def offline(now_us: int | None) -> bytes:
    """Of an orderly end; without a time, of the will."""
    return msgspec.json.encode(Status("offline", _iso(now_us) if now_us is not None else None))


def will(name: str) -> Will:
    return Will(topic_of(name), offline(None))


def _iso(now_us: int) -> str:
    return datetime.fromtimestamp(now_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
