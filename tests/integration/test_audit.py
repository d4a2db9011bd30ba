"""The audit trail: whoever changes what counts, by whichever way, stands in it; no secret does; and it is bounded."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bridge.auth.failed_logins import FailedLogin
from bridge.settings.http import LimitSettings
from bridge.settings.stores import DatabaseSettings
from bridge.store import registry
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from tests.support.commands import Commands
from tests.support.http_door import open_service

SENSOR = ("--sensor", "air:temperature")


@pytest.fixture
def site(commands: Commands, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands.set(database__url=postgres_url)
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 51000 192.0.2.1 22")
    return commands


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as opened:
        yield opened


def trail(commands: Commands, *options: str) -> list[dict[str, Any]]:
    """What was done, the oldest first."""
    rows: list[dict[str, Any]] = commands.json("audit", "--limit", "1000", *options)
    return rows[::-1]


def actions(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["action"], row["subject"]) for row in rows]


STEPS: list[tuple[list[str], list[tuple[str, str]]]] = [
    (["device", "add", "shed", *SENSOR], [("device.add", "device 1"), ("device.key.add", "device 1")]),
    (["device", "disable", "1"], [("device.disable", "device 1")]),
    (["device", "enable", "1"], [("device.enable", "device 1")]),
    (["device", "key", "rotate", "1"], [("device.key.add", "device 1")]),
    (["device", "key", "revoke", "1", "--key", "1"], [("device.key.revoke", "device 1")]),
    (
        ["apikey", "add", "k", "--scope", "status:read", "--device", "1"],
        [("apikey.add", "api key 1"), ("apikey.device.add", "api key 1")],
    ),
    (["apikey", "revoke", "1"], [("apikey.revoke", "api key 1")]),
    (["mqtt", "account", "add", "weather"], [("account.add", "account weather")]),
    (["mqtt", "account", "revoke", "weather"], [("account.revoke", "account weather")]),
    (["threshold", "set", "1", "--max", "30"], [("threshold.add", "sensor 1")]),
    (["threshold", "set", "1", "--max", "31"], [("threshold.clear", "sensor 1"), ("threshold.add", "sensor 1")]),
    (["threshold", "clear", "1"], [("threshold.clear", "sensor 1")]),
    (["sensor", "set", "1", "--external-id", "a/b#c"], [("sensor.change", "sensor 1")]),
    (
        ["gateway", "add", "north", "--device", "1"],
        [
            ("gateway.add", "gateway north"),
            ("gateway.device.add", "gateway north"),
            ("gateway.code.add", "gateway north"),
        ],
    ),
    (["gateway", "forbid", "north", "--device", "1"], [("gateway.device.remove", "gateway north")]),
    (["gateway", "allow", "north", "--device", "1"], [("gateway.device.add", "gateway north")]),
    (
        ["gateway", "revoke", "north"],
        [("gateway.code.remove", "gateway north"), ("gateway.revoke", "gateway north")],
    ),
    (["gateway", "code", "north"], [("gateway.admit", "gateway north"), ("gateway.code.add", "gateway north")]),
]
"""Commands that change something, one after the other, and what each adds to the trail."""


def test_every_command_that_changes_something_is_in_the_trail(
    site: Commands, connection: psycopg.Connection[Any]
) -> None:
    secrets: list[str] = []
    for arguments, expected in STEPS:
        before = len(trail(site))
        made = site.json(*arguments)
        secrets += [str(made[name]) for name in ("device_key", "api_key", "password", "code") if name in made]
        rows = trail(site)[before:]
        assert sorted(actions(rows)) == sorted(expected), arguments
        assert {(row["door"], row["actor"], row["address"]) for row in rows} == {
            ("cli", f"user {getpass.getuser()}", "192.0.2.7")
        }
    assert len(secrets) == 6
    whole = str(connection.execute("SELECT array_agg(a) FROM audit_log a").fetchone())
    hashes = connection.execute(
        "SELECT api_key_hash FROM device_api_keys UNION ALL SELECT mosquitto_hash FROM device_api_keys"
        " UNION ALL SELECT api_key_hash FROM api_keys UNION ALL SELECT password_hash FROM mqtt_accounts"
        " UNION ALL SELECT mosquitto_hash FROM mqtt_accounts UNION ALL SELECT code_hash FROM gateway_codes"
    ).fetchall()
    assert len(hashes) >= 7
    for secret in (*secrets, *(row[0] for row in hashes)):
        assert secret not in whole


def test_trail_says_what_was_before_and_after(site: Commands) -> None:
    site.json("device", "add", "shed", *SENSOR)
    site.json("device", "disable", "1")
    site.json("sensor", "set", "1", "--unit", "K")
    (disabled,) = trail(site, "--action", "device.disable")
    assert (disabled["before"], disabled["after"]) == ({"status": "offline"}, {"status": "disabled"})
    (changed,) = trail(site, "--subject", "sensor 1")
    assert (changed["before"], changed["after"]) == ({"unit": "°C"}, {"unit": "K"})
    (added,) = trail(site, "--action", "device.add")
    assert (added["before"], added["after"]["name"]) == (None, "shed")


def test_new_epoch_is_in_the_trail(site: Commands) -> None:
    site.run("db", "new-epoch")
    assert [row["action"] for row in trail(site)] == ["registry.epoch.change"]


def test_trail_is_filtered(site: Commands) -> None:
    site.json("device", "add", "shed", *SENSOR)
    site.json("apikey", "add", "k")
    assert actions(trail(site, "--action", "device")) == [("device.add", "device 1"), ("device.key.add", "device 1")]
    assert actions(trail(site, "--action", "device.key")) == [("device.key.add", "device 1")]
    assert actions(trail(site, "--action", "dev")) == []
    assert actions(trail(site, "--subject", "api key 1")) == [("apikey.add", "api key 1")]
    assert len(trail(site, "--actor", f"user {getpass.getuser()}", "--since", "1h")) == 3
    assert trail(site, "--actor", "user nobody") == []
    assert trail(site, "--since", "2999-01-01") == []
    assert "is no time" in site.problems("audit", "--since", "soon")[0]
    assert len(site.json("audit", "--limit", "1")) == 1


def test_trail_for_people(site: Commands) -> None:
    site.json("device", "add", "shed", *SENSOR)
    site.json("device", "disable", "1")
    lines = site.run("audit").out.splitlines()
    assert lines[0].split() == ["at", "actor", "action", "subject", "change"]
    assert "status: offline → disabled" in lines[1]


def test_change_by_hand_is_the_roles(site: Commands, connection: psycopg.Connection[Any]) -> None:
    site.json("device", "add", "shed", *SENSOR)
    connection.execute("UPDATE devices SET status = 'disabled'")
    (row,) = trail(site, "--action", "device.disable")
    assert (row["actor"], row["door"]) == (f"role {connection.info.user}", "sql")


def test_change_that_is_rolled_back_is_in_no_trail(site: Commands, connection: psycopg.Connection[Any]) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("INSERT INTO devices (name) VALUES ('shed')")
    assert trail(site) == []


def test_readings_are_in_no_trail(site: Commands, connection: psycopg.Connection[Any]) -> None:
    site.json("device", "add", "shed", *SENSOR)
    before = trail(site)
    for second in range(20):
        connection.execute("SELECT sp_insert_reading_and_check_threshold(1, %s, now())", (second,))
    connection.execute("UPDATE device_api_keys SET last_used_at = now()")
    assert trail(site) == before


def test_role_that_may_not_write_the_trail_changes_thresholds_all_the_same(
    site: Commands, connection: psycopg.Connection[Any]
) -> None:
    """Other programs have roles of their own, with rights to the tables of the contract alone."""
    site.json("device", "add", "shed", *SENSOR)
    role = f"r{connection.info.backend_pid}"
    connection.execute(f"CREATE ROLE {role}".encode())
    try:
        connection.execute(f"GRANT INSERT, SELECT ON alert_thresholds TO {role}".encode())
        connection.execute(f"SET ROLE {role}".encode())
        connection.execute("INSERT INTO alert_thresholds (sensor_id, condition_type) VALUES (1, 'equal_to')")
        connection.execute("RESET ROLE")
        assert actions(trail(site, "--action", "threshold")) == [("threshold.add", "sensor 1")]
    finally:
        connection.execute("RESET ROLE")
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_quarantine_dropped_and_replayed_is_in_the_trail(site: Commands, connection: psycopg.Connection[Any]) -> None:
    made = site.json("device", "add", "shed", *SENSOR)
    sensor, topic = made["sensors"][0]["sensor_uuid"], f"/devices/{made['device_uuid']}/readings"
    payload = f'{{"readings": [{{"sensor_uuid": "{sensor}", "value": 1}}]}}'.encode()
    for _ in range(3):
        connection.execute(
            "INSERT INTO quarantine (code, detail, payload, source, topic, device_id, device_uuid, reading_index,"
            " received_at) VALUES ('unknown_sensor', '', %s, 'http', %s, 1, %s, 0, now())",
            (payload, topic, made["device_uuid"]),
        )
    site.json("quarantine", "replay", "1", "2")
    site.json("quarantine", "drop", "3", "99")
    replayed, dropped = trail(site, "--action", "quarantine")
    assert (replayed["action"], replayed["after"]) == ("quarantine.replay", {"rows": 2, "first": 1, "last": 2})
    assert (dropped["action"], dropped["after"]["rows"]) == ("quarantine.drop", 1)
    assert dropped["actor"] == f"user {getpass.getuser()}"


async def test_gateway_that_enrols_and_rotates_its_key_is_in_the_trail(site: Commands, postgres_url: str) -> None:
    code = (await asyncio.to_thread(site.json, "gateway", "add", "north", "--all-devices"))["code"]
    async with open_service(postgres_url) as service, service.client() as client:
        enrolled = (await client.post("/gateways/enrol", json={"code": code, "version": "1"})).json()
        headers = {"X-Gateway-Key": enrolled["gateway_key"]}
        rotated = (await client.post("/gateways/north/key", headers=headers)).json()["gateway_key"]
        await client.get("/gateways/north/registry", headers={"X-Gateway-Key": rotated})
    rows = [row for row in await asyncio.to_thread(trail, site) if row["door"] == "http"]
    rows[:2] = sorted(rows[:2], key=lambda row: row["action"])  # of one statement
    assert [(row["action"], row["actor"], row["address"]) for row in rows] == [
        ("gateway.enrol", "one-time code", "127.0.0.1"),
        ("gateway.key.add", "one-time code", "127.0.0.1"),
        ("gateway.key.add", "gateway north", None),
        ("gateway.key.revoke", "gateway north", None),
    ]
    assert {row["subject"] for row in rows} == {"gateway north"}


async def test_refused_logins_are_in_the_trail_by_who_and_how_often(site: Commands, postgres_url: str) -> None:
    async with open_service(postgres_url, limits=LimitSettings(failures_per_minute=3)) as service:
        async with service.client() as client:
            for number in range(10):
                key = {"X-API-Key": f"ak_1a2b3c4d_{number}"}
                await client.get("/sensors/1/status", headers=key)
            await client.post("/gateways/enrol", json={"code": "AAAA"})
        await service.core.housekeeping.note_failed_logins()
        await service.core.housekeeping.note_failed_logins()
    by_key, by_code = await asyncio.to_thread(trail, site, "--action", "login.refused")
    assert (by_key["actor"], by_key["door"], by_key["address"]) == ("ak_1a2b3c4d", "http", "127.0.0.1")
    assert (by_key["after"]["count"], by_code["door"], by_code["after"]["count"]) == (10, "enrol", 1)
    assert by_key["after"]["first"] <= by_key["after"]["last"]
    said = await asyncio.to_thread(site.run, "audit", "--action", "login")
    assert "10 times by http from 127.0.0.1" in said.out


async def test_trail_is_bounded_by_age_and_by_number(
    connection: psycopg.Connection[Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "REFUSED_LOGINS_KEPT", 5)
    connection.execute("INSERT INTO devices (name) VALUES ('old'), ('new')")
    connection.execute("UPDATE audit_log SET at = now() - interval '100 days' WHERE subject = 'device 1'")
    settings = DatabaseSettings(url=postgres_url, audit_days=90)
    store = PostgresStore(settings, "test")
    await store.open_pool()
    try:
        table = PostgresRegistry(store)
        await table.note_failed_logins([FailedLogin("mqtt", f"192.0.2.{n}", "a\0b", 1, 0, 0) for n in range(20)])
        await table.maintain(settings)
    finally:
        await store.close()
    rows = connection.execute("SELECT action, coalesce(address, subject) FROM audit_log ORDER BY id").fetchall()
    assert rows == [("device.add", "device 2"), *(("login.refused", f"192.0.2.{n}") for n in range(15, 20))]
