"""The service's door for gateways on a real socket: over an intake that the test says, or the real pipeline."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from bridge.auth.failed_logins import FailedLogins
from bridge.auth.key_cache import KeyCache, KeyOwner
from bridge.errors import StoreUnavailable
from bridge.gateway_protocol.batches import GatewayLedger, GatewayState
from bridge.gateway_protocol.snapshot import IssueNumber, Snapshot
from bridge.http.app import GatewayParts, ServiceDoorParts, build_app
from bridge.http.gateway_cache import GatewayCache
from bridge.http.server import HttpServer
from bridge.pipeline.ports import DeliverySink
from bridge.service.core import now_us
from bridge.settings.http import HttpSettings, KeySettings, LimitSettings
from bridge.store import admin
from bridge.store.secret import new_key
from bridge.telemetry import Metrics
from tests.support.gateway_site import GATEWAY, GATEWAY_KEY, snapshot
from tests.support.http_door import Key, Service, key_of, open_service


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
        self.books: Sequence[GatewayLedger] = ()
        self.away = False

    async def find(self, hashes: Collection[str]) -> Iterable[KeyOwner]:
        return [self.key] if self.key.hash in hashes else []

    async def gateway(self, gateway_id: int) -> Info | None:
        return Info()

    async def enrol(self, code: str, version: str, address: str = "") -> tuple[str, str] | None:
        return (GATEWAY, GATEWAY_KEY) if code == self.code else None

    async def rotate(self, gateway_id: int, present_hash: str) -> str:
        text, _ = new_key("gk")
        self.key = key_of(text, kind="gateway", device_id=1, device_uuid=None)
        return text

    async def settle_rotation(self, gateway_id: int, present_hash: str) -> None:
        pass

    async def report(self, gateway_id: int, state: GatewayState | None) -> None:
        if self.away:
            raise StoreUnavailable("the database is away")
        self.states.append(state)

    async def report_books(self, gateway_id: int, books: Sequence[GatewayLedger], run: str = "") -> int:
        self.books = books
        return 0

    async def snapshot(self, gateway_id: int) -> Snapshot | None:
        return self.given

    async def last_issue(self, gateway_id: int) -> IssueNumber | None:
        return self.given.issue_number


class GatewayService:
    """A listening door."""

    def __init__(self, url: str, known: GatewayCache, keys: KeyCache) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self._known = known
        self._keys = keys

    def forget(self) -> None:
        """What the change feed does."""
        self._known.forget()
        self._keys.clear()


@asynccontextmanager
async def open_gateway_door(
    pipeline: DeliverySink, directory: FakeDirectory, **http: Any
) -> AsyncIterator[GatewayService]:
    """A door over fakes; `http` are its settings."""
    settings = HttpSettings(port=0, **http)
    metrics = Metrics()
    keys = KeyCache(directory.find, KeySettings(negative_ttl_s=0.01), metrics, time.monotonic, now_us)
    known = GatewayCache(directory, time.monotonic)

    async def nothing(_: int) -> None:
        return None

    parts = ServiceDoorParts(
        http=settings,
        limits=LimitSettings(),
        pipeline=pipeline,
        keys=keys,
        failed_logins=FailedLogins(0, metrics, time.monotonic, now_us),
        metrics=metrics,
        problems=list,
        sensor_status=nothing,
        now=time.monotonic,
        now_us=now_us,
        gateways=GatewayParts(directory, known, keys),
    )
    server = HttpServer(build_app(parts), settings, metrics)
    try:
        yield GatewayService(await server.start(), known, keys)
    finally:
        await server.stop(1)


class RealService:
    """The service over a real database."""

    def __init__(self, service: Service, database: str) -> None:
        self.url = service.url
        self.port = service.port
        self.database = database
        self.core = service.core

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            return connection.execute(query.encode(), arguments).fetchall()

    def add_gateway(self, name: str = GATEWAY) -> str:
        """A gateway for every device; its one-time code."""
        with admin.connect(self.database) as connection:
            return str(connection.add_gateway(name, [], everything=True, code_minutes=60)["code"])

    def imbalance(self) -> list[str]:
        """What iot-bridge ledger --verify finds."""
        with admin.connect(self.database) as connection:
            return connection.verify()[0]


@asynccontextmanager
async def open_gateway_service(database: str, **http: Any) -> AsyncIterator[RealService]:
    """The service in this process; `http` are its settings."""
    async with open_service(database, **http) as service:
        yield RealService(service, database)
