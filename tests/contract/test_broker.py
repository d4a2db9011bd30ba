"""One suite over every broker: memory, Redis Streams, the throttle around either, and the split."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from bridge.broker.build import Broker, notes
from bridge.broker.events import ALERTS, DECISIONS, READINGS
from bridge.broker.message import StreamMessage
from bridge.broker.split import is_first
from bridge.model.reading import AlertEvent, Publication
from bridge.pipeline.ports import Pending
from bridge.settings.service import Settings
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.telemetry import Metrics
from tests.support.mqtt_door import NOW_US
from tests.support.publications import event_ids, publication, reading
from tests.support.redis_process import RedisProcess

GROUP = "ml-worker-group"
MAXLEN, CAP = 300, 600
SENSORS = (1, 2, 3, 4, 5, 6)
KINDS = {
    "memory": BrokerSettings(kind="memory", memory_maxlen=MAXLEN, memory_cap=CAP),
    "redis": BrokerSettings(stream_maxlen=MAXLEN, stream_cap=CAP),
    "throttled memory": BrokerSettings(kind="memory", memory_maxlen=MAXLEN, memory_cap=CAP, throttle_interval_s=0.5),
    "throttled redis": BrokerSettings(stream_maxlen=MAXLEN, stream_cap=CAP, throttle_interval_s=0.5),
    "sharded": BrokerSettings(stream_maxlen=2 * MAXLEN, stream_cap=2 * CAP, shards=2),
    "split": BrokerSettings(
        stream_maxlen=MAXLEN, stream_cap=CAP, memory_maxlen=MAXLEN, memory_cap=CAP, redis_percent=50
    ),
}


@pytest.fixture(scope="module")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    redis = RedisProcess(Path(tmp_path_factory.mktemp("redis")))
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(params=list(KINDS))
async def broker(
    request: pytest.FixtureRequest, redis_process: RedisProcess, metrics: Metrics
) -> AsyncIterator[Broker]:
    redis_process.flush()
    settings = Settings(redis=RedisSettings(url=redis_process.url), broker=KINDS[request.param])
    broker = Broker(settings, metrics)
    yield broker
    await broker.close()


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def all_ids(broker: Broker, stream: str = READINGS) -> list[str]:
    return [message.fields["event_id"] for message in await broker.streams.tail(stream, 10_000)]


async def read_all(broker: Broker, consumer: str) -> list[StreamMessage]:
    """Everything unread; not acknowledged."""
    found: list[StreamMessage] = []
    while messages := await broker.streams.read(READINGS, GROUP, consumer, count=10, block_s=0):
        found += messages
    return found


async def drain(broker: Broker, group: str = GROUP, consumer: str = "a") -> list[str]:
    """Event ids of everything unread; acknowledged."""
    found: list[str] = []
    while messages := await broker.streams.read(READINGS, group, consumer, count=7, block_s=0):
        found += [message.fields["event_id"] for message in messages]
        await broker.streams.acknowledge(READINGS, group, [message.id for message in messages])
    return found


async def test_publish_entry_has_the_documented_fields(broker: Broker) -> None:
    assert await broker.publisher.publish(publication(1, sensors=[1], alerts=[1]))
    [message] = await broker.streams.tail(READINGS, 10)
    assert dict(message.fields) == {
        "event_id": "1-1769594401000000-",
        "sensor_id": "1",
        "sensor_type": "temperature",
        "value": "20.142857142857142",
        "timestamp": "1769594401.000000",
        "ingested_ts": "1769594401.000000",
        "sequence": "",
        "class": "clean",
        "device_id": "0",
        "source": "http",
        "gateway": "",
    }
    [message] = await broker.streams.tail(ALERTS, 10)
    assert dict(message.fields) == {
        "event_id": "1-1769594401000000-alert",
        "alert_id": "9",
        "sensor_id": "1",
        "kind": "alert",
        "severity": "critical",
        "value": "99.5",
        "threshold_id": "",
        "triggered_at": "1769594401.000000",
        "threshold_kind": "",
        "past": "",
        "resolved_at": "",
        "resolution": "",
    }


async def test_publish_keeps_the_order_of_each_sensor(broker: Broker) -> None:
    rows = [publication(i, sensors=SENSORS) for i in range(1, 9)]
    for row in rows:
        assert await broker.publisher.publish(row)
    found = await all_ids(broker)
    assert sorted(found) == sorted(event_ids(*rows))
    for sensor in SENSORS:
        mine = [id for id in found if id.startswith(f"{sensor}-")]
        assert mine == [id for id in event_ids(*rows) if id.startswith(f"{sensor}-")]


async def test_publish_again_adds_nothing(broker: Broker, metrics: Metrics) -> None:
    first, second = publication(1, sensors=SENSORS), publication(2, sensors=SENSORS, alerts=[1])
    for row in (first, second, second, first, second):
        assert await broker.publisher.publish(row)
    assert sorted(await all_ids(broker)) == sorted(event_ids(first, second))
    assert len(await all_ids(broker, ALERTS)) == 1
    assert value(metrics, "iot_bridge_published_total", stream=READINGS) == 12


async def test_publish_again_at_the_same_time_adds_nothing(broker: Broker) -> None:
    row = publication(1, sensors=SENSORS)
    assert all(await asyncio.gather(*(broker.publisher.publish(row) for _ in range(5))))
    assert sorted(await all_ids(broker)) == sorted(event_ids(row))


async def test_publish_of_another_life_of_the_database_is_no_repetition(broker: Broker) -> None:
    """Made anew or restored, a database gives the same instances and outbox ids once more."""
    old, new = publication(50), publication(1, life=1, sensors=[2])
    assert await broker.publisher.publish(old)
    assert await broker.publisher.publish(new)
    assert await broker.publisher.publish(new)
    assert sorted(await all_ids(broker)) == sorted(event_ids(old, new))


async def test_publish_rows_of_no_instance_in_any_order(broker: Broker) -> None:
    """Other programs' rows commit out of order: a lower id is not an older one."""
    rows = [publication(i, instance=0, sensors=[i]) for i in (3, 1, 2)]
    for row in rows + rows:
        assert await broker.publisher.publish(row)
    assert sorted(await all_ids(broker)) == sorted(event_ids(*rows))


