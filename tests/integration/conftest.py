"""Fixtures of gateways, as a service sees one and around an uplink; and of a database that a module shares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.service_api.transport import Transport
from tests.support.enrolled_gateway import EnrolledGateway, enrolled_gateway
from tests.support.plant import Connection, connect
from tests.support.servers import PostgresServer
from tests.support.uplink_bench import Bench, NewBench


@pytest.fixture
async def site(postgres_url: str) -> AsyncIterator[EnrolledGateway]:
    """A gateway with its service."""
    async with enrolled_gateway(postgres_url) as made:
        yield made


@pytest.fixture
async def new_bench(tmp_path: Path) -> AsyncIterator[NewBench]:
    """Makes benches whose spools stand in the test's folder, and closes them."""
    made: list[Bench] = []

    def make(transport: Transport, **settings: Any) -> Bench:
        made.append(Bench(tmp_path, transport, **settings))
        return made[-1]

    yield make
    for bench in made:
        await bench.spool.close()


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """One database for all tests of a module: each has a device of its own."""
    postgres_server.start()
    name = postgres_server.create_migrated()
    yield postgres_server.url_of(name)
    postgres_server.drop_database(name)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """A connection with it, for `Plant`."""
    with connect(database) as connection:
        yield connection
