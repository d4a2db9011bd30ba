"""The plug-pull suite at full size: the installed package in a system that boots, its plug pulled a hundred times."""

from __future__ import annotations

import pytest

from tests.field.conftest import OpenField
from tests.field.page import commands
from tests.field.plugs import pull_plugs
from tests.field.test_gateway_page import install_enrol_check, take_http_devices_in

KILLS = 100


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_gateway_whose_plug_is_pulled_a_hundred_times(open_field: OpenField, suite: str) -> None:
    field = open_field(suite)
    page = commands("gateway.md")
    install_enrol_check(field, page)
    take_http_devices_in(field, page)
    pull_plugs(field, KILLS, seed=2)
