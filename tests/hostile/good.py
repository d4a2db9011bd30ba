"""Good senders: devices that send one known reading after the other, beside an attack, and keep account of the answers.

Whatever they are answered that is no success is a complaint: nobody else's mischief may reach them.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiomqtt
import httpx
import msgspec

from tests.acceptance.senders import Registered

TIMEOUT_S = 30.0
PAUSE_S = 0.2
"""After a failure, before the same reading is sent again."""
GIVE_UP_S = 15.0
"""After the end: a device that is not answered by then has said so in its complaints."""
MOST_COMPLAINTS = 1_000
_OVER = object()


class Sent(NamedTuple):
    """A reading as it must stand in the table."""

    sensor_id: int
    sequence: int
    value: float


class Broker(NamedTuple):
    """Where those that speak MQTT connect."""

    port: int
    ca_file: str


class GoodSenders:
    """By turns over HTTP and MQTT where there is a broker, else over HTTP alone; each sends every `every_s`."""

    def __init__(
        self, devices: Sequence[Registered], url: str, broker: Broker | None = None, *, every_s: float = 1.0
    ) -> None:
        self.sent: set[Sent] = set()
        self.acknowledged: set[Sent] = set()
        self.complaints: list[str] = []
        self.answers_s: list[float] = []
        """How long each HTTP request took, in the order of its answer."""
        self._devices = devices
        self._url = url
        self._broker = broker
        self._every_s = every_s
        self._sequences = itertools.count(1)
        self._stop = asyncio.Event()
        self._given_up = asyncio.Event()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """They send during the body; at its end each finishes the reading that it is about."""
        tls = ssl.create_default_context()
        async with asyncio.TaskGroup() as group:
            for number, device in enumerate(self._devices):
                by_mqtt = self._broker is not None and number % 2
                work = self._run_mqtt(device, number) if by_mqtt else self._run_http(device, number, tls)
                group.create_task(work, name=f"good-{number}")
            try:
                yield
            finally:
                self._stop.set()
                asyncio.get_running_loop().call_later(GIVE_UP_S, self._given_up.set)

    def complain(self, text: str) -> None:
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(text)

    def p99_s(self, since: int = 0) -> float:
        """Of the answers from the one with the number `since` on."""
        answers = sorted(self.answers_s[since:])
        return answers[int(len(answers) * 0.99)] if answers else 0.0

    def wrong(self, stored: Sequence[Sent]) -> list[str]:
        """What differs between what was acknowledged and sent, and what stands in the table."""
        there = set(stored)
        found = [
            *(f"acknowledged and not stored: {each}" for each in sorted(self.acknowledged - there)[:5]),
            *(f"stored and never sent: {each}" for each in sorted(there - self.sent)[:5]),
        ]
        return found + ([f"{len(stored) - len(there)} stored twice"] if len(there) < len(stored) else [])

    def _next(self, device: Registered) -> tuple[Sent, dict[str, Any]]:
        sequence = next(self._sequences)
        sensor_id = sorted(device.sensors)[sequence % len(device.sensors)]
        reading = Sent(sensor_id, sequence, 20.0 + sequence % 80 / 10)
        self.sent.add(reading)
        body = {"sensor_uuid": device.sensors[sensor_id], "value": reading.value, "sequence": sequence}
        return reading, body

    async def _due(self, number: int) -> AsyncIterator[None]:
        """When the next reading is due, until the end: evenly spread over all devices."""
        pause_s = self._every_s * number / len(self._devices)
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
                return
            except TimeoutError:
                pause_s = self._every_s
            yield

    async def _run_http(self, device: Registered, number: int, tls: ssl.SSLContext) -> None:
        headers = {"X-Device-Key": device.key}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=TIMEOUT_S, verify=tls) as client:
            async for _ in self._due(number):
                reading, body = self._next(device)
                packet = {"readings": [body | {"sensor_ts": time.time()}]}
                while not await self._posted(client, f"/devices/{device.uuid}/readings", packet):
                    if self._given_up.is_set():
                        return
                    await asyncio.sleep(PAUSE_S)
                self.acknowledged.add(reading)

    async def _posted(self, client: httpx.AsyncClient, path: str, packet: dict[str, Any]) -> bool:
        started_s = time.monotonic()
        try:
            answer = await client.post(path, json=packet)
        except httpx.HTTPError as error:
            self.complain(f"a good device over HTTP: {error!r} after {time.monotonic() - started_s:.1f} s")
            return False
        self.answers_s.append(time.monotonic() - started_s)
        if answer.status_code not in (200, 202) or answer.json()["rejected"]:
            self.complain(f"a good device over HTTP: {answer.status_code} {answer.text[:300]}")
        return answer.status_code in (200, 202)

    async def _run_mqtt(self, device: Registered, number: int) -> None:
        due = self._due(number)
        unacknowledged: list[tuple[Sent, dict[str, Any]]] = []
        while not self._given_up.is_set() and (unacknowledged or not self._stop.is_set()):
            try:
                async with self._connected(device) as client:
                    while unacknowledged or await anext(due, _OVER) is not _OVER:
                        unacknowledged = unacknowledged or [self._next(device)]
                        ((reading, body),) = unacknowledged
                        topic = f"devices/{device.uuid}/sensors/{body['sensor_uuid']}"
                        await client.publish(topic, msgspec.json.encode(body | {"ts": time.time()}), qos=1)
                        self.acknowledged.add(reading)
                        unacknowledged = []
                return
            except aiomqtt.MqttError as error:
                self.complain(f"a good device over MQTT: {error!r}")
                await asyncio.sleep(PAUSE_S)

    def _connected(self, device: Registered) -> aiomqtt.Client:
        assert self._broker is not None
        return aiomqtt.Client(
            "127.0.0.1",
            self._broker.port,
            username=device.uuid,
            password=device.key,
            identifier=device.uuid,
            tls_context=ssl.create_default_context(cafile=self._broker.ca_file),
            timeout=TIMEOUT_S,
        )
