"""A batch through `sp_insert_readings` leaves the same database as its rows stored one by one, in order.

Every example registers the same fleet twice: one copy takes whole batches, its twin takes the rows of
those batches through `sp_insert_reading_and_check_threshold`. Afterwards all that either has caused is
compared, with ids replaced by places in the fleet. Few sensors, few moments and few values make
duplicates, conflicts, ties and late readings common.

What is judged by now is judged at two moments, one for each copy: a time of now is compared as such, and a slope
from it is not compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.support.servers import PostgresServer

Connection = psycopg.Connection[tuple[Any, ...]]

START = datetime(2026, 1, 31, 23, 59, 57, tzinfo=UTC)
"""3 s before the end of a partition: later readings go to the default one."""

SEVERITIES = ("info", "warning", "critical")
CONDITIONS = ("greater_than", "less_than", "equal_to", "out_of_range")
STATES = ("INITIALIZING", "NORMAL", "WARNING", "ALERT", "STALE")
CLASSES = ("clean", "warning", "alert")
STORED, DUPLICATE, REFUSED = range(3)
VALUES = (-40.0, 0.0, 1.0, 5.0, 10.0, 10.5, 20.0, 40.0)
FAR_S = 1e9
AHEAD_S = (FAR_S - 1.5, FAR_S + 13, FAR_S + 211, FAR_S + 4_000)
"""Not after START but, less FAR_S, after now: behind, ahead, and further ahead than is allowed."""


@dataclass(frozen=True)
class Device:
    status: str
    last_seen_s: int | None  # after START


@dataclass(frozen=True)
class Threshold:
    condition: str
    low: float | None
    high: float | None
    severity: str
    is_active: bool


@dataclass(frozen=True)
class Delta:
    abs_delta: float | None
    rel_delta: float | None
    abs_slope: float | None
    rel_slope: float | None
    severity: str
    is_active: bool
    cooldown_s: int


@dataclass(frozen=True)
class Sensor:
    device: int
    state: str
    valid_count: int
    min_readings: int
    open_alert: tuple[str, str] | None  # severity, status
    open_warning: tuple[str, str] | None  # event_code, status
    limits: tuple[float | None, float | None]
    thresholds: tuple[Threshold, ...]
    deltas: tuple[Delta, ...]


@dataclass(frozen=True)
class Fleet:
    devices: tuple[Device, ...]
    sensors: tuple[Sensor, ...]


@dataclass(frozen=True)
class GivenReading:
    sensor: int
    value: float
    ts_s: float | None  # after START, or in MOMENTS of now; None: the device gave no time
    sequence: int | None
    received_s: int
    key: str | None
    fresh: bool
    redelivered: bool


severities = st.sampled_from(SEVERITIES)
usually = st.sampled_from((True, True, True, False))
open_states = st.sampled_from(("active", "acknowledged"))
bounds = st.sampled_from((None, *VALUES))

devices = st.builds(
    Device, status=st.sampled_from(("online", "offline", "disabled")), last_seen_s=st.sampled_from((None, -20, 0, 20))
)
thresholds = st.builds(
    Threshold, condition=st.sampled_from(CONDITIONS), low=bounds, high=bounds, severity=severities, is_active=usually
)
deltas = st.builds(
    Delta,
    abs_delta=st.sampled_from((None, 0.4, 4.0, 15.0)),
    rel_delta=st.sampled_from((None, 0.5, 3.0)),
    abs_slope=st.sampled_from((None, 2.0, 8.0)),
    rel_slope=st.sampled_from((None, 0.5, 3.0)),
    severity=severities,
    is_active=usually,
    cooldown_s=st.sampled_from((0, 1, 3, 60)),
)


def sensors(n_devices: int) -> st.SearchStrategy[Sensor]:
    return st.builds(
        Sensor,
        device=st.integers(0, n_devices - 1),
        state=st.sampled_from((*STATES, "NORMAL", "NORMAL")),
        valid_count=st.integers(0, 3),
        min_readings=st.integers(0, 3),
        open_alert=st.none() | st.tuples(severities, open_states),
        open_warning=st.none() | st.tuples(st.sampled_from(("DELTA_SPIKE", "DRIFT")), open_states),
        limits=st.sampled_from(((None, None), (None, None), (None, 20.0), (0.0, None))),
        thresholds=st.lists(thresholds, max_size=3).map(tuple),
        deltas=st.lists(deltas, max_size=2).map(tuple),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    owners = draw(st.lists(devices, min_size=1, max_size=2))
    return Fleet(tuple(owners), tuple(draw(st.lists(sensors(len(owners)), min_size=1, max_size=3))))


def rows(n_sensors: int) -> st.SearchStrategy[GivenReading]:
    return st.builds(
        GivenReading,
        sensor=st.integers(0, n_sensors - 1),
        value=st.sampled_from((*VALUES, *VALUES, float("nan"))),
        ts_s=st.sampled_from((None, 0.0, 1.0, 1.0, 1.000001, 1.000002, 2.0, 3.0, 4.5, 5.0, 6.0, *AHEAD_S)),
        sequence=st.sampled_from((None, None, 1, 2)),
        received_s=st.sampled_from((0, 5, 9, 13, 31)),
        key=st.sampled_from((None, None, None, "a", "b")),
        fresh=usually,
        redelivered=usually,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Fleet, list[list[GivenReading]]]:
    """A fleet, and the batches it sends."""
    fleet = draw(fleets())
    return fleet, draw(st.lists(st.lists(rows(len(fleet.sensors)), max_size=20), min_size=1, max_size=3))


def at(after_s: float) -> datetime:
    return START + timedelta(seconds=after_s)


def fixed(batch: list[GivenReading], now: datetime) -> list[GivenReading]:
    """With times around now as seconds after START."""
    since_s = (now - START).total_seconds()
    return [
        replace(row, ts_s=since_s + row.ts_s - FAR_S) if row.ts_s is not None and row.ts_s > FAR_S / 2 else row
        for row in batch
    ]


def moment(after_s: float | None) -> datetime | None:
    return None if after_s is None else at(after_s)


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Copy:
    """A fleet as it is registered, and what is read back of it with ids replaced by places."""

    def __init__(self, connection: Connection, fleet: Fleet) -> None:
        self._connection = connection
        self.now = datetime.now(UTC)
        self._names: dict[str, dict[Any, Any]] = {}
        self.devices = [
            self._insert("devices", name="d", status=d.status, last_seen_at=moment(d.last_seen_s))
            for d in fleet.devices
        ]
        self.sensors: list[int] = []
        self.thresholds: list[int] = []
        self.deltas: list[int] = []
        for sensor in fleet.sensors:
            self._register(sensor)

    def _register(self, sensor: Sensor) -> None:
        device_id = self.devices[sensor.device]
        sensor_id = self._insert(
            "sensors",
            device_id=device_id,
            name="s",
            sensor_type="t",
            operational_state=sensor.state,
            valid_readings_count=sensor.valid_count,
            min_readings_for_normal=sensor.min_readings,
            state_changed_at=START,
            min_value=sensor.limits[0],
            max_value=sensor.limits[1],
        )
        self.sensors.append(sensor_id)
        for t in sensor.thresholds:
            limits = {"threshold_value_min": t.low, "threshold_value_max": t.high, "condition_type": t.condition}
            self.thresholds.append(
                self._insert(
                    "alert_thresholds", sensor_id=sensor_id, severity=t.severity, is_active=t.is_active, **limits
                )
            )
        for d in sensor.deltas:
            limits = {k: getattr(d, k) for k in ("abs_delta", "rel_delta", "abs_slope", "rel_slope")}
            self.deltas.append(
                self._insert(
                    "delta_thresholds",
                    sensor_id=sensor_id,
                    severity=d.severity,
                    is_active=d.is_active,
                    cooldown_seconds=d.cooldown_s,
                    **limits,
                )
            )
        common = {"sensor_id": sensor_id, "device_id": device_id}
        if sensor.open_alert:
            severity, status = sensor.open_alert
            self._insert("alerts", severity=severity, status=status, triggered_value=0, triggered_at=START, **common)
        if sensor.open_warning:
            code, status = sensor.open_warning
            texts = {"title": "", "message": "", "payload": Jsonb({})}
            self._insert(
                "ml_events",
                event_type="warning",
                event_code=code,
                status=status,
                created_at=START - timedelta(days=1),
                **texts,
                **common,
            )

    def _insert(self, table: str, **columns: Any) -> int:
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        query = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id".encode()
        row = self._connection.execute(query, list(columns.values())).fetchone()
        assert row is not None
        return int(row[0])

    def key_of(self, key: str | None) -> str | None:
        """Keys are known to the whole database: each copy has its own."""
        return key and f"{self.devices[0]}/{key}"

    def left_behind(self, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Everything that its readings have caused, by table; `events` are what the procedure has returned."""
        owners, ids = {"devices": self.devices}, {"sensors": self.sensors}
        self._names = {
            "device": {x: i for i, x in enumerate(self.devices)},
            "sensor": {x: i for i, x in enumerate(self.sensors)} | {None: None},
            "threshold": {x: i for i, x in enumerate(self.thresholds)} | {None: None},
            "delta": {x: i for i, x in enumerate(self.deltas)} | {None: None},
        }
        alerts = self._rows(ALERTS, ids)
        warnings = self._rows(WARNINGS, ids)
        self._names["a"] = {row["id"]: (row["sensor"], row["nth"]) for row in alerts}
        self._names["w"] = {row["id"]: (row["sensor"], row["nth"]) for row in warnings}
        for row in warnings:
            row["payload"]["delta_threshold_id"] = self._names["delta"][row["payload"].get("delta_threshold_id")]
            if row["created_at"] > self.now:
                row["payload"] |= {"abs_slope": None, "rel_slope": None}
        outbox = self._rows(OUTBOX, ids)
        return {
            "readings": self._rows(READINGS, ids),
            "latest": [self._without_now(row) for row in self._rows(LATEST, ids)],
            "sensors": [self._without_now(row) for row in self._rows(SENSORS, ids)],
            "devices": self._rows(DEVICES, owners),
            "alerts": [self._without_now(row) | {"id": None} for row in alerts],
            "ml_events": [self._without_now(row) | {"id": None} for row in warnings],
            "ledger": self._rows(LEDGER, owners),
            "keys": self._rows(KEYS, {"prefix": f"{self.devices[0]}/"}),
            "quarantine": [self._quarantined(row) for row in self._rows(QUARANTINE, owners)],
            "events": [self._event(event) for event in events],
            "outbox readings": outbox,
            "outbox events": [self._event(event) for row in self._rows(OUTBOX_EVENTS, ids) for event in row["alerts"]],
        }

    def _rows(self, query: bytes, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        cursor = self._connection.execute(query, arguments)
        names = [column.name for column in cursor.description or ()]
        return [
            {name: self._names[name][x] if name in self._names else x for name, x in zip(names, row, strict=True)}
            for row in cursor
        ]

    def _without_now(self, row: dict[str, Any]) -> dict[str, Any]:
        """With `now` for times that are: what a reading ahead does, it does now."""
        limit = datetime.now(UTC)
        return {name: "now" if isinstance(x, datetime) and self.now < x <= limit else x for name, x in row.items()}

    def _quarantined(self, row: dict[str, Any]) -> dict[str, Any]:
        body = json.loads(row["payload"])
        sensors = self._names["sensor"]
        detail = re.sub(r"sensor (\d+)", lambda found: f"sensor {sensors[int(found[1])]}", row["detail"])
        return row | {
            "payload": body | {"sensor_id": sensors[body["sensor_id"]]},
            "detail": re.sub(r"\d+ s ahead", "some s ahead", detail),
        }

    def _event(self, event: dict[str, Any]) -> dict[str, Any]:
        prefix, number, kind = event["event_id"].split("-")
        assert (number, kind) == (str(event["alert_id"]), event["kind"])
        rules = self._names["threshold" if prefix == "a" else "delta"]
        return event | {
            "event_id": prefix,
            "alert_id": self._names[prefix][event["alert_id"]],
            "sensor_id": self._names["sensor"][event["sensor_id"]],
            "threshold_id": rules[event["threshold_id"]],
            "triggered_at_us": "now" if event["triggered_at_us"] > micros(self.now) else event["triggered_at_us"],
        }


# A column that is called like a kind of id holds one.
READINGS = b"""
    SELECT sensor_id AS sensor, value, "timestamp", device_timestamp, sequence, clock FROM sensor_readings
    WHERE sensor_id = ANY (%(sensors)s) ORDER BY sensor_id, "timestamp", sequence
"""
LATEST = b"""
    SELECT sensor_id AS sensor, latest_value, latest_timestamp, received_at FROM sensor_readings_latest
    WHERE sensor_id = ANY (%(sensors)s) ORDER BY sensor_id
"""
SENSORS = b"""
    SELECT operational_state, valid_readings_count, state_changed_at, warmed_up FROM sensors
    WHERE id = ANY (%(sensors)s) ORDER BY id
"""
DEVICES = b"SELECT status, last_seen_at FROM devices WHERE id = ANY (%(devices)s) ORDER BY id"
ALERTS = b"""
    SELECT id, sensor_id AS sensor, row_number() OVER (PARTITION BY sensor_id ORDER BY id) AS nth, device_id AS device,
           threshold_id AS threshold, severity, status, triggered_value, triggered_at, resolved_at, is_past,
           resolution
    FROM alerts WHERE sensor_id = ANY (%(sensors)s) ORDER BY sensor_id, id
"""
WARNINGS = b"""
    SELECT id, sensor_id AS sensor, row_number() OVER (PARTITION BY sensor_id ORDER BY id) AS nth, device_id AS device,
           event_type, event_code, status, created_at, resolved_at, title, message, payload, resolution
    FROM ml_events WHERE sensor_id = ANY (%(sensors)s) ORDER BY sensor_id, id
"""
LEDGER = b"""
    SELECT device_id AS device, source, received, returned, stored, duplicate, quarantined, thinned FROM ingest_ledger
    WHERE device_id = ANY (%(devices)s) ORDER BY device_id, source
"""
KEYS = b"""
    SELECT substr(key, length(%(prefix)s) + 1) AS name, sensor_id AS sensor, value FROM ingest_event_keys
    WHERE starts_with(key, %(prefix)s) ORDER BY 1
"""
QUARANTINE = b"""
    SELECT device_id AS device, code, detail, payload, source, topic, received_at FROM quarantine
    WHERE device_id = ANY (%(devices)s) ORDER BY id
"""
OUTBOX = b"""
    SELECT u.sensor_id AS sensor, u.value, u.ts_us, u.sequence, u.received_us,
           split_part(u.key, '/', 2) AS name, u.class, u.source
    FROM ingest_outbox, unnest(sensor_ids, "values", ts_us, sequences, received_us, keys, classes, sources)
         WITH ORDINALITY AS u (sensor_id, value, ts_us, sequence, received_us, key, class, source, ord)
    WHERE sensor_ids && %(sensors)s::bigint[] ORDER BY id, ord
"""
OUTBOX_EVENTS = b"""
    SELECT coalesce(alert_events, alerts) AS alerts FROM ingest_outbox
    WHERE sensor_ids && %(sensors)s::bigint[] ORDER BY id
"""

BATCH = """
    SELECT outcomes, classes, alerts, codes FROM sp_insert_readings(
        %s::bigint[], %s::double precision[], %s::bigint[], %s::bigint[], %s::bigint[], %s::boolean[], %s::text[],
        %s::boolean[], %s::boolean[])
"""
ONE = """
    SELECT inserted, class, alerts, code FROM sp_insert_reading_and_check_threshold(
        %s::bigint, %s::double precision, %s::timestamptz, %s::bigint, %s::timestamptz, %s::text, %s, %s)
"""


def store_whole(
    connection: Connection, copy: Copy, batch: list[GivenReading]
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Store a batch in one call; returns (outcome, class, code) of each row, and the alert events."""
    received = [micros(at(row.received_s)) for row in batch]
    answer = connection.execute(
        BATCH,
        [
            [copy.sensors[row.sensor] for row in batch],
            [row.value for row in batch],
            [r if row.ts_s is None else micros(at(row.ts_s)) for row, r in zip(batch, received, strict=True)],
            [row.sequence for row in batch],
            received,
            [row.ts_s is not None for row in batch],
            [copy.key_of(row.key) for row in batch],
            [row.fresh for row in batch],
            [row.redelivered for row in batch],
        ],
    ).fetchone()
    assert answer is not None
    outcomes, classes, events, codes = answer
    codes = codes or [None] * len(outcomes)
    return [(outcome, CLASSES[c], code) for outcome, c, code in zip(outcomes, classes, codes, strict=True)], events


def store_singly(
    connection: Connection, copy: Copy, batch: list[GivenReading]
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Store the rows of a batch in a call each; returns the same as `store_whole`."""
    answers: list[Any] = []
    events: list[dict[str, Any]] = []
    for row in batch:
        answer = connection.execute(
            ONE,
            [
                copy.sensors[row.sensor],
                row.value,
                moment(row.ts_s),
                row.sequence,
                at(row.received_s),
                copy.key_of(row.key),
                row.fresh,
                row.redelivered,
            ],
        ).fetchone()
        assert answer is not None
        outcome = STORED if answer[0] else DUPLICATE if answer[3] is None else REFUSED
        answers.append((outcome, answer[1], answer[3]))
        events += answer[2]
    return answers, events


@pytest.fixture(scope="module")
def connection(postgres_server: PostgresServer) -> Iterator[Connection]:
    """A database for all examples: their fleets do not meet."""
    postgres_server.start()
    name = postgres_server.create_migrated()
    with psycopg.connect(postgres_server.url_of(name), autocommit=True) as connection:
        connection.execute("SELECT ensure_partitions(%s, %s)", [START, START])
        connection.execute("SET jit = off")
        yield connection
    postgres_server.drop_database(name)


@pytest.mark.timeout(300)
@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(history=histories())
def test_a_batch_equals_its_rows_one_by_one(
    connection: Connection, history: tuple[Fleet, list[list[GivenReading]]]
) -> None:
    connection.execute("DELETE FROM ingest_outbox")  # or finding one's own would take ever longer
    fleet, batches = history
    whole, single = Copy(connection, fleet), Copy(connection, fleet)
    whole_events: list[dict[str, Any]] = []
    single_events: list[dict[str, Any]] = []
    for batch in (fixed(batch, whole.now) for batch in batches):
        answers, events = store_whole(connection, whole, batch)
        expected, expected_events = store_singly(connection, single, batch)
        assert answers == expected
        whole_events += events
        single_events += expected_events
    assert whole.left_behind(whole_events) == single.left_behind(single_events)


@pytest.mark.timeout(300)
@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(history=histories())
def test_a_batch_that_is_sent_again_changes_nothing(
    connection: Connection, history: tuple[Fleet, list[list[GivenReading]]]
) -> None:
    """Whatever of it has an identity: stored before is a duplicate now, refused before is refused again."""
    connection.execute("DELETE FROM ingest_outbox")
    fleet, batches = history
    copy = Copy(connection, fleet)
    sent = [
        [row for row in fixed(batch, copy.now) if row.ts_s is not None or (row.key is not None and row.redelivered)]
        for batch in batches
    ]
    first = [store_whole(connection, copy, batch)[0] for batch in sent]
    changing = ("devices", "ledger", "quarantine")
    before = {name: rows for name, rows in copy.left_behind([]).items() if name not in changing}
    again = [store_whole(connection, copy, batch)[0] for batch in sent]
    assert {name: rows for name, rows in copy.left_behind([]).items() if name not in changing} == before
    for answers, repeated in zip(first, again, strict=True):
        expected = [(DUPLICATE if outcome == STORED else outcome, code) for outcome, _, code in answers]
        assert [(outcome, code) for outcome, _, code in repeated] == expected
