"""What iot-edge's commands do about Mosquitto's other files, and about who its files belong to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge import cli
from edge.host import broker_files, install
from edge.host.broker_files import AdmittedDevices
from tests.support import needs
from tests.support.commands import _logging_restored
from tests.support.debian_broker import MAIN, debian_mosquitto

ENGINEERS = "password_file /etc/mosquitto/passwords\n"


class Commands:
    """Runs iot-edge in this process, as of an environment in no home folder."""

    def __init__(self, environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        (environment / "bin").mkdir(parents=True)
        (environment / "bin/iot-edge").write_text("#!/bin/sh\n")
        monkeypatch.setattr(sys, "executable", str(environment / "bin/python"))

    def run(self, *arguments: str, expect: int = 0) -> str:
        """All that it prints."""
        self._monkeypatch.setattr(sys, "argv", ["iot-edge", *arguments])
        code = 0
        with _logging_restored():
            try:
                cli.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        printed = self._capsys.readouterr()
        assert code == expect, printed
        return printed.out + printed.err

    def json(self, *arguments: str) -> Any:
        return msgspec.json.decode(self.run(*arguments, "--json"))


@pytest.fixture
def commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path / "environment", capsys, monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A Debian with its Mosquitto, whose user and group are 103 and 110 there."""
    root = tmp_path / "root"
    (root / broker_files.CONF.parent).mkdir(parents=True)
    (root / MAIN).write_text(debian_mosquitto().main)
    (root / "etc/passwd").write_text("mosquitto:x:103:110::/var/lib/mosquitto:/usr/sbin/nologin\n")
    (root / "etc/group").write_text("mosquitto:x:110:\n")
    return root


def test_install_writes_nothing_where_mosquitto_would_not_start(commands: Commands, root: Path) -> None:
    own = root / "etc/mosquitto/conf.d/workshop.conf"
    own.write_text(ENGINEERS)
    said = commands.run("install", "--root", str(root), expect=2)
    assert (
        "/etc/mosquitto/conf.d/workshop.conf:1: password_file /etc/mosquitto/passwords: password_file may stand" in said
    )
    assert "iot-edge install --no-mosquitto" in said
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == sorted(
        ["group", "mosquitto.conf", "passwd", "workshop.conf"]
    )
    commands.run("install", "--root", str(root), "--no-mosquitto")
    assert not (root / broker_files.CONF).exists()
    own.unlink()
    commands.run("install", "--root", str(root))
    assert (root / broker_files.CONF).exists()


def test_what_mosquitto_goes_on_with_is_noted(commands: Commands, root: Path) -> None:
    (root / "etc/mosquitto/conf.d/z.conf").write_text("allow_anonymous true\n")
    assert "z.conf:1: allow_anonymous true: lets anybody connect" in commands.run("install", "--root", str(root))


def test_before_start_tells_what_keeps_mosquitto_from_starting(commands: Commands, root: Path) -> None:
    commands.run("install", "--root", str(root))
    start = ("broker-passwords", "--before-start", "--root", str(root))
    assert commands.json(*start) == {"conflicts": []}
    (root / "etc/mosquitto/conf.d/workshop.conf").write_text(ENGINEERS)
    assert "workshop.conf:1: password_file" in commands.run(*start, expect=1)


def owned_by(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o777


def test_files_are_mosquittos_own_also_where_it_came_after_us(root: Path) -> None:
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    users = (root / "etc/passwd").rename(root / "etc/passwd.later")
    install.install(root, Path("/opt/iot-edge/bin/iot-edge"), AdmittedDevices.KEYS)
    files = [root / broker_files.PASSWORDS, root / broker_files.ACL]
    assert {path.stat().st_uid for path in files} == {0}
    users.rename(root / "etc/passwd")
    files[0].unlink()  # as after a purge of it, or a first start before anything
    assert broker_files.prepare(root) == []
    assert [owned_by(path) for path in files] == [(103, 110, 0o600)] * 2
    written = root / broker_files.WRITTEN_BY_GATEWAY
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_bytes(files[0].read_bytes())
    broker_files.take_over_passwords(root)
    assert owned_by(files[0]) == (103, 110, 0o600)


def test_machine_without_mosquitto_gets_its_files_and_no_error(commands: Commands, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    assert commands.json("install", "--root", str(bare))["devices"] == "keys"
    assert commands.json("broker-passwords", "--before-start", "--root", str(bare)) == {"conflicts": []}
    drop_in = (bare / "etc/systemd/system/mosquitto.service.d/iot-edge.conf").read_text()
    assert "iot-edge broker-passwords --before-start" in drop_in
    assert "\nExecReload=\nExecReload=/bin/sh " in drop_in, "/bin/kill of Debian's unit is not on every system"
    commands.run("uninstall", "--root", str(bare))
    assert not (bare / install.BROKER_DROP_IN).exists()
    assert broker_files.prepare(bare) == []
