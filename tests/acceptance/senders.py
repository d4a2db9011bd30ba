"""Devices that keep books: what they sent, and what was acknowledged. For the tests of faults.

    Load.run ──due──► HttpDevice   packets and single readings, again after every error
                └───► MqttDevice   QoS 1, in a session that outlives its connections
                            └────► Books   readings sent and acknowledged; answers; complaints

Readings fall due at a steady rate whatever the service does, as real sensors measure on. A device has one
packet under way at a time, so the readings of a sensor are sent in the order of their sequence numbers.
The load is bounded: it ends after `readings`, or at `finish`, once everything that was due is acknowledged.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

import aiomqtt
import httpx
import msgspec
import psycopg

from bridge.store.admin import connect
from bridge.store.secret import new_key
from tests.support.servers import until

TICK_S = 0.02
TIMEOUT_S = 60.0
"""A request that takes so long hangs: a complaint."""
PUBACK_S = 5.0
"""aiomqtt does not tell who waits for a PUBACK that the connection is gone: after this long, publish again."""
MOST_IN_PACKET = 40
SINGLES = 0.3
"""Share of bodies with one reading alone: they take the API door, or a topic of their own."""


class Reading(NamedTuple):
    """What a reading is known by; its place in the table and its event on the stream follow from it."""

    sensor_id: int
    ts_us: int
    sequence: int

    @property
    def event_id(self) -> str:
        return f"{self.sensor_id}-{self.ts_us}-{self.sequence}"

    @property
    def seconds(self) -> float:
        return self.ts_us / 1_000_000

    @property
    def iso(self) -> str:
        return datetime.fromtimestamp(self.seconds, UTC).isoformat(timespec="microseconds")

    @property
    def value(self) -> float:
        """Now and then above 30, where tests set a threshold."""
        return 20 + self.sequence % 110 / 10


class Registered(NamedTuple):
    """A device of the registry."""

    uuid: str
    key: str
    sensors: dict[int, str]  # UUIDs by id


def register(database: str, count: int, prefix: str) -> tuple[list[Registered], str]:
    """New devices with two sensors each, one of them with a threshold at 30; and an API key."""
    devices = []
    with connect(database) as admin:
        for number in range(count):
            made = admin.add_device(f"{prefix}-{number}", [("a", "temperature", None), ("b", "voltage", None)])
            sensors = {row["sensor_id"]: str(row["sensor_uuid"]) for row in made["sensors"]}
            admin.set_threshold(min(sensors), "greater_than", 30.0, None, "warning")
            devices.append(Registered(str(made["device_uuid"]), made["device_key"], sensors))
    key, digest = new_key("ak")
    with psycopg.connect(database, autocommit=True) as connection:  # by hand: the schema may be the release's before
        connection.execute("INSERT INTO api_keys (name, api_key_hash) VALUES (%s, %s)", (prefix, digest))
    return devices, key


class Books:
    """What all devices of a load have seen. Nothing is acknowledged twice."""

    def __init__(self, answer_within_s: float) -> None:
        self.sent: set[Reading] = set()
        self.acknowledged: set[Reading] = set()
        self.answers: Counter[str] = Counter()  # HTTP statuses; "broken" and "puback"
        self.slowest_s = 0.0
        self.lag_s = 0.0  # how late this process itself has been
        self.complaints: list[str] = []
        self._answer_within_s = answer_within_s

    def complain(self, text: str) -> None:
        if len(self.complaints) < 20:
            self.complaints.append(text)

    def answered(self, response: httpx.Response, took_s: float) -> None:
        """Enter an HTTP answer, and hold it against the contract."""
        status = response.status_code
        self.answers[str(status)] += 1
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > self._answer_within_s:
            self.complain(f"{status} after {took_s:.1f} s")
        if status == 200:
            if rejected := response.json()["rejected"]:
                self.complain(f"rejected: {rejected[:3]}")
        elif status != 503:
            self.complain(f"{status}: {response.text[:200]}")
        elif not response.headers.get("retry-after", "").isdecimal():
            self.complain("503 without Retry-After")


class Device:
    """Measures when told, and sends what is due until it is acknowledged."""

    def __init__(self, registered: Registered, books: Books, random: Random) -> None:
        self.registered = registered
        self.books = books
        self.random = random
        self._due = 0
        self._sequence = 0
        self._ts_us = 0
        self._over = False
        self._wake = asyncio.Event()

    def measure(self) -> None:
        """One more reading is due."""
        self._due += 1
        self._wake.set()

    def end(self) -> None:
        """Nothing more will be due."""
        self._over = True
        self._wake.set()

    async def take(self) -> list[Reading]:
        """The readings of the next body; none once everything is sent."""
        while not self._due:
            if self._over:
                return []
            self._wake.clear()
            await self._wake.wait()
        size = 1 if self.random.random() < SINGLES else min(self._due, self.random.randint(1, MOST_IN_PACKET))
        self._due -= size
        readings = [self._next() for _ in range(size)]
        self.books.sent.update(readings)
        return readings

    def _next(self) -> Reading:
        self._sequence += 1
        self._ts_us = max(self._ts_us + 1, time.time_ns() // 1_000)
        return Reading(self.random.choice(list(self.registered.sensors)), self._ts_us, self._sequence)

    def packet(self, readings: Sequence[Reading]) -> bytes:
        """The body that both doors take."""
        return msgspec.json.encode(
            {
                "readings": [
                    {
                        "sensor_uuid": self.registered.sensors[reading.sensor_id],
                        "value": reading.value,
                        "sensor_ts": reading.seconds,
                        "sequence": reading.sequence,
                    }
                    for reading in readings
                ]
            }
        )


class HttpDevice(Device):
    """Sends to each of several services by turns."""

    def __init__(
        self,
        registered: Registered,
        books: Books,
        random: Random,
        client: httpx.AsyncClient,
        urls: Sequence[str],
        api: str,
    ) -> None:
        super().__init__(registered, books, random)
        self._client = client
        self._urls = urls
        self._api = {"X-API-Key": api}
        self._own = {"X-Device-Key": registered.key}

    async def run(self) -> None:
        """Returns once everything that was due is acknowledged."""
        while readings := await self.take():
            while not await self._sent(readings):
                pass
            self.books.acknowledged.update(readings)

    async def _sent(self, readings: Sequence[Reading]) -> bool:
        """One attempt; after a failed one, the wait before the next."""
        path, headers, body = f"/devices/{self.registered.uuid}/readings", self._own, self.packet(readings)
        if len(readings) == 1:
            path, headers, body = "/ingest/readings", self._api, self._single(readings[0])
        started_s = time.monotonic()
        try:
            response = await self._client.post(self.random.choice(self._urls) + path, content=body, headers=headers)
        except httpx.TransportError as error:
            self.books.answers["broken"] += 1
            if isinstance(error, httpx.TimeoutException):
                self.books.complain(f"no answer: {type(error).__name__} after {time.monotonic() - started_s:.1f} s")
            await asyncio.sleep(self.random.uniform(0.05, 0.4))
            return False
        self.books.answered(response, time.monotonic() - started_s)
        if response.status_code != 200:
            await asyncio.sleep(float(response.headers.get("retry-after", 1)) * self.random.uniform(0.5, 1.0))
        return response.status_code == 200

    def _single(self, reading: Reading) -> bytes:
        return msgspec.json.encode(
            {
                "sensor_id": reading.sensor_id,
                "value": reading.value,
                "timestamp": reading.iso,
                "sequence": reading.sequence,
            }
        )


class MqttDevice(Device):
    """A session at the broker; after a lost connection, the message under way is published again."""

    def __init__(self, registered: Registered, books: Books, random: Random, port: int) -> None:
        super().__init__(registered, books, random)
        self._port = port
        self._unacknowledged: list[Reading] = []

    async def run(self) -> None:
        """Returns once everything that was due is acknowledged by the broker."""
        while True:
            try:
                async with aiomqtt.Client(
                    "127.0.0.1",
                    self._port,
                    identifier=f"device-{self.registered.uuid}",
                    clean_session=False,
                    timeout=PUBACK_S,
                ) as client:
                    await self._publish_all(client)
                    return
            except aiomqtt.MqttError:
                self.books.answers["broken"] += 1
                await asyncio.sleep(self.random.uniform(0.1, 0.5))

    async def _publish_all(self, client: aiomqtt.Client) -> None:
        while True:
            self._unacknowledged = self._unacknowledged or await self.take()
            if not self._unacknowledged:
                return
            topic, payload = self._message(self._unacknowledged)
            await client.publish(topic, payload, qos=1)
            self.books.answers["puback"] += 1
            self.books.acknowledged.update(self._unacknowledged)
            self._unacknowledged = []

    def _message(self, readings: Sequence[Reading]) -> tuple[str, bytes]:
        """A packet, or for one reading the topic of its sensor, or the legacy one."""
        first = readings[0]
        if len(readings) > 1:
            return f"devices/{self.registered.uuid}/readings", self.packet(readings)
        if first.sequence % 2:
            payload = {"value": first.value, "ts": first.iso, "sequence": first.sequence}
            sensor = self.registered.sensors[first.sensor_id]
            return f"devices/{self.registered.uuid}/sensors/{sensor}", msgspec.json.encode(payload)
        legacy = {
            "v": 1,
            "sensorId": str(first.sensor_id),
            "value": first.value,
            "timestamp": first.iso,
            "type": "reading",
            "metadata": {"deviceUuid": self.registered.uuid, "sequence": first.sequence},
        }
        return f"iot/sensors/{first.sensor_id}/readings", msgspec.json.encode(legacy)


class Load:
    """Many devices at a total rate, by turns over the doors that there are. `run` once."""

    def __init__(
        self,
        devices: Sequence[Registered],
        api_key: str,
        *,
        http: Sequence[str] = (),
        mqtt_port: int | None = None,
        rate_per_s: float,
        seed: int,
        readings: int | None = None,
        answer_within_s: float = 15.0,
    ) -> None:
        self.books = Books(answer_within_s)
        self.due = 0
        self._http = list(http)
        self._rate_per_s = rate_per_s
        self._readings = readings
        self._finish = asyncio.Event()
        # A client each: in one that all share, every request looks through all connections.
        tls = ssl.create_default_context()
        self._clients: list[httpx.AsyncClient] = []
        self._devices: list[HttpDevice | MqttDevice] = []
        for number, registered in enumerate(devices):
            random = Random(f"{seed}-{number}")
            if mqtt_port is not None and (number % 2 or not http):
                self._devices.append(MqttDevice(registered, self.books, random, mqtt_port))
            else:
                client = httpx.AsyncClient(timeout=TIMEOUT_S, verify=tls)
                self._clients.append(client)
                self._devices.append(HttpDevice(registered, self.books, random, client, self._http, api_key))

    async def goes_on(self, readings: int) -> None:
        """Return once so many more readings are acknowledged. Raises TimeoutError."""
        wanted = len(self.books.acknowledged) + readings
        await until(lambda: len(self.books.acknowledged) >= wanted, 60)

    def finish(self) -> None:
        """Nothing more falls due; `run` returns once what was due is acknowledged."""
        self._finish.set()

    def also_to(self, url: str) -> None:
        """Send to another service as well."""
        self._http.append(url)

    def forget(self, url: str) -> None:
        """Send to the other services only."""
        self._http.remove(url)

    async def run(self) -> None:
        """Raises TimeoutError of the caller's deadline when a device hangs."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for client in self._clients:
                await stack.enter_async_context(client)
            for device in self._devices:
                group.create_task(device.run(), name=f"device-{device.registered.uuid}")
            await self._let_measure()

    async def _let_measure(self) -> None:
        started_s = time.monotonic()
        most = self._readings if self._readings is not None else float("inf")
        while self.due < most and not self._finish.is_set():
            while self.due < min(most, (time.monotonic() - started_s) * self._rate_per_s):
                self._devices[self.due % len(self._devices)].measure()
                self.due += 1
            slept_s = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.books.lag_s = max(self.books.lag_s, time.monotonic() - slept_s - TICK_S)
        for device in self._devices:
            device.end()


def figures(books: Books) -> dict[str, Any]:
    """What happened, for reports."""
    return {
        "readings": len(books.sent),
        "acknowledged": len(books.acknowledged),
        "answers": dict(sorted(books.answers.items())),
        "slowest_s": round(books.slowest_s, 2),
        "sender_lag_s": round(books.lag_s, 2),
    }
