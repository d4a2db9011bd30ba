"""What leaves a full spool, by what is in its oldest stretch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.model.reading import ReadingClass
from edge.spool.eviction import Candidate, rows_to_evict

CLEAN, WARNING, ALERT = ReadingClass


def rows(*sensors: int, label: ReadingClass = CLEAN) -> list[Candidate]:
    return [(place, sensor, label) for place, sensor in enumerate(sensors, start=1)]


def test_busiest_sensor_is_thinned_first() -> None:
    assert rows_to_evict(rows(1, 1, 2, 1, 1, 3), 2, label=CLEAN) == [1, 4]


def test_thinning_goes_on_with_whoever_is_busiest_then() -> None:
    stretch = rows(*[1] * 8, *[2] * 5)
    shed = rows_to_evict(stretch, 6, label=CLEAN)
    assert [sum(1 for row in stretch if row[0] in shed and row[1] == sensor) for sensor in (1, 2)] == [4, 2]


def test_every_second_goes_so_that_history_becomes_coarse() -> None:
    assert rows_to_evict(rows(*[1] * 8), 4, label=CLEAN) == [1, 3, 5, 7]


def test_other_classes_stay() -> None:
    stretch = [*rows(1, 1, 1, label=ALERT), (4, 1, WARNING), (5, 2, 0)]
    assert rows_to_evict(stretch, 10, label=CLEAN) == [5]
    assert rows_to_evict(stretch, 10, label=WARNING) == [4]


def test_spared_rows_stay() -> None:
    assert rows_to_evict(rows(1, 1, 1), 3, label=CLEAN, spared={1, 2}) == [3]


@given(
    sensors=st.lists(st.tuples(st.integers(1, 6), st.sampled_from(list(ReadingClass))), max_size=80),
    wanted=st.integers(1, 100),
)
def test_plan_sheds_what_is_wanted_and_evens_out(sensors: list[tuple[int, ReadingClass]], wanted: int) -> None:
    stretch = [(place, sensor, label) for place, (sensor, label) in enumerate(sensors, start=1)]
    shed = rows_to_evict(stretch, wanted, label=CLEAN)
    clean = {row[0]: row[1] for row in stretch if row[2] == CLEAN}
    assert len(shed) == len(set(shed)) == min(wanted, len(clean))
    assert set(shed) <= set(clean)
    before = {s: list(clean.values()).count(s) for s in set(clean.values())}
    left = {s: count - sum(1 for row_id in shed if clean[row_id] == s) for s, count in before.items()}
    for sensor, count in left.items():  # nobody was thinned while another had more than twice as much
        if count < before[sensor]:
            assert all(other <= 2 * count + 2 for other in left.values())
