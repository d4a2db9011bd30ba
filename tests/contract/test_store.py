"""What every `Store` promises, held against PostgreSQL and against the spool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from bridge.errors import StoreRefused
from bridge.model.reading import Batch, Outcome, Reading, Source, TsQuality
from bridge.pipeline.ports import Store
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from tests.support.spool_site import NOW_US, junk, make_spool

STORED, DUPLICATE = Outcome.STORED, Outcome.DUPLICATE


class Open(Protocol):
    def __call__(self) -> AbstractAsyncContextManager[Store]: ...


@pytest.fixture(params=["postgres", "spool"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the store of this test: again, where it was open before."""
    if request.param == "spool":

        @asynccontextmanager
        async def spool() -> AsyncIterator[Store]:
            store = make_spool(tmp_path)
            yield store
            await store.close()

        return spool

    url: str = request.getfixturevalue("postgres_url")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO devices (name) VALUES ('pump')")
        for name in ("inlet", "outlet"):
            connection.execute(
                "INSERT INTO sensors (device_id, name, sensor_type) SELECT id, %s, 'temperature' FROM devices", (name,)
            )

    @asynccontextmanager
    async def postgres() -> AsyncIterator[Store]:
        store = PostgresStore(DatabaseSettings(url=url), "contract")
        await store.open()
        yield store
        await store.close()

    return postgres


def reading(second: int, *, sensor: int = 1, value: float = 20.0, **columns: Any) -> Reading:
    ts_us = NOW_US + second * 1_000_000
    usual = {"source": Source.MQTT, "ts_quality": TsQuality.DEVICE}
    return Reading(sensor, value, ts_us, ts_us, 1, "temperature", **(usual | columns))


def keyed(second: int, key: str, **columns: Any) -> Reading:
    return reading(second, key=key, ts_quality=TsQuality.SERVER, **columns)


async def outcomes(store: Store, number: int, *readings: Reading) -> list[int]:
    return list((await store.write(Batch(number, readings))).outcomes)


async def test_outcomes_run_parallel_to_readings(open_store: Open) -> None:
    async with open_store() as store:
        committed = await store.write(Batch(1, [reading(n) for n in range(5)], [junk(device=1)]))
        assert list(committed.outcomes) == [STORED] * 5
        assert len(committed.classes) == 5
        assert committed.outbox_id is not None
        assert await outcomes(store, 2, reading(5), reading(1), reading(6)) == [STORED, DUPLICATE, STORED]


async def test_reading_twice_in_a_batch_is_stored_once(open_store: Open) -> None:
    async with open_store() as store:
        assert await outcomes(store, 1, reading(1), reading(1)) == [STORED, DUPLICATE]
        assert await outcomes(store, 2, keyed(2, "k"), keyed(3, "k")) == [STORED, DUPLICATE]


async def test_sensor_time_and_sequence_are_the_identity(open_store: Open) -> None:
    async with open_store() as store:
        variants = [reading(1), reading(1, sensor=2), reading(2), reading(1, sequence=1), reading(1, sequence=0)]
        assert await outcomes(store, 1, *variants) == [STORED] * 5
        assert await outcomes(store, 2, *variants) == [DUPLICATE] * 5
        assert await outcomes(store, 3, reading(1, source=Source.HTTP)) == [DUPLICATE]


async def test_another_value_at_one_time_is_another_reading(open_store: Open) -> None:
    """Known by its value, however often either comes again. PostgreSQL stores it a microsecond later, the spool as it
    came: what is handed over has its own time.
    """
    async with open_store() as store:
        first = await store.write(Batch(1, [reading(1), reading(1, value=21.0), reading(1), reading(1, value=21.0)]))
        assert list(first.outcomes) == [STORED, STORED, DUPLICATE, DUPLICATE]
        later = (reading(1, value=22.0), reading(1, value=21.0), reading(1))
        assert await outcomes(store, 2, *later) == [STORED, DUPLICATE, DUPLICATE]
    async with open_store() as store:
        assert await outcomes(store, 1, *later, reading(1, value=23.0)) == [DUPLICATE] * 3 + [STORED]
        if isinstance(store, PostgresStore):
            assert first.stored_ts_us is not None
            assert [ts_us - reading(1).ts_us for ts_us in first.stored_ts_us][:2] == [0, 1]
        else:
            assert not first.stored_ts_us


async def test_key_is_the_identity_where_the_time_is_ours(open_store: Open) -> None:
    async with open_store() as store:
        assert await outcomes(store, 1, keyed(1, "a"), keyed(1, "b", sequence=7)) == [STORED, STORED]
        assert await outcomes(store, 2, keyed(60, "a")) == [DUPLICATE]


async def test_first_delivery_under_a_used_key_is_stored(open_store: Open) -> None:
    async with open_store() as store:
        await outcomes(store, 1, keyed(1, "m"))
        assert await outcomes(store, 2, keyed(60, "m", redelivered=False)) == [STORED]


async def test_duplicates_alone_have_nothing_to_publish(open_store: Open) -> None:
    async with open_store() as store:
        await outcomes(store, 1, reading(1))
        assert (await store.write(Batch(2, [reading(1)]))).outbox_id is None


@pytest.mark.parametrize("sequence", [1 << 63, -(1 << 63) - 1])
async def test_poisonous_row_refuses_the_batch_and_writes_nothing(open_store: Open, sequence: int) -> None:
    async with open_store() as store:
        with pytest.raises(StoreRefused):
            await store.write(Batch(1, [reading(1), reading(2, sequence=sequence)]))
        assert not await store.was_committed(1)
        assert await outcomes(store, 2, reading(1)) == [STORED]


async def test_committed_batches_are_known(open_store: Open) -> None:
    async with open_store() as store:
        await outcomes(store, 1, reading(1))
        await store.write(Batch(2, (), [junk(device=1)]))
        assert await store.was_committed(2)
        assert not await store.was_committed(3)


async def test_what_was_stored_is_known_after_a_restart(open_store: Open) -> None:
    async with open_store() as store:
        await outcomes(store, 1, reading(1), keyed(2, "k"))
    async with open_store() as store:
        assert not await store.was_committed(1)  # of another instance
        assert await outcomes(store, 1, reading(1), keyed(3, "k"), reading(4)) == [DUPLICATE, DUPLICATE, STORED]
