"""What batch jobs ask of the database. Synchronous, on a connection of their own. Raises StoreUnavailable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg

from bridge.model.prediction import Prediction
from bridge.store import queries
from bridge.store.connection import CONNECT_S, check_session
from bridge.store.faults import unavailable
from bridge.store.predictions import columns

Connection = psycopg.Connection[tuple[Any, ...]]
READINGS_AT_ONCE = 10_000


class Anomaly(msgspec.Struct, frozen=True):
    """A flagged prediction that nobody has explained, and what there is to explain it by."""

    id: int
    sensor_id: int
    sensor: str
    sensor_type: str
    unit: str
    device_id: int
    model_id: str
    predicted_value: float
    anomaly_score: float | None
    target_us: int
    value: float | None  # what was measured, where it is still stored
    before: list[dict[str, float]]  # readings before it, oldest first: timestamp (Unix seconds), value


class JobTable:
    """Each method is one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = queries.load("jobs")
        self._write = queries.load("consumers")["write_predictions"]

    def unpredicted_sensors(self, hours: float) -> list[int]:
        """Sensors with readings in the last hours, and no prediction of what is to come."""
        return [row[0] for row in self._connection.execute(self._sql["unpredicted_sensors"], {"hours": hours})]

    def recent_readings(self, sensors: Sequence[int], hours: float) -> Iterator[tuple[int, float, int, bool]]:
        """(sensor, value, ts_us, clean), by sensor and time; through a cursor, never all in memory."""
        with self._connection.transaction(), self._connection.cursor(name="recent") as cursor:
            cursor.itersize = READINGS_AT_ONCE
            cursor.execute(self._sql["recent_readings"], {"sensors": list(sensors), "hours": hours})
            yield from cursor

    def write(self, predictions: Sequence[Prediction]) -> int:
        """Write rows; one that is there already is passed over. Returns how many are new."""
        return self._connection.execute(self._write, columns(predictions)).rowcount if predictions else 0

    def unexplained(self, after: int, limit: int, before: int) -> list[Anomaly]:
        """Anomalies without an explanation and with ids above `after`; each with so many readings before it."""
        arguments = {"after": after, "limit": limit, "before": before}
        return [Anomaly(*row) for row in self._connection.execute(self._sql["unexplained"], arguments)]

    def explain(self, prediction_id: int, text: str) -> None:
        """Store an explanation."""
        self._connection.execute(self._sql["explain"], {"id": prediction_id, "text": text.replace("\0", "")})


@contextmanager
def connect(url: str) -> Iterator[JobTable]:
    """The table, on a connection in autocommit. Database errors come out as ours."""
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_S, options="-c jit=off") as connection:
            check_session(connection, url)
            yield JobTable(connection)
    except psycopg.Error as error:
        raise unavailable(error) from error
