"""Hostile senders at a gateway of a Pi's size: what they have it hold is little, and comes back.

Memory is the process's peak, not where it happens to be when one looks.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from bridge.store import admin
from tests.acceptance.gateway import GatewayProcess
from tests.support.gateway_service import open_gateway_service
from tests.support.mqtt_door import Device
from tests.support.servers import MosquittoProcess, until

pytestmark = pytest.mark.timeout(180)

MOST_KIB = 16 * 1024
"""Of growth: MemoryMax of the unit is 200 MB, on a board of 1 GB."""
MOST_KIB_OF_NAMES = 48 * 1024
"""Of a flood of packets of 1,000 sensors that nobody knows. It fills the caches, the limits and the spool's table of
names, and a reading on its way to quarantine takes 8 KB for a moment, which Python keeps. Twice as many take no more.
"""


class AttackedGateway:
    """A gateway that serves one good device, and what of it a hostile one knows: its address, and a key of its own."""

    def __init__(self, gateway: GatewayProcess, device: dict[str, Any], client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.device = device
        self.client = client
        self.path = f"/devices/{device['device_uuid']}/readings"
        self.key = {"X-Device-Key": device["device_key"]}
        self.sent = 0

    async def good(self) -> None:
        """One reading of a device that behaves, which is taken at once."""
        self.sent += 1
        reading = {"sensor_uuid": self.device["sensors"][0]["sensor_uuid"], "value": 20, "sequence": self.sent}
        answer = await self.client.post(self.path, json={"readings": [reading]}, headers=self.key)
        assert answer.status_code == 202, answer.text

    async def good_packets(self) -> None:
        """What it has sent while the gateway was away: the gateway's working set is that of large packets."""
        sensor = self.device["sensors"][0]["sensor_uuid"]
        for _ in range(5):
            first, self.sent = self.sent + 1, self.sent + 1_000
            readings = [
                {"sensor_uuid": sensor, "value": 20, "sequence": number} for number in range(first, self.sent + 1)
            ]
            answer = await self.client.post(self.path, json={"readings": readings}, headers=self.key)
            assert answer.status_code == 202, answer.text

    async def post(self, body: bytes, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await self.client.post(self.path, content=body, headers=self.key | named)).status_code

    def peak_kib(self) -> int:
        status = Path(f"/proc/{self.gateway.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

    def forget_peak(self) -> None:
        Path(f"/proc/{self.gateway.pid}/clear_refs").write_text("5")

    @asynccontextmanager
    async def half_sent(self, count: int, head: str, body: bytes) -> AsyncIterator[None]:
        """Connections that have sent a head and a part of the body, and then nothing."""
        writers = []
        try:
            for _ in range(count):
                _, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
                writers.append(writer)
                writer.write(head.encode() + body)
            for _ in range(50):  # each answer comes after what the gateway has found to read before
                await self.client.get("/health")
            yield
        finally:
            for writer in writers:
                writer.transport.abort()


async def bombs(site: AttackedGateway) -> None:
    bomb = gzip.compress(b'{"readings":[' + b"1," * 4_200_000 + b"1]}")
    codes = await asyncio.gather(*(site.post(bomb, Content_Encoding="gzip") for _ in range(10)))
    assert not [code for code in codes if code >= 500 and code != 503]


async def many_small_values(site: AttackedGateway) -> None:
    body = gzip.compress(b'{"readings":[' + b"1," * 900_000 + b"1]}")
    codes = await asyncio.gather(*(site.post(body, Content_Encoding="gzip") for _ in range(10)))
    assert not [code for code in codes if code >= 500 and code != 503]


async def long_names(site: AttackedGateway) -> None:
    for number in range(40):
        body = b'{"readings":[{"sensor_uuid":"%d%s","value":1}]}' % (number, b"a" * 8_000_000)
        await site.post(gzip.compress(body, 1), Content_Encoding="gzip")


async def half_bodies(site: AttackedGateway) -> None:
    head = f"POST {site.path} HTTP/1.1\r\nHost: x\r\nX-Device-Key: {site.device['device_key']}\r\n"
    async with site.half_sent(300, f"{head}Content-Length: 1000000\r\n\r\n", b"[" * 900_000):
        await site.good()


async def half_heads(site: AttackedGateway) -> None:
    async with site.half_sent(600, f"POST {site.path} HTTP/1.1\r\n", b"X-A: " + b"a" * 30_000):
        pass


async def guesses(site: AttackedGateway) -> None:
    async def guess(count: int) -> None:
        for _ in range(count):
            await site.client.post(
                f"/devices/{uuid4()}/readings", content=b"{}", headers={"X-Device-Key": f"dk_{uuid4()}" * 200}
            )

    await asyncio.gather(*(guess(250) for _ in range(8)))


async def unknown_sensors(site: AttackedGateway) -> None:
    for _ in range(20):
        readings = ",".join(f'{{"sensor_uuid":"{uuid4()}","value":1}}' for _ in range(1_000))
        await site.post(b'{"readings":[%s]}' % readings.encode())


async def bad_bodies(site: AttackedGateway) -> None:
    for number in range(40):
        await site.post(b"\xff%d" % number + b"x" * 260_000)


async def metrics(site: AttackedGateway) -> None:
    async def ask() -> None:
        for _ in range(50):
            await site.client.get("/metrics")
            await site.client.get("/status.json")

    await asyncio.gather(*(ask() for _ in range(8)))


HTTP = [bombs, many_small_values, long_names, half_bodies, half_heads, guesses, unknown_sensors, bad_bodies, metrics]


@asynccontextmanager
async def open_site(database: str, folder: Path, mqtt: str = "") -> AsyncIterator[AttackedGateway]:
    with admin.connect(database) as connection:
        device = connection.add_device("good", [("t", "temperature", None)])
    async with open_gateway_service(database) as service:
        # As the unit and the settings of `iot-edge install` have it.
        gateway = GatewayProcess(folder, mqtt, spool__recent_identities="10000", spool__max_unknown_sensors="2000")
        gateway.environment["MALLOC_ARENA_MAX"] = "1"
        await gateway.start()
        try:
            await gateway.command("enrol", service.url, service.add_gateway())
            await until(lambda: (gateway.data_dir / "registry.json").exists(), 30)
            async with httpx.AsyncClient(base_url=gateway.http, timeout=60) as client:
                site = AttackedGateway(gateway, device, client)

                def arrived() -> bool:
                    return service.rows("SELECT count(*) FROM sensor_readings") >= [(site.sent,)]

                for _ in range(200):
                    await site.good()
                await site.good_packets()
                await until(arrived, 60)
                yield site
                await site.good()
                await until(arrived, 60)
        finally:
            gateway.stop()
        assert "Traceback" not in gateway.log


async def growth_kib(site: AttackedGateway, attack: Callable[[AttackedGateway], Awaitable[None]]) -> tuple[int, int]:
    """By how much an attack has memory grow: at its peak, and once it is over."""
    before = site.gateway.memory_kib()
    site.forget_peak()
    await attack(site)
    peak = site.peak_kib() - before
    await site.good()
    return peak, site.gateway.memory_kib() - before


@pytest.mark.parametrize("attack", HTTP)
async def test_hostile_http_costs_a_gateway_little(
    postgres_url: str, tmp_path: Path, attack: Callable[[AttackedGateway], Awaitable[None]]
) -> None:
    async with open_site(postgres_url, tmp_path) as site:
        peak, after = await growth_kib(site, attack)
        most_kib = MOST_KIB_OF_NAMES if attack is unknown_sensors else MOST_KIB
        assert peak < most_kib
        assert after < most_kib


async def test_hostile_mqtt_costs_a_gateway_little(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    async with open_site(postgres_url, tmp_path, mosquitto.url) as site:
        uuid = site.device["device_uuid"]

        async def large(_: AttackedGateway) -> None:
            with Device(mosquitto.port) as device:
                payloads = [b"\xff%d" % number + b"x" * 250_000 for number in range(300)]
                await device.publish(*payloads, topic=f"devices/{uuid}/readings")

        async def many_topics(_: AttackedGateway) -> None:
            with Device(mosquitto.port) as device:
                for number in range(2_000):
                    await device.publish(b"1", topic=f"devices/{uuid}/sensors/{number}{'z' * 1_000}")

        for attack in (large, many_topics):
            peak, after = await growth_kib(site, attack)
            assert peak < MOST_KIB
            assert after < MOST_KIB