async def test_publish_many_rows_of_other_instances(broker: Broker) -> None:
    rows = [publication(i, instance=i % 3 + 1, sensors=[i]) for i in range(1, 20)]
    for row in rows:
        assert await broker.publisher.publish(row)
    assert sorted(await all_ids(broker)) == sorted(event_ids(*rows))


@pytest.mark.parametrize("broker", ["redis", "throttled redis", "sharded", "split"], indirect=True)
async def test_publish_waits_for_what_must_come_first(broker: Broker) -> None:
    later = publication(7, instance=2, depends_on=[(1, 5), (0, 6)])
    assert not await broker.publisher.publish(later)
    assert await broker.publisher.publish(publication(5, sensors=[]))  # an empty row counts as well
    assert not await broker.publisher.publish(later)
    assert await all_ids(broker) == []
    assert await broker.publisher.publish(publication(6, instance=0, sensors=[]))
    assert await broker.publisher.publish(later)
    assert await all_ids(broker) == event_ids(later)


async def test_group_hands_each_entry_to_one_consumer(broker: Broker) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    row = publication(1, sensors=SENSORS)
    await broker.publisher.publish(row)
    one = await broker.streams.read(READINGS, GROUP, "a", count=4, block_s=0)
    two = await broker.streams.read(READINGS, GROUP, "b", count=4, block_s=0)
    assert one
    assert two
    assert sorted(message.fields["event_id"] for message in [*one, *two]) == sorted(event_ids(row))
    assert len({message.id for message in [*one, *two]}) == 6
    assert await broker.streams.read(READINGS, GROUP, "a", count=4, block_s=0) == []


async def test_each_group_gets_everything(broker: Broker) -> None:
    row = publication(1, sensors=SENSORS)
    await broker.streams.ensure_group(READINGS, "one")
    await broker.publisher.publish(row)
    await broker.streams.ensure_group(READINGS, "two")  # from the beginning
    await broker.streams.ensure_group(READINGS, "two")  # and making it again changes nothing
    assert sorted(await drain(broker, "one")) == sorted(event_ids(row))
    assert sorted(await drain(broker, "two")) == sorted(event_ids(row))


async def test_group_from_now_on_gets_only_what_comes(broker: Broker) -> None:
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    await broker.streams.ensure_group(READINGS, GROUP, start="$")
    row = publication(2, sensors=SENSORS)
    await broker.publisher.publish(row)
    assert sorted(await drain(broker)) == sorted(event_ids(row))


async def test_read_without_a_group_makes_it(broker: Broker) -> None:
    """A Redis that came back empty has lost its groups; consumers go on."""
    row = publication(1)
    await broker.publisher.publish(row)
    found: list[str] = []
    async with asyncio.timeout(5):
        while not found:
            found = await drain(broker)
    assert found == event_ids(row)


