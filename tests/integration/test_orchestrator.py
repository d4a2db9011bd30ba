"""The orchestrator against a real database; and two processes of it, of which one works."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.broker.events import ALERTS, DECISIONS, READINGS
from bridge.broker.redis import RedisBroker
from bridge.consumers.api import Event
from bridge.consumers.orchestrator import Orchestrator
from bridge.errors import BrokerUnavailable
from bridge.settings.consumers import OrchestratorSettings
from bridge.settings.stores import BrokerSettings, DatabaseSettings, RedisSettings
from bridge.store.consumer_states import PostgresConsumerStates
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from bridge.telemetry import Metrics
from tests.support.consumer_process import ConsumerProcess
from tests.support.plant import Plant, connect
from tests.support.servers import RedisServer, until

QUICK = OrchestratorSettings(learn_readings=1, silence_min_s=5.0, silence_max_s=5.0)


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


class Collected:
    """Keeps what is appended; fails while `away` is above zero."""

    def __init__(self) -> None:
        self.fields: list[dict[str, str]] = []
        self.away = 0

    async def append(self, stream: str, fields: Mapping[str, str]) -> None:
        if self.away:
            self.away -= 1
            raise BrokerUnavailable("away")
        assert stream == DECISIONS
        self.fields.append(dict(fields))

    @property
    def names(self) -> list[str]:
        return [fields["decision"] for fields in self.fields]


class Clock:
    """The time of day, shifted."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> int:
        return time.time_ns() // 1_000 + round(self.ahead_s * 1e6)


@asynccontextmanager
async def opened(url: str, collected: Collected, clock: Clock | None = None) -> AsyncIterator[Orchestrator]:
    store = PostgresStore(DatabaseSettings(url=url), "test")
    await store.open_pool()
    table = PostgresConsumerStates(store, "orchestrator")
    made = Orchestrator(QUICK, table, table, collected, Metrics(), clock or Clock())
    await made.start()
    try:
        yield made
        await made.keep()
    finally:
        await store.close()


def reading(plant: Plant, number: int, at_s: float) -> Event:
    fields = {
        "event_id": f"r-{number}",
        "sensor_id": str(plant.sensor),
        "timestamp": f"{at_s:.6f}",
        "ingested_ts": f"{at_s:.6f}",
        "device_id": str(plant.device),
        "source": "http",
    }
    return Event(READINGS, f"{number}-{number}", fields)


def alert(plant: Plant, number: int, kind: str, severity: str = "critical") -> Event:
    fields = {
        "event_id": f"a-{number}-{kind}",
        "alert_id": str(number),
        "sensor_id": str(plant.sensor),
        "kind": kind,
        "severity": severity,
        "value": "99.5",
        "threshold_id": "",
        "triggered_at": f"{1_769_594_400 + number}.000000",
    }
    return Event(ALERTS, f"{number}-{number}", fields)


async def test_silent_device_is_offline_and_its_sensor_stale(postgres_url: str, plant: Plant) -> None:
    plant.store(20.0, 0.0, received_s=0.0)  # in the past, as the database's clock has it
    assert plant.seen()[0] == "online"
    collected, clock = Collected(), Clock()
    async with opened(postgres_url, collected, clock) as orchestrator:
        await orchestrator.handle([reading(plant, number, clock() / 1e6) for number in (1, 2)])
        await orchestrator.tick()
        assert collected.names == []
        clock.ahead_s = 10.0
        await orchestrator.tick()
        await orchestrator.tick()
    assert collected.names == ["device_offline"]
    [gone] = collected.fields
    assert gone["device_id"] == str(plant.device)
    assert gone["reason"].startswith("silent for")
    assert plant.seen()[0] == "offline"
    assert plant.state[0] == "STALE"
    store = PostgresStore(DatabaseSettings(url=postgres_url), "test")
    await store.open_pool()
    status = await PostgresRegistry(store).sensor_status(plant.sensor)
    await store.close()
    assert status is not None
    assert (status["operational_state"], status["device_status"]) == ("STALE", "offline")
    # Another process goes on where this one was.
    async with opened(postgres_url, collected, clock) as orchestrator:
        await orchestrator.tick()
        clock.ahead_s = 20.0
        await orchestrator.handle([reading(plant, 3, clock() / 1e6)])
    assert collected.names == ["device_offline", "device_back"]


