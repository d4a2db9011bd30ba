"""The relay over a table and a publisher that are Protocol implementations, and can be away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.broker.relay import IDLE_FLUSH_S, RETRY_MIN_S, Relay
from bridge.errors import BrokerUnavailable
from bridge.model.reading import Publication
from bridge.settings.stores import BrokerSettings
from bridge.telemetry import Metrics
from tests.support.outbox_table import MemoryOutboxTable
from tests.support.publications import START_US, publication
from tests.support.waiting import eventually


class MarkingPublisher:
    """Keeps to `Publisher.publish` strictly: a lower id of an instance is taken for a repetition, and lost."""

    def __init__(self) -> None:
        self.added: list[tuple[int, int]] = []
        self.marks: dict[int, int] = {}
        self.away = False
        self.fails_after_adding = False
        self.calls = 0

    @property
    def ids(self) -> list[int]:
        return [outbox_id for _, outbox_id in self.added]

    async def publish(self, publication: Publication) -> bool:
        await asyncio.sleep(0)
        self.calls += 1
        if self.away:
            raise BrokerUnavailable("away")
        if publication.outbox_id <= self.marks.get(publication.instance, 0):
            return True
        if any(self.marks.get(instance, 0) < outbox_id for instance, outbox_id in publication.depends_on):
            return False
        self.marks[publication.instance] = publication.outbox_id
        self.added.append((publication.instance, publication.outbox_id))
        if self.fails_after_adding:
            self.fails_after_adding = False
            raise BrokerUnavailable("the answer was lost")
        return True


class Bench:
    """A relay with its surroundings; `commit` does what the pipeline does with a batch."""

    def __init__(self, queue_readings: int = 1_000, idle_flush_s: float = IDLE_FLUSH_S) -> None:
        self.table = MemoryOutboxTable()
        self.publisher = MarkingPublisher()
        self.metrics = Metrics()
        broker = BrokerSettings(relay_queue_readings=queue_readings, relay_sweep_s=0.01)
        self.relay = Relay(
            self.publisher,
            self.table,
            broker,
            self.metrics,
            Random(1),
            lambda: START_US + 60_000_000,
            retry_max_s=RETRY_MIN_S,
            idle_flush_s=idle_flush_s,
        )

    def commit(self, *ids: int) -> None:
        for outbox_id in ids:
            row = publication(outbox_id)
            self.table.commit(row)
            self.relay.enqueue(row)

    @asynccontextmanager
    async def running(self, *, sweep: bool = False) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.relay.run(), name="relay")]
        if sweep:
            tasks.append(asyncio.create_task(self.relay.sweep_forever(), name="sweep"))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def published(self, ids: Iterable[int]) -> None:
        wanted = list(ids)
        try:
            await eventually(lambda: len(self.publisher.added) >= len(wanted))
        finally:
            assert self.publisher.ids == wanted


async def test_enqueued_rows_are_published_in_order_and_taken_once() -> None:
    bench = Bench()
    async with bench.running():
        bench.commit(3, 5, 8)
        await bench.published([3, 5, 8])
        assert await bench.relay.drain(1.0)
    assert bench.relay.take_published() == []
    assert bench.table.rows == {}
    assert bench.table.reads == 0  # the normal path asks the table nothing
    assert bench.relay.idle


async def test_take_published_given_back_is_taken_again() -> None:
    bench = Bench()
    async with bench.running():
        bench.commit(1, 2)
        await bench.published([1, 2])
        await asyncio.sleep(0)
        taken = bench.relay.take_published()
        bench.relay.give_back(taken)
        assert sorted(bench.relay.take_published()) == [1, 2]


async def test_publish_latency_is_from_measured_to_published() -> None:
    bench = Bench()
    async with bench.running():
        bench.commit(1)  # measured one second after the start, published at sixty
        await bench.published([1])
        await bench.relay.drain(1.0)
    labels = {"stage": "publish"}
    assert bench.metrics.registry.get_sample_value("iot_bridge_stage_seconds_sum", labels) == 59.0
    for stage, seconds in (("measured_to_stored", 0.0), ("stored_to_published", 59.0)):  # stored when measured
        labels = {"stage": stage}
        assert bench.metrics.registry.get_sample_value("iot_bridge_latency_seconds_sum", labels) == seconds
        assert bench.metrics.registry.get_sample_value("iot_bridge_latency_seconds_count", labels) == 1.0


async def test_broker_away_for_a_while_loses_nothing() -> None:
    bench = Bench()
    bench.publisher.away = True
    async with bench.running():
        bench.commit(1, 2, 3)
        await eventually(lambda: bench.publisher.calls >= 3)
        assert bench.relay.problem == "away"
        bench.publisher.away = False
        await bench.published([1, 2, 3])
        await eventually(lambda: not bench.relay.problem)


async def test_lost_answer_publishes_nothing_twice() -> None:
    bench = Bench()
    bench.publisher.fails_after_adding = True
    async with bench.running():
        bench.commit(1, 2)
        await bench.published([1, 2])
        assert await bench.relay.drain(1.0)


async def test_full_queue_leaves_the_rest_to_the_table_in_order() -> None:
    bench = Bench(queue_readings=3)
    bench.publisher.away = True
    async with bench.running():
        bench.commit(*range(1, 200))
        await eventually(lambda: bench.publisher.calls >= 1)
        bench.publisher.away = False
        await bench.published(range(1, 200))
        bench.commit(200, 201)
        await bench.published(range(1, 202))
        assert await bench.relay.drain(1.0)
        reads = bench.table.reads
        assert 4 <= reads <= 8  # in pages, not one by one
        bench.commit(202)
        await bench.published(range(1, 203))
        assert bench.table.reads == reads  # memory has taken over again


async def test_rows_enqueued_while_the_table_is_read_keep_their_place() -> None:
    bench = Bench(queue_readings=2)
    async with bench.running():
        for outbox_id in range(1, 400):
            bench.commit(outbox_id)
            if outbox_id % 3 == 0:
                await asyncio.sleep(0)
        await bench.published(range(1, 400))
        assert await bench.relay.drain(1.0)
    assert bench.table.rows == {}


async def test_recovered_row_comes_before_rows_enqueued_later() -> None:
    bench = Bench()
    async with bench.running():
        bench.commit(1)
        bench.table.commit(publication(2))  # committed, and its answer lost
        bench.relay.recover()
        bench.commit(3)
        await bench.published([1, 2, 3])


async def test_row_enqueued_after_it_was_read_from_the_table_is_published_once() -> None:
    bench = Bench()
    async with bench.running():
        bench.table.commit(publication(1))  # the table shows a row before the pipeline has its answer
        bench.relay.recover()
        await bench.published([1])
        bench.relay.enqueue(publication(1))
        bench.commit(2)
        await bench.published([1, 2])
        assert bench.publisher.calls == 2
        await bench.relay.drain(1.0)
        assert bench.relay.take_published() == []


async def test_table_away_while_rows_are_left_in_it() -> None:
    bench = Bench()
    bench.table.away = True
    async with bench.running():
        bench.table.commit(publication(1))
        bench.relay.recover()
        bench.commit(2)
        await asyncio.sleep(0)
        bench.commit(3)
        assert not await bench.relay.drain(0.02)
        bench.table.away = False
        await bench.published([1, 2, 3])


async def test_row_waits_for_the_row_of_a_living_process() -> None:
    bench = Bench()
    bench.table.commit(publication(4, instance=2))
    late = publication(5, depends_on=[(2, 4)])
    async with bench.running():
        bench.relay.enqueue(late)
        bench.commit(6)
        await eventually(lambda: bench.publisher.calls >= 8)
        assert bench.publisher.added == []
        bench.publisher.marks[2] = 4
        await bench.published([5, 6])


async def test_row_does_not_wait_for_a_row_that_is_gone() -> None:
    """Redis came back empty: it has forgotten what was published before."""
    bench = Bench()
    async with bench.running():
        bench.relay.enqueue(publication(5, depends_on=[(2, 4)]))
        await bench.published([5])


async def test_rows_of_dead_processes_are_published_in_order_and_deleted() -> None:
    bench = Bench()
    bench.table.commit(
        publication(2, instance=7),
        publication(3, instance=8, depends_on=[(7, 2)]),
        publication(4, instance=7, depends_on=[(8, 3)]),
        publication(5, instance=9, depends_on=[(6, 1)]),  # its dependency is gone
    )
    async with bench.running(sweep=True):
        await bench.published([2, 3, 4, 5])
        await eventually(lambda: not bench.table.rows)
        depth = bench.metrics.registry.get_sample_value
        await eventually(lambda: depth("iot_bridge_outbox_batches") == 0)


async def test_row_that_waits_for_a_dead_process_gets_it_swept() -> None:
    bench = Bench()
    bench.table.commit(publication(4, instance=2))
    async with bench.running(sweep=True):
        bench.relay.enqueue(publication(5, depends_on=[(2, 4)]))
        await bench.published([4, 5])


async def test_published_rows_that_no_batch_takes_are_deleted() -> None:
    bench = Bench(idle_flush_s=0.05)
    async with bench.running(sweep=True):
        bench.commit(1, 2)
        await eventually(lambda: not bench.table.rows)
        assert bench.publisher.ids == [1, 2]
        await eventually(lambda: bench.relay.idle)


async def test_drain_ends_at_its_deadline() -> None:
    bench = Bench()
    bench.publisher.away = True
    async with bench.running():
        bench.commit(1)
        assert not await bench.relay.drain(0.02)
    assert bench.table.rows.keys() == {1}


STEPS = st.lists(st.sampled_from(["commit", "commit", "commit", "lose", "broker", "table", "lost answer", "turn"]))


@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_any_mishaps_publish_every_row_once_and_in_order(steps: list[str], queue_readings: int) -> None:
    async def play() -> None:
        bench = Bench(queue_readings)
        newest = 0
        async with bench.running():
            for step in steps:
                if step == "commit":
                    newest += 1
                    bench.commit(newest)
                elif step == "lose":
                    newest += 1
                    bench.table.commit(publication(newest))
                    bench.relay.recover()
                elif step == "broker":
                    bench.publisher.away = not bench.publisher.away
                elif step == "table":
                    bench.table.away = not bench.table.away
                elif step == "lost answer":
                    bench.publisher.fails_after_adding = True
                else:
                    for _ in range(5):
                        await asyncio.sleep(0)
            bench.publisher.away = bench.table.away = False
            await bench.published(range(1, newest + 1))
            assert await bench.relay.drain(2.0)
        assert bench.table.rows == {}

    asyncio.run(play())
