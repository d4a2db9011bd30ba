"""A service seen from outside: its `/metrics`, as figures for people.

Flows in: the text of two scrapes. Flows out: rates, counts and latencies between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import msgspec
from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


class Scrape(msgspec.Struct, frozen=True):
    """All samples of one scrape, taken at `at_s` (monotonic)."""

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of a name that have these labels."""
        wanted = set(labels.items())
        return sum(value for found, value in self.samples.get(name, {}).items() if wanted <= set(found))


def parse(text: str, at_s: float) -> Scrape:
    """Read the Prometheus text format."""
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return Scrape(at_s, samples)


def rate(old: Scrape, new: Scrape, name: str, **labels: str) -> float:
    """Per second, between two scrapes."""
    return (new.total(name, **labels) - old.total(name, **labels)) / max(new.at_s - old.at_s, 1e-9)


def quantile_s(old: Scrape | None, new: Scrape, stage: str, share: float) -> float | None:
    """The upper bound of the bucket in which the quantile of a stage's latency lies; None without samples."""
    name = "iot_bridge_stage_seconds_bucket"
    buckets: list[tuple[float, float]] = []
    for labels, value in new.samples.get(name, {}).items():
        found = dict(labels)
        if found["stage"] == stage:
            before = old.samples.get(name, {}).get(labels, 0.0) if old is not None else 0.0
            buckets.append((float(found["le"]), value - before))
    buckets.sort()
    if not buckets or buckets[-1][1] <= 0:
        return None
    return next(bound for bound, count in buckets if count >= share * buckets[-1][1])
