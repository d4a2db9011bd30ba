"""An uplink over a real spool, to wherever the test says."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Protocol

from bridge.gateway_protocol.batches import GatewayState
from bridge.model.reading import Reading
from edge.ports import UplinkClock
from edge.service_api.http_client import ServiceClient, parse_url
from edge.service_api.transport import HttpsTransport, Transport
from edge.settings import UplinkSettings
from edge.spool import Spool
from edge.telemetry import UplinkMetrics
from edge.uplink.uplink import BACKLOG, LIVE, Uplink
from tests.support.gateway_site import GATEWAY, GATEWAY_KEY
from tests.support.servers import until
from tests.support.spool_site import NOW_US, SpoolFeeder, make_spool, reading

QUICK: dict[str, Any] = {
    "timeout_s": 5,
    "live_every_s": 0,
    "retry_min_s": 0.01,
    "retry_max_s": 0.05,
    "report_every_s": 0.2,
    "max_batch": 20,
}


def https_transport(url: str, tls: ssl.SSLContext | None = None, *, timeout_s: float = 5) -> HttpsTransport:
    clients = {name: ServiceClient(parse_url(url), tls, timeout_s) for name in (LIVE, BACKLOG, "registry")}
    return HttpsTransport(GATEWAY, GATEWAY_KEY, clients)


class BenchClock:
    """Of a gateway that has booted since: its records are of another boot, whose clock was set."""

    boot_id = "boot-now"

    def boottime_us(self) -> int:
        return time.monotonic_ns() // 1_000

    def learn(self, service_us: int, held_us: int, sent_us: int, received_us: int) -> None:
        pass


class Bench:
    """A spool, what sends into it, and the uplink."""

    def __init__(self, folder: Path, link: Transport, clock: UplinkClock | None = None, **settings: Any) -> None:
        self.folder = folder
        self.spool: Spool = make_spool(folder)
        self.sender = SpoolFeeder(self.spool)
        self.etags: list[str] = []
        self.metrics = UplinkMetrics()
        self.uplink = Uplink(
            GATEWAY,
            self.spool,
            self.spool,
            link,
            UplinkSettings(**{**QUICK, **settings}),
            self.metrics,
            clock or BenchClock(),
            state=lambda: GatewayState(version="1", backlog_records=self.spool.backlog().depth),
            etag_seen=self.etags.append,
            rejected_file=folder / "refused.jsonl",
            random=Random(1),
            now=time.monotonic,
        )

    async def spool_readings(self, first: int, count: int, *, batch: int = 50, **fields: Any) -> list[Reading]:
        made = [reading(number, **fields) for number in range(first, first + count)]
        for place in range(0, count, batch):
            await self.sender.send(*made[place : place + batch])
        return made

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def drained(self, timeout_s: float = 30) -> None:
        await until(lambda: not self.spool.backlog().depth, timeout_s)


class NewBench(Protocol):
    """Makes a bench, which is closed when the test ends."""

    def __call__(self, transport: Transport, **settings: Any) -> Bench: ...


__all__ = ["NOW_US", "Bench", "NewBench", "https_transport"]
