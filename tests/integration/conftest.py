"""Fixtures of gateways: one as its service sees it, and what an uplink needs around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge.service_api.transport import Transport
from tests.support.enrolled_gateway import EnrolledGateway, enrolled_gateway
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
