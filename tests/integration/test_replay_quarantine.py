"""`iot-bridge quarantine replay` in the field: killed, beside live traffic, of large messages, of what came again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from bridge.broker.deferred_outbox import DeferredOutbox
from bridge.mqtt.ingest import MqttIngest
from bridge.service.core import ServiceCore
from bridge.settings.http import LimitSettings
from bridge.settings.mqtt import MqttSettings
from bridge.settings.service import Settings
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.support.commands import Commands
from tests.support.servers import until, wait_until

RECEIVED_US = 1_790_000_000_000_000


class Shed:
    """A device with a sensor that is switched off, and what is refused of it."""

    def __init__(self, commands: Commands, url: str) -> None:
        self.url = url
        self.device = commands.json("device", "add", "shed", "--sensor", "air:temperature")
        self.uuid: str = self.device["device_uuid"]
        self.sensor: dict[str, Any] = self.device["sensors"][0]
        self.connection = psycopg.connect(url, autocommit=True)
        self._commands = commands

    def switch(self, *, on: bool) -> None:
        self.connection.execute("UPDATE sensors SET is_active = %s", (on,))

    def all(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), arguments or None).fetchall()

    def one(self, query: str, *arguments: Any) -> Any:
        return self.all(query, *arguments)[0][0]

    def values(self) -> list[float]:
        return [row[0] for row in self.all('SELECT value FROM sensor_readings ORDER BY "timestamp"')]

    def fill(self, count: int) -> None:
        """Quarantine rows of readings without a time and a key, of which nothing but their rows can tell one twice."""
        device = self.device["device_id"]
        self.connection.execute(
            """INSERT INTO quarantine (code, detail, payload, source, topic, device_id, device_uuid, reading_index,
                                       received_at, account, facts)
               SELECT 'sensor_inactive', 'why',
                      convert_to('{"readings":[{"sensor_uuid":"' || %s || '","value":' || n / 10.0 || '}]}', 'UTF8'),
                      'http', '/devices/' || %s || '/readings', %s, %s, 0, from_us(%s + n), %s, '{"whole":false}'
               FROM generate_series(1, %s) n""",
            (self.sensor["sensor_uuid"], self.uuid, device, self.uuid, RECEIVED_US, device, count),
        )
        self.connection.execute(
            """INSERT INTO ingest_ledger (instance, device_id, source, received, quarantined)
               VALUES (0, %s, 'http', %s, %s)""",
            (device, count, count),
        )

    def start_replay(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "bridge", "quarantine", "replay", *arguments, "--json"],
            env=os.environ | {"IOT_BRIDGE_DATABASE__URL": self.url},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class Doors:
    """The pipeline of a service in this process, and its MQTT door without a broker."""

    def __init__(self, url: str, **limits: int) -> None:
        mqtt = MqttSettings(url="mqtt://localhost")
        settings = Settings(database=DatabaseSettings(url=url), mqtt=mqtt)
        self._store = PostgresStore(settings.database, "doors")
        self._settings = settings
        self._limits = LimitSettings(**limits)
        self.us = RECEIVED_US

    async def __aenter__(self) -> Doors:
        await self._store.open()
        self.core = ServiceCore(self._settings, self._store, DeferredOutbox(), Metrics())
        self._task = asyncio.create_task(self.core.pipeline.run())
        self._ingest = MqttIngest(
            self._settings.mqtt,
            "doors",
            self.core.pipeline,
            Metrics(),
            Random(1),
            lambda: self.us,
            limits=self._limits,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert await self.core.pipeline.drain(10)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._store.close()

    async def mqtt(self, topic: str, payload: bytes, mid: int = 1, *, dup: bool = False) -> None:
        self.us += 1_000_000
        self._ingest.message(SimpleNamespace(topic=topic, payload=payload, mid=mid, qos=1, dup=dup, retain=False))
        await until(lambda: not self.core.pipeline.queued)


@pytest.fixture
def shed(commands: Commands, postgres_url: str) -> Iterator[Shed]:
    commands.set(database__url=postgres_url)
    made = Shed(commands, postgres_url)
    yield made
    made.connection.close()


def balanced(commands: Commands) -> bool:
    return bool(commands.json("ledger", "--verify")["balanced"])


async def run(commands: Commands, *arguments: str, expect: int = 0) -> Any:
    """The document of a command, which has an event loop of its own."""
    return await asyncio.to_thread(partial(commands.json, *arguments, expect=expect))


def test_replay_that_is_killed_and_begun_again_stores_each_reading_once(shed: Shed, commands: Commands) -> None:
    shed.fill(2_000)
    for already in (1, 600, 1_200):
        with shed.start_replay("--all") as process:
            wait_until(lambda: shed.one("SELECT count(*) FROM sensor_readings") >= already)  # noqa: B023
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert shed.one("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL") > 0, "killed too late"
    commands.run("quarantine", "replay", "--all")
    assert shed.values() == [n / 10 for n in range(1, 2_001)]
    assert shed.one("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL") == 0
    shed.connection.execute("UPDATE quarantine SET replayed_at = NULL")
    assert "0 stored, 2000 duplicate" in commands.run("quarantine", "replay", "--all").out
    assert shed.one("SELECT count(*) FROM sensor_readings") == 2_000
    assert balanced(commands)


def test_two_replays_at_once_store_each_reading_once(shed: Shed, commands: Commands) -> None:
    shed.fill(2_000)
    both = [shed.start_replay("--all") for _ in range(2)]
    for process in both:
        process.wait(120)
    assert {process.returncode for process in both} <= {0, 3}  # 3: one finds that the other has been faster
    commands.run("quarantine", "replay", "--all")
    assert shed.values() == [n / 10 for n in range(1, 2_001)]
    assert balanced(commands)


async def test_replay_beside_live_traffic(shed: Shed) -> None:
    shed.fill(1_000)
    topic = f"devices/{shed.uuid}/sensors/{shed.sensor['sensor_uuid']}"
    with shed.start_replay("--all") as process:
        async with Doors(shed.url) as doors:
            doors.us += 3_600_000_000
            sent = 0
            while process.poll() is None:
                sent += 1
                await doors.mqtt(topic, b"-%d" % (sent % 100), sent)
    assert process.returncode == 0
    assert shed.values() == [n / 10 for n in range(1, 1_001)] + [-(n % 100) for n in range(1, sent + 1)]
    newest = shed.one("SELECT latest_value FROM sensor_readings_latest")
    assert newest == -(sent % 100)


async def test_readings_without_a_time_in_one_body_keep_their_places(shed: Shed, commands: Commands) -> None:
    shed.switch(on=False)
    values = (21.5, 21.5, 22.5)
    readings = [{"sensor_uuid": shed.sensor["sensor_uuid"], "value": value} for value in values]
    async with Doors(shed.url) as doors:
        await doors.mqtt(f"devices/{shed.uuid}/readings", json.dumps({"readings": readings}).encode())
    shed.switch(on=True)
    replayed = await run(commands, "quarantine", "replay", "--all")
    assert [row["outcome"] for row in replayed] == ["stored"] * 3
    at_us = [row[0] - doors.us for row in shed.all('SELECT to_us("timestamp") FROM sensor_readings ORDER BY 1')]
    assert (at_us, shed.values()) == ([0, 1, 2], list(values))
    assert shed.all("SELECT DISTINCT unnest(sources) FROM ingest_outbox") == [("mqtt",)]


async def test_what_came_again_meanwhile_is_a_duplicate(shed: Shed, commands: Commands) -> None:
    """By its time; by its msgId; and by its packet id where the broker vouches that it is the same."""
    sensor = shed.sensor["sensor_uuid"]
    timed = json.dumps({"sensor_uuid": sensor, "value": 1, "sensor_ts": RECEIVED_US / 1e6}).encode()
    named = json.dumps({"sensor_uuid": sensor, "value": 2, "msgId": "a"}).encode()
    shed.switch(on=False)
    async with Doors(shed.url) as doors:
        for mid, payload in enumerate((timed, named), start=1):
            await doors.mqtt(f"devices/{shed.uuid}/readings", payload, mid)
        shed.switch(on=True)
        doors.core.resolver.clear()
        for mid, payload in enumerate((timed, named), start=11):
            await doors.mqtt(f"devices/{shed.uuid}/readings", payload, mid)
    replayed = await run(commands, "quarantine", "replay", "--all")
    assert [row["outcome"] for row in replayed] == ["duplicate", "duplicate"]
    assert shed.one("SELECT count(*) FROM sensor_readings") == 2
    assert (await run(commands, "ledger", "--verify"))["balanced"]


async def test_message_over_the_limit_is_replayed_whole_up_to_what_a_broker_may_send(
    shed: Shed, commands: Commands
) -> None:
    sensor, now_s = shed.sensor["sensor_uuid"], RECEIVED_US / 1e6
    items = [{"sensor_uuid": sensor, "value": n / 10, "sensor_ts": now_s - n} for n in range(2_000)]
    payload = json.dumps({"readings": items}).encode()
    assert 65_536 < len(payload) < 262_144
    async with Doors(shed.url, mqtt_device_per_minute=1) as doors:
        for mid in (1, 2):
            await doors.mqtt(f"devices/{shed.uuid}/readings", payload if mid == 2 else b"{", mid)
    kept = shed.all("SELECT octet_length(payload) FROM quarantine WHERE code = 'rate_limited'")
    assert kept == [(len(payload),)]
    (row,) = await run(commands, "quarantine", "replay", "--code", "rate_limited")
    assert (row["outcome"], shed.one("SELECT count(*) FROM sensor_readings")) == ("stored", 2_000)
    assert (await run(commands, "ledger", "--verify"))["balanced"]


async def test_what_is_refused_again_stays_and_is_not_kept_twice(shed: Shed, commands: Commands) -> None:
    shed.connection.execute("ALTER TABLE sensor_readings ADD CONSTRAINT odd CHECK (value <> 13)")
    items = [{"sensor_uuid": shed.sensor["sensor_uuid"], "value": value, "sequence": value} for value in (12, 13, 14)]
    async with Doors(shed.url, mqtt_device_per_minute=1) as doors:
        for mid in (1, 2):
            payload = json.dumps({"readings": items if mid == 2 else items[1:2]}).encode()
            await doors.mqtt(f"devices/{shed.uuid}/readings", payload, mid)
    assert shed.all("SELECT code FROM quarantine ORDER BY id") == [("store_refused",), ("rate_limited",)]
    for _ in range(2):
        answer = await run(commands, "quarantine", "replay", "--all", expect=1)
        assert [(row["outcome"], row["code"]) for row in answer] == [("refused", "store_refused")] * 2
        assert shed.values() == [12, 14]
        assert shed.one("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL") == 2
        assert (await run(commands, "ledger", "--verify"))["balanced"]
    shed.connection.execute("ALTER TABLE sensor_readings DROP CONSTRAINT odd")
    answer = await run(commands, "quarantine", "replay", "--all")
    assert [row["outcome"] for row in answer] == ["stored", "stored"]
    assert shed.one("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL") == 0
    assert (await run(commands, "ledger", "--verify"))["balanced"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ('take = ["temperature"]', "not_taken", "hall#humidity: not taken: not among take: 48; name it in `take`"),
        ('skip_also = ["humidity"]', "not_taken", "known to be no reading; drop it: iot-bridge quarantine drop"),
        ("", "unknown_sensor", "no sensor has the external id"),
    ],
)
def test_sample_that_is_not_taken_still_says_what_to_do(
    shed: Shed, commands: Commands, tmp_path: Path, options: str, code: str, said: str
) -> None:
    converter = f'[[mqtt.converters]]\nfilter = "zigbee2mqtt/+"\nformat = "zigbee2mqtt"\n{options}\n'
    config = tmp_path / "bridge.toml"
    config.write_text(f'[database]\nurl = "{shed.url}"\n{converter}')
    shed.connection.execute(
        """INSERT INTO quarantine (code, detail, payload, source, topic, device_id, reading_index, received_at, facts)
           VALUES ('not_taken', 'why', '{"temperature": 20.5, "humidity": 48}', 'mqtt', 'zigbee2mqtt/hall', 0, 2,
                   from_us(%s), '{"whole":false}')""",
        [RECEIVED_US],
    )
    [row] = commands.json("quarantine", "replay", "--code", "not_taken", "--config", str(config), expect=1)
    assert (row["outcome"], row["code"]) == ("refused", code)
    assert said in row["detail"]


def test_replay_without_a_database_says_what_is_left(shed: Shed, commands: Commands) -> None:
    """The database refuses to store: what was not stored is told, and stays."""
    shed.fill(3)
    shed.connection.execute("ALTER TABLE ingest_instances RENAME COLUMN last_batch TO other")
    ran = commands.run("quarantine", "replay", "--all", expect=3)
    assert "3 rows are left: replay them again" in ran.err
    shed.connection.execute("ALTER TABLE ingest_instances RENAME COLUMN other TO last_batch")
    assert "3 stored" in commands.run("quarantine", "replay", "--all").out


def test_rows_are_chosen_by_code_and_device_and_many_are_summed_up(shed: Shed, commands: Commands) -> None:
    other = commands.json("device", "add", "other")
    shed.fill(600)
    shed.connection.execute("UPDATE quarantine SET code = 'time_behind' WHERE id % 2 = 0")
    assert commands.json("quarantine", "replay", "--device", other["device_uuid"]) == []
    replayed = commands.json("quarantine", "replay", "--device", shed.uuid, "--code", "time_behind")
    assert len(replayed) == 300
    assert commands.run("quarantine", "replay", "--all").out.splitlines()[-1] == "300 stored, 0 duplicate, 0 not stored"
    assert commands.run("quarantine", "replay", "--all").out == "nothing\n"
    assert commands.problems("quarantine", "replay", "1", "--all")[0].startswith("name ids, or choose")
