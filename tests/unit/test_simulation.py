"""Simulated devices: values like real sensors, the same for the same seed, and the misbehaviour that is asked for."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import fmean

import msgspec
import pytest

from bridge.model.reading import UNITS
from bridge.pipeline.decode import decode_packet
from bridge.settings.process import PipelineSettings
from bridge.simulation.device import MOST_WAITING, Character, SimulatedDevice
from bridge.simulation.signals import SHAPES, Signal
from bridge.simulation.watch import parse, quantile_s, rate

SENSOR = "5f0c1f5e-0000-4000-8000-000000000001"


def series(kind: str, samples: int, step_s: float, seed: int = 1) -> list[float | None]:
    signal = Signal(kind, Random(seed))
    return [signal.at(i * step_s) for i in range(samples)]


@pytest.mark.parametrize("kind", sorted(UNITS))
def test_values_stay_within_the_physical_limits_of_their_type(kind: str) -> None:
    low, high = PipelineSettings().limits[kind]
    values = [value for value in series(kind, 20_000, 60) if value is not None]
    assert low <= min(values) <= max(values) <= high


def test_values_follow_the_day() -> None:
    by_hour: dict[int, list[float]] = {}
    for i, value in enumerate(series("temperature", 24 * 60 * 5, 60)):
        if value is not None:
            by_hour.setdefault(i // 60 % 24, []).append(value)
    afternoon, night = fmean(by_hour[15]), fmean(by_hour[3])
    assert afternoon - night == pytest.approx(2 * SHAPES["temperature"].swing, rel=0.25)


def test_values_have_noise_spikes_and_dropouts() -> None:
    values = series("temperature", 10_000, 1)
    there = [value for value in values if value is not None]
    steps = [abs(b - a) for a, b in pairwise(there)]
    assert None in values
    assert len(there) > 9_000
    assert max(steps) > SHAPES["temperature"].spike / 2
    assert 0 < fmean(steps) < 1


def test_same_seed_same_values() -> None:
    assert series("humidity", 500, 60) == series("humidity", 500, 60)
    assert series("humidity", 500, 60) != series("humidity", 500, 60, seed=2)


def device(character: Character) -> SimulatedDevice:
    return SimulatedDevice(SENSOR, "dk", [(SENSOR, "temperature")], Random(1), character)


def test_packets_decode_with_rising_sequences() -> None:
    steady = device(Character.STEADY)
    seen: list[int | None] = []
    for second in range(50):
        steady.measure(1_700_000_000 + second)
        for body in steady.take(1_700_000_000 + second):
            packet = decode_packet(body.payload, max_readings=100)
            assert not packet.rejections
            assert len(packet.readings) == body.readings
            seen += [draft.sequence for draft in packet.readings]
    assert seen == list(range(1, len(seen) + 1))


def test_a_device_that_cannot_send_keeps_the_newest() -> None:
    steady = device(Character.STEADY)
    for second in range(3 * MOST_WAITING):
        steady.measure(second)
    (body,) = steady.take(0)
    kept = msgspec.json.decode(body.payload)["readings"]
    assert len(kept) == MOST_WAITING
    assert steady.forgotten > 0
    assert kept[-1]["sequence"] == steady.forgotten + MOST_WAITING


def test_a_retrying_device_repeats_itself_and_nonsense_is_marked() -> None:
    retrying, nonsense = device(Character.RETRYING), device(Character.NONSENSE)
    repeated, unsound = 0, 0
    for second in range(200):
        retrying.measure(second)
        nonsense.measure(second)
        bodies = retrying.take(second)
        repeated += len(bodies) == 2 and bodies[0] == bodies[1]
        unsound += sum(not body.sound for body in nonsense.take(second))
    assert repeated > 10
    assert unsound > 10


def test_scrapes_give_rates_and_quantiles() -> None:
    text = """# TYPE iot_bridge_readings counter
iot_bridge_readings_total{{outcome="stored",source="http"}} {stored}
# TYPE iot_bridge_stage_seconds histogram
iot_bridge_stage_seconds_bucket{{le="0.005",stage="publish"}} {fast}
iot_bridge_stage_seconds_bucket{{le="0.01",stage="publish"}} {all}
iot_bridge_stage_seconds_bucket{{le="+Inf",stage="publish"}} {all}
"""
    old = parse(text.format(stored=10, fast=5, all=10), 1.0)
    new = parse(text.format(stored=30, fast=8, all=20), 3.0)
    assert rate(old, new, "iot_bridge_readings_total", source="http") == 10
    assert quantile_s(old, new, "publish", 0.3) == 0.005
    assert quantile_s(old, new, "publish", 0.5) == 0.01
    assert quantile_s(new, new, "publish", 0.5) is None
