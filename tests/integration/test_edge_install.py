"""What install, upgrade and uninstall do with files that an engineer has changed, and where they refuse to run."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ConfigError
from edge.host import laid_files, program, system_user
from edge.host.broker_files import AdmittedDevices
from edge.host.install import install, make_user, refuse_moved_paths, template, uninstall
from edge.host.laid_files import Fate, LaidFile, LaidFiles, Rule
from tests.support import needs

COMMAND = Path("/opt/iot-edge/bin/iot-edge")
UNIT = Path("etc/systemd/system/iot-edge.service")
SETTINGS = Path("etc/iot-edge/edge.toml")
CONF = Path("etc/mosquitto/conf.d/iot-edge.conf")


def upgraded(root: Path, **more: Any) -> dict[Path, LaidFile]:
    laid = install(root, COMMAND, more.pop("access", AdmittedDevices.KEYS), overwrite=True, **more)
    return {each.path: each for each in laid}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a gateway, as this version installs it."""
    install(tmp_path, COMMAND, AdmittedDevices.KEYS)
    return tmp_path


def test_upgrade_brings_what_nobody_has_changed(root: Path) -> None:
    older = template("iot-edge.service").replace("Nice=-5\n", "")
    files = LaidFiles(root)
    files.lay(UNIT, older, Rule.UPGRADE)
    files.save()
    assert upgraded(root)[UNIT].fate is Fate.WRITTEN
    assert (root / UNIT).read_text() == template("iot-edge.service")
    assert {each.fate for each in upgraded(root).values()} == {Fate.SAME}


@pytest.mark.parametrize("path", [UNIT, SETTINGS, CONF])
def test_upgrade_leaves_what_was_changed_and_lays_its_own_beside(root: Path, path: Path) -> None:
    shipped = (root / path).read_text()
    files = LaidFiles(root)
    files.lay(path, shipped + "# of the release before\n", Rule.UPGRADE)
    files.save()
    edited = (root / path).read_text() + "# ours\n"
    (root / path).write_text(edited)
    found = upgraded(root)[path]
    assert (found.fate, found.written) == (Fate.EDITED, False)
    assert found.beside == path.with_name(f"{path.name}.new")
    assert "-# ours" in found.diff
    assert (root / path).read_text() == edited
    assert (root / found.beside).read_text() == shipped
    again = upgraded(root)[path]
    assert (again.fate, again.beside) == (Fate.EDITED, None), "told once; nothing new to take over"
    (root / path).write_text(shipped)
    assert upgraded(root)[path].fate is Fate.SAME
    assert not (root / found.beside).exists(), "taken over"


@pytest.mark.parametrize("access", AdmittedDevices)
def test_files_of_a_release_that_kept_no_record_are_known(tmp_path: Path, access: AdmittedDevices) -> None:
    """former_release/ has them, with another command than the one that upgrades."""
    names = {UNIT: "iot-edge.service", SETTINGS: "edge.toml"}
    names[CONF] = "mosquitto-keys.conf" if access is AdmittedDevices.KEYS else "mosquitto.conf"
    for path, name in names.items():
        text = Path(__file__).with_name("former_release").joinpath(name).read_text()
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text.replace(str(COMMAND), "/srv/gateway/bin/iot-edge"))
    found = upgraded(tmp_path, access=access)
    assert [found[path].fate for path in names if path != CONF] == [Fate.WRITTEN, Fate.WRITTEN]
    assert found[CONF].fate in (Fate.WRITTEN, Fate.SAME)


def test_settings_of_a_release_before_that_were_changed_stay(tmp_path: Path) -> None:
    edited = Path(__file__).with_name("former_release").joinpath("edge.toml").read_text() + "[log]\nlevel = 'debug'\n"
    (tmp_path / SETTINGS).parent.mkdir(parents=True)
    (tmp_path / SETTINGS).write_text(edited)
    found = upgraded(tmp_path)[SETTINGS]
    assert (found.fate, (tmp_path / SETTINGS).read_text()) == (Fate.EDITED, edited)
    assert any('data_dir = "/var/lib/iot-edge"' in line for line in found.diff)


