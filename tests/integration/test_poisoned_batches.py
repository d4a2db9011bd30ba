"""Batches with any number of rows that PostgreSQL refuses, in any of their lists: those are set apart, and no other.

Poison of the kinds that have got in, or could: numbers beyond a column, times beyond a calendar, NUL, sensors that are
gone, and CHECKs and triggers that an operator has added.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import httpx
import pytest
import structlog

from bridge.model.reading import (
    Batch,
    CommitResult,
    ExternalId,
    LedgerLine,
    Outcome,
    QuarantineRow,
    Reading,
    SensorRef,
    Source,
)
from bridge.pipeline.batch import NOT_STORED, BatchRow
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.write import BatchWriter
from bridge.settings.process import PipelineSettings
from bridge.settings.stores import DatabaseSettings
from bridge.store import admin
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.support.batch_rows import batch_row, outcome_of, quarantine_row
from tests.support.http_door import open_service
from tests.support.plant import Plant, connect
from tests.unit.test_write import Outbox

NOW_US = 1_769_594_400_000_000
BAD_VALUE = 66.0
BAD_ACCOUNT = "smoke"

READING_POISON: tuple[dict[str, Any], ...] = (
    {"value": float("nan")},
    {"value": BAD_VALUE},  # the CHECK
    {"value": BAD_VALUE + 1},  # the trigger
    {"sensor_id": 1 << 40},  # gone
    {"sensor_id": 1 << 64},
    {"ts_us": 1 << 63},
    {"ts_us": -(1 << 63)},
    {"received_us": -(1 << 63) - 1},
    {"sequence": 1 << 63},
    {"key": "a\0b"},
    {"key": "half a pair: \ud800"},
)
QUARANTINE_POISON: tuple[dict[str, Any], ...] = (
    {"index": 1 << 31},
    {"index": -(1 << 70)},
    {"received_us": -(1 << 63)},
    {"received_us": (1 << 63) - 1},
    {"detail": "NUL \0"},
    {"topic": "devices/\ud800/readings"},
    {"device_uuid": "no UUID"},
    {"identity": "x\0"},
    {"payload": b"evil"},  # the CHECK: all but its bytes is kept
)
LINE_POISON: tuple[dict[str, Any], ...] = (
    {"device_id": 1 << 64},
    {"source": "NUL \0"},
    {"source": BAD_ACCOUNT},
    {"received": 1 << 63},
)


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        connection.execute("ALTER TABLE sensor_readings ADD CONSTRAINT evil CHECK (value <> 66)")
        connection.execute(r"ALTER TABLE quarantine ADD CONSTRAINT evil CHECK (payload <> '\x6576696c'::bytea)")
        connection.execute("ALTER TABLE ingest_ledger ADD CONSTRAINT evil CHECK (source <> 'smoke')")
        connection.execute(
            "CREATE FUNCTION hate() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF NEW.value = 67 THEN RAISE EXCEPTION 'no 67'; END IF; RETURN NEW; END $$"
        )
        connection.execute("CREATE TRIGGER hate BEFORE INSERT ON sensor_readings FOR EACH ROW EXECUTE FUNCTION hate()")
        yield Plant(connection)


class CountedStore(PostgresStore):
    calls = 0

    async def write(self, batch: Batch) -> CommitResult:
        self.calls += 1
        return await super().write(batch)


@pytest.fixture
async def store(plant: Plant, postgres_url: str) -> AsyncIterator[CountedStore]:
    made = CountedStore(DatabaseSettings(url=postgres_url), "test")
    await made.open()
    with structlog.testing.capture_logs():
        yield made
    await made.close()


def mixed(random: Random, plant: Plant, run: int, size: int, bad: int) -> tuple[list[BatchRow], set[BatchRow]]:
    """A batch, and which of its readings are bad. Bad quarantine rows need no telling: all are kept in some form."""
    rows: list[BatchRow] = []
    poisoned: set[BatchRow] = set()
    places = set(random.sample(range(size), bad))
    for n in range(size):
        is_reading = random.random() < 0.7
        kinds = READING_POISON if is_reading else QUARANTINE_POISON
        poison = random.choice(kinds) if n in places else {}
        if is_reading:
            ts_us = NOW_US + run * 1_000_000 + n
            usual: dict[str, Any] = {"sensor_id": plant.sensor, "value": 20.0, "ts_us": ts_us, "received_us": NOW_US}
            columns: dict[str, Any] = usual | {
                "device_id": plant.device,
                "sensor_type": "temperature",
                "source": Source.HTTP,
            }
            row = batch_row(Reading(**(columns | poison)))
            poisoned |= {row} if poison else set()
        else:
            row = batch_row(quarantine_row(plant.device, **({"source": Source.HTTP} | poison)))
        rows.append(row)
    return rows, poisoned


def code_of(row: BatchRow) -> str:
    assert isinstance(row.content, QuarantineRow)
    return row.content.code


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_poisoned_in_a_batch_exactly_that_is_set_apart(
    store: CountedStore, plant: Plant, postgres_url: str, seed: int
) -> None:
    random = Random(seed)
    ledger = DoorLedger()
    writer = BatchWriter(store, Outbox(), ledger, store.instance, Metrics(), stalled_s=60)
    stored = kept = 0
    for run, (size, bad) in enumerate(((1_000, random.choice((0, 1, 7, 40))), (60, random.randint(0, 60)), (1, 1))):
        rows, poisoned = mixed(random, plant, run, size, bad)
        ledger.receive(plant.device, "http", size)
        bad_lines = random.sample(LINE_POISON, random.randint(0, len(LINE_POISON)))
        for line in bad_lines:
            given: dict[str, Any] = {"device_id": plant.device, "source": "mqtt", "received": 1} | line
            ledger.receive(given["device_id"], given["source"], given["received"])
        store.calls = 0
        await writer.write(rows)

        refused = {row for row in rows if isinstance(row.content, QuarantineRow)}
        assert {row for row in rows if row.receipt is None and outcome_of(row) != Outcome.STORED} == set()
        assert all(outcome_of(row) == Outcome.QUARANTINED for row in refused)
        assert poisoned <= refused
        assert {code_of(row) for row in refused - poisoned} <= {"bad_json"}
        assert {code_of(row) for row in poisoned} <= {"store_refused", "bad_value"}
        stored += len(rows) - len(refused)
        kept += len(refused)
        lists_at_fault = bad + len(bad_lines)
        assert store.calls <= 4 + 3 * 2 * 11 * lists_at_fault, "three forms, each found by halving"

    assert plant.one("SELECT count(*) AS n FROM sensor_readings") == {"n": stored}
    assert plant.one("SELECT count(*) AS n FROM quarantine") == {"n": kept}
    with admin.connect(postgres_url) as connection:
        assert connection.verify() == ([], [])
        (row,) = [row for row in connection.ledger() if row["device_id"] == plant.device]
    assert (row["stored"], row["quarantined"], row["pending"]) == (stored, kept, row["received"] - stored - kept)


async def test_line_that_is_refused_is_written_once_its_cause_is_gone(store: CountedStore, plant: Plant) -> None:
    ledger = DoorLedger()
    writer = BatchWriter(store, Outbox(), ledger, store.instance, Metrics(), stalled_s=60)
    ledger.receive(plant.device, BAD_ACCOUNT)
    ledger.receive(plant.device, "http")
    await writer.write([])
    assert ledger.set_aside == {(plant.device, BAD_ACCOUNT)}
    plant.connection.execute("ALTER TABLE ingest_ledger DROP CONSTRAINT evil")
    ledger.take_back()
    await writer.write([])
    assert plant.one("SELECT received FROM ingest_ledger WHERE source = %(s)s", s=BAD_ACCOUNT) == {"received": 1}
    assert LedgerLine(plant.device, BAD_ACCOUNT, 1, 0) not in ledger.take()


async def test_name_that_no_registry_can_hold_is_of_no_sensor_and_spares_the_others(
    store: CountedStore, plant: Plant
) -> None:
    resolver = Resolver(store, PipelineSettings(), Metrics(), time.monotonic)
    bad: list[SensorRef] = [ExternalId("roof#a\0b"), ExternalId("\ud800"), "no UUID", 1 << 64]
    good: list[SensorRef] = [plant.sensor, ExternalId("roof#t"), *range(1_000_000, 1_000_200)]
    answers = await resolver.answers([*good, *bad])
    assert [ref for ref, sensor in answers.items() if sensor is not None] == [plant.sensor]
    assert answers.keys() == {*good, *bad}


async def test_names_that_devices_make_up_by_the_thousand_cost_no_queries(store: CountedStore) -> None:
    resolver = Resolver(store, PipelineSettings(), Metrics(), time.monotonic)
    await store.close()
    names: list[SensorRef] = [ExternalId(f"roof#\0{number}") for number in range(1_000)]
    assert set((await resolver.answers([*names, 1 << 63])).values()) == {None}


async def test_words_of_the_database_go_to_quarantine_and_not_to_the_device(plant: Plant, postgres_url: str) -> None:
    async with open_service(postgres_url) as service, httpx.AsyncClient(timeout=20) as client:
        reading = {"sensor_id": plant.sensor, "value": BAD_VALUE}
        with admin.connect(postgres_url) as connection:
            headers = {"X-API-Key": connection.add_api_key("test", None)["api_key"]}
        answer = await client.post(f"{service.url}/ingest/readings", json=reading, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["rejected"] == [{"index": 0, "code": "store_refused", "detail": NOT_STORED}]
    kept = plant.one("SELECT detail FROM quarantine")["detail"]
    assert kept.startswith("new row for relation")
    assert kept.endswith('violates check constraint "evil"')
