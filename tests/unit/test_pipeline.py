"""The pipeline against stores that refuse, fail, and leave batches in doubt."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest

from bridge.errors import Backpressure, InstanceExpired, StoreRefused, StoreUnavailable
from bridge.model.reading import (
    Batch,
    Code,
    CommitResult,
    DecodedReading,
    Delivery,
    Outcome,
    Packet,
    Publication,
    Receipt,
    Rejection,
    Sensor,
    Source,
)
from bridge.pipeline.resolve import MISS, Resolver
from bridge.pipeline.run import Pipeline
from bridge.settings.process import PipelineSettings
from bridge.tasks import delay_s
from bridge.telemetry import Metrics
from tests.support.waiting import eventually

NOW_US = 1_769_594_400_000_000
SETTINGS = PipelineSettings(retry_min_s=0.001, retry_max_s=0.002, max_batch=100, max_queued=1_000)
Failure = StoreUnavailable | StoreRefused


class FakeStore:
    """Sensors 1…100 of device 7 exist. Fails as told, then keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.failures: list[Failure | None] = []
        self.poison: float | None = None
        self.lookups = 0
        self.lookup_gate = asyncio.Event()
        self.lookup_gate.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.doubtful_commits: set[int] = set()
        self.seen: set[tuple[int, int, int | None]] = set()

    async def write(self, batch: Batch) -> CommitResult:
        await self.gate.wait()
        if self.poison is not None and any(r.value == self.poison for r in batch.readings):
            raise StoreRefused("poison")
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure
        self.batches.append(batch)
        outcomes = []
        for reading in batch.readings:
            identity = (reading.sensor_id, reading.ts_us, reading.sequence)
            outcomes.append(int(Outcome.DUPLICATE if identity in self.seen else Outcome.STORED))
            self.seen.add(identity)
        return CommitResult(outcomes, [0] * len(outcomes), NOW_US, outbox_id=len(self.batches))

    async def was_committed(self, number: int) -> bool:
        return number in self.doubtful_commits

    async def find_sensors(
        self, ids: Collection[int], uuids: Collection[str], external_ids: Collection[str]
    ) -> list[Sensor]:
        self.lookups += 1
        await self.lookup_gate.wait()
        if self.failures and self.failures[0] is not None and isinstance(self.failures[0], StoreUnavailable):
            raise self.failures[0]
        return [Sensor(i, f"uuid-{i}", 7, "dev", "temperature") for i in ids if i <= 100]

    @property
    def ledger(self) -> dict[tuple[int, str], tuple[int, int]]:
        totals: dict[tuple[int, str], tuple[int, int]] = {}
        for batch in self.batches:
            for line in batch.ledger:
                totals[line.device_id, line.source] = (line.received, line.returned)
        return totals


class FakeOutbox:
    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self.recovered = 0

    def enqueue(self, publication: Publication) -> None:
        self.publications.append(publication)

    def take_published(self) -> list[int]:
        return []

    def give_back(self, outbox_ids: Sequence[int]) -> None:
        pass

    def recover(self) -> None:
        self.recovered += 1


class Bench:
    """A running pipeline over a fake store."""

    def __init__(self, *, keep_unknown: bool = False, **times: Any) -> None:
        self.store = FakeStore()
        self.outbox = FakeOutbox()
        self.clock = 0.0
        self.tick = 0.0  # the clock goes on by so much whenever it is read
        metrics = self.metrics = Metrics()
        self.resolver = Resolver(self.store, SETTINGS, metrics, self.now)
        self.pipeline = Pipeline(
            resolver=self.resolver,
            store=self.store,
            outbox=self.outbox,
            instance=1,
            settings=SETTINGS,
            metrics=metrics,
            random=Random(1),
            now_us=lambda: NOW_US,
            keep_unknown=keep_unknown,
            **times,
        )

    def now(self) -> float:
        self.clock += self.tick
        return self.clock

    def send(self, *drafts: DecodedReading, retry_in_place: bool = False) -> asyncio.Future[list[Receipt]]:
        settled: asyncio.Future[list[Receipt]] = asyncio.get_running_loop().create_future()

        def settle(receipts: Sequence[Receipt]) -> None:
            settled.set_result(list(receipts))

        self.pipeline.submit(
            Delivery(Packet(drafts), Source.HTTP, b"{}", NOW_US, settle, retry_in_place=retry_in_place)
        )
        return settled


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(Bench()) as bench:
        yield bench


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    task = asyncio.create_task(bench.pipeline.run())
    try:
        yield bench
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def draft(
    index: int = 0, sensor: int = 1, value: float = 20.0, ts_us: int | None = NOW_US, sequence: int | None = None
) -> DecodedReading:
    return DecodedReading(index, sensor, value, ts_us, sequence)


