"""The store over connections that are cut, stranded or stalled, and when its books were closed meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from bridge.errors import InstanceExpired, StoreUnavailable
from bridge.model.reading import Batch, Code, LedgerLine, Outcome, Reading, Source, TsQuality
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from tests.support.plant import Plant, at, connect, us
from tests.support.servers import PostgresServer, TcpProxy, until

NOW_US = 1_769_594_400_000_000
HELD = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 7001 AND objid = %s::integer::oid AND granted"
WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ingest_batch%' AND state = 'active'"
)


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(postgres_server.socket_path) as made:
        yield made


@pytest.fixture
async def store(proxy: TcpProxy, postgres_url: str) -> AsyncIterator[PostgresStore]:
    """Its statements have a second, and it reaches the database through the proxy."""
    settings = DatabaseSettings(url=proxy.in_place_of(postgres_url), statement_timeout_s=1.0)
    made = PostgresStore(settings, "test")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


def batch(plant: Plant, number: int) -> Batch:
    reading = Reading(plant.sensor, 20.0, NOW_US + number, NOW_US, plant.device, "temperature", Source.HTTP)
    return Batch(number, [reading], ledger=[LedgerLine(plant.device, Source.HTTP, number, 0)])


async def test_store_says_what_it_refuses_and_where_it_has_stored(store: PostgresStore, plant: Plant) -> None:
    def of(value: float, second: float = 0, sequence: int | None = None) -> Reading:
        return Reading(
            plant.sensor, value, us(second), us(0), plant.device, "temperature", Source.HTTP, sequence=sequence
        )

    await store.write(Batch(1, [of(1.0), of(1.0, 5, 7)]))
    committed = await store.write(Batch(2, [of(2.0), of(1.0), of(2.0, 5, 7), of(9.0, 9)]))
    assert list(committed.outcomes) == [Outcome.STORED, Outcome.DUPLICATE, Outcome.QUARANTINED, Outcome.STORED]
    assert committed.rejected == {
        2: (
            Code.CONFLICTING_IDENTITY,
            "at 2026-03-01T12:00:05.000000Z with sequence 7 there is 1, not 2",
        )
    }
    assert list(committed.stored_ts_us) == [us(0) + 1, us(0), us(5), us(9)]
    assert (await store.write(Batch(3, [of(3.0, 20)]))).stored_ts_us == ()
    assert plant.all("SELECT * FROM quarantine") == [], "the pipeline keeps it, with its bytes"


async def test_store_keeps_whose_clock_a_time_is(store: PostgresStore, plant: Plant) -> None:
    readings = [
        Reading(
            plant.sensor, 1.0, us(n), us(n), plant.device, "temperature", Source.MQTT, ts_quality=quality, key=f"k{n}"
        )
        for n, quality in enumerate(TsQuality)
    ]
    await store.write(Batch(1, readings))
    rows = plant.all('SELECT clock, device_timestamp FROM sensor_readings ORDER BY "timestamp"')
    assert [(row["clock"], row["device_timestamp"]) for row in rows] == [
        ("device", at(0)),
        ("gateway", None),
        ("server", None),
        ("computed", None),
        ("estimated", None),
    ]


async def written(store: PostgresStore, wanted: Batch) -> float:
    """Write it, again after each failure, as the pipeline does; how long it took."""
    started_s = time.monotonic()

    async def once() -> bool:
        try:
            await store.write(wanted)
        except StoreUnavailable:
            return False
        return True

    await until(once, 20)
    return time.monotonic() - started_s


async def test_store_says_of_a_batch_in_doubt_what_became_of_it(
    store: PostgresStore, proxy: TcpProxy, plant: Plant, postgres_url: str
) -> None:
    """The connection is lost while the batch waits for a lock: the server does not know, and would commit it."""
    await store.write(batch(plant, 1))
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM sensor_readings_latest FOR UPDATE")
        writing = asyncio.create_task(store.write(batch(plant, 2)))
        await until(lambda: plant.all(WAITING.replace("%", "%%")))
        proxy.cut()
        with pytest.raises(StoreUnavailable) as lost:
            await writing
        assert lost.value.in_doubt
        committed = await store.was_committed(2)
    # Whatever was waiting for the lock has it now.
    await until(lambda: not plant.all(WAITING.replace("%", "%%")))
    assert len(plant.values) == (2 if committed else 1)
    await store.write(batch(plant, 3))


async def test_store_leaves_stranded_connections(store: PostgresStore, proxy: TcpProxy, plant: Plant) -> None:
    """The server keeps the lost session, which holds the lock of this instance, and knows nothing."""
    instance = store.instance
    await store.write(batch(plant, 1))
    assert await store.find_sensors([plant.sensor], [], [])
    proxy.strand()
    assert await written(store, batch(plant, 2)) < 10
    assert store.instance == instance
    assert plant.one(HELD.replace("%s", "%(id)s"), id=instance)

    started_s = time.monotonic()
    assert await store.find_sensors([plant.sensor], [], [])
    assert time.monotonic() - started_s < 10


async def test_store_gives_up_on_a_stalled_server(store: PostgresStore, proxy: TcpProxy, plant: Plant) -> None:
    """No answer is no answer within the statement timeout, and once it answers again it is used again."""
    await store.write(batch(plant, 1))
    proxy.stall()
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailable) as lost:
        await store.write(batch(plant, 2))
    assert time.monotonic() - started_s < 5
    assert lost.value.in_doubt
    proxy.resume()
    committed = await until(lambda: _asked(store, 2), 20)
    await until(
        lambda: (
            not plant.all(
                "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%ingest_batch%%'"
                " AND pid <> pg_backend_pid()"
            )
        )
    )
    assert len(plant.values) == (2 if committed == "yes" else 1)


async def _asked(store: PostgresStore, number: int) -> str:
    try:
        return "yes" if await store.was_committed(number) else "no"
    except StoreUnavailable:
        return ""


async def test_store_whose_books_were_closed_says_so_and_begins_new_ones(
    store: PostgresStore, proxy: TcpProxy, plant: Plant
) -> None:
    """A process that was cut off for long looks dead to the others."""
    first = store.instance
    await store.write(batch(plant, 1))
    proxy.cut()
    await until(lambda: not plant.all(HELD.replace("%s", "%(id)s"), id=first), 20)
    assert plant.one("SELECT fold_dead_instances_v1(interval '0') AS folded") == {"folded": 1}
    with pytest.raises(StoreUnavailable):
        await store.write(batch(plant, 2))
    with pytest.raises(InstanceExpired):
        await store.write(batch(plant, 2))
    committed = await store.write(batch(plant, 1))
    assert committed.instance == store.instance != first