async def test_read_waits_for_an_entry(broker: Broker) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    for outbox_id in (1, 2):
        row = publication(outbox_id, sensors=SENSORS)
        waiting = asyncio.create_task(broker.streams.read(READINGS, GROUP, "a", count=10, block_s=5))
        await asyncio.sleep(0)
        await broker.publisher.publish(row)
        async with asyncio.timeout(2):
            messages = await waiting
        assert set(event_ids(row)) >= {message.fields["event_id"] for message in messages} > set()
        await drain(broker)


async def test_read_of_nothing_ends_after_its_wait(broker: Broker) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    async with asyncio.timeout(2):
        assert await broker.streams.read(READINGS, GROUP, "a", count=10, block_s=0.02) == []
        assert await broker.streams.read_after(READINGS, "$", 10, 0.02) == []


async def test_claim_takes_only_what_is_idle_and_unacknowledged(broker: Broker) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    held: list[str] = []
    while messages := await broker.streams.read(READINGS, GROUP, "dead", count=10, block_s=0):
        held += [message.id for message in messages]
    await broker.streams.acknowledge(READINGS, GROUP, held[:2])
    assert await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=60, count=10) == []
    some = await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0, count=3)
    assert len(some) == 3
    rest = await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0, count=10)
    assert sorted(message.id for message in rest) == sorted(held[2:])
    await broker.streams.acknowledge(READINGS, GROUP, held)
    assert await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0, count=10) == []


async def test_claim_says_how_often_an_entry_was_handed_out(broker: Broker) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    fresh = await read_all(broker, "dead")
    assert [message.deliveries for message in fresh] == [1] * 6
    for times in (2, 3):
        claimed = await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0, count=10)
        assert [message.deliveries for message in claimed] == [times] * 6


async def test_renew_keeps_entries_from_being_claimed(broker: Broker) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    held = [message.id for message in await read_all(broker, "a")]
    idle_s = 0.3

    async def claimed() -> list[StreamMessage]:
        await broker.streams.renew(READINGS, GROUP, "a", held[:2])
        return await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=idle_s, count=10)

    found: list[str] = []
    async with asyncio.timeout(20):
        while len(found) < 4:
            found += [message.id for message in await claimed()]
    assert sorted(found) == sorted(held[2:])
    left = await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0, count=10)
    assert {message.id: message.deliveries for message in left if message.id in held[:2]} == dict.fromkeys(held[:2], 2)


async def test_pending_is_what_is_handed_out_and_not_acknowledged(broker: Broker) -> None:
    assert await broker.streams.pending(READINGS, GROUP) == Pending(0, None)
    await broker.streams.ensure_group(READINGS, GROUP)
    assert await broker.streams.pending(READINGS, GROUP) == Pending(0, None)
    before_ms = time.time_ns() // 1_000_000
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    held = [message.id for message in await read_all(broker, "a")]
    found = await broker.streams.pending(READINGS, GROUP)
    assert found.entries == 6
    assert found.oldest_ms is not None
    assert before_ms - 1 <= found.oldest_ms <= time.time_ns() // 1_000_000 + 1
    await broker.streams.acknowledge(READINGS, GROUP, held)
    assert await broker.streams.pending(READINGS, GROUP) == Pending(0, None)


async def test_leave_keeps_what_is_pending(broker: Broker) -> None:
    await broker.streams.leave(READINGS, GROUP, "a")  # no stream, no group
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    held = [message.id for message in await read_all(broker, "a")]
    await broker.streams.leave(READINGS, GROUP, "a")
    assert (await broker.streams.pending(READINGS, GROUP)).entries == 6
    await broker.streams.acknowledge(READINGS, GROUP, held)
    await broker.streams.leave(READINGS, GROUP, "a")
    assert await drain(broker) == []


async def test_claim_of_trimmed_entries_drops_and_counts_them(broker: Broker, metrics: Metrics) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.publisher.publish(publication(1, sensors=range(100)))
    await read_all(broker, "dead")
    for outbox_id in range(2, 32):
        await broker.publisher.publish(publication(outbox_id, sensors=range(100)))
    while await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0.2, count=1000):
        pass
    async with asyncio.timeout(20):
        while (await broker.streams.pending(READINGS, GROUP)).entries:
            assert await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0.1, count=1000) == []
    assert value(metrics, "iot_bridge_stream_dropped_total", stream=READINGS, group=GROUP) >= 100


