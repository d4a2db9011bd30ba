"""Several whole services on one broker: they share a load; one is killed, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import psycopg

from tests.acceptance.service import Service
from tests.support.mqtt_door import Device, numbered
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, until

READINGS = 600


def stored_by(service: Service) -> float:
    """Readings that a service has stored."""
    with urllib.request.urlopen(f"{service.http}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = 'iot_bridge_readings_total{outcome="stored",source="mqtt"}'
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted)), 0.0)


async def test_two_services_share_a_load_and_one_is_killed(
    mosquitto: MosquittoProcess, redis_server: RedisProcess, postgres_url: str, tmp_path: Path
) -> None:
    services = []
    for name in ("left", "right"):
        folder = tmp_path / name
        folder.mkdir()
        shared = {"service__name": name, "mqtt__protocol": "5", "mqtt__share": "bridges"}
        services.append(Service(folder, postgres_url, redis_server.url, mosquitto.url, **shared))
    left, right = services
    made = left.command("device", "add", "shed", "--sensor", "air:temperature")
    packets = f"devices/{made['device_uuid']}/readings"
    sensor = made["sensors"][0]["sensor_uuid"]

    def packet(number: int) -> bytes:
        # With a time of its own, so that its identity does not hang on who takes it.
        reading = {"sensor_uuid": sensor, "value": 20, "sensor_ts": 1_700_000_000 + number, "sequence": number}
        return json.dumps({"readings": [reading]}).encode()

    def stored() -> int:
        return int(connection.execute("SELECT count(*) FROM sensor_readings").fetchone()[0])  # type: ignore[index]

    ages = {"pipeline__max_behind_s": "1e9"}
    for service in services:
        service.environment |= {f"IOT_BRIDGE_{key.upper()}": value for key, value in ages.items()}
    with psycopg.connect(postgres_url, autocommit=True) as connection, Device(mosquitto.port) as device:
        try:
            await asyncio.gather(*(asyncio.to_thread(service.start) for service in services))
            await device.publish(*(packet(number) for number in range(READINGS)), topic=packets)
            await until(lambda: stored() == READINGS, 30)
            share = await asyncio.to_thread(stored_by, left)
            assert 0.4 * READINGS <= share <= 0.6 * READINGS
            publishing = asyncio.create_task(
                device.publish(*(packet(number) for number in range(READINGS, 3 * READINGS)), topic=packets)
            )
            await until(lambda: stored() > READINGS, 30)
            await asyncio.to_thread(right.kill)
            await publishing
            assert stored() <= 3 * READINGS
            await asyncio.to_thread(right.start)  # what the broker keeps for it, it comes for
            await until(lambda: stored() == 3 * READINGS, 30)
            bare = f"devices/{made['device_uuid']}/sensors/{sensor}"
            await device.publish(*numbered(10), topic=bare)
            await until(lambda: stored() == 3 * READINGS + 10, 30)
            assert left.command("ledger", "--verify")["balanced"]
        finally:
            for service in services:
                await asyncio.to_thread(service.kill)
