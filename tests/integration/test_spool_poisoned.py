"""Batches with rows that the spool can never keep: those are set apart, and it goes on with all others."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from bridge.model.reading import Outcome, QuarantineRow, Reading, Source
from bridge.pipeline.batch import BatchRow
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.write import BatchWriter
from bridge.telemetry import Metrics
from tests.support.batch_rows import batch_row, outcome_of, quarantine_row
from tests.support.spool_site import imbalance, make_spool, read_all, reading
from tests.unit.test_write import Outbox

READING_POISON: tuple[dict[str, Any], ...] = (
    {"value": float("nan")},
    {"ts_us": 1 << 63},
    {"ts_us": (1 << 63) - 1, "received_us": -(1 << 63)},
    {"sequence": 1 << 63},
    {"sensor_id": 1 << 70},
)
QUARANTINE_POISON: tuple[dict[str, Any], ...] = (
    {"index": 1 << 63},
    {"index": -(1 << 70)},
    {"received_us": 1 << 63},
    {"topic": "devices/\ud800/readings"},
    {"device_uuid": "half a pair: \ud800"},
)
LINE_POISON: tuple[dict[str, Any], ...] = ({"device_id": 1 << 64}, {"source": "smoke"}, {"received": 1 << 63})


@pytest.mark.parametrize("seed", range(4))
async def test_one_record_that_the_spool_cannot_keep_does_not_stop_it(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    spool = make_spool(tmp_path)
    ledger = DoorLedger()
    writer = BatchWriter(spool, Outbox(), ledger, 1, Metrics(), stalled_s=60)
    rows: list[BatchRow] = []
    poisoned: set[BatchRow] = set()
    for number in range(300):
        poison = random.random() < 0.1
        if random.random() < 0.7:
            made = msgspec.structs.replace(reading(number), **(random.choice(READING_POISON) if poison else {}))
            rows.append(batch_row(made))
            poisoned |= {rows[-1]} if poison else set()
        else:
            rows.append(batch_row(quarantine_row(1, **(random.choice(QUARANTINE_POISON) if poison else {}))))
        ledger.receive(rows[-1].content.device_id, rows[-1].content.source)
    for line in LINE_POISON:
        given: dict[str, Any] = {"device_id": 1, "source": Source.REPLAY, "received": 1} | line
        ledger.receive(given["device_id"], given["source"], given["received"])
    await writer.write(rows)

    assert {outcome_of(row) for row in rows} <= {Outcome.STORED, Outcome.QUARANTINED}
    assert all(isinstance(row.content, QuarantineRow) for row in poisoned)
    stored = [row.content for row in rows if isinstance(row.content, Reading)]
    records = await read_all(spool)
    assert [record.ts_us for record in records if record.code is None] == [kept.ts_us for kept in stored]
    assert len(records) == len(rows)
    assert not imbalance(await spool.totals(), spool.backlog().depth)
    await spool.close()
