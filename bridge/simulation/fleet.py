"""A fleet of simulated devices at a total rate, and the tally of what became of their readings.

Each device measures on its own clock and sends what has gathered when its link is free, so a slow service
gets larger packets, not fewer readings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import cycle
from random import Random

import httpx
import structlog

from bridge.errors import Unavailable
from bridge.settings.mqtt import MqttSettings
from bridge.simulation.device import Body, SimulatedDevice
from bridge.simulation.transports import TIMEOUT_S, DeviceTransport, HttpDeviceTransport, MqttDeviceTransport
from bridge.tasks import delay_s

log = structlog.get_logger("simulation")

GRACE_S = 3.0
"""How long the last packets may take after the end."""
MOST_CONNECTIONS = 200
RETRY_MIN_S, RETRY_MAX_S = 0.2, 5.0


class Tally:
    """Counts of readings; one for each door."""

    def __init__(self) -> None:
        self.sent = 0  # each attempt counts
        self.acknowledged = 0
        self.unacknowledged = 0  # given up at the end
        self.inserted = 0  # as HTTP answers say
        self.duplicates = 0
        self.rejected = 0
        self.refused = 0  # bodies answered with 4xx
        self.retries = 0

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


class Member:
    """A device with its link and the tally of its door."""

    def __init__(self, device: SimulatedDevice, transport: DeviceTransport, tally: Tally) -> None:
        self.device = device
        self.transport = transport
        self.tally = tally


async def connect_members(
    stack: AsyncExitStack, devices: Sequence[SimulatedDevice], doors: Mapping[str, str], broker: MqttSettings
) -> tuple[list[Member], dict[str, Tally]]:
    """Devices with their links, by turns over the doors (`http`, `mqtt`: URLs), and the doors' tallies.

    What they hold open is closed with `stack`.
    """
    client = await stack.enter_async_context(
        httpx.AsyncClient(
            timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=MOST_CONNECTIONS), follow_redirects=False
        )
    )
    tallies = {name: Tally() for name in doors}
    members = []
    for device, name in zip(devices, cycle(doors), strict=False):
        transport = (
            HttpDeviceTransport(client, doors["http"], device)
            if name == "http"
            else MqttDeviceTransport(broker, device)
        )
        members.append(Member(device, transport, tallies[name]))
    return members, tallies


class Fleet:
    """`run` until `stop` is set."""

    def __init__(self, members: Sequence[Member], readings_per_s: float, random: Random) -> None:
        self._members = members
        self._period_s = sum(member.device.sensors for member in members) / readings_per_s
        self._random = random

    async def run(self, stop: asyncio.Event) -> None:
        """Returns once every device has sent its last packet, or has given it up."""
        async with asyncio.TaskGroup() as group:
            for member in self._members:
                phase = self._random.random() * self._period_s
                group.create_task(self._live(member, phase, stop), name=f"device-{member.device.uuid}")

    async def _live(self, member: Member, phase_s: float, stop: asyncio.Event) -> None:
        device = member.device
        due_s = time.time() + phase_s
        try:
            while not stop.is_set():
                if await _set_within(stop, due_s - time.time()):
                    break
                while due_s <= time.time():
                    device.measure(due_s)
                    due_s += self._period_s
                for body in device.take(time.time()):
                    await self._deliver(member, body, stop)
        finally:
            await member.transport.close()

    async def _deliver(self, member: Member, body: Body, stop: asyncio.Event) -> None:
        """Send until it is acknowledged or refused; after the end for `GRACE_S` more."""
        attempt = 0
        deadline_s: float | None = None
        while True:
            member.tally.sent += body.readings
            try:
                answer = await member.transport.send(body)
            except Unavailable as error:
                log.debug("send_failed", device=member.device.uuid, detail=error.detail)
                wait_s = max(
                    error.retry_after_s if attempt == 0 else 0.0,
                    delay_s(attempt, minimum_s=RETRY_MIN_S, maximum_s=RETRY_MAX_S, random=self._random.random()),
                )
                attempt += 1
                member.tally.retries += 1
            else:
                _count(member.tally, body, answer.status, answer.inserted, answer.duplicates, answer.rejected)
                return
            if stop.is_set():
                deadline_s = deadline_s or time.monotonic() + GRACE_S
                if time.monotonic() + wait_s > deadline_s:
                    member.tally.unacknowledged += body.readings
                    return
                await asyncio.sleep(wait_s)
            else:
                await _set_within(stop, wait_s)


def _count(tally: Tally, body: Body, status: int, inserted: int, duplicates: int, rejected: int) -> None:
    if 400 <= status < 500:
        tally.refused += 1
        if body.sound:
            log.error("packet_refused", status=status, body=body.payload[:200].decode(errors="replace"))
        return
    tally.acknowledged += body.readings
    tally.inserted += inserted
    tally.duplicates += duplicates
    tally.rejected += rejected


async def _set_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most so long; whether it is set."""
    if seconds > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
    return stop.is_set()
