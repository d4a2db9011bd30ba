"""Chooses the broker that the settings ask for."""

from __future__ import annotations

from bridge.broker.memory import MemoryBroker
from bridge.broker.redis import RedisBroker
from bridge.broker.split import SplitBroker
from bridge.broker.throttle import ThrottledPublisher
from bridge.pipeline.ports import Publisher
from bridge.settings import Settings
from bridge.telemetry import Metrics


class Broker:
    """The publisher of this process, and what must be closed with it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        broker = settings.broker
        self.memory = MemoryBroker(broker, metrics)
        self.redis: RedisBroker | None = None
        publisher: Publisher = self.memory
        if broker.kind == "redis":
            self.redis = RedisBroker(settings.redis, broker)
            publisher = self.redis
            if broker.redis_percent < 100:
                publisher = SplitBroker(self.redis, self.memory, broker.redis_percent)
        if broker.throttle_interval_s:
            publisher = ThrottledPublisher(publisher, broker.throttle_interval_s, metrics)
        self.publisher = publisher

    async def close(self) -> None:
        if self.redis is not None:
            await self.redis.close()
