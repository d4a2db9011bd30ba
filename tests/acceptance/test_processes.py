"""Several services on one database and one Redis; and ordered stops under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.acceptance.proof import prove
from tests.acceptance.senders import Load, figures, register
from tests.acceptance.service import Service
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, PostgresServer, TcpProxy, until

SHUTDOWN_S = 4.0
EXIT_S = SHUTDOWN_S + 3.0
"""The deadline of an ordered stop, and what a busy machine adds."""


async def test_two_services_publish_each_batch_once(make_service: Callable[..., Service], seed: int) -> None:
    """Devices send to either by turns, so both write the same sensors; the proof looks at their order."""
    services = [make_service(), make_service()]
    devices, api_key = await asyncio.to_thread(register, services[0].database, 20, "pair")
    for service in services:
        await asyncio.to_thread(service.start)
    urls = [service.http for service in services]
    load = Load(devices, api_key, http=urls, rate_per_s=1_000, seed=seed, readings=4_000)
    async with asyncio.timeout(90):
        await load.run()
    found = await prove(load.books, services[0])
    assert found["published_again"] == 0
    assert set(load.books.answers) == {"200"}
    assert [service.stop() for service in services] == [0, 0]


async def test_survivor_publishes_what_the_killed_service_left(
    make_service: Callable[..., Service], redis_server: RedisProcess, seed: int
) -> None:
    survivor, victim = make_service(), make_service()
    devices, api_key = await asyncio.to_thread(register, survivor.database, 20, "pair")
    for service in (survivor, victim):
        await asyncio.to_thread(service.start)
    load = Load(devices, api_key, http=[survivor.http, victim.http], rate_per_s=600, seed=seed)
    running = asyncio.create_task(load.run())
    await load.goes_on(600)
    await asyncio.to_thread(redis_server.stop)  # so that both have batches that are stored and not published
    await load.goes_on(600)
    await asyncio.to_thread(victim.kill)
    await asyncio.to_thread(redis_server.start)
    await load.goes_on(300)
    load.finish()
    load.forget(victim.http)
    async with asyncio.timeout(60):
        await running
    await prove(load.books, survivor)
    assert "orphans_published" in survivor.log
    assert survivor.stop() == 0


async def test_service_stopped_in_order_under_load(
    make_service: Callable[..., Service], mosquitto: MosquittoProcess, seed: int
) -> None:
    service = make_service(mqtt=mosquitto.url, service__shutdown_s=str(SHUTDOWN_S))
    devices, api_key = await asyncio.to_thread(register, service.database, 20, "term")
    await asyncio.to_thread(service.start)
    load = Load(devices, api_key, http=[service.http], mqtt_port=mosquitto.port, rate_per_s=800, seed=seed)
    running = asyncio.create_task(load.run())
    for _ in range(3):
        await load.goes_on(800)
        started_s = time.monotonic()
        assert await asyncio.to_thread(service.stop) == 0
        assert time.monotonic() - started_s < EXIT_S
        await asyncio.to_thread(service.start)
    load.finish()
    async with asyncio.timeout(60):
        await running
    found = figures(load.books) | await prove(load.books, service)
    # An ordered stop acknowledges what it has stored, so that little comes twice.
    assert found["duplicates"] < 100, found
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    "away",
    ["both", pytest.param("postgres", marks=pytest.mark.soak), pytest.param("redis", marks=pytest.mark.soak)],
)
async def test_service_stops_within_its_deadline_while_servers_are_away(
    make_service: Callable[..., Service],
    postgres_server: PostgresServer,
    postgres_url: str,
    redis_server: RedisProcess,
    mosquitto: MosquittoProcess,
    away: str,
    seed: int,
) -> None:
    """The worst way to be away: connected, and silent."""
    async with TcpProxy(postgres_server.socket_path) as proxy:
        service = make_service(
            database=proxy.in_place_of(postgres_url), mqtt=mosquitto.url, service__shutdown_s=str(SHUTDOWN_S)
        )
        devices, api_key = await asyncio.to_thread(register, postgres_url, 20, "away")
        await asyncio.to_thread(service.start)
        load = Load(devices, api_key, http=[service.http], mqtt_port=mosquitto.port, rate_per_s=400, seed=seed)
        running = asyncio.create_task(load.run())
        await load.goes_on(400)
        if away != "redis":
            proxy.stall()
        if away != "postgres":
            redis_server.pause()
        before = len(load.books.sent)
        await until(lambda: len(load.books.sent) > before + 200, 60)
        started_s = time.monotonic()
        code = await asyncio.to_thread(service.stop)
        took_s = time.monotonic() - started_s
        proxy.resume()
        redis_server.resume()
        assert code == 0
        assert took_s < EXIT_S
        await asyncio.to_thread(service.start)
        load.finish()
        async with asyncio.timeout(60):
            await running
        await prove(load.books, service)
