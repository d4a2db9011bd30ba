"""The stored procedure, and every recount, with values and sequence numbers at the ends of their types."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest
from psycopg.errors import DatetimeFieldOverflow, InvalidParameterValue, NotNullViolation

from bridge.store import admin
from tests.support.plant import Plant, connect, us

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


MISFITS: list[dict[str, object]] = [
    {"p_values": [20.0]},
    {"p_values": [20.0, 21.0, 22.0]},
    {"p_values": None},
    {"p_ts_us": []},
    {"p_sequences": [1]},
    {"p_received_us": [1, 2, 3]},
    {"p_device_time": [True]},
    {"p_keys": ["a", "b", "c"]},
    {"p_fresh": [False]},
    {"p_redelivered": [False]},
    {"p_gateways": ["site-1"]},
    {"p_sources": ["sql"]},
    {"p_sources": ["sql", "lorawan"]},
    {"p_sensor_ids": None},
]
TYPES = {"p_sensor_ids": "bigint[]", "p_values": "float8[]", "p_ts_us": "bigint[]", "p_sequences": "bigint[]"} | {
    "p_received_us": "bigint[]",
    "p_device_time": "boolean[]",
    "p_fresh": "boolean[]",
    "p_redelivered": "boolean[]",
}


def call(plant: Plant, **arrays: object) -> list[dict[str, object]]:
    """`sp_insert_readings` of two readings, with these arrays for its own."""
    whole = {"p_sensor_ids": [plant.sensor] * 2, "p_values": [20.0, 21.0], "p_ts_us": [us(1), us(2)]} | arrays
    given = ", ".join(f"{name} => %({name})s::{TYPES.get(name, 'text[]')}" for name in whole)
    return plant.all(f"SELECT * FROM sp_insert_readings({given})", **whole)


@pytest.mark.parametrize("arrays", MISFITS, ids=str)
def test_arrays_that_do_not_go_together_are_refused_and_store_nothing(plant: Plant, arrays: dict[str, object]) -> None:
    with pytest.raises(InvalidParameterValue, match=next(iter(arrays))):
        call(plant, **arrays)
    assert plant.values == []


def test_array_of_two_dimensions_or_of_another_lower_bound_is_refused(plant: Plant) -> None:
    for text in (f"ARRAY[[{plant.sensor}, {plant.sensor}]]", f"'[0:1]={{{plant.sensor},{plant.sensor}}}'::bigint[]"):
        with pytest.raises(InvalidParameterValue, match="p_sensor_ids"):
            plant.all(f"SELECT sp_insert_readings({text}, ARRAY[20.0, 21.0], ARRAY[{us(1)}, {us(2)}])")


@pytest.mark.parametrize("arrays", [{"p_values": [20.0, None]}, {"p_ts_us": [us(1), None]}], ids=str)
def test_null_among_values_or_times_is_told(plant: Plant, arrays: dict[str, object]) -> None:
    with pytest.raises(NotNullViolation, match="leave the reading out"):
        call(plant, **arrays)


def test_source_that_is_null_is_sql(plant: Plant) -> None:
    call(plant, p_sources=[None, "import"])
    assert plant.one("SELECT sources FROM ingest_outbox")["sources"] == ["sql", "import"]


def test_reading_received_in_the_future_was_received_now(plant: Plant) -> None:
    ahead = us(0) + 80 * 365 * 86400 * 1_000_000
    call(plant, p_received_us=[ahead, None])
    row = plant.one(
        "SELECT d.last_seen_at <= now() AS seen, l.received_at <= clock_timestamp() AS heard "
        "FROM devices d, sensor_readings_latest l"
    )
    assert row == {"seen": True, "heard": True}


def test_minus_infinity_is_a_time_before_the_calendar(plant: Plant) -> None:
    with pytest.raises(DatetimeFieldOverflow):
        plant.all("SELECT sp_insert_reading_and_check_threshold(%(s)s, 20, '-infinity')", s=plant.sensor)
