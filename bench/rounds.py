"""Rounds: the service and its ceiling in turn, and the medians of what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from bench.doors import Door, Pair
from bench.plant import Plant
from bench.timed import Sample


class Result(msgspec.Struct, frozen=True):
    """Of one door, over all rounds. CPU in microseconds per reading, by party."""

    name: str
    title: str
    readings_per_s: float
    ceiling: str
    ceiling_per_s: float
    ratio: float
    bar: str
    is_met: bool
    batch: float
    cpu_us: dict[str, float]
    ceiling_cpu_us: dict[str, float]
    load_cores: float
    """CPU of the load generator beside the service, in cores: what it took away from what is measured."""
    rounds: list[tuple[float, float]]
    """(readings/s, ceiling/s) of each."""


def run(door: Door, plant: Plant, seconds: float, rounds: int, said: Callable[[Pair], None]) -> Result:
    """Measure a door; `said` hears of each round."""
    pairs = []
    for _ in range(rounds):
        pairs.append(door.round(plant, seconds))
        said(pairs[-1])
    services, ceilings = [pair.service for pair in pairs], [pair.ceiling for pair in pairs]
    per_s = median(sample.per_s for sample in services)
    ratio = median(pair.ratio for pair in pairs)
    return Result(
        name=door.name,
        title=door.title,
        readings_per_s=round(per_s),
        ceiling=door.ceiling,
        ceiling_per_s=round(median(sample.per_s for sample in ceilings)),
        ratio=round(ratio, 3),
        bar=door.bar,
        is_met=door.is_met(per_s, ratio),
        batch=round(median(pair.batch for pair in pairs), 1),
        cpu_us=_cpu_us(services),
        ceiling_cpu_us=_cpu_us(ceilings),
        load_cores=round(median(sample.cpu_s["load"] / sample.work.seconds for sample in services), 3),
        rounds=[(round(pair.service.per_s), round(pair.ceiling.per_s)) for pair in pairs],
    )


def _cpu_us(samples: Sequence[Sample]) -> dict[str, float]:
    parties = {party: round(median(sample.cpu_us(party) for sample in samples), 1) for party in samples[0].cpu_s}
    return {party: us for party, us in parties.items() if us >= 1.0}
