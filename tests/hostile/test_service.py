"""Whatever is sent to a service: 99 good devices beside it notice nothing; its memory, log and ledger stay in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.service import Service
from tests.hostile import invariants
from tests.hostile.attacked import AttackedService, Mosquitto, open_attacked
from tests.hostile.attackers import KINDS
from tests.hostile.campaign import WARMING, Campaign, Look
from tests.hostile.good import Broker, GoodSenders

MOST_MIB = 64
WARM_UP_S = 3.0
SHARE = 0.03
"""Of the values at each place, in the short run: one or two, others with each seed."""
P99_TIMES = 3


class Run:
    """A site under attack: the good senders, and what is looked at."""

    def __init__(self, site: AttackedService, mosquitto: Mosquitto, seed: int, share: float) -> None:
        self.good = GoodSenders(site.good, site.service.http, Broker(mosquitto.tls_port, mosquitto.ca_file))
        self.memories = [
            invariants.ResidentMemory("the service", site.service, MOST_MIB),
            invariants.ResidentMemory("Mosquitto", mosquitto, MOST_MIB),
        ]
        looks: list[Look] = [
            partial(invariants.alive, "the service", site.service, site.service.port, site.service.start),
            partial(invariants.alive, "Mosquitto", mosquitto, mosquitto.port, mosquitto.start),
            *(memory.breaches for memory in self.memories),
            invariants.Log(lambda: site.service.log).breaches,
            partial(invariants.ledger, site),
        ]
        self.campaign = Campaign(site.loot, self.good, seed, share, looks)
        self._site = site

    async def warm_up(self) -> None:
        """Everything as it should be, once: what has been used is in memory, and what is good is taken."""
        for memory in self.memories:
            memory.begin()
        await self.campaign.run([WARMING])
        await asyncio.sleep(WARM_UP_S)
        for memory in self.memories:
            memory.begin()

    def grown(self) -> str:
        """By how much each process was larger than before, at its peak."""
        return ", ".join(f"{memory.name} {memory.worst_mib:.0f} MiB" for memory in self.memories)

    async def finish(self) -> None:
        """Raises AssertionError with every breach."""
        self.campaign.breaches += await asyncio.to_thread(list, invariants.final(self._site, self.good))
        assert not self.campaign.breaches, self.campaign.report()


@pytest.mark.timeout(300)
async def test_no_sender_hurts_another(make_service: Callable[..., Service], tmp_path: Path, seed: int) -> None:
    with open_attacked(make_service, tmp_path) as (site, mosquitto):
        run = Run(site, mosquitto, seed, SHARE)
        async with run.good.sending():
            await run.warm_up()
            await run.campaign.run([kind for kind in KINDS if kind != WARMING])
        print(f"grown: {run.grown()}")  # noqa: T201
        await run.finish()
