"""A device with a sensor in a real database, for tests of the stored procedures. Times are seconds after START."""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)

ONE = """
    SELECT inserted, class, alerts, code FROM sp_insert_reading_and_check_threshold(
        %s, %s, %s, %s::bigint, %s::timestamptz, %s::text, %s, %s)
"""
BATCH = """
    SELECT * FROM sp_insert_readings(
        %(sensors)s::bigint[], %(values)s::double precision[], %(ts_us)s::bigint[],
        p_received_us => %(received_us)s::bigint[], p_keys => %(keys)s::text[])
"""

Row = dict[str, Any]
Connection = psycopg.Connection[Row]


def at(after_s: float) -> datetime:
    return START + timedelta(seconds=after_s)


def us(after_s: float) -> int:
    return (at(after_s) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Stored(NamedTuple):
    """What the procedure answers."""

    inserted: bool
    label: str  # the class
    events: list[Row]
    code: str | None  # why it is refused

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(event["kind"], event["severity"]) for event in self.events]


class Plant:
    """A device with a sensor that is past its warm-up, and what tests do to it and ask of it."""

    def __init__(self, connection: Connection, **sensor: Any) -> None:
        self.connection = connection
        self.device = self._id("INSERT INTO devices (name) VALUES ('pump') RETURNING id")
        self.sensor = self.add_sensor(**{"operational_state": "NORMAL", "min_readings_for_normal": 3} | sensor)

    def seen_by(self, connection: Connection) -> Plant:
        """The same plant over another connection."""
        twin = copy(self)
        twin.connection = connection
        return twin

    def add_sensor(self, **columns: Any) -> int:
        return self._insert("sensors", device_id=self.device, name="inlet", sensor_type="temperature", **columns)

    def threshold(
        self, condition: str, low: float | None, high: float | None = None, severity: str = "warning", **columns: Any
    ) -> int:
        limits = {"condition_type": condition, "threshold_value_min": low, "threshold_value_max": high}
        return self._insert("alert_thresholds", sensor_id=self.sensor, severity=severity, **limits, **columns)

    def delta(self, cooldown_s: int = 0, **columns: Any) -> int:
        return self._insert("delta_thresholds", sensor_id=self.sensor, cooldown_seconds=cooldown_s, **columns)

    def foreign_warning(self) -> int:
        """A warning that another program has raised."""
        owner = {"sensor_id": self.sensor, "device_id": self.device, "created_at": START, "payload": Jsonb({})}
        return self._insert("ml_events", event_type="warning", event_code="DRIFT", title="", message="", **owner)

    def store(
        self,
        value: float | None,
        ts_s: float | None,
        sequence: int | None = None,
        *,
        received_s: float = 0.0,
        key: str | None = None,
        fresh: bool = True,
        redelivered: bool = True,
    ) -> Stored:
        """One reading; its own key where it is given one."""
        scoped = key and f"{self.sensor}/{key}"
        ts = None if ts_s is None else at(ts_s)
        arguments = [self.sensor, value, ts, sequence, at(received_s), scoped, fresh, redelivered]
        row = self.connection.execute(ONE, arguments).fetchone()
        assert row is not None
        return Stored(row["inserted"], row["class"], row["alerts"], row["code"])

    def batch(self, *readings: tuple[float, float]) -> Row:
        """(value, ts_s) pairs in one call; returns its whole answer."""
        return self.one(
            BATCH,
            sensors=[self.sensor] * len(readings),
            values=[value for value, _ in readings],
            ts_us=[us(ts_s) for _, ts_s in readings],
            received_us=None,
            keys=None,
        )

    def one(self, query: str, **arguments: Any) -> Row:
        """The one row of a query."""
        rows = self.all(query, **arguments)
        assert len(rows) == 1
        return rows[0]

    def all(self, query: str, **arguments: Any) -> list[Row]:
        return self.connection.execute(query.encode(), arguments).fetchall()

    @property
    def state(self) -> tuple[str, int]:
        """Its operational state and the count of its warm-up."""
        row = self.one("SELECT * FROM sensors WHERE id = %(id)s", id=self.sensor)
        return row["operational_state"], row["valid_readings_count"]

    @property
    def changed_at(self) -> datetime:
        at: datetime = self.one("SELECT * FROM sensors WHERE id = %(id)s", id=self.sensor)["state_changed_at"]
        return at

    @property
    def latest(self) -> tuple[float, datetime]:
        row = self.one("SELECT * FROM sensor_readings_latest WHERE sensor_id = %(id)s", id=self.sensor)
        return row["latest_value"], row["latest_timestamp"]

    @property
    def values(self) -> list[float]:
        """Of all its stored readings, in order of time."""
        rows = self.all('SELECT * FROM sensor_readings WHERE sensor_id = %(id)s ORDER BY "timestamp"', id=self.sensor)
        return [row["value"] for row in rows]

    @property
    def alerts(self) -> list[Row]:
        return self.all("SELECT * FROM alerts WHERE sensor_id = %(id)s ORDER BY id", id=self.sensor)

    @property
    def warnings(self) -> list[Row]:
        return self.all("SELECT * FROM ml_events WHERE sensor_id = %(id)s ORDER BY id", id=self.sensor)

    def seen(self) -> tuple[str, datetime | None]:
        """The device's status, and when it was last seen."""
        row = self.one("SELECT * FROM devices WHERE id = %(id)s", id=self.device)
        return row["status"], row["last_seen_at"]

    def _insert(self, table: str, **columns: Any) -> int:
        names, marks = ", ".join(columns), ", ".join(f"%({name})s" for name in columns)
        return self._id(f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id", **columns)

    def _id(self, query: str, **arguments: Any) -> int:
        return int(self.one(query, **arguments)["id"])


def connect(url: str) -> Connection:
    return psycopg.connect(url, autocommit=True, row_factory=dict_row)