async def test_trimming_waits_for_the_slowest_group(broker: Broker, metrics: Metrics) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.streams.ensure_group(READINGS, "quick")
    rows = [publication(i, sensors=range(100)) for i in range(1, 6)]
    for row in rows:
        await broker.publisher.publish(row)
        assert sorted(await drain(broker, "quick")) == sorted(event_ids(row))
    assert await broker.streams.length(READINGS) == 500
    held = await read_all(broker, "a")
    assert sorted(message.fields["event_id"] for message in held) == sorted(event_ids(*rows))
    await broker.publisher.publish(publication(6, sensors=range(100)))
    assert await broker.streams.length(READINGS) == 600  # read, and not acknowledged
    await broker.streams.acknowledge(READINGS, GROUP, [message.id for message in held])
    for number in range(7, 20):
        await drain(broker, "quick")
        await drain(broker)
        await broker.publisher.publish(publication(number, sensors=range(100)))
    assert await broker.streams.length(READINGS) < 1_000  # of either side of the split, up to 400
    for group in (GROUP, "quick"):
        assert value(metrics, "iot_bridge_stream_dropped_total", stream=READINGS, group=group) == 0


async def test_trimming_at_the_cap_counts_what_a_group_has_not_read(broker: Broker, metrics: Metrics) -> None:
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.streams.ensure_group(READINGS, "quick")
    rows = [publication(i, sensors=range(100)) for i in range(1, 21)]
    for place, row in enumerate(rows):
        await broker.publisher.publish(row)
        assert sorted(await drain(broker, "quick")) == sorted(event_ids(row))
        if place == 0:
            assert sorted(await drain(broker)) == sorted(event_ids(row))
    length = await broker.streams.length(READINGS)
    assert 600 <= length < 1_500
    left = await drain(broker)
    assert len(left) == length
    lost = value(metrics, "iot_bridge_stream_dropped_total", stream=READINGS, group=GROUP)
    assert lost == 1_900 - length
    assert value(metrics, "iot_bridge_stream_dropped_total", stream=READINGS, group="quick") == 0


async def test_stream_without_groups_is_trimmed(broker: Broker) -> None:
    for number in range(1, 21):
        await broker.publisher.publish(publication(number, sensors=range(100)))
    assert await broker.streams.length(READINGS) < 1_000


async def test_extend_adds_many_entries_in_order(broker: Broker) -> None:
    rows = [[f"e{number}", str(number % 5)] for number in range(200)]
    await broker.streams.extend(DECISIONS, ["event_id", "sensor_id"], rows)
    found = [dict(message.fields) for message in await broker.streams.tail(DECISIONS, 1_000)]
    expected = [dict(zip(("event_id", "sensor_id"), row, strict=True)) for row in rows]
    for sensor in range(5):
        mine = [fields for fields in found if fields["sensor_id"] == str(sensor)]
        assert mine == [fields for fields in expected if fields["sensor_id"] == str(sensor)]


async def test_lag_is_what_a_group_has_not_been_handed(broker: Broker) -> None:
    assert await broker.streams.lag(READINGS) == {}
    await broker.streams.ensure_group(READINGS, GROUP)
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    assert await broker.streams.lag(READINGS) == {GROUP: 6}
    await broker.streams.read(READINGS, GROUP, "a", count=1, block_s=0)
    assert await broker.streams.lag(READINGS) == {GROUP: 5}


async def test_plain_readers_follow_a_stream(broker: Broker) -> None:
    rows = [publication(i, sensors=SENSORS) for i in range(1, 6)]
    for row in rows:
        await broker.publisher.publish(row)
    everything = await broker.streams.read_after(READINGS, "0", 100, 0)
    assert sorted(message.fields["event_id"] for message in everything) == sorted(event_ids(*rows))
    followed: list[str] = []
    at = "0"
    while messages := await broker.streams.read_after(READINGS, at, 4, 0):
        followed += [message.fields["event_id"] for message in messages]
        at = messages[-1].id
    assert followed == [message.fields["event_id"] for message in everything]
    newest = await broker.streams.tail(READINGS, 4)
    assert [message.fields for message in newest] == [message.fields for message in everything[-4:]]
    assert await broker.streams.read_after(READINGS, newest[-1].id, 10, 0) == []


async def test_append_adds_an_entry_of_a_consumer(broker: Broker) -> None:
    await broker.streams.append(DECISIONS, {"event_id": "x", "sensor_id": "3", "decision": "alert"})
    [message] = await broker.streams.tail(DECISIONS, 5)
    assert dict(message.fields) == {"event_id": "x", "sensor_id": "3", "decision": "alert"}


