"""A site in the field: a gateway's process, a service, and devices that send to the gateway over MQTT and HTTP."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bridge.auth.key_cache import hash_key
from tests.acceptance.gateway import GatewayProcess
from tests.support.gateway_service import RealService, open_gateway_service
from tests.support.gateway_site import DEVICE_KEY, GATEWAY
from tests.support.servers import MosquittoProcess, until

PAUSE_S = 0.02


class Field:
    """One device with a sensor for each door. Every reading has a number: its sequence."""

    def __init__(self, service: RealService, gateway: GatewayProcess, mosquitto: MosquittoProcess) -> None:
        self.service = service
        self.gateway = gateway
        self._mqtt_port = mosquitto.port
        ((self.device_id, self.device),) = service.rows(
            "INSERT INTO devices (name) VALUES ('shed') RETURNING id, device_uuid::text"
        )
        self.sensors = dict(self._sensor(name) for name in ("mqtt", "http"))
        service.rows(
            "INSERT INTO device_api_keys (device_id, api_key_hash) VALUES (%s, %s) RETURNING id",
            self.device_id,
            hash_key(DEVICE_KEY),
        )
        self.acknowledged: dict[str, set[int]] = {"mqtt": set(), "http": set()}
        self._numbers = itertools.count()
        self._stop = threading.Event()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Devices send beside the body. What was not acknowledged is sent again, also after it."""
        self._stop.clear()
        thread = threading.Thread(target=self._send_mqtt, name="device")
        thread.start()
        post = asyncio.create_task(self._send_http(), name="http-device")
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join, 60)
            async with asyncio.timeout(60):
                await post

    async def arrived(self, timeout_s: float = 60) -> None:
        """Return once everything acknowledged is at the service, and the gateway has nothing left."""

        async def all_there() -> bool:
            status = await self.gateway.command("status", expect=None)
            return status.get("spool", {}).get("records") == 0 and not self.missing()

        await until(all_there, timeout_s)

    def missing(self) -> dict[str, set[int]]:
        """What is acknowledged and not at the service."""
        found = {name: self.acknowledged[name] - set(self.stored(name)) for name in self.sensors}
        return {name: numbers for name, numbers in found.items() if numbers}

    def stored(self, name: str) -> list[int]:
        """Numbers at the service, in order; one that stands twice is there twice."""
        query = (
            "SELECT sequence FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id WHERE s.name = %s ORDER BY 1"
        )
        return [number for (number,) in self.service.rows(query, name)]

    def books(self) -> dict[str, int]:
        """The gateway's books as it has reported them to the service, all accounts together."""
        names = (
            "received",
            "returned",
            "spooled",
            "duplicate",
            "quarantined",
            "stored",
            "known",
            "refused",
            "shed",
            "lost",
        )
        sums = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in names)
        (row,) = self.service.rows(f"SELECT {sums} FROM gateway_books")
        return dict(zip(names, row, strict=True))

    def _sensor(self, name: str) -> tuple[str, str]:
        ((uuid,),) = self.service.rows(
            "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, %s, 'temperature') "
            "RETURNING sensor_uuid::text",
            self.device_id,
            name,
        )
        return name, uuid

    def _readings(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in self._numbers:
            yield number, {"value": 20 + number % 10, "sequence": number}

    def _send_mqtt(self) -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", self._mqtt_port)
        client.loop_start()
        topic = f"devices/{self.device}/sensors/{self.sensors['mqtt']}"
        for number, body in self._readings():
            if self._stop.is_set():
                break
            client.publish(topic, msgspec.json.encode(body | {"ts": time.time()}), 1).wait_for_publish(30)
            self.acknowledged["mqtt"].add(number)
            time.sleep(PAUSE_S)
        client.disconnect()
        client.loop_stop()

    async def _send_http(self) -> None:
        url = f"{self.gateway.http}/devices/{self.device}/readings"
        async with httpx.AsyncClient(headers={"X-Device-Key": DEVICE_KEY}, timeout=5) as client:
            for number, body in self._readings():
                if self._stop.is_set():
                    break
                reading = body | {"sensor_uuid": self.sensors["http"], "sensor_ts": time.time()}
                await until(partial(_taken, client, url, reading), 60)
                self.acknowledged["http"].add(number)
                await asyncio.sleep(PAUSE_S)


async def _taken(client: httpx.AsyncClient, url: str, reading: dict[str, Any]) -> bool:
    try:
        answer = await client.post(url, json={"readings": [reading]})
    except httpx.HTTPError:
        return False
    assert answer.status_code in (202, 401, 503), answer.text
    return answer.status_code == 202


@asynccontextmanager
async def open_field(
    database: str, mosquitto: MosquittoProcess, folder: Path, *, url: str = "", **settings: str
) -> AsyncIterator[Field]:
    """An enrolled gateway that runs, with its registry, and is stopped afterwards."""
    async with open_gateway_service(database) as service:
        gateway = GatewayProcess(folder, mosquitto.url, **settings)
        field = Field(service, gateway, mosquitto)
        await gateway.command("enrol", service.url, service.add_gateway(GATEWAY))
        await gateway.start()
        try:
            await until(lambda: (gateway.data_dir / "registry.json").exists(), 30)
            yield field
        finally:
            gateway.stop()


def moments(seed: int, count: int, longest_s: float) -> list[float]:
    """Random pauses."""
    random = Random(seed)
    return [random.random() * longest_s for _ in range(count)]
