"""How simulated devices reach a service: HTTP through httpx, MQTT through aiomqtt.

A link sends a body and returns once it is acknowledged: by HTTP 2xx, or by the MQTT broker's PUBACK.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import Protocol

import aiomqtt
import httpx
import msgspec

from bridge.errors import Unavailable
from bridge.mqtt.address import parse_address, tls_context
from bridge.settings.mqtt import MqttSettings
from bridge.simulation.device import Body, SimulatedDevice

TIMEOUT_S = 10.0


class DeviceAnswer(msgspec.Struct, frozen=True):
    """What the service said; MQTT says nothing but that it has the message."""

    status: int = 200
    inserted: int = 0
    duplicates: int = 0
    rejected: int = 0

    @property
    def refused(self) -> bool:
        """Sending the same again would be refused again."""
        return 400 <= self.status < 500


class DeviceTransport(Protocol):
    """A device's way to the service."""

    async def send(self, body: Body) -> DeviceAnswer:
        """Raises Unavailable when it is worth another try."""
        ...

    async def close(self) -> None: ...


class HttpDeviceTransport:
    """`POST /devices/{device_uuid}/readings` over a client that all devices share."""

    def __init__(self, client: httpx.AsyncClient, url: str, device: SimulatedDevice) -> None:
        self._client = client
        self._url = f"{url.rstrip('/')}/devices/{device.uuid}/readings"
        self._headers = {"X-Device-Key": device.key, "Content-Type": "application/json"}

    async def send(self, body: Body) -> DeviceAnswer:
        try:
            response = await self._client.post(self._url, content=body.payload, headers=self._headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._url}: {error or type(error).__name__}") from error
        if response.status_code == 429 or response.status_code >= 500:
            after_s = response.headers.get("retry-after", "1")
            raise Unavailable(
                f"{self._url}: {response.status_code}",
                retry_after_s=min(float(after_s), 60.0) if after_s.isdecimal() else 1.0,
            )
        if response.status_code != 200:
            return DeviceAnswer(response.status_code)
        answer = response.json()
        return DeviceAnswer(200, answer["inserted"], answer.get("duplicates", 0), len(answer.get("rejected", [])))

    async def close(self) -> None:
        """The client is closed by whoever made it."""


class MqttDeviceTransport:
    """A session with the broker, as the device; connects when there is something to send."""

    def __init__(self, settings: MqttSettings, device: SimulatedDevice) -> None:
        self._settings = settings
        self._address = parse_address(settings)
        self._device = device
        self._client: aiomqtt.Client | None = None
        self._stack = AsyncExitStack()

    async def send(self, body: Body) -> DeviceAnswer:
        try:
            if self._client is None:
                self._client = await self._stack.enter_async_context(self._new_client())
            await self._client.publish(f"devices/{self._device.uuid}/readings", body.payload, qos=1, timeout=TIMEOUT_S)
        except (aiomqtt.MqttError, OSError) as error:
            await self.close()
            raise Unavailable(f"{self._address}: {error}") from error
        return DeviceAnswer()

    async def close(self) -> None:
        self._client = None
        with suppress(aiomqtt.MqttError, OSError):
            await self._stack.aclose()
        self._stack = AsyncExitStack()

    def _new_client(self) -> aiomqtt.Client:
        address = self._address
        return aiomqtt.Client(
            address.host,
            address.port,
            # An account in the URL wins: a broker without accounts for devices has one for all.
            username=address.username or self._device.uuid,
            password=address.password or self._device.key,
            identifier=f"sim-{self._device.uuid}",
            tls_context=tls_context(self._settings) if address.tls else None,
            timeout=TIMEOUT_S,
        )
