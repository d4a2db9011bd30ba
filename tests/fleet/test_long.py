"""`make fleet`: a thousand devices for five minutes, on Mosquitto and a whole service."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import median

import aiomqtt
import pytest

from tests.acceptance.service import Service
from tests.fleet.plant import Identity, Plant
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, until

DEVICES = int(os.environ.get("FLEET_DEVICES", "1000"))
SECONDS = float(os.environ.get("FLEET_SECONDS", "300"))
PERIOD_S = 2.0
PATIENCE_S = 5.0
FLAP, REPEAT, NONSENSE = 0.01, 0.05, 0.01
"""How often, of the times that a device sends, it loses its link first, sends twice, or sends nonsense."""
GROWTH = 1.10
"""Of the median of the last third of the run over that of the middle one."""


class Tally:
    """What devices sent, as the broker has acknowledged it; and what they tried."""

    def __init__(self) -> None:
        self.readings = 0
        self.nonsense = 0
        self.connections = 0


async def live(port: int, device: Identity, until_s: float, random: Random, tally: Tally) -> None:
    """Measure every `PERIOD_S`, and send until it is acknowledged, whatever the link does."""
    await asyncio.sleep(random.random() * PERIOD_S)
    sequence = 0
    waiting: list[bytes] = []
    while waiting or time.monotonic() < until_s:
        with suppress(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", port, identifier=device.uuid, timeout=20) as client:
                tally.connections += 1
                flapping = False
                while (waiting or time.monotonic() < until_s) and not flapping:
                    if not waiting:
                        waiting.append(device.packet(sequence, ts=time.time()))
                        sequence += 1
                    times = 2 if random.random() < REPEAT else 1
                    for _ in range(times):
                        await client.publish(device.topic, waiting[0], qos=1, timeout=PATIENCE_S)
                    del waiting[0]
                    tally.readings += 1
                    if random.random() < NONSENSE:
                        await client.publish(device.topic, b"{nonsense", qos=1, timeout=PATIENCE_S)
                        tally.nonsense += 1
                    flapping = random.random() < FLAP
                    await asyncio.sleep(PERIOD_S * (0.9 + 0.2 * random.random()))
        await asyncio.sleep(random.random())


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
async def test_fleet_of_a_thousand_for_five_minutes(
    mosquitto: MosquittoProcess,
    redis_server: RedisProcess,
    postgres_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant = Plant(postgres_url, DEVICES)
    service = Service(tmp_path, postgres_url, redis_server.url, mosquitto.url)
    await asyncio.to_thread(service.start)
    tally, memory_kib = Tally(), list[int]()
    try:
        until_s = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            for number, device in enumerate(plant.devices):
                group.create_task(live(mosquitto.port, device, until_s, Random(number), tally))
            while time.monotonic() < until_s:
                memory_kib.append(service.memory_kib())
                await asyncio.sleep(SECONDS / 100)

        def settled() -> bool:
            quarantined = sum(plant.codes().values())
            return plant.count() == tally.readings and quarantined >= tally.nonsense

        await until(settled, 60)
        assert await asyncio.to_thread(service.stop) == 0
    finally:
        await asyncio.to_thread(service.kill)
    books = plant.books()
    third = len(memory_kib) // 3
    middle, last = median(memory_kib[third : 2 * third]), median(memory_kib[2 * third :])
    with capsys.disabled():
        sys.stdout.write(
            f"\n{DEVICES} devices, {SECONDS:g} s, {tally.connections} connections, {books.received} readings received,"
            f" {books.stored} stored, {books.duplicate} duplicate, {books.quarantined} quarantined;"
            f" memory {memory_kib[0] // 1024} MiB at first, {middle / 1024:.1f} in the middle, {last / 1024:.1f} last\n"
        )
    assert books.stored == tally.readings
    assert books.quarantined >= tally.nonsense
    assert last <= middle * GROWTH
