"""The gateway's judgement held against the stored procedure's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.gateway_protocol.snapshot import SnapshotThreshold
from bridge.model.reading import ReadingClass
from edge.local.alerts import LocalAlerts, LocalClassifier
from tests.support.plant import Plant, connect
from tests.support.spool_site import reading

LIMIT = st.none() | st.integers(-3, 3).map(float)
THRESHOLD = st.tuples(
    st.sampled_from(["greater_than", "less_than", "equal_to", "out_of_range"]),
    LIMIT,
    LIMIT,
    st.sampled_from(["info", "warning", "critical"]),
)
_seconds = itertools.count()


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules=st.lists(THRESHOLD, max_size=4), readings=st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8))
def test_limits_are_those_of_the_procedure(
    plant: Plant, rules: list[tuple[str, float | None, float | None, str]], readings: list[float]
) -> None:
    plant.sensor = plant.add_sensor(operational_state="NORMAL")
    thresholds = tuple(
        SnapshotThreshold(plant.threshold(condition, low, high, severity), plant.sensor, condition, low, high, severity)
        for condition, low, high, severity in rules
    )
    by_sensor = {plant.sensor: thresholds}
    judge, local_alerts = LocalClassifier(lambda: by_sensor), LocalAlerts("north", lambda: by_sensor)
    for value in readings:
        second = next(_seconds)
        stored = plant.store(value, second)
        local = reading(second, sensor=plant.sensor, value=value)
        (label,) = judge.classify([local])
        assert ReadingClass(label).name.lower() == stored.label
        assert [(event.kind, event.severity) for event in local_alerts.step(local, local.received_us)] == stored.kinds