async def test_stream_that_lags_is_no_silence(postgres_url: str, plant: Plant) -> None:
    plant.store(20.0, 0.0)
    plant.all(
        "UPDATE sensor_readings_latest SET received_at = now() WHERE sensor_id = %(id)s RETURNING sensor_id",
        id=plant.sensor,
    )
    collected, clock = Collected(), Clock()
    async with opened(postgres_url, collected, clock) as orchestrator:
        await orchestrator.handle([reading(plant, 1, clock() / 1e6 - 100)])
        await orchestrator.tick()
    assert collected.names == []
    assert plant.seen()[0] == "online"
    assert plant.state[0] == "NORMAL"


async def test_sensor_that_was_stale_already_is_not_asked_for_again(postgres_url: str, plant: Plant) -> None:
    plant.store(20.0, 0.0)
    plant.all("UPDATE sensors SET operational_state = 'STALE' RETURNING id")
    plant.all("UPDATE devices SET status = 'offline' RETURNING id")
    collected, clock = Collected(), Clock()
    async with opened(postgres_url, collected, clock) as orchestrator:
        await orchestrator.handle([reading(plant, 1, clock() / 1e6 - 100)])
        await orchestrator.tick()
        assert orchestrator._known.silent_sensors(clock()) == {}
        assert orchestrator._known.silent_devices(clock()) == {}
    assert collected.names == []


async def test_decisions_are_made_once_when_the_broker_fails_in_between(postgres_url: str, plant: Plant) -> None:
    collected = Collected()
    events = [alert(plant, 1, "alert"), alert(plant, 2, "resolved"), alert(plant, 3, "alert", "warning")]
    async with opened(postgres_url, collected) as orchestrator:
        collected.away = 2
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await orchestrator.handle(events)
        await orchestrator.handle(events)
    assert collected.names == ["escalate", "de_escalate", "escalate"]


async def test_process_that_died_before_it_acknowledged_decides_the_same(postgres_url: str, plant: Plant) -> None:
    collected = Collected()
    events = [alert(plant, 1, "alert"), alert(plant, 2, "resolved")]
    for _ in range(2):
        async with opened(postgres_url, collected) as orchestrator:
            await orchestrator.handle(events)
    assert len(collected.fields) == 4
    assert len({fields["event_id"] for fields in collected.fields}) == 2


async def test_one_of_two_processes_works_and_the_other_takes_over(
    postgres_url: str, plant: Plant, redis_server: RedisServer, tmp_path: Path
) -> None:
    broker = RedisBroker(RedisSettings(url=redis_server.url), BrokerSettings(), Metrics())

    def process() -> ConsumerProcess:
        return ConsumerProcess(
            tmp_path, "orchestrator", database__url=postgres_url, redis__url=redis_server.url, consumers__block_s="0.1"
        )

    async def decided() -> dict[str, str]:
        """By event id: a process that is killed before it acknowledges leaves one that comes again."""
        messages = await broker.tail(DECISIONS, 100)
        return {message.fields["event_id"]: message.fields["decision"] for message in messages}

    async def has_decided(count: int) -> bool:
        return len(await decided()) >= count

    first, second = process(), process()
    first.start()
    second.launch()
    await until(lambda: "standing by" in second.log, 30)
    await broker.append(ALERTS, alert(plant, 1, "alert").fields)
    await until(lambda: has_decided(1), 30)
    first.kill()
    await broker.append(ALERTS, alert(plant, 2, "resolved").fields)
    second.wait_ready()
    await until(lambda: has_decided(2), 30)
    assert list((await decided()).values()) == ["escalate", "de_escalate"]
    assert second.stop() == 0, second.log
    await broker.close()


async def test_process_that_loses_its_turn_begins_anew(
    postgres_url: str, plant: Plant, redis_server: RedisServer, tmp_path: Path
) -> None:
    worker = ConsumerProcess(tmp_path, "orchestrator", database__url=postgres_url, redis__url=redis_server.url)
    worker.start()
    plant.all(
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l"
        " WHERE l.locktype = 'advisory' AND l.classid = 7005 AND l.granted"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    worker.wait_ready()  # a second time
    assert "database_lost" in worker.log
    assert worker.stop() == 0, worker.log
