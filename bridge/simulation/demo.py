"""The main job on a machine of its own: the service with its embedded servers, and ten devices.

Five devices on HTTP and five on MQTT; of each five one sends everything twice now and then, and one sends
nonsense. A simulated day takes a minute, so that a day's cycle can be seen.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec

from bridge.broker.events import ALERTS, READINGS
from bridge.broker.redis import RedisBroker
from bridge.embedded.children import Child, start_child
from bridge.embedded.stack import running_urls
from bridge.errors import BrokerUnavailable, Unavailable
from bridge.maintenance.stream_audit import audit_stream
from bridge.settings.mqtt import MqttSettings
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.simulation.device import Character
from bridge.simulation.fleet import Fleet, connect_members
from bridge.simulation.registration import register, simulated
from bridge.simulation.scene import Scene
from bridge.simulation.signals import SHAPES
from bridge.simulation.watch import Scrape, parse
from bridge.store.admin import Admin, connect
from bridge.telemetry import Metrics

DEVICES = 10
PREFIX = "demo"
DAY_S = 60.0
CHARACTERS = {3: Character.RETRYING, 4: Character.RETRYING, 7: Character.NONSENSE, 8: Character.NONSENSE}
START_S = 60.0  # initdb on a slow card takes most of it
SETTLE_S = 2.0
SCRAPE_EVERY_S = 0.5
HISTORY = 60
LEDGER_COLUMNS = ("received", "stored", "duplicate", "quarantined", "thinned", "returned", "pending")


class Ending(msgspec.Struct, frozen=True):
    """What the demo ends with."""

    seconds: float
    doors: dict[str, dict[str, int]]
    total: dict[str, int]
    balanced: bool
    problems: list[str]
    urls: dict[str, str]
    last: Scrape | None


class Demo:
    """`start`, `run` until the event, `finish`."""

    def __init__(self, data_dir: Path, readings_per_s: float) -> None:
        self.urls: dict[str, str] = {}
        self.scrapes: deque[Scrape] = deque(maxlen=HISTORY)
        self._dir = data_dir
        self._rate = readings_per_s
        self._service: Child | None = None
        self._registered: list[dict[str, Any]] = []
        self._before: dict[str, int] = {}  # the folder may have seen a demo already
        self._doors: dict[str, dict[str, int]] = {}
        self.started_s = time.monotonic()
        self.scene = Scene((), PREFIX, {})

    @property
    def devices(self) -> int:
        """How many devices send."""
        return len(self._registered)

    async def start(self, stop: asyncio.Event) -> None:
        """The service, its devices and their thresholds. Raises Unavailable."""
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            (self._dir / "stack.json").unlink()
        command = [sys.executable, "-m", "bridge", "serve", "--data-dir", str(self._dir)]
        self._service = start_child("service", command, self._dir, _environment())
        deadline_s = time.monotonic() + START_S
        while not (running_urls(self._dir).get("http") or stop.is_set()):
            if not self._service.running or time.monotonic() > deadline_s:
                raise Unavailable(f"the service did not start; see {self._dir / 'service.log'}")
            await asyncio.sleep(0.05)
        self.urls = running_urls(self._dir)
        if not stop.is_set():
            self._registered = await asyncio.to_thread(self._register)

    async def run(self, stop: asyncio.Event, seen: Callable[[], None]) -> None:
        """Devices send until the event; `seen` is called after each scrape."""
        self.started_s = time.monotonic()
        devices = [
            simulated(row, CHARACTERS.get(number, Character.STEADY), number, DAY_S)
            for number, row in enumerate(self._registered, 1)
        ]
        doors = {"http": self.urls["http"], "mqtt": self.urls["mqtt"]}
        async with AsyncExitStack() as stack:
            reader = await self._stage(stack)
            members, tallies = await connect_members(stack, devices, doors, MqttSettings(url=doors["mqtt"]))
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=self.urls["http"], timeout=5, follow_redirects=False)
            )
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(client, reader, seen), name="watch")
                await Fleet(members, self._rate, Random(1)).run(stop)
                await self._settle(client)
                watching.cancel()
            self._doors = {name: tally.as_dict() for name, tally in tallies.items()}

    def finish(self) -> Ending:
        """Hold the ledger against the tables, and stop the service."""
        seconds = time.monotonic() - self.started_s
        with connect(self.urls["database"]) as admin:
            ledger = _ledger_totals(admin)
            problems, _ = admin.verify()
            findings = asyncio.run(audit_stream(RedisSettings(url=self.urls.get("redis", "")), BrokerSettings(), admin))
            problems += [line for finding in findings for line in finding.problems()]
        total = {name: ledger[name] - self._before[name] for name in LEDGER_COLUMNS}
        if total["pending"]:
            problems.append(f"{total['pending']} readings are not settled")
        for name, tally in self._doors.items():
            if tally["unacknowledged"]:
                problems.append(f"{tally['unacknowledged']} readings were not acknowledged by {name}")
        return Ending(
            seconds=round(seconds, 1),
            doors=self._doors,
            total=total,
            balanced=not problems,
            problems=problems,
            urls=self.urls,
            last=self.scrapes[-1] if self.scrapes else None,
        )

    def close(self) -> None:
        """Stop the service and its servers."""
        if self._service is not None:
            self._service.stop()

    def _register(self) -> list[dict[str, Any]]:
        with connect(self.urls["database"]) as admin:
            self._before = _ledger_totals(admin)
            registered = list(register(admin, DEVICES, PREFIX))
            for device in registered:
                for sensor in device["sensors"]:
                    _set_thresholds(admin, sensor)
        return registered

    async def _stage(self, stack: AsyncExitStack) -> RedisBroker | None:
        """A reader of the streams, and a scene of what is new on them; none where there is no Redis."""
        after: dict[str, str] = {}
        reader = None
        if url := self.urls.get("redis"):
            reader = RedisBroker(RedisSettings(url=url), BrokerSettings(), Metrics())
            stack.push_async_callback(reader.close)
            for stream in (READINGS, ALERTS):
                newest = await reader.tail(stream, 1)
                after[stream] = newest[0].id if newest else "0"
        self.scene = Scene(self._registered, f"{PREFIX}-", after)
        return reader

    async def _watch(self, client: httpx.AsyncClient, reader: RedisBroker | None, seen: Callable[[], None]) -> None:
        while True:
            await self._scrape(client)
            if reader is not None:
                with suppress(BrokerUnavailable):
                    await self.scene.look(reader)
            seen()
            await asyncio.sleep(SCRAPE_EVERY_S)

    async def _scrape(self, client: httpx.AsyncClient) -> Scrape | None:
        try:
            text = (await client.get("/metrics")).text
        except httpx.HTTPError:
            return None
        scrape = parse(text, time.monotonic())
        self.scrapes.append(scrape)
        return scrape

    async def _settle(self, client: httpx.AsyncClient) -> None:
        """Wait until what the devices handed over is stored and published."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                alike = 0
                before = -1.0
                while alike < 2:  # and nothing is on its way from the MQTT broker
                    scrape = await self._scrape(client)
                    if scrape is None:
                        return
                    settled = scrape.total("iot_bridge_readings_total")
                    waiting = scrape.total("iot_bridge_queued_readings") + scrape.total("iot_bridge_outbox_batches")
                    alike = alike + 1 if settled == before and not waiting else 0
                    before = settled
                    await asyncio.sleep(0.1)


def _ledger_totals(admin: Admin) -> dict[str, int]:
    rows = admin.ledger()
    return {name: sum(row[name] for row in rows) for name in LEDGER_COLUMNS}


def _set_thresholds(admin: Admin, sensor: dict[str, Any]) -> None:
    shape = SHAPES[sensor["sensor_type"]]
    reach = shape.swing + shape.spike * 0.5
    admin.set_threshold(sensor["sensor_id"], "out_of_range", shape.mean - reach, shape.mean + reach, "critical")
    admin.set_delta_threshold(sensor["sensor_id"], shape.spike * 0.5, 10)


def _environment() -> dict[str, str]:
    """The demo's own settings: what is set for a service of the user's is not for this one."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("IOT_BRIDGE_")}
    return kept | {
        "IOT_BRIDGE_HTTP__PORT": str(_port(8080)),
        "IOT_BRIDGE_MQTT__PORT": str(_port(1883)),
        "IOT_BRIDGE_LOG__FORMAT": "json",
        "IOT_BRIDGE_SERVICE__SHUTDOWN_S": "2",
    }


def _port(wanted: int) -> int:
    """The port people expect, or 0 for any where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted
