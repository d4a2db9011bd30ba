"""What was quarantined and is replayed once its cause is mended gives the readings that it would have been.

Every example sends one stream of messages to two services with the same registry. One of them has faults: sensors that
are not registered, or switched off, devices that are disabled, limits that are too narrow, a database that refuses.
Then its faults are mended and its quarantine is replayed. Both must have the same readings and events, and balanced
books; a device of which nothing newer had come in between, and that had no alert when it was switched off, has the same
alerts and states, too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bridge.broker.deferred_outbox import DeferredOutbox
from bridge.gateway_protocol.batches import UplinkBatch, delivery_of
from bridge.gateway_protocol.decode import decode_batch
from bridge.model.scopes import DEFAULT_SCOPES
from bridge.mqtt.ingest import MqttIngest
from bridge.pipeline.receipt_collector import ReceiptCollector
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.service.core import ServiceCore
from bridge.settings.http import LimitSettings
from bridge.settings.mqtt import ConverterSettings, MqttSettings
from bridge.settings.process import PipelineSettings
from bridge.settings.service import Settings
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from edge.record import Settlement
from edge.uplink.encode import uplink_record
from tests.support.commands import Commands
from tests.support.http_door import FakeKeys, key_of, open_door
from tests.support.servers import PostgresServer, until
from tests.support.spool_site import SteadyTime, make_spool

START_US = 1_790_000_000_000_000  # 2026-09-21
DEVICES = 3
VALUES = (10.0, 20.0, 35.0, 45.0)
GATEWAY = "north"
NATIVE, FOREIGN = (0, 1), 2
"""Sensors of a device by their places: two that it names by UUID, and one that Zigbee2MQTT names."""
LIVE = "live"
"""A device of which nothing is refused."""
FAULTS = (LIVE, "unregistered", "inactive", "disabled", "narrow", "store_refused")
WIDE = ("", "behind", "ahead", "limited")
"""Faults of the whole service, which concern some messages of every device."""
CONVERTER = {"filter": "zigbee2mqtt/+", "format": "zigbee2mqtt"}


def device_uuid(device: int) -> str:
    return f"5f0c1f5e-0000-4000-8000-{device + 1:012d}"


def sensor_id(device: int, place: int) -> int:
    return 100 * (device + 1) + place


def sensor_uuid(device: int, place: int) -> str:
    return f"5f0c1f5e-0000-4000-9000-{sensor_id(device, place):012d}"


@dataclass(frozen=True)
class Item:
    """One reading. `ago_s`: its time, before that of its message; None: it has none."""

    place: int
    value: float
    ago_s: int | None
    sequence: int | None


@dataclass(frozen=True)
class Event:
    """One message. `again`: it is sent a second time, in the way of its door."""

    device: int
    form: str
    items: tuple[Item, ...]
    keyed: bool
    again: bool


@dataclass(frozen=True)
class Scenario:
    events: tuple[Event, ...]
    faults: tuple[str, ...]  # one a device
    since: tuple[int, ...]  # from which event on, one a device
    wide: str


PHASES = [phase for phase in Phase if phase is not Phase.shrink]
"""A failing example is small already, and each costs two databases."""

items = st.builds(
    Item,
    st.sampled_from(NATIVE),
    st.sampled_from(VALUES),
    st.sampled_from((None, None, 0, 1, 2, 90, -20)),
    st.sampled_from((None, None, 1, 2, 3)),
)
events = st.builds(
    Event,
    st.integers(0, DEVICES - 1),
    st.sampled_from(("http", "bulk", "mqtt", "bare", "legacy", "zigbee", "whole")),
    st.lists(items, min_size=1, max_size=4).map(tuple),
    st.booleans(),
    st.sampled_from((False, False, True)),
)
scenarios = st.builds(
    Scenario,
    st.lists(events, min_size=5, max_size=30).map(tuple),
    st.tuples(*[st.sampled_from(FAULTS)] * DEVICES),
    st.tuples(*[st.integers(0, 20)] * DEVICES),
    st.sampled_from(WIDE),
)


class Gateway:
    """A gateway that knows what its service does, over a spool on disk: doors submit to its pipeline."""

    def __init__(self, core: ServiceCore, registry: PostgresStore, judged: PipelineSettings, folder: Path) -> None:
        self.spool = make_spool(folder, SteadyTime(START_US))
        self.resolver = Resolver(registry, judged, Metrics(), time.monotonic)
        self.pipeline = Pipeline(
            resolver=self.resolver,
            store=self.spool,
            outbox=DeferredOutbox(),
            instance=1,
            settings=judged,
            metrics=Metrics(),
            random=Random(1),
            now_us=lambda: START_US,
            keep_unknown=True,
        )
        self._core = core
        self._delivered = 0

    async def deliver(self) -> None:
        """What the spool has, as the service takes it off the wire; answered when it is settled."""
        records = await self.spool.read(above=self._delivered, count=1_000, max_bytes=1 << 24)
        if not records:
            return
        self._delivered = records[-1].id
        batch = UplinkBatch(records[0].epoch, tuple(uplink_record(record, GATEWAY, None) for record in records))
        received, ignored = decode_batch(msgspec.json.encode(batch))
        assert not ignored
        collector = ReceiptCollector(len(records))
        for place, record in enumerate(received.records):
            settle = partial(collector.settle, place)
            self._core.pipeline.submit(delivery_of(record, batch.epoch, GATEWAY, record.received_us, settle))
        receipts = await collector.wait()
        settled = [Settlement(record.id, receipt.outcome) for record, receipt in zip(records, receipts, strict=True)]
        await self.spool.acknowledge(settled)


class World:
    """A service with its database, and what it is sent."""

    def __init__(self, url: str, config: Path, folder: Path | None) -> None:
        self.url = url
        self.config = config
        self._folder = folder  # of the gateway's spool; None: devices send to the service
        self.us = START_US
        self._mid = 0
        self._is_apart = False  # no two readings of a sensor share a time, unless they are the same

    def now_us(self) -> int:
        """The time of day; where readings are apart, never one that a device gives."""
        return self.us + 500 * self._is_apart

    def query(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def register(self, without: Sequence[int] = ()) -> None:
        self.query("INSERT INTO gateways (name, all_devices) VALUES (%s, true)", GATEWAY)
        self.query(
            "INSERT INTO api_keys (id, name, api_key_hash, all_devices) VALUES (1, 'api', repeat('0', 64), true)"
        )
        for device in range(DEVICES):
            self.query(
                "INSERT INTO devices (id, device_uuid, name) VALUES (%s, %s, 'box')", device + 1, device_uuid(device)
            )
            if device not in without:
                self.add_sensors(device)

    def add_sensors(self, device: int) -> None:
        for place in (*NATIVE, FOREIGN):
            sensor = sensor_id(device, place)
            external = f"zigbee2mqtt/box{device}#temperature" if place == FOREIGN else None
            self.query(
                """INSERT INTO sensors (id, sensor_uuid, device_id, name, sensor_type, external_id,
                                        min_readings_for_normal)
                   VALUES (%s, %s, %s, 'inlet', 'temperature', %s, 2)""",
                *(sensor, sensor_uuid(device, place), device + 1, external),
            )
            self.query(
                "INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min, severity)"
                " VALUES (%s, 'greater_than', 40, 'critical'), (%s, 'greater_than', 30, 'warning')",
                *(sensor, sensor),
            )
            self.query(
                "INSERT INTO delta_thresholds (sensor_id, abs_delta, severity) VALUES (%s, 12, 'warning')", sensor
            )

    async def take(self, scenario: Scenario, faulty: bool) -> None:
        """Send the stream, with the faults of its devices from their events on."""
        wide = scenario.wide if faulty else ""
        # Who comes first takes the place, and is conflicted with.
        self._is_apart = bool(scenario.wide)
        judged = PipelineSettings(
            max_behind_s=60 if wide == "behind" else 2_592_000, max_ahead_s=5 if wide == "ahead" else 300
        )
        limits = LimitSettings(mqtt_device_per_minute=2) if wide == "limited" else LimitSettings()
        mqtt = MqttSettings(url="mqtt://localhost", converters=(ConverterSettings(**CONVERTER),))
        found = Settings(database=DatabaseSettings(url=self.url), pipeline=judged, mqtt=mqtt)
        store = PostgresStore(found.database, "world")
        await store.open()
        core = ServiceCore(found, store, DeferredOutbox(), Metrics())
        tasks = [asyncio.create_task(core.pipeline.run())]
        gateway = None
        if self._folder is not None:
            gateway = Gateway(core, store, found.pipeline, self._folder)
            await gateway.spool.open()
            tasks.append(asyncio.create_task(gateway.pipeline.run()))
        pipeline = core.pipeline if gateway is None else gateway.pipeline
        ingest = MqttIngest(mqtt, "world", pipeline, Metrics(), Random(1), self.now_us, name="world", limits=limits)
        devices = [key_of(f"d{d}", device_id=d + 1, device_uuid=device_uuid(d)) for d in range(DEVICES)]
        api = key_of("api", kind="api", device_id=1, device_uuid=None, scopes=frozenset(DEFAULT_SCOPES))
        keys = FakeKeys(*devices, api)
        try:
            async with open_door(pipeline, keys, now_us=self.now_us) as door, door.client() as client:
                for number, event in enumerate(scenario.events):
                    if faulty:
                        self._break(scenario, number)
                        core.resolver.clear()
                        if gateway is not None:
                            gateway.resolver.clear()
                    for again in (False, True)[: 1 + event.again]:
                        self.us += 1_000_000
                        await self._send(event, number, again, ingest, client)
                        # One after the other: of what is sent at once, the order is nobody's promise.
                        await until(lambda: not pipeline.queued)
                        if gateway is not None:
                            await gateway.deliver()
            assert await core.pipeline.drain(10)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if gateway is not None:
                await gateway.spool.close()
            await store.close()

    def _break(self, scenario: Scenario, number: int) -> None:
        for device, (fault, since) in enumerate(zip(scenario.faults, scenario.since, strict=True)):
            if number != since:
                continue
            own = sensor_id(device, 0), sensor_id(device, FOREIGN)
            if fault == "inactive":
                self.query("UPDATE sensors SET is_active = false WHERE device_id = %s", device + 1)
            elif fault == "disabled":
                self.query("UPDATE devices SET status = 'disabled' WHERE id = %s", device + 1)
            elif fault == "narrow":
                self.query("UPDATE sensors SET max_value = -50 WHERE device_id = %s", device + 1)
            elif fault == "store_refused":
                check = f"CHECK (sensor_id NOT BETWEEN {own[0]} AND {own[1]}) NOT VALID"
                self.query(f"ALTER TABLE sensor_readings ADD CONSTRAINT refuse_{device} {check}")

    def mend(self, scenario: Scenario) -> None:
        for device, (fault, since) in enumerate(zip(scenario.faults, scenario.since, strict=True)):
            if fault == "unregistered":
                self.add_sensors(device)
            elif fault == "store_refused" and since < len(scenario.events):
                self.query(f"ALTER TABLE sensor_readings DROP CONSTRAINT refuse_{device}")
        self.query("UPDATE sensors SET is_active = true, max_value = NULL")
        self.query("UPDATE devices SET status = 'online' WHERE status = 'disabled'")

    async def _send(self, event: Event, number: int, again: bool, ingest: MqttIngest, client: Any) -> None:
        """The message, with times that are its first sending's; HTTP has its key, MQTT its packet id and DUP."""
        sent_us = self.us - 1_000_000 * again
        if self._is_apart:
            event = replace(event, items=tuple(_of_one_value(item, sent_us) for item in event.items))
        device, uuid = event.device, device_uuid(event.device)
        packet = [_native(device, item, sent_us) for item in event.items]
        first = event.items[0]
        if event.form in ("http", "bulk"):
            headers = {"Idempotency-Key": f"k{number}"} if event.keyed else {}
            if event.form == "http":
                path, body, headers["X-Device-Key"] = f"/devices/{uuid}/readings", {"readings": packet}, f"d{device}"
            else:
                rows = [_api(device, item, sent_us) for item in event.items]
                path, body, headers["X-API-Key"] = "/ingest/readings/bulk", {"readings": rows}, "api"
            answer = await client.post(path, content=json.dumps(body), headers=headers)
            assert answer.status_code == 200, answer.text
            return
        topic, document = {
            "mqtt": (f"devices/{uuid}/readings", {"readings": packet}),
            "whole": (f"devices/{uuid}/readings", {"readings": packet}),
            "bare": (f"devices/{uuid}/sensors/{sensor_uuid(device, first.place)}", first.value),
            "legacy": (f"iot/sensors/{sensor_id(device, first.place)}/readings", _legacy(event, number, sent_us)),
            "zigbee": (f"zigbee2mqtt/box{device}", {"linkquality": 3, "temperature": first.value}),
        }[event.form]
        if not again:
            self._mid += 1
        qos = 1 if event.keyed else 0
        ingest.message(
            SimpleNamespace(
                topic=topic,
                payload=json.dumps(document).encode(),
                mid=self._mid if qos else 0,
                qos=qos,
                dup=again and bool(qos),
                retain=False,
            )
        )

    # -- what there is

    def readings(self) -> list[tuple[Any, ...]]:
        return self.query(
            """SELECT sensor_id, value, "timestamp", device_timestamp, sequence, clock
               FROM sensor_readings ORDER BY 1, 3, 5, 2"""
        )

    def events(self) -> list[tuple[Any, ...]]:
        """What goes to the streams. But for the class: that of a late reading is told by what came before; and for the
        keys that a gateway makes: of the numbers of its records, of which a record that it quarantines has one, too;
        and of a msgId by what it knows the sensor by. Where some messages of a device are refused and others not, a
        reading may come again in one that is not: when it came, and how, is of the first that was stored.
        """
        came = "NULL, NULL" if self._is_apart else "u.received_us, u.source"
        return self.query(
            f"""SELECT u.sensor_id, u.ts_us, u.value, u.sequence, {came}, u.gateway,
                      CASE WHEN left(u.key, 2) NOT IN ('g-', 'd-') THEN u.key END
               FROM ingest_outbox o, unnest(o.sensor_ids, o.ts_us, o.values, o.sequences, o.received_us, o.keys,
                                            o.sources, o.gateways)
                    AS u (sensor_id, ts_us, value, sequence, received_us, key, source, gateway)
               ORDER BY 1, 2, 4, 3"""
        )

    def alerts(self, device: int) -> list[list[tuple[Any, ...]]]:
        """Alerts, warnings and states of a device."""
        of = "SELECT id FROM sensors WHERE device_id = %s"
        return [
            self.query(query, device + 1)
            for query in (
                f"SELECT sensor_id, severity, status, triggered_value, triggered_at, resolved_at FROM alerts"
                f" WHERE sensor_id IN ({of}) ORDER BY 1, 5, 2",
                f"SELECT sensor_id, event_code, status, created_at, resolved_at FROM ml_events"
                f" WHERE sensor_id IN ({of}) ORDER BY 1, 4",
                f"SELECT id, operational_state, valid_readings_count FROM sensors WHERE id IN ({of}) ORDER BY 1",
                f"SELECT sensor_id, latest_value, latest_timestamp, received_at FROM sensor_readings_latest"
                f" WHERE latest_value IS NOT NULL AND sensor_id IN ({of}) ORDER BY 1",
            )
        ]

    def undisturbed(self, scenario: Scenario) -> list[int]:
        """Devices of which nothing is stored that came after something that is quarantined, and that had nothing open
        when they were switched off: that was over then.

        None, where a gateway refuses a part of a message and its service the rest: of what it takes, a gateway does not
        keep the places.
        """
        if self._folder is not None and scenario.wide:
            return []
        newest = dict(
            self.query(
                """SELECT u.sensor_id / 100 - 1, max(u.received_us)
                   FROM ingest_outbox o, unnest(o.sensor_ids, o.received_us) AS u (sensor_id, received_us) GROUP BY 1"""
            )
        )
        ended = {
            device
            for (device,) in self.query(
                """SELECT o.sensor_id / 100 - 1 FROM (SELECT sensor_id, resolution FROM alerts UNION ALL
                                                      SELECT sensor_id, resolution FROM ml_events) o
                   WHERE o.resolution IN ('sensor_inactive', 'device_disabled')"""
            )
        }
        oldest: dict[int, int] = {}
        for (received_us,) in self.query("SELECT to_us(received_at) FROM quarantine ORDER BY 1"):
            oldest.setdefault(self.sender_of(scenario, received_us), received_us)
        return [d for d in range(DEVICES) if d not in ended and newest.get(d, 0) < oldest.get(d, newest.get(d, 0) + 1)]

    def sender_of(self, scenario: Scenario, received_us: int) -> int:
        at_us = START_US
        for event in scenario.events:
            at_us += 1_000_000 * (1 + event.again)
            if received_us <= at_us + 500:
                return event.device
        raise AssertionError(received_us)


