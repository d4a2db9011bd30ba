"""An hour of 1,000 readings/s through the streams, in compressed form, with the consumers reading: by make soak."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random

import psycopg
import pytest

from bridge.broker.events import READINGS
from bridge.broker.redis import RedisBroker
from bridge.model.reading import Publication, Reading, Source
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.telemetry import Metrics
from tests.support.consumer_process import ConsumerProcess
from tests.support.servers import RedisServer, until

SENSORS = 1_000
HOUR_S = 3_600
RATE_PER_S = 12_000
"""Readings a second: an hour in five minutes."""
MOST_LAG = 60_000
"""Five seconds of it."""
GROUPS = {"ml": "ml-worker-group", "orchestrator": "orchestrator-group"}


def second_of(number: int, start_us: int, random: Random) -> Publication:
    """Every sensor's reading of second `number`."""
    ts_us = start_us + number * 1_000_000
    readings = [
        Reading(sensor, 20 + random.gauss(0, 0.3), ts_us, ts_us + 5, 1, "temperature", Source.MQTT)
        for sensor in range(1, SENSORS + 1)
    ]
    return Publication(1, number + 1, readings, [0] * SENSORS, ts_us + 10)


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_an_hour_of_readings_leaves_lag_bounded_and_memory_flat(
    postgres_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("INSERT INTO devices (name) VALUES ('hour')")
        connection.execute(
            "INSERT INTO sensors (device_id, name, sensor_type, operational_state)"
            " SELECT 1, 's' || n, 'temperature', 'NORMAL' FROM generate_series(1, %s) n",
            [SENSORS],
        )
    broker = RedisBroker(RedisSettings(url=redis_server.url), BrokerSettings(), Metrics())
    consumers = {
        name: ConsumerProcess(tmp_path, name, redis__url=redis_server.url, database__url=postgres_url)
        for name in GROUPS
    }
    for consumer in consumers.values():
        consumer.start()
    random = Random(1)
    start_us = time.time_ns() // 1_000 - HOUR_S * 1_000_000
    lags: dict[str, int] = dict.fromkeys(GROUPS, 0)
    memory: dict[str, list[int]] = {name: [] for name in GROUPS}
    began_s = time.monotonic()
    try:
        for number in range(HOUR_S):
            assert await broker.publish(second_of(number, start_us, random))
            await asyncio.sleep(max(0.0, began_s + (number + 1) * SENSORS / RATE_PER_S - time.monotonic()))
            if number % 100 == 99:
                found = await broker.lag(READINGS)
                for name, group in GROUPS.items():
                    lags[name] = max(lags[name], found[group])
                    memory[name].append(consumers[name].memory_kib())
        took_s = time.monotonic() - began_s

        async def caught_up() -> bool:
            return not any((await broker.lag(READINGS)).values())

        await until(caught_up, 120)
        for name in GROUPS:
            middle, end = memory[name][len(memory[name]) // 2], memory[name][-1]
            print(  # noqa: T201 - make soak shows figures
                f"{name}: {HOUR_S * SENSORS} in {took_s:.0f} s, most lag {lags[name]}, KiB {middle} then {end}"
            )
            assert lags[name] < MOST_LAG
            assert end < middle * 1.1
    finally:
        await broker.close()
        for consumer in consumers.values():
            consumer.stop()
