"""A service whose client id another client takes says so where a load balancer and an operator look."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import httpx
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.acceptance.service import Service
from tests.support.servers import MosquittoProcess, wait_until


def take(broker: MosquittoProcess, client_id: str) -> None:
    """Connect with a client id and a clean session, and go."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    wait_until(client.is_connected, 20)
    client.disconnect()
    client.loop_stop()


def test_contested_session_is_not_ready(mosquitto: MosquittoProcess, postgres_url: str, tmp_path: Path) -> None:
    settings = {"broker__kind": "memory", "service__name": "north", "mqtt__reconnect_max_s": "0.6"}
    service = Service(tmp_path, postgres_url, "", mosquitto.url, **settings)
    service.start()
    try:
        ready = f"{service.http}/health/ready"
        assert httpx.get(ready).status_code == 200
        status = 200
        for _ in range(10):
            take(mosquitto, "iot-bridge-north")
            with suppress(TimeoutError):
                wait_until(lambda: (answer := httpx.get(ready)).status_code == 503 or not answer.json()["degraded"], 5)
            status = httpx.get(ready).status_code
            if status == 503:
                break
        assert status == 503
        (problem,) = httpx.get(ready).json()["problems"]
        assert problem.startswith("mqtt: the broker has closed our connection soon after each connect")
        assert "iot-bridge-north" in problem
        assert "iot_bridge_mqtt_contested 1.0" in httpx.get(f"{service.http}/metrics").text
        assert problem.removeprefix("mqtt: ") in service.log
    finally:
        service.stop()
