"""A gateway as the service sees it: enrolled over HTTP on a real database."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from bridge.gateway_protocol.batches import BatchAnswer, GatewayLedger, GatewayState, UplinkBatch, UplinkRecord
from bridge.model.reading import Source, TsQuality
from bridge.service.core import ServiceCore
from bridge.store import admin
from tests.support.http_door import open_service

NOW_US = 1_790_000_000_000_000
"""Its clock's time of receipt: in the past, as of a backlog."""


class EnrolledGateway:
    """A gateway as the service sees it: its name, its key, its devices, and HTTP."""

    def __init__(
        self, url: str, client: httpx.AsyncClient, database: str, devices: list[dict[str, Any]], core: ServiceCore
    ) -> None:
        self.url = url
        self.core = core
        self.client = client
        self.database = database
        self.devices = devices
        self.key = ""

    async def enrol(self, code: str) -> httpx.Response:
        answer = await self.client.post(f"{self.url}/gateways/enrol", json={"code": code, "version": "0.1.0"})
        if answer.status_code == 200:
            self.key = answer.json()["gateway_key"]
        return answer

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(f"{self.url}{path}", headers={"X-Gateway-Key": self.key, **headers})

    async def post(self, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        return await self.client.post(f"{self.url}{path}", content=body, headers={"X-Gateway-Key": self.key, **headers})

    async def send_batch(
        self, *records: UplinkRecord, books: tuple[GatewayLedger, ...] = (), run: str | None = None
    ) -> BatchAnswer:
        state = None if run is None else GatewayState("0.1.0", run=run)
        body = gzip.compress(msgspec.json.encode(UplinkBatch("e1", records, state, books)))
        answer = await self.post("/gateways/north/batches", body, **{"Content-Encoding": "gzip"})
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=BatchAnswer)

    async def send_bytes(self, body: bytes) -> BatchAnswer:
        answer = await self.post("/gateways/north/batches", body)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=BatchAnswer)

    def verify(self) -> list[str]:
        """What iot-bridge ledger --verify finds."""
        with admin.connect(self.database) as connection:
            return connection.verify()[0]

    def reading(self, number: int, value: float = 20.0, device: int = 0, **more: Any) -> UplinkRecord:
        owner = self.devices[device]
        given = {"device_uuid": owner["device_uuid"], "sensor": owner["sensors"][0]["sensor_id"]} | more
        received: dict[str, Any] = {
            "received_us": NOW_US + number,
            "ts_us": NOW_US + number,
            "ts_quality": TsQuality.DEVICE,
        }
        return UplinkRecord(number, Source.MQTT, value=value, **(received | given))


@asynccontextmanager
async def enrolled_gateway(postgres_url: str) -> AsyncIterator[EnrolledGateway]:
    """The gateway `north`, of the first two of three devices, and the service it is enrolled with."""
    with admin.connect(postgres_url) as connection:
        devices = [connection.add_device(name, [("t", "temperature", None)]) for name in ("pump", "fan", "foreign")]
        made = connection.add_gateway("north", [d["device_id"] for d in devices[:2]], everything=False, code_minutes=10)
    async with open_service(postgres_url) as service, httpx.AsyncClient(timeout=20) as client:
        site = EnrolledGateway(service.url, client, postgres_url, devices, service.core)
        assert (await site.enrol(made["code"].lower().replace("-", " "))).status_code == 200
        assert (await site.enrol(made["code"])).json()["code"] == "code_used", "a code works once"
        yield site
