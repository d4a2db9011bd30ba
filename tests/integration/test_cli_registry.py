"""Commands on devices, keys, thresholds and sensors, against a real database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from typer.main import get_command

from bridge.cli import build, globals_last
from bridge.model.scopes import DEFAULT_SCOPES, SCOPES
from tests.support.commands import Commands

NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def device(commands: Commands, postgres_url: str) -> dict[str, Any]:
    commands.set(database__url=postgres_url)
    made: dict[str, Any] = commands.json(
        "device", "add", "shed", "--sensor", "air:temperature", "--sensor", "soil:humidity:g/m³"
    )
    return made


def test_device_add_answers_with_key_and_sensors(device: dict[str, Any], postgres_url: str) -> None:
    assert list(device) == ["device_id", "device_uuid", "name", "device_key", "sensors"]
    assert str(UUID(device["device_uuid"])) == device["device_uuid"]
    assert [(s["name"], s["sensor_type"], s["unit"]) for s in device["sensors"]] == [
        ("air", "temperature", "°C"),
        ("soil", "humidity", "g/m³"),
    ]
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT * FROM device_api_keys").fetchall()
    assert device["device_key"] not in str(rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shed", "--sensor", "air"], "--sensor air: write NAME:TYPE or NAME:TYPE:UNIT"),
        (["shed", "--sensor", ":temperature"], "write NAME:TYPE"),
        (["shed", "--sensor", "a:ph", "--sensor", "a:ph"], "--sensor a: the name is there twice"),
        ([" "], "a name has 1 to 200 printable characters"),
        (["x" * 201], "a name has 1 to 200 printable characters"),
        (["a\x00b"], "a name has 1 to 200 printable characters"),
    ],
)
def test_device_add_refuses(commands: Commands, postgres_url: str, arguments: list[str], said: str) -> None:
    commands.set(database__url=postgres_url)
    assert said in commands.problems("device", "add", *arguments)[0]
    assert commands.json("device", "list") == []


def test_device_add_warns_of_a_type_that_is_nearly_known(commands: Commands, device: dict[str, Any]) -> None:
    ran = commands.run("device", "add", "other", "--sensor", "air:temprature", "--json")
    assert ran.err == "warning: temprature has no physical limits of its own; did you mean temperature?\n"
    assert ran.out.startswith('{"device_id"')


def test_device_is_found_by_id_and_uuid_and_says_its_state(commands: Commands, device: dict[str, Any]) -> None:
    number, uuid = str(device["device_id"]), device["device_uuid"]
    by_uuid = commands.json("device", "show", uuid.upper())
    assert by_uuid == commands.json("device", "show", number)
    assert [key["is_active"] for key in by_uuid["keys"]] == [True]
    assert "api_key_hash" not in str(by_uuid)
    assert commands.json("device", "disable", number)["status"] == "disabled"
    assert commands.json("device", "list")[0]["status"] == "disabled"
    assert commands.json("device", "enable", uuid)["status"] == "offline"
    assert uuid in commands.run("device", "list").out
    assert "air" in commands.run("device", "show", number).out


@pytest.mark.parametrize("name", [NOWHERE, "9", "9" * 30])
def test_device_that_is_not_there(commands: Commands, device: dict[str, Any], name: str) -> None:
    for arguments in (["show", name], ["disable", name], ["key", "rotate", name], ["key", "revoke", name]):
        assert commands.problems("device", *arguments, expect=4) == [f"no device {name}; see iot-bridge device list"]
    assert commands.problems("device", "show", "shed") == ["shed: neither a device UUID nor a device id"]


def active(commands: Commands, device: dict[str, Any]) -> list[int]:
    shown = commands.json("device", "show", str(device["device_id"]))
    return [key["key_id"] for key in shown["keys"] if key["is_active"]]


def test_two_keys_are_active_while_one_is_rotated(commands: Commands, device: dict[str, Any]) -> None:
    number = str(device["device_id"])
    first = active(commands, device)
    second = commands.json("device", "key", "rotate", number)
    assert second["device_key"] != device["device_key"]
    assert active(commands, device) == [*first, second["key_id"]]
    third = commands.json("device", "key", "rotate", number)
    assert active(commands, device) == [second["key_id"], third["key_id"]]
    assert commands.json("device", "key", "revoke", number, "--key", str(second["key_id"])) == {
        "revoked": [second["key_id"]]
    }
    commands.problems("device", "key", "revoke", number, "--key", str(second["key_id"]), expect=4)
    assert commands.json("device", "key", "revoke", number) == {"revoked": [third["key_id"]]}
    assert active(commands, device) == []


def test_rotation_keeps_the_key_that_still_works(commands: Commands, device: dict[str, Any], postgres_url: str) -> None:
    number = str(device["device_id"])
    (first,) = active(commands, device)
    expired = commands.json("device", "key", "rotate", number)["key_id"]
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE device_api_keys SET expires_at = now() WHERE id = %s", (expired,))
    newest = commands.json("device", "key", "rotate", number)["key_id"]
    assert active(commands, device) == [first, newest]


@pytest.mark.parametrize(
    ("text", "said"), [("soon", "write a date or time"), ("2020-01-01", "is over already"), ("", "write a date")]
)
def test_expiry_that_makes_no_sense(commands: Commands, device: dict[str, Any], text: str, said: str) -> None:
    for arguments in (["device", "key", "rotate", "1"], ["apikey", "add", "x"]):
        assert said in commands.problems(*arguments, "--expires", text)[0]
    assert len(active(commands, device)) == 1


def test_api_keys(commands: Commands, device: dict[str, Any]) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    made = commands.json("apikey", "add", "dashboard", "--expires", tomorrow.isoformat())
    assert list(made) == ["key_id", "name", "api_key", "scopes", "devices"]
    (row,) = commands.json("apikey", "list")
    assert (row["scopes"], row["devices"]) == (list(DEFAULT_SCOPES), None)
    assert (row["name"], row["is_active"]) == ("dashboard", True)
    assert datetime.fromisoformat(row["expires_at"]) == tomorrow
    assert commands.json("apikey", "revoke", str(made["key_id"])) == {"revoked": [made["key_id"]]}
    for number in (str(made["key_id"]), "99", "9" * 30):
        assert "see iot-bridge apikey list" in commands.problems("apikey", "revoke", number, expect=4)[0]
    assert commands.json("apikey", "list")[0]["is_active"] is False


def test_api_key_of_some_scopes_and_devices(commands: Commands, device: dict[str, Any]) -> None:
    other = commands.json("device", "add", "other")
    chosen = ["--scope", "status:read", "--scope", "readings:write", "--scope", "status:read"]
    made = commands.json("apikey", "add", "dashboard", *chosen, "--device", device["device_uuid"], "--device", "1")
    assert (made["scopes"], made["devices"]) == (["status:read", "readings:write"], [device["device_uuid"]])
    commands.json("apikey", "add", "all", "--scope", "admin")
    rows = commands.json("apikey", "list")
    assert [(row["scopes"], row["devices"]) for row in rows] == [
        (["status:read", "readings:write"], [device["device_uuid"]]),
        (["admin"], None),
    ]
    shown = commands.run("apikey", "list").out.splitlines()
    assert "status:read, readings:write" in shown[1]
    assert device["device_uuid"] in shown[1]
    assert shown[2].split()[-2:] == ["admin", "all"]
    assert other["device_uuid"] not in str(rows)


@pytest.mark.parametrize(
    ("options", "said", "expect"),
    [
        (["--scope", "reading:write"], "--scope reading:write: allowed is one of readings:write, status:read", 2),
        (["--device", "99"], "no device 99", 4),
        (["--device", "shed"], "neither a device UUID nor a device id", 2),
    ],
)
def test_api_key_refuses(
    commands: Commands, device: dict[str, Any], options: list[str], said: str, expect: int
) -> None:
    assert said in commands.problems("apikey", "add", "x", *options, expect=expect)[0]
    assert commands.json("apikey", "list") == []


def test_help_says_what_each_scope_is(commands: Commands) -> None:
    said = " ".join(commands.run("apikey", "add", "--help").out.replace("│", " ").split())
    for name, what in SCOPES.items():
        assert f"{name}: {what}" in said


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        (["--min", "2", "--max", "8"], 2, 8),
        (["--max", "8"], None, 8),
        (["--condition", "greater_than", "--min", "30"], 30, None),
        (["--condition", "equal_to", "--min", "-1.5"], -1.5, None),
        (["--condition", "less_than", "--min", "1"], 1, None),
        (["--condition", "less_than", "--max", "1", "--severity", "info"], None, 1),
    ],
)
def test_threshold_of_each_condition(
    commands: Commands, device: dict[str, Any], options: list[str], low: float | None, high: float | None
) -> None:
    sensor = str(device["sensors"][0]["sensor_id"])
    made = commands.json("threshold", "set", sensor, *options)
    assert (made["min"], made["max"]) == (low, high)
    assert commands.json("threshold", "list") == commands.json("threshold", "list", sensor) == [made]


def test_threshold_replaces_its_severity_and_is_cleared(commands: Commands, device: dict[str, Any]) -> None:
    sensor = str(device["sensors"][0]["sensor_id"])
    for high, severity in (("30", "critical"), ("20", "warning"), ("35", "critical")):
        commands.json("threshold", "set", sensor, "--max", high, "--severity", severity)
    assert [(t["max"], t["severity"]) for t in commands.json("threshold", "list", sensor)] == [
        (20, "warning"),
        (35, "critical"),
    ]
    assert commands.json("threshold", "clear", sensor) == {"sensor_id": int(sensor), "cleared": 2}
    assert commands.json("threshold", "list") == []
    assert commands.run("threshold", "list").out == "nothing\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "out_of_range takes --min, --max or both"),
        (["--min", "8", "--max", "2"], "--min 8 is above --max 2"),
        (["--min", "nan"], "--min is not a finite number"),
        (["--max", "inf"], "--max is not a finite number"),
        (["--condition", "greater_than", "--max", "30"], "greater_than compares with --min, which is missing"),
        (["--condition", "greater_than", "--min", "1", "--max", "2"], "greater_than compares with --min alone"),
        (["--condition", "equal_to"], "equal_to compares with --min, which is missing"),
        (["--condition", "less_than"], "less_than compares with one value"),
        (["--condition", "less_than", "--min", "1", "--max", "2"], "less_than compares with one value"),
    ],
)
def test_threshold_that_makes_no_sense(
    commands: Commands, device: dict[str, Any], options: list[str], said: str
) -> None:
    problems = commands.problems("threshold", "set", str(device["sensors"][0]["sensor_id"]), *options)
    assert any(said in line for line in problems)
    assert commands.json("threshold", "list") == []


def test_sensor_that_is_not_there(commands: Commands, device: dict[str, Any]) -> None:
    for number in ("99", "9" * 30):
        for arguments in (["threshold", "set", number, "--max", "1"], ["threshold", "clear", number]):
            assert f"no sensor {number}" in commands.problems(*arguments, expect=4)[0]
        assert f"no sensor {number}" in commands.problems("sensor", "status", number, expect=4)[0]


def test_sensor_status_in_its_states(commands: Commands, device: dict[str, Any], postgres_url: str) -> None:
    sensor = str(device["sensors"][0]["sensor_id"])
    assert commands.json("sensor", "status", sensor) == {
        "sensor_id": int(sensor),
        "final_state": "unknown",
        "alert_active": None,
        "warning_active": None,
        "prediction_current": None,
        "alert_resolved": None,
        "operational_state": "INITIALIZING",
        "device_status": "offline",
        "device_uuid": device["device_uuid"],
    }
    commands.json("threshold", "set", sensor, "--max", "30", "--severity", "critical")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE sensors SET operational_state = 'NORMAL'")
        connection.execute("SELECT sp_insert_reading_and_check_threshold(%s, 35, now())", (int(sensor),))
    status = commands.json("sensor", "status", sensor)
    assert (status["final_state"], status["alert_active"]["triggered_value"]) == ("alert", 35)
    assert "triggered_value 35" in commands.run("sensor", "status", sensor).out


def test_options_of_every_command_may_stand_anywhere(
    commands: Commands, device: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text("")
    number = str(device["device_id"])
    wanted = commands.run("device", "show", number, "--json", "--config", str(config)).out
    for arguments in (
        ["--json", "--config", str(config), "device", "show", number],
        ["--config", str(config), "device", "--json", "show", number],
        ["device", f"--config={config}", "show", "--json", number],
    ):
        assert commands.run(*arguments).out == wanted


def test_options_behind_a_double_hyphen_stay() -> None:
    assert globals_last(["--json", "device", "add", "--", "--json"]) == ["device", "add", "--json", "--", "--json"]
    assert globals_last(["x", "--config"]) == ["x", "--config"]


def test_command_line_that_is_not_understood_is_a_document_too(commands: Commands) -> None:
    for arguments in (["device", "shwo"], ["device", "show"], ["threshold", "set", "x"], ["--nonsense"]):
        answer = commands.json(*arguments, expect=2)
        assert answer["error"]["code"] == "usage"


def test_nothing_named_to_work_on(commands: Commands, tmp_path: Path) -> None:
    assert commands.problems("device", "list") == [
        "database.url is not set: name the service with --data-dir DIR, --config FILE or IOT_BRIDGE_DATABASE__URL"
    ]
    assert "no embedded service has run here" in commands.problems("device", "list", "--data-dir", str(tmp_path))[0]
    commands.set(database__url="postgresql://127.0.0.1:1/none")
    assert "no answer from the database" in commands.problems("device", "list", expect=3)[0]


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command below this one, by its words."""
    nouns = getattr(command, "commands", None)
    return [leaf for name, one in nouns.items() for leaf in leaves(one, (*path, name))] if nouns else [path]


def test_every_command_has_an_example_in_its_help(commands: Commands) -> None:
    every = leaves(get_command(build()))
    assert len(every) > 25
    for leaf in every:
        text = commands.run(*leaf, "--help").out
        assert f"Example: iot-bridge {' '.join(leaf)}" in " ".join(text.split()), leaf


def test_every_command_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for leaf in leaves(get_command(build())):
        assert f"iot-bridge {' '.join(leaf)}" in text, leaf
