"""What an operator's monitoring sees: /metrics, /health and /health/ready, while servers come and go."""

from __future__ import annotations

import time
from typing import Any

import httpx
import paho.mqtt.publish as publish
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.service import Service
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, PostgresServer, wait_until

WAIT_S = 30.0


class Scrape:
    """One GET /metrics."""

    def __init__(self, service: Service) -> None:
        text = httpx.get(f"{service.http}/metrics").text
        self._samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels; -1 where there is none."""
        found = [s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(found) if found else -1


def ready(service: Service) -> dict[str, Any]:
    answer = httpx.get(f"{service.http}/health/ready")
    assert answer.status_code == (200 if answer.json()["status"] == "ready" else 503)
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)
    body: dict[str, Any] = answer.json()
    return body


def test_metrics_of_both_doors_and_every_stage(service: Service, mosquitto: MosquittoProcess) -> None:
    made = service.command("device", "add", "shed", "--sensor", "air:temperature")
    sensor, uuid = made["sensors"][0]["sensor_uuid"], made["device_uuid"]
    headers = {"X-Device-Key": made["device_key"]}
    good = {"sensor_uuid": sensor, "value": 20.0, "sensor_ts": time.time()}
    bad = {"sensor_uuid": sensor, "value": 9_999}
    for _ in range(2):
        httpx.post(f"{service.http}/devices/{uuid}/readings", json={"readings": [good, bad]}, headers=headers)
    publish.single(f"devices/{uuid}/sensors/{sensor}", "21.5", qos=1, port=mosquitto.port)
    wait_until(lambda: Scrape(service).value("iot_bridge_published_total", stream="iot:readings") == 2, WAIT_S)
    wait_until(lambda: Scrape(service).value("iot_bridge_stream_entries", stream="iot:readings") == 2, WAIT_S)
    scrape = Scrape(service)
    outcomes = {
        (source, outcome): scrape.value("iot_bridge_readings_total", source=source, outcome=outcome)
        for source, outcome in (("http", "stored"), ("http", "duplicate"), ("http", "quarantined"), ("mqtt", "stored"))
    }
    assert outcomes == {
        ("http", "stored"): 1,
        ("http", "duplicate"): 1,
        ("http", "quarantined"): 2,
        ("mqtt", "stored"): 1,
    }
    assert scrape.value("iot_bridge_quarantined_total", code="value_out_of_range") == 2
    assert scrape.value("iot_bridge_received_total") == 5
    for stage in ("door", "resolve", "store", "publish"):
        assert scrape.value("iot_bridge_stage_seconds_count", stage=stage) > 0, stage
    assert scrape.value("iot_bridge_batch_readings_sum") == 5
    assert scrape.value("iot_bridge_mqtt_connected") == scrape.value("iot_bridge_store_up") == 1
    for empty in ("queued_readings", "relay_queued_readings", "outbox_batches", "mqtt_inflight", "ledger_imbalance"):
        assert scrape.value(f"iot_bridge_{empty}") == 0, empty
    assert scrape.value("process_resident_memory_bytes") > 0


def test_ready_says_why_nothing_can_be_stored_without_traffic(
    service: Service, postgres_server: PostgresServer
) -> None:
    assert ready(service) == {"status": "ready", "problems": [], "degraded": []}
    postgres_server.stop()
    wait_until(lambda: ready(service)["status"] == "not ready", WAIT_S)
    assert "database" in ready(service)["problems"][0]
    assert httpx.get(f"{service.http}/health").status_code == 200
    postgres_server.start()
    wait_until(lambda: ready(service)["status"] == "ready", WAIT_S)


def test_ready_says_what_is_degraded(service: Service, redis_server: RedisProcess, mosquitto: MosquittoProcess) -> None:
    made = service.command("device", "add", "shed", "--sensor", "air:temperature")
    redis_server.stop()
    mosquitto.stop()
    answer = httpx.post(
        f"{service.http}/devices/{made['device_uuid']}/readings",
        json={"readings": [{"sensor_uuid": made["sensors"][0]["sensor_uuid"], "value": 20.0}]},
        headers={"X-Device-Key": made["device_key"]},
    )
    assert answer.json()["inserted"] == 1
    wait_until(lambda: len(ready(service)["degraded"]) == 2, WAIT_S)
    assert [text.partition(":")[0] for text in ready(service)["degraded"]] == ["streams", "mqtt"]
    redis_server.start()
    mosquitto.start()
    wait_until(lambda: not ready(service)["degraded"], WAIT_S)
