"""Where an installed service has its settings and secrets, and the settings that its package brings along."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bridge.embedded.stack import require_server
from bridge.errors import ConfigError
from bridge.settings.installation import Installation
from bridge.settings.service import load
from packages import definition
from packages.stage import _replaced
from tests.support.reference import ROOT


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    (tmp_path / "bridge.toml").write_text("[http]\nport = 8081\n")
    return Installation(tmp_path / "bridge.toml", tmp_path / "secrets.env")


def test_installation_is_read_where_no_file_is_named(installed: Installation, tmp_path: Path) -> None:
    assert installed.settings_file(None) == installed.settings
    assert installed.settings_file(tmp_path / "other.toml") == tmp_path / "other.toml"
    installed.settings.unlink()
    assert installed.settings_file(None) is None


def test_secrets_go_with_the_installed_settings_alone(installed: Installation, tmp_path: Path) -> None:
    installed.secrets.write_text("# a comment\nA=postgresql://u:p#$x@h/d\nB='two words'\nC=other\n")
    found = {"C": "mine"}
    installed.load_secrets(tmp_path / "other.toml", found)
    installed.load_secrets(None, found)
    assert found == {"C": "mine"}
    (tmp_path / "link.toml").symlink_to(installed.settings)
    installed.load_secrets(tmp_path / "link.toml", found)
    assert found == {"A": "postgresql://u:p#$x@h/d", "B": "two words", "C": "mine"}


def test_secrets_need_not_be_there(installed: Installation) -> None:
    found: dict[str, str] = {}
    installed.load_secrets(installed.settings, found)
    assert found == {}


def test_secrets_that_cannot_be_read_are_a_mistake(installed: Installation) -> None:
    installed.secrets.mkdir()
    with pytest.raises(ConfigError, match=r"secrets\.env"):
        installed.load_secrets(installed.settings, {})


def test_packaged_settings_are_the_example_with_debians_servers(tmp_path: Path) -> None:
    package = definition.load(ROOT, "iot-bridge")
    (file,) = [each for each in package.files if each.target == "etc/iot-bridge/bridge.toml"]
    text = _replaced(file, ROOT)
    assert tomllib.loads(text) == {
        "service": {}, "http": {}, "limits": {}, "keys": {}, "commands": {}, "hooks": {}, "emqx": {}, "broker": {},
        "pipeline": {}, "consumers": {}, "notifier": {}, "orchestrator": {}, "ml": {}, "explain": {}, "log": {},
        "mqtt": {"url": "mqtt://127.0.0.1:1883"},
        "database": {"url": "postgresql://iot-bridge@/iot-bridge?host=/run/postgresql"},
        "redis": {"url": "redis://127.0.0.1:6379/0"},
    }  # fmt: skip
    path = tmp_path / "bridge.toml"
    path.write_text(text)
    assert load(path).database.url.endswith("host=/run/postgresql")


@pytest.mark.parametrize("name", ["iot-bridge.service", "iot-bridge-consumer@.service"])
def test_packaged_units_run_the_packaged_command(name: str) -> None:
    package = definition.load(ROOT, "iot-bridge")
    (file,) = [each for each in package.files if each.target.endswith(f"/{name}")]
    text = _replaced(file, ROOT)
    assert "/opt/" not in text
    assert "ExecStart=/usr/bin/iot-bridge " in text


def test_embedded_server_that_is_not_installed_is_said_so() -> None:
    require_server("json", "JSON")
    with pytest.raises(ConfigError, match=r"PostgreSQL is not installed: set database.url, or install iot-edge-bridge"):
        require_server("no_such_server", "PostgreSQL", "set database.url, or ")
