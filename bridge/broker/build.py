"""Chooses the broker that the settings ask for."""

from __future__ import annotations

import asyncio

import structlog

from bridge.broker.events import ALERTS, DECISIONS, READINGS
from bridge.broker.memory import MemoryBroker
from bridge.broker.redis import RedisBroker
from bridge.broker.split import SplitBroker, is_first, shard_of
from bridge.broker.streams import Streams
from bridge.broker.throttle import ThrottledPublisher
from bridge.errors import BrokerUnavailable
from bridge.pipeline.ports import Publisher
from bridge.settings.service import Settings
from bridge.settings.stores import BrokerSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("broker")

WATCH_S = 5.0
"""How often lengths and lags are measured."""


class Broker:
    """The broker of one process, by `broker.kind`, `redis_percent` and `throttle_interval_s`.

    `publisher` is what the relay writes to (throttled where it is asked for); `streams` is for consumers
    and readers. Nothing is connected before it is needed.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._notes = notes(settings.broker)
        self.streams = _streams(settings, metrics)
        self.publisher: Publisher = self.streams
        if interval_s := settings.broker.throttle_interval_s:
            self.publisher = ThrottledPublisher(self.streams, interval_s, metrics)

    async def watch_forever(self) -> None:
        """Keep the gauges of stream lengths and group lags."""
        for note in self._notes:
            log.warning("streams_not_whole", detail=note)
        while True:
            try:
                for stream in (READINGS, ALERTS, DECISIONS):
                    await self._watch(stream)
            except BrokerUnavailable:
                pass  # the relay says so; the last values stand
            await asyncio.sleep(WATCH_S)

    async def _watch(self, stream: str) -> None:
        self._metrics.stream_length.labels(stream).set(await self.streams.length(stream))
        for group, entries in (await self.streams.lag(stream)).items():
            self._metrics.stream_lag.labels(stream, group).set(entries)

    async def close(self) -> None:
        """Close every connection."""
        await self.streams.close()


def _streams(settings: Settings, metrics: Metrics) -> Streams:
    chosen = settings.broker
    if chosen.kind == "memory" or chosen.redis_percent == 0:
        return MemoryBroker(chosen, metrics)
    redis = redis_streams(settings, metrics)
    if chosen.redis_percent == 100:
        return redis
    percent = chosen.redis_percent
    sides = (redis, MemoryBroker(chosen, metrics))
    return SplitBroker(sides, lambda sensor_id: 0 if is_first(sensor_id, percent) else 1, readings_only=True)


def notes(settings: BrokerSettings) -> list[str]:
    """What the settings keep off the streams that other processes read, a sentence each."""
    found = []
    if settings.kind == "memory" or settings.redis_percent == 0:
        setting = 'broker.kind = "memory"' if settings.kind == "memory" else "broker.redis_percent = 0"
        found.append(f"{setting}: all streams are in the memory of this process, and consumers in others see nothing")
    elif settings.redis_percent < 100:
        found.append(
            f"broker.redis_percent = {settings.redis_percent}: readings of the other sensors stay in the memory of "
            "this process, where consumers in others do not see them; alerts and decisions are all on Redis"
        )
    if settings.throttle_interval_s:
        found.append(
            f"broker.throttle_interval_s = {settings.throttle_interval_s:g}: at most one reading of a sensor in so "
            "many seconds is on the stream; alerts and decisions all are"
        )
    return found


def redis_streams(settings: Settings, metrics: Metrics) -> Streams:
    """The streams on Redis, in as many shards as `broker.shards` says: what other processes can see."""
    shards = settings.broker.shards
    if shards == 1:
        return RedisBroker(settings.redis, settings.broker, metrics)
    sides = [RedisBroker(settings.redis, settings.broker, metrics, shard=shard) for shard in range(shards)]
    return SplitBroker(sides, lambda sensor_id: shard_of(sensor_id, shards))