def _native(device: int, item: Item, us: int) -> dict[str, Any]:
    reading: dict[str, Any] = {"sensor_uuid": sensor_uuid(device, item.place), "value": item.value}
    if item.ago_s is not None:
        reading["sensor_ts"] = us / 1e6 - item.ago_s
    if item.sequence is not None:
        reading["sequence"] = item.sequence
    return reading


def _api(device: int, item: Item, us: int) -> dict[str, Any]:
    reading: dict[str, Any] = {"sensor_id": sensor_id(device, item.place), "value": item.value}
    return reading if item.ago_s is None else reading | {"timestamp": us / 1e6 - item.ago_s}


def _legacy(event: Event, number: int, us: int) -> dict[str, Any]:
    item = event.items[0]
    message: dict[str, Any] = {"value": item.value, "msgId": f"m{number}"} if event.keyed else {"value": item.value}
    return message if item.ago_s is None else message | {"timestamp": us / 1e6 - item.ago_s}


def _of_one_value(item: Item, us: int) -> Item:
    """The item with the value of its moment."""
    if item.ago_s is None:
        return item
    return replace(item, value=VALUES[(us // 1_000_000 - item.ago_s) % len(VALUES)])


@pytest.fixture
def worlds(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Any]:
    """Makes a pair of worlds, which lasts until the next is made."""
    made: list[str] = []

    def make(*, through_gateway: bool) -> list[World]:
        while made:
            postgres_server.drop_database(made.pop())
        pair = []
        for name in ("whole", "faulty"):
            made.append(postgres_server.create_migrated())
            url = postgres_server.url_of(made[-1])
            config = tmp_path / f"{name}.toml"
            config.write_text(
                f'[database]\nurl = "{url}"\n[[mqtt.converters]]\n'
                + "".join(f'{key} = "{value}"\n' for key, value in CONVERTER.items())
            )
            pair.append(World(url, config, Path(mkdtemp(dir=tmp_path)) if through_gateway else None))
        return pair

    postgres_server.start()
    yield make
    while made:
        postgres_server.drop_database(made.pop())


@pytest.mark.parametrize("through_gateway", [False, True], ids=["service", "gateway"])
def test_what_is_replayed_once_its_cause_is_mended_is_what_it_would_have_been(
    worlds: Any, commands: Commands, through_gateway: bool
) -> None:
    @given(scenario=scenarios)
    @settings(max_examples=6, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
    def check(scenario: Scenario) -> None:
        whole, faulty = worlds(through_gateway=through_gateway)
        whole.register()
        asyncio.run(whole.take(scenario, faulty=False))
        faulty.register(without=[d for d, fault in enumerate(scenario.faults) if fault == "unregistered"])
        asyncio.run(faulty.take(scenario, faulty=True))
        undisturbed = faulty.undisturbed(scenario)
        faulty.mend(scenario)
        conflicts = whole.query("SELECT count(*) FROM quarantine WHERE code = 'conflicting_identity'")[0][0]
        both = faulty.query("SELECT count(*) FROM quarantine WHERE code = 'conflicting_identity'")[0][0]
        arguments = "quarantine", "replay", "--all", "--config", str(faulty.config)
        replayed = commands.json(*arguments, expect=1 if conflicts else 0)
        assert {row["outcome"] for row in replayed} <= {"stored", "duplicate", "refused"}
        refused = [row["code"] for row in replayed if row["outcome"] == "refused"]
        assert (set(refused) <= {"conflicting_identity"}, both <= conflicts) == (True, True)
        assert faulty.readings() == whole.readings()
        assert faulty.events() == whole.events()
        for device in undisturbed:
            assert faulty.alerts(device) == whole.alerts(device), (device, scenario.faults[device])
        for world in (whole, faulty):
            books = commands.json("ledger", "--verify", "--config", str(world.config))
            assert (books["balanced"], books["total"]["pending"]) == (True, 0)

    check()
