"""Settings of the gateway, and what follows from them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.settings.sources import keys
from edge.host.install import template
from edge.host.installation import Installation
from edge.settings import EdgeSettings, load
from tests.support import needs, reference


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("IOT_EDGE_", "CREDENTIALS_DIRECTORY"))]:
        monkeypatch.delenv(name)


def test_example_configuration_of_the_gateway_is_the_defaults(tmp_path: Path) -> None:
    example = reference.EDGE_EXAMPLE.read_text()
    assert example == reference.edge_example_file(), "run scripts/reference"
    in_force = tmp_path / "edge.toml"
    in_force.write_text(reference.uncommented(example))
    assert load(reference.EDGE_EXAMPLE) == load(in_force) == load(None)
    named = re.findall(r"^#? *(\w+) = ", example, re.MULTILINE)
    assert sorted(named) == sorted(key.partition(".")[2] for key in keys(EdgeSettings))


def test_gateway_page_has_every_setting_and_metric_as_it_is() -> None:
    page = reference.EDGE_PAGE.read_text()
    assert page == reference.edge_page(page), "run scripts/reference"


def test_section_that_is_set_in_part_keeps_the_gateways_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.toml").write_text("[http]\nport = 9000\n[broker]\nstream_maxlen = 5\n")
    settings = load(tmp_path / "edge.toml")
    assert (settings.http.enabled, settings.http.port, settings.broker.kind) == (False, 9000, "memory")
    monkeypatch.setenv("IOT_EDGE_HTTP__PORT", "9001")
    assert load(None).http.enabled is False


def test_credentials_win_over_the_file_and_lose_against_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "iot-edge_mqtt.password").write_text("from systemd\n")  # as LoadCredential names the files of a folder
    (folder / "gateway").write_text("of something else")
    (tmp_path / "edge.toml").write_text('[mqtt]\npassword = "from the file"\nusername = "u"\n')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    settings = load(tmp_path / "edge.toml")
    assert (settings.mqtt.password, settings.mqtt.username) == ("from systemd", "u")
    monkeypatch.setenv("IOT_EDGE_MQTT__PASSWORD", "from the environment")
    assert load(tmp_path / "edge.toml").mqtt.password == "from the environment"


def test_every_mistake_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge.toml").write_text('[uplink]\nkind = "carrier pigeon"\nmax_batsh = 1\n')
    monkeypatch.setenv("IOT_EDGE_UPLNK__URL", "x")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "edge.toml")
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "one of https, direct" in text
    assert "did you mean uplink.max_batch" in text


def test_installed_settings_are_settings(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(template("edge.toml"))
    settings = load(tmp_path / "edge.toml")
    assert settings.mqtt.username == "iot-edge"
    assert settings.http.enabled is False


def test_key_that_is_like_none_gets_no_hint(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text('[spool]\nfoo = 1\n[http]\nhost = ""\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "edge.toml")
    assert sorted(caught.value.problems)[1] == "spool.foo: unknown key"
    assert sorted(caught.value.problems)[0].startswith("http.host = '': ")


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    """A gateway on its machine, below a folder of the test's."""
    found = Installation(tmp_path / "etc/edge.toml", tmp_path / "state", tmp_path / "etc/credentials")
    found.credentials.mkdir(parents=True)
    found.settings.write_text("")
    return found


@pytest.mark.parametrize(
    ("text", "data_dir", "spool"),
    [
        ("", "state", "state/spool.db"),  # as a release before wrote them
        ('[mqtt]\nca_file = "ca.pem"\n', "state", "state/spool.db"),
        ('[gateway]\ndata_dir = "keys"\n', "state/keys", "state/keys/spool.db"),
        ('[spool]\npath = "{tmp}/card/s.db"\n', "state", "card/s.db"),
    ],
)
def test_installed_settings_lead_to_the_same_files_from_everywhere(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, data_dir: str, spool: str
) -> None:
    installed.settings.write_text(text.format(tmp=tmp_path))
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        settings = load(installed.settings, installed=installed)
        assert settings.gateway.data_dir == tmp_path / data_dir
        assert settings.spool.path == tmp_path / spool
        assert settings.mqtt.ca_file in (None, installed.state / "ca.pem")


def test_installed_template_names_the_paths_of_its_unit(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(template("edge.toml"))
    settings = load(tmp_path / "edge.toml")
    assert (settings.gateway.data_dir, settings.spool.path) == (
        Path("/var/lib/iot-edge"),
        Path("/var/lib/iot-edge/spool.db"),
    )
    assert "Environment=IOT_EDGE" not in template("iot-edge.service")


def test_settings_elsewhere_keep_relative_paths(installed: Installation, tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text("")
    assert load(tmp_path / "bench.toml", installed=installed).gateway.data_dir == Path("var/iot-edge")
    assert load(None, installed=installed).gateway.data_dir == Path("var/iot-edge")


def test_credentials_of_the_installation_are_read_where_systemd_hands_none(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed.credentials / "mqtt.password").write_text("of root\n")
    assert load(installed.settings, installed=installed).mqtt.password == "of root"
    assert load(installed.settings, installed=installed, secrets=False).mqtt.password == ""
    (tmp_path / "bench.toml").write_text("")
    assert load(tmp_path / "bench.toml", installed=installed).mqtt.password == ""
    handed = tmp_path / "handed"
    handed.mkdir()
    (handed / "iot-edge_mqtt.password").write_text("of systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    assert load(installed.settings, installed=installed).mqtt.password == "of systemd"


def test_user_who_may_not_read_the_credentials_is_told_and_the_gateway_is_not(installed: Installation) -> None:
    """An empty folder is not named to the unit: its process finds one that it may not read."""
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    installed.state.mkdir()
    installed.credentials.chmod(0o700)
    for folder in (installed.settings.parent, *installed.settings.parents[1:-1]):
        folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(12_345)
    try:
        with pytest.raises(ConfigError, match="sudo iot-edge"):
            load(installed.settings, installed=installed)
        assert load(installed.settings, installed=installed, secrets=False).gateway.data_dir == installed.state
    finally:
        os.seteuid(0)
    os.chown(installed.state, 12_345, 12_345)
    os.seteuid(12_345)
    try:
        assert load(installed.settings, installed=installed).mqtt.password == ""
    finally:
        os.seteuid(0)
