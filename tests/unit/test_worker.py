"""The worker loop over the in-memory broker: what is acknowledged, tried again, given up, and in which order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from time import monotonic, time_ns

import msgspec
import pytest

from bridge.broker.memory import MemoryBroker
from bridge.broker.message import StreamMessage
from bridge.consumers.api import Event
from bridge.consumers.worker import CLAIMS_PER_IDLE, ConsumerIdentity, Worker
from bridge.errors import BrokerUnavailable, StoreUnavailable
from bridge.settings.consumers import ConsumerSettings
from bridge.settings.stores import BrokerSettings
from bridge.telemetry import Metrics
from tests.support.waiting import eventually

STREAM, GROUP = "iot:readings", "g"
QUICK = ConsumerSettings(
    batch=10, block_s=0.02, claim_after_s=0.2, max_attempts=3, retry_min_s=0.001, retry_max_s=0.002, remembered=50
)
SLOW_CLAIMS = QUICK.model_copy(update={"claim_after_s": 60.0})


def now_us() -> int:
    return time_ns() // 1_000


class Recorder:
    """A handler that remembers what it handled, and does first what `before` says."""

    def __init__(self, before: Callable[[Sequence[Event]], Awaitable[None] | None] = lambda _: None) -> None:
        self.before = before
        self.handled: list[str] = []
        self.sizes: list[int] = []

    async def handle(self, events: Sequence[Event]) -> None:
        waited = self.before(events)
        if waited is not None:
            await waited
        self.handled += [event.event_id for event in events]
        self.sizes.append(len(events))


class CountingBroker(MemoryBroker):
    """Counts how often each consumer has asked for what is idle."""

    def __init__(self, settings: BrokerSettings, metrics: Metrics) -> None:
        super().__init__(settings, metrics)
        self.claims: Counter[str] = Counter()

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[StreamMessage]:
        self.claims[consumer] += 1
        return await super().claim(stream, group, consumer, min_idle_s=min_idle_s, count=count)


class Stage:
    """A broker in memory, with its metrics."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.broker = CountingBroker(BrokerSettings(kind="memory", memory_maxlen=1_000), self.metrics)

    async def add(self, *event_ids: str, sensor: int = 1) -> None:
        for event_id in event_ids:
            await self.broker.append(STREAM, {"event_id": event_id, "sensor_id": str(sensor)})

    async def pending(self) -> int:
        return (await self.broker.pending(STREAM, GROUP)).entries

    async def dead(self) -> list[dict[str, str]]:
        return [dict(message.fields) for message in await self.broker.tail(f"{STREAM}:dead", 100)]

    def count(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(name, {"stream": STREAM, "group": GROUP, **labels})
        return found or 0.0

    def worker(self, recorder: Recorder, settings: ConsumerSettings = QUICK, name: str = "a") -> Worker:
        identity = ConsumerIdentity(STREAM, GROUP, name)
        return Worker(self.broker, identity, recorder.handle, settings, self.metrics, Random(1), monotonic, now_us)

    @asynccontextmanager
    async def working(
        self, recorder: Recorder, settings: ConsumerSettings = QUICK, name: str = "a"
    ) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.worker(recorder, settings, name).run(stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await task


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_worker_acknowledges_what_is_handled(stage: Stage) -> None:
    recorder = Recorder()
    await stage.add(*(f"e{i}" for i in range(25)))
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 25, 20)
    assert recorder.handled == [f"e{i}" for i in range(25)]
    assert max(recorder.sizes) == 10
    assert await stage.pending() == 0
    assert stage.count("iot_bridge_consumer_events_total", outcome="handled") == 25


async def test_worker_measures_how_old_events_are(stage: Stage) -> None:
    recorder = Recorder()
    for second in range(100):
        measured = f"{now_us() / 1e6 - 40:.6f}"
        fields = {"event_id": f"e{second}", "sensor_id": "1", "timestamp": measured}
        await stage.broker.append(STREAM, fields)
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 100, 20)
    name = "iot_bridge_consumer_latency_seconds"
    samples = stage.count(f"{name}_count", stage="published_to_handled")
    assert 0 < samples <= 100
    assert stage.count(f"{name}_count", stage="measured_to_handled") == samples
    assert stage.count(f"{name}_sum", stage="measured_to_handled") >= 40 * samples
    assert stage.count(f"{name}_bucket", stage="published_to_handled", le="30.0") == samples


