"""The service side of gateways over a real database: enrolment, batches, the registry, the books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from hashlib import sha256
from typing import Any

import msgspec
import psycopg
from structlog.testing import capture_logs

from bridge.gateway_protocol import snapshot
from bridge.gateway_protocol.batches import GatewayLedger, GatewayState, UplinkBatch, UplinkRecord
from bridge.model.reading import Code, Source, TsQuality
from bridge.store import admin
from tests.support.enrolled_gateway import NOW_US, EnrolledGateway
from tests.support.http_door import open_service
from tests.support.servers import until


async def test_batch_is_stored_once_however_often_it_is_sent(site: EnrolledGateway) -> None:
    records = [site.reading(i, float(i)) for i in range(1, 201)]
    first = await site.send_batch(*records)
    assert (first.stored, first.duplicates, first.rejected) == (200, (), ())
    again = await site.send_batch(*records[50:], site.reading(201))
    assert (again.stored, len(again.duplicates)) == (1, 150)
    with admin.connect(site.database) as connection:
        rows = connection.fetch("ledger", device_id=site.devices[0]["device_id"])
    assert (rows[0]["received"], rows[0]["stored"], rows[0]["duplicate"]) == (351, 201, 150)
    assert site.verify() == []


async def test_readings_of_the_gateways_clock_are_known_by_their_identity(site: EnrolledGateway) -> None:
    first = msgspec.structs.replace(site.reading(1), identity="g-north-e1-1", ts_quality=TsQuality.GATEWAY)
    moved = msgspec.structs.replace(first, ts_us=first.ts_us + 5_000_000)  # the clock was set between two attempts
    assert (await site.send_batch(first)).stored == 1
    assert (await site.send_batch(moved)).duplicates == (1,)


async def test_first_delivery_is_stored_once_however_often_its_record_is_sent(site: EnrolledGateway) -> None:
    """A broker uses packet identifiers again, so the key alone cannot tell: the record does."""

    def message(number: int, value: float = 7.0, *, redelivered: bool = False) -> UplinkRecord:
        record = site.reading(number, value, sequence=21, redelivered=redelivered, ts_quality=TsQuality.GATEWAY)
        return msgspec.structs.replace(record, identity=f"m-{'0' * 32}-0")

    assert (await site.send_batch(message(1))).stored == 1
    assert (await site.send_batch(message(1))).duplicates == (1,), "its answer was lost"
    assert (await site.send_batch(message(2))).stored == 1, "another message with the same packet identifier"
    repeated = message(1), message(2), message(3, redelivered=True)
    assert (await site.send_batch(*repeated)).duplicates == (1, 2, 3), "the last one repeated by the broker"
    at_once = await asyncio.gather(*(site.send_batch(message(4, 8.0)) for _ in range(8)))
    assert sum(answer.stored for answer in at_once) == 1
    with psycopg.connect(site.database) as connection:
        rows = connection.execute("SELECT value FROM sensor_readings ORDER BY id").fetchall()
    assert rows == [(7.0,), (7.0,), (8.0,)]
    assert site.verify() == []


async def test_time_that_an_age_tells_is_computed_and_stored_once(site: EnrolledGateway) -> None:
    """By a clock of 1970, or one that is believed and 2 days ahead. Sent twice, it is one row."""
    now_us = time.time_ns() // 1_000
    for number, (said_us, is_set) in enumerate(((60_000_000, False), (now_us + 172_800_000_000, True)), start=1):
        record = site.reading(
            number, float(number), received_us=said_us, ts_us=said_us, ts_quality=TsQuality.GATEWAY, clock_set=is_set
        )
        record = msgspec.structs.replace(record, identity=f"g-north-e1-{number}", age_us=3_600_000_000)
        answer = await site.send_batch(record)
        assert answer.stored == 1
        assert abs(answer.now_us - time.time_ns() // 1_000) < 10_000_000
        assert 0 < answer.held_us < 10_000_000
        assert (await site.send_batch(msgspec.structs.replace(record, age_us=3_500_000_000))).duplicates == (number,)
    with psycopg.connect(site.database) as connection:
        rows = connection.execute('SELECT to_us("timestamp"), clock, device_timestamp FROM sensor_readings').fetchall()
    assert [(clock, given) for _, clock, given in rows] == [("computed", None)] * 2
    assert all(abs(at_us - (now_us - 3_600_000_000)) < 5_000_000 for at_us, *_ in rows)
    assert site.verify() == []


async def test_gateway_of_a_release_without_ages_stores_nothing_in_1970(site: EnrolledGateway) -> None:
    records = [
        site.reading(n, float(n), received_us=n * 60_000_000, ts_us=n * 60_000_000, ts_quality=TsQuality.GATEWAY)
        for n in (1, 2)
    ]
    records = [msgspec.structs.replace(each, identity=f"g-north-e1-{each.id}") for each in records]
    device = site.reading(3, 3.0, received_us=180_000_000, ts_us=time.time_ns() // 1_000 - 5_000_000)
    assert (await site.send_batch(*records, device)).stored == 3
    with admin.connect(site.database) as connection:
        (estimate,) = connection.fetch("gateway_clock_estimates", gateway=1)
    with psycopg.connect(site.database) as database:
        rows = database.execute(
            'SELECT clock, extract(epoch FROM now() - "timestamp") FROM sensor_readings ORDER BY value'
        ).fetchall()
    assert [(clock, round(float(age_s) / 60)) for clock, age_s in rows] == [
        ("estimated", 2),
        ("estimated", 1),
        ("device", 0),
    ]
    assert (estimate["boot_id"], estimate["earlier_s"]) == ("", None)


async def test_gateway_that_says_each_record_is_of_another_boot_is_bounded(site: EnrolledGateway) -> None:
    """In the log and in the table, also where both of its lanes name the same boots in other orders."""
    boots, at_us = 400, time.time_ns() // 1_000 - 3_600_000_000

    def records(first: int) -> list[UplinkRecord]:
        made = [
            site.reading(n, received_us=at_us, ts_us=at_us + n, ts_quality=TsQuality.GATEWAY)
            for n in range(first, first + boots)
        ]
        return [
            msgspec.structs.replace(each, identity=f"g-{each.id}", earlier_us=5, boot_id=f"boot-{each.id % boots}")
            for each in made
        ]

    with capture_logs() as lines:
        for number in range(0, 6_000, 2_000):
            there, back = records(number + 1), records(number + 1_001)[::-1]
            answers = await asyncio.gather(site.send_batch(*there), site.send_batch(*back))
            assert [answer.stored for answer in answers] == [boots, boots]
    told = [line for line in lines if line["event"] == "gateway_times_estimated"]
    assert len(told) == 6 * 11
    assert told[10]["more_boots"] == boots - 10
    with psycopg.connect(site.database) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM gateway_clock_estimates").fetchone() or (0,)
    assert kept <= 100 + boots


async def test_operator_is_told_how_far_a_gateways_clock_is_off(site: EnrolledGateway) -> None:
    for said_us, ahead_s in ((time.time_ns() // 1_000 - 7_200_000_000, -7_200), (None, None)):
        body = msgspec.json.encode(UplinkBatch("-", state=GatewayState(host_us=said_us)))
        assert (await site.send_bytes(body)).stored == 0
        with admin.connect(site.database) as connection:
            (found,) = connection.fetch("find_gateway", name="north")
        told = found["clock_ahead_s"]
        assert told is None if ahead_s is None else abs(float(told) - ahead_s) <= 5


async def test_gateway_speaks_for_its_own_devices_only(site: EnrolledGateway) -> None:
    foreign = site.devices[2]["sensors"][0]["sensor_id"]
    pump, fan = (device["device_uuid"] for device in site.devices[:2])
    answer = await site.send_batch(
        site.reading(1, device=2),
        site.reading(2, device_uuid=None, sensor=foreign),
        site.reading(3, sensor=site.devices[1]["sensors"][0]["sensor_uuid"], device_uuid=fan),
        site.reading(4, sensor=site.devices[1]["sensors"][0]["sensor_uuid"], device_uuid=pump),
        site.reading(5, value=1e9),
    )
    assert answer.stored == 1
    assert [(r.id, r.code) for r in answer.rejected] == [
        (1, "unknown_sensor"),
        (2, "unknown_sensor"),
        (4, "unknown_sensor"),
        (5, "value_out_of_range"),
    ]
    assert site.verify() == []


async def test_quarantined_record_is_kept_once_with_its_bytes(site: EnrolledGateway) -> None:
    bad = UplinkRecord(
        7, Source.HTTP, NOW_US, code=Code.BAD_JSON, detail="not JSON", payload=b"{\xff\0", topic="devices/x/readings"
    )
    for _ in range(2):
        answer = await site.send_batch(bad)
        assert [(r.id, r.code) for r in answer.rejected] == [(7, "bad_json")]
    with admin.connect(site.database) as connection:
        rows = connection.fetch("list_quarantine", code=None, pending=None, limit=10)
        shown = connection.fetch("show_quarantine", id=rows[0]["id"])[0]
    assert len(rows) == 1
    assert (bytes(shown["payload"]), shown["gateway"], shown["topic"]) == (b"{\xff\0", "north", "devices/x/readings")
    assert site.verify() == []


async def test_gateway_uses_up_its_own_quota_with_what_it_brings_of_foreign_devices(site: EnrolledGateway) -> None:
    own, foreign = (site.devices[place]["device_uuid"] for place in (0, 2))

    def forged(number: int, device: str | None) -> UplinkRecord:
        topic = f"/devices/{foreign}/readings"
        return UplinkRecord(
            number, Source.HTTP, NOW_US, device_uuid=device, code=Code.UNKNOWN_SENSOR, payload=b"{}", topic=topic
        )

    answer = await site.send_batch(forged(1, foreign), forged(2, own), forged(3, None), site.reading(4, device=2))
    assert [(r.id, r.code) for r in answer.rejected] == [
        (1, "foreign_device"),
        (2, "unknown_sensor"),
        (3, "unknown_sensor"),
        (4, "unknown_sensor"),
    ]
    with admin.connect(site.database) as connection:
        gateway = connection.fetch("find_gateway", name="north")[0]["gateway_id"]
        used = {row["account"]: row["rows"] for row in connection.fetch("quarantine_usage", limit=10)}
        rows = connection.fetch("list_quarantine", code=None, pending=None, limit=10)
        shown = [connection.fetch("show_quarantine", id=row["id"])[0] for row in rows]
    assert used == {-gateway: 3, site.devices[0]["device_id"]: 1}
    assert {row["gateway_id"] for row in shown} == {gateway}
    assert foreign in shown[-1]["detail"]
    assert site.verify() == []


async def test_a_backlog_is_judged_by_when_the_gateway_received_it(site: EnrolledGateway) -> None:
    old = site.reading(1)
    ahead = msgspec.structs.replace(site.reading(2), received_us=2**52, ts_us=2**52)
    answer = await site.send_batch(old, ahead)
    assert answer.stored == 1
    assert [(r.id, r.code) for r in answer.rejected] == [(2, "time_ahead")]


async def test_registry_has_what_a_gateway_needs_signed_and_tagged(site: EnrolledGateway) -> None:
    with admin.connect(site.database) as connection:
        connection.set_threshold(site.devices[0]["sensors"][0]["sensor_id"], "greater_than", 30.0, None, "critical")
    answer = await site.get("/gateways/north/registry")
    digest = sha256(site.key.encode()).hexdigest()
    assert snapshot.is_signed(answer.content, digest, answer.headers["X-Registry-Signature"])
    assert not snapshot.is_signed(answer.content + b" ", digest, answer.headers["X-Registry-Signature"])
    found = snapshot.decode(answer.content)
    assert [device.device_uuid for device in found.devices] == [d["device_uuid"] for d in site.devices[:2]]
    assert found.devices[0].keys[0].hash == sha256(site.devices[0]["device_key"].encode()).hexdigest()
    assert [sensor.sensor_id for sensor in found.sensors] == [d["sensors"][0]["sensor_id"] for d in site.devices[:2]]
    assert [(t.condition, t.low, t.severity) for t in found.thresholds] == [("greater_than", 30.0, "critical")]

    tag = answer.headers["ETag"]
    assert (await site.get("/gateways/north/registry", **{"If-None-Match": tag})).status_code == 304
    assert (await site.send_batch()).registry_etag == tag
    with admin.connect(site.database) as connection:
        connection.add_device("nobody's", [])
        connection.fetch("set_device_status", device_id=site.devices[0]["device_id"], status="disabled")

    async def changed() -> bool:
        return (await site.send_batch()).registry_etag != tag

    await until(changed, 20)
    assert snapshot.decode((await site.get("/gateways/north/registry")).content).devices[0].disabled


async def issue_number(site: EnrolledGateway) -> snapshot.IssueNumber:
    return snapshot.decode((await site.get("/gateways/north/registry")).content).issue_number


async def test_registry_is_issued_anew_when_its_content_has_changed(site: EnrolledGateway) -> None:
    first = await site.get("/gateways/north/registry")
    async with open_service(site.database) as other:
        site.url, own = other.url, site.url
        assert (await site.get("/gateways/north/registry")).content == first.content, "the same of every process"
        with admin.connect(site.database) as connection:
            connection.set_threshold(site.devices[0]["sensors"][0]["sensor_id"], "greater_than", 30.0, None, "critical")
        other.core.gateway_cache.forget()
        second = await site.get("/gateways/north/registry")
        site.url = own
        assert (await site.get("/gateways/north/registry")).content == second.content
    before, after = snapshot.decode(first.content), snapshot.decode(second.content)
    assert (after.epoch, after.issue) == (before.epoch, before.issue + 1)


async def test_registry_that_is_issued_later_was_read_later(site: EnrolledGateway) -> None:
    """What changes while a process waits for its turn to issue is in what it issues."""
    sensor = site.devices[0]["sensors"][0]["sensor_id"]
    with admin.connect(site.database) as connection, psycopg.connect(site.database, autocommit=True) as other:
        connection.set_threshold(sensor, "greater_than", 30.0, None, "critical")
        other.execute("BEGIN; SELECT FROM gateways FOR UPDATE")
        asked = asyncio.create_task(site.get("/gateways/north/registry"))

        def waits() -> bool:
            return bool(other.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall())

        await until(waits, 20)
        connection.set_threshold(sensor, "less_than", 3.0, None, "critical")
        other.execute("ROLLBACK")
        assert [t.condition for t in snapshot.decode((await asked).content).thresholds] == ["less_than"]


async def test_registry_of_a_restored_database_is_newer_after_a_new_epoch(site: EnrolledGateway) -> None:
    before = await issue_number(site)
    with admin.connect(site.database) as connection:
        connection.fetch("begin_epoch")
    after = await issue_number(site)
    assert after.epoch > before.epoch


async def test_revoked_gateway_is_told_so_and_may_be_enrolled_again(site: EnrolledGateway) -> None:
    with admin.connect(site.database) as connection:
        gateway = connection.fetch("find_gateway", name="north")[0]["gateway_id"]
        connection.fetch("revoke_gateway", gateway=gateway)

    async def refused() -> bool:
        answer = await site.post("/gateways/north/batches", b'{"epoch":"e1"}')
        return answer.status_code == 403 and answer.json()["code"] == "gateway_revoked"

    await until(refused, 5)
    with admin.connect(site.database) as connection:
        connection.fetch("admit_gateway", gateway=gateway)
        code = connection.add_gateway_code(gateway, 10)["code"]
    assert (await site.enrol(code)).status_code == 200
    assert (await site.send_batch(site.reading(1))).stored == 1


async def test_key_rotates_without_a_gap(site: EnrolledGateway) -> None:
    old = site.key
    new = (await site.post("/gateways/north/key")).json()["gateway_key"]
    assert (await site.send_batch(site.reading(1))).stored == 1, "the old key works until the new one is used"
    site.key = new
    assert (await site.send_batch(site.reading(2))).stored == 1
    site.key = old

    async def ended() -> bool:
        return (await site.post("/gateways/north/batches", b'{"epoch":"e1"}')).status_code == 403

    await until(ended, 5)


async def test_keys_and_names_of_others(site: EnrolledGateway) -> None:
    assert (await site.post("/gateways/south/batches", b'{"epoch":"e1"}')).json()["code"] == "foreign_gateway"
    assert (await site.get("/gateways/south/registry")).status_code == 403
    site.key = site.devices[0]["device_key"]
    assert (await site.post("/gateways/north/batches", b'{"epoch":"e1"}')).status_code == 401


async def test_books_of_gateway_and_service_are_held_against_each_other(site: EnrolledGateway) -> None:
    books = GatewayLedger(site.devices[0]["device_id"], Source.MQTT, received=3, spooled=3)
    await site.send_batch(*(site.reading(i) for i in (1, 2, 3)), books=(books,))
    await site.send_batch(books=(msgspec.structs.replace(books, stored=3),))
    assert site.verify() == []
    await site.send_batch(books=(msgspec.structs.replace(books, received=4, spooled=4, stored=4),))
    assert site.verify() == ["gateway north: handed over 4, 3 came"]
    await site.send_batch(books=(msgspec.structs.replace(books, received=4, spooled=4, stored=3),))
    assert site.verify() == []
    await site.send_batch(*(site.reading(i) for i in (4, 5)))
    assert site.verify() == ["gateway north: 5 came of the 4 that it took in"]


async def test_books_of_a_gateway_that_began_anew_balance_and_say_what_was_lost(site: EnrolledGateway) -> None:
    """Its card was replaced: its totals begin at 0, and what waited on the old one is gone."""
    device = site.devices[0]["device_id"]
    before = GatewayLedger(device, Source.MQTT, received=5, spooled=5, stored=3)
    await site.send_batch(*(site.reading(i) for i in (1, 2, 3)), books=(before,), run="one")
    assert site.verify() == []

    anew = GatewayLedger(device, Source.MQTT, received=2, spooled=2)
    late = msgspec.structs.replace(before, received=4, spooled=4, stored=2)
    await site.send_batch(books=(late,), run="one")  # two requests of one run in a crossfire
    await site.send_batch(*(site.reading(i) for i in (6, 7)), books=(anew,), run="two")
    await site.send_batch(books=(msgspec.structs.replace(anew, stored=2),), run="two")
    assert site.verify() == []
    with admin.connect(site.database) as connection:
        (balance,) = connection.fetch("gateway_balance")
    assert {name: balance[name] for name in ("spooled", "delivered", "lost")} == {
        "spooled": 7,
        "delivered": 5,
        "lost": 0 + 5 - 3 - 2,
    }
    await site.send_batch(books=(msgspec.structs.replace(anew, stored=2, received=3, spooled=3),), run="two")
    assert site.verify() == []
    await site.send_batch(books=(msgspec.structs.replace(anew, received=3, spooled=3, stored=3),), run="two")
    assert site.verify() == ["gateway north: handed over 6, 5 came"], "what is wrong is said all the same"


async def test_gateway_that_sheds_is_told_in_the_log_once(site: EnrolledGateway) -> None:
    async def say(shed: int, lost: int) -> list[MutableMapping[str, Any]]:
        state = GatewayState("0.1.0", shed=shed, lost=lost)
        with capture_logs() as lines:
            await site.send_bytes(msgspec.json.encode(UplinkBatch("-", state=state)))
        return [line for line in lines if line["event"] == "gateway_sheds"]

    assert await say(5, 0) == [], "what it had shed before, nobody here knows"
    assert await say(5, 0) == []
    (line,) = await say(8, 1)
    assert (line["gateway"], line["shed"], line["lost"]) == ("north", 3, 1)
    assert await say(8, 1) == []
    with admin.connect(site.database) as connection:
        (found,) = connection.fetch("find_gateway", name="north")
    assert (found["state"]["shed"], found["state"]["lost"]) == (8, 1)


async def test_devices_that_a_gateway_may_not_speak_for_are_shown_with_the_command(site: EnrolledGateway) -> None:
    """They come through it all the same: `iot-bridge gateway show` names them, and how to tie them."""
    await site.send_batch(site.reading(1), site.reading(2, device=2), site.reading(3, device=2))
    with admin.connect(site.database) as connection:
        gateway = connection.fetch("find_gateway", name="north")[0]["gateway_id"]
        (row,) = connection.fetch("gateway_untied", gateway=gateway)
        assert (row["name"], row["device_uuid"], row["quarantined"]) == ("foreign", site.devices[2]["device_uuid"], 2)
        connection.fetch("allow_device", gateway=gateway, device=row["device_id"])
        assert connection.fetch("gateway_untied", gateway=gateway) == []
