"""The table of docs/time.md on a gateway's clock is run, row by row: a real spool and uplink before the real service.

In each case readings come without a time, and beside each one of a device whose own time is right.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row

from bridge.gateway_protocol.batches import BatchAnswer, UplinkBatch
from bridge.store import admin
from edge.service_api.transport import HttpsTransport
from tests.integration.test_time_page import rows_of
from tests.support.clocked_gateway import DAY_S, HOUR_S, ClockedGateway, enrolled
from tests.support.http_door import open_service

Y1970_S = -56 * 365 * DAY_S


class ClockCase:
    """A gateway, and what it has received: when in truth."""

    def __init__(self, gateway: ClockedGateway, untimed: str, timed: str) -> None:
        self.gateway = gateway
        self.untimed = untimed
        self.timed = timed
        self.received_us: list[int] = []
        self.given_us: list[int] = []

    async def read(self, *after_s: float) -> None:
        """A reading of either device after each of these times."""
        for seconds in after_s:
            self.gateway.pass_s(seconds)
            value = float(len(self.received_us))
            self.received_us.append(await self.gateway.receive(self.untimed, value))
            given_us = self.gateway.true_us()
            self.given_us.append(given_us)
            await self.gateway.receive(self.timed, value, given_us)

    async def reboot(self, after_s: float, off_s: float = 0.0, *, in_step: bool = False) -> None:
        """Pull the plug; the power is back `after_s` later."""
        await self.gateway.pull_plug()
        self.gateway.behind_s -= after_s
        await self.gateway.boot(off_s, in_step=in_step)


class Earlier(HttpsTransport):
    """The way to a service of the release before: it heeds no ages, and does not tell the time."""

    def __init__(self, inner: HttpsTransport) -> None:
        self._inner = inner
        self.records = 0

    async def send_batch(self, lane: str, batch: UplinkBatch) -> BatchAnswer:
        self.records += len(batch.records)
        plain = [msgspec.structs.replace(each, age_us=None, clock_set=True, earlier_us=None) for each in batch.records]
        answer = await self._inner.send_batch(lane, msgspec.structs.replace(batch, records=tuple(plain)))
        return msgspec.structs.replace(answer, now_us=0, held_us=0)

    async def close(self) -> None:
        await self._inner.close()


Case = Callable[[ClockCase], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(words: str) -> Callable[[Case], Case]:
    def note(made: Case) -> Case:
        CASES[words] = made
        return made

    return note


def never_set(off_s: float, *, in_step: bool = False) -> Case:
    async def run(site: ClockCase) -> None:
        await site.gateway.boot(off_s, in_step=in_step)
        await site.read(0, 60, HOUR_S, DAY_S)
        await site.gateway.deliver_all()

    return run


CASES["1970, and no network time"] = never_set(Y1970_S)
CASES["2 h behind, and no network time"] = never_set(-2 * HOUR_S)
CASES["2 days ahead, and no network time"] = never_set(2 * DAY_S)
CASES["believed, and 2 h behind"] = never_set(-2 * HOUR_S, in_step=True)
CASES["believed, and 2 days ahead"] = never_set(2 * DAY_S, in_step=True)


@case("1970, set before the readings are handed over")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(Y1970_S)
    await site.read(0, HOUR_S)
    site.gateway.set_clock()
    await site.read(60)
    await site.gateway.deliver_all()


@case("1970, set after some of them were handed over")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(Y1970_S)
    await site.read(0, 5 * DAY_S - 1)
    await site.gateway.deliver_all()
    site.gateway.set_clock()
    await site.read(0)
    await site.gateway.deliver_all()


@case("2 days ahead by its time server, which then puts it right")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(2 * DAY_S, in_step=True)
    await site.read(0, HOUR_S)
    site.gateway.set_clock()
    await site.read(0, HOUR_S)
    await site.gateway.deliver_all()


@case("right, then set 3 h ahead by hand")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(in_step=True)
    await site.read(0, 60)
    site.gateway.set_clock(3 * HOUR_S, in_step=False)
    await site.read(0, 60)
    await site.gateway.deliver_all()


@case("drifting: 90 s behind after four days without its time server")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(in_step=True)
    for _ in range(4):
        await site.read(DAY_S)
        site.gateway.off_s -= 22.5
    await site.gateway.deliver_all()


@case("1970, heard from the service once, then the uplink is away and the plug is pulled")
async def _(site: ClockCase) -> None:
    gateway = site.gateway
    await gateway.boot(Y1970_S)
    service_us = gateway.true_us()
    gateway.clock.learn(service_us, 0, gateway.clock.boottime_us() - 40_000, gateway.clock.boottime_us())
    await site.read(0, HOUR_S)
    await gateway.spool.maintain()
    await site.reboot(DAY_S, Y1970_S)
    await site.read(60)
    await gateway.deliver_all()


@case("1970 and never set, the plug pulled, the power back at once")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(in_step=True)
    await site.read(0, 60)
    await site.gateway.spool.maintain()
    await site.reboot(HOUR_S, Y1970_S)
    await site.read(5, 60, HOUR_S)
    await site.reboot(0.5, in_step=True)
    await site.read(60)
    await site.gateway.deliver_all()


@case("last shutdown's and never set, the plug pulled, the power back after 2 h")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(in_step=True)
    await site.read(0, 60)
    await site.gateway.spool.maintain()
    await site.reboot(HOUR_S, -HOUR_S)
    await site.read(5, 60, HOUR_S)
    await site.reboot(2 * HOUR_S, -3 * HOUR_S)
    await site.read(60)
    await site.gateway.deliver_all()


@case("1970 and never set, in three boots after each other")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(Y1970_S)
    for _ in range(2):
        await site.read(5, HOUR_S)
        await site.reboot(0.25, Y1970_S)
    await site.read(5, HOUR_S)
    await site.gateway.deliver_all()


@case("believed, 2 days ahead, and the plug pulled before the service was heard")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(2 * DAY_S, in_step=True)
    await site.read(0, HOUR_S)
    await site.gateway.spool.maintain()
    await site.reboot(0.5, in_step=True)
    await site.read(60)
    await site.gateway.deliver_all()


@case("believed, 2 h behind, and the plug pulled before the service was heard")
async def _(site: ClockCase) -> None:
    await site.gateway.boot(-2 * HOUR_S, in_step=True)
    await site.read(0, HOUR_S)
    await site.gateway.spool.maintain()
    await site.reboot(0.5, in_step=True)
    await site.gateway.deliver_all()


@case("1970, and the service of the release before")
async def _(site: ClockCase) -> None:
    gateway = site.gateway
    await gateway.boot(Y1970_S)
    await site.read(0, HOUR_S)
    link = Earlier(gateway.transport())
    with pytest.raises(TimeoutError):
        await gateway.deliver_all(link, for_s=0.5)
    assert link.records == 0  # kept, until it is set
    gateway.set_clock()
    await gateway.deliver_all(link)


class Enrolment(NamedTuple):
    url: str
    key: str
    database: psycopg.Connection[dict[str, Any]]


@pytest.fixture
async def service(postgres_url: str) -> AsyncIterator[Enrolment]:
    with (
        admin.connect(postgres_url) as connection,
        psycopg.connect(postgres_url, autocommit=True, row_factory=dict_row) as database,
    ):
        code = connection.add_gateway("north", [], everything=True, code_minutes=10)["code"]
        async with open_service(postgres_url) as door:
            yield Enrolment(door.url, await enrolled(door.url, code), database)


def add_device(database: psycopg.Connection[dict[str, Any]], words: str) -> tuple[str, str, str]:
    """A device's UUID, and those of two sensors."""
    with database.transaction():
        row = database.execute(
            "INSERT INTO devices (name) VALUES (%s) RETURNING id, device_uuid::text", (words,)
        ).fetchone()
        assert row is not None
        sensors = database.execute(
            "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, 'a', 'power'), (%s, 'b', 'power')"
            " RETURNING sensor_uuid::text",
            (row["id"], row["id"]),
        ).fetchall()
    return (row["device_uuid"], *(each["sensor_uuid"] for each in sensors))


