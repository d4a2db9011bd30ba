"""A machine without keyboard and screen: a file on its boot partition enrols it, once the service can be reached."""

from __future__ import annotations

import pytest

from tests.field.conftest import OpenField
from tests.field.page import commands
from tests.field.test_gateway_page import run
from tests.support.servers import wait_until

FILE = "boot/firmware/iot-edge-enrol.toml"


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_gateway_is_enrolled_by_a_file_on_the_boot_partition(open_field: OpenField, suite: str) -> None:
    field = open_field(suite)
    machine = field.machine
    machine.run("apt-get update --quiet=2")
    run(field, commands("gateway.md")["1. Install"])
    code = field.service.add_gateway("north")
    machine.write(FILE, f'url = "https://iot.example.com"\ncode = "{code}"\n')
    field.network.plug_cable(False)
    machine.reboot()
    assert (machine.root / FILE).exists()
    field.network.plug_cable(True)
    wait_until(lambda: field.service.rows("SELECT enrolled_at IS NOT NULL FROM gateways") == [(True,)], 120)
    wait_until(lambda: not (machine.root / FILE).exists(), 60)
    with field.senders.sending("mqtt"):
        wait_until(lambda: field.service.stored(field.device.sensors["mqtt"]), 120)
