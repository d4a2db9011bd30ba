"""The service is killed at random moments, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

import pytest

from tests.acceptance.proof import prove
from tests.acceptance.senders import Load, figures, register
from tests.acceptance.service import Service
from tests.support.servers import MosquittoProcess, until


class Size(NamedTuple):
    devices: int
    readings: int
    rate_per_s: float
    kills: int


async def kill_under_load(service: Service, port: int, size: Size, seed: int) -> dict[str, object]:
    """Kill and start again while readings fall due; the moments are drawn over the whole of the load."""
    devices, api_key = await asyncio.to_thread(register, service.database, size.devices, "kill")
    await asyncio.to_thread(service.start)
    load = Load(
        devices,
        api_key,
        http=[service.http],
        mqtt_port=port,
        rate_per_s=size.rate_per_s,
        seed=seed,
        readings=size.readings,
    )
    random = Random(seed)
    running = asyncio.create_task(load.run())
    for kill in range(size.kills):
        moment = (kill + random.random()) / size.kills * size.readings * 0.95
        await until(partial(_has_come, load, moment), 600)
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)
    async with asyncio.timeout(300):
        await running
    found = figures(load.books) | await prove(load.books, service)
    assert service.stop() == 0
    assert "Traceback" not in service.log
    return found


def _has_come(load: Load, moment: float) -> bool:
    return load.due >= moment


async def test_nothing_is_lost_when_the_service_is_killed(
    make_service: Callable[..., Service], mosquitto: MosquittoProcess, seed: int
) -> None:
    service = make_service(mqtt=mosquitto.url)
    found = await kill_under_load(service, mosquitto.port, Size(20, 6_000, 800, kills=3), seed)
    assert found["stored"] == 6_000


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_nothing_is_lost_in_200_000_readings_and_ten_kills(
    make_service: Callable[..., Service], mosquitto: MosquittoProcess, seed: int
) -> None:
    service = make_service(mqtt=mosquitto.url)
    found = await kill_under_load(service, mosquitto.port, Size(500, 200_000, 1_500, kills=10), seed)
    print(found)  # noqa: T201 - the report of make soak
    assert found["stored"] == 200_000
