"""The main job, over the wire: what firmware authors and operators see."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import httpx
import paho.mqtt.publish as publish
import psycopg
import pytest
import redis

from tests.acceptance.service import Service
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, wait_until
from tests.support.waiting import eventually


class Device:
    """A registered device and an API key, as the commands give them."""

    def __init__(self, service: Service) -> None:
        made = service.command("device", "add", "shed", "--sensor", "air:temperature", "--sensor", "soil:humidity:%")
        self.uuid: str = made["device_uuid"]
        self.key: str = made["device_key"]
        self.sensors: list[dict[str, Any]] = made["sensors"]
        self.api_key: str = service.command("apikey", "add", "tests")["api_key"]
        self.url = f"{service.http}/devices/{self.uuid}/readings"

    @property
    def sensor(self) -> str:
        return str(self.sensors[0]["sensor_uuid"])

    @property
    def sensor_id(self) -> int:
        return int(self.sensors[0]["sensor_id"])

    def post(self, readings: list[dict[str, Any]], **headers: str) -> httpx.Response:
        return httpx.post(self.url, json={"readings": readings}, headers={"X-Device-Key": self.key, **headers})


@pytest.fixture
def device(service: Service) -> Device:
    return Device(service)


def balanced(service: Service) -> dict[str, Any]:
    total: dict[str, Any] = {}

    def settled() -> bool:
        nonlocal total
        answer = service.command("ledger", "--verify", expect=None)
        total = answer["total"]
        return answer["balanced"] is True and total["pending"] == 0

    deadline_s = time.monotonic() + 20
    while not settled():
        assert time.monotonic() < deadline_s, service.command("ledger", "--verify", expect=None)
    return total


def test_packet_with_three_bad_readings(service: Service, device: Device, postgres_url: str) -> None:
    now = time.time()
    readings: list[dict[str, Any]] = [
        {"sensor_uuid": device.sensor, "value": 20.0, "sensor_ts": now - i} for i in range(100)
    ]
    readings[7]["value"] = 9_999
    readings[42]["value"] = "warm"
    readings[99]["sensor_uuid"] = device.uuid
    answer = device.post(readings)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["inserted"], body["duplicates"], body["unknown_sensors"]) == (97, 0, [device.uuid])
    assert sorted((r["index"], r["code"]) for r in body["rejected"]) == [
        (7, "value_out_of_range"),
        (42, "bad_value"),
        (99, "unknown_sensor"),
    ]
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT reading_index, payload FROM quarantine ORDER BY 1").fetchall()
    assert [row[0] for row in rows] == [7, 42, 99]
    for index, payload in rows:
        assert json.loads(payload)["readings"] == [readings[index]]
    assert device.post(readings).json()["duplicates"] == 97
    assert balanced(service)["stored"] == 97


def test_api_readings_bulk_and_status(service: Service, device: Device) -> None:
    headers = {"X-API-Key": device.api_key}
    one = {"sensor_id": device.sensor_id, "value": 20.5, "timestamp": "2026-01-28T10:00:00Z"}
    late = httpx.post(f"{service.http}/ingest/readings", json=one, headers=headers)
    assert late.json()["rejected"][0]["code"] == "time_behind"
    del one["timestamp"]
    assert httpx.post(f"{service.http}/ingest/readings", json=one, headers=headers).json()["inserted"] == 1
    many = {"readings": [{"sensor_id": device.sensor_id, "value": i} for i in range(3)]}
    packed = gzip.compress(json.dumps(many).encode())
    bulk = httpx.post(
        f"{service.http}/ingest/readings/bulk", content=packed, headers={**headers, "Content-Encoding": "gzip"}
    )
    assert bulk.json()["inserted"] == 3  # of one sensor, without a time: each has a microsecond of its own
    status = httpx.get(f"{service.http}/sensors/{device.sensor_id}/status", headers=headers)
    assert status.json()["final_state"] == "unknown"
    assert httpx.get(f"{service.http}/sensors/999999/status", headers=headers).status_code == 404


def test_alert_is_raised_once_and_resolved(service: Service, device: Device, redis_server: RedisProcess) -> None:
    service.command("threshold", "set", str(device.sensor_id), "--max", "30", "--severity", "critical")
    now = time.time() - 100
    values = [20.0] * 10 + [35.0, 36.0]
    readings = [{"sensor_uuid": device.sensor, "value": value, "sensor_ts": now + i} for i, value in enumerate(values)]
    assert device.post(readings).json()["inserted"] == 12
    status = httpx.get(
        f"{service.http}/sensors/{device.sensor_id}/status", headers={"X-API-Key": device.api_key}
    ).json()
    assert (status["final_state"], status["alert_active"]["triggered_value"]) == ("alert", 35.0)
    device.post([{"sensor_uuid": device.sensor, "value": 20.0, "sensor_ts": now + 50}])
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        deadline_s = time.monotonic() + 5
        while len(client.xrange("iot:alerts")) < 2:
            assert time.monotonic() < deadline_s
        entries: Any = client.xrange("iot:alerts")
        assert [fields["kind"] for _, fields in entries] == ["alert", "resolved"]


def test_idempotency_key_and_repeated_packet(device: Device) -> None:
    reading = [{"sensor_uuid": device.sensor, "value": 20.0}]
    first = device.post(reading, **{"Idempotency-Key": "a-1"}).json()
    again = device.post(reading, **{"Idempotency-Key": "a-1"}).json()
    other = device.post(reading, **{"Idempotency-Key": "a-2"}).json()
    assert [(r["inserted"], r["duplicates"]) for r in (first, again, other)] == [(1, 0), (0, 1), (1, 0)]


def test_keys_of_others_and_revoked_keys(service: Service, device: Device) -> None:
    other = service.command("device", "add", "other", "--sensor", "t:temperature")
    reading = {"readings": [{"sensor_uuid": device.sensor, "value": 1}]}
    assert httpx.post(device.url, json=reading).status_code == 401
    assert httpx.post(device.url, json=reading, headers={"X-Device-Key": other["device_key"]}).status_code == 403
    stolen = httpx.post(
        f"{service.http}/devices/{other['device_uuid']}/readings",
        json=reading,
        headers={"X-Device-Key": other["device_key"]},
    )
    assert stolen.json()["unknown_sensors"] == [device.sensor]
    second = service.command("device", "key", "rotate", device.uuid)["device_key"]
    for key in (device.key, second):
        assert httpx.post(device.url, json=reading, headers={"X-Device-Key": key}).status_code == 200
    service.command("device", "key", "revoke", device.uuid)
    deadline_s = time.monotonic() + 5
    while httpx.post(device.url, json=reading, headers={"X-Device-Key": second}).status_code != 401:
        assert time.monotonic() < deadline_s, "a revoked key works for more than 5 s"


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", {}, 422, "bad_json"),
        (b"[]", {}, 422, "bad_form"),
        (b'{"readings":[{"value":NaN}]}', {}, 422, "bad_json"),
        (b"x" * 1_048_577, {}, 413, "too_large"),
        (b"not gzip", {"Content-Encoding": "gzip"}, 422, "bad_encoding"),
        (gzip.compress(bytes(20_000_000)), {"Content-Encoding": "gzip"}, 413, "too_large"),
        (b"{}", {"Content-Encoding": "br"}, 415, "bad_encoding"),
        (b'{"a":' * 100_000, {}, 422, "bad_json"),
        (b'{"readings":[]}', {"Idempotency-Key": "a b"}, 422, "bad_form"),
    ],
)
def test_hostile_bodies(device: Device, content: bytes, headers: dict[str, str], status: int, code: str) -> None:
    answer = httpx.post(device.url, content=content, headers={"X-Device-Key": device.key, **headers})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert answer.json()["detail"]


async def test_mqtt_forms_and_rejections(service: Service, device: Device, mosquitto: MosquittoProcess) -> None:
    def send(topic: str, payload: bytes | str) -> None:
        publish.single(topic, payload, qos=1, port=mosquitto.port)

    send(f"devices/{device.uuid}/sensors/{device.sensor}", "21.5")
    send(f"devices/{device.uuid}/readings", json.dumps({"readings": [{"sensor_uuid": device.sensor, "value": 22}]}))
    send(
        f"iot/sensors/{device.sensor_id}/readings", json.dumps({"v": 1, "sensorId": str(device.sensor_id), "value": 1})
    )
    for junk in (b"", b"\xff\xfe", b"{" * 10_000, b"nan", b"x" * 300_000):
        send(f"devices/{device.uuid}/sensors/{device.sensor}", junk)
        send(f"devices/{device.uuid}/readings", junk)
        send("devices/nonsense/readings", junk)
    # Nothing at all is no reading, but on a topic that is none of ours.
    await eventually(lambda: service.command("ledger", expect=None)["total"]["quarantined"] == 13, 20)
    total = balanced(service)
    assert (total["stored"], total["received"]) == (3, 16)
    send(f"devices/{device.uuid}/sensors/{device.sensor}", "23.5")
    await eventually(lambda: service.command("ledger", expect=None)["total"]["stored"] == 4, 20)
    assert "Traceback" not in service.log


def test_quarantine_is_stored_once_the_sensor_is_registered(
    service: Service, device: Device, postgres_url: str
) -> None:
    missing = "5f0c1f5e-0000-4000-8000-000000000001"
    sent = time.time() - 5
    answer = device.post([{"sensor_uuid": missing, "value": 7.5, "sensor_ts": sent}])
    assert answer.json()["unknown_sensors"] == [missing]
    assert service.command("quarantine", "replay", "--code", "unknown_sensor", expect=1)[0]["outcome"] == "refused"
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "INSERT INTO sensors (device_id, name, sensor_type, sensor_uuid)"
            " SELECT id, 'late', 'temperature', %s FROM devices WHERE device_uuid = %s",
            (missing, device.uuid),
        )
    wait_until(lambda: service.command("ledger", expect=None)["total"]["stored"] == 1, 20)
    assert service.command("quarantine", "replay", "--code", "unknown_sensor") == [], (
        "the service has stored it by itself"
    )
    total = balanced(service)
    assert (total["stored"], total["quarantined"]) == (1, 1)


def test_stops_in_order_on_sigterm(service: Service, device: Device) -> None:
    device.post([{"sensor_uuid": device.sensor, "value": 20.0}])
    assert service.stop() == 0
    assert (
        service.command("ledger", "--verify")["total"] | {"stored": 1, "pending": 0}
        == service.command("ledger", "--verify")["total"]
    )
