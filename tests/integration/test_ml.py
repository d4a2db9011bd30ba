"""The ML consumer against a real database: what it writes, keeps, and goes on from."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bridge.broker.events import READINGS
from bridge.broker.redis import RedisBroker
from bridge.consumers.api import Event
from bridge.consumers.builtin import predictor
from bridge.consumers.ml import MlWorker
from bridge.consumers.predictor import Baseline
from bridge.errors import ConfigError, StoreUnavailable
from bridge.settings.consumers import MlSettings
from bridge.settings.stores import BrokerSettings, DatabaseSettings, RedisSettings
from bridge.store.consumer_states import PostgresConsumerStates
from bridge.store.postgres import PostgresStore
from bridge.store.predictions import PostgresPredictions
from bridge.store.registry import PostgresRegistry
from bridge.telemetry import Metrics
from tests.support.consumer_process import ConsumerProcess
from tests.support.plant import Plant, connect
from tests.support.servers import PostgresServer, RedisServer, until

STEP_S = 10.0


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


def now_us() -> int:
    return time.time_ns() // 1_000


@asynccontextmanager
async def opened(url: str, settings: MlSettings | None = None) -> AsyncIterator[MlWorker]:
    store = PostgresStore(DatabaseSettings(url=url, statement_timeout_s=5), "test")
    await store.open_pool()
    chosen = settings or MlSettings()
    states, table = PostgresConsumerStates(store, "baseline-1"), PostgresPredictions(store)
    worker = MlWorker(chosen, Baseline(chosen), states, table, Metrics(), now_us)
    await worker.start()
    try:
        yield worker
        await worker.keep_all()
    finally:
        await store.close()


def reading(sensor: int, number: int, value: float, label: str = "clean") -> Event:
    """Reading `number` of a series that ends about now, at 1,000."""
    at = time.time() - (1_000 - number) * STEP_S
    fields = {"event_id": f"{sensor}-{number}", "sensor_id": str(sensor), "value": str(value), "class": label}
    return Event(READINGS, f"{sensor}-{number}", fields | {"timestamp": f"{at:.6f}"})


def series(sensor: int, first: int, last: int) -> list[Event]:
    random = Random(sensor)
    return [reading(sensor, number, random.gauss(20, 0.5)) for number in range(first, last)]


def rows(plant: Plant, which: str = "true") -> list[dict[str, Any]]:
    return plant.all(f"SELECT * FROM predictions WHERE {which} ORDER BY target_timestamp, id")


async def test_predictions_are_written_for_what_is_to_come(postgres_url: str, plant: Plant) -> None:
    async with opened(postgres_url) as worker:
        await worker.handle(series(plant.sensor, 0, 1_000))
    written = rows(plant)
    assert 1 <= len(written) <= 4  # those of the older readings are past before they are made
    newest = written[-1]
    assert newest["predicted_value"] == pytest.approx(20, abs=0.5)
    assert newest["model_id"] == "baseline-1"
    assert newest["confidence"] > 0.8
    assert not newest["is_anomaly"]
    store = PostgresStore(DatabaseSettings(url=postgres_url), "test")
    await store.open_pool()
    status = await PostgresRegistry(store).sensor_status(plant.sensor)
    await store.close()
    assert status is not None
    assert status["final_state"] == "prediction"
    assert status["prediction_current"]["model_id"] == "baseline-1"


async def test_second_reading_of_a_sensor_is_predicted_from(postgres_url: str, plant: Plant) -> None:
    async with opened(postgres_url) as worker:
        await worker.handle(series(plant.sensor, 998, 1_000))
    assert len(rows(plant)) == 1


async def test_anomaly_is_flagged_once_for_as_long_as_it_lasts(postgres_url: str, plant: Plant) -> None:
    async with opened(postgres_url) as worker:
        await worker.handle(series(plant.sensor, 0, 500))
        await worker.handle([reading(plant.sensor, number, 80.0, "alert") for number in range(500, 520)])
        await worker.handle([reading(plant.sensor, number, 80.0, "alert") for number in range(540, 541)])
    first, later = rows(plant, "is_anomaly")
    assert first["anomaly_score"] > 6
    assert first["predicted_value"] == pytest.approx(20, abs=0.5)
    assert (later["target_timestamp"] - first["target_timestamp"]).total_seconds() >= 300


async def test_restart_does_not_warm_up_again(postgres_url: str, plant: Plant) -> None:
    async with opened(postgres_url) as worker:
        await worker.handle(series(plant.sensor, 0, 500))
    async with opened(postgres_url) as worker:
        await worker.handle([reading(plant.sensor, 501, 80.0)])
    assert len(rows(plant, "is_anomaly")) == 1


async def test_events_that_come_again_write_and_teach_nothing(postgres_url: str, plant: Plant) -> None:
    events = [*series(plant.sensor, 0, 999), reading(plant.sensor, 999, 80.0)]
    async with opened(postgres_url) as worker:
        await worker.handle(events)
        known = worker._predictor.export(plant.sensor)
        await worker.handle(events)
        assert worker._predictor.export(plant.sensor) == known
    count = len(rows(plant))
    async with opened(postgres_url) as worker:
        await worker.handle(events)
    assert len(rows(plant)) == count


async def test_database_away_while_predictions_are_written(
    postgres_url: str, plant: Plant, postgres_server: PostgresServer
) -> None:
    sensor = plant.sensor
    plant.connection.close()
    async with opened(postgres_url) as worker:
        events = [*series(sensor, 0, 500), reading(sensor, 500, 80.0)]
        postgres_server.stop("immediate")
        with pytest.raises(StoreUnavailable):
            await worker.handle(events)
        postgres_server.start()

        async def handled() -> bool:
            try:
                await worker.handle(events)
            except StoreUnavailable:
                return False
            return True

        await until(handled, 30)
    with connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) AS n FROM predictions WHERE is_anomaly").fetchone() == {"n": 1}


async def test_sensor_that_is_gone_holds_up_no_other(postgres_url: str, plant: Plant) -> None:
    async with opened(postgres_url) as worker:
        await worker.handle([*series(plant.sensor + 1, 900, 1_000), *series(plant.sensor, 900, 1_000)])
    assert {row["sensor_id"] for row in rows(plant)} == {plant.sensor}


async def test_ten_thousand_sensors_are_kept_bit_by_bit(postgres_url: str, plant: Plant) -> None:
    settings = MlSettings(max_sensors=10_000)
    async with opened(postgres_url, settings) as worker:
        await worker.handle([reading(sensor, number, 20.0) for number in (900, 901) for sensor in range(1, 11_001)])
        for _ in range(10):
            await worker.tick()
        kept = plant.one("SELECT count(*) AS n FROM consumer_states")["n"]
        assert 1_000 <= kept <= 3_000
    assert plant.one("SELECT count(*) AS n, min(key) AS low FROM consumer_states") == {"n": 10_000, "low": 1_001}


async def test_old_predictions_are_dropped(postgres_url: str, plant: Plant) -> None:
    for days in (31, 1):
        plant.all(
            "INSERT INTO predictions (sensor_id, model_id, predicted_value, predicted_at, target_timestamp)"
            " VALUES (%(id)s, 'x', 1, now() - %(days)s * interval '1 day', now()) RETURNING id",
            id=plant.sensor,
            days=days,
        )
    async with opened(postgres_url) as worker:
        await worker.tick()
    assert len(rows(plant)) == 1


async def test_model_of_another_form_is_learned_anew(postgres_url: str, plant: Plant) -> None:
    plant.all("INSERT INTO consumer_states (consumer, key, state) VALUES ('baseline-1', 1, 'old') RETURNING key")
    async with opened(postgres_url) as worker:
        await worker.handle(series(1, 900, 1_000))


def test_predictor_that_is_not_there_is_named() -> None:
    assert predictor("baseline", MlSettings()).model_id == "baseline-1"
    with pytest.raises(ConfigError, match="no predictor 'oracle'; there are: baseline"):
        predictor("oracle", MlSettings())


async def test_process_reads_the_stream(
    postgres_url: str, plant: Plant, redis_server: RedisServer, tmp_path: Path
) -> None:
    broker = RedisBroker(RedisSettings(url=redis_server.url), BrokerSettings(), Metrics())
    process = ConsumerProcess(tmp_path, "ml", database__url=postgres_url, redis__url=redis_server.url)
    process.start()
    for event in [*series(plant.sensor, 800, 999), reading(plant.sensor, 999, 80.0)]:
        await broker.append(READINGS, event.fields)
    await until(lambda: rows(plant, "is_anomaly"), 30)
    assert process.stop() == 0, process.log
    assert plant.one("SELECT consumer, key FROM consumer_states") == {"consumer": "baseline-1", "key": plant.sensor}
    await broker.close()
