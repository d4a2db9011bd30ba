"""Two weeks without an uplink, at full size: 40 devices with a reading every 10 s, spooled, then drained in order."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

import pytest

from bench.spool import SENSORS, drain, memory_bytes, open_spool, readings
from bridge.model.reading import Batch, LedgerLine, Outcome, Source
from edge.record import Settlement
from tests.support.spool_site import imbalance

TOTAL = 40 * 14 * 86_400 // 10
BATCH = 400
MOST_BYTES = 512 * 1024 * 1024
MOST_GROWTH_BYTES = 24 * 1024 * 1024
LEAST_DRAIN_PER_S = 5_000


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_two_weeks_offline_are_bounded_and_drained_in_order(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=MOST_BYTES)
    await spool.open()
    warm = most_memory = memory_bytes()
    started = perf_counter()
    for number, start in enumerate(range(0, TOTAL, BATCH), start=1):
        batch = readings(start, BATCH)
        lines = [LedgerLine(device, Source.MQTT, start // 40 + BATCH // 40, 0) for device in range(1, 41)]
        committed = await spool.write(Batch(number, batch, (), lines))
        assert not any(committed.outcomes)
        if number == 500:
            warm = memory_bytes()
        most_memory = max(most_memory, memory_bytes())
    spooled_s = perf_counter() - started
    disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert spool.backlog().depth == TOTAL
    assert disk <= MOST_BYTES
    assert not imbalance(await spool.totals(), TOTAL)
    await spool.close()

    started = perf_counter()
    spool = open_spool(tmp_path, max_bytes=MOST_BYTES)
    await spool.open()
    opened_s = perf_counter() - started
    started = perf_counter()
    sequences = [-1] * (SENSORS + 1)
    above = count = 0
    while records := await spool.read(above=above, count=1_000, max_bytes=1 << 22):
        for record in records:
            assert isinstance(record.sensor, int)
            assert record.sequence == sequences[record.sensor] + 1
            sequences[record.sensor] += 1
        await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in records])
        above = records[-1].id
        count += len(records)
        most_memory = max(most_memory, memory_bytes())
    drained_s = perf_counter() - started
    assert count == TOTAL
    while await spool.maintain():
        pass
    left = sum(path.stat().st_size for path in tmp_path.iterdir())
    sys.stdout.write(
        f"spooled {TOTAL} in {spooled_s:.0f} s, {disk / 1e6:.0f} MB on disk; opened again in {opened_s:.2f} s; "
        f"drained at {count / drained_s:.0f}/s; memory {warm / 1e6:.0f} to {most_memory / 1e6:.0f} MB; "
        f"{left / 1e6:.1f} MB left on disk\n"
    )
    assert most_memory - warm <= MOST_GROWTH_BYTES
    assert count / drained_s >= LEAST_DRAIN_PER_S
    assert opened_s < 5
    assert await drain(spool) == 0
    await spool.close()
