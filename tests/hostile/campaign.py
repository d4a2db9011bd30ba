"""Runs attacks one after the other beside the good senders, and looks at the invariants after each.

Everything random comes from SEED, which is printed. KINDS="bombs packets" runs these attacks alone, ONLY=<part of a
name> sends nothing but inputs with that in their name: with all three, a breach is narrowed down to its input.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from tests.hostile.attacked import Loot
from tests.hostile.attackers import Outcome, Plan, attack
from tests.hostile.good import GoodSenders
from tests.hostile.invariants import said

MANY = 10
WARMING = "good"
"""The attack that is none: everything as it should be."""

Look = Callable[[], Iterator[str]]


class Campaign:
    """Attacks on one process. `looks` are what is looked at after each."""

    def __init__(self, loot: Loot, good: GoodSenders, seed: int, share: float, looks: Sequence[Look]) -> None:
        self.breaches: list[str] = []
        self.figures: dict[str, Any] = {}
        self._loot = loot
        self._good = good
        self._seed = seed
        self._share = share
        self._looks = looks
        self._complaints = 0

    async def run(self, kinds: Sequence[str]) -> None:
        """Run these kinds of attacks, or those of them that KINDS names."""
        wanted = os.environ.get("KINDS", " ".join(kinds)).split()
        with _pool() as pool:
            for kind in [kind for kind in kinds if kind in wanted or kind == WARMING]:
                started_s, answers = time.monotonic(), len(self._good.answers_s)
                plan = Plan(kind, self._seed, self._share, os.environ.get("ONLY", ""))
                loop = asyncio.get_running_loop()
                outcomes = await loop.run_in_executor(pool, attack, plan, self._loot)
                self.figures[kind] = dict(sorted(Counter(outcome.status for outcome in outcomes).items()))
                await self.look(kind, outcomes)
                told = f"{time.monotonic() - started_s:5.1f} s  {kind}: {self.figures[kind]}"
                print(f"{told}; good devices' p99 {self._good.p99_s(answers) * 1e3:.0f} ms")  # noqa: T201

    async def look(self, after: str, outcomes: Sequence[Outcome] = ()) -> None:
        """Note what is broken by now and was not before."""
        found = [f"{outcome.name}: {outcome.status} {outcome.wrong}" for outcome in outcomes if outcome.wrong]
        if len(found) > MANY:
            found = [*found[:MANY], f"and {len(found) - MANY} more answers that are wrong"]
        found += self._good.complaints[self._complaints :][:MANY]
        self._complaints = len(self._good.complaints)
        for look in self._looks:
            found += await asyncio.to_thread(said, look)
        if any("is gone" in line for line in found):
            first = next((number for number, each in enumerate(outcomes) if not each.status), len(outcomes))
            found += [f"sent about then: {each.name}" for each in outcomes[max(0, first - MANY) : first + MANY]]
        fresh = [f"{after}: {line}" for line in found if not any(line in known for known in self.breaches)]
        self.breaches += fresh
        print("\n".join(fresh))  # noqa: T201 - what is known before the end, with -s

    def report(self) -> str:
        """For the message of the failed test."""
        lines = [f"SEED={self._seed}; of each kind, answers by status (0: none): {self.figures}", *self.breaches]
        return "\n".join(lines)


@contextmanager
def _pool() -> Iterator[ProcessPoolExecutor]:
    """One process, which starts anew: attackers share nothing with the good senders."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool
