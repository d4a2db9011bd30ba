"""What waits in quarantine for a sensor is stored once the sensor is registered: in order, once, without a command."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest
from msgspec.structs import replace

from bridge.gateway_protocol.batches import UplinkRecord
from bridge.service.registered_replay import RegisteredReplay
from bridge.store.waiting import START, WaitingRows
from tests.support.enrolled_gateway import NOW_US, EnrolledGateway, enrolled_gateway
from tests.support.servers import until

MINUTE_US = 60_000_000


@pytest.fixture
async def site(postgres_url: str) -> AsyncIterator[EnrolledGateway]:
    async with enrolled_gateway(postgres_url) as site:
        yield site


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def register(connection: psycopg.Connection[tuple[object, ...]], device_id: int, uuid: str) -> int:
    """A sensor that is out of its warm-up, with a limit of 30."""
    with connection.transaction():
        row = connection.execute(
            """INSERT INTO sensors (sensor_uuid, device_id, name, sensor_type, min_readings_for_normal)
               VALUES (%s, %s, 'late', 'temperature', 0) RETURNING id""",
            (uuid, device_id),
        ).fetchone()
        assert row is not None
        connection.execute(
            """INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min, severity)
               VALUES (%s, 'greater_than', 30, 'critical')""",
            row,
        )
    return int(str(row[0]))


def late(site: EnrolledGateway, number: int, uuid: str, value: float) -> UplinkRecord:
    """A reading of a sensor that neither gateway nor service knows, a minute after the one before it."""
    ts_us = NOW_US + number * MINUTE_US
    return replace(site.reading(number, value, sensor=uuid, resolved=False), ts_us=ts_us, received_us=ts_us)


async def test_backlog_is_stored_in_order_once_its_sensor_is_registered(
    site: EnrolledGateway, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    uuid, other = str(uuid4()), str(uuid4())
    values = [20.0, 21.0, 35.0, 36.0, 22.0, 23.0]
    for number, value in enumerate(values, start=1):
        answer = await site.send_batch(late(site, number, uuid, value))
        assert [each.code for each in answer.rejected] == ["unknown_sensor"]
    await site.send_batch(late(site, 50, other, 20.0))

    await site.core.registered.look()
    assert connection.execute("SELECT count(*) FROM sensor_readings").fetchone() == (0,)

    sensor = register(connection, site.devices[0]["device_id"], uuid)

    async def stored() -> bool:
        await site.core.registered.look()
        return connection.execute("SELECT count(*) FROM sensor_readings").fetchone() == (len(values),)

    await until(stored)
    rows = connection.execute(
        "SELECT value FROM sensor_readings WHERE sensor_id = %s ORDER BY id", (sensor,)
    ).fetchall()
    assert [value for (value,) in rows] == values, "in the order in which they were measured"
    alerts = connection.execute(
        """SELECT status, to_us(triggered_at), to_us(resolved_at) FROM alerts WHERE sensor_id = %s""", (sensor,)
    ).fetchall()
    assert alerts == [("resolved", NOW_US + 3 * MINUTE_US, NOW_US + 5 * MINUTE_US)]
    waiting = connection.execute("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL").fetchone()
    assert waiting == (1,), "the other sensor is unknown still"
    assert site.verify() == []
    await site.core.registered.look()
    assert connection.execute("SELECT count(*) FROM sensor_readings").fetchone() == (len(values),)


async def test_sensor_that_came_while_no_service_ran_is_found_at_the_start(
    site: EnrolledGateway, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    uuid = str(uuid4())
    await site.send_batch(late(site, 1, uuid, 20.0))
    register(connection, site.devices[0]["device_id"], uuid)
    core = site.core
    begun = RegisteredReplay(core.settings, WaitingRows(core.store), core.pipeline, core.resolver)
    core.resolver.clear()
    await begun.look()
    assert connection.execute("SELECT value FROM sensor_readings").fetchall() == [(20.0,)]


async def test_rows_that_wait_for_others_hold_nothing_up(
    site: EnrolledGateway, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    """Older ones, of the same device, and more of them than are looked at together."""
    uuid = str(uuid4())
    for number in range(1, 8):
        await site.send_batch(late(site, number, str(uuid4()), 20.0))
    for number in (8, 9):
        await site.send_batch(late(site, number, uuid, float(number)))
    register(connection, site.devices[0]["device_id"], uuid)
    core = site.core
    begun = RegisteredReplay(core.settings, WaitingRows(core.store), core.pipeline, core.resolver, rows_a_window=2)
    core.resolver.clear()
    await begun.look()
    assert connection.execute("SELECT value FROM sensor_readings ORDER BY id").fetchall() == [(8.0,), (9.0,)]


async def test_rows_that_cannot_be_looked_for_stay_and_hold_nothing_up(
    site: EnrolledGateway, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    """As another program may write them: the service that reads them goes on."""
    uuid = str(uuid4())
    await site.send_batch(late(site, 1, uuid, 20.0))
    odd: list[dict[str, object]] = [
        {"received_at": "infinity"},
        {"received_at": "-infinity"},
        {"sender": "api:abc"},
        {"sender": "api:"},
        {"sender": "api:99999999999999999999"},
        {"sender": "api:999999999999999999"},
        {"source": "carrier pigeon"},
        {"source": ""},
        {"facts": '{"sensor": 9223372036854775808, "value": 1}'},
        {"facts": '{"sensor": 5, "value": 1, "ts_us": 9223372036854775807}'},
        {"facts": "[]"},
    ]
    for columns in odd:
        row = {"code": "unknown_sensor", "detail": "", "payload": b"1", "source": "mqtt", "topic": "x"} | columns
        row = {"received_at": "2020-01-01"} | row
        names, places = ", ".join(row), ", ".join(["%s"] * len(row))
        connection.execute(f"INSERT INTO quarantine ({names}) VALUES ({places})".encode(), tuple(row.values()))
    register(connection, site.devices[0]["device_id"], uuid)
    core = site.core
    core.resolver.clear()
    begun = RegisteredReplay(core.settings, WaitingRows(core.store), core.pipeline, core.resolver)
    await begun.look()
    assert connection.execute("SELECT value FROM sensor_readings").fetchall() == [(20.0,)]
    waiting = connection.execute("SELECT count(*) FROM quarantine WHERE replayed_at IS NULL").fetchone()
    assert waiting == (len(odd),)


async def test_many_sensors_are_looked_for_in_many_rows_within_the_time_of_a_statement(
    site: EnrolledGateway, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    """Each row is held against all of them at once: one by one these would be 80 million comparisons."""
    connection.execute(
        """INSERT INTO quarantine (code, detail, payload, source, topic, received_at)
           SELECT 'unknown_sensor', 'no sensor has the external id e' || g || '; map it, and what waits is stored', '1',
                  'mqtt', 'iot/sensors/' || g || '/readings', now() - g * interval '1 s'
           FROM generate_series(1, 20000) g"""
    )
    rows = WaitingRows(site.core.store)
    by_id = await rows.waiting([f"e{number}" for number in range(1, 4_001)], START, 20_000)
    by_topic = await rows.waiting([f"{number}" for number in range(15_001, 19_001)], START, 20_000)
    assert (len(by_id), len(by_topic)) == (4_000, 4_000)
