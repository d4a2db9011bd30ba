"""A gateway whose clock is wrong as the test says: its pipeline, spool and uplink, before a real service.

Its world lies in the past, and catches up: `pass_s` lets time go by, and at `deliver_all` it is now, for it and for the
service. What its host says of the time of day is the truth and `off_s`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx

from bridge.gateway_protocol.batches import GatewayState
from bridge.model.reading import DecodedReading, Delivery, Outcome, Packet, Publication, Receipt, Source
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.settings.process import PipelineSettings
from bridge.telemetry import Metrics
from edge.host.clock import HostClock
from edge.registry.snapshot import LocalRegistry
from edge.service_api.http_client import ServiceClient, parse_url
from edge.service_api.transport import HttpsTransport, Transport
from edge.settings import UplinkSettings
from edge.spool import Spool
from edge.telemetry import SpoolMetrics, UplinkMetrics
from edge.uplink.uplink import BACKLOG, LIVE, Uplink
from tests.support.servers import until
from tests.support.spool_site import settings_in
from tests.support.uplink_bench import QUICK

HOUR_S, DAY_S = 3_600, 86_400


class NoOutbox:
    """Nobody on the site listens."""

    def enqueue(self, publication: Publication) -> None:
        pass

    def take_published(self) -> list[int]:
        return []

    def give_back(self, outbox_ids: Sequence[int]) -> None:
        pass

    def recover(self) -> None:
        pass


class ClockedGateway:
    """`boot` before use, and after each `pull_plug`. `url` and `key` are of the service that it is enrolled with."""

    def __init__(self, folder: Path, url: str, key: str, device_uuid: str) -> None:
        self.folder = folder
        self.url = url
        self.key = key
        self.device_uuid = device_uuid
        self.off_s = 0.0
        self.in_step = False
        self.behind_s = 5.0 * DAY_S
        self._boots = 0
        self._booted_us = 0

    # -- its world

    def true_us(self) -> int:
        return time.time_ns() // 1_000 - round(self.behind_s * 1_000_000)

    def pass_s(self, seconds: float) -> None:
        """Let time go by, with a look at the clock as the gateway takes one each second."""
        self.behind_s -= seconds
        assert self.behind_s >= 0
        self.clock.check()

    def set_clock(self, off_s: float = 0.0, *, in_step: bool = True) -> None:
        self.off_s, self.in_step = off_s, in_step
        self.clock.check()

    async def boot(self, off_s: float = 0.0, *, in_step: bool = False) -> None:
        self._boots += 1
        self._booted_us = self.true_us()
        self.off_s, self.in_step = off_s, in_step
        self.clock = HostClock(
            f"boot-{self._boots}",
            wall_us=lambda: self.true_us() + round(self.off_s * 1_000_000),
            boottime_us=lambda: self.true_us() - self._booted_us,
            synchronised=lambda: self.in_step,
        )
        self.spool = Spool(settings_in(self.folder), self.clock, SpoolMetrics())
        await self.spool.open()
        metrics, settings = Metrics(), PipelineSettings()
        registry = LocalRegistry(self.folder / "registry.json")
        self.pipeline = Pipeline(
            resolver=Resolver(registry, settings, metrics, time.monotonic),
            store=self.spool,
            outbox=NoOutbox(),
            instance=1,
            settings=settings,
            metrics=metrics,
            random=Random(1),
            now_us=self.clock.now_us,
            keep_unknown=True,
            judges_times=self.clock.is_confirmed,
        )
        self._task = asyncio.create_task(self.pipeline.run())

    async def pull_plug(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.spool.close()

    # -- readings

    async def receive(self, sensor_uuid: str, value: float, ts_us: int | None = None) -> int:
        """Take a reading in, as a door does; when that was in truth."""
        receipts: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
        packet = Packet((DecodedReading(0, sensor_uuid, value, ts_us),))
        received_us = self.true_us()
        self.pipeline.submit(
            Delivery(
                packet,
                Source.MQTT,
                b"{}",
                self.clock.now_us(),
                receipts.set_result,
                device_uuid=self.device_uuid,
                retry_in_place=True,
            )
        )
        (receipt,) = await receipts
        assert receipt.outcome == Outcome.STORED, receipt
        return received_us

    # -- the service

    def transport(self) -> HttpsTransport:
        address = parse_url(self.url)
        return HttpsTransport("north", self.key, {lane: ServiceClient(address, None, 10) for lane in (LIVE, BACKLOG)})

    async def deliver_all(self, transport: Transport | None = None, *, for_s: float = 20) -> Uplink:
        """It is now: hand over until the spool is empty."""
        self.behind_s = 0.0
        self.clock.check()
        uplink = self.uplink(transport or self.transport())
        task = asyncio.create_task(uplink.run())
        try:
            await until(lambda: not self.spool.backlog().depth, for_s)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return uplink

    def uplink(self, transport: Transport, **settings: Any) -> Uplink:
        return Uplink(
            "north",
            self.spool,
            self.spool,
            transport,
            UplinkSettings(**{**QUICK, **settings}),
            UplinkMetrics(),
            self.clock,
            state=lambda: GatewayState(clock_set=self.clock.is_set(), host_us=self.clock.host_us()),
            etag_seen=lambda _: None,
            rejected_file=self.folder / "refused.jsonl",
            random=Random(1),
            now=time.monotonic,
        )


async def enrolled(url: str, code: str) -> str:
    """Enrol with the service; the key."""
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{url}/gateways/enrol", json={"code": code, "version": "1"})
    return str(answer.json()["gateway_key"])