async def test_worker_passes_over_events_handled_before(stage: Stage) -> None:
    recorder = Recorder()
    await stage.add("e1", "e2", "e1")
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 2, 20)
        await stage.add("e2", "e3")
        await eventually(lambda: "e3" in recorder.handled, 20)
    assert recorder.handled == ["e1", "e2", "e3"]
    assert await stage.pending() == 0
    assert stage.count("iot_bridge_consumer_events_total", outcome="repeated") == 2


async def test_worker_passes_over_what_is_replayed_for_another_group(stage: Stage) -> None:
    recorder = Recorder()
    for event_id, group in (("theirs", "other"), ("ours", GROUP)):
        await stage.broker.append(STREAM, {"event_id": event_id, "sensor_id": "1", "replay_for": group})
    async with stage.working(recorder):
        await eventually(lambda: "ours" in recorder.handled, 20)
    assert recorder.handled == ["ours"]
    assert await stage.pending() == 0


async def test_worker_remembers_only_so_many_events(stage: Stage) -> None:
    recorder = Recorder()
    worker = stage.worker(recorder)
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    await stage.add(*(f"e{i}" for i in range(200)))
    await eventually(lambda: len(recorder.handled) == 200, 20)
    stop.set()
    await task
    assert len(worker._remembered) == QUICK.remembered


async def test_worker_moves_a_poisonous_event_to_the_dead_and_handles_the_rest(stage: Stage) -> None:
    def refuse(events: Sequence[Event]) -> None:
        if any(event.event_id == "bad" for event in events):
            raise ValueError("cannot be done")

    recorder = Recorder(refuse)
    await stage.add("e1", "bad", "e2")
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 2, 20)
    [dead] = await stage.dead()
    assert dead["event_id"] == "bad"
    assert dead["error"] == "ValueError: cannot be done"
    assert dead["attempts"] == "3"
    assert dead["group"] == GROUP
    assert await stage.pending() == 0
    assert stage.count("iot_bridge_consumer_events_total", outcome="dead") == 1
    assert stage.count("iot_bridge_consumer_retries_total") == 2


async def test_worker_keeps_the_order_of_a_sensor_when_one_of_its_events_is_tried_again(stage: Stage) -> None:
    failures = {"s1-1": 2}

    def refuse(events: Sequence[Event]) -> None:
        for event in events:
            if failures.get(event.event_id, 0) > 0:
                if len(events) == 1:
                    failures[event.event_id] -= 1
                raise ValueError

    recorder = Recorder(refuse)
    for i in range(4):
        await stage.add(f"s1-{i}", sensor=1)
        await stage.add(f"s2-{i}", sensor=2)
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 8, 20)
    for sensor in ("s1", "s2"):
        assert [event for event in recorder.handled if event.startswith(sensor)] == [f"{sensor}-{i}" for i in range(4)]
    # The other sensor did not wait.
    assert recorder.handled.index("s2-3") < recorder.handled.index("s1-1")
    assert await stage.dead() == []


async def test_worker_tries_for_ever_while_something_is_away(stage: Stage) -> None:
    away = 20

    def wait(events: Sequence[Event]) -> None:
        nonlocal away
        away -= 1
        if away > 0:
            raise StoreUnavailable("away")

    recorder = Recorder(wait)
    await stage.add("e1", "e2")
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 2, 20)
    assert recorder.sizes == [2]
    assert await stage.dead() == []


async def test_worker_claims_what_a_dead_consumer_held(stage: Stage) -> None:
    recorder = Recorder()
    await stage.add("e1", "e2", "e3")
    assert len(await stage.broker.read(STREAM, GROUP, "dead", count=2, block_s=0)) == 2
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 3, 20)
    assert sorted(recorder.handled) == ["e1", "e2", "e3"]
    assert await stage.pending() == 0
    assert stage.count("iot_bridge_consumer_claimed_total") == 2


