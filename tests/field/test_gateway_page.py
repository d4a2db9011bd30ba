"""The first page that an engineer reads, done as it is written, on a bare machine; then the life of that gateway.

The form for CI is Debian 12; make field does both releases, and pulls a hundred plugs.
"""

from __future__ import annotations

import shlex
import sys
import time

import pytest

from tests.field import packages
from tests.field.conftest import FieldSite, OpenField
from tests.field.machine import ENGINEER
from tests.field.page import commands
from tests.field.plugs import pull_plugs
from tests.support.servers import wait_until

HEARD_S = 60.0
MACHINE_S = 300.0
"""What the machine may take of an engineer's fifteen minutes."""
SUITES = ["bookworm", pytest.param("trixie", marks=pytest.mark.soak)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", SUITES)
def test_gateway_from_a_bare_machine_to_its_end(open_field: OpenField, suite: str) -> None:
    field = open_field(suite)
    page = commands("gateway.md")
    install_enrol_check(field, page)
    read_by_hand(field, page)
    ask_as_an_ordinary_user(field)
    take_http_devices_in(field, page)
    stop_the_process(field)
    field.machine.reboot()
    pull_plugs(field, 1, seed=1)
    upgrade_with_a_backlog(field)
    purge(field)


def say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def install_enrol_check(field: FieldSite, page: dict[str, str]) -> None:
    began_s = time.monotonic()
    field.machine.run("sudo apt-get update --quiet=2", user=ENGINEER)
    run(field, page["1. Install"])
    assert field.machine.await_running() == "running"
    installed_s = time.monotonic()
    with field.senders.sending("mqtt"):
        run(field, page["2. Enrol"], CODE=field.service.add_gateway("north"))
        # Where the device was not let in yet, the page says: once more.
        wait_until(lambda: "FAIL" not in run(field, page["3. Check"], expect=None), HEARD_S)
        wait_until(lambda: field.service.stored(field.device.sensors["mqtt"]), HEARD_S)
    # The device was let in by a reload of Mosquitto, on a system without the program that Debian's unit does it with.
    field.machine.run("test ! -e /bin/kill && systemctl reload mosquitto && ! systemctl is-failed --quiet 'iot-edge*'")
    took_s = time.monotonic() - began_s
    say(f"{field.debian.suite}: installed in {installed_s - began_s:.1f} s, first reading after {took_s:.1f} s")
    assert took_s < MACHINE_S


def read_by_hand(field: FieldSite, page: dict[str, str]) -> None:
    query = "SELECT count(*) FROM sensor_readings WHERE value = 21.5"
    device = field.device
    said = run(field, page["A reading by hand"], DEVICE=device.uuid, KEY=device.key, SENSOR=device.sensors["mqtt"])
    assert "devices      1 heard of 1" in said
    wait_until(lambda: field.service.rows(query) == [(1,)], HEARD_S)


def ask_as_an_ordinary_user(field: FieldSite) -> None:
    """Who may not read the settings' secrets is told so, and how to go on; nothing else is called wrong."""
    told = field.machine.run("iot-edge check", user=ENGINEER, expect=None).out
    assert "sudo iot-edge" in told
    assert "Traceback" not in told
    field.machine.run("cat /var/lib/iot-edge/enrolment.json", user=ENGINEER, expect=1)


def take_http_devices_in(field: FieldSite, page: dict[str, str]) -> None:
    run(field, page["Devices"])
    with field.senders.sending("http"):
        wait_until(lambda: len(field.service.stored(field.device.sensors["http"])) > 3, HEARD_S)


def stop_the_process(field: FieldSite) -> None:
    """A process that hangs is ended by systemd, whose watchdog is shortened here, and started again."""
    machine = field.machine
    machine.write("/etc/systemd/system/iot-edge.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    machine.run("systemctl daemon-reload && systemctl restart iot-edge")
    before = main_pid(field)
    machine.run(f"kill -STOP {before}")
    wait_until(lambda: main_pid(field) not in ("0", before), 30)
    assert "Watchdog timeout" in machine.journal("iot-edge.service")
    machine.run("rm -r /etc/systemd/system/iot-edge.service.d && systemctl daemon-reload")


def main_pid(field: FieldSite) -> str:
    return field.machine.run("systemctl show iot-edge --property=MainPID --value").out.strip()


def upgrade_with_a_backlog(field: FieldSite) -> None:
    """To the next release and back, while the uplink is away: settings, key and spool are kept, and nobody is asked."""
    machine = field.machine
    newer = packages.next_version(field.deb, machine.root / "home" / ENGINEER)
    kept = [machine.read("/etc/iot-edge/edge.toml"), machine.read("/var/lib/iot-edge/enrolment.json")]
    run(field, commands("packages.md")["Upgrade, back, and off"])  # dpkg asks nobody
    field.network.plug_cable(False)
    send_locally(field, 200, first=1)
    for deb in (newer, field.deb):
        said = machine.run(f"sudo apt-get install --yes --allow-downgrades ./{deb.name} </dev/null", user=ENGINEER).out
        assert "traceback" not in said.lower()
        version = machine.run("dpkg-query --show --showformat='${Version}' iot-edge").out
        assert version == packages.version_of(deb)
        assert machine.await_running() == "running"
        assert [machine.read("/etc/iot-edge/edge.toml"), machine.read("/var/lib/iot-edge/enrolment.json")] == kept
    send_locally(field, 10, first=201)
    field.network.plug_cable(True)
    query = "SELECT count(*), count(DISTINCT sequence) FROM sensor_readings WHERE value = 22.25"
    wait_until(lambda: field.service.rows(query) == [(210, 210)], 60)


def send_locally(field: FieldSite, count: int, first: int) -> None:
    """Readings over HTTP on the machine itself, each acknowledged."""
    device = field.device
    program = f"""
import json, time, urllib.request
for number in range({first}, {first + count}):
    reading = {{"sensor_uuid": "{device.sensors["http"]}", "value": 22.25, "sequence": number}}
    reading["sensor_ts"] = time.time()
    request = urllib.request.Request(
        "http://127.0.0.1:8080/devices/{device.uuid}/readings",
        json.dumps({{"readings": [reading]}}).encode(),
        {{"X-Device-Key": "{device.key}", "Content-Type": "application/json"}},
    )
    assert urllib.request.urlopen(request).status == 202
"""
    field.machine.run(f"python3 -c {shlex.quote(program)}")


def purge(field: FieldSite) -> None:
    """Nothing of ours is left, and Mosquitto runs on as Debian has it."""
    machine = field.machine
    machine.run("sudo apt-get purge --yes iot-edge", user=ENGINEER)
    left = machine.run("find / -xdev -name '*iot-edge*' -not -path '/home/*' -not -path '/etc/apt/*'").out.splitlines()
    assert left == []
    assert machine.await_running() == "running"
    assert machine.run("systemctl is-active mosquitto").out == "active\n"


def run(field: FieldSite, block: str, *, expect: int | None = 0, **variables: str) -> str:
    """What a block of the page prints, for an engineer whose shell has the variables."""
    given = "".join(f"{name}={shlex.quote(value)}; " for name, value in variables.items())
    return field.machine.run(f"set -e; {given}{block}", user=ENGINEER, expect=expect).out
