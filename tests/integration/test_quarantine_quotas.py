"""Quotas of quarantine: what is thinned, in which order, and that the ledger and the running totals know of it."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import httpx
import pytest

from bridge.model.reading import Batch, Code, CommitResult, LedgerLine, QuarantineRow, Source, account_of
from bridge.settings.stores import DatabaseSettings
from bridge.store import admin
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from tests.support.commands import Commands
from tests.support.http_door import open_service
from tests.support.plant import Plant, connect
from tests.support.servers import until

NOW_US = 1_790_000_000_000_000
MIB = 1_048_576
MISSING = "5f0c1f5e-0000-4000-8000-000000000001"


class BatchSender:
    """Writes batches of quarantined rows, with the door's totals, as one process of the bridge does."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self._number = 0
        self._received: Counter[tuple[int, str]] = Counter()

    async def send(self, *rows: QuarantineRow) -> CommitResult:
        self._number += 1
        self._received.update((row.device_id, account_of(row.source, row.gateway)) for row in rows)
        lines = [LedgerLine(device, source, count, 0) for (device, source), count in self._received.items()]
        return await self.store.write(Batch(self._number, [], rows, lines))


def bad(device: int, payload: bytes = b"{", code: Code = Code.BAD_JSON, **more: Any) -> QuarantineRow:
    return QuarantineRow(code, "why", payload, Source.HTTP, "/devices/x/readings", NOW_US, device, **more)


def unknown(device: int, payload: bytes = b"{}", **more: Any) -> QuarantineRow:
    return bad(device, payload, Code.UNKNOWN_SENSOR, **more)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


async def sender_of(stack: AsyncExitStack, url: str, **quotas: int) -> BatchSender:
    given = {f"quarantine_{name}": value for name, value in quotas.items()}
    store = PostgresStore(DatabaseSettings.model_validate({"url": url, **given}), "test")
    await store.open()
    stack.push_async_callback(store.close)
    return BatchSender(store)


def problems(url: str) -> list[str]:
    with admin.connect(url) as connection:
        return connection.verify()[0]


def kept(plant: Plant) -> dict[tuple[int, str], int]:
    rows = plant.all("SELECT account, code, count(*) AS n FROM quarantine GROUP BY 1, 2")
    return {(row["account"], row["code"]): row["n"] for row in rows}


def ledger(plant: Plant, device: int) -> tuple[int, int, int]:
    row = plant.one(
        "SELECT sum(received)::int AS r, sum(quarantined)::int AS q, sum(thinned)::int AS t FROM ingest_ledger"
        " WHERE device_id = %(device)s",
        device=device,
    )
    return row["r"], row["q"], row["t"]


