"""PostgreSQL, Redis and Mosquitto go away under load, or only the line to them; and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, NamedTuple

import httpx
import pytest

from tests.acceptance.proof import prove
from tests.acceptance.senders import Load, figures, register
from tests.acceptance.service import Service
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, PostgresServer, TcpProxy, until

ACK_S = 1.0
ANSWER_S = 6.0
"""No HTTP client waits longer, whatever is away: ACK_S, and what a busy machine adds."""
FLAT_KIB = 40_000
"""An outage may cost this much memory: the relay's queue (20 MB at its limit), and messages that wait."""


class Size(NamedTuple):
    """How much load, and how long the outage lasts."""

    devices: int
    rate_per_s: float
    outage_s: float


def sizes(short: Size, long: Size) -> pytest.MarkDecorator:
    soak = pytest.param(long, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)])
    return pytest.mark.parametrize("size", [pytest.param(short, id="short"), soak])


class Watch:
    """A service under load: what it answers to its operator, and how much memory it takes."""

    def __init__(self, service: Service, load: Load) -> None:
        self.service = service
        self.load = load
        self.before_kib = self.most_kib = 0
        self._client = httpx.AsyncClient(base_url=service.http, timeout=20)

    async def measure(self) -> None:
        while True:
            self.most_kib = max(self.most_kib, self.service.memory_kib())
            await asyncio.sleep(0.1)

    def outage_begins(self) -> None:
        self.before_kib = self.most_kib

    async def ready(self) -> tuple[int, str]:
        """Status and reasons of /health/ready."""
        answer = await self._client.get("/health/ready")
        assert answer.status_code == 200 or answer.headers["retry-after"].isdecimal()
        return answer.status_code, " ".join(answer.json()["problems"])

    async def until_ready(self, within_s: float) -> float:
        """How long it took."""
        started_s = time.monotonic()

        async def is_ready() -> bool:
            return (await self.ready())[0] == 200

        await until(is_ready, within_s)
        return round(time.monotonic() - started_s, 1)

    async def until_problem(self, word: str) -> None:
        async def told() -> bool:
            status, problems = await self.ready()
            return status == 503 and word in problems

        await until(told, 20)

    async def metric(self, name: str) -> float:
        text = (await self._client.get("/metrics")).text
        return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])

    async def close(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def under_load(
    service: Service, port: int | None, size: Size, seed: int, report: dict[str, Any]
) -> AsyncIterator[Watch]:
    """Load from before the body until after it; then the proof, and memory."""
    devices, api_key = await asyncio.to_thread(register, service.database, size.devices, "out")
    await asyncio.to_thread(service.start)
    load = Load(
        devices,
        api_key,
        http=[service.http],
        mqtt_port=port,
        rate_per_s=size.rate_per_s,
        seed=seed,
        answer_within_s=ANSWER_S,
    )
    watch = Watch(service, load)
    running = asyncio.create_task(load.run())
    measuring = asyncio.create_task(watch.measure())
    try:
        await watch.load.goes_on(round(2 * size.rate_per_s))
        watch.outage_begins()
        yield watch
        await watch.load.goes_on(round(2 * size.rate_per_s))
        load.finish()
        async with asyncio.timeout(120):
            await running
        report |= figures(load.books) | await prove(load.books, service, within_s=60)
        report["grew_kib"] = watch.most_kib - watch.before_kib
        print(report)  # noqa: T201 - the report of make soak
    finally:
        for task in (running, measuring):
            task.cancel()
        await asyncio.gather(running, measuring, return_exceptions=True)
        await watch.close()
    assert load.books.answers["broken"] == 0 or port is not None
    assert report["grew_kib"] < FLAT_KIB
    assert service.stop() == 0
    assert "Traceback" not in service.log


@pytest.mark.parametrize("mode", ["fast", pytest.param("immediate", marks=pytest.mark.soak)])
@sizes(Size(20, 400, 3), Size(100, 1_500, 20))
async def test_postgres_stopped_under_load(
    make_service: Callable[..., Service],
    postgres_server: PostgresServer,
    mosquitto: MosquittoProcess,
    size: Size,
    mode: str,
    seed: int,
) -> None:
    service = make_service(mqtt=mosquitto.url, http__ack_timeout_s=str(ACK_S))
    report: dict[str, Any] = {"outage": f"PostgreSQL {mode}"}
    async with under_load(service, mosquitto.port, size, seed, report) as watch:
        await asyncio.to_thread(postgres_server.stop, mode)
        await watch.until_problem("database")
        await asyncio.sleep(size.outage_s)
        assert (await watch.ready())[0] == 503
        await asyncio.to_thread(postgres_server.start)
        report["ready_after_s"] = await watch.until_ready(20)
    assert watch.load.books.answers["503"]


@sizes(Size(20, 600, 4), Size(100, 1_500, 60))
async def test_redis_stopped_under_load(
    make_service: Callable[..., Service],
    redis_server: RedisProcess,
    mosquitto: MosquittoProcess,
    size: Size,
    seed: int,
) -> None:
    """Readings go on being stored and acknowledged; the outbox drains when Redis is back."""
    short = {"broker__relay_queue_readings": "500"} if size.outage_s < 10 else {}
    service = make_service(mqtt=mosquitto.url, http__ack_timeout_s=str(ACK_S), **short)
    report: dict[str, Any] = {"outage": "Redis"}
    async with under_load(service, mosquitto.port, size, seed, report) as watch:
        await asyncio.to_thread(redis_server.stop)
        ends_s = time.monotonic() + size.outage_s
        while time.monotonic() < ends_s:
            await watch.load.goes_on(round(size.rate_per_s / 4))
            assert (await watch.ready())[0] == 200
        await until(lambda: _is_over(watch, 0), 10)
        report["outbox_batches"] = await watch.metric("iot_bridge_outbox_batches")
        await asyncio.to_thread(redis_server.start)
        started_s = time.monotonic()
        await until(lambda: _is_under(watch, 20), 60)
        report["drained_after_s"] = round(time.monotonic() - started_s, 1)
    assert not watch.load.books.answers["503"]


async def _is_over(watch: Watch, batches: float) -> bool:
    return await watch.metric("iot_bridge_outbox_batches") > batches


async def _is_under(watch: Watch, batches: float) -> bool:
    return await watch.metric("iot_bridge_outbox_batches") < batches


@sizes(Size(20, 400, 1), Size(100, 1_500, 10))
async def test_mosquitto_restarted_under_load(
    make_service: Callable[..., Service], mosquitto: MosquittoProcess, size: Size, seed: int
) -> None:
    service = make_service(mqtt=mosquitto.url, http__ack_timeout_s=str(ACK_S))
    async with under_load(service, mosquitto.port, size, seed, {"outage": "Mosquitto"}) as watch:
        for _ in range(2):
            await asyncio.to_thread(mosquitto.stop)
            await asyncio.sleep(size.outage_s)
            await asyncio.to_thread(mosquitto.start)
            await until(lambda: _is_connected(watch), 30)
            await watch.load.goes_on(round(size.rate_per_s))


async def _is_connected(watch: Watch) -> bool:
    return await watch.metric("iot_bridge_mqtt_connected") == 1


# -- the line to PostgreSQL

Fault = Callable[[TcpProxy, Watch, Size, Random], Awaitable[None]]


async def cut_again_and_again(proxy: TcpProxy, watch: Watch, size: Size, random: Random) -> None:
    """Some commits are under way each time: did they happen?"""
    ends_s = time.monotonic() + size.outage_s
    while time.monotonic() < ends_s:
        await asyncio.sleep(random.uniform(0.01, 0.3))
        proxy.cut()


async def stall(proxy: TcpProxy, watch: Watch, size: Size, random: Random) -> None:
    """Nothing comes through, and nobody is told; then everything does, late."""
    proxy.stall()
    await watch.until_problem("database")
    await asyncio.sleep(size.outage_s)
    proxy.resume()


async def strand(proxy: TcpProxy, watch: Watch, size: Size, random: Random) -> None:
    """The connections that there are never say a word again. New ones work."""
    proxy.strand()
    await watch.until_problem("database")


@pytest.mark.parametrize("fault", [cut_again_and_again, stall, strand])
@sizes(Size(20, 400, 4), Size(100, 1_000, 30))
async def test_line_to_postgres_breaks_under_load(
    make_service: Callable[..., Service],
    postgres_server: PostgresServer,
    postgres_url: str,
    mosquitto: MosquittoProcess,
    fault: Fault,
    size: Size,
    seed: int,
) -> None:
    async with TcpProxy(postgres_server.socket_path) as proxy:
        service = make_service(
            database=proxy.in_place_of(postgres_url),
            mqtt=mosquitto.url,
            http__ack_timeout_s=str(ACK_S),
            database__statement_timeout_s="3",
            database__connect_timeout_s="2",
        )
        report: dict[str, Any] = {"outage": f"line to PostgreSQL: {fault.__name__}"}
        async with under_load(service, mosquitto.port, size, seed, report) as watch:
            await fault(proxy, watch, size, Random(seed))
            report["ready_after_s"] = await watch.until_ready(30)


async def test_postgres_restarted_while_nothing_comes_in(
    make_service: Callable[..., Service], postgres_server: PostgresServer, postgres_url: str
) -> None:
    """The operator is told though nobody sends, and the books stay those of a living process."""
    service = make_service(http__ack_timeout_s=str(ACK_S))
    devices, api_key = await asyncio.to_thread(register, postgres_url, 2, "idle")
    await asyncio.to_thread(service.start)
    load = Load(devices, api_key, http=[service.http], rate_per_s=100, seed=1, readings=20)
    watch = Watch(service, load)
    try:
        await asyncio.to_thread(postgres_server.stop)
        await watch.until_problem("database")
        async with httpx.AsyncClient() as client:
            started_s = time.monotonic()
            answer = await client.post(
                f"{service.http}/ingest/readings", json={}, headers={"X-API-Key": api_key}, timeout=20
            )
            assert (answer.status_code, answer.headers["retry-after"].isdecimal()) == (503, True)
            assert time.monotonic() - started_s < ANSWER_S
        await asyncio.to_thread(postgres_server.start)
        await watch.until_ready(20)
        async with asyncio.timeout(60):
            await load.run()
        await prove(load.books, service)
    finally:
        await watch.close()
