"""A site for each test: a machine, the service, the repositories, and a device with a sensor for each door."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from tests.field.debian import Debian, copied, prepare
from tests.field.devices import Senders
from tests.field.machine import ENGINEER, Machine
from tests.field.namespaces import SiteNetwork
from tests.field.site import Device, SiteService, open_site, tls_proxy, web_server
from tests.support import debs
from tests.support.certificates import Authority
from tests.support.servers import PostgresServer


class FieldSite(NamedTuple):
    """Everything that a test of the field needs."""

    debian: Debian
    network: SiteNetwork
    machine: Machine
    service: SiteService
    device: Device
    senders: Senders
    deb: Path
    web: Path
    """What http://packages.example.com serves."""


class OpenField(Protocol):
    def __call__(self, suite: str) -> FieldSite: ...


@pytest.fixture
def open_field(postgres_server: PostgresServer, short_dir: Path) -> Iterator[OpenField]:
    """Sites that end with the test, whatever has become of them."""
    with ExitStack() as stack:

        def opened(suite: str) -> FieldSite:
            return stack.enter_context(_field(suite, postgres_server, short_dir))

        yield opened


@contextmanager
def _field(suite: str, postgres: PostgresServer, folder: Path) -> Iterator[FieldSite]:
    debian = prepare(suite)
    deb = debs.built(suite)
    web = folder / "web"
    web.mkdir()
    (web / "debian").symlink_to(debian.archive)
    servers = folder / "servers"
    servers.mkdir()
    with (
        SiteNetwork() as network,
        copied(debian) as root,
        open_site(postgres, servers) as service,
        web_server(network, web),
        tls_proxy(network, service.service.port, authority := Authority(folder)),
    ):
        machine = Machine(root, network)
        shutil.copy(authority.certificate, root / "usr/local/share/ca-certificates/site.crt")
        shutil.copy(deb, root / "home" / ENGINEER)
        device = service.add_device("shed", "mqtt", "http")
        try:
            machine.boot()
            # Who runs the service tells which authority its certificate is of; here it is none of the public ones.
            machine.run("update-ca-certificates")
            yield FieldSite(debian, network, machine, service, device, Senders(network, device), deb, web)
        finally:
            machine.pull_plug()
