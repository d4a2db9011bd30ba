"""The direct uplink: straight to PostgreSQL and Redis, through the service's own pipeline."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import msgspec
import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from bridge.errors import ConfigError
from bridge.gateway_protocol.batches import UplinkBatch, UplinkRecord
from bridge.model.reading import Code, Source
from bridge.settings.stores import DatabaseSettings, RedisSettings
from bridge.store import admin
from edge.settings import EdgeSettings
from edge.uplink.direct import DirectTransport
from tests.support.servers import PostgresServer, RedisServer, TcpProxy, until
from tests.support.spool_site import junk, reading
from tests.support.uplink_bench import NewBench

pytestmark = pytest.mark.timeout(90)
OLD_S = 4 * 365 * 86_400.0


def wall_us() -> int:
    return time.time_ns() // 1_000


def settings(database: str, streams: str) -> EdgeSettings:
    made = EdgeSettings(database=DatabaseSettings(url=database), redis=RedisSettings(url=streams))
    return made.model_copy(update={"spool": made.spool.model_copy(update={"max_age_s": OLD_S})})


async def test_direct_uplink_stores_and_publishes_what_is_spooled(
    postgres_url: str, redis_server: RedisServer, new_bench: NewBench
) -> None:
    with admin.connect(postgres_url) as connection:
        device = connection.add_device("shed", [("air", "temperature", None)])
        connection.add_gateway("north", [], everything=True, code_minutes=1)
    sensor, uuid = device["sensors"][0]["sensor_id"], device["device_uuid"]
    bench = new_bench(DirectTransport(settings(postgres_url, redis_server.url), "north", wall_us))
    made = [reading(number, sensor=sensor, device=device["device_id"]) for number in range(30)]
    made = [msgspec.structs.replace(each, device_uuid=uuid) for each in made]
    await bench.sender.send(*made, junk=[junk(b"\xff")])
    async with bench.running():
        await bench.drained()
        with redis.Redis.from_url(redis_server.url) as streams:
            await until(lambda: streams.xlen("iot:readings") == 30, 20)
    with psycopg.connect(postgres_url) as connection_:
        assert connection_.execute("SELECT count(*) FROM sensor_readings").fetchone() == (30,)
        assert connection_.execute("SELECT code, gateway FROM quarantine").fetchall() == [("bad_json", "north")]
    with admin.connect(postgres_url) as connection:
        assert connection.verify()[0] == []


async def test_direct_uplink_sets_apart_what_the_database_refuses(postgres_url: str, redis_server: RedisServer) -> None:
    with admin.connect(postgres_url) as connection:
        device = connection.add_device("shed", [("air", "temperature", None)])
    with psycopg.connect(postgres_url, autocommit=True) as connection_:
        connection_.execute("ALTER TABLE sensor_readings ADD CONSTRAINT evil CHECK (value <> 66)")
    sensor, now_us = device["sensors"][0]["sensor_uuid"], wall_us()
    records = tuple(
        UplinkRecord(
            number,
            Source.HTTP,
            -(1 << 63) if number == 3 else now_us,
            device["device_uuid"],
            sensor,
            value=66.0 if number == 7 else 20.0,
            ts_us=-(1 << 63) if number == 3 else now_us + number,
        )
        for number in range(1, 11)
    )
    refused = UplinkRecord(11, Source.MQTT, -(1 << 63), code=Code.BAD_JSON, detail="x" * 9_000)
    transport = DirectTransport(settings(postgres_url, redis_server.url), "north", wall_us)
    try:
        answer = await transport.send_batch("live", UplinkBatch("epoch", (*records, refused)))
    finally:
        await transport.close()
    assert answer.stored == 8
    assert [(rejected.id, rejected.code) for rejected in answer.rejected] == [
        (3, "time_behind"),
        (7, "store_refused"),
        (11, "bad_json"),
    ]
    with admin.connect(postgres_url) as connection:
        assert connection.verify()[0] == []


async def test_direct_uplink_waits_for_a_database_that_is_away(
    postgres_server: PostgresServer, postgres_url: str, redis_server: RedisServer, new_bench: NewBench
) -> None:
    info = conninfo_to_dict(postgres_url)
    async with TcpProxy(postgres_server.socket_path) as proxy:
        url = f"postgresql://{info.get('user', 'postgres')}@127.0.0.1:{proxy.port}/{info['dbname']}"
        proxy.refuse = True
        bench = new_bench(DirectTransport(settings(url, redis_server.url), "north", wall_us))
        async with bench.running():
            await until(lambda: "connection" in bench.uplink.status().problem, 20)
            assert not bench.uplink.status().up
            proxy.refuse = False
            await until(lambda: bench.uplink.status().up, 60)


async def test_direct_uplink_forgets_a_sensor_that_has_changed(postgres_url: str, redis_server: RedisServer) -> None:
    with admin.connect(postgres_url) as connection:
        device = connection.add_device("shed", [("air", "temperature", None)])
    sensor = device["sensors"][0]["sensor_uuid"]
    transport = DirectTransport(settings(postgres_url, redis_server.url), "north", wall_us)
    numbers = itertools.count(1)

    async def rejections() -> list[str]:
        number, now_us = next(numbers), wall_us()
        record = UplinkRecord(number, Source.HTTP, now_us, device["device_uuid"], sensor, value=20.5, ts_us=now_us)
        answer = await transport.send_batch("live", UplinkBatch("epoch", (record,)))
        return [rejected.code for rejected in answer.rejected]

    async def refused() -> bool:
        return await rejections() == [Code.VALUE_OUT_OF_RANGE]

    try:
        assert await rejections() == []
        with psycopg.connect(postgres_url, autocommit=True) as connection_:
            connection_.execute("UPDATE sensors SET max_value = 20 WHERE sensor_uuid = %s", [sensor])
        await until(refused, 20)
    finally:
        await transport.close()


def test_direct_uplink_needs_its_servers_named() -> None:
    with pytest.raises(ConfigError) as caught:
        DirectTransport(EdgeSettings(), "north", wall_us)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("absent", ["psycopg", "redis"])
def test_direct_uplink_without_the_services_extras_says_what_to_install(absent: str) -> None:
    program = f"""
import itertools
import subprocess
import sys
import time
sys.modules[{absent!r}] = None  # as if it were not installed
from edge.settings import EdgeSettings
from edge.uplink.direct import DirectTransport
from bridge.settings.stores import DatabaseSettings, RedisSettings
named = EdgeSettings(database=DatabaseSettings(url="postgresql://x"), redis=RedisSettings(url="redis://x"))
DirectTransport(named, "north", lambda: 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert said.startswith("bridge.errors.ConfigError: ")
    assert 'pip install "iot-edge-bridge[service]"' in said
    assert absent in said
