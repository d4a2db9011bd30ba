"""Numbers and times that no column, clock or list has are mistakes in the command, in every command that takes them."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.commands import Commands

HUGE = "99999999999999999999"
DIGITS = "9" * 5_000
TIMES = (
    "1000000000d",
    "99999999999999999999999h",
    f"{DIGITS}s",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
    "٣d",
    "",
)
SENSOR = ("--sensor", "air:temperature")


@pytest.fixture
def site(commands: Commands, postgres_url: str) -> Commands:
    commands.set(database__url=postgres_url)
    return commands


@pytest.mark.parametrize("text", TIMES)
def test_time_of_no_year_that_people_write(site: Commands, text: str) -> None:
    for command in (("audit", "--since"), ("replay", "--group", "g", "--from")):
        (line,) = site.problems(*command, text)
        assert "is no time of the years 1 to 9999" in line
        assert len(line) < 200
    if text:  # without --until, it is now
        assert "is no time" in site.problems("replay", "--group", "g", "--from", "1h", "--until", text)[0]


@pytest.mark.parametrize("text", ["0001-01-01", "0001-01-01T12:00+12:00", "700000d", "9999-12-29"])
def test_time_at_the_end_of_the_years(site: Commands, text: str) -> None:
    assert site.json("audit", "--since", text) == []


def test_expiry_of_no_year_that_people_write(site: Commands) -> None:
    site.json("device", "add", "shed", *SENSOR)
    for text in ("9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59", "0001-01-01T00:00:00+14:00", DIGITS):
        for command in (("apikey", "add", "k"), ("device", "key", "rotate", "1")):
            (line,) = site.problems(*command, "--expires", text)
            assert "write a date or time such as 2027-01-31" in line
            assert len(line) < 200
    assert site.json("apikey", "list") == []
    site.json("apikey", "add", "k", "--expires", "2999-01-31T00:00:00-14:00")
    assert site.json("apikey", "list")[0]["expires_at"].startswith("2999-01-31 14:00:00")


@pytest.mark.parametrize(
    "arguments",
    [
        ("quarantine", "list", "--limit", HUGE),
        ("quarantine", "usage", "--limit", HUGE),
        ("audit", "--limit", HUGE),
        ("device", "list", "--limit", HUGE),
        ("command", "list", "1", "--limit", HUGE),
        ("job", "explain", "--limit", HUGE),
        ("job", "predictions", "--hours", "1e308"),
        ("job", "predictions", "--hours", "nan"),
        ("tail", "readings", "--count", HUGE),
        ("consume", "notifier", "--metrics-port", "99999"),
        ("mqtt", "learn", "--seconds", "1e308"),
        ("simulate", "--rate", "nan"),
        ("simulate", "--seconds", "inf"),
        ("demo", "--seconds", "nan"),
    ],
)
def test_number_that_no_column_or_list_has(site: Commands, arguments: tuple[str, ...]) -> None:
    said = site.run(*arguments, expect=2).err
    assert "Invalid value" in said
    assert "bigint" not in said
    assert len(said) < 1_500


@pytest.mark.parametrize("number", [HUGE, DIGITS])
def test_id_that_no_column_has_is_of_nothing(site: Commands, number: str) -> None:
    for command in (("device", "show"), ("device", "disable"), ("command", "list")):
        (line,) = site.problems(*command, number, expect=4)
        assert line.startswith("no device 999")
        assert len(line) < 200


def test_number_that_no_column_has_is_of_nothing(site: Commands) -> None:
    site.json("device", "add", "shed", *SENSOR)
    for command in (
        ("apikey", "revoke", HUGE),
        ("device", "key", "revoke", "1", "--key", HUGE),
        ("sensor", "status", HUGE),
        ("threshold", "clear", HUGE),
        ("threshold", "set", HUGE, "--max", "1"),
        ("quarantine", "show", HUGE),
        ("quarantine", "drop", HUGE),
    ):
        site.run(*command, expect=4)
    assert site.json("threshold", "list", HUGE) == []


@pytest.mark.parametrize(
    ("state", "backlog", "oldest"),
    [
        (None, None, None),
        ({}, None, None),
        ({"backlog_records": 0, "oldest_us": None}, 0, None),
        ({"backlog_records": -5, "oldest_us": 0}, 0, int),
        ({"backlog_records": 3, "oldest_us": -(10**30)}, 3, 10**18),
    ],
)
def test_gateway_with_an_empty_backlog_has_no_oldest(
    site: Commands,
    postgres_url: str,
    state: dict[str, int | None] | None,
    backlog: int | None,
    oldest: int | type | None,
) -> None:
    site.json("gateway", "add", "north", "--all-devices")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE gateways SET state = %s", (None if state is None else Jsonb(state),))
    (row,) = site.json("gateway", "list")
    assert row["backlog"] == backlog
    assert row["oldest_s"] == oldest or (isinstance(oldest, type) and isinstance(row["oldest_s"], oldest))
    assert "-1000" not in site.run("gateway", "list").out


def test_gateway_that_is_new_or_revoked_waits_for_its_code(site: Commands) -> None:
    site.json("gateway", "add", "north", "--all-devices")
    (row,) = site.json("gateway", "list")
    assert row["waits_for"].startswith("its enrolment: the code holds until ")
    assert site.json("gateway", "show", "north")["waits_for"] == [row["waits_for"]]
    site.run("gateway", "revoke", "north")
    assert "iot-bridge gateway code north" in site.run("gateway", "show", "north").out
