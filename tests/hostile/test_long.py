"""All of it, at full size: every value at every place, and what good devices notice of it in time. `make hostile`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.service import Service
from tests.hostile.attacked import open_attacked
from tests.hostile.attackers import KINDS
from tests.hostile.campaign import WARMING
from tests.hostile.test_service import Run

QUIET_S = 30.0
"""Before the attack: what the good senders' time is held against."""
P99_TIMES = 3


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_every_value_at_every_place(make_service: Callable[..., Service], tmp_path: Path, seed: int) -> None:
    with open_attacked(make_service, tmp_path) as (site, mosquitto):
        run = Run(site, mosquitto, seed, share=1)
        async with run.good.sending():
            await run.warm_up()
            warm = len(run.good.answers_s)
            await asyncio.sleep(QUIET_S)
            quiet_s, begin = run.good.p99_s(warm), len(run.good.answers_s)
            await run.campaign.run([kind for kind in KINDS if kind != WARMING])
            attacked_s = run.good.p99_s(begin)
        print(f"p99 of good devices: {quiet_s * 1e3:.1f} ms, attacked {attacked_s * 1e3:.1f} ms; grown: {run.grown()}")  # noqa: T201
        if attacked_s > P99_TIMES * quiet_s:
            run.campaign.breaches.append(f"p99 rises from {quiet_s * 1e3:.1f} to {attacked_s * 1e3:.1f} ms")
        await run.finish()
