"""Mistakes in settings: all of them at once, each with its key or variable, the value, what is allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.settings.problems import hide_password
from bridge.settings.service import Settings, load


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("IOT_BRIDGE_")]:
        monkeypatch.delenv(name)


def problems(path: Path | None, text: str = "") -> list[str]:
    if path is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.problems


def test_every_mistake_of_file_and_environment_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_BRIDGE_HTP__PORT", "1")
    monkeypatch.setenv("IOT_BRIDGE_LOG__LEVEL", "loud")
    monkeypatch.setenv("IOT_BRIDGE_PIPELINE__LIMITS", "not JSON")
    text = """
        [http]
        prt = 80
        port = 99999
        max_body_bytes = "lots"
        trusted_proxies = ["10.0.0.0/8", "everyone"]
        [mqt]
        url = 3
        [mqtt]
        enabled = "perhaps"
        password = 7
        keep_alive_s = 1
        [broker]
        throttle_interval_s = -1
        [database]
        connect_timeout_s = 0
        url = "mysql://u:geheim@h/d"
    """
    assert sorted(problems(tmp_path / "f", text)) == sorted(
        [
            "IOT_BRIDGE_HTP__PORT: unknown variable; did you mean IOT_BRIDGE_HTTP__PORT?",
            "IOT_BRIDGE_LOG__LEVEL = 'loud': allowed is one of debug, info, warning, error",
            "IOT_BRIDGE_PIPELINE__LIMITS = 'not JSON': allowed is a table, each value 2 numbers",
            "http.prt: unknown key; did you mean http.port?",
            "http.port = 99999: allowed is a whole number from 0 to 65535",
            "http.max_body_bytes = 'lots': allowed is a whole number from 1 to 2147483647",
            "http.trusted_proxies.1 = 'everyone': 'everyone' is no address or network; allowed are such as 10.0.0.0/8",
            "mqt: unknown key; did you mean mqtt?",
            "mqtt.enabled = 'perhaps': allowed is true or false",
            "mqtt.password = (hidden): allowed is text",
            "mqtt.keep_alive_s = 1: allowed is a whole number from 5 to 65535",
            "broker.throttle_interval_s = -1: allowed is a number from 0 to 2000000",
            "database.connect_timeout_s = 0: allowed is a number above 0, up to 2000000",
            "database.url = 'mysql://u:(hidden)@h/d': allowed is text (postgresql://…; empty with --embedded takes"
            " the embedded server)",
        ]
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("IOT_BRIDGE_HTTP", "x", "IOT_BRIDGE_HTTP = 'x': allowed is a table of keys"),
        ("IOT_BRIDGE_LOG", "8", "IOT_BRIDGE_LOG = 8: allowed is a table of keys"),
        ("IOT_BRIDGE_HTTP__PORT__X", "1", "IOT_BRIDGE_HTTP__PORT__X: unknown variable; did you mean"),
        ("iot_bridge_http__prot", "1", "iot_bridge_http__prot: unknown variable; did you mean IOT_BRIDGE_HTTP__PORT?"),
        ("IOT_BRIDGE_PIPELINE__LIMITS__PH", "[1]", "allowed is a table, each value 2 numbers"),
        ("IOT_BRIDGE_MQTT__PASSWORDD", "geheim", "IOT_BRIDGE_MQTT__PASSWORDD: unknown variable; did you mean"),
    ],
)
def test_mistakes_in_variables(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    (problem,) = problems(None)
    assert said in problem
    assert "geheim" not in problem


def test_lists_and_tables_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_BRIDGE_MQTT__TOPICS", "a/+, b/#")
    monkeypatch.setenv("IOT_BRIDGE_HTTP__TRUSTED_PROXIES", '["10.0.0.0/8"]')
    monkeypatch.setenv("IOT_BRIDGE_PIPELINE__LIMITS", '{"ph": [1, 2]}')
    monkeypatch.setenv("IOT_BRIDGE_HTTP__PORT", "")  # as not set at all
    settings = load(None)
    assert settings.mqtt.topics == ("a/+", "b/#")
    assert settings.http.trusted_proxies == ("10.0.0.0/8",)
    assert settings.pipeline.limits == {"ph": (1, 2)}
    assert settings.http.port == Settings.model_fields["http"].default.port


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text('[http]\nport = 1\nhost = "::1"\n')
    monkeypatch.setenv("IOT_BRIDGE_HTTP__PORT", "2")
    http = load(tmp_path / "f").http
    assert (http.port, http.host) == (2, "::1")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "not TOML" in problems(tmp_path / "f", "[http")[0]
    (tmp_path / "g").write_bytes(b"\xff")
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (tmp_path / "g", "not TOML")):
        with pytest.raises(ConfigError, match=said):
            load(path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mqtt://u:pw@h:1883", "mqtt://u:(hidden)@h:1883"),
        ("postgresql://u:p/w@h/d", "postgresql://u:(hidden)@h/d"),
        ("redis://:pw@h/0", "redis://:(hidden)@h/0"),
        ("mqtt://u@h", "mqtt://u@h"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
    ],
)
def test_passwords_stay_hidden(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@pytest.mark.parametrize("key", ["http.host", "consumers.metrics_host"])
@pytest.mark.parametrize("host", ["", " ", "a b", "127.0.0.1:80", "999.1.1.1"])
def test_hosts_that_are_none(tmp_path: Path, key: str, host: str) -> None:
    section, _, name = key.partition(".")
    (line,) = problems(tmp_path / "f", f'[{section}]\n{name} = "{host}"\n')
    assert line.startswith(f"{key} = {host!r}: ")


@pytest.mark.parametrize(
    "topic", ["", "a/#/b", "a#", "devices/+x/readings", "$share/g/a", r"a\u0000b", "ü" * 4_000 + "/#/a"]
)
def test_topic_filters_that_are_none(tmp_path: Path, topic: str) -> None:
    (line,) = problems(tmp_path / "f", f'[mqtt]\ntopics = ["a/+", "{topic}"]\n')
    assert line.startswith("mqtt.topics")
    (line,) = problems(tmp_path / "f", f'[[mqtt.converters]]\nformat = "value"\nfilter = "{topic}"\n')
    assert line.startswith("mqtt.converters.0.filter")


@pytest.mark.parametrize(
    "place",
    ["h:99999999", "h:0", "a:1,b:65536", "a,b/d?port=1,2,3", "a%20b", "h:5432/d?hostaddr=x%20y", "/d?host=h&port=-1"],
)
def test_places_of_a_database_that_are_none(tmp_path: Path, place: str) -> None:
    (line,) = problems(tmp_path / "f", f'[database]\nurl = "postgresql://u:geheim@{place}"\n')
    assert line.startswith("database.url = ")
    assert "geheim" not in line


@pytest.mark.parametrize(
    "place", ["/d", "h/d", "a:1,b:2/d", "a,b/d", "[::1]:5432/d", "/d?host=/run/postgresql", "%2Frun%2Fpostgresql/d"]
)
def test_places_of_a_database(tmp_path: Path, place: str) -> None:
    (tmp_path / "f").write_text(f'[database]\nurl = "postgresql://u:p@{place}"\n')
    assert load(tmp_path / "f").database.url.endswith(place)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("IOT_BRIDGE_NOPE", ""),
        ("IOT_BRIDGE_FOO__BAR", ""),
        ("IOT_BRIDGE_LOG__FOO", ""),
        ("IOT_BRIDGE_MQT__URL", "IOT_BRIDGE_MQTT__URL"),
        ("IOT_BRIDGE_MQQT", "IOT_BRIDGE_MQTT"),
        ("IOT_BRIDGE_DATABASE_URL", "IOT_BRIDGE_DATABASE__URL"),
        ("IOT_BRIDGE_LOG_LEVLE", "IOT_BRIDGE_LOG__LEVEL"),
    ],
)
def test_hint_for_a_variable_is_something_like_it(monkeypatch: pytest.MonkeyPatch, variable: str, hint: str) -> None:
    monkeypatch.setenv(variable, "1")
    (line,) = problems(None)
    assert line == f"{variable}: unknown variable" + (f"; did you mean {hint}?" if hint else "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[redis]\nfoo = 1", "redis.foo: unknown key"),
        ("[nope]\nurl = 1", "nope: unknown key"),
        ("[redis]\nulr = 1", "redis.ulr: unknown key; did you mean redis.url?"),
        ("[http]\nbody_timeout = 1", "http.body_timeout: unknown key; did you mean http.body_timeout_s?"),
        ("log_level = 1", "log_level: unknown key; did you mean log.level?"),
    ],
)
def test_hint_for_a_key_is_something_like_it(tmp_path: Path, text: str, said: str) -> None:
    assert problems(tmp_path / "f", text) == [said]
