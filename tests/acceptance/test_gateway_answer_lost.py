"""Batches of a gateway whose answers are lost: the service stands still, and the gateway ends and starts again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import psycopg
import pytest

from bridge.auth.key_cache import hash_key
from bridge.store import admin
from tests.acceptance.gateway import GatewayProcess
from tests.acceptance.service import Service
from tests.support.gateway_site import DEVICE_KEY, GATEWAY
from tests.support.mqtt_door import Device
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, until

pytestmark = pytest.mark.timeout(120)

IN_A_ROUND = 12


class UntimedField:
    """A gateway, a service, and one device, which gives no time: it numbers its readings."""

    def __init__(self, service: Service, gateway: GatewayProcess, mosquitto: MosquittoProcess) -> None:
        self.service = service
        self.gateway = gateway
        self._mosquitto = mosquitto
        self._published = 0
        with psycopg.connect(service.database, autocommit=True) as connection:
            device = connection.execute("INSERT INTO devices (name) VALUES ('shed') RETURNING id, device_uuid::text")
            ((device_id, self._device),) = device.fetchall()
            ((self._sensor,),) = connection.execute(
                "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, 't', 'power')"
                " RETURNING sensor_uuid::text",
                (device_id,),
            ).fetchall()
            connection.execute(
                "INSERT INTO device_api_keys (device_id, api_key_hash) VALUES (%s, %s)",
                (device_id, hash_key(DEVICE_KEY)),
            )

    async def lose_an_answer(self, random: Random) -> None:
        """Publish; stop the service in the middle, end the gateway, start it, and let the service go on."""
        publishing = asyncio.create_task(self._publish(random), name="device")
        await asyncio.sleep(random.uniform(0.0, 0.3))
        os.kill(self.service.pid, signal.SIGSTOP)
        try:
            await publishing
            await asyncio.sleep(random.uniform(0.0, 0.3))
            await asyncio.to_thread(random.choice((self.gateway.stop, self.gateway.kill)))
            goes_on_s = random.uniform(0.0, 1.0)
            asyncio.get_running_loop().call_later(goes_on_s, os.kill, self.service.pid, signal.SIGCONT)
            await self.gateway.start()
            await asyncio.sleep(goes_on_s)
        finally:
            os.kill(self.service.pid, signal.SIGCONT)

    async def _publish(self, random: Random) -> None:
        with Device(self._mosquitto.port) as device:
            for _ in range(IN_A_ROUND):
                self._published += 1
                text = f'{{"value": 20, "sequence": {self._published}}}'
                await device.publish(text.encode(), topic=f"devices/{self._device}/sensors/{self._sensor}")
                await asyncio.sleep(random.uniform(0.0, 0.03))

    async def everything_is_there_once(self) -> None:
        """Wait for what was published; whatever is there twice is an error."""
        await until(lambda: len(self.stored()) == self._published, 40)
        await until(lambda: self.service.command("ledger", "--verify", expect=None)["problems"] == [], 20)
        twice = {number: count for number, count in self.stored().items() if count > 1}
        assert not twice, f"of {self._published}"

    def stored(self) -> Counter[int]:
        """How often each number is at the service."""
        with psycopg.connect(self.service.database) as connection:
            return Counter(number for (number,) in connection.execute("SELECT sequence FROM sensor_readings"))


@asynccontextmanager
async def open_untimed_field(
    database: str, redis: str, mosquitto: MosquittoProcess, folder: Path
) -> AsyncIterator[UntimedField]:
    service = Service(folder, database, redis)
    gateway = GatewayProcess(folder, mosquitto.url)
    try:
        service.start()
        field = UntimedField(service, gateway, mosquitto)
        with admin.connect(database) as connection:
            code = str(connection.add_gateway(GATEWAY, [], everything=True, code_minutes=60)["code"])
        await gateway.command("enrol", service.http, code)
        await gateway.start()
        yield field
    finally:
        gateway.kill()
        service.kill()


async def test_answers_that_are_lost_double_nothing(
    postgres_url: str, redis_server: RedisProcess, mosquitto: MosquittoProcess, tmp_path: Path, seed: int
) -> None:
    async with open_untimed_field(postgres_url, redis_server.url, mosquitto, tmp_path) as field:
        random = Random(seed)
        for _ in range(2):
            await field.lose_an_answer(random)
        await field.everything_is_there_once()


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_forty_answers_that_are_lost_double_nothing(
    postgres_url: str, redis_server: RedisProcess, mosquitto: MosquittoProcess, tmp_path: Path, seed: int
) -> None:
    async with open_untimed_field(postgres_url, redis_server.url, mosquitto, tmp_path) as field:
        random = Random(seed)
        for _ in range(int(os.environ.get("ROUNDS") or 40)):
            await field.lose_an_answer(random)
        twice = sum(count > 1 for count in field.stored().values())
        sys.stderr.write(f"{twice} of {len(field.stored())} are there twice\n")
        await field.everything_is_there_once()