def outcomes(receipts: Sequence[Receipt]) -> list[Outcome]:
    return [receipt.outcome for receipt in receipts]


async def test_concurrent_submitters_share_one_call(bench: Bench) -> None:
    await bench.send(draft())
    bench.store.gate.clear()
    first = bench.send(draft(ts_us=NOW_US + 1))
    await asyncio.sleep(0)
    others = [bench.send(draft(ts_us=NOW_US + 2 + i)) for i in range(20)]
    bench.store.gate.set()
    await asyncio.gather(first, *others)
    assert [len(batch.readings) for batch in bench.store.batches if batch.readings] in ([1, 1, 20], [1, 21])
    assert bench.store.lookups == 1


async def test_packet_sent_again_is_duplicate(bench: Bench) -> None:
    assert outcomes(await bench.send(draft())) == [Outcome.STORED]
    assert outcomes(await bench.send(draft())) == [Outcome.DUPLICATE]


async def test_refused_readings_are_quarantined_beside_stored_ones(bench: Bench) -> None:
    receipts = await bench.send(
        draft(0),
        draft(1, sensor=999),
        draft(2, value=1e6),
        draft(3, ts_us=NOW_US + 301_000_000),
        draft(4, ts_us=NOW_US - 31 * 86_400_000_000),
    )
    assert [r.code for r in receipts] == [
        None,
        Code.UNKNOWN_SENSOR,
        Code.VALUE_OUT_OF_RANGE,
        Code.TIME_AHEAD,
        Code.TIME_BEHIND,
    ]
    assert [q.index for q in bench.store.batches[0].quarantined] == [1, 2, 3, 4]
    assert bench.store.ledger == {(7, Source.HTTP): (4, 0), (0, Source.HTTP): (1, 0)}


@pytest.mark.parametrize("whole", [True, False])
async def test_quarantine_keeps_all_of_what_is_refused_as_a_whole(bench: Bench, whole: bool) -> None:
    body = b'{"readings":[{"sensor_uuid":"a","value":1},{"sensor_uuid":"b","value":2}]}'
    packet = Packet((), (Rejection(0, Code.RATE_LIMITED, "", whole=whole),))
    settled = asyncio.get_running_loop().create_future()
    bench.pipeline.submit(Delivery(packet, Source.MQTT, body, NOW_US, settled.set_result))
    await settled
    (row,) = bench.store.batches[0].quarantined
    assert row.payload == (body if whole else b'{"readings":[{"sensor_uuid":"a","value":1}]}')


async def test_refused_reading_of_a_known_sensor_is_its_devices(bench: Bench) -> None:
    """Also where no reading of its packet is good, and its door knows the device by its UUID alone."""
    for packet, expected in (
        (Packet((draft(0, value=1e6), draft(1, sensor=999)), device_uuid="dev"), [7, 7]),
        (Packet((draft(0, value=1e6), draft(1, sensor=999))), [7, 0]),  # of an API key, say: of several devices
        (Packet((), (Rejection(0, Code.BAD_JSON, "", whole=True),)), [0]),
    ):
        settled = asyncio.get_running_loop().create_future()
        bench.pipeline.submit(Delivery(packet, Source.MQTT, b"{}", NOW_US, settled.set_result))
        await settled
        assert [row.device_id for row in bench.store.batches[-1].quarantined] == expected


async def test_poisonous_reading_is_found_and_its_neighbours_stored(bench: Bench) -> None:
    bench.store.poison = 66.0
    receipts = await bench.send(*(draft(i, ts_us=NOW_US + i, value=66.0 if i == 5 else 20.0) for i in range(9)))
    assert outcomes(receipts) == [Outcome.QUARANTINED if i == 5 else Outcome.STORED for i in range(9)]
    assert receipts[5].code == Code.STORE_REFUSED


