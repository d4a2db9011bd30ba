"""A plant of many devices in a real database, and what the books say of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from bridge.store.admin import connect
from tests.support.servers import until
from tests.support.whole_bridge import Bridge

_REGISTER = """
    WITH made AS (
        INSERT INTO devices (name) SELECT 'device-' || n FROM generate_series(1, %s) n RETURNING id, device_uuid
    )
    INSERT INTO sensors (device_id, name, sensor_type) SELECT id, 'air', 'temperature' FROM made
    RETURNING (SELECT device_uuid::text FROM made WHERE id = device_id), sensor_uuid::text, id, device_id
"""


class Identity(msgspec.Struct, frozen=True):
    """A registered device with one sensor."""

    uuid: str
    sensor: str
    sensor_id: int
    device_id: int

    @property
    def topic(self) -> str:
        return f"devices/{self.uuid}/readings"

    @property
    def bare_topic(self) -> str:
        return f"devices/{self.uuid}/sensors/{self.sensor}"

    def packet(self, sequence: int, *, value: float = 20.0, ts: float | None = None) -> bytes:
        """One reading with a time of its own: distinct for each `sequence`."""
        ts = time.time() - 3_600 + sequence * 0.01 if ts is None else ts
        reading = {"sensor_uuid": self.sensor, "value": value, "sensor_ts": ts, "sequence": sequence}
        return json.dumps({"readings": [reading]}).encode()


class Books(msgspec.Struct, frozen=True):
    """The ledger, of one device or of all."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    quarantined: int = 0
    returned: int = 0
    pending: int = 0


class Plant:
    """Devices, and the ledger."""

    def __init__(self, url: str, devices: int) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as connection:
            self.devices = [Identity(*row) for row in connection.execute(_REGISTER, [devices])]

    async def settled(self, bridge: Bridge, received: int, timeout_s: float = 60) -> Books:
        """The books once at least so many readings have come in and all are settled. They must balance."""
        await until(lambda: bridge.sample("received_total", source="mqtt") >= received, timeout_s)
        await until(lambda: bridge.sample("mqtt_inflight") == 0, timeout_s)
        assert await bridge.core.pipeline.drain(timeout_s)
        return self.books()

    def books(self, *devices: Identity) -> Books:
        """Held against the tables: of these devices, or of all."""
        with connect(self.url) as admin:
            problems, _ = admin.verify()
            assert problems == []
            rows = admin.ledger()
        wanted = {device.device_id for device in devices}
        rows = [row for row in rows if not wanted or row["device_id"] in wanted]
        made = Books(**{name: sum(row[name] for row in rows) for name in Books.__struct_fields__})
        assert made.received == made.stored + made.duplicate + made.quarantined + made.returned
        assert made.pending == 0
        return made

    def codes(self) -> dict[str, int]:
        """Rows in quarantine, by reason code."""
        return dict(self._all("SELECT code, count(*) FROM quarantine GROUP BY 1"))

    def sequences(self, device: Identity) -> Sequence[int]:
        """Of its stored readings, in order; one that is stored twice is there twice."""
        rows = self._all("SELECT sequence FROM sensor_readings WHERE sensor_id = %s ORDER BY 1", device.sensor_id)
        return [row[0] for row in rows]

    def count(self) -> int:
        """Readings in the table."""
        return int(self._all("SELECT count(*) FROM sensor_readings")[0][0])

    def latest(self) -> dict[int, float]:
        """The latest value of each sensor."""
        return dict(self._all("SELECT sensor_id, latest_value FROM sensor_readings_latest"))

    def _all(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode(), arguments).fetchall()
