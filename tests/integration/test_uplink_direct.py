"""The direct uplink: straight to PostgreSQL and Redis, through the service's own pipeline."""

from __future__ import annotations

import sys

import msgspec
import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from bridge.errors import ConfigError
from bridge.settings.stores import DatabaseSettings, RedisSettings
from bridge.store import admin
from edge.settings import EdgeSettings
from edge.uplink.direct import DirectTransport
from tests.support.servers import PostgresServer, RedisServer, TcpProxy, until
from tests.support.spool_site import junk, reading
from tests.support.uplink_bench import NewBench

pytestmark = pytest.mark.timeout(90)
OLD_S = 4 * 365 * 86_400.0


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
    bench = new_bench(DirectTransport(settings(postgres_url, redis_server.url), "north"))
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


async def test_direct_uplink_waits_for_a_database_that_is_away(
    postgres_server: PostgresServer, postgres_url: str, redis_server: RedisServer, new_bench: NewBench
) -> None:
    info = conninfo_to_dict(postgres_url)
    async with TcpProxy(postgres_server.socket_path) as proxy:
        url = f"postgresql://{info.get('user', 'postgres')}@127.0.0.1:{proxy.port}/{info['dbname']}"
        proxy.refuse = True
        bench = new_bench(DirectTransport(settings(url, redis_server.url), "north"))
        async with bench.running():
            await until(lambda: "connection" in bench.uplink.status().problem, 20)
            assert not bench.uplink.status().up
            proxy.refuse = False
            await until(lambda: bench.uplink.status().up, 60)


def test_direct_uplink_needs_its_servers_named() -> None:
    with pytest.raises(ConfigError) as caught:
        DirectTransport(EdgeSettings(), "north")
    assert len(caught.value.problems) == 2


def test_direct_uplink_without_the_services_extras_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bridge.service.app", None)
    with pytest.raises(ConfigError, match=r"pip install .*\[service\]"):
        DirectTransport(settings("postgresql://x", "redis://x"), "north")