async def test_impatient_delivery_fails_while_the_store_is_away(bench: Bench) -> None:
    await bench.send(draft())
    bench.store.failures = [StoreUnavailable("away")] * 50
    assert outcomes(await bench.send(draft(ts_us=NOW_US + 1))) == [Outcome.FAILED]
    with pytest.raises(StoreUnavailable):
        bench.send(draft(ts_us=NOW_US + 2))
    await eventually(lambda: bench.pipeline.problem == "")
    assert outcomes(await bench.send(draft(ts_us=NOW_US + 1))) == [Outcome.STORED]
    assert bench.store.ledger == {(7, Source.HTTP): (3, 1)}


async def test_patient_delivery_waits_until_the_store_is_back(bench: Bench) -> None:
    await bench.send(draft())
    bench.store.failures = [StoreUnavailable("away")] * 10
    waiting = [bench.send(draft(ts_us=NOW_US + i), retry_in_place=True) for i in range(1, 4)]
    assert [outcomes(receipts) for receipts in await asyncio.gather(*waiting)] == [[Outcome.STORED]] * 3
    assert bench.store.ledger == {(7, Source.HTTP): (4, 0)}


async def test_look_up_that_fails_fails_only_the_impatient(bench: Bench) -> None:
    bench.store.failures = [StoreUnavailable("away")] * 6
    impatient = bench.send(draft())
    retry_in_place = bench.send(draft(ts_us=NOW_US + 1), retry_in_place=True)
    assert outcomes(await impatient) == [Outcome.FAILED]
    assert outcomes(await retry_in_place) == [Outcome.STORED]
    assert bench.store.ledger == {(7, Source.HTTP): (1, 0)}


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("retry_in_place", [True, False])
async def test_batch_in_doubt_is_booked_once(bench: Bench, committed: bool, retry_in_place: bool) -> None:
    await bench.send(draft())
    bench.store.failures = [StoreUnavailable("lost", in_doubt=True)]
    if committed:
        bench.store.doubtful_commits = {2}
        bench.store.seen.add((1, NOW_US + 1, None))
    receipts = await bench.send(draft(ts_us=NOW_US + 1), retry_in_place=retry_in_place)
    await bench.pipeline.drain(5)
    received, returned = bench.store.ledger[7, Source.HTTP]
    retried = [batch for batch in bench.store.batches[1:] if batch.readings]
    if retry_in_place:
        assert outcomes(receipts) == [Outcome.DUPLICATE if committed else Outcome.STORED]
        assert (received, returned, len(retried)) == (3 if committed else 2, 0, 1)
    else:
        assert outcomes(receipts) == [Outcome.FAILED]
        assert (received, returned, len(retried)) == (2, 0 if committed else 1, 0)
    assert bench.outbox.recovered == committed


@pytest.mark.parametrize("committed", [True, False])
async def test_first_delivery_is_none_any_more_once_it_was_committed(bench: Bench, committed: bool) -> None:
    """Its key is that of other messages, too: written again as a first delivery, it would be another reading."""
    await bench.send(draft())
    bench.store.failures = [StoreUnavailable("lost", in_doubt=True)]
    bench.store.doubtful_commits = {2} if committed else set()
    settled: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
    untimed = DecodedReading(0, 1, 20.0)
    bench.pipeline.submit(
        Delivery(
            Packet((untimed,)),
            Source.MQTT,
            b"20",
            NOW_US,
            settled.set_result,
            key="m-1",
            retry_in_place=True,
            redelivered=False,
        )
    )
    await settled
    (written,) = bench.store.batches[-1].readings
    assert (written.key, written.redelivered) == ("m-1-0", committed)


@pytest.mark.parametrize("retry_in_place", [True, False])
async def test_closed_books_are_begun_anew_with_what_is_held(bench: Bench, retry_in_place: bool) -> None:
    await bench.send(draft())
    bench.store.failures = [
        StoreUnavailable("lost", in_doubt=True),
        StoreUnavailable("away"),
        InstanceExpired("closed"),
    ]
    receipts = await bench.send(draft(ts_us=NOW_US + 1), draft(1, ts_us=NOW_US + 2), retry_in_place=retry_in_place)
    await eventually(lambda: not bench.pipeline.problem and not bench.store.failures)
    assert outcomes(receipts) == [Outcome.STORED if retry_in_place else Outcome.FAILED] * 2
    await bench.send(draft(ts_us=NOW_US + 3))
    assert bench.store.ledger == {(7, Source.HTTP): (3 if retry_in_place else 1, 0)}


