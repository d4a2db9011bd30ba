"""`iot-bridge tail`, on one stream and on shards."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from bridge.broker.build import redis_streams
from bridge.settings.service import Settings
from bridge.telemetry import Metrics
from tests.support.publications import event_ids, publication
from tests.support.servers import RedisServer


@pytest.mark.parametrize("shards", [1, 3])
async def test_tail_prints_the_newest_and_follows(redis_server: RedisServer, shards: int) -> None:
    settings = Settings.model_validate({"redis": {"url": redis_server.url}, "broker": {"shards": shards}})
    streams = redis_streams(settings, Metrics())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("IOT_BRIDGE_")},
        "IOT_BRIDGE_DATABASE__URL": "postgresql://127.0.0.1:9/nobody",
        "IOT_BRIDGE_REDIS__URL": redis_server.url,
        "IOT_BRIDGE_BROKER__SHARDS": str(shards),
    }
    rows = [publication(number, sensors=[number]) for number in range(1, 6)]
    for row in rows[:4]:
        await streams.publish(row)
    command = [sys.executable, "-m", "bridge", "tail", "readings", "--json"]
    newest = await asyncio.create_subprocess_exec(
        *command, "--count", "4", env=environment, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        printed, _ = await newest.communicate()
    assert sorted(entry["event_id"] for entry in json.loads(printed)) == sorted(event_ids(*rows[:4]))
    follower = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    assert follower.stdout is not None
    try:
        async with asyncio.timeout(60):
            seen = [json.loads(await follower.stdout.readline())["event_id"] for _ in range(4)]
            await streams.publish(rows[4])
            seen.append(json.loads(await follower.stdout.readline())["event_id"])
        assert sorted(seen) == sorted(event_ids(*rows))
    finally:
        follower.kill()
        await follower.communicate()
    await streams.close()
