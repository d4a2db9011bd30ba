"""Processes of the release before identities had values, which call `ingest_batch_v2`: nothing that they are told is
taken for something else, and nothing of theirs is lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from bridge.errors import StoreRefused
from bridge.model.reading import (
    Batch,
    Code,
    CommitResult,
    LedgerLine,
    Outcome,
    QuarantineRow,
    Reading,
    Source,
    TsQuality,
)
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.write import BatchWriter
from bridge.settings.stores import DatabaseSettings
from bridge.store import admin
from bridge.store.faults import translate
from bridge.store.postgres import arguments
from bridge.telemetry import Metrics
from tests.support.batch_rows import batch_row, outcome_of
from tests.support.plant import Connection, Plant, at, connect, us
from tests.unit.test_write import Outbox

V2 = """
    SELECT outcomes, classes, stored_us, outbox_id FROM ingest_batch_v2(
        %(instance)s::integer, %(batch)s::bigint,
        %(device_ids)s::bigint[], %(sensor_ids)s::bigint[], %(values)s::double precision[], %(ts_us)s::bigint[],
        %(sequences)s::bigint[], %(received_us)s::bigint[], %(device_time)s::boolean[], %(keys)s::text[],
        %(fresh)s::boolean[], %(redelivered)s::boolean[], %(sources)s::text[], %(gateways)s::text[],
        %(q_codes)s::text[], %(q_details)s::text[], %(q_payloads)b::bytea[], %(q_sources)s::text[],
        %(q_topics)s::text[], %(q_gateways)s::text[], %(q_device_ids)s::bigint[], %(q_device_uuids)s::uuid[],
        %(q_indexes)s::integer[],
        %(q_received_us)s::bigint[], %(q_identities)s::text[],
        %(l_device_ids)s::bigint[], %(l_sources)s::text[], %(l_received)s::bigint[], %(l_returned)s::bigint[],
        %(published)s::bigint[],
        %(q_senders)s::text[], %(q_account_uuids)s::uuid[], %(q_remedies)s::boolean[], %(q_quota)s::bigint[])
"""


class FormerStore:
    """What the release before makes of a batch and of its answer. Implements `Store`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        made = connection.execute("INSERT INTO ingest_instances (name) VALUES ('former') RETURNING id").fetchone()
        assert made is not None
        self.instance = made["id"]

    async def write(self, batch: Batch) -> CommitResult:
        given = arguments(self.instance, batch, DatabaseSettings(), 0)
        given["device_time"] = [reading.ts_quality != TsQuality.SERVER for reading in batch.readings]
        try:
            row = self._connection.execute(V2.encode(), given).fetchone()
        except psycopg.Error as error:
            raise translate(error, sent=True) from error
        assert row is not None
        assert set(row["outcomes"]) <= {0, 1}
        return CommitResult(row["outcomes"], row["classes"], row["stored_us"], row["outbox_id"])

    async def was_committed(self, number: int) -> bool:
        return False


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


@pytest.fixture
def store(plant: Plant) -> FormerStore:
    return FormerStore(plant.connection)


def reading(plant: Plant, value: float, second: float = 0, **columns: object) -> Reading:
    usual = {"source": Source.MQTT, "device_id": plant.device, "sensor_type": "temperature"}
    return Reading(plant.sensor, value, us(second), us(0), **(usual | columns))  # type: ignore[arg-type]


async def test_former_process_stores_and_knows_duplicates(store: FormerStore, plant: Plant) -> None:
    batch = [reading(plant, 1.0), reading(plant, 1.0), reading(plant, 2.0, 1, sequence=1)]
    assert (await store.write(Batch(1, batch))).outcomes == [0, 1, 0]
    assert (await store.write(Batch(2, batch))).outcomes == [1, 1, 1]
    assert plant.values == [1.0, 2.0]


@pytest.mark.parametrize(
    "other",
    [
        {"value": 2.0, "sequence": 1},
        {"value": 2.0, "second": 1},  # would be stored a microsecond later than its process publishes
        {"value": float("nan"), "second": 9},
        {"value": 60.0, "second": 9},
        {"value": 2.0, "second": 9, "key": "k", "ts_quality": TsQuality.SERVER},
    ],
)
async def test_what_a_former_process_does_not_know_is_refused(
    store: FormerStore, plant: Plant, other: dict[str, object]
) -> None:
    plant.connection.execute("UPDATE sensors SET max_value = 50")
    known = [
        reading(plant, 1.0, sequence=1),
        reading(plant, 1.0, 1),
        reading(plant, 1.0, 2, key="k", ts_quality=TsQuality.SERVER),
    ]
    await store.write(Batch(1, known))
    with pytest.raises(StoreRefused):
        await store.write(Batch(2, [reading(plant, 3.0, 5), reading(plant, **other)]))  # type: ignore[arg-type]
    assert plant.values == [1.0, 1.0, 1.0]


async def test_batch_of_a_former_process_loses_nothing(store: FormerStore, plant: Plant, postgres_url: str) -> None:
    ledger = DoorLedger()
    writer = BatchWriter(store, Outbox(), ledger, store.instance, Metrics(), stalled_s=60)
    rows = [batch_row(reading(plant, float(n % 3), n // 2)) for n in range(40)]
    ledger.receive(plant.device, "mqtt", 40)
    await writer.write(rows)
    outcomes = [outcome_of(row) for row in rows]
    assert outcomes == [Outcome.STORED, Outcome.QUARANTINED] * 20
    refused = [row.content for row in rows if isinstance(row.content, QuarantineRow)]
    assert {row.code for row in refused} == {Code.STORE_REFUSED}
    assert all("another reading of this sensor and time" in row.detail for row in refused)
    assert Code.STORE_REFUSED.has_remedy, "the new process stores them in a replay"
    with admin.connect(postgres_url) as books:
        assert books.verify()[0] == []


async def test_clock_of_a_former_gateway_is_told_from_the_devices(store: FormerStore, plant: Plant) -> None:
    gateway = {"gateway": "north", "key": "g-1", "ts_quality": TsQuality.GATEWAY}
    await store.write(
        Batch(
            1,
            [
                reading(plant, 1.0, 1, **gateway),
                reading(plant, 2.0, 2, gateway="north"),
                reading(plant, 3.0, 3, ts_quality=TsQuality.SERVER),
            ],
            ledger=[LedgerLine(plant.device, "mqtt", 3, 0)],
        )
    )
    rows = plant.all('SELECT * FROM sensor_readings ORDER BY "timestamp"')
    assert [(row["clock"], row["device_timestamp"]) for row in rows] == [
        ("gateway", None),
        ("device", at(2)),
        ("server", None),
    ]