def test_paths_that_the_unit_before_overrode_stop_an_upgrade(tmp_path: Path) -> None:
    unit, settings = tmp_path / UNIT, tmp_path / SETTINGS
    for path in (unit, settings):
        path.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text("[Service]\nEnvironment=IOT_EDGE_GATEWAY__DATA_DIR=/var/lib/iot-edge\n")
    settings.write_text('[gateway]\ndata_dir = "/var/lib/iot-edge"\n[spool]\npath = "/var/lib/iot-edge/spool.db"\n')
    refuse_moved_paths(tmp_path)
    settings.write_text('[gateway]\ndata_dir = "var/iot-edge"\n')
    with pytest.raises(ConfigError) as caught:
        refuse_moved_paths(tmp_path)
    assert "gateway.data_dir did not count" in caught.value.detail
    unit.write_text(template("iot-edge.service"))
    refuse_moved_paths(tmp_path)


def test_switch_of_who_may_connect_keeps_what_was_changed(root: Path) -> None:
    (root / CONF).write_text((root / CONF).read_text() + "# ours\n")
    found = {each.path: each for each in install(root, COMMAND, AdmittedDevices.ANYBODY)}
    assert found[CONF].fate is Fate.REPLACED
    beside = found[CONF].beside
    assert beside is not None
    assert (root / beside).read_text().endswith("# ours\n")
    assert "allow_anonymous true" in (root / CONF).read_text()
    assert "127.0.0.1:1883" in (root / SETTINGS).read_text(), "nobody has changed it: it goes with the broker's"


