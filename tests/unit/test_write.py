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
CONFLICTS = (77.0, 78.0)
"""Values that the store refuses alone."""
MOVED = 88.0
"""A value that the store puts a microsecond later."""


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
        rejected = {
            place: (Code.CONFLICTING_IDENTITY, f"there is {r.value - 1:g}, not {r.value:g}")
            for place, r in enumerate(batch.readings)
            if r.value in CONFLICTS
        }
        outcomes = [2 if place in rejected else 0 for place in range(len(batch.readings))]
        stored_ts_us = [r.ts_us + (r.value == MOVED) for r in batch.readings]
        is_any_moved = any(r.value == MOVED for r in batch.readings)
        return CommitResult(
            outcomes,
            [0] * len(outcomes),
            NOW_US,
            self.calls if 0 in outcomes else None,
            rejected=rejected,
            stored_ts_us=stored_ts_us if is_any_moved else (),
        )

    async def was_committed(self, number: int) -> bool:
        return False


class Outbox:
    def __init__(self) -> None:
        self.publications: list[Publication] = []

    def enqueue(self, publication: Publication) -> None:
        self.publications.append(publication)

    def take_published(self) -> list[int]:
        return []

    def give_back(self, outbox_ids: Sequence[int]) -> None: ...
    def recover(self) -> None: ...


class Bench:
    def __init__(self, refuses: Callable[[Batch], bool]) -> None:
        self.store = Store(refuses)
        self.ledger = DoorLedger()
        self.metrics = Metrics()
        self.outbox = Outbox()
        self.writer = BatchWriter(self.store, self.outbox, self.ledger, 1, self.metrics, stalled_s=9.0)

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


async def test_reading_that_conflicts_is_in_quarantine_before_its_delivery_settles() -> None:
    bench = Bench(lambda batch: False)
    rows = [batch_row(reading(n, 77.0 if n == 1 else 20.0)) for n in range(3)]
    rows.insert(1, batch_row(quarantine_row(7, source=Source.HTTP)))
    settled_at: list[int] = []

    write = bench.store.write

    async def watched(batch: Batch) -> CommitResult:
        settled_at.append(sum(row.entry.receipts[0] is not None for row in rows))
        return await write(batch)

    bench.store.write = watched  # type: ignore[method-assign]
    await bench.writer.write(rows)
    assert settled_at == [0, 3], "its own receipt comes with the second batch"
    assert [outcome_of(row) for row in rows] == [
        Outcome.STORED,
        Outcome.QUARANTINED,
        Outcome.QUARANTINED,
        Outcome.STORED,
    ]
    receipt = rows[2].entry.receipts[0]
    assert receipt is not None
    assert (receipt.code, receipt.detail) == (Code.CONFLICTING_IDENTITY, "there is 76, not 77")
    first, second = bench.store.batches
    assert (len(first.readings), len(first.quarantined), len(second.readings)) == (3, 1, 0)
    (kept,) = second.quarantined
    assert (kept.code, kept.detail, kept.payload) == (Code.CONFLICTING_IDENTITY, "there is 76, not 77", b"{}")
    assert [r.value for publication in bench.outbox.publications for r in publication.readings] == [20.0, 20.0]


async def test_conflict_is_written_by_the_next_try_where_the_store_goes_away_in_between() -> None:
    bench = Bench(lambda batch: False)
    rows = [batch_row(reading(1, 77.0)), batch_row(reading(2))]
    bench.store.away_at = 2
    with pytest.raises(StoreUnavailable):
        await bench.writer.write(rows)
    assert (outcome_of(rows[0]), outcome_of(rows[1])) == (None, Outcome.STORED)
    await bench.writer.write([rows[0]])
    assert outcome_of(rows[0]) == Outcome.QUARANTINED
    assert [len(batch.quarantined) for batch in bench.store.batches] == [0, 1]


async def test_conflicts_among_poison_are_kept_with_their_own_code() -> None:
    bench = Bench(lambda batch: any(r.value == 66.0 for r in batch.readings))
    rows = [batch_row(reading(n, (20.0, 66.0, 77.0, 78.0)[n % 4])) for n in range(40)]
    await bench.writer.write(rows)
    codes = [row.entry.receipts[0] and row.entry.receipts[0].code for row in rows]
    conflict = Code.CONFLICTING_IDENTITY
    assert codes == [None, Code.STORE_REFUSED, conflict, conflict] * 10


async def test_what_is_published_has_the_time_it_is_stored_at() -> None:
    bench = Bench(lambda batch: False)
    await bench.writer.write([batch_row(reading(1)), batch_row(reading(1, MOVED)), batch_row(reading(1, 77.0))])
    (publication,) = bench.outbox.publications
    assert [r.ts_us for r in publication.readings] == [NOW_US + 1, NOW_US + 2]
    assert len({r.event_id for r in publication.readings}) == 2


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
