"""The stored procedure, and every recount, with values and sequence numbers at the ends of their types."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest
from psycopg.errors import DatetimeFieldOverflow

from bridge.store import admin
from tests.support.plant import Plant, connect

MOST = 1.7976931348623157e308
LEAST = 5e-324
EXTREMES = [MOST, -MOST, 1e300, LEAST, -LEAST, -0.0, 20.0]
FAR_APART_S = [1e-6, 1e-3, 1.0, 2e5]
"""From one reading to the next: slopes divide by it."""
SEQUENCES = [(1 << 63) - 1, -1, -(1 << 63), 0]


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


@pytest.mark.parametrize("after_s", FAR_APART_S)
def test_jump_between_any_two_values_is_judged_and_refuses_nothing(plant: Plant, after_s: float) -> None:
    plant.delta(abs_delta=1e290, rel_delta=1e290, abs_slope=1e290, rel_slope=1e290)
    now_s = 0.0
    for pair in permutations(EXTREMES, 2):
        for value in pair:
            now_s += after_s
            assert plant.store(value, now_s).inserted, (pair, value)
    assert len(plant.values) == 2 * len(EXTREMES) * (len(EXTREMES) - 1)


def test_jump_over_the_whole_range_of_doubles_is_a_warning(plant: Plant) -> None:
    plant.delta(abs_delta=5.0)
    plant.store(-MOST, 1)
    assert plant.store(MOST, 2).kinds == [("warning", "warning")]


@pytest.mark.parametrize("first", SEQUENCES)
def test_sequence_at_the_ends_of_its_range_leaves_verify_with_an_answer(
    plant: Plant, postgres_url: str, first: int
) -> None:
    for number, sequence in enumerate([first, *SEQUENCES]):
        plant.store(20.0, number, sequence=sequence)
    with admin.connect(postgres_url) as connection:
        problems, gaps = connection.verify()
    assert problems == []
    assert gaps == [{"device_id": plant.device, "missing": (1 << 64) - len(SEQUENCES)}]


SEND = "SELECT * FROM sp_insert_readings(%(s)s, %(v)s, %(t)s)"


def test_time_before_the_calendar_is_refused_with_its_batch(plant: Plant) -> None:
    with pytest.raises(DatetimeFieldOverflow):
        plant.all(SEND, s=[plant.sensor], v=[20.0], t=[-(1 << 63)])
    assert plant.store(20.0, 1).inserted


@pytest.mark.parametrize("ts_us", [(1 << 63) - 1, 253_402_300_800_000_000])
def test_time_beyond_the_calendar_is_refused_before_it_is_anybodys_latest(plant: Plant, ts_us: int) -> None:
    assert plant.one(SEND, s=[plant.sensor], v=[20.0], t=[ts_us])["codes"] == ["time_ahead"]
    assert plant.store(20.0, 1).inserted
