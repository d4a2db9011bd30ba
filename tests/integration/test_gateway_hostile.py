"""Hostile batches of a gateway over a real database: each fault costs what it stands in, and no more.

The fields are taken from the protocol's own types: one that is added later is driven with the same values.
"""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from bridge.gateway_protocol.batches import (
    MAX_PROBLEM,
    MAX_PROBLEMS,
    GatewayLedger,
    GatewayState,
    UplinkBatch,
    UplinkRecord,
)
from bridge.store import admin
from tests.support.enrolled_gateway import NOW_US, EnrolledGateway
from tests.support.hostile_values import HOSTILE, wire_fields

NUMBERS = [
    sign * number for number in (0, 1, 1 << 31, (1 << 53) - 1, 1 << 53, (1 << 63) - 1, 1 << 63) for sign in (1, -1)
]
VALUES: list[Any] = [*NUMBERS, 1e308, -1e308, -0.0, 5e-324, 1.5, True, None, [], {}, [[1]], {"a": {}}]
TEXTS = ["", "x", "x" * 1_000_000, "\0", "\x1b[2J", "\u202e", "\r\n", "NaN", "9" * 5_000, "{" * 1_000, "5f0c1f5e"]
NOT_JSON = [b"\xff", b'"\\ud800"', b"NaN", b"Infinity", b"-", b"9" * 5_000, b"1e999", b"[" * 10_000]
"""What makes a batch no JSON, or no number that a decoder takes: refused whole, upon which the gateway halves it."""


