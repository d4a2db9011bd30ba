"""A process that spools, killed at random moments: everything it acknowledged is there, exactly once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from edge.record import LedgerTotals, Record
from tests.support.spool_site import imbalance, make_spool, read_all, reading
from tests.support.spool_writer import SENSORS

OPEN_S = 60.0


def run_and_kill(folder: Path, first: int, after_s: float) -> list[str]:
    """What the writer said until it was killed, `after_s` after it was open."""
    output = folder / "said"
    with output.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.spool_writer", str(folder), str(first)],
            stdout=said,
            cwd=Path(__file__).parents[2],
        )
        try:
            deadline = time.monotonic() + OPEN_S
            while not output.read_bytes().startswith(b"open\n"):
                assert process.poll() is None, "the writer ended by itself"
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(after_s)
        finally:
            process.kill()
            process.wait()
    return output.read_text().splitlines()


async def kill_and_look(folder: Path, rounds: int, seed: int) -> None:
    random = Random(seed)
    acknowledged: set[int] = set()
    taken: set[str] = set()
    first = 0
    for _ in range(rounds):
        for line in run_and_kill(folder, first, random.uniform(0.0, 0.4)):
            kind, *rest = line.split()
            if kind == "acknowledged":
                acknowledged.add(int(rest[0]))
            elif kind == "taken":
                taken.add(rest[1])
        first = max(acknowledged, default=0) + 1_000
        spool = make_spool(folder)
        await spool.open()
        records = await read_all(spool)
        check(records, acknowledged, taken)
        assert not imbalance_but_the_doors(await spool.totals(), len(records))
        assert spool.backlog().depth == len(records)
        await spool.close()
    assert len(acknowledged) > 10 * rounds


def check(records: list[Record], acknowledged: set[int], taken: set[str]) -> None:
    """Everything acknowledged is in the spool or was handed over, once, and in the order it came."""
    here = [name_of(record) for record in records]
    there = set(here) | taken
    assert len(here) == len(set(here)), "a reading is there twice"
    assert not [n for n in acknowledged if name_of_number(n) not in there], "an acknowledged reading is gone"
    for sensor in range(1, SENSORS + 1):
        times = [record.ts_us for record in records if record.sensor == sensor]
        assert times == sorted(times)


def name_of(record: Record) -> str:
    return record.key or str(record.ts_us)


def name_of_number(number: int) -> str:
    return f"k-{number}" if number % 4 == 0 else str(reading(number).ts_us)


def imbalance_but_the_doors(totals: Sequence[LedgerTotals], depth: int) -> list[str]:
    return [problem for problem in imbalance(totals, depth) if "doors" not in problem]


async def test_killed_writer_has_lost_and_doubled_nothing(tmp_path: Path) -> None:
    await kill_and_look(tmp_path, rounds=8, seed=4)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_killed_writer_many_times(tmp_path: Path) -> None:
    await kill_and_look(tmp_path, rounds=100, seed=5)
