"""A publisher that keeps books over restarts of its broker: what it sent, and what the broker told it was taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

RECONNECT_S = 0.05


class SteadyPublisher:
    """Readings of sensors in turn in the legacy form at QoS 1, so many a second, on a thread of its own.

    What is not acknowledged as the connection ends is sent again over the next. Use as a context manager.
    """

    def __init__(self, port: int, sensors: Sequence[int], rate_per_s: float, *, username: str, password: str) -> None:
        self._sensors = sensors
        self._rate_per_s = rate_per_s
        self._stop = threading.Event()
        self._sequences: dict[int, int] = {}
        self.sent = 0
        self.told: dict[int, float] = {}
        """Sequence number, and when its PUBACK came; on the monotonic clock."""
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="steady")
        self._client.username_pw_set(username, password)
        self._client.max_inflight_messages_set(100)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(RECONNECT_S, RECONNECT_S)  # type: ignore[arg-type]
        self._client.on_publish = lambda _client, _userdata, mid, _reason, _properties: self._on_puback(mid)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._publish, name="steady-publisher")

    def __enter__(self) -> SteadyPublisher:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._client.disconnect()
        self._client.loop_stop()

    def stop(self) -> None:
        """Publish nothing new."""
        self._stop.set()
        self._thread.join()

    @property
    def all_told(self) -> bool:
        return len(self.told) == self.sent

    def _publish(self) -> None:
        began_s = time.monotonic()
        while not self._stop.wait(max(0.0, began_s + self.sent / self._rate_per_s - time.monotonic())):
            sequence = self.sent + 1
            sensor = self._sensors[sequence % len(self._sensors)]
            now = datetime.now(UTC).isoformat()
            body = {"sensorId": str(sensor), "value": 20.5, "timestamp": now, "metadata": {"sequence": sequence}}
            message = self._client.publish(f"iot/sensors/{sensor}/readings", msgspec.json.encode(body), 1)
            self._sequences[message.mid] = sequence
            self.sent = sequence

    def _on_puback(self, mid: int) -> None:
        while mid not in self._sequences:  # the publishing thread has not entered it yet
            time.sleep(0.0005)
        self.told[self._sequences.pop(mid)] = time.monotonic()
