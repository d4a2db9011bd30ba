"""What devices, gateways and brokers wrote is printed by every command as text that does nothing to a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
import redis
from typer.main import get_command

from bridge.cli import build
from tests.support.commands import Commands
from tests.support.servers import RedisServer

HOSTILE = "\x1b]0;owned\x07\x1b[2J\nforged line\r\x9b31m\x7f\u202e[bold]b[/bold] :warning: end"
COMMAND = "5f0c1f5e-0000-4000-8000-00000000000c"

LISTINGS: dict[str, list[str]] = {
    "apikey list": [],
    "audit": [],
    "command list": ["1"],
    "command show": ["1", COMMAND],
    "config show": [],
    "db status": [],
    "device list": [],
    "device show": ["1"],
    "gateway list": [],
    "gateway show": [HOSTILE],
    "ledger": ["--verify"],
    "mqtt account list": [],
    "quarantine list": [],
    "quarantine show": ["1"],
    "sensor status": ["1"],
    "tail": ["decisions", "--count", "5"],
    "threshold list": [],
}
"""Every command that shows what is there, and arguments for it."""


@pytest.fixture
def hostile(commands: Commands, postgres_url: str, redis_server: RedisServer) -> Commands:
    """A service in which whatever can be text is hostile."""
    commands.set(database__url=postgres_url, redis__url=redis_server.url, service__name="bench")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        said = {"text": HOSTILE, "json": msgspec.json.encode({"version": HOSTILE, HOSTILE[5:9]: HOSTILE}).decode()}
        for statement in (
            "INSERT INTO devices (name) VALUES (%(text)s)",
            "INSERT INTO sensors (device_id, name, sensor_type, unit, external_id)"
            " VALUES (1, %(text)s, %(text)s, %(text)s, %(text)s)",
            "INSERT INTO api_keys (name, api_key_hash) VALUES (%(text)s, 'a')",
            "INSERT INTO mqtt_accounts (name, role, password_hash, mosquitto_hash)"
            " VALUES (%(text)s, 'bridge', 'a', 'b')",
            "INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min, severity)"
            " VALUES (1, 'greater_than', 1, 'info')",
            "INSERT INTO gateways (name, version, state) VALUES (%(text)s, %(text)s, %(json)s)",
            "INSERT INTO gateway_devices VALUES (1, 1)",
            "INSERT INTO quarantine (code, detail, payload, source, topic, device_id, reading_index, received_at)"
            " VALUES (%(text)s, %(text)s, convert_to(%(text)s, 'UTF8'), 'http', %(text)s, 1, 0, now())",
            "INSERT INTO ingest_ledger (instance, device_id, source, received, quarantined)"
            " VALUES (0, 1, %(text)s, 1, 1)",
            f"INSERT INTO commands (id, device_id, payload, expires_at, result)"
            f" VALUES ('{COMMAND}', 1, %(json)s, now() + interval '1 day', %(json)s)",
            "INSERT INTO ml_events (sensor_id, device_id, event_type, event_code, status, created_at, title, message,"
            " payload) VALUES (1, 1, 'warning', 'DELTA_SPIKE', 'active', now(), %(text)s, %(text)s, %(json)s)",
        ):
            connection.execute(statement.encode(), said)
    with redis.Redis.from_url(redis_server.url) as client:
        client.xadd("iot:decisions", {"sensor_id": "1", "value": HOSTILE, HOSTILE: "x"})
    return commands


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of all commands, from the root."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path)
        return
    for name, each in inner.items():
        yield from leaves(each, (*path, name))


def test_every_command_that_lists_or_shows_is_driven() -> None:
    nouns = {"list", "show", "status", "ledger", "tail", "audit"}
    assert {path for path in leaves(get_command(build())) if path.split()[-1] in nouns} == set(LISTINGS)


@pytest.mark.parametrize("listing", LISTINGS)
def test_listing_prints_nothing_that_a_terminal_obeys(hostile: Commands, listing: str) -> None:
    ran = hostile.run(*listing.split(), *LISTINGS[listing], expect=1 if listing == "ledger" else 0)
    assert_harmless(ran.out)
    if listing not in ("config show", "db status", "threshold list"):  # those show nothing that others wrote
        assert "[bold]b[/bold] :warning: end" in ran.out


@pytest.mark.parametrize("listing", LISTINGS)
def test_json_of_a_listing_is_visible_too(hostile: Commands, listing: str) -> None:
    ran = hostile.run(*listing.split(), *LISTINGS[listing], "--json", expect=1 if listing == "ledger" else 0)
    assert_harmless(ran.out)
    shown: Any = msgspec.json.decode(ran.out)
    assert shown


def test_mistake_that_names_hostile_text_is_visible(hostile: Commands) -> None:
    for arguments in (["gateway", "show", "no" + HOSTILE], ["device", "show", "\udc80\x1b[2J"]):
        for more in ([], ["--json"]):
            ran = hostile.run(*arguments, *more, expect=4 if arguments[0] == "gateway" else 2)
            assert_harmless(ran.out)
            assert_harmless(ran.err)


def assert_harmless(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert not any(line.startswith("forged") for line in text.split("\n"))