def test_record_is_what_sha256sum_checks(root: Path) -> None:
    record = root / laid_files.RECORD
    record.write_text(re.sub(r"  /", f"  {root}/", record.read_text()))
    command = ["sha256sum", "--check", "--quiet", str(record)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    (root / SETTINGS).write_text("# ours\n")
    done = subprocess.run(command, capture_output=True, text=True)
    assert "edge.toml: FAILED" in done.stdout


def test_files_can_be_read_by_all_whatever_umask_root_has(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        install(tmp_path, COMMAND, AdmittedDevices.KEYS)
    finally:
        os.umask(before)
    for path in (SETTINGS, UNIT, CONF):
        for each in (path, *path.parents[:-1]):
            mode = stat.S_IMODE((tmp_path / each).stat().st_mode)
            assert mode & 0o044 == 0o044, f"{each}: {mode:o}"
    assert stat.S_IMODE((tmp_path / "etc/iot-edge/credentials").stat().st_mode) == 0o700


def test_uninstall_keeps_what_was_changed(root: Path) -> None:
    (root / CONF).write_text("# ours\n")
    gone = {each.path: each for each in uninstall(root)}
    assert not (root / CONF).exists()
    beside = gone[CONF].beside
    assert beside is not None
    assert (root / beside).read_text() == "# ours\n"
    assert gone[UNIT].beside is None
    assert (root / SETTINGS).exists()
    assert uninstall(root) == []


# -- the user


def test_user_is_made_below_a_root_once(tmp_path: Path) -> None:
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    assert make_user(tmp_path) == []
    assert system_user.exists(tmp_path)
    line = (tmp_path / "etc/passwd").read_text()
    assert re.search(r"^iot-edge:x:\d+:\d+:IoT gateway:/var/lib/iot-edge:/usr/sbin/nologin$", line, re.MULTILINE)
    assert make_user(tmp_path) == []
    assert (tmp_path / "etc/passwd").read_text() == line
    assert system_user.owner(tmp_path) is not None


def test_state_of_a_dynamic_user_is_brought_back_and_given_to_the_user(tmp_path: Path) -> None:
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    private, state = tmp_path / "var/lib/private/iot-edge", tmp_path / "var/lib/iot-edge"
    private.mkdir(parents=True)
    for name in ("enrolment.json", "spool.db"):
        (private / name).write_text(name)
        os.chown(private / name, 65_534, 65_534)  # as systemd 257 leaves them
    outside = tmp_path / "outside"
    outside.write_text("")
    (private / "link").symlink_to(outside)
    os.chown(private, 65_534, 65_534)
    state.symlink_to("private/iot-edge")
    for _ in range(2):
        assert make_user(tmp_path) == []
        owner = system_user.owner(tmp_path)
        assert not state.is_symlink()
        assert not private.exists()
        for path in (state, *state.iterdir()):
            found = path.lstat()
            assert (found.st_uid, found.st_gid) == owner, path
    assert (state / "spool.db").read_text() == "spool.db"
    assert outside.stat().st_uid == 0, "no link is followed"


def test_state_of_a_dynamic_user_is_found_where_the_power_went_while_it_was_moved(tmp_path: Path) -> None:
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    private = tmp_path / "var/lib/private/iot-edge"
    private.mkdir(parents=True)
    (private / "spool.db").write_text("readings")
    assert make_user(tmp_path) == []
    assert (tmp_path / "var/lib/iot-edge/spool.db").read_text() == "readings"


def test_user_that_nobody_here_can_make_is_left_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_user(tmp_path) == ["systemd-sysusers iot-edge.conf"]
    assert not system_user.exists(tmp_path)


# -- where the command stands


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The interpreter of an environment with the command."""
    folder = tmp_path / "opt" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to("/bin/sh")
    (folder / "iot-edge").write_text(f"#!{folder}/python\n")
    return folder / "python"


def test_command_of_an_environment_is_beside_its_interpreter(environment: Path, tmp_path: Path) -> None:
    assert program.command_of(environment, tmp_path) == environment.with_name("iot-edge")


@pytest.mark.parametrize("home", ["/home/pi/venv/bin", "/root/.local/share/pipx/venvs/iot-edge-bridge/bin"])
def test_command_in_a_home_is_refused_also_behind_a_link(tmp_path: Path, home: str) -> None:
    with pytest.raises(ConfigError, match="home folder"):
        program.command_of(Path(home) / "python", tmp_path)
    (tmp_path / "bin").symlink_to(home)
    with pytest.raises(ConfigError, match="home folder"):
        program.command_of(tmp_path / "bin" / "python", tmp_path)


def test_interpreter_in_a_home_is_refused(environment: Path, tmp_path: Path) -> None:
    environment.unlink()
    environment.symlink_to("/root/.pyenv/versions/3.11/bin/python3.11")
    with pytest.raises(ConfigError, match="home folder"):
        program.command_of(environment, tmp_path)


def test_environment_that_was_moved_is_refused(environment: Path, tmp_path: Path) -> None:
    environment.with_name("iot-edge").write_text("#!/opt/before/bin/python\n")
    with pytest.raises(ConfigError, match="was the environment moved"):
        program.command_of(environment, tmp_path)
    environment.with_name("iot-edge").unlink()
    with pytest.raises(ConfigError, match="install the package"):
        program.command_of(environment, tmp_path)


def test_command_that_the_gateways_user_cannot_read_is_refused(environment: Path) -> None:
    with pytest.raises(ConfigError, match="temporary files"):
        program.command_of(environment, Path("/"))


def test_gateway_of_the_package_is_left_to_apt(tmp_path: Path) -> None:
    module = Path("/opt/iot-edge/lib/python3.11/site-packages/edge/cli/install.py")
    program.refuse_beside_package(tmp_path, module)
    with pytest.raises(ConfigError, match="apt-get"):
        program.refuse_beside_package(tmp_path, Path("/usr/lib/iot-edge/edge/cli/install.py"))
    (tmp_path / "usr/lib/iot-edge").mkdir(parents=True)
    with pytest.raises(ConfigError, match="apt-get"):
        program.refuse_beside_package(tmp_path, module)


def test_packaged_gateway_gets_mosquittos_files_alone(tmp_path: Path) -> None:
    laid = install(tmp_path, None, AdmittedDevices.ANYBODY)
    assert {each.path.parts[1] for each in laid} == {"mosquitto"}
    assert not (tmp_path / UNIT).exists()
