"""The relay against a real Redis that is killed, started again, hung, or comes back empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from bridge.broker.events import READINGS
from bridge.broker.message import StreamMessage
from bridge.broker.redis import RedisBroker
from bridge.broker.relay import Relay
from bridge.errors import BrokerUnavailable
from bridge.model.reading import Publication
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.telemetry import Metrics
from tests.support.outbox_table import MemoryOutboxTable
from tests.support.publications import START_US, event_ids, publication
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

SENSORS = range(20)


def connect(redis_server: RedisServer, timeout_s: float = 1.0) -> RedisBroker:
    return RedisBroker(RedisSettings(url=redis_server.url, timeout_s=timeout_s), BrokerSettings(), Metrics())


@asynccontextmanager
async def relaying(broker: RedisBroker, table: MemoryOutboxTable) -> AsyncIterator[Relay]:
    """A relay that runs and sweeps, with a queue that overflows when Redis is away."""
    settings = BrokerSettings(relay_queue_readings=2_000, relay_sweep_s=0.05)
    relay = Relay(broker, table, settings, Metrics(), Random(1), lambda: START_US)
    tasks = [asyncio.create_task(relay.run()), asyncio.create_task(relay.sweep_forever())]
    try:
        yield relay
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def found(redis_server: RedisServer) -> list[str]:
    """With patience: thousands of entries take a busy machine longer than these tests give a Redis that is away."""
    broker = connect(redis_server, timeout_s=20.0)
    try:
        return [message.fields["event_id"] for message in await broker.tail(READINGS, 100_000)]
    finally:
        await broker.close()


async def test_redis_killed_and_started_again_while_publishing(redis_server: RedisServer) -> None:
    broker, table = connect(redis_server), MemoryOutboxTable()
    rows: list[Publication] = []

    async def commit(count: int, relay: Relay) -> None:
        for _ in range(count):
            rows.append(publication(len(rows) + 1, sensors=SENSORS))
            table.commit(rows[-1])
            relay.enqueue(rows[-1])
            await asyncio.sleep(0.0005)

    async with relaying(broker, table) as relay:
        for _ in range(3):
            busy = asyncio.create_task(commit(300, relay))
            await eventually(lambda: len(rows) % 300 > 80)
            redis_server.kill()
            await busy
            await eventually(lambda: bool(relay.problem))
            redis_server.start()
            assert await relay.drain(20.0)
        assert relay.problem == ""
        assert await found(redis_server) == event_ids(*rows)
        assert table.rows == {}
    await broker.close()


async def test_two_processes_publish_each_row_once_and_in_order(redis_server: RedisServer) -> None:
    """Every row touches the same sensors, so that each must follow the other process's last one."""
    brokers = [connect(redis_server), connect(redis_server)]
    tables = [MemoryOutboxTable(1, living=[2]), MemoryOutboxTable(2, living=[1])]
    tables[1].rows = tables[0].rows  # one database
    rows: list[Publication] = []
    async with relaying(brokers[0], tables[0]) as one, relaying(brokers[1], tables[1]) as two:
        for outbox_id in range(1, 301):
            instance = Random(outbox_id).choice((1, 2))
            before = [(row.instance, row.outbox_id) for row in rows if row.instance != instance][-1:]
            rows.append(publication(outbox_id, instance=instance, sensors=SENSORS, depends_on=before))
            tables[0].commit(rows[-1])
        for relay, instance in ((two, 2), (one, 1)):
            for row in rows:
                if row.instance == instance:
                    relay.enqueue(row)
        assert await one.drain(20.0)
        assert await two.drain(20.0)
        assert await found(redis_server) == event_ids(*rows)
    for broker in brokers:
        await broker.close()


async def test_redis_that_comes_back_empty_goes_on(redis_server: RedisServer) -> None:
    broker, table = connect(redis_server), MemoryOutboxTable()
    await broker.ensure_group(READINGS, "ml-worker-group", start="$")
    async with relaying(broker, table) as relay:
        relay.enqueue(publication(1))
        assert await relay.drain(5.0)
        redis_server.flush()
        later = publication(3, depends_on=[(2, 2)])  # published by another process to the Redis that was
        relay.enqueue(later)
        assert await relay.drain(5.0)
        messages: list[StreamMessage] = []
        async with asyncio.timeout(5):
            while not messages:
                messages = await broker.read(READINGS, "ml-worker-group", "a", count=10, block_s=0.1)
        assert [message.fields["event_id"] for message in messages] == event_ids(later)
    await broker.close()


async def test_publish_to_a_redis_that_hangs_ends_and_may_be_repeated(redis_server: RedisServer) -> None:
    broker = connect(redis_server, timeout_s=0.3)
    await broker.publish(publication(1))
    redis_server.pause()
    async with asyncio.timeout(5):
        with pytest.raises(BrokerUnavailable):
            await broker.publish(publication(2))
        with pytest.raises(BrokerUnavailable):
            await broker.read(READINGS, "ml-worker-group", "a", count=1, block_s=0.1)
    redis_server.resume()
    await broker.publish(publication(2))
    assert await found(redis_server) == event_ids(publication(1), publication(2))
    await broker.close()


async def test_every_call_to_a_redis_that_is_away_says_so(redis_server: RedisServer) -> None:
    broker = connect(redis_server)
    redis_server.kill()
    calls = [
        broker.ping(),
        broker.publish(publication(1)),
        broker.append("iot:decisions", {"event_id": "1"}),
        broker.ensure_group(READINGS, "g"),
        broker.read(READINGS, "g", "a", count=1, block_s=0.1),
        broker.acknowledge(READINGS, "g", ["1-1"]),
        broker.claim(READINGS, "g", "a", min_idle_s=0, count=1),
        broker.tail(READINGS, 1),
        broker.read_after(READINGS, "0", 1, 0.1),
        broker.length(READINGS),
        broker.lag(READINGS),
    ]
    for call in calls:
        with pytest.raises(BrokerUnavailable):
            await call
    await broker.close()
