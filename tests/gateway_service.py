"""The service's door for gateways on a real socket: over an intake that the test says, or the real pipeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg

from bridge.app import Pipeline, now_us
from bridge.errors import StoreUnavailable
from bridge.http.admission import Admission
from bridge.http.app import Parts, build_app
from bridge.http.gateways import GatewayDoor, add_gateway_routes
from bridge.http.ingest import Intake
from bridge.http.keys import KeyOwner, KeyRing
from bridge.http.server import HttpServer
from bridge.pipeline.handover import GatewayBooks, GatewayState
from bridge.pipeline.snapshot import Snapshot
from bridge.pipeline.unpublished import LeftInTable
from bridge.settings import DatabaseSettings, HttpSettings, KeySettings, LimitSettings, PipelineSettings, Settings
from bridge.store.gateways import Gateways, code_hash, new_code, new_gateway_key
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.gateway_site import GATEWAY, GATEWAY_KEY, snapshot
from tests.http_door import Key, key_of


class Info:
    """A gateway that may speak for every device."""

    def __init__(self, name: str = GATEWAY) -> None:
        self.name = name
        self.devices: frozenset[str] | None = None


class FakeDirectory:
    """One gateway, whose key the test takes away."""

    def __init__(self) -> None:
        self.key: Key = key_of(GATEWAY_KEY, kind="gateway", device_id=1, device_uuid=None)
        self.given: Snapshot = snapshot()
        self.code = "ABCD-EFGH-JKMN"
        self.states: list[GatewayState | None] = []
        self.books: Sequence[GatewayBooks] = ()
        self.away = False

    async def find(self, hashes: Collection[str]) -> Iterable[KeyOwner]:
        return [self.key] if self.key.hash in hashes else []

    async def gateway(self, gateway_id: int) -> Info | None:
        return Info()

    async def enrol(self, code: str, version: str) -> tuple[str, str] | None:
        return (GATEWAY, GATEWAY_KEY) if code == self.code else None

    async def rotate(self, gateway_id: int, present_hash: str) -> str:
        text, _ = new_gateway_key()
        self.key = key_of(text, kind="gateway", device_id=1, device_uuid=None)
        return text

    async def settle_rotation(self, gateway_id: int, present_hash: str) -> None:
        pass

    async def report(self, gateway_id: int, state: GatewayState | None, books: Sequence[GatewayBooks]) -> None:
        if self.away:
            raise StoreUnavailable("the database is away")
        self.states.append(state)
        self.books = books or self.books

    async def snapshot(self, gateway_id: int) -> Snapshot | None:
        return self.given


class GatewayService:
    """A listening door."""

    def __init__(self, url: str, door: GatewayDoor, keys: KeyRing) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.door = door
        self.keys = keys

    def forget(self) -> None:
        """What the change feed does."""
        self.door.forget()
        self.keys.clear()


@asynccontextmanager
async def open_gateway_door(
    intake: Intake, directory: FakeDirectory, *, limits: LimitSettings | None = None, **http: Any
) -> AsyncIterator[GatewayService]:
    """A door over fakes; `http` are its settings."""
    settings = HttpSettings(port=0, **http)
    metrics = Metrics()
    keys = KeyRing(directory.find, KeySettings(negative_ttl_s=0.01), metrics, time.monotonic, now_us)
    async with _serving(intake, directory, keys, settings, limits or LimitSettings(), metrics) as service:
        yield service


@asynccontextmanager
async def _serving(
    intake: Intake, directory: Any, keys: KeyRing, settings: HttpSettings, limits: LimitSettings, metrics: Metrics
) -> AsyncIterator[GatewayService]:
    async def nothing(_: int) -> None:
        return None

    app = build_app(
        Parts(
            http=settings,
            limits=limits,
            intake=intake,
            keys=keys,
            metrics=metrics,
            problems=list,
            sensor_status=nothing,
            now=time.monotonic,
            now_us=now_us,
        )
    )
    admission = Admission(settings, limits, keys, metrics, time.monotonic)
    door = GatewayDoor(directory, admission, intake, settings, metrics, time.monotonic, now_us)
    add_gateway_routes(app, door)
    server = HttpServer(app, settings, metrics)
    try:
        yield GatewayService(await server.start(), door, keys)
    finally:
        await server.stop(1)


class RealService(GatewayService):
    """Over the real pipeline and a real database, with one gateway."""

    def __init__(self, service: GatewayService, database: str, pipeline: Pipeline) -> None:
        super().__init__(service.url, service.door, service.keys)
        self.database = database
        self.pipeline = pipeline

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            return connection.execute(query.encode(), arguments).fetchall()

    def add_gateway(self, name: str = GATEWAY) -> str:
        """A gateway for every device; its one-time code."""
        text, digest = new_code()
        assert digest == code_hash(text)
        self.rows("INSERT INTO gateways (name, all_devices) VALUES (%s, true) RETURNING id", name)
        self.rows(
            "INSERT INTO gateway_codes (code_hash, gateway_id, expires_at) "
            "SELECT %s, id, now() + interval '1 hour' FROM gateways WHERE name = %s RETURNING 1",
            digest,
            name,
        )
        return text


@asynccontextmanager
async def open_gateway_service(database: str, **http: Any) -> AsyncIterator[RealService]:
    """The service in this process, over a real database; `http` are its settings."""
    settings = Settings(
        http=HttpSettings(port=0, **http),
        database=DatabaseSettings(url=database, connect_timeout_s=2, statement_timeout_s=10),
        pipeline=PipelineSettings(change_poll_s=0.05, retry_max_s=0.1),
    )
    store = PostgresStore(settings.database, "bench")
    await store.open()
    pipeline = Pipeline(settings, store, LeftInTable(), Metrics())
    gateways = Gateways(store)

    async def find(hashes: Collection[str]) -> Iterable[KeyOwner]:
        return [*await pipeline.registry.find_keys(hashes), *await gateways.find_keys(hashes)]

    keys = KeyRing(find, settings.keys, pipeline.metrics, time.monotonic, now_us)
    works = (pipeline.intake.run, partial(pipeline.every, 0.05, pipeline._follow_changes))
    tasks = [asyncio.create_task(work()) for work in works]
    try:
        async with _serving(
            pipeline.intake, gateways, keys, settings.http, LimitSettings(), pipeline.metrics
        ) as service:
            yield RealService(service, database, pipeline)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