async def test_batch_is_not_written_twice_across_closed_books(bench: Bench) -> None:
    await bench.send(draft())
    bench.store.failures = [InstanceExpired("closed")]
    assert outcomes(await bench.send(draft(ts_us=NOW_US + 1), retry_in_place=True)) == [Outcome.STORED]
    assert bench.store.ledger == {(7, Source.HTTP): (1, 0)}


async def test_store_that_does_not_answer_is_a_problem() -> None:
    async with running(Bench(stalled_s=0.01)) as bench:
        await bench.send(draft())
        bench.store.gate.clear()
        waiting = bench.send(draft(ts_us=NOW_US + 1))
        await eventually(lambda: "not answered" in bench.pipeline.problem)
        bench.store.gate.set()
        await waiting
        assert bench.pipeline.problem == ""


async def test_store_is_asked_when_nothing_comes_in() -> None:
    async with running(Bench(heartbeat_s=0.01)) as bench:
        await bench.send(draft())
        bench.store.failures = [StoreUnavailable("away")] * 20
        await eventually(lambda: bench.pipeline.problem == "away")
        await eventually(lambda: bench.pipeline.problem == "")


async def test_queue_at_its_limit_pushes_back(bench: Bench) -> None:
    await bench.send(draft())
    bench.store.gate.clear()
    sent = [bench.send(*(draft(i, ts_us=NOW_US + i) for i in range(100))) for _ in range(10)]
    with pytest.raises(Backpressure):
        bench.send(draft())
    bench.store.gate.set()
    await asyncio.gather(*sent)
    assert bench.pipeline.queued == 0


async def test_sensor_of_another_device_is_not_resolved(bench: Bench) -> None:
    settled: list[Receipt] = []
    bench.pipeline.submit(
        Delivery(Packet((draft(),)), Source.HTTP, b"{}", NOW_US, settled.extend, device_uuid="another")
    )
    await eventually(lambda: bool(settled))
    assert settled[0].code == Code.UNKNOWN_SENSOR


async def test_sensor_forgotten_while_its_reading_waits_is_not_unknown(bench: Bench) -> None:
    await bench.send(draft())
    bench.store.lookup_gate.clear()
    missed = bench.send(draft(sensor=2))
    behind = bench.send(draft(ts_us=NOW_US + 1))
    await eventually(lambda: bench.store.lookups == 2)
    bench.resolver.invalidate([1])
    later = bench.send(draft(sensor=3))
    bench.store.lookup_gate.set()
    for receipts in await asyncio.gather(missed, behind, later):
        assert outcomes(receipts) == [Outcome.STORED]


async def test_delivery_that_comes_during_a_look_up_is_looked_up_itself() -> None:
    """Though the deliveries that the look-up was for have failed meanwhile."""
    async with running(Bench(heartbeat_s=0.01)) as bench:
        await bench.send(draft())
        bench.store.lookup_gate.clear()
        failed = bench.send(draft(sensor=2))
        await eventually(lambda: bench.store.lookups == 2)
        bench.store.failures = [StoreUnavailable("away")] * 2
        later = bench.send(draft(sensor=3), retry_in_place=True)
        assert outcomes(await failed) == [Outcome.FAILED]
        bench.store.lookup_gate.set()
        assert outcomes(await later) == [Outcome.STORED]


async def test_sensor_that_expires_between_two_looks_is_not_unknown(bench: Bench) -> None:
    await bench.send(draft())
    bench.clock, bench.tick = SETTINGS.sensor_ttl_s - 0.5, 0.4
    assert outcomes(await bench.send(draft(ts_us=NOW_US + 1))) == [Outcome.STORED]


