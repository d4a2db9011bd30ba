"""External ids in the registry: one sensor each, found in the same query as ids and UUIDs, and caches told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from bridge.model.reading import ExternalId, Sensor, SensorRef
from bridge.pipeline.resolve import Resolver
from bridge.settings.process import PipelineSettings
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.support.plant import Connection, Plant, connect

NAME = "tasmota/kitchen#AM2301.Temperature"


@pytest.fixture
def connection(postgres_url: str) -> Iterator[Connection]:
    with connect(postgres_url) as connection:
        yield connection


@pytest.fixture
def plant(connection: Connection) -> Plant:
    return Plant(connection)


def changes(connection: Connection) -> set[tuple[str, str]]:
    """What the change feed says since it was last asked."""
    rows = connection.execute("DELETE FROM registry_changes RETURNING kind, ref").fetchall()
    return {(row["kind"], row["ref"]) for row in rows}


def test_one_name_is_one_sensors(connection: Connection, plant: Plant) -> None:
    plant.add_sensor(external_id=NAME)
    with pytest.raises(psycopg.errors.UniqueViolation):
        plant.add_sensor(external_id=NAME)
    plant.add_sensor()  # as many as like have none


def test_caches_are_told_of_old_and_new_names(connection: Connection, plant: Plant) -> None:
    sensor = plant.add_sensor(external_id=NAME)
    assert ("external", NAME) in changes(connection)
    connection.execute("UPDATE sensors SET external_id = 'value/a#b' WHERE id = %s", [sensor])
    assert {("external", NAME), ("external", "value/a#b"), ("sensor", str(sensor))} <= changes(connection)
    connection.execute("UPDATE sensors SET unit_factor = 2 WHERE id = %s", [sensor])
    assert {("external", "value/a#b"), ("sensor", str(sensor))} <= changes(connection)
    connection.execute("UPDATE sensors SET operational_state = 'STALE' WHERE id = %s", [sensor])
    assert changes(connection) == set()
    connection.execute("DELETE FROM sensors WHERE id = %s", [sensor])
    assert ("external", "value/a#b") in changes(connection)


def test_resolver_finds_all_kinds_of_names_in_one_query(plant: Plant, postgres_url: str) -> None:
    named = plant.add_sensor(external_id=NAME, unit_factor=0.5, unit_offset=1.0)
    lookups: list[tuple[int, ...]] = []

    async def load() -> dict[SensorRef, Sensor]:
        store = PostgresStore(DatabaseSettings(url=postgres_url), "test")
        await store.open_pool()
        find = store.find_sensors

        class Counted:
            async def find_sensors(self, *names: list[str]) -> list[Sensor]:
                lookups.append(tuple(map(len, names)))
                return await find(*names)  # type: ignore[arg-type]

        try:
            resolver = Resolver(Counted(), PipelineSettings(), Metrics(), lambda: 0.0)  # type: ignore[arg-type]
            refs: list[SensorRef] = [plant.sensor, ExternalId(NAME), ExternalId("value/nobody#x")]
            found = await resolver.load(refs)
            assert resolver.get(ExternalId("value/nobody#x")) is None
            assert resolver.get(ExternalId(NAME)) == found[ExternalId(NAME)]
            resolver.invalidate([ExternalId(NAME)])
            assert resolver.get(ExternalId(NAME)) not in (None, found[ExternalId(NAME)])
            return dict(found)
        finally:
            await store.close()

    found = asyncio.run(load())
    assert lookups == [(1, 0, 2)]
    sensor = found[ExternalId(NAME)]
    assert (sensor.sensor_id, sensor.external_id, sensor.unit_factor, sensor.unit_offset) == (named, NAME, 0.5, 1.0)
    assert found[plant.sensor].external_id is None
