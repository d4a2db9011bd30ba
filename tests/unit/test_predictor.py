"""The baseline predictor: what it learns, what it flags, and what it is never misled by."""

from __future__ import annotations

import math
from random import Random

import pytest

from bridge.consumers.predictor import Baseline
from bridge.settings.consumers import MlSettings

HOUR_US = 3_600_000_000
SECOND_US = 1_000_000
START_US = 1_769_594_400_000_000


def fed(values: list[float], step_us: int = 10 * SECOND_US, **settings: float) -> Baseline:
    predictor = Baseline(MlSettings.model_validate(settings))
    for number, value in enumerate(values):
        predictor.observe(1, value, START_US + number * step_us, learn=True)
    return predictor


def noise(count: int, level: float = 20.0, spread: float = 0.5) -> list[float]:
    random = Random(7)
    return [random.gauss(level, spread) for _ in range(count)]


def value_at(predictor: Baseline, ts_us: int) -> float:
    found = predictor.predict(1, ts_us)
    assert found is not None
    return found.value


def test_noise_is_predicted_by_its_mean() -> None:
    predictor = fed(noise(500))
    assert value_at(predictor, START_US + 5_010 * SECOND_US) == pytest.approx(20.0, abs=0.3)


def test_random_walk_is_predicted_by_its_last_value() -> None:
    random, values = Random(7), [20.0]
    for _ in range(500):
        values.append(values[-1] + random.gauss(0, 1))
    # No season: with one, its part of the walk is thought to come again.
    assert value_at(fed(values, season_s=0), START_US + 5_020 * SECOND_US) == values[-1]


def test_daily_course_is_predicted_ahead() -> None:
    def course(hour: float) -> float:
        return 20 + 5 * math.sin(2 * math.pi * hour / 24)

    predictor = fed([course(hour / 4) for hour in range(4 * 24 * 10)], HOUR_US // 4)
    now_us = START_US + 24 * 10 * HOUR_US
    for ahead in (1, 6, 12, 23):
        assert value_at(predictor, now_us + ahead * HOUR_US) == pytest.approx(course(ahead), abs=0.4)


def test_spike_is_an_anomaly_and_teaches_little() -> None:
    values = noise(500)
    predictor = fed(values)
    after_us = START_US + 5_000 * SECOND_US
    spike = predictor.observe(1, 60.0, after_us, learn=True)
    assert spike is not None
    assert spike.is_anomaly
    assert spike.forecast == pytest.approx(20.0, abs=0.5)
    usual = predictor.observe(1, 20.2, after_us + 10 * SECOND_US, learn=True)
    assert usual is not None
    assert not usual.is_anomaly


def test_lasting_change_is_followed() -> None:
    predictor = fed(noise(500))
    flagged = 0
    for number, value in enumerate(noise(300, level=30.0)):
        judged = predictor.observe(1, value, START_US + (5_000 + number * 10) * SECOND_US, learn=True)
        flagged += judged is not None and judged.is_anomaly
    assert 0 < flagged < 60
    assert value_at(predictor, START_US + 8_010 * SECOND_US) == pytest.approx(30.0, abs=0.5)


def test_noise_is_hardly_ever_an_anomaly() -> None:
    predictor = Baseline(MlSettings())
    flagged = 0
    for number, value in enumerate(noise(20_000)):
        judged = predictor.observe(1, value, START_US + number * 10 * SECOND_US, learn=True)
        flagged += judged is not None and judged.is_anomaly
    assert flagged <= 2


def test_constant_sensor_that_moves_by_its_own_step_is_no_anomaly() -> None:
    values = [21.0, 21.1] * 20 + [21.0] * 5_000
    predictor = fed(values)
    judged = predictor.observe(1, 21.1, START_US + 60_000 * SECOND_US, learn=True)
    assert judged is not None
    assert not judged.is_anomaly


def test_sensor_that_never_changed_is_not_judged() -> None:
    predictor = fed([21.0] * 100)
    assert predictor.observe(1, 50.0, START_US + 2_000 * SECOND_US, learn=True) is None


def test_nothing_is_learned_from_what_is_not_clean() -> None:
    predictor = fed(noise(500))
    before = predictor.export(1)
    judged = predictor.observe(1, 90.0, START_US + 6_000 * SECOND_US, learn=False)
    assert judged is not None
    assert judged.is_anomaly
    assert predictor.export(1) == before
    assert predictor.observe(2, 90.0, START_US, learn=False) is None
    assert predictor.export(2) is None


def test_late_reading_is_passed_over() -> None:
    predictor = fed(noise(500))
    before = predictor.export(1)
    assert predictor.observe(1, 20.0, START_US + 100 * SECOND_US, learn=True) is None
    assert predictor.export(1) == before
    assert predictor.predict(1, START_US + 100 * SECOND_US) is None


def test_few_readings_are_not_judged() -> None:
    predictor = fed([20.0])
    assert predictor.predict(1, START_US + 1) is None
    assert predictor.observe(1, 99.0, START_US + SECOND_US, learn=True) is None


def test_confidence_grows_with_what_is_known() -> None:
    few, many = (fed(noise(count)).predict(1, START_US + 10_000 * SECOND_US) for count in (10, 1_000))
    assert few is not None
    assert many is not None
    assert few.confidence < 0.5
    assert 0.9 < many.confidence <= 1.0


def test_model_is_kept_and_restored() -> None:
    predictor = fed(noise(500))
    kept = predictor.export(1)
    assert kept is not None
    assert len(kept) < 2_000
    again = Baseline(MlSettings())
    again.restore(1, kept)
    at_us = START_US + 5_010 * SECOND_US
    assert again.predict(1, at_us) == predictor.predict(1, at_us)
    assert again.observe(1, 60.0, at_us, learn=True) == predictor.observe(1, 60.0, at_us, learn=True)


def test_model_of_another_season_keeps_its_levels() -> None:
    kept = fed(noise(500)).export(1)
    assert kept is not None
    again = Baseline(MlSettings(season_parts=48))
    again.restore(1, kept)
    assert value_at(again, START_US + 6_000 * SECOND_US) == pytest.approx(20.0, abs=0.5)


@pytest.mark.parametrize("kept", [b"", b"\x80", b"nonsense", b"\x81\xa4last\xa1x"])
def test_model_of_another_form_is_refused(kept: bytes) -> None:
    with pytest.raises(ValueError):
        Baseline(MlSettings()).restore(1, kept)


def test_forgotten_sensor_is_learned_anew() -> None:
    predictor = fed(noise(50))
    predictor.forget(1)
    predictor.forget(1)
    assert predictor.export(1) is None


def test_interval_longer_than_the_season_is_no_drift() -> None:
    predictor = fed(noise(30), step_us=400 * 24 * HOUR_US)
    assert value_at(predictor, START_US + 31 * 400 * 24 * HOUR_US) == pytest.approx(20.0, abs=1.0)


def test_values_at_the_ends_of_a_double_mislead_for_a_while_and_never_for_good() -> None:
    extremes = [1.7976931348623157e308, -1.7976931348623157e308, 1e155, 5e-324, -5e-324, -0.0]
    predictor = fed(noise(100) + extremes * 5 + noise(2_000))
    assert value_at(predictor, START_US + 30_000 * SECOND_US) == pytest.approx(20.0, abs=1.0)
