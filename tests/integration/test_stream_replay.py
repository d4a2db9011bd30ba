"""What a group has lost is added again from the database, in the form it had."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bridge.broker.events import ALERT_FIELDS, ALERTS, READINGS, alert_rows, unix_seconds
from bridge.broker.redis import RedisBroker
from bridge.errors import ConfigError
from bridge.maintenance.stream_replay import Progress, ReplayPlan, replay
from bridge.model.reading import Publication
from bridge.settings.service import Settings
from bridge.store.postgres import alert_event
from bridge.telemetry import Metrics
from tests.support.plant import Plant, connect, us
from tests.support.redis_process import RedisProcess
from tests.support.servers import RedisServer

GROUP = "ml-worker-group"


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


@pytest.fixture
def settings(postgres_url: str, redis_server: RedisServer) -> Settings:
    return Settings.model_validate({"database": {"url": postgres_url}, "redis": {"url": redis_server.url}})


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(settings.redis, settings.broker, Metrics())
    yield broker
    await broker.close()


def everything(stream: str = READINGS, group: str = GROUP) -> ReplayPlan:
    return ReplayPlan(stream, group, 0, time.time_ns() // 1_000 + 1_000_000)


async def fields(broker: RedisBroker, stream: str = READINGS) -> list[dict[str, str]]:
    return [dict(message.fields) for message in await broker.tail(stream, 10_000)]


async def replayed(settings: Settings, plan: ReplayPlan) -> Progress:
    return await replay(settings, plan, lambda _: None)


async def test_readings_come_back_as_they_were(settings: Settings, broker: RedisBroker, plant: Plant) -> None:
    plant.store(20.5, 1.0)
    plant.store(1 / 3, 2.0, 7)
    await broker.ensure_group(READINGS, GROUP)
    assert (await replayed(settings, everything())).entries == 2
    first, second = await fields(broker)
    ingested = plant.all("SELECT to_us(ingested_at) AS us FROM sensor_readings ORDER BY ingested_at")[0]["us"]
    assert first == {
        "event_id": f"{plant.sensor}-{us(1.0)}-",
        "sensor_id": str(plant.sensor),
        "sensor_type": "temperature",
        "value": "20.5",
        "timestamp": unix_seconds(us(1.0)),
        "ingested_ts": unix_seconds(ingested),
        "sequence": "",
        "class": "clean",
        "device_id": str(plant.device),
        "source": "replay",
        "gateway": "",
        "replay_for": GROUP,
    }
    assert (second["event_id"], float(second["value"])) == (f"{plant.sensor}-{us(2.0)}-7", 1 / 3)


async def test_class_is_found_again(settings: Settings, broker: RedisBroker, plant: Plant) -> None:
    plant.delta(abs_delta=30.0)
    threshold = plant.threshold("greater_than", 80.0)
    labels = [plant.store(value, second).label for second, value in enumerate((20.0, 60.0, 61.0, 90.0, 91.0, 70.0))]
    assert labels == ["clean", "warning", "clean", "alert", "alert", "clean"]
    plant.all("DELETE FROM alert_thresholds WHERE id = %(id)s RETURNING id", id=threshold)
    await broker.ensure_group(READINGS, GROUP)
    await replayed(settings, everything())
    assert [each["class"] for each in await fields(broker)] == labels


async def test_alerts_come_back_with_their_ids(settings: Settings, broker: RedisBroker, plant: Plant) -> None:
    plant.delta(abs_delta=30.0)
    plant.threshold("greater_than", 80.0)
    plant.threshold("greater_than", 95.0, severity="critical")
    values = (20.0, 60.0, 61.0, 90.0, 99.0, 70.0)
    events = [event for second, value in enumerate(values) for event in plant.store(value, float(second)).events]
    events += plant.store(85.0, 1.5).events  # late: a past alert
    assert events[-1]["past"]
    await broker.ensure_group(ALERTS, "notifier-group")
    await replayed(settings, everything(ALERTS, "notifier-group"))
    found: dict[str, dict[str, Any]] = {each["event_id"]: each for each in await fields(broker, ALERTS)}
    assert set(found) == {event["event_id"] for event in events}
    for event in events:
        again = found[event["event_id"]]
        assert (again["kind"], again["severity"]) == (event["kind"], event["severity"])
        assert float(again["value"]) == event["value"]
        assert again["triggered_at"] == unix_seconds(event["triggered_at_us"])
        assert again["threshold_id"] == str(event["threshold_id"] or "")
        row = alert_rows(Publication(1, 1, [], [], 0, [alert_event(event)]))[0]
        published = dict(zip(ALERT_FIELDS, row, strict=True))
        assert {name: again[name] for name in ALERT_FIELDS} == published | {"value": again["value"]}


async def test_only_the_time_asked_for(settings: Settings, broker: RedisBroker, plant: Plant) -> None:
    for second in range(3):
        plant.store(20.0, float(second))
    stored = [row["us"] for row in plant.all("SELECT to_us(ingested_at) AS us FROM sensor_readings ORDER BY 1")]
    await broker.ensure_group(READINGS, GROUP)
    plan = ReplayPlan(READINGS, GROUP, stored[1], stored[2])
    assert (await replayed(settings, plan)).entries == 1
    [only] = await fields(broker)
    assert only["timestamp"] == unix_seconds(us(1.0))


async def test_redis_that_came_back_empty_is_refilled(
    settings: Settings, broker: RedisBroker, plant: Plant, redis_server: RedisProcess
) -> None:
    await broker.ensure_group(READINGS, GROUP)
    for part in range(3):
        plant.batch(*((20.0 + part, part * 1_000 + second) for second in range(1_000)))
    redis_server.flush()
    # The consumer makes its group again when it reads.
    assert await broker.read(READINGS, GROUP, "a", count=1, block_s=0) == []
    assert (await replayed(settings, everything())).entries == 3_000
    events = {each["event_id"] for each in await fields(broker)}
    assert events == {f"{plant.sensor}-{us(second)}-" for second in range(3_000)}


async def test_group_that_is_behind_is_waited_for(settings: Settings, broker: RedisBroker, plant: Plant) -> None:
    for part in range(4):
        plant.batch(*((20.0, part * 1_000 + second) for second in range(1_000)))
    limits = settings.broker.model_copy(update={"stream_maxlen": 2_000, "stream_cap": 4_000})
    settings = settings.model_copy(update={"broker": limits})
    await broker.ensure_group(READINGS, GROUP)
    waited = asyncio.Event()
    task = asyncio.create_task(
        replay(settings, everything(), lambda progress: waited.set() if progress.waiting else None)
    )
    async with asyncio.timeout(30):
        await waited.wait()
    assert (await broker.lag(READINGS))[GROUP] == 2_000
    count = 0
    async with asyncio.timeout(30):
        while count < 4_000:
            messages = await broker.read(READINGS, GROUP, "a", count=500, block_s=0.2)
            await broker.acknowledge(READINGS, GROUP, [message.id for message in messages])
            count += len(messages)
        assert (await task).entries == 4_000


async def test_group_that_is_not_there_is_named(settings: Settings, broker: RedisBroker) -> None:
    await broker.ensure_group(READINGS, GROUP)
    with pytest.raises(ConfigError, match="no group 'mlworker' reads iot:readings; there are: ml-worker-group"):
        await replayed(settings, everything(group="mlworker"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--group", GROUP, "--from", "2h"), 0, '"added":1'),
        (("--group", GROUP, "--from", "2026-01-01", "--until", "2026-01-02T00:00:00Z"), 0, '"added":0'),
        (("--group", GROUP, "--from", "yesterday"), 2, "'yesterday' is no time"),
        (("--group", "nobody", "--from", "2h"), 2, "no group 'nobody' reads"),
    ],
)
async def test_command(
    settings: Settings, broker: RedisBroker, plant: Plant, arguments: tuple[str, ...], code: int, said: str
) -> None:
    plant.store(20.0, 1.0)
    await broker.ensure_group(READINGS, GROUP)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("IOT_BRIDGE_")},
        "IOT_BRIDGE_DATABASE__URL": settings.database.url,
        "IOT_BRIDGE_REDIS__URL": settings.redis.url,
    }
    command = [sys.executable, "-m", "bridge", "replay", *arguments, "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
