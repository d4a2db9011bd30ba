"""`iot-bridge ledger --verify`: balanced books pass, and each way of not balancing is found."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import pytest
import redis

from bridge.broker.redis import RedisBroker
from bridge.broker.relay import Relay
from bridge.service.core import now_us
from bridge.settings.stores import BrokerSettings, DatabaseSettings, RedisSettings
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.support.commands import Commands
from tests.support.redis_process import RedisProcess
from tests.support.servers import until, wait_until


class Books:
    """A device whose readings are stored by the procedure, and published when `publish` says so."""

    def __init__(self, commands: Commands, url: str, redis_url: str) -> None:
        made = commands.json("device", "add", "shed", "--sensor", "air:temperature")
        self.device = str(made["device_id"])
        self.sensor: int = made["sensors"][0]["sensor_id"]
        self.connection = psycopg.connect(url, autocommit=True)
        self.redis = redis.Redis.from_url(redis_url)
        self._commands = commands
        self._urls = (url, redis_url)
        self.sequence = 0

    def close(self) -> None:
        self.connection.close()
        self.redis.close()

    def store(self, count: int, value: float = 20) -> None:
        for _ in range(count):
            self.sequence += 1
            self.connection.execute(
                "SELECT sp_insert_reading_and_check_threshold(%s, %s, clock_timestamp(), %s)",
                (self.sensor, value, self.sequence),
            )

    def publish(self) -> None:
        """As a service does with rows of others."""

        async def sweep() -> None:
            url, redis_url = self._urls
            metrics = Metrics()
            store = PostgresStore(DatabaseSettings(url=url), "test")
            broker = RedisBroker(RedisSettings(url=redis_url), BrokerSettings(), metrics)
            await store.open()

            async def is_empty() -> bool:
                return (await PostgresOutbox(store).stats())[0] == 0

            relay = Relay(broker, PostgresOutbox(store), BrokerSettings(), metrics, Random(), now_us)
            task = asyncio.create_task(relay.sweep_forever())
            try:
                await until(is_empty, 20)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await broker.close()
                await store.close()

        asyncio.run(sweep())

    def verify(self, *more: str, expect: int = 0) -> Any:
        answer = self._commands.json("ledger", "--verify", *more, expect=expect)
        assert answer["balanced"] is (expect == 0)
        return answer


@pytest.fixture
def books(commands: Commands, postgres_url: str, redis_server: RedisProcess) -> Iterator[Books]:
    commands.set(database__url=postgres_url, redis__url=redis_server.url)
    made = Books(commands, postgres_url, redis_server.url)
    yield made
    made.close()


def test_balanced_books(books: Books, commands: Commands) -> None:
    books.store(3)
    books.publish()
    books.store(2)  # these wait in the outbox
    answer = books.verify()
    assert answer["total"] == {
        "received": 5,
        "stored": 5,
        "duplicate": 0,
        "quarantined": 0,
        "thinned": 0,
        "returned": 0,
        "pending": 0,
    }
    books.publish()
    streams = {stream["stream"]: stream for stream in books.verify()["streams"]}
    assert streams["iot:readings"]["found"] == streams["iot:readings"]["expected"] >= 2
    assert commands.run("ledger", "--verify").out.endswith("balanced\n")
    assert commands.run("ledger").out.count("\n") == 3  # head, device, total


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM sensor_readings WHERE sequence = 2", "the ledger has 3 stored, the tables have 2"),
        ("UPDATE ingest_ledger SET stored = stored - 1", "the ledger has 2 stored, the tables have 3"),
        ("UPDATE ingest_ledger SET received = received - 1", "more settled than received"),
        (
            "UPDATE ingest_ledger SET quarantined = 1, received = 4",
            "the ledger has 1 quarantined, the tables have 0",
        ),
        ("DELETE FROM ingest_ledger", "3 readings that no ledger line knows"),
    ],
)
def test_imbalance_made_by_hand_is_found(books: Books, commands: Commands, statement: str, said: str) -> None:
    books.store(3)
    books.connection.execute(statement.encode())
    assert any(said in line for line in books.verify(expect=1)["problems"])
    assert f"does not balance: device {books.device}" in commands.run("ledger", "--verify", expect=1).out


def test_books_of_a_sensor_that_was_moved_balance(books: Books, commands: Commands) -> None:
    """Its readings before are in the books of the former device, those after in those of the other."""
    books.store(3)
    other = commands.json("device", "add", "other")["device_id"]
    books.connection.execute("UPDATE sensors SET device_id = %s", [other])
    [move] = books.verify()["moves"]
    assert (str(move["from_device"]), move["to_device"]) == (str(books.device), other)
    assert books.verify("--device", books.device)["problems"] == []
    assert books.verify("--device", str(other))["problems"] == []
    books.store(2)
    assert books.verify()["problems"] == []
    said = commands.run("ledger", "--verify").out
    assert f"recounted together: devices {books.device} and {other}, sensor" in said
    books.connection.execute("DELETE FROM sensor_readings WHERE sequence = 2")
    assert len(books.verify(expect=1)["problems"]) == 2
    books.verify("--device", str(other), expect=1)


def test_verify_of_one_device_leaves_the_others_out(books: Books, commands: Commands) -> None:
    books.store(3)
    other = str(commands.json("device", "add", "other")["device_id"])
    books.connection.execute("DELETE FROM sensor_readings")
    books.verify(expect=1)
    books.verify("--device", books.device, expect=1)
    assert books.verify("--device", other)["devices"] == []
    commands.problems("ledger", "--device", "99", expect=4)


def test_gap_in_a_sequence_is_missing_before_our_door(books: Books, commands: Commands) -> None:
    books.store(2)
    books.sequence += 3
    books.store(1)
    answer = books.verify()
    assert answer["missing"] == [{"device_id": int(books.device), "missing": 3}]
    assert "3 sequence numbers" in commands.run("ledger", "--verify").out


def test_leap_of_a_counter_does_not_hide_what_is_missing(books: Books, commands: Commands) -> None:
    books.store(2)
    books.sequence += 3
    books.store(1)
    for sequence in (2**63 - 1, -1):
        books.sequence = sequence - 1
        books.store(1)
    answer = books.verify()
    device = int(books.device)
    assert answer["missing"] == [{"device_id": device, "missing": 2**63 + 1 - 5}]
    (leap,) = answer["leaps"]
    assert (leap["device_id"], leap["leaps"], answer["missing"][0]["missing"] - leap["numbers"]) == (device, 1, 4)
    said = commands.run("ledger", "--verify").out
    assert f"missing before our door: device {device}, 4 sequence numbers, beside 1 leap of its counter" in said


def test_entries_that_others_have_added_are_passed_over(books: Books, commands: Commands) -> None:
    books.store(1)
    books.publish()
    books.redis.xadd("iot:readings", {"note": "hello"})
    books.redis.xadd("iot:readings", {"sensor_id": "x", "timestamp": "y", "sequence": ""})
    books.redis.xadd("iot:alerts", {"kind": "alert"})
    readings, alerts = books.verify()["streams"]
    assert (readings["unreadable"], alerts["unreadable"]) == (2, 1)
    assert "2 entries are not of the bridge's form" in commands.run("ledger", "--verify").out


def test_stored_reading_that_was_never_published_is_found(books: Books) -> None:
    books.store(1)
    books.publish()
    books.store(5)
    books.connection.execute("DELETE FROM ingest_outbox")
    answer = books.verify(expect=1)
    assert answer["problems"] == [f"device {books.device}: 5 stored, but not on iot:readings"]
    assert answer["streams"][0]["found"] == answer["streams"][0]["expected"] - 5


def test_entry_that_left_the_stream_is_found(books: Books) -> None:
    books.store(1)
    books.publish()
    books.store(5)
    books.publish()
    newest: Any = books.redis.xrevrange("iot:readings", count=1)
    books.redis.xdel("iot:readings", newest[0][0])
    assert "1 stored, but not on iot:readings" in books.verify(expect=1)["problems"][0]


def test_alert_that_was_never_published_is_found(books: Books, commands: Commands) -> None:
    commands.json("threshold", "set", str(books.sensor), "--max", "30", "--severity", "critical")
    books.connection.execute("UPDATE sensors SET operational_state = 'NORMAL'")
    for value in (40, 20):
        books.store(1, value)
    books.publish()
    books.store(1, 41)
    assert books.verify()["balanced"]
    books.connection.execute("UPDATE ingest_outbox SET alerts = '[]'")
    assert books.verify(expect=1)["problems"] == [f"device {books.device}: 1 stored, but not on iot:alerts"]


def test_trimmed_stream_is_no_imbalance(books: Books) -> None:
    books.store(20)
    books.publish()
    books.redis.xtrim("iot:readings", maxlen=3, approximate=False)
    assert books.verify()["streams"][0]["entries"] == 3
    # The clock of PostgreSQL may be ahead: what looks newer than the oldest entry may have been trimmed.
    books.connection.execute("UPDATE sensor_readings SET ingested_at = ingested_at + interval '2 s'")
    books.verify()


def test_redis_that_came_back_empty_is_found(books: Books) -> None:
    books.store(3)
    books.publish()
    books.redis.flushall()
    (problem,) = books.verify(expect=1)["problems"]
    assert problem.startswith(f"device {books.device}: 3 stored, but not on iot:readings; the stream is empty")


def test_throttle_and_memory_are_not_held_against_the_books(books: Books, commands: Commands) -> None:
    books.store(1)
    books.publish()
    books.store(2)
    books.connection.execute("DELETE FROM ingest_outbox")
    books.verify(expect=1)
    commands.set(broker__throttle_interval_s="10")
    assert "broker.throttle_interval_s" in books.verify()["streams"][0]["why_not"]
    commands.set(broker__throttle_interval_s="0", broker__kind="memory")
    assert "own memory" in books.verify()["streams"][0]["why_not"]


def test_redis_that_does_not_answer_is_no_clean_bill(
    books: Books, commands: Commands, redis_server: RedisProcess
) -> None:
    books.store(1)
    redis_server.stop()
    ran = commands.run("ledger", "--verify", "--json", expect=3)
    assert ran.out.count("\n") == 1
    assert ran.err.startswith("error: the streams are not recounted: ")


def test_tail(books: Books, commands: Commands) -> None:
    assert commands.json("tail", "readings", "--count", "5") == []
    books.store(3)
    books.publish()
    entries = commands.json("tail", "readings", "--count", "2")
    assert [entry["sequence"] for entry in entries] == ["2", "3"]
    assert entries[0]["sensor_id"] == str(books.sensor)
    assert commands.run("tail", "readings", "--count", "9").out.count(" sensor_id=") == 3
    for stream in ("alerts", "decisions"):
        assert commands.json("tail", stream, "--count", "5") == []
    commands.json("tail", "nonsense", "--count", "5", expect=2)
    commands.set(broker__kind="memory")
    assert "in the service's own memory" in commands.problems("tail", "readings", "--count", "1")[0]


def test_tail_without_redis(books: Books, commands: Commands, redis_server: RedisProcess) -> None:
    redis_server.stop()
    assert commands.problems("tail", "readings", "--count", "1", expect=3)[0].startswith("Redis does not answer")
    commands.set(redis__url="")
    assert "set redis.url" in commands.problems("tail", "readings", "--count", "1")[0]


def test_tail_follows(books: Books, redis_server: RedisProcess) -> None:
    books.store(1)
    books.publish()
    command = [sys.executable, "-m", "bridge", "tail", "readings", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert b'"sequence":"1"' in process.stdout.readline()
        books.store(1)
        books.publish()
        assert b'"sequence":"2"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, 20)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
