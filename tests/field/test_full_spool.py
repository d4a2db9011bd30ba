"""An upgrade of a gateway whose spool is full: readings are shed, and none goes without being counted."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from tests.field import packages
from tests.field.conftest import FieldSite, OpenField
from tests.field.machine import ENGINEER
from tests.field.page import commands
from tests.field.test_gateway_page import install_enrol_check, run, take_http_devices_in
from tests.support.servers import wait_until

MAX_BYTES = 16 * 1024 * 1024
"""The smallest spool that the settings allow."""
WAIT_S = 240.0
MOST = 1_000
"""Requests with a batch each, until the spool sheds."""
FIRST = 1_000_000
"""The number of the first reading: above all that the devices of the site have sent."""
FILL = """
import json, sys, time, urllib.request

def call(url, *more):
    return urllib.request.urlopen(urllib.request.Request(url, *more))

shed = lambda: json.load(call("http://127.0.0.1:8080/status.json"))["spool"]["shed"]["total"]
before, number = shed(), {first}
for _ in range({most}):
    readings = [
        {{"sensor_uuid": "{sensor}", "value": 22.25, "sequence": number + each, "sensor_ts": time.time()}}
        for each in range(200)
    ]
    body = json.dumps({{"readings": readings}}).encode()
    headers = {{"X-Device-Key": "{key}", "Content-Type": "application/json"}}
    assert call("http://127.0.0.1:8080/devices/{device}/readings", body, headers).status == 202
    number += len(readings)
    if shed() > before:
        break
else:
    sys.exit("the spool never sheds")
print(number)
"""


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_upgrade_with_a_full_spool_loses_what_is_said_to_be_shed(open_field: OpenField, suite: str) -> None:
    field = open_field(suite)
    machine = field.machine
    page = commands("gateway.md")
    install_enrol_check(field, page)
    take_http_devices_in(field, page)
    wait_until(lambda: spool(field).get("records") == 0, WAIT_S)
    newer = packages.next_version(field.deb, machine.root / "home" / ENGINEER)
    settings = re.sub(r"(?m)^max_bytes = .*", f"max_bytes = {MAX_BYTES}", machine.read("/etc/iot-edge/edge.toml"))
    machine.write("/etc/iot-edge/edge.toml", f"{settings}\n[limits]\nsensor_per_minute = 10_000_000\n")
    machine.run("systemctl restart iot-edge")
    kept = [machine.read("/etc/iot-edge/edge.toml"), machine.read("/var/lib/iot-edge/enrolment.json")]
    run(field, commands("packages.md")["Upgrade, back, and off"])  # dpkg asks nobody
    field.network.plug_cable(False)
    number = fill(field, FIRST)
    machine.run(f"sudo apt-get install --yes ./{newer.name} </dev/null", user=ENGINEER)
    assert machine.await_running() == "running"
    wait_until(lambda: spool(field).get("shed", {}).get("total"), WAIT_S)
    end = fill(field, number)
    assert [machine.read("/etc/iot-edge/edge.toml"), machine.read("/var/lib/iot-edge/enrolment.json")] == kept
    field.network.plug_cable(True)
    wait_until(lambda: spool(field).get("records") == 0, WAIT_S)
    stored = [each for each in field.service.stored(field.device.sensors["http"]) if each is not None and each >= FIRST]
    assert len(stored) == len(set(stored))
    assert 0 < end - FIRST - len(stored) <= spool(field)["shed"]["total"], "missing, and not counted as shed"


def fill(field: FieldSite, first: int) -> int:
    """Hand readings over until one more is shed than were; the number of the next."""
    device = field.device
    program = FILL.format(first=first, most=MOST, sensor=device.sensors["http"], key=device.key, device=device.uuid)
    return int(field.machine.run(f"python3 -c {shlex.quote(program)}", timeout_s=WAIT_S).out)


def spool(field: FieldSite) -> dict[str, Any]:
    """What the gateway says of it; nothing while it is being started."""
    said = field.machine.run("iot-edge status --json 2>/dev/null", expect=None).out
    try:
        found: dict[str, Any] = json.loads(said).get("spool", {})
    except ValueError:
        return {}
    return found
