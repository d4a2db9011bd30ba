"""Consumer processes against a real Redis: one of three is killed, Redis is restarted, or comes back empty."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
from redis import Redis

from bridge.broker.build import redis_streams
from bridge.broker.events import READINGS
from bridge.broker.redis import RedisBroker
from bridge.consumers.app import find
from bridge.errors import ConfigError
from bridge.settings.service import Settings
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.telemetry import Metrics
from tests.support.consumer_process import ConsumerProcess, install
from tests.support.publications import event_ids, publication
from tests.support.servers import RedisServer, TcpProxy, until, wait_until

GROUP = "notes-group"
CLAIM_AFTER_S = 1.0
MARGIN_S = 10.0
"""For a machine that is busy with other things."""
NOTES = '''
"""Notes every event it handles in a file of its own; the first worker that meets `freeze` holds its batch for ever."""
import asyncio
import os
from pathlib import Path

from bridge.consumers.api import consumer

FOLDER = Path(os.environ["NOTES"])


@consumer("iot:readings", group="notes-group")
async def notes(events, tools):
    for event in events:
        if event.event_id == os.environ.get("FREEZE"):
            try:
                (FOLDER / "frozen").touch(exist_ok=False)
            except FileExistsError:
                continue
            (FOLDER / "frozen").write_text(str(os.getpid()))
            await asyncio.Event().wait()
    with (FOLDER / f"{os.getpid()}.notes").open("a") as file:
        file.writelines(f"{event.event_id}\\n" for event in events)
    await asyncio.sleep(0.002)
'''


class Notes:
    """Workers of one group, and what they handled."""

    def __init__(self, folder: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.path = folder / "path"
        self.path.mkdir()
        install(self.path, "notes", "notes_consumer:notes", NOTES)
        monkeypatch.setenv("NOTES", str(folder))
        self.redis = redis
        self.url = redis.url
        self.broker = RedisBroker(RedisSettings(url=redis.url), BrokerSettings(), Metrics())
        self.workers: list[ConsumerProcess] = []

    def start(self, **settings: str) -> ConsumerProcess:
        worker = ConsumerProcess(
            self.folder,
            "notes",
            self.path,
            redis__url=self.url,
            consumers__claim_after_s=str(CLAIM_AFTER_S),
            consumers__batch="50",
            consumers__block_s="0.2",
            consumers__retry_max_s="0.5",
            **settings,
        )
        self.workers.append(worker)
        worker.start()
        return worker

    @property
    def handled(self) -> list[str]:
        return [line for file in self.folder.glob("*.notes") for line in file.read_text().splitlines()]

    def has(self, expected: list[str]) -> bool:
        return set(expected) <= set(self.handled)


@pytest.fixture
def notes(tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    made = Notes(tmp_path, redis_server, monkeypatch)
    yield made
    for worker in made.workers:
        worker.stop()


async def test_one_of_three_workers_killed_in_the_middle_of_a_batch(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [publication(number, sensors=range(1, 41)) for number in range(1, 51)]
    expected = event_ids(*rows)
    monkeypatch.setenv("FREEZE", expected[1_000])
    workers = {worker.pid: worker for worker in [notes.start() for _ in range(3)]}
    for row in rows:
        assert await notes.broker.publish(row)
    frozen = notes.folder / "frozen"
    await until(lambda: frozen.exists() and frozen.read_text(), 30)
    victim = workers[int(frozen.read_text())]
    pending = (await notes.broker.pending(READINGS, GROUP)).entries
    assert pending > 0
    victim.kill()
    killed_s = time.monotonic()
    await until(lambda: notes.has(expected), 30)
    assert time.monotonic() - killed_s < 1.25 * CLAIM_AFTER_S + MARGIN_S
    assert len(notes.handled) == len(expected)  # what the dead one had handled was acknowledged
    await until(lambda: _none_pending(notes), 20)
    for worker in notes.workers:
        assert worker.stop() == 0, worker.log
    await notes.broker.close()


async def _none_pending(notes: Notes) -> bool:
    return (await notes.broker.pending(READINGS, GROUP)).entries == 0


async def test_redis_restarted_and_then_empty(notes: Notes) -> None:
    worker = notes.start()
    first, second, third = (publication(number, sensors=range(1, 41)) for number in (1, 2, 3))
    await notes.broker.publish(first)
    await until(lambda: notes.has(event_ids(first)), 30)
    notes.redis.kill()
    notes.redis.start()
    await notes.broker.publish(second)
    await until(lambda: notes.has(event_ids(second)), 30)
    notes.redis.flush()
    await notes.broker.publish(third)
    await until(lambda: notes.has(event_ids(third)), 30)
    assert worker.stop() == 0, worker.log
    await notes.broker.close()


async def test_redis_that_fails_over_to_its_replica(notes: Notes, tmp_path: Path) -> None:
    """The address stays, as with a proxy or a name before the two: the replica has what the group had read."""
    folder = tmp_path / "replica"
    folder.mkdir()
    replica = RedisServer(folder)
    replica.start()
    async with TcpProxy(("127.0.0.1", notes.redis.port)) as proxy:
        notes.url = f"redis://127.0.0.1:{proxy.port}/0"
        broker = RedisBroker(RedisSettings(url=notes.url), BrokerSettings(), Metrics())
        with Redis(port=replica.port, decode_responses=True) as second:
            second.replicaof("127.0.0.1", str(notes.redis.port))
            await until(lambda: second.info("replication")["master_link_status"] == "up", 30)
            worker = notes.start()
            first, later = (publication(number, sensors=range(1, 41)) for number in (1, 2))
            await broker.publish(first)
            await until(lambda: notes.has(event_ids(first)), 30)
            await until(partial(_none_pending, notes), 30)
            with Redis(port=notes.redis.port) as master:
                master.wait(1, 20_000)
            notes.redis.kill()
            second.replicaof("NO", "ONE")
        proxy.lead_to(("127.0.0.1", replica.port))
        await broker.publish(later)
        await until(lambda: notes.has(event_ids(later)), 30)
        assert worker.stop() == 0, worker.log
        assert sorted(notes.handled) == sorted(event_ids(first, later))
        await broker.close()
    await notes.broker.close()
    replica.stop()


async def test_streams_in_shards_are_read_in_the_order_of_each_sensor(notes: Notes) -> None:
    settings = Settings.model_validate({"redis": {"url": notes.redis.url}, "broker": {"shards": 3}})
    streams = redis_streams(settings, Metrics())
    worker = notes.start(broker__shards="3")
    rows = [publication(number, sensors=range(1, 41)) for number in range(1, 11)]
    for row in rows:
        assert await streams.publish(row)
    await until(lambda: notes.has(event_ids(*rows)), 30)
    for sensor in range(1, 41):
        mine = [event for event in notes.handled if event.startswith(f"{sensor}-")]
        assert mine == [event for event in event_ids(*rows) if event.startswith(f"{sensor}-")]
    assert worker.stop() == 0, worker.log
    assert (await streams.pending(READINGS, GROUP)).entries == 0
    await streams.close()


async def test_stop_leaves_nothing_pending_and_no_name_behind(notes: Notes) -> None:
    worker = notes.start()
    rows = [publication(number, sensors=range(1, 41)) for number in range(1, 26)]
    for row in rows:
        await notes.broker.publish(row)
    await until(lambda: notes.handled, 30)
    assert worker.stop() == 0, worker.log
    assert (await notes.broker.pending(READINGS, GROUP)).entries == 0
    assert await notes.broker._commands.xinfo_consumers(READINGS, GROUP) == []
    rest = (await notes.broker.lag(READINGS))[GROUP]
    assert len(notes.handled) + rest == 1_000
    await notes.broker.close()


def test_metrics_are_served(notes: Notes) -> None:
    worker = notes.start(consumers__metrics_port="0")
    [url] = [part.removeprefix("metrics=") for part in worker.ready.split() if part.startswith("metrics=")]
    expected = f'iot_bridge_stream_pending{{group="{GROUP}",stream="{READINGS}"}} 0.0'

    def text() -> str:
        with urlopen(url, timeout=20) as answer:
            return str(answer.read().decode())

    wait_until(lambda: expected in text(), 20)


def test_find_of_a_consumer_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no consumer 'nobody'"):
        find("nobody")
