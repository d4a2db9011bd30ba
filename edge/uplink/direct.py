"""The uplink without the service: straight to its database and its streams, through the service's own pipeline.

Flows in: `UplinkBatch`. Flows out: `BatchAnswer`. Implements `Transport`. For a gateway in the service's own
network; it needs the extras `service`, database credentials, and an enrolment all the same: the registry comes from
the service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from bridge.errors import ConfigError, Unavailable
from bridge.gateway_protocol.batches import BatchAnswer, UplinkBatch, UplinkRecord, answer_of, delivery_of
from bridge.gateway_protocol.receipt_time import placed
from bridge.model.reading import Outcome, Receipt
from bridge.pipeline.receipt_collector import ReceiptCollector
from bridge.pipeline.run import Pipeline
from bridge.settings.service import Settings
from edge.service_api.http_client import ServiceAway
from edge.settings import EdgeSettings

if TYPE_CHECKING:
    from edge.uplink.direct_pipeline import DirectPipeline


class DirectTransport:
    """Implements `Transport` on database and streams. Opens at the first batch, and again after an error."""

    def __init__(self, settings: EdgeSettings, name: str, now_us: Callable[[], int]) -> None:
        """Raises ConfigError where the service's parts are not installed, or not told where its servers are."""
        missing = [f"{key}.url is not set" for key in ("database", "redis") if not getattr(settings, key).url]
        if missing:
            raise ConfigError([f'uplink.kind = "direct": {each}' for each in missing])
        try:
            from edge.uplink.direct_pipeline import open_direct
        except ImportError as error:
            raise ConfigError(
                [f'uplink.kind = "direct" needs more: pip install "iot-edge-bridge[service]" ({error})']
            ) from error
        parts = Settings(
            database=settings.database,
            redis=settings.redis,
            broker=settings.broker.model_copy(update={"kind": "redis"}),
            pipeline=settings.pipeline.model_copy(update={"max_behind_s": settings.spool.max_age_s * 2}),
        )
        self._open = partial(open_direct, parts, name, now_us)
        self._timeout_s = settings.uplink.timeout_s
        self._name = name
        self._direct: DirectPipeline | None = None
        self._opening = asyncio.Lock()

    async def send_batch(self, lane: str, batch: UplinkBatch) -> BatchAnswer:
        """See `Transport.send_batch`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._opening:
                    if self._direct is None:
                        self._direct = await self._open()
                began_s = time.monotonic()
                now_us = await self._direct.database_us()  # the one clock that all who write there share
                records = placed(batch.records, now_us)
                receipts = await self._settled(self._direct.pipeline, batch.epoch, records)
                held_us = round((time.monotonic() - began_s) * 1_000_000)
        except Unavailable as error:
            raise ServiceAway(error.code, error.detail, retry_after_s=0.0) from error
        except TimeoutError:
            raise ServiceAway("timeout", "the database is too slow") from None
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            raise ServiceAway("store_unavailable", "the database is away")
        return answer_of(records, receipts, now_us=now_us + held_us, held_us=held_us)

    async def close(self) -> None:
        """See `Transport.close`. What is committed and not published stays in the outbox, for a running service."""
        if self._direct is not None:
            await self._direct.close()
            self._direct = None

    async def _settled(self, pipeline: Pipeline, epoch: str, records: Sequence[UplinkRecord]) -> Sequence[Receipt]:
        collector = ReceiptCollector(len(records))
        for index, record in enumerate(records):
            settle = partial(collector.settle, index)
            pipeline.submit(delivery_of(record, epoch, self._name, record.received_us, settle))
        return await collector.wait()
