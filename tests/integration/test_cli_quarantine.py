"""`iot-bridge quarantine`: what could not be stored is listed, shown, replayed once it can be, and dropped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bridge.model.reading import Code
from tests.support.commands import Commands

MISSING = "5f0c1f5e-0000-4000-8000-000000000001"


class Quarantine:
    """A device, and rows that were quarantined of it."""

    def __init__(self, connection: psycopg.Connection[Any], device: dict[str, Any]) -> None:
        self._connection = connection
        self.device = device
        self.topic = f"/devices/{device['device_uuid']}/readings"

    def add(
        self, payload: bytes, code: Code = Code.UNKNOWN_SENSOR, topic: str | None = None, **brought_by: str | int | None
    ) -> str:
        given = {
            "code": code,
            "payload": payload,
            "topic": topic or self.topic,
            "device_id": self.device["device_id"],
            "device_uuid": self.device["device_uuid"],
            "gateway": None,
            "gateway_id": None,
            "sender": None,
            "whole_bytes": None,
            "account": 0,
        }
        row = self._connection.execute(
            """INSERT INTO quarantine (code, detail, payload, source, topic, device_id, device_uuid, reading_index,
                                       received_at, gateway, gateway_id, sender, whole_bytes, account)
               VALUES (%(code)s, 'why', %(payload)s, 'http', %(topic)s, %(device_id)s, %(device_uuid)s, 0, now(),
                       %(gateway)s, %(gateway_id)s, %(sender)s, %(whole_bytes)s, %(account)s)
               RETURNING id""",
            given | brought_by,
        ).fetchone()
        self._connection.execute(
            """INSERT INTO ingest_ledger (instance, device_id, source, received, quarantined)
               VALUES (0, %s, 'http', 1, 1)
               ON CONFLICT (instance, device_id, source) DO UPDATE
               SET received = ingest_ledger.received + 1, quarantined = ingest_ledger.quarantined + 1""",
            (self.device["device_id"],),
        )
        assert row is not None
        return str(row[0])

    def register(self, sensor_uuid: str = MISSING) -> None:
        self._connection.execute(
            "INSERT INTO sensors (device_id, name, sensor_type, sensor_uuid) VALUES (%s, 'late', 'temperature', %s)",
            (self.device["device_id"], sensor_uuid),
        )

    def values(self) -> list[float]:
        return [row[0] for row in self._connection.execute("SELECT value FROM sensor_readings ORDER BY value")]


@pytest.fixture
def quarantine(commands: Commands, postgres_url: str) -> Iterator[Quarantine]:
    commands.set(database__url=postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield Quarantine(connection, commands.json("device", "add", "shed"))


def packet(value: float, **more: Any) -> bytes:
    return json.dumps({"readings": [{"sensor_uuid": MISSING, "value": value, **more}]}).encode()


def test_quarantine_is_listed_newest_first_and_shown_with_its_bytes(commands: Commands, quarantine: Quarantine) -> None:
    first = quarantine.add(b"\x00\xff{\x1b[2J", Code.BAD_JSON)
    second = quarantine.add(packet(1))
    assert [str(row["id"]) for row in commands.json("quarantine", "list")] == [second, first]
    assert [str(row["id"]) for row in commands.json("quarantine", "list", "--limit", "1")] == [second]
    assert [row["code"] for row in commands.json("quarantine", "list", "--code", "bad_json")] == ["bad_json"]
    shown = commands.json("quarantine", "show", first)
    assert bytes.fromhex(shown["hex"]) == b"\x00\xff{\x1b[2J"
    assert "\x1b" not in commands.run("quarantine", "show", first).out  # bytes of strangers do not drive a terminal
    assert "unknown_sensor" in commands.run("quarantine", "list").out


def test_replay_stores_what_can_be_stored_now_once(commands: Commands, quarantine: Quarantine) -> None:
    ids = [quarantine.add(packet(value)) for value in (1, 2)]  # without a time: theirs is that of receipt
    other = quarantine.add(b"{", Code.BAD_JSON)
    assert {row["outcome"] for row in commands.json("quarantine", "replay", *ids, expect=1)} == {"refused"}
    quarantine.register()
    replayed = commands.json("quarantine", "replay", "--code", "unknown_sensor")
    assert [(str(row["id"]), row["outcome"]) for row in replayed] == [(id, "stored") for id in ids]
    assert quarantine.values() == [1, 2]
    assert commands.json("quarantine", "replay", "--code", "unknown_sensor") == []
    assert [row["outcome"] for row in commands.json("quarantine", "replay", *ids)] == ["duplicate", "duplicate"]
    assert quarantine.values() == [1, 2]
    (refused,) = commands.json("quarantine", "replay", other, expect=1)
    assert (refused["outcome"], refused["code"]) == ("refused", "bad_json")
    assert commands.json("quarantine", "show", other)["replayed_at"] is None
    assert commands.json("ledger", "--verify")["balanced"] is True


def test_replay_of_many(commands: Commands, quarantine: Quarantine) -> None:
    for value in range(501):  # more than a page
        quarantine.add(packet(value / 10, sequence=value))
    quarantine.register()
    assert len(commands.json("quarantine", "replay", "--code", "unknown_sensor")) == 501
    assert len(quarantine.values()) == 501


@pytest.mark.parametrize("topic", ["/devices/{}/readings", "devices/{}/readings"], ids=["http", "mqtt"])
def test_replay_of_a_body_that_was_refused_as_a_whole_stores_all_of_it(
    commands: Commands, quarantine: Quarantine, topic: str
) -> None:
    quarantine.register()
    items = [{"sensor_uuid": MISSING, "value": value, "sequence": value} for value in (1, 2, 3)]
    payload = json.dumps({"readings": items}).encode()
    quarantine.add(payload, Code.RATE_LIMITED, topic=topic.format(quarantine.device["device_uuid"]))
    (replayed,) = commands.json("quarantine", "replay", "--code", "rate_limited")
    assert (replayed["outcome"], quarantine.values()) == ("stored", [1, 2, 3])


def test_drop_deletes_and_the_ledger_remembers(commands: Commands, quarantine: Quarantine) -> None:
    ids = [quarantine.add(b"{", Code.BAD_JSON) for _ in range(3)]
    quarantine.add(packet(1))
    assert commands.json("quarantine", "drop", ids[0], ids[0]) == {"dropped": 1}
    assert commands.json("quarantine", "drop", "--code", "bad_json") == {"dropped": 2}
    assert commands.json("quarantine", "drop", "--code", "bad_json") == {"dropped": 0}
    assert [row["code"] for row in commands.json("quarantine", "list")] == ["unknown_sensor"]
    answer = commands.json("ledger", "--verify")
    assert (answer["balanced"], answer["total"]["quarantined"]) == (True, 4)


@pytest.mark.parametrize("named", [True, False], ids=["device named", "by its sensor"])
def test_replay_judges_by_what_the_gateway_may_speak_for_now(
    commands: Commands, quarantine: Quarantine, named: bool
) -> None:
    quarantine.register()
    device = str(quarantine.device["device_id"])
    other = commands.json("device", "add", "other")
    commands.run("gateway", "add", "north", "--device", str(other["device_id"]))
    brought_by = {"gateway": "north", "gateway_id": commands.json("gateway", "show", "north")["gateway_id"]}
    forged = quarantine.add(packet(1), **brought_by if named else brought_by | {"device_uuid": None})
    older = quarantine.add(packet(2), gateway="north")  # of a release that did not keep the id

    def replay(*ids: str, refused: bool = True) -> list[tuple[str, str | None]]:
        answer = commands.json("quarantine", "replay", *ids, expect=int(refused))
        return [(row["outcome"], row["code"]) for row in answer]

    assert replay(forged, older) == [("refused", "foreign_device")] * 2
    detail = commands.json("quarantine", "replay", forged, expect=1)[0]["detail"]
    assert "may not speak for" in detail
    assert quarantine.device["device_uuid"] in detail
    commands.run("gateway", "allow", "north", "--device", device)
    assert replay(older, refused=False) == [("stored", None)]
    commands.run("gateway", "revoke", "north")
    assert replay(forged) == [("refused", "foreign_device")]
    assert quarantine.values() == [2]
    gone = quarantine.add(packet(3), gateway="south")
    assert replay(gone) == [("refused", "foreign_device")]
    assert commands.json("ledger", "--verify")["balanced"] is True


def test_replay_stores_for_the_device_whose_key_it_was(commands: Commands, quarantine: Quarantine) -> None:
    """Whatever topic, body, or row say."""
    other = commands.json("device", "add", "other")
    quarantine.register()
    sender = f"device:{other['device_id']}"
    forged = quarantine.add(packet(1), sender=sender)
    (refused,) = commands.json("quarantine", "replay", forged, expect=1)
    assert (refused["outcome"], refused["code"]) == ("refused", "unknown_sensor")
    own = quarantine.add(packet(2), sender=f"device:{quarantine.device['device_id']}")
    gone = quarantine.add(packet(3), sender="device:999")
    assert commands.json("quarantine", "replay", own)[0]["outcome"] == "stored"
    assert commands.json("quarantine", "replay", gone, expect=1)[0]["code"] == "unknown_device"
    assert quarantine.values() == [2]


def test_a_sample_that_is_cut_is_not_replayed(commands: Commands, quarantine: Quarantine) -> None:
    quarantine.register()
    cut = quarantine.add(packet(1), Code.RATE_LIMITED, whole_bytes=9_000)
    (refused,) = commands.json("quarantine", "replay", cut, expect=1)
    assert (refused["code"], quarantine.values()) == ("rate_limited", [])
    assert "9000 bytes" in refused["detail"]


def test_usage_says_who_has_how_much(commands: Commands, quarantine: Quarantine) -> None:
    quarantine.add(b"12345", account=quarantine.device["device_id"])
    (row,) = commands.json("quarantine", "usage")
    assert (row["kind"], row["name"], row["rows"], row["bytes"], row["thinned"]) == ("device", "shed", 1, 5, 0)
    assert "device" in commands.run("quarantine", "usage").out


def test_quarantine_that_is_not_there(commands: Commands, quarantine: Quarantine) -> None:
    for number in ("99", "9" * 30):
        for verb in ("show", "replay", "drop"):
            assert "see iot-bridge quarantine list" in commands.problems("quarantine", verb, number, expect=4)[0]
    for verb in ("replay", "drop"):
        assert commands.problems("quarantine", verb) == ["name ids, or a reason code with --code"]
    assert "allowed" in commands.problems("quarantine", "drop", "--code", "bad_jsno")[0]
