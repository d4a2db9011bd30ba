"""Streams in shards on a Redis Cluster, which refuses any step that touches keys of several slots.

Three nodes without replicas, made by hand: scripts and groups must go to the node of their shard.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge.broker.build import Broker, redis_streams
from bridge.broker.events import READINGS
from bridge.errors import BrokerUnavailable, ConfigError
from bridge.settings.service import Settings, load
from bridge.telemetry import Metrics
from tests.support.publications import event_ids, publication
from tests.support.redis_process import binary, free_port
from tests.support.servers import wait_until

NODES, SLOTS = 3, 16_384
SENSORS = range(1, 61)
GROUP = "ml-worker-group"


class Node:
    """One node of the cluster; commands are sent as a line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.port = free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        options += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([binary(), *options], stdout=log, stderr=log)
        self.cluster_port = options[-1]
        wait_until(lambda: self.ask("PING").startswith("+PONG"), 20)

    def ask(self, command: str) -> str:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
                connection.sendall(command.encode() + b"\r\n")
                return connection.recv(4096).decode()
        except OSError:
            return ""

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[Node]]:
    nodes: list[Node] = []
    try:
        for number in range(NODES):
            nodes.append(Node(tmp_path / str(number)))
            low, high = number * SLOTS // NODES, (number + 1) * SLOTS // NODES - 1
            slots = " ".join(map(str, range(low, high + 1)))
            assert nodes[-1].ask(f"CLUSTER ADDSLOTS {slots}").startswith("+OK")
        for node in nodes[1:]:
            assert nodes[0].ask(f"CLUSTER MEET 127.0.0.1 {node.port} {node.cluster_port}").startswith("+OK")
        wait_until(lambda: all("cluster_state:ok" in node.ask("CLUSTER INFO") for node in nodes), 30)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


@pytest.fixture
async def broker(cluster: list[Node]) -> AsyncIterator[Broker]:
    redis = {"url": f"redis://127.0.0.1:{cluster[0].port}", "cluster": True, "timeout_s": 5}
    broker = Broker(Settings.model_validate({"redis": redis, "broker": {"shards": 8}}), Metrics())
    yield broker
    await broker.close()


async def test_everything_is_published_and_read_in_order(broker: Broker, cluster: list[Node]) -> None:
    rows = [publication(number, sensors=SENSORS) for number in range(1, 11)]
    await broker.streams.ensure_group(READINGS, GROUP)
    for row in rows:
        assert await broker.publisher.publish(row)
        assert await broker.publisher.publish(row)  # a repetition
    found: list[str] = []
    async with asyncio.timeout(30):
        while len(found) < 600:
            messages = await broker.streams.read(READINGS, GROUP, "a", count=50, block_s=0.1)
            await broker.streams.acknowledge(READINGS, GROUP, [message.id for message in messages])
            found += [message.fields["event_id"] for message in messages]
    assert sorted(found) == sorted(event_ids(*rows))
    for sensor in SENSORS:
        mine = [event for event in found if event.startswith(f"{sensor}-")]
        assert mine == [event for event in event_ids(*rows) if event.startswith(f"{sensor}-")]
    assert await broker.streams.lag(READINGS) == {GROUP: 0}
    assert await broker.streams.length(READINGS) == 600
    assert len([message async for message in _all(broker)]) == 600
    held = [int(node.ask("DBSIZE").strip(":\r\n")) for node in cluster]
    assert all(held), held  # shards are on every node


async def _all(broker: Broker) -> AsyncIterator[str]:
    after = "0"
    while messages := await broker.streams.read_after(READINGS, after, 100, 0):
        for message in messages:
            yield message.fields["event_id"]
        after = messages[-1].id


async def test_claim_renew_and_leave(broker: Broker) -> None:
    await broker.publisher.publish(publication(1, sensors=SENSORS))
    await broker.streams.ensure_group(READINGS, GROUP)
    held = await broker.streams.read(READINGS, GROUP, "dead", count=100, block_s=0)
    assert len(held) == 60
    await broker.streams.renew(READINGS, GROUP, "dead", [message.id for message in held])
    claimed = await broker.streams.claim(READINGS, GROUP, "heir", min_idle_s=0, count=100)
    assert {message.id for message in claimed} == {message.id for message in held}
    assert {message.deliveries for message in claimed} == {2}
    assert (await broker.streams.pending(READINGS, GROUP)).entries == 60
    await broker.streams.leave(READINGS, GROUP, "dead")


async def test_cluster_that_is_away_says_so(broker: Broker, cluster: list[Node]) -> None:
    await broker.streams.ping()
    for node in cluster:
        node.stop()
    with pytest.raises(BrokerUnavailable):
        await broker.publisher.publish(publication(1, sensors=SENSORS))
    fresh = redis_streams(
        Settings.model_validate(
            {"redis": {"url": f"redis://127.0.0.1:{cluster[0].port}", "cluster": True}, "broker": {"shards": 2}}
        ),
        Metrics(),
    )
    with pytest.raises(BrokerUnavailable):
        await fresh.ping()
    await fresh.close()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[broker]\nshards = 2\nredis_percent = 50",
            'broker: shards above 1 need kind = "redis" and redis_percent = 100',
        ),
        (
            "[redis]\ncluster = true",
            "redis.cluster needs broker.shards above 1: a stream and its books are on one node",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "c.toml")
    assert refused.value.problems == [problem]
