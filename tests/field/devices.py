"""Two devices that keep books, one for each door of the gateway; they send again what was not acknowledged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from queue import Queue
from typing import Any

import httpx
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.field.namespaces import GATEWAY, SiteNetwork
from tests.field.site import Device

MQTT_PORT = 1883
HTTP = f"http://{GATEWAY}:8080"
PATIENCE_S = 60.0
AGAIN_S = 0.05
PAUSE_S = 0.01


class Senders:
    """Each reading has a number, its sequence; `acknowledged` says when, by the monotonic clock."""

    def __init__(self, network: SiteNetwork, device: Device) -> None:
        """`device` has a sensor for each door: `mqtt` and `http`."""
        self._network = network
        self._device = device
        self._numbers = {"mqtt": count(1), "http": count(1)}
        self._stop = threading.Event()
        self.acknowledged: dict[str, dict[int, float]] = {"mqtt": {}, "http": {}}

    @contextmanager
    def sending(self, *doors: str) -> Iterator[None]:
        """Send beside the body. What is under way at its end is waited for."""
        self._stop.clear()
        with ThreadPoolExecutor(2, "device", self._network.enter) as threads:
            work: list[Future[None]] = [
                threads.submit(getattr(self, f"_send_{door}")) for door in doors or self.acknowledged
            ]
            try:
                yield
            finally:
                self._stop.set()
            for future in work:
                future.result(PATIENCE_S)

    def _readings(self, door: str) -> Iterator[tuple[int, dict[str, Any]]]:
        while not self._stop.is_set():
            number = next(self._numbers[door])
            yield number, {"value": 20 + number % 10, "sequence": number}
            self._stop.wait(PAUSE_S)

    def _send_mqtt(self) -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set(self._device.uuid, self._device.key)
        client.reconnect_delay_set(1, 1)
        taken: Queue[int] = Queue()
        client.on_publish = lambda client, _, number, *more: taken.put(number)
        client.connect_async(GATEWAY, MQTT_PORT)
        client.loop_start()  # its thread has the network of this one
        topic = f"devices/{self._device.uuid}/sensors/{self._device.sensors['mqtt']}"
        try:
            for number, reading in self._readings("mqtt"):
                # Where there is no connection, paho keeps it and sends it once there is.
                sent = client.publish(topic, json.dumps(reading | {"ts": time.time()}), 1)
                assert taken.get(timeout=PATIENCE_S) == sent.mid
                self.acknowledged["mqtt"][number] = time.monotonic()
        finally:
            client.disconnect()
            client.loop_stop()

    def _send_http(self) -> None:
        with httpx.Client(headers={"X-Device-Key": self._device.key}, timeout=5) as client:
            for number, reading in self._readings("http"):
                packet = reading | {"sensor_uuid": self._device.sensors["http"], "sensor_ts": time.time()}
                deadline_s = time.monotonic() + PATIENCE_S
                while not self._taken(client, packet):
                    assert time.monotonic() < deadline_s, "no acknowledgement over HTTP"
                    time.sleep(AGAIN_S)
                self.acknowledged["http"][number] = time.monotonic()

    def _taken(self, client: httpx.Client, packet: dict[str, Any]) -> bool:
        try:
            answer = client.post(f"{HTTP}/devices/{self._device.uuid}/readings", json={"readings": [packet]})
        except httpx.TransportError:
            return False
        assert answer.status_code in (202, 401, 503), answer.text
        return answer.status_code == 202
