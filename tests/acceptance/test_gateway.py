"""The gateway as a process: plugs pulled, boots without a network, what the engineer sees."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.acceptance.field import Field, moments, open_field
from tests.acceptance.gateway import GatewayProcess
from tests.support.gateway_site import DEVICE_KEY
from tests.support.mqtt_door import Device
from tests.support.servers import MosquittoProcess, free_port, until

pytestmark = pytest.mark.timeout(300)
MOST_KIB = 60_000_000 // 1024


async def pull_plugs(field: Field, kills: int, seed: int) -> None:
    async with field.sending():
        for pause_s in moments(seed, kills, 1.0):
            await asyncio.sleep(pause_s)
            field.gateway.kill()
            await field.gateway.start()
        await asyncio.sleep(0.5)
    await field.arrived(120)
    for name in field.sensors:
        stored = field.stored(name)
        assert len(stored) == len(set(stored)), "a reading is there twice"
        assert len(stored) >= kills, "nothing was sent meanwhile"

    def balanced() -> bool:
        books = field.books()
        handed_over = books["stored"] + books["known"] + books["refused"]
        return handed_over == books["spooled"] + books["quarantined"] and not books["lost"] and not books["shed"]

    await until(balanced, 30)
    assert field.service.imbalance() == []


async def test_gateway_whose_plug_is_pulled_loses_and_doubles_nothing(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    async with open_field(postgres_url, mosquitto, tmp_path) as field:
        await pull_plugs(field, 4, seed=1)


async def test_books_come_with_the_readings_that_they_know_of(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    async with open_field(postgres_url, mosquitto, tmp_path, uplink__report_every_s="3600") as field:
        async with field.sending():
            await until(lambda: len(field.stored("mqtt")) > 5, 30)
            field.gateway.kill()
            await field.gateway.start()  # and report, this once
            at_start = len(field.stored("mqtt"))
            await until(lambda: len(field.stored("mqtt")) > at_start + 50, 30)
        assert field.service.imbalance() == []


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_gateway_whose_plug_is_pulled_a_hundred_times(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    async with open_field(postgres_url, mosquitto, tmp_path) as field:
        await pull_plugs(field, 100, seed=2)
        sys.stderr.write(f"acknowledged: { {name: len(got) for name, got in field.acknowledged.items()} }\n")


@pytest.mark.soak
async def test_gateway_at_200_readings_a_second_stays_under_60_mb(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    async with open_field(postgres_url, mosquitto, tmp_path, spool__recent_identities="10000") as field:
        memory = [field.gateway.memory_kib()]
        with Device(mosquitto.port) as device:
            async with httpx.AsyncClient(headers={"X-Device-Key": DEVICE_KEY}, base_url=field.gateway.http) as client:
                began_s = time.monotonic()
                for second in range(200):
                    values = [b'{"value": 21.5, "ts": %.6f}' % (time.time() - n / 1_000) for n in range(190)]
                    await device.publish(*values, topic=f"devices/{field.device}/sensors/{field.sensors['mqtt']}")
                    readings = [{"sensor_uuid": field.sensors["http"], "value": 20, "sequence": n} for n in range(10)]
                    packet = {"ts": time.time(), "readings": readings}
                    assert (await client.post(f"/devices/{field.device}/readings", json=packet)).status_code == 202
                    await asyncio.sleep(max(0.0, began_s + second + 1 - time.monotonic()))
                    memory.append(field.gateway.memory_kib())
        sys.stderr.write(
            f"{memory[0]} KiB at first, then {memory[10]}, {memory[100]}, {memory[-1]}, most {max(memory)}\n"
        )
        assert max(memory) < MOST_KIB
        assert len(field.stored("mqtt")) + len(field.stored("http")) > 39_000


async def test_gateway_that_boots_without_a_network_serves_devices(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    async with open_field(postgres_url, mosquitto, tmp_path) as field:
        gateway = field.gateway
        sensor_id, uuid = field.service.rows("SELECT id, sensor_uuid::text FROM sensors WHERE name = 'http'")[0]
        field.service.rows(
            "INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min, severity) "
            "VALUES (%s, 'greater_than', 30, 'critical') RETURNING id",
            sensor_id,
        )
        await until(lambda: b"greater_than" in (gateway.data_dir / "registry.json").read_bytes(), 30)
        gateway.stop()
        gateway.environment["IOT_EDGE_UPLINK__URL"] = f"http://127.0.0.1:{free_port()}"
        with Device(mosquitto.port) as listener:
            await listener.subscribe("site/alerts")
            ready_s = await gateway.start()
            async with httpx.AsyncClient(headers={"X-Device-Key": DEVICE_KEY}) as client:
                answer = await client.post(
                    f"{gateway.http}/devices/{field.device}/readings",
                    json={"readings": [{"sensor_uuid": uuid, "value": 31, "sequence": 1}]},
                )
            assert answer.status_code == 202, answer.text
            await until(lambda: listener.received, 20)
        sys.stderr.write(f"ready without a network in {ready_s:.1f} s\n")
        assert ready_s < 20
        status = await gateway.command("status", expect=1)
        assert not status["uplink"]["up"]
        assert [alert["severity"] for alert in status["alerts"]] == ["critical"]
        assert (status["spool"]["records"], status["devices"][0]["heard_s"] is None) == (1, False)
        gateway.stop()
        del gateway.environment["IOT_EDGE_UPLINK__URL"]
        await gateway.start()
        await until(lambda: field.stored("http") == [1], 30)


async def test_gateway_without_enrolment_spools_and_takes_one_up_while_it_runs(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    from tests.support.gateway_service import open_gateway_service

    async with open_gateway_service(postgres_url) as service:
        gateway = GatewayProcess(tmp_path, mosquitto.url)
        field = Field(service, gateway, mosquitto)
        await gateway.start()
        try:
            async with httpx.AsyncClient(headers={"X-Device-Key": DEVICE_KEY}) as client:
                answer = await client.post(f"{gateway.http}/devices/{field.device}/readings", json={"readings": []})
            # Whose key it is comes with the registry.
            assert (answer.status_code, answer.headers["retry-after"].isdecimal()) == (503, True)
            with Device(mosquitto.port) as device:
                topic = f"devices/{field.device}/sensors/{field.sensors['mqtt']}"
                await device.publish(b'{"value": 21, "sequence": 5}', topic=topic)

            async def spooled() -> bool:
                status = await gateway.command("status", expect=1)
                assert "enrol" in status["uplink"]["problem"]
                return bool(status["spool"]["records"] == 1)

            await until(spooled, 30)
            await gateway.command("enrol", service.url, service.add_gateway())
            await until(lambda: field.stored("mqtt") == [5], 30)
            check = await gateway.command("check", "--listen", "0")
            assert [finding["name"] for finding in check["findings"]] == [
                *("configuration", "gateway", "disk", "spool", "clock", "broker", "publishing", "devices heard"),
                *("DNS", "TLS", "service", "time", "key", "registry"),
            ]
        finally:
            assert gateway.stop() == 0


async def test_sample_of_what_a_gateway_does_not_take_comes_to_the_service_once(
    postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    converter = {"filter": "zigbee2mqtt/#", "format": "zigbee2mqtt", "take": ["temperature"]}
    async with open_field(postgres_url, mosquitto, tmp_path, mqtt__converters=json.dumps([converter])) as field:
        with Device(mosquitto.port) as device:
            for humidity in (48, 49, 50):
                await device.publish(b'{"linkquality": 9, "humidity": %d}' % humidity, topic="zigbee2mqtt/hall")

        def quarantined() -> list[tuple[int, str, str]]:
            with psycopg.connect(postgres_url) as connection:
                query = "SELECT reading_index, detail, convert_from(payload, 'UTF8') FROM quarantine"
                return connection.execute(f"{query} WHERE code = 'not_taken'").fetchall()

        await until(lambda: bool(quarantined()), 30)
        await field.arrived(30)
        detail = "zigbee2mqtt/hall#humidity: not taken: not among take: 48"
        assert [(text, payload) for _, text, payload in quarantined()] == [
            (detail, '{"linkquality": 9, "humidity": 48}')
        ]
        assert field.service.imbalance() == []
