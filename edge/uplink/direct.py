"""The uplink without the service: straight to its database and its streams, through the service's own pipeline.

Flows in: `UplinkBatch`. Flows out: `BatchAnswer`. Implements `Transport`. For a gateway in the service's own
network; it needs the extras `service`, database credentials, and an enrolment all the same: the registry comes from
the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from bridge.errors import ConfigError, Unavailable
from bridge.gateway_protocol.batches import BatchAnswer, UplinkBatch, answer_of, delivery_of
from bridge.model.reading import Outcome, Receipt
from bridge.pipeline.receipt_collector import ReceiptCollector
from bridge.settings.service import Settings
from bridge.tasks import end
from bridge.telemetry import Metrics
from edge.service_api.http_client import ServiceAway
from edge.settings import EdgeSettings

if TYPE_CHECKING:
    from bridge.broker.build import Broker
    from bridge.broker.relay import Relay
    from bridge.service.app import ServiceCore
    from bridge.store.postgres import PostgresStore


class DirectTransport:
    """Implements `Transport` on database and streams. Opens at the first batch, and again after an error."""

    def __init__(self, settings: EdgeSettings, name: str) -> None:
        """Raises ConfigError where the service's parts are not installed, or not told where its servers are."""
        missing = [f"{key}.url is not set" for key in ("database", "redis") if not getattr(settings, key).url]
        if missing:
            raise ConfigError([f'uplink.kind = "direct": {each}' for each in missing])
        try:
            import bridge.service.app  # noqa: F401
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
        self._service: _DirectService | None = None
        self._opening = asyncio.Lock()

    async def send_batch(self, lane: str, batch: UplinkBatch) -> BatchAnswer:
        """See `Transport.send_batch`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._opening:
                    if self._service is None:
                        self._service = await _DirectService.open(self._settings, self._name)
                receipts = await self._settled(self._service.pipeline, batch)
        except Unavailable as error:
            raise ServiceAway(error.code, error.detail, retry_after_s=0.0) from error
        except TimeoutError:
            raise ServiceAway("timeout", "the database is too slow") from None
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            raise ServiceAway("store_unavailable", "the database is away")
        return answer_of(batch.records, receipts)

    async def close(self) -> None:
        """See `Transport.close`. What is committed and not published stays in the outbox, for a running service."""
        if self._service is not None:
            await self._service.close()
            self._service = None

    async def _settled(self, core: ServiceCore, batch: UplinkBatch) -> Sequence[Receipt]:
        collector = ReceiptCollector(len(batch.records))
        for index, record in enumerate(batch.records):
            settle = partial(collector.settle, index)
            core.pipeline.submit(delivery_of(record, batch.epoch, self._name, record.received_us, settle))
        return await collector.wait()


class _DirectService:
    """Runs the service's store, streams and pipeline in this process."""

    def __init__(self, store: PostgresStore, broker: Broker, relay: Relay, core: ServiceCore) -> None:
        self._store = store
        self._broker = broker
        self.pipeline = core
        works = (core.pipeline.run, relay.run, relay.sweep_forever, core.housekeeping()["changes"])
        self._tasks = [asyncio.create_task(work(), name="direct") for work in works]

    @classmethod
    async def open(cls, settings: Settings, name: str) -> _DirectService:
        """Raises StoreUnavailable."""
        from bridge.broker.build import Broker
        from bridge.broker.relay import Relay
        from bridge.service.app import ServiceCore, now_us
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
        return cls(store, broker, relay, ServiceCore(settings, store, relay, metrics))

    async def close(self) -> None:
        await end(self._tasks)
        await self._broker.close()
        await self._store.close()
