"""The outbox table of PostgreSQL under a relay: what a dead process and other programs left is published."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

import psycopg

from bridge.broker.events import READINGS
from bridge.broker.memory import MemoryBroker
from bridge.broker.relay import Relay
from bridge.model.reading import Batch, Reading, Source
from bridge.settings.stores import BrokerSettings, DatabaseSettings
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.support.servers import until

DEVICE = "INSERT INTO devices (name) VALUES ('pump') RETURNING id"
SENSOR = "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, 't', 'temperature') RETURNING id"


async def registered(url: str) -> tuple[int, int]:
    """A device and its sensor."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        device = await (await connection.execute(DEVICE)).fetchone()
        assert device is not None
        sensor = await (await connection.execute(SENSOR, device)).fetchone()
        assert sensor is not None
        return device[0], sensor[0]


async def opened(url: str, name: str) -> PostgresStore:
    store = PostgresStore(DatabaseSettings(url=url), name)
    await store.open()
    return store


async def test_rows_of_dead_processes_and_other_programs_are_swept(postgres_url: str) -> None:
    device, sensor = await registered(postgres_url)
    now_us = 1_795_000_000_000_000

    def reading(second: int) -> Reading:
        ts_us = now_us + second * 1_000_000
        return Reading(sensor, float(second), ts_us, ts_us, device, "temperature", Source.MQTT, gateway="site-1")

    dead = await opened(postgres_url, "dead")
    lost = await dead.write(Batch(1, [reading(1), reading(2)]))
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(
            "SELECT sp_insert_reading_and_check_threshold(%s, 3.0, to_timestamp(%s))", (sensor, now_us / 1e6 + 3)
        )
    living = await opened(postgres_url, "living")
    table = PostgresOutbox(living)
    broker = MemoryBroker(BrokerSettings(), Metrics())
    relay = Relay(broker, table, BrokerSettings(relay_sweep_s=0.02), Metrics(), Random(1), lambda: now_us)
    await living.write(Batch(1, [reading(4)]))
    assert lost.outbox_id is not None
    assert await table.existing([lost.outbox_id, 10_000]) == {lost.outbox_id}
    assert (await table.stats())[0] == 3

    tasks = [asyncio.create_task(relay.run()), asyncio.create_task(relay.sweep_forever())]
    try:
        await shows(broker, ["3.0"])  # of no process; the other one lives
        await dead.close()
        await shows(broker, ["3.0", "1.0", "2.0"])
        relay.recover()  # as if the answer to the write had been lost
        await shows(broker, ["3.0", "1.0", "2.0", "4.0"])
        assert await relay.drain(5.0)
        assert await table.stats() == (0, 0.0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await living.close()
    fields = [message.fields for message in await broker.tail(READINGS, 10)]
    assert [entry["source"] for entry in fields] == ["sql", "mqtt", "mqtt", "mqtt"]
    assert [entry["gateway"] for entry in fields] == ["", "site-1", "site-1", "site-1"]
    assert {entry["sensor_type"] for entry in fields} == {"temperature"}
    assert {entry["device_id"] for entry in fields} == {str(device)}


async def test_sweep_that_is_cancelled_in_the_middle_ends(postgres_url: str) -> None:
    living = await opened(postgres_url, "living")
    broker = MemoryBroker(BrokerSettings(), Metrics())
    relay = Relay(broker, PostgresOutbox(living), BrokerSettings(), Metrics(), Random(1), lambda: 0)
    async with await psycopg.AsyncConnection.connect(postgres_url) as other:
        await other.execute("LOCK TABLE ingest_outbox IN ACCESS EXCLUSIVE MODE")
        sweep = asyncio.create_task(relay.sweep_forever())
        await until(partial(is_waiting_for_a_lock, postgres_url))
        sweep.cancel()
        await asyncio.wait({sweep}, timeout=10)
        assert sweep.cancelled()
    await living.close()


async def is_waiting_for_a_lock(url: str) -> bool:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        asked = await connection.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await asked.fetchone() is not None


async def shows(broker: MemoryBroker, values: list[str]) -> None:
    """Wait until the stream holds exactly `values`."""

    async def matches() -> bool:
        return [message.fields["value"] for message in await broker.tail(READINGS, 100)] == values

    await until(matches)


async def test_arrays_of_any_form_that_an_earlier_release_let_in_stop_nobody(postgres_url: str) -> None:
    _, sensor = await registered(postgres_url)
    store = await opened(postgres_url, "living")
    put = """
        INSERT INTO ingest_outbox (id, instance, stored_us, sensor_ids, "values", ts_us, sequences, received_us, keys,
                                   classes, sources, gateways, alerts, after_instance, after_outbox)
        VALUES (%s, 0, 5, %s, %s, %s, %s, %s, NULL, %s, %s, NULL, '[]', '{}', '{}')
    """
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        rows = [
            (1, [sensor], [1.0, 2.0], [10, 20], None, [10], [0], ["sql"]),
            (2, [sensor] * 2, [3.0, 4.0], [30, 40], [1], [30, 40], [0, 0], ["plc", None]),
            (3, [[sensor, sensor]], [5.0, 6.0], [50, 60], None, [50, 60], [0, 0], ["http", "sql"]),
        ]
        for row in rows:
            await connection.execute(put, row)
    async with PostgresOutbox(store).orphans(10) as batches:
        readings = [[(one.value, one.sequence, one.source) for one in batch.readings] for batch in batches]
    sql = Source.SQL
    assert readings == [
        [(1.0, None, sql)],
        [(3.0, 1, sql), (4.0, None, sql)],
        [(5.0, None, Source.HTTP), (6.0, None, sql)],
    ]
    await store.close()
