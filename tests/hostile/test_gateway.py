"""Whatever is sent to a gateway on its site: good devices beside it notice nothing, nor does its small memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from bridge.store.admin import connect
from tests.acceptance.gateway import GatewayProcess
from tests.acceptance.senders import register
from tests.acceptance.service import Service
from tests.hostile import invariants
from tests.hostile.attacked import GOOD_DEVICES, KEEP_ALIVE_S, TIMEOUT_S, AttackedService, Loot, device_id
from tests.hostile.campaign import WARMING, Campaign, Look
from tests.hostile.good import GoodSenders
from tests.support.servers import until

MOST_MIB = 16
SHARE = 0.03
KINDS = ("bodies", "heads", "bombs", "connections")
NAME = "north"


@asynccontextmanager
async def open_gateway(service: Service, folder: Path) -> AsyncIterator[tuple[AttackedService, GatewayProcess]]:
    """A gateway that knows the registry, with its HTTP door open, and the service behind it."""
    good, _ = register(service.database, GOOD_DEVICES, "good")
    (captured,), api_key = register(service.database, 1, "captured")
    with connect(service.database) as admin:
        code = str(admin.add_gateway(NAME, [], everything=True, code_minutes=60)["code"])
    service.start()
    gateway = GatewayProcess(
        folder,
        http__body_timeout_s=TIMEOUT_S,
        http__header_timeout_s=TIMEOUT_S,
        http__keep_alive_s=KEEP_ALIVE_S,
        mqtt__enabled="false",
    )
    await gateway.command("enrol", service.http, code)
    await gateway.start()
    try:
        await until(lambda: (gateway.data_dir / "registry.json").exists(), 30)
        loot = Loot(
            http_port=gateway.port,
            device=captured,
            device_id=device_id(service.database, captured),
            api_key=api_key,
            good=good[0],
            good_device_id=device_id(service.database, good[0]),
            of_gateway=True,
        )
        yield AttackedService(service, good, loot), gateway
    finally:
        gateway.stop()


async def emptied(gateway: GatewayProcess) -> bool:
    """Whether everything of its spool is handed over."""
    status = await gateway.command("status", expect=None)
    return bool(status.get("spool", {}).get("records") == 0)


@pytest.mark.timeout(300)
async def test_no_sender_on_a_site_hurts_another(
    make_service: Callable[..., Service], tmp_path: Path, seed: int
) -> None:
    service = make_service()
    async with open_gateway(service, tmp_path) as (site, gateway):
        good = GoodSenders(site.good, gateway.http)
        memory = invariants.ResidentMemory("the gateway", gateway, MOST_MIB)
        looks: list[Look] = [
            partial(invariants.alive, "the gateway", gateway, gateway.port, gateway.spawn),
            memory.breaches,
            invariants.Log(lambda: gateway.log).breaches,
        ]
        campaign = Campaign(site.loot, good, seed, SHARE, looks)
        async with good.sending():
            memory.begin()
            await campaign.run([WARMING])
            await asyncio.sleep(1)
            memory.begin()
            await campaign.run(KINDS)
        await until(partial(emptied, gateway), 60)
        campaign.breaches += await asyncio.to_thread(list, invariants.final(site, good, gateways=[NAME]))
        assert not campaign.breaches, campaign.report()
    service.stop()
