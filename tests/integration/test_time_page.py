"""Every table of docs/time.md whose heading is in italics is run: on a database, or by the decoders.

A reading there reads "19 at 10:00:40, sequence 7, key a"; several are parted by semicolons.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row

from bridge.auth.key_cache import hash_key
from bridge.errors import DecodeError
from bridge.mqtt.converters.select import Converters
from bridge.pipeline.decode import decode_bare
from bridge.settings.mqtt import ConverterSettings, MqttSettings
from tests.support.http_door import open_service
from tests.support.reference import ROOT

PAGE = (ROOT / "docs" / "time.md").read_text()
_READING = re.compile(
    r"(?P<value>[\d.]+)(?: at (?P<at>[\d:.]+))?(?:, sequence (?P<sequence>\d+))?(?:, key (?P<key>\w+))?"
)
SENSOR = "03842dcf-89d7-4862-b026-dd7d12101ec3"


def rows_of(first_heading: str) -> list[list[str]]:
    """The rows of the table whose first heading is this, in italics."""
    lines = PAGE.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(f"| *{first_heading}*")]
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    assert len(found) > 3
    return found


def us_of(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def outcome_of(cell: str) -> str:
    """The code in "refused: `code`", or the cell."""
    refused = re.fullmatch(r"refused: `(\w+)`", cell)
    return refused[1] if refused else cell


def test_all_tables_are_run() -> None:
    italic = set(re.findall(r"^\| \*([^*]+)\*", PAGE, re.MULTILINE))
    assert italic == {"sent", "the reading's time", "first", "zone", "the gateway's clock"}


@pytest.mark.parametrize(("sent", "means"), rows_of("sent"))
def test_what_a_time_may_look_like(sent: str, means: str) -> None:
    body = b'{"value": 1, "ts": %s}' % sent.strip("`").encode()
    assert time_in(body) == (means if means.startswith("refused") else us_of(means))


def time_in(body: bytes) -> int | str | None:
    """The time of a reading, or why it is refused, as the page has it."""
    try:
        (reading,) = decode_bare(body, SENSOR).readings
    except DecodeError as error:
        return f"refused: `{error.reason}`"
    return reading.ts_us


@pytest.mark.parametrize(("zone", "local", "received", "means"), rows_of("zone"))
def test_local_time(zone: str, local: str, received: str, means: str) -> None:
    settings = ConverterSettings(filter="tele/+/SENSOR", format="tasmota", zone=zone)
    converters = Converters(MqttSettings(converters=(settings,)))
    found = None
    for place, shown in enumerate(local.split(" then ")):
        payload = msgspec.json.encode({"Time": shown, "ENERGY": {"Power": place}})
        packet = converters.convert("tele/meter/SENSOR", payload, received_us=us_of(received)).packet
        (found,) = packet.readings
    assert found is not None
    assert found.ts_us == us_of(means)


class TimedDevice(NamedTuple):
    """A service with a device, whose sensor is new for each row."""

    client: httpx.AsyncClient
    database: psycopg.Connection[dict[str, Any]]
    device_id: int
    path: str

    def add_sensor(self) -> tuple[int, str]:
        row = self.database.execute(
            "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, 'power', 'power')"
            " RETURNING id, sensor_uuid::text",
            (self.device_id,),
        ).fetchone()
        assert row is not None
        return row["id"], row["sensor_uuid"]

    async def send(self, sensor: str, reading: dict[str, Any]) -> str:
        """What the answer says has become of it."""
        answer = await self.client.post(self.path, json={"readings": [{"sensor_uuid": sensor, **reading}]})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        if body.get("rejected"):
            return str(body["rejected"][0]["code"])
        return "stored" if body["inserted"] else "a duplicate"

    def timestamps(self, sensor_id: int) -> list[datetime]:
        rows = self.database.execute(
            'SELECT "timestamp" FROM sensor_readings WHERE sensor_id = %s ORDER BY id', (sensor_id,)
        ).fetchall()
        return [row["timestamp"] for row in rows]


@pytest.fixture
async def device(postgres_url: str, tmp_path: Path) -> AsyncIterator[TimedDevice]:
    with psycopg.connect(postgres_url, autocommit=True, row_factory=dict_row) as database:
        row = database.execute("INSERT INTO devices (name) VALUES ('meter') RETURNING id, device_uuid::text").fetchone()
        assert row is not None
        database.execute(
            "INSERT INTO device_api_keys (device_id, api_key_hash) VALUES (%s, %s)", (row["id"], hash_key("key"))
        )
        async with open_service(postgres_url) as service, service.client(**{"X-Device-Key": "key"}) as client:
            yield TimedDevice(client, database, row["id"], f"/devices/{row['device_uuid']}/readings")


def reading_of(text: str, day: datetime) -> dict[str, Any]:
    found = _READING.fullmatch(text.strip())
    assert found, text
    reading: dict[str, Any] = {"value": float(found["value"])}
    if found["at"]:
        reading["ts"] = moment(found["at"], day).isoformat()
    if found["sequence"]:
        reading["sequence"] = int(found["sequence"])
    if found["key"]:
        reading["msgId"] = found["key"]
    return reading


def moment(clock: str, day: datetime) -> datetime:
    return datetime.combine(day, datetime.strptime(clock, "%H:%M:%S.%f" if "." in clock else "%H:%M:%S").time(), UTC)


async def test_what_a_duplicate_is(device: TimedDevice) -> None:
    day = datetime.now(UTC) - timedelta(days=1)
    for before, then, means, at in rows_of("first"):
        sensor_id, sensor = device.add_sensor()
        for text in before.split(";"):
            assert await device.send(sensor, reading_of(text, day)) == "stored"
        stored = device.timestamps(sensor_id)
        what = await device.send(sensor, reading_of(then, day))
        row = f"{before} | {then}"
        assert what == {"a conflict": "conflicting_identity"}.get(means, means), row
        now_stored = device.timestamps(sensor_id)
        assert now_stored[: len(stored)] == stored, row
        assert len(now_stored) == len(stored) + (means == "stored"), row
        if at:
            assert now_stored[-1] == moment(at, day), row


async def test_how_far_off_a_clock_may_be(device: TimedDevice) -> None:
    for off, becomes in rows_of("the reading's time"):
        number, unit = re.match(r"(\d+) (s|days)", off).groups()  # type: ignore[union-attr]
        seconds = int(number) * (86_400 if unit == "days" else 1) * (1 if "ahead" in off else -1)
        _, sensor = device.add_sensor()
        assert await device.send(sensor, {"value": 5, "sensor_ts": time.time() + seconds}) == outcome_of(becomes), off


async def test_whose_clock_it_is(device: TimedDevice) -> None:
    sensor_id, sensor = device.add_sensor()
    given = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    await device.send(sensor, {"value": 5, "ts": given.isoformat()})
    await device.send(sensor, {"value": 6, "ts": given.isoformat()})
    await device.send(sensor, {"value": 7})
    rows = device.database.execute(
        'SELECT "timestamp", device_timestamp, clock FROM sensor_readings WHERE sensor_id = %s ORDER BY id',
        (sensor_id,),
    ).fetchall()
    assert [(row["device_timestamp"], row["clock"]) for row in rows] == [
        (given, "device"),
        (given, "device"),
        (None, "server"),
    ]
    assert rows[1]["timestamp"] == given + timedelta(microseconds=1)
