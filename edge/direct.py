"""The uplink without the service: straight to its database and its streams, through the service's own pipeline.

Flows in: `HandedBatch`. Flows out: `BatchAnswer`. Implements `Link`. For a gateway in the service's own network; it
needs the extras `service`, database credentials, and an enrolment all the same: the registry comes from the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from bridge.errors import ConfigError, Unavailable
from bridge.pipeline.gather import Gathering
from bridge.pipeline.handover import BatchAnswer, HandedBatch, answer_of, delivery_of
from bridge.reading import Outcome, Receipt
from bridge.settings.service import Settings
from bridge.supervise import end
from bridge.telemetry import Metrics
from edge.client import ServiceAway
from edge.settings import EdgeSettings

if TYPE_CHECKING:
    from bridge.app import Pipeline
    from bridge.broker.build import Broker
    from bridge.broker.relay import Relay
    from bridge.store.postgres import PostgresStore


class DirectLink:
    """Opens by itself at the first batch, and again after an error."""

    def __init__(self, settings: EdgeSettings, name: str) -> None:
        """Raises ConfigError where the service's parts are not installed, or not told where its servers are."""
        missing = [f"{key}.url is not set" for key in ("database", "redis") if not getattr(settings, key).url]
        if missing:
            raise ConfigError([f'uplink.kind = "direct": {each}' for each in missing])
        try:
            import bridge.app  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                [f'uplink.kind = "direct" needs more: pip install "iot-edge-bridge[service]" ({error})']
            ) from error
        self._settings = Settings(
            database=settings.database,
            redis=settings.redis,
            broker=settings.broker.model_copy(update={"kind": "redis"}),
            pipeline=settings.pipeline.model_copy(update={"max_behind_s": settings.spool.max_age_s * 2}),
        )
        self._timeout_s = settings.uplink.timeout_s
        self._name = name
        self._parts: _Parts | None = None
        self._opening = asyncio.Lock()

    async def hand_over(self, lane: str, batch: HandedBatch) -> BatchAnswer:
        """See `Link.hand_over`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._opening:
                    if self._parts is None:
                        self._parts = await _Parts.open(self._settings, self._name)
                receipts = await self._settled(self._parts.pipeline, batch)
        except Unavailable as error:
            raise ServiceAway(error.code, error.detail, retry_after_s=0.0) from error
        except TimeoutError:
            raise ServiceAway("timeout", "the database is too slow") from None
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            raise ServiceAway("store_unavailable", "the database is away")
        return answer_of(batch.records, receipts)

    async def close(self) -> None:
        """See `Link.close`. What is committed and not published stays in the outbox table, for a running service."""
        if self._parts is not None:
            await self._parts.close()
            self._parts = None

    async def _settled(self, pipeline: Pipeline, batch: HandedBatch) -> Sequence[Receipt]:
        gathering = Gathering(len(batch.records))
        for place, record in enumerate(batch.records):
            settle = partial(gathering.settle, place)
            pipeline.intake.offer(delivery_of(record, batch.epoch, self._name, record.received_us, settle))
        return await gathering.wait()


class _Parts:
    """The service's store, streams and pipeline, running in this process."""

    def __init__(self, store: PostgresStore, broker: Broker, relay: Relay, pipeline: Pipeline) -> None:
        self._store = store
        self._broker = broker
        self.pipeline = pipeline
        works = (pipeline.intake.run, relay.run, relay.sweep_forever, pipeline.housekeeping()["changes"])
        self._tasks = [asyncio.create_task(work(), name="direct") for work in works]

    @classmethod
    async def open(cls, settings: Settings, name: str) -> _Parts:
        """Raises StoreUnavailable."""
        from bridge.app import Pipeline, now_us
        from bridge.broker.build import Broker
        from bridge.broker.relay import Relay
        from bridge.store.outbox import PostgresOutbox
        from bridge.store.postgres import PostgresStore

        metrics = Metrics()
        store = PostgresStore(settings.database, f"gateway-{name}")
        try:
            await store.open()
        except Unavailable:
            await store.close()
            raise
        broker = Broker(settings, metrics)
        relay = Relay(broker.publisher, PostgresOutbox(store), settings.broker, metrics, Random(), now_us)
        return cls(store, broker, relay, Pipeline(settings, store, relay, metrics))

    async def close(self) -> None:
        await end(self._tasks)
        await self._broker.close()
        await self._store.close()