def stored(database: psycopg.Connection[dict[str, Any]], sensor: str) -> list[tuple[int, str]]:
    rows = database.execute(
        'SELECT to_us(r."timestamp") AS us, r.clock FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id'
        " WHERE s.sensor_uuid = %s ORDER BY r.value",
        (sensor,),
    )
    return [(row["us"], row["clock"]) for row in rows]


def told_s(database: psycopg.Connection[dict[str, Any]], at_us: int) -> float:
    """By how much a reading may be earlier, as `iot-bridge gateway show` has it."""
    row = database.execute(
        "SELECT max(earlier_s) AS s FROM gateway_clock_estimates WHERE to_us(first_at) <= %s AND to_us(last_at) >= %s",
        (at_us, at_us),
    ).fetchone()
    assert row is not None
    return float(row["s"])


def off_by_s(cell: str) -> tuple[float, float]:
    """From a cell of the page: by how much times may be off, at least and at most."""
    if cell == "right":
        return -1.0, 1.0
    found = re.fullmatch(r"(up to )?(\d+) h (late|early)", cell)
    assert found, cell
    most = int(found[2]) * HOUR_S + 1.0
    least = -1.0 if found[1] else int(found[2]) * HOUR_S - 1.0
    return (least, most) if found[3] == "late" else (-most, -least)


def test_each_row_of_the_page_is_a_case() -> None:
    assert [row[0] for row in rows_of("the gateway's clock")] == list(CASES)


async def test_gateway_whose_clock_is_wrong(service: Enrolment, tmp_path: Path) -> None:
    for number, (words, becomes, clocks) in enumerate(rows_of("the gateway's clock")):
        device, untimed, timed = add_device(service.database, words)
        (tmp_path / str(number)).mkdir()
        site = ClockCase(ClockedGateway(tmp_path / str(number), service.url, service.key, device), untimed, timed)
        await CASES[words](site)
        await site.gateway.pull_plug()
        found = stored(service.database, untimed)
        least_s, most_s = off_by_s(becomes)
        off_s = [(at - true) / 1e6 for (at, _), true in zip(found, site.received_us, strict=True)]
        assert all(-1 <= off <= 1 or least_s <= off <= most_s for off in off_s), (words, off_s)
        assert becomes == "right" or min(off_s) < -1 or max(off_s) > 1, (words, off_s)
        for off, (at, clock) in zip(off_s, found, strict=True):
            assert clock != "estimated" or off - 1 <= told_s(service.database, at), (words, off)
        assert {clock for _, clock in found} == set(re.findall(r"`(\w+)`", clocks)), (words, found)
        assert stored(service.database, timed) == [(given, "device") for given in site.given_us], words
    (refused,) = service.database.execute("SELECT count(*) AS n FROM quarantine").fetchall()
    assert refused["n"] == 0
