"""Sensor resolution over very many registered sensors. Holds the structure that makes it O(1), not the time it takes.

The run with a million is part of `make soak`; what they cost is in `bench/sensors.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest

from bench.sensors import fill
from bridge.store import queries
from tests.acceptance.service import Service
from tests.support.redis_process import RedisProcess

USED = 50
GROWTH_MIB = 24
"""A million sensors in memory would be more than 300 MiB; this much one service differs from another anyway."""


@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(300)
def test_service_with_many_sensors_keeps_only_those_it_uses(
    postgres_url: str, redis_server: RedisProcess, tmp_path: Path, count: int
) -> None:
    service = Service(tmp_path, postgres_url, redis_server.url)
    service.start()
    before_kib = service.memory_kib()
    service.stop()
    fill(postgres_url, count)
    service.start()
    try:
        after_kib = service.memory_kib()
        api_key = service.command("apikey", "add", "plant")["api_key"]
        used = _spread(postgres_url)
        body = ",".join(f'{{"sensor_id":{sensor},"value":20}}' for sensor in used)
        headers = {"X-API-Key": api_key}
        request = Request(f"{service.http}/ingest/readings/bulk", f'{{"readings":[{body}]}}'.encode(), headers)
        for _ in range(2):
            with urlopen(request, timeout=20) as answer:
                assert b'"rejected":[]' in answer.read()
        assert after_kib - before_kib < GROWTH_MIB * 1024
        assert _metric(service, 'iot_bridge_cache_entries{cache="sensor"}') == USED
        assert _metric(service, 'iot_bridge_cache_total{cache="sensor",result="miss"}') == USED
        # One look-up for all of them; the second packet hit.
        assert _metric(service, 'iot_bridge_stage_seconds_count{stage="resolve"}') == 1
    finally:
        service.stop()


@pytest.mark.parametrize("by", ["ids", "uuids"])
def test_look_up_of_sensors_reads_indexes_only(postgres_url: str, by: str) -> None:
    fill(postgres_url, 20_000)
    with psycopg.connect(postgres_url) as connection:
        ids = _spread(postgres_url)
        rows = connection.execute("SELECT sensor_uuid::text FROM sensors WHERE id = ANY (%s)", [ids]).fetchall()
        names = [row[0] for row in rows]
        arguments: tuple[list[Any], ...] = (ids, [], []) if by == "ids" else ([], names, [])
        query = b"EXPLAIN " + queries.load("service")["find_sensors"].encode()
        plan = "\n".join(row[0] for row in connection.execute(query, arguments))
    assert "Seq Scan on sensors" not in plan, plan
    assert {"ids": "sensors_pkey", "uuids": "sensors_sensor_uuid_key"}[by] in plan


def _spread(url: str) -> list[int]:
    """Ids from all over the table."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT id FROM sensors ORDER BY hashint8(id) LIMIT %s", [USED]).fetchall()
    return [int(row[0]) for row in rows]


def _metric(service: Service, name: str) -> float:
    with urlopen(f"{service.http}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name)))