@contextmanager
def tracemalloc_peak() -> Iterator[Callable[[], int]]:
    """What is allocated meanwhile, at most, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def batch(records: list[Any], **more: Any) -> bytes:
    return msgspec.json.encode({"epoch": "e1", "records": records} | more)


@pytest.mark.parametrize("quarantined", [False, True], ids=["reading", "refused"])
async def test_any_value_in_any_field_of_a_record_spares_its_neighbours(
    site: EnrolledGateway, quarantined: bool
) -> None:
    """Each bad record is stored or rejected by its id; the good ones beside them are stored; the ledger balances."""
    usual = {"source": "mqtt", "received_us": NOW_US} | (
        {"code": "bad_json", "detail": "x", "payload": "e30=", "topic": "a", "index": 1}
        if quarantined
        else msgspec.to_builtins(site.reading(1))
    )
    next_id = good = 0
    for field in wire_fields(UplinkRecord):
        records = []
        for value in HOSTILE:
            next_id += 2
            # Each at a time of its own, or they would be one reading.
            times = {} if quarantined else {"ts_us": NOW_US + next_id}
            bad = usual | times | {"id": next_id} | {field: value}
            if field != "id":
                records.append(bad)
            records.append(msgspec.to_builtins(site.reading(next_id + 1)))
            good += 1
        answer = await site.send_bytes(batch(records))
        named = {*answer.duplicates, *(rejected.id for rejected in answer.rejected)}
        assert not named & {record["id"] for record in records if record["id"] % 2}
        assert answer.stored + len(named) == len(records)
        assert all(len(rejected.detail) <= 500 for rejected in answer.rejected)
    with admin.connect(site.database) as connection:
        (row,) = connection.fetch("ledger", device_id=site.devices[0]["device_id"])
        assert row["stored"] >= good
        assert connection.verify()[0] == []
        connection.fetch("list_quarantine", code=None, pending=None, limit=10_000)


async def test_id_that_cannot_be_read_refuses_the_batch_with_its_place(site: EnrolledGateway) -> None:
    for value in HOSTILE:
        bad = msgspec.to_builtins(site.reading(2)) | {"id": value}
        answer = await site.post("/gateways/north/batches", batch([msgspec.to_builtins(site.reading(1)), bad]))
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["code"]) == (422, "bad_form")
            assert answer.json()["where"] in ("$.records[1].id", "$.records")
    assert site.verify() == []


@pytest.mark.parametrize(
    ("struct", "name"), [(GatewayState, "state"), (GatewayLedger, "books")], ids=["state", "books"]
)
async def test_any_value_in_any_field_of_a_report_spares_the_records(
    site: EnrolledGateway, struct: type[msgspec.Struct], name: str
) -> None:
    number = 0
    usual: dict[str, Any] = {} if name == "state" else {"device_id": site.devices[0]["device_id"], "source": "mqtt"}
    for field in wire_fields(struct):
        for value in (-(1 << 63), (1 << 63) - 1, 1e308, "\0", "x" * 500_000):
            number += 1
            said: Any = usual | {field: value}
            body = batch([msgspec.to_builtins(site.reading(number))], **{name: said if name == "state" else [said]})
            answer = await site.send_bytes(body)
            assert answer.stored == 1
            assert all(len(line) < 700 for line in answer.ignored)
    with admin.connect(site.database) as connection:
        connection.verify()
        connection.fetch("gateway_balance")
        (row,) = connection.fetch("list_gateways")
        assert len(str(row)) < 1_000 + MAX_PROBLEMS * MAX_PROBLEM


async def test_any_value_in_the_envelope_gets_an_answer(site: EnrolledGateway) -> None:
    for field in wire_fields(UplinkBatch):
        for value in HOSTILE:
            answer = await site.post("/gateways/north/batches", msgspec.json.encode({"epoch": "e1"} | {field: value}))
            assert answer.status_code in (200, 422), (field, value, answer.text)
    for raw in NOT_JSON:
        answer = await site.post("/gateways/north/batches", b'{"epoch":"e1","records":[{"id":1,"value":%s}]}' % raw)
        assert answer.status_code == 422 or answer.json()["rejected"], raw
    assert site.verify() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"epoch":"e1","records":[%s]}' % b",".join([b"1"] * 4_000_000), "bad_form"),
        (b'{"epoch":"e1","records":[%s]}' % b",".join([b"{}"] * 1_000_000), "too_large"),
        (b'{"epoch":"e1","books":[%s]}' % b",".join([b"{}"] * 1_000_000), "too_large"),
    ],
    ids=["numbers", "records", "books"],
)
async def test_counts_are_judged_before_objects_are_made(site: EnrolledGateway, body: bytes, code: str) -> None:
    with tracemalloc_peak() as peak:
        answer = await site.post("/gateways/north/batches", gzip.compress(body, 1), **{"Content-Encoding": "gzip"})
        most = peak()
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert most < 3 * len(body) + (8 << 20)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        b'{"epoch": ""}',
        b'{"epoch": "e\\u0000"}',
        b'{"epoch": "e1", "records": [1, 2]}',
        b'{"epoch": "e1", "records": [{"id": 0, "source": "mqtt", "received_us": 1, "sensor": 1}]}',
        b'{"epoch": "e1", "records": [{"source": "mqtt", "received_us": 1, "sensor": 1}]}',
    ],
)
async def test_hostile_batches_are_refused_whole(site: EnrolledGateway, body: bytes) -> None:
    answer = await site.post("/gateways/north/batches", body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (b'"source": "mqtt", "received_us": -9223372036854775808, "sensor": 1', "bad_time"),
        (b'"source": "mqtt", "received_us": 1e99, "sensor": 1', "bad_time"),
        (b'"source": "mqtt", "received_us": 1', "bad_form"),
        (b'"source": "smoke", "received_us": 1, "sensor": 1', "bad_form"),
        (b'"source": "mqtt", "received_us": 1, "sensor": "a\\u0000"', "bad_form"),
        (b'"source": "mqtt", "received_us": 1, "sensor": 1, "device_uuid": "x"', "bad_form"),
        (b'"source": "http", "received_us": 1, "code": "bad_json", "index": 2147483648', "bad_form"),
    ],
)
async def test_hostile_record_is_rejected_alone_and_kept(site: EnrolledGateway, fields: bytes, code: str) -> None:
    good = msgspec.json.encode(site.reading(1))
    for duplicate in (0, 1):
        body = b'{"epoch": "e1", "records": [%s, {"id": 2, %s}]}' % (good, fields)
        answer = await site.send_bytes(body)
        assert (answer.stored, len(answer.duplicates)) == (1 - duplicate, duplicate)
        assert [(rejected.id, rejected.code) for rejected in answer.rejected] == [(2, code)]
    with admin.connect(site.database) as connection:
        (row,) = connection.fetch("list_quarantine", code=code, pending=None, limit=10)
        payload = connection.fetch("show_quarantine", id=row["id"])[0]["payload"]
    assert msgspec.json.decode(payload) == msgspec.json.decode(b'{"id": 2, %s}' % fields)
    assert site.verify() == []


@pytest.mark.parametrize(
    ("said", "ignored"),
    [
        (b'"books": 5', "books: not of the form"),
        (
            b'"books": [{"device_id": 99999999999999999999, "source": "mqtt"}, {"device_id": 0, "source": "mqtt"}]',
            "line 0",
        ),
        (
            b'"books": [{"device_id": 0, "source": "mqtt"}, {"device_id": 0, "source": "mqtt"}]',
            "2 lines are not the only",
        ),
        (
            b'"books": [{"device_id": 3, "source": "mqtt"}, {"device_id": 0, "source": "mqtt"}]',
            "1 lines are of devices",
        ),
        (b'"books": [{"device_id": 1, "source": "mqtt", "stored": 9223372036854775807}]', "line 0"),
        (b'"state": {"version": "%s"}' % (b"9" * 500_000), "state: not of the form"),
        (b'"state": {"oldest_us": -9223372036854775808}', "state: not of the form"),
        (b'"state": {"boot_id": "\\u0000"}', "state: not of the form"),
    ],
)
async def test_hostile_report_is_ignored_and_said_and_spares_the_records(
    site: EnrolledGateway, said: bytes, ignored: str
) -> None:
    body = b'{"epoch": "e1", "records": [%s], %s}' % (msgspec.json.encode(site.reading(1)), said)
    answer = await site.send_bytes(body)
    assert answer.stored == 1
    assert len(answer.ignored) == 1
    assert ignored in answer.ignored[0]
    with admin.connect(site.database) as connection:
        assert connection.fetch("list_gateways")[0]["name"] == "north"