async def test_worker_at_work_for_long_is_not_taken_for_dead(stage: Stage) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Event]) -> None:
        begun.set()
        await go.wait()

    busy, other = Recorder(slow), Recorder()
    await stage.add("e1", "e2")
    async with stage.working(busy, name="busy"):
        await begun.wait()
        async with stage.working(other, name="other"):
            # Each asks so often within the time after which an entry counts as idle: three such times go by.
            await eventually(lambda: stage.broker.claims["other"] > 3 * CLAIMS_PER_IDLE, 20)
            assert other.handled == []
            go.set()
            await eventually(lambda: len(busy.handled) == 2, 20)
    assert other.handled == []


async def test_worker_gives_up_on_an_event_that_kills_its_workers(stage: Stage) -> None:
    recorder = Recorder()
    await stage.add("killer", "e1", "e2")
    await stage.broker.read(STREAM, GROUP, "first", count=10, block_s=0)
    for _ in range(QUICK.max_attempts):
        await stage.broker.claim(STREAM, GROUP, "next", min_idle_s=0, count=10)
    async with stage.working(recorder):
        await eventually(lambda: len(recorder.handled) == 2, 20)
    assert recorder.handled == ["e1", "e2"]
    assert recorder.sizes == [1, 1]
    assert [dead["event_id"] for dead in await stage.dead()] == ["killer"]


async def test_worker_told_to_stop_finishes_the_batch_in_hand(stage: Stage) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Event]) -> None:
        begun.set()
        await go.wait()

    recorder = Recorder(slow)
    await stage.add(*(f"e{i}" for i in range(15)))
    stop = asyncio.Event()
    task = asyncio.create_task(stage.worker(recorder).run(stop))
    await begun.wait()
    stop.set()
    go.set()
    async with asyncio.timeout(20):
        await task
    assert len(recorder.handled) == 10
    assert await stage.pending() == 0


async def test_worker_told_to_stop_while_it_waits_leaves_the_rest_pending(stage: Stage) -> None:
    def away(events: Sequence[Event]) -> None:
        begun.set()
        raise StoreUnavailable("away")

    begun = asyncio.Event()
    recorder = Recorder(away)
    settings = QUICK.model_copy(update={"retry_min_s": 300.0, "retry_max_s": 300.0})
    await stage.add("e1", "e2")
    stop = asyncio.Event()
    task = asyncio.create_task(stage.worker(recorder, settings).run(stop))
    await begun.wait()
    stop.set()
    async with asyncio.timeout(20):
        await task
    assert await stage.pending() == 2


class Flaky(CountingBroker):
    """Fails each call of the named kinds once."""

    def __init__(self, stage: Stage, *fail: str) -> None:
        super().__init__(BrokerSettings(kind="memory"), stage.metrics)
        self.fail = list(fail)

    def check(self, kind: str) -> None:
        if kind in self.fail:
            self.fail.remove(kind)
            raise BrokerUnavailable("away")

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        self.check("acknowledge")
        await super().acknowledge(stream, group, ids)

    async def append(self, stream: str, fields: Mapping[str, str]) -> None:
        if stream.endswith(":dead"):
            self.check("append")
        await super().append(stream, fields)

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[StreamMessage]:
        self.check("claim")
        return await super().claim(stream, group, consumer, min_idle_s=min_idle_s, count=count)


async def test_worker_meets_a_broker_that_fails_at_every_step(stage: Stage) -> None:
    broker = stage.broker = Flaky(stage, "claim", "acknowledge", "acknowledge", "append")

    def refuse(events: Sequence[Event]) -> None:
        if any(event.event_id == "bad" for event in events):
            raise ValueError

    recorder = Recorder(refuse)
    await stage.add("e1", "bad", "e2")
    async with stage.working(recorder, SLOW_CLAIMS):
        await eventually(lambda: len(recorder.handled) == 2 and not broker.fail, 20)
        await stage.add("e3")
        await eventually(lambda: "e3" in recorder.handled, 20)
    assert recorder.handled == ["e1", "e2", "e3"]
    assert [dead["event_id"] for dead in await stage.dead()] == ["bad"]
    assert await stage.pending() == 0


def test_event_without_an_id_is_known_by_its_entry() -> None:
    event = Event("s", "1-1", {"sensor_id": "x"})
    assert (event.event_id, event.sensor_id) == ("1-1", 0)
    named = msgspec.structs.replace(event, fields={"event_id": "a", "sensor_id": "7"})
    assert (named.event_id, named.sensor_id) == ("a", 7)
