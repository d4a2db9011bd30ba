"""The batch writer over a store that refuses: whatever is bad in a batch, all else of it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bridge.errors import StoreRefused, StoreUnavailable
from bridge.model.reading import Batch, Code, CommitResult, LedgerLine, Outcome, Publication, Reading, Source
from bridge.pipeline.batch import NOT_STORED
from bridge.pipeline.isolate import in_parts
from bridge.pipeline.ledger import DoorLedger
from bridge.pipeline.write import BatchWriter
from bridge.telemetry import Metrics
from tests.support.batch_rows import batch_row, outcome_of, quarantine_row

NOW_US = 1_769_594_400_000_000
SECRET = "the procedure's SQL"


class Store:
    """Keeps what it is given, unless `refuses` says otherwise; `away_at` is a call that fails."""

    def __init__(self, refuses: Callable[[Batch], bool]) -> None:
        self.refuses = refuses
        self.calls = 0
        self.away_at = 0
        self.batches: list[Batch] = []

    async def write(self, batch: Batch) -> CommitResult:
        self.calls += 1
        if self.calls == self.away_at:
            raise StoreUnavailable("lost", in_doubt=True)
        if self.refuses(batch):
            raise StoreRefused(SECRET)
        self.batches.append(batch)
        return CommitResult([0] * len(batch.readings), [0] * len(batch.readings), NOW_US)

    async def was_committed(self, number: int) -> bool:
        return False


class Outbox:
    def enqueue(self, publication: Publication) -> None: ...
    def take_published(self) -> list[int]:
        return []

    def give_back(self, outbox_ids: Sequence[int]) -> None: ...
    def recover(self) -> None: ...


class Bench:
    def __init__(self, refuses: Callable[[Batch], bool]) -> None:
        self.store = Store(refuses)
        self.ledger = DoorLedger()
        self.metrics = Metrics()
        self.writer = BatchWriter(self.store, Outbox(), self.ledger, 1, self.metrics, stalled_s=9.0)

    def unstorable(self, kind: str) -> float | None:
        return self.metrics.registry.get_sample_value("iot_bridge_unstorable_total", {"kind": kind})


def reading(number: int, value: float = 20.0) -> Reading:
    return Reading(1, value, NOW_US + number, NOW_US, 7, "temperature", Source.HTTP)


@pytest.mark.parametrize("bad", [[], [0], [999], [3, 4], [0, 500, 999], list(range(0, 1_000, 100))])
async def test_in_parts_finds_the_refused_in_few_calls(bad: list[int]) -> None:
    calls: list[Sequence[int]] = []
    taken: list[int] = []

    async def take(some: Sequence[int]) -> None:
        calls.append(some)
        if set(bad) & set(some):
            raise StoreRefused("bad")
        taken.extend(some)

    refused = await in_parts(range(1_000), take)
    assert [item for item, _ in refused] == bad
    assert taken == [n for n in range(1_000) if n not in bad], "in order"
    assert len(calls) <= 1 + 2 * 10 * len(bad)


async def test_refused_readings_become_quarantine_rows_written_together() -> None:
    bench = Bench(lambda batch: any(r.value == 66.0 for r in batch.readings))
    rows = [batch_row(reading(n, 66.0 if n % 10 == 0 else 20.0)) for n in range(100)]
    await bench.writer.write(rows)
    assert [outcome_of(row) for row in rows] == [
        Outcome.QUARANTINED if n % 10 == 0 else Outcome.STORED for n in range(100)
    ]
    kept = [len(batch.quarantined) for batch in bench.store.batches if batch.quarantined]
    assert kept == [10]


async def test_words_of_the_store_go_to_the_operator_and_not_to_the_sender() -> None:
    bench = Bench(lambda batch: bool(batch.readings))
    row = batch_row(reading(1))
    await bench.writer.write([row])
    receipt = row.entry.receipts[0]
    assert receipt is not None
    assert (receipt.code, receipt.detail) == (Code.STORE_REFUSED, NOT_STORED)
    assert bench.store.batches[-1].quarantined[0].detail == SECRET


async def test_refused_ledger_line_is_set_aside_and_spares_the_readings() -> None:
    bench = Bench(lambda batch: any(line.device_id == 13 for line in batch.ledger))
    for device in range(20):
        bench.ledger.receive(device, "http")
    rows = [batch_row(reading(n)) for n in range(10)]
    await bench.writer.write(rows)
    assert {outcome_of(row) for row in rows} == {Outcome.STORED}
    assert bench.unstorable("ledger") == 1
    first_with_rows = next(n for n, batch in enumerate(bench.store.batches) if batch.readings)
    before = {line.device_id for batch in bench.store.batches[:first_with_rows] for line in batch.ledger}
    assert before == set(range(20)) - {13}, "received before settled"

    await bench.writer.write([])
    assert not bench.ledger.dirty
    bench.ledger.receive(13, "http")
    assert not bench.ledger.dirty, "or each batch would be refused anew"


async def test_ledger_line_that_was_set_aside_is_written_with_its_whole_count() -> None:
    ledger = DoorLedger()
    ledger.receive(13, "http")
    ledger.put_aside(ledger.take()[0])
    ledger.receive(13, "http")
    assert ledger.take() == []
    ledger.take_back()
    assert ledger.take() == [LedgerLine(13, "http", 2, 0)]


async def test_refused_quarantine_row_is_kept_in_a_plainer_form() -> None:
    bench = Bench(lambda batch: any(q.index > 2**31 or len(q.topic) > 1_000 for q in batch.quarantined))
    rows = [batch_row(quarantine_row(index=2**40)), batch_row(quarantine_row(topic="t" * 9_000)), batch_row(reading(1))]
    await bench.writer.write(rows)
    assert [outcome_of(row) for row in rows] == [Outcome.QUARANTINED, Outcome.QUARANTINED, Outcome.STORED]
    kept = [row for batch in bench.store.batches for row in batch.quarantined]
    assert [(row.code, row.payload, SECRET in row.detail) for row in kept] == [(Code.BAD_JSON, b"{", True)] * 2


async def test_quarantine_row_that_is_refused_in_every_form_fails_alone() -> None:
    bench = Bench(lambda batch: bool(batch.quarantined))
    bench.ledger.receive(7, "http", 2)
    rows = [batch_row(reading(1)), batch_row(quarantine_row(7, source=Source.HTTP))]
    await bench.writer.write(rows)
    assert [outcome_of(row) for row in rows] == [Outcome.STORED, Outcome.FAILED]
    assert bench.unstorable("quarantine") == 1
    await bench.writer.write([])
    assert bench.store.batches[-1].ledger == [LedgerLine(7, "http", 2, 1)], "its sender still has it"


async def test_connection_lost_between_the_parts_leaves_that_part_in_doubt_alone() -> None:
    bench = Bench(lambda batch: any(r.value == 66.0 for r in batch.readings))
    bench.store.away_at = 3  # the first half of the batch
    rows = [batch_row(reading(n, 66.0 if n == 0 else 20.0)) for n in range(8)]
    with pytest.raises(StoreUnavailable):
        await bench.writer.write(rows)
    assert [row.in_doubt for row in rows] == [True] * 4 + [False] * 4
    assert {outcome_of(row) for row in rows} == {None}
    await bench.writer.in_doubt.settle()
    await bench.writer.write(rows)
    assert [outcome_of(row) for row in rows] == [Outcome.QUARANTINED] + [Outcome.STORED] * 7
