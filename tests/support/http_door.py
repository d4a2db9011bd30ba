"""The HTTP door on a bench: real sockets, keys and an intake that the test says, or the real pipeline behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any

import httpx
import msgspec

from bridge.auth.failed_logins import FailedLogins
from bridge.auth.key_cache import KeyCache
from bridge.broker.deferred_outbox import DeferredOutbox
from bridge.errors import StoreUnavailable
from bridge.http.app import ServiceDoorParts, build_app
from bridge.http.door import App
from bridge.http.server import HttpServer
from bridge.model.scopes import DEFAULT_SCOPES
from bridge.pipeline.ports import DeliverySink
from bridge.service.app import http_door
from bridge.service.core import ServiceCore
from bridge.settings.http import HttpSettings, KeySettings, LimitSettings
from bridge.settings.process import PipelineSettings
from bridge.settings.service import HookSettings, Settings
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.support.mqtt_door import NOW_US, FakePipeline

DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
OTHER_DEVICE = "5f0c1f5e-0000-4000-8000-0000000000aa"
SENSOR = "5f0c1f5e-0000-4000-8000-00000000000b"
READINGS = f"/devices/{DEVICE}/readings"


class Key(msgspec.Struct, frozen=True):
    """A key as the store finds it."""

    hash: str
    kind: str = "device"
    device_id: int = 7
    device_uuid: str | None = DEVICE
    expires_at_us: int | None = None
    disabled: bool = False
    scopes: frozenset[str] = frozenset()
    devices: frozenset[str] | None = None


def key_of(text: str, **fields: Any) -> Key:
    return Key(sha256(text.encode()).hexdigest(), **fields)


class FakeKeys:
    """The table of keys: counts the queries, fails or hangs as told."""

    def __init__(self, *keys: Key) -> None:
        self.table = {key.hash: key for key in keys}
        self.queries: list[list[str]] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def find(self, hashes: Collection[str]) -> Iterable[Key]:
        self.queries.append(list(hashes))
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable('connection to server at "db.internal" failed')
        return [self.table[each] for each in hashes if each in self.table]


KEYS = (
    key_of("device-key"),
    key_of("other-key", device_id=8, device_uuid=OTHER_DEVICE),
    key_of("disabled-key", device_id=9, device_uuid=OTHER_DEVICE, disabled=True),
    key_of("api-key", kind="api", device_id=1, device_uuid=None, scopes=frozenset(DEFAULT_SCOPES)),
)


class Door:
    """A listening door."""

    def __init__(self, server: HttpServer, url: str, metrics: Metrics) -> None:
        self.server = server
        self.url = url
        self.metrics = metrics
        self.host, self.port = "127.0.0.1", int(url.rpartition(":")[2])

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"iot_bridge_{name}", labels) or 0.0

    def limited(self, limit: str) -> float:
        """How often a limit has refused."""
        return self.sample("limited_total", limit=limit)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare TCP connection."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def exchange(self, *pieces: bytes) -> bytes:
        """Send these bytes as they are; everything that comes back until the door closes."""
        async with asyncio.timeout(20), self.connection() as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                with suppress(ConnectionError):
                    await writer.drain()
            return await until_closed(reader)

    @asynccontextmanager
    async def client(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20) as client:
            yield client


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, in order or not."""
    got = b""
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            got += piece
    return got


async def _no_status(_: int) -> None:
    return None


@asynccontextmanager
async def open_door(
    pipeline: DeliverySink | None = None,
    keys: FakeKeys | None = None,
    *,
    limits: LimitSettings | None = None,
    sensor_status: Callable[[int], Awaitable[dict[str, Any] | None]] = _no_status,
    now: Callable[[], float] = time.monotonic,
    now_us: Callable[[], int] = lambda: NOW_US,
    make_app: Callable[[ServiceDoorParts], App] = build_app,
    **http: Any,
) -> AsyncIterator[Door]:
    """A door over fakes; `http` are its settings."""
    settings = HttpSettings(port=0, **http)
    metrics = Metrics()
    limits = limits or LimitSettings()
    find = (keys or FakeKeys(*KEYS)).find
    app = make_app(
        ServiceDoorParts(
            http=settings,
            limits=limits,
            pipeline=pipeline or FakePipeline(),
            keys=KeyCache(find, KeySettings(), metrics, now, lambda: NOW_US, settings.ack_timeout_s),
            failed_logins=FailedLogins(limits.failures_per_minute, metrics, now, lambda: NOW_US),
            metrics=metrics,
            problems=list,
            sensor_status=sensor_status,
            now=now,
            now_us=now_us,
        )
    )
    server = HttpServer(app, settings, metrics)
    try:
        yield Door(server, await server.start(), metrics)
    finally:
        await server.stop(1)


class Service(Door):
    """A door over the real pipeline."""

    def __init__(self, server: HttpServer, url: str, core: ServiceCore) -> None:
        super().__init__(server, url, core.metrics)
        self.core = core


@asynccontextmanager
async def open_service(
    database: str,
    *,
    make_app: Callable[[ServiceDoorParts], App] = build_app,
    limits: LimitSettings | None = None,
    hooks: HookSettings | None = None,
    **http: Any,
) -> AsyncIterator[Service]:
    """The service in this process, over a real database and without MQTT and Redis; `http` are its settings."""
    settings = Settings(
        http=HttpSettings(port=0, **http),
        limits=limits or LimitSettings(),
        hooks=hooks or HookSettings(),
        database=DatabaseSettings(url=database, connect_timeout_s=2, statement_timeout_s=4),
        pipeline=PipelineSettings(change_poll_s=0.05, retry_max_s=0.1),
    )
    store = PostgresStore(settings.database, "bench")
    await store.open()
    core = ServiceCore(settings, store, DeferredOutbox(), Metrics())
    works = core.works()
    tasks = [asyncio.create_task(works[name](), name=name) for name in ("pipeline", "changes")]
    server = http_door(core, make_app=make_app)
    try:
        yield Service(server, await server.start(), core)
        for task in tasks:
            assert not task.done(), task
    finally:
        await server.stop(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
