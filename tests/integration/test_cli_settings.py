"""`iot-bridge config` and `iot-bridge db`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import Commands
from tests.support.servers import PostgresServer


def test_config_check_says_every_mistake_as_one_document(commands: Commands, tmp_path: Path) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text("[http]\nport = 99999\nprot = 1\n")
    commands.set(lgo__level="info")
    answer = commands.json("config", "check", "--config", str(config), expect=2)
    assert answer == {
        "ok": False,
        "problems": [
            "IOT_BRIDGE_LGO__LEVEL: unknown variable; did you mean IOT_BRIDGE_LOG__LEVEL?",
            "http.port = 99999: allowed is a whole number from 0 to 65535",
            "http.prot: unknown key; did you mean http.port?",
        ],
    }
    ran = commands.run("config", "check", "--config", str(config), expect=2)
    assert ran.err.splitlines() == [f"error: {line}" for line in answer["problems"]]


def test_config_check_of_settings_that_are_right(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text("[http]\nport = 1\n")
    assert commands.json("config", "check", "--config", str(tmp_path / "bridge.toml")) == {"ok": True, "problems": []}
    assert commands.run("config", "check").out == "ok: True\n"
    assert "No such file" in commands.json("config", "check", "--config", str(tmp_path / "x"), expect=2)["problems"][0]


@pytest.mark.parametrize(
    ("url", "said"),
    [("mqtt://h:0", "port"), ("mqtt://h/topic", "ends with the port"), ("mqtts://h", "mqtt.ca_file = /none")],
)
def test_config_check_looks_into_what_serve_would_need(commands: Commands, url: str, said: str) -> None:
    commands.set(mqtt__url=url, mqtt__ca_file="/none")
    assert said in commands.json("config", "check", expect=2)["problems"][0]


def test_config_show_hides_passwords(commands: Commands) -> None:
    commands.set(mqtt__url="mqtt://u:geheim@h", mqtt__password="geheim", database__url="postgresql://u:geheim@h/d")
    shown = commands.run("config", "show").out
    assert "geheim" not in shown
    assert "mqtt.url: mqtt://u:(hidden)@h\n" in shown
    answer = commands.json("config", "show")
    assert answer["database"]["url"] == "postgresql://u:(hidden)@h/d"
    assert answer["http"]["port"] == 8080


def test_db_migrate_brings_an_empty_database_up_once(commands: Commands, postgres_server: PostgresServer) -> None:
    postgres_server.start()
    name = postgres_server.create_database()
    try:
        commands.set(database__url=postgres_server.url_of(name))
        assert "run iot-bridge db migrate" in commands.problems("device", "list", expect=3)[0]
        todo = commands.json("db", "status", expect=1)["pending"]
        assert todo
        assert commands.json("db", "migrate") == {"applied": todo}
        assert commands.json("db", "migrate") == {"applied": []}
        assert commands.json("db", "status") == {"pending": []}
        first, second = (commands.json("db", "new-epoch")["epoch"] for _ in range(2))
        assert first < second
        assert commands.json("device", "list") == []
    finally:
        postgres_server.drop_database(name)


def test_db_that_does_not_answer(commands: Commands) -> None:
    commands.set(database__url="postgresql://127.0.0.1:1/none")
    for verb in ("migrate", "status"):
        assert "no answer from the database" in commands.problems("db", verb, expect=3)[0]
