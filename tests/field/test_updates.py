"""Updates come by themselves, from the signed repository of a site; settings that were changed stay, and the key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.field import packages
from tests.field.conftest import FieldSite, OpenField
from tests.field.debian import PROJECT
from tests.field.machine import ENGINEER
from tests.field.page import commands
from tests.field.test_gateway_page import run
from tests.support.servers import wait_until

KEY = "packages@example.com"
URL = "http://packages.example.com/iot"


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_gateway_is_updated_by_unattended_upgrades(
    open_field: OpenField, suite: str, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = open_field(suite)
    machine = field.machine
    home = short_dir / "gnupg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    gpg("--passphrase", "", "--quick-generate-key", KEY, "ed25519", "sign", "never")
    publish(field, field.deb.parent)
    machine.run("rm -f /home/engineer/*.deb; apt-get update --quiet=2")

    page = commands("gateway-operations.md")["Updates"]
    run(field, page, REPOSITORY=URL)
    machine.run("sudo apt-get install --yes iot-edge mosquitto", user=ENGINEER)
    run(field, commands("gateway.md")["2. Enrol"], CODE=field.service.add_gateway("north"))
    machine.run("sed -i 's/^max_bytes = .*/max_bytes = 1_000_000_000/' /etc/iot-edge/edge.toml")
    kept = [machine.read("/etc/iot-edge/edge.toml"), machine.read("/var/lib/iot-edge/enrolment.json")]

    newer = short_dir / "newer"
    newer.mkdir()
    deb = packages.next_version(field.deb, newer)
    publish(field, newer)
    # What the timers of apt start each day.
    machine.run("systemctl start apt-daily.service && systemctl start apt-daily-upgrade.service")
    version = machine.run("dpkg-query --show --showformat='${Version}' iot-edge").out
    assert version == packages.version_of(deb), machine.read("/var/log/unattended-upgrades/unattended-upgrades.log")
    assert [machine.read("/etc/iot-edge/edge.toml"), machine.read("/var/lib/iot-edge/enrolment.json")] == kept
    assert machine.await_running() == "running"
    shown = packages.version_of(deb).partition("-")[0]
    query = "SELECT count(*) FROM gateways WHERE version = %s"
    wait_until(lambda: field.service.rows(query, shown) == [(1,)], 90)
    subprocess.run(["gpgconf", "--kill", "all"], check=False)


def publish(field: FieldSite, folder: Path) -> None:
    """What `make apt-repo` does, for the packages of a folder."""
    command = [sys.executable, "-m", "packages", "apt-repo", "--key", KEY, "--url", URL]
    done = subprocess.run(
        [*command, "--debs", str(folder), "--out", str(field.web / "iot")],
        cwd=PROJECT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def gpg(*arguments: str) -> None:
    subprocess.run(["gpg", "--batch", *arguments], check=True, capture_output=True)