async def test_ping_answers(broker: Broker) -> None:
    await broker.streams.ping()


@pytest.mark.parametrize("broker", ["throttled memory", "throttled redis"], indirect=True)
async def test_throttle_passes_one_reading_per_interval_and_every_alert(broker: Broker, metrics: Metrics) -> None:
    await broker.publisher.publish(publication(1, sensors=[1, 1, 2, 1], alerts=[1, 1]))
    await broker.publisher.publish(publication(2, sensors=[1]))
    assert await all_ids(broker) == [reading(1, 1).event_id, reading(2, 1).event_id, reading(1, 2).event_id]
    assert len(await all_ids(broker, ALERTS)) == 2
    assert value(metrics, "iot_bridge_throttled_total") == 2


def test_split_is_stable_and_only_grows() -> None:
    shares = [{sensor for sensor in range(2000) if is_first(sensor, percent)} for percent in (0, 10, 50, 100)]
    assert [len(share) for share in shares] == [0, pytest.approx(200, abs=40), pytest.approx(1000, abs=80), 2000]
    assert shares[1] < shares[2] < shares[3]
    assert [sensor for sensor in range(20) if is_first(sensor, 50)] == [0, 2, 3, 4, 6, 7, 9, 10, 13, 14, 15, 18]


def alerts_of(*sensors: int, outbox_id: int = 1) -> Publication:
    """A row with a reading and an alert of each sensor."""
    row = publication(outbox_id)
    alerts = [
        AlertEvent(f"a-{sensor}", sensor, sensor, "alert", "critical", 9.5, 1, NOW_US + sensor) for sensor in sensors
    ]
    readings = [reading(sensor, 0) for sensor in sensors]
    return msgspec.structs.replace(row, readings=readings, classes=[2] * len(readings), alerts=alerts)


async def seen_by_others(url: str, settings: BrokerSettings, stream: str) -> set[str]:
    """Sensors of what another process, with the same settings, is handed on a stream in a group of its own."""
    other = Broker(Settings(redis=RedisSettings(url=url), broker=settings), Metrics())
    try:
        await other.streams.ensure_group(stream, "others")
        messages = await other.streams.read(stream, "others", "a", count=1_000, block_s=0)
        return {message.fields["sensor_id"] for message in messages}
    finally:
        await other.close()


@pytest.mark.parametrize("kind", ["split", "throttled redis", "sharded", "redis"])
async def test_alerts_and_decisions_are_whole_for_every_process(redis_process: RedisProcess, kind: str) -> None:
    redis_process.flush()
    settings = KINDS[kind]
    broker = Broker(Settings(redis=RedisSettings(url=redis_process.url), broker=settings), Metrics())
    everybody = {str(sensor) for sensor in SENSORS}
    try:
        for outbox_id in (1, 2):  # the second within the throttle's interval
            assert await broker.publisher.publish(alerts_of(*SENSORS, outbox_id=outbox_id))
        for sensor in SENSORS:
            await broker.streams.append(DECISIONS, {"sensor_id": str(sensor), "decision": "silent"})
        await broker.streams.extend("iot:dead:x", ["sensor_id"], [[str(sensor)] for sensor in SENSORS])
        assert await broker.streams.length(ALERTS) == 2 * len(SENSORS)
    finally:
        await broker.close()
    for stream in (ALERTS, DECISIONS, "iot:dead:x"):
        assert await seen_by_others(redis_process.url, settings, stream) == everybody
    on_redis = {str(sensor) for sensor in SENSORS if kind != "split" or is_first(sensor, settings.redis_percent)}
    assert await seen_by_others(redis_process.url, settings, READINGS) == on_redis
    assert kind != "split" or on_redis < everybody


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (BrokerSettings(), []),
        (BrokerSettings(redis_percent=50), ["redis_percent = 50"]),
        (BrokerSettings(redis_percent=0), ["redis_percent = 0"]),
        (BrokerSettings(kind="memory", redis_percent=50), ['kind = "memory"']),
        (BrokerSettings(throttle_interval_s=2.5), ["throttle_interval_s = 2.5"]),
        (BrokerSettings(redis_percent=10, throttle_interval_s=1), ["redis_percent = 10", "throttle_interval_s = 1"]),
    ],
)
def test_notes_name_the_setting_that_keeps_something_from_other_processes(
    settings: BrokerSettings, named: list[str]
) -> None:
    found = notes(settings)
    assert [name in note for name, note in zip(named, found, strict=True)] == [True] * len(named)