async def test_device_over_its_quota_loses_what_no_remedy_can_store(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    sender = await sender_of(stack, postgres_url, device_max_rows=10)
    committed = await sender.send(*(bad(7) for _ in range(30)), *(unknown(7) for _ in range(30)), bad(8))
    # Of 20 over the quota the 1st, 2nd, 4th, 8th and 16th are kept, as samples.
    assert kept(plant) == {(7, "bad_json"): 15, (7, "unknown_sensor"): 30, (8, "bad_json"): 1}
    assert Counter(committed.thinned) == {"bad_json": 15}
    assert ledger(plant, 7) == (60, 45, 15)
    more = await sender.send(*(bad(7) for _ in range(16)))
    assert len(more.thinned) == 15, "the 32nd is the next sample"
    assert problems(postgres_url) == []


async def test_quota_is_also_one_of_bytes_and_a_sample_is_cut(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    sender = await sender_of(stack, postgres_url, device_max_bytes=MIB)
    for _ in range(10):
        await sender.send(*(bad(7, b"x" * 65_536) for _ in range(10)))
    held = plant.one("SELECT rows, bytes FROM quarantine_held WHERE account = 7")
    assert held["bytes"] <= MIB + 7 * 4_096
    assert held["rows"] == 16 + 7
    sample = plant.one("SELECT octet_length(payload) AS n, whole_bytes FROM quarantine ORDER BY id DESC LIMIT 1")
    assert sample == {"n": 4_096, "whole_bytes": 65_536}
    assert ledger(plant, 7) == (100, 23, 77)
    assert problems(postgres_url) == []


async def test_the_last_quarter_is_for_devices_within_their_quota(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    """A device may fill quarantine with what a remedy can store, and others still find a place."""
    sender = await sender_of(stack, postgres_url, device_max_rows=10, max_rows=100)
    await sender.send(*(unknown(9) for _ in range(5)))
    for _ in range(5):
        await sender.send(*(unknown(7) for _ in range(40)))
    flooded = kept(plant)[7, "unknown_sensor"]
    samples = plant.one("SELECT samples FROM quarantine_thinned WHERE account = 7")["samples"]
    assert flooded - samples == 70
    await sender.send(*(unknown(8) for _ in range(10)), unknown(9))
    assert kept(plant)[8, "unknown_sensor"] == 10
    assert kept(plant)[9, "unknown_sensor"] == 6, "what was there stays there"
    for device in range(20, 60):
        await sender.send(unknown(device), unknown(device))
    total = plant.one("SELECT sum(rows)::int AS n FROM quarantine_total")["n"]
    all_samples = plant.one("SELECT sum(samples)::int AS n FROM quarantine_thinned")["n"]
    assert 100 <= total <= 100 + all_samples
    assert problems(postgres_url) == []


async def test_dropping_makes_room_again(stack: AsyncExitStack, postgres_url: str, plant: Plant) -> None:
    sender = await sender_of(stack, postgres_url, device_max_rows=10)
    await sender.send(*(bad(7) for _ in range(30)))
    with admin.connect(postgres_url) as connection:
        ids = [row["id"] for row in connection.fetch("list_quarantine", code=None, pending=None, limit=100)]
        connection.fetch("drop_quarantine", ids=ids)
    assert plant.one("SELECT rows, bytes FROM quarantine_held WHERE account = 7") == {"rows": 0, "bytes": 0}
    assert not (await sender.send(*(bad(7) for _ in range(10)))).thinned
    assert problems(postgres_url) == []


async def test_a_sample_is_kept_of_each_day(stack: AsyncExitStack, postgres_url: str, plant: Plant) -> None:
    sender = await sender_of(stack, postgres_url, device_max_rows=1)
    await sender.send(*(bad(7) for _ in range(6)))  # one within the quota; samples of 1, 2 and 4 of five
    plant.connection.execute("UPDATE quarantine_thinned SET sampled_at = now() - interval '25 hours'")
    assert not (await sender.send(bad(7))).thinned
    assert (await sender.send(bad(7))).thinned == ["bad_json"]
    assert problems(postgres_url) == []


async def test_what_was_thinned_of_a_gateway_and_comes_again_is_a_duplicate(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    plant.connection.execute("INSERT INTO gateways (name) VALUES ('north')")
    gateway = -plant.one("SELECT id FROM gateways")["id"]
    sender = await sender_of(stack, postgres_url, device_max_rows=2)
    rows = [bad(0, gateway="north", identity=f"q-north-e1-{n}") for n in range(40)]
    first = await sender.send(*rows)
    assert kept(plant) == {(gateway, "bad_json"): 2 + 6}
    assert len(first.thinned) == 32
    assert (await sender.send(*rows)).thinned == []
    row = plant.one("SELECT quarantined, thinned, duplicate FROM ingest_ledger")
    assert row == {"quarantined": 8, "thinned": 32, "duplicate": 40}
    assert problems(postgres_url) == []


async def test_row_uses_up_the_quota_of_the_device_that_it_names(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    """Over MQTT the ledger knows no device of what cannot be decoded; its topic does."""
    uuid = str(plant.one("SELECT device_uuid FROM devices")["device_uuid"])
    sender = await sender_of(stack, postgres_url, device_max_rows=2)
    await sender.send(*(bad(0, account_uuid=uuid) for _ in range(3)), bad(0), bad(0, account_uuid=uuid[::-1]))
    assert kept(plant) == {(plant.device, "bad_json"): 3, (0, "bad_json"): 2}
    assert problems(postgres_url) == []


async def test_processes_that_write_at_once_keep_the_totals(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    """Rows of the same devices in other orders, and an operator who drops meanwhile."""
    random = Random(20)
    senders = [await sender_of(stack, postgres_url, device_max_rows=20, max_rows=300) for _ in range(4)]

    async def flood(sender: BatchSender) -> None:
        for _ in range(40):
            devices: Sequence[int] = random.choices(range(1, 40), k=20)
            await sender.send(*(random.choice((bad, unknown))(device) for device in devices))

    def drop() -> None:
        with admin.connect(postgres_url) as connection:
            for _ in range(20):
                rows = connection.fetch("list_quarantine", code=None, pending=None, limit=20)
                connection.fetch("drop_quarantine", ids=[row["id"] for row in rows])

    await asyncio.gather(*(flood(sender) for sender in senders), asyncio.to_thread(drop))
    total = plant.one("SELECT sum(received)::int AS r, sum(quarantined + thinned)::int AS s FROM ingest_ledger")
    assert total == {"r": 3_200, "s": 3_200}
    assert problems(postgres_url) == []


async def test_rows_from_before_there_were_quotas_are_not_counted(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    sender = await sender_of(stack, postgres_url)
    await sender.send(bad(7), bad(7))
    plant.connection.execute("DELETE FROM quarantine_held")
    plant.connection.execute("DELETE FROM quarantine_total")
    plant.connection.execute("UPDATE quarantine SET account = NULL")
    assert problems(postgres_url) == []
    await sender.send(bad(7))
    plant.connection.execute("SELECT drop_quarantine_v1(array(SELECT id FROM quarantine))")
    assert plant.one("SELECT rows FROM quarantine_held WHERE account = 7") == {"rows": 0}
    assert problems(postgres_url) == []


async def test_books_of_a_process_that_is_gone_keep_what_was_thinned(
    stack: AsyncExitStack, postgres_url: str, plant: Plant
) -> None:
    sender = await sender_of(stack, postgres_url, device_max_rows=1)
    await sender.send(*(bad(7) for _ in range(9)))
    registry = PostgresRegistry(sender.store)
    assert await registry.ledger_imbalance(sender.store.instance) == 0
    assert await registry.quarantine_total() == (5, 5)
    await sender.store.close()
    # The server lets go of its lock when it has noticed.
    await until(lambda: plant.one("SELECT fold_dead_instances_v1(interval '0') AS folded")["folded"])
    row = plant.one("SELECT instance, received, returned, quarantined, thinned FROM ingest_ledger")
    assert row == {"instance": 0, "received": 9, "returned": 0, "quarantined": 5, "thinned": 4}
    assert problems(postgres_url) == []


def test_what_a_process_of_the_release_before_quarantines_is_kept_and_counted(postgres_url: str, plant: Plant) -> None:
    """By the function that it knows; over every quota."""
    rows = 10_100
    instance = plant.one("INSERT INTO ingest_instances (name) VALUES ('old') RETURNING id")["id"]
    plant.connection.execute(
        """SELECT ingest_batch_v1(%(instance)s, 1, '{}', '{}', '{}', '{}', NULL, '{}', NULL, NULL, NULL, NULL, '{}',
                  NULL, array_fill('bad_json'::text, n), array_fill('why'::text, n), array_fill('{'::bytea, n),
                  array_fill('http'::text, n), array_fill('/'::text, n), array_fill(NULL::text, n),
                  array_fill(7::bigint, n), array_fill(NULL::uuid, n), array_fill(0, n), array_fill(1::bigint, n),
                  array_fill(NULL::text, n), '{7}', '{http}', ARRAY[%(rows)s]::bigint[], '{0}', '{}')
           FROM (SELECT ARRAY[%(rows)s] AS n) size""",
        {"instance": instance, "rows": rows},
    )
    assert kept(plant) == {(7, "bad_json"): rows}
    assert ledger(plant, 7) == (rows, rows, 0)
    assert problems(postgres_url) == []


async def test_verify_tells_of_totals_that_are_wrong(stack: AsyncExitStack, postgres_url: str, plant: Plant) -> None:
    sender = await sender_of(stack, postgres_url, device_max_rows=1)
    await sender.send(*(bad(7) for _ in range(4)))
    plant.connection.execute("UPDATE quarantine_held SET bytes = bytes + 5")
    plant.connection.execute("UPDATE quarantine_thinned SET thinned = thinned + 1")
    found = problems(postgres_url)
    assert "device 7: the ledger has 1 thinned, the tables have 2" in found
    assert any(line.startswith("quarantine of account 7: the running total is 3 rows and 8 bytes") for line in found)
    assert any(line.startswith("quarantine in all: ") for line in found)


def test_device_that_floods_with_bad_bodies_at_the_default_limits(commands: Commands, postgres_url: str) -> None:
    """The table stays small, others keep what can be replayed, and everything is answered and accounted for."""
    with admin.connect(postgres_url) as connection:
        flooding, good = (connection.add_device(name, [("t", "temperature", None)]) for name in ("flooding", "good"))
    random = Random(20)

    async def flood() -> float:
        async with open_service(postgres_url) as service, httpx.AsyncClient(timeout=20) as client:

            async def post(device: dict[str, Any], body: bytes) -> int:
                url = f"{service.url}/devices/{device['device_uuid']}/readings"
                answer = await client.post(url, content=body, headers={"X-Device-Key": device["device_key"]})
                return answer.status_code

            for number in range(20):
                packet = {"readings": [{"sensor_uuid": MISSING, "value": 20 + number, "sequence": number}]}
                assert await post(good, json.dumps(packet).encode()) == 200
                bodies = [b"{" + b64encode(random.randbytes(49_152))[:65_535] for _ in range(20)]
                answers = await asyncio.gather(*(post(flooding, body) for body in bodies))
                assert set(answers) == {422}
            return service.sample("thinned_total", code="bad_json")

    thinned = asyncio.run(flood())
    commands.set(database__url=postgres_url)
    with connect(postgres_url) as database:
        plant = Plant(database)
        size = plant.one("SELECT pg_total_relation_size('quarantine') AS n")["n"]
        assert size < 1.25 * 16 * MIB
        assert kept(plant)[good["device_id"], "unknown_sensor"] == 20
        # 256 are within the quota; of the other 144 eight are samples: the 1st, 2nd, 4th … and the 128th.
        assert ledger(plant, flooding["device_id"]) == (400, 264, 136)
        assert thinned == 136
        assert commands.json("ledger", "--verify")["balanced"] is True
        database.execute(
            "INSERT INTO sensors (device_id, name, sensor_type, sensor_uuid) VALUES (%s, 'late', 'temperature', %s)",
            [good["device_id"], MISSING],
        )
    replayed = commands.json("quarantine", "replay", "--code", "unknown_sensor")
    assert [row["outcome"] for row in replayed] == ["stored"] * 20
    assert len(commands.json("quarantine", "replay", "--code", "bad_json", expect=1)) == 264
    assert commands.json("ledger", "--verify")["balanced"] is True
