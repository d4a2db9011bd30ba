"""A bad link between gateway and service: cut, delayed, stalled, half closed, refused, garbled, all the time."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.acceptance.field import Field, open_field
from tests.support.servers import MosquittoProcess, TcpProxy, until

pytestmark = pytest.mark.timeout(300)
CHAOS_S = float(os.environ.get("CHAOS_SECONDS", "180"))


def garbling(random: Random, share: float) -> Callable[[bytes], bytes]:
    """Changes one byte in a share of the pieces."""

    def garbled(data: bytes) -> bytes:
        if random.random() >= share:
            return data
        place = random.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]

    return garbled


async def break_link(proxy: TcpProxy, random: Random, until_s: float) -> None:
    """One fault after the other, most of them short, some of a few seconds."""
    clean = proxy.corrupt
    while time.monotonic() < until_s:
        lasts_s = random.expovariate(1 / 0.4)
        match random.choice(["cut", "half_close", "stall", "delay", "refuse", "garble", "calm"]):
            case "cut":
                proxy.cut()
            case "half_close":
                proxy.half_close()
            case "stall":
                proxy.stall()
            case "delay":
                proxy.delay_s = random.random() * 0.3
            case "refuse":
                proxy.refuse = True
                proxy.cut()
            case "garble":
                proxy.corrupt = garbling(random, 0.3)
        await asyncio.sleep(min(lasts_s, 3.0))
        proxy.resume()
        proxy.delay_s, proxy.refuse, proxy.corrupt = 0.0, False, clean


async def survive(field: Field, proxy: TcpProxy, seconds: float) -> None:
    async with field.sending():
        await break_link(proxy, Random(7), time.monotonic() + seconds)
    await field.arrived(120)
    for name in field.sensors:
        stored = field.stored(name)
        assert len(stored) == len(set(stored)), "a reading is there twice"
        assert set(stored) == field.acknowledged[name]
    assert field.service.rows("SELECT code, detail FROM quarantine") == []

    def equal() -> bool:
        """The gateway's books add up, and the service has what they say was handed over."""
        books = field.books()
        handed_over = books["stored"] + books["known"] + books["refused"]
        at_service = sum(len(field.stored(name)) for name in field.sensors)
        return handed_over == books["spooled"] + books["quarantined"] == at_service and books["refused"] == 0

    await until(equal, 30)
    assert field.service.imbalance() == []
    await until(lambda: field.service.core.pipeline.at_rest is not None, 30)
    assert await field.service.core.registry.ledger_imbalance(field.service.core.store.instance) == 0
    sys.stderr.write(f"{at_rest(field)}\n")


def at_rest(field: Field) -> str:
    sent = {name: len(numbers) for name, numbers in field.acknowledged.items()}
    return f"acknowledged {sent}, books {field.books()}"


async def through_chaos(database: str, mosquitto: MosquittoProcess, folder: Path, seconds: float) -> None:
    async with (
        open_field(database, mosquitto, folder, uplink__timeout_s="2", log__level="error") as field,
        TcpProxy(("127.0.0.1", field.service.port)) as proxy,
    ):
        field.gateway.stop()
        field.gateway.environment["IOT_EDGE_UPLINK__URL"] = f"http://127.0.0.1:{proxy.port}"
        await field.gateway.start()
        await survive(field, proxy, seconds)


async def test_gateway_over_a_bad_link(postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path) -> None:
    await through_chaos(postgres_url, mosquitto, tmp_path, 6)


@pytest.mark.soak
@pytest.mark.timeout(CHAOS_S + 300)
async def test_gateway_over_a_bad_link_for_long(postgres_url: str, mosquitto: MosquittoProcess, tmp_path: Path) -> None:
    await through_chaos(postgres_url, mosquitto, tmp_path, CHAOS_S)