async def test_resolver_forgets_in_time(bench: Bench) -> None:
    await bench.resolver.load([1, 999])
    assert isinstance(bench.resolver.get(1), Sensor)
    assert bench.resolver.get(999) is None
    bench.clock = SETTINGS.sensor_negative_ttl_s + 1
    assert bench.resolver.get(999) is MISS
    bench.resolver.invalidate([1])
    assert bench.resolver.get(1) is MISS
    await bench.resolver.load([1])
    bench.clock += SETTINGS.sensor_ttl_s + 1
    assert bench.resolver.get(1) is MISS


async def test_resolver_unknown_names_cannot_push_real_sensors_out() -> None:
    store = FakeStore()
    settings = PipelineSettings(sensor_cache_size=10)
    resolver = Resolver(store, settings, Metrics(), lambda: 0.0)
    await resolver.load(range(1, 11))
    await resolver.load(range(1_000, 2_000))
    assert all(isinstance(resolver.get(i), Sensor) for i in range(1, 11))


@pytest.mark.parametrize("attempt", [0, 1, 5, 1_000])
def test_delay_stays_within_bounds(attempt: int) -> None:
    for random in (0.0, 0.5, 0.999):
        assert 0.5 <= delay_s(attempt, minimum_s=0.5, maximum_s=30, random=random) <= 30


async def test_at_rest_only_when_nothing_is_pending(bench: Bench) -> None:
    await bench.send(draft())
    await eventually(lambda: bench.pipeline.at_rest is not None)
    number = bench.pipeline.at_rest
    bench.store.gate.clear()
    settled = bench.send(draft(ts_us=NOW_US + 1))
    assert bench.pipeline.at_rest is None
    bench.store.gate.set()
    await settled
    await eventually(lambda: bench.pipeline.at_rest is not None)
    assert bench.pipeline.at_rest != number


async def test_cache_counts_each_look_up_once(bench: Bench) -> None:
    await bench.send(draft(sensor=1), draft(1, sensor=1), draft(2, sensor=999))
    await bench.send(draft(sensor=1, ts_us=NOW_US + 1), draft(1, sensor=2))
    await bench.send(draft(sensor=2, ts_us=NOW_US + 1))

    def counted(result: str) -> float | None:
        return bench.metrics.registry.get_sample_value("iot_bridge_cache_total", {"cache": "sensor", "result": result})

    assert (counted("hit"), counted("miss")) == (2, 3)


@asynccontextmanager
async def gateway() -> AsyncIterator[Bench]:
    """A pipeline that leaves unknown sensors to the service."""
    async with running(Bench(keep_unknown=True)) as bench:
        yield bench


async def test_unknown_sensor_is_kept_unresolved_on_a_gateway() -> None:
    async with gateway() as bench:
        receipts = await bench.send(draft(0), draft(1, sensor=999), draft(2, sensor=999, ts_us=NOW_US + 301_000_000))
        assert outcomes(receipts) == [Outcome.STORED, Outcome.STORED, Outcome.QUARANTINED]
        known, unknown = bench.store.batches[-1].readings
        assert (known.sensor_id, known.unresolved, known.device_uuid) == (1, None, "dev")
        assert (unknown.sensor_id, unknown.unresolved, unknown.device_uuid) == (0, 999, None)


async def test_unknown_sensor_goes_with_its_sender_alone() -> None:
    async with gateway() as bench:
        for packet_device, code in ((None, None), ("dev", None), ("another", Code.UNKNOWN_SENSOR)):
            settled: list[Receipt] = []
            packet = Packet((draft(sensor=999, ts_us=NOW_US + len(bench.store.batches)),), device_uuid=packet_device)
            bench.pipeline.submit(
                Delivery(packet, Source.MQTT, b"{}", NOW_US, settled.extend, device_uuid="dev", device_id=7)
            )
            await eventually(lambda settled=settled: bool(settled))  # type: ignore[misc]
            assert settled[0].code == code
        reading = bench.store.batches[0].readings[0]
        assert (reading.device_uuid, reading.device_id, reading.unresolved) == ("dev", 7, 999)


async def test_sensor_of_another_device_is_refused_on_a_gateway_too() -> None:
    async with gateway() as bench:
        settled: list[Receipt] = []
        bench.pipeline.submit(Delivery(Packet((draft(),)), Source.HTTP, b"{}", NOW_US, settled.extend, device_uuid="x"))
        await eventually(lambda: bool(settled))
        assert settled[0].code == Code.UNKNOWN_SENSOR
