"""A million registered sensors: how long the service takes to start, what it keeps in memory, what a sensor costs.

Everything is measured twice, with few sensors and with a million, so that what grows shows.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import psycopg

from bench import cpu, fleet
from bench.plant import postgres_pid, postgres_server, redis_server
from bench.timed import Clock, measure
from bridge.pipeline.resolve import Resolver
from bridge.settings.process import PipelineSettings
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.acceptance.service import Service

FEW, MANY = 1_000, 1_000_000
HITS = 100_000
MISSES = 500
BAR_S = 5.0

FILL = """
WITH device AS (
    INSERT INTO devices (name) SELECT 'plant ' || n FROM generate_series(1, %(count)s / 100) n RETURNING id
)
INSERT INTO sensors (device_id, name, sensor_type) SELECT id, 'sensor ' || n, 'temperature'
FROM device, generate_series(1, 100) n
"""


class RegisteredSensors(msgspec.Struct, frozen=True):
    """With `sensors` registered."""

    sensors: int
    start_s: float
    """Until the service says that it can store: interpreter, imports and all."""
    resident_mib: float
    """Of the service, after it has served the fleet."""
    service_us: float
    postgres_us: float
    """CPU of a request of one reading."""
    hit_us: float
    miss_us: float
    """Per sensor, in look-ups of `MISSES` sensors drawn from all over the table, one query each."""


async def compare(seconds: float) -> list[RegisteredSensors]:
    """Few sensors, then a million."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ib"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = postgres_server(folder / "pg", stack)
        redis = redis_server(folder / "redis", stack)
        made = []
        for count in (FEW, MANY):
            url = postgres.url_of(postgres.create_migrated())
            fill(url, count)
            fleet_file = folder / "fleet.json"
            fleet.save(fleet.register(url), fleet_file)
            served = _serve(folder, url, redis.url, fleet_file, seconds)
            made.append(RegisteredSensors(count, *served, *await _look_up(url)))
        return made


def fill(url: str, count: int) -> None:
    """Register `count` sensors, a hundred to a device."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL, {"count": count})
        connection.execute("VACUUM ANALYZE")  # now, and not while something is measured
        # A service reads what has changed in the last seconds; this is history by the time it starts.
        connection.execute("TRUNCATE registry_changes")
        connection.execute("CHECKPOINT")


def _serve(folder: Path, url: str, redis: str, fleet_file: Path, seconds: float) -> tuple[float, float, float, float]:
    service = Service(folder, url, redis)
    begin_s = time.perf_counter()
    service.start()
    start_s = time.perf_counter() - begin_s
    clocks: dict[str, Clock] = {
        "service": partial(cpu.process_s, service.pid),
        "postgres": cpu.Family(postgres_pid(folder / "pg")).cpu_s,
    }
    try:
        sample = measure("bench.load_http", [str(fleet_file), str(service.port), "64", "1", str(seconds)], clocks)
        resident_mib = cpu.resident_kib(service.pid) / 1024
    finally:
        service.stop()
    return round(start_s, 2), round(resident_mib, 1), round(sample.cpu_us("service")), round(sample.cpu_us("postgres"))


async def _look_up(url: str) -> tuple[float, float]:
    """Microseconds of a hit, and of a miss."""
    store = PostgresStore(DatabaseSettings(url=url), "bench")
    await store.open_pool()
    try:
        resolver = Resolver(store, PipelineSettings(), Metrics(), time.monotonic)
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT id FROM sensors ORDER BY hashint8(id) LIMIT %s", [MISSES]).fetchall()
        refs = [int(row[0]) for row in rows]
        await resolver.load(refs[:1])  # connects
        misses = []
        for _ in range(5):
            resolver.clear()
            begin_s = time.perf_counter()
            await resolver.load(refs)
            misses.append((time.perf_counter() - begin_s) * 1e6 / len(refs))
        begin_s = time.perf_counter()
        for _ in range(HITS // len(refs)):
            for ref in refs:
                resolver.get(ref)
        hit_us = (time.perf_counter() - begin_s) * 1e6 / HITS
    finally:
        await store.close()
    return round(hit_us, 3), round(min(misses), 1)
