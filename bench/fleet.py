"""The devices of a run: registered in a database by SQL, and what they send, ready to be put on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import psycopg

from bridge.auth.key_cache import hash_key

DEVICES = 64
SENSORS = 10
"""Of each device."""
NOW_MS = b"@@@@@@@@@@.@@@"
"""Where the moment of sending goes: as long as Unix seconds with three decimals, until the year 2286."""

_REGISTER = """
WITH device AS (
    INSERT INTO devices (name) VALUES (%(name)s) RETURNING id, device_uuid
), key AS (
    INSERT INTO device_api_keys (device_id, api_key_hash) SELECT id, %(hash)s FROM device
), sensor AS (
    INSERT INTO sensors (device_id, name, sensor_type, operational_state)
    SELECT id, 'sensor ' || n, 'temperature', 'NORMAL' FROM device, generate_series(1, %(sensors)s) n
    RETURNING id, sensor_uuid
), threshold AS (
    INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min, threshold_value_max)
    SELECT id, 'out_of_range', -20, 60 FROM sensor
)
SELECT d.id, d.device_uuid::text, array_agg(s.id ORDER BY s.id), array_agg(s.sensor_uuid::text ORDER BY s.id)
FROM device d, sensor s GROUP BY 1, 2
"""


class Device(msgspec.Struct, frozen=True):
    """A registered device. Each of its sensors has a threshold, which its values keep to."""

    device_id: int
    device_uuid: str
    key: str
    sensor_ids: list[int]
    sensor_uuids: list[str]


def register(url: str) -> list[Device]:
    """Register the devices of a run."""
    devices = []
    with psycopg.connect(url) as connection:
        for number in range(DEVICES):
            key = f"bench-{number}"
            arguments: dict[str, Any] = {"name": f"device {number}", "hash": hash_key(key), "sensors": SENSORS}
            row = connection.execute(_REGISTER, arguments).fetchone()
            assert row is not None
            devices.append(Device(row[0], row[1], key, row[2], row[3]))
    return devices


def value(number: int) -> float:
    """A temperature with the digits that sensors send."""
    return round(20 + number * 7 % 97 / 10 + number % 7 / 1000, 3)


def http_request(device: Device, readings: int, number: int) -> bytes:
    """A whole POST of `readings` readings, `NOW_MS` in its body: each sensor in turn, a microsecond apart."""
    items = b",".join(
        b'{"sensor_uuid":"%s","value":%r,"sensor_ts":%s,"sequence":%d}'
        % (device.sensor_uuids[(number + i) % SENSORS].encode(), value(number + i), NOW_MS + b"%03d" % i, i)
        for i in range(readings)
    )
    body = b'{"readings":[%s]}' % items
    return (
        b"POST /devices/%s/readings HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Device-Key: %s\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (device.device_uuid.encode(), device.key.encode(), len(body), body)
    )


def mqtt_message(device: Device, number: int, prefix: str) -> tuple[bytes, bytes]:
    """Topic and payload of one reading, `NOW_MS` in the payload."""
    topic = f"{prefix}devices/{device.device_uuid}/sensors/{device.sensor_uuids[number % SENSORS]}"
    return topic.encode(), b'{"value":%r,"ts":%s}' % (value(number), NOW_MS)


def save(devices: list[Device], path: Path) -> None:
    path.write_bytes(msgspec.json.encode(devices))


def load(path: Path) -> list[Device]:
    return msgspec.json.decode(path.read_bytes(), type=list[Device])
