"""Local judgement: classes, and the alerts that begin and end."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.gateway_protocol.snapshot import SnapshotThreshold
from bridge.model.reading import Reading, ReadingClass
from edge.local.alerts import LocalAlerts, LocalClassifier, worst
from tests.support.gateway_site import above
from tests.support.spool_site import NOW_US, reading


def local_alerts(*thresholds: SnapshotThreshold) -> LocalAlerts:
    return LocalAlerts("north", lambda: {1: thresholds})


def kinds(made: LocalAlerts, *readings: Reading) -> list[tuple[str, str]]:
    now_us = max(each.received_us for each in readings)
    return [(event.kind, event.severity) for each in readings for event in made.step(each, now_us)]


def values(*given: float) -> Sequence[Reading]:
    return [reading(number, value=value) for number, value in enumerate(given)]


def test_judge_of_no_thresholds_finds_everything_clean() -> None:
    assert LocalClassifier(dict).classify(values(1, 2)) == [ReadingClass.CLEAN] * 2


def test_judge_knows_each_sensor_by_itself() -> None:
    judge = LocalClassifier(lambda: {1: (above(30),)})
    assert judge.classify([reading(1, value=31), reading(1, value=31, sensor=2), reading(2, value=30)]) == [2, 0, 0]


def test_worst_is_the_most_severe_and_of_equals_the_first() -> None:
    thresholds = (above(10, "info", number=1), above(20, "critical", number=3), above(5, "critical", number=2))
    found = worst(thresholds, 25)
    assert found is not None
    assert found.threshold_id == 2
    assert worst(thresholds, 1) is None


def test_alarm_is_raised_once_and_resolved_once() -> None:
    made = local_alerts(above(30))
    assert kinds(made, *values(20, 31, 32, 33, 20, 20)) == [("alert", "warning"), ("resolved", "warning")]
    assert made.active == {}


def test_alarm_ends_with_its_threshold() -> None:
    thresholds = [above(30)]
    made = LocalAlerts("north", lambda: {1: tuple(thresholds)})
    kinds(made, *values(20, 31))
    assert made.review({1: 31.0}, {}, 9) == []
    thresholds[:] = [above(31)]
    changes = made.changes
    [event] = made.review({1: 31.0}, {}, 9)
    assert (event.kind, event.resolution, event.triggered_at_us, event.value) == (
        "resolved",
        "threshold_changed",
        9,
        31,
    )
    assert (made.active, made.changes) == ({}, changes + 1)
    assert made.review({}, {}, 10) == []


def test_alarm_of_another_severity_ends_the_one_before() -> None:
    made = local_alerts(above(30), above(40, "critical", number=2))
    assert kinds(made, *values(31, 41, 31)) == [
        ("alert", "warning"),
        ("resolved", "warning"),
        ("alert", "critical"),
        ("resolved", "critical"),
        ("alert", "warning"),
    ]


def test_alarm_of_a_late_reading_is_none() -> None:
    made = local_alerts(above(30))
    assert kinds(made, reading(10, value=20), reading(5, value=99), reading(11, value=99), reading(6, value=1)) == [
        ("alert", "warning")
    ]


def test_reading_ahead_of_time_deafens_nothing_after_it() -> None:
    made = local_alerts(above(30))
    [raised] = made.step(reading(300, value=31), NOW_US)
    [resolved] = made.step(reading(1, value=20), NOW_US + 1_000_000)
    assert (raised.kind, resolved.kind) == ("alert", "resolved")
    assert resolved.triggered_at_us == raised.triggered_at_us  # it is not over before it began
    assert [event.kind for event in made.step(reading(2, value=31), NOW_US + 2_000_000)] == ["alert"]
    assert made.step(reading(1, value=20), NOW_US + 3_000_000) == []  # late


def test_latest_of_a_clock_that_was_set_back_judges_nobody() -> None:
    made = local_alerts(above(30))
    assert made.step(reading(3_600, value=20), NOW_US + 3_600_000_000) == []
    assert [event.kind for event in made.step(reading(1, value=31), NOW_US + 1_000_000)] == ["alert"]


def test_alarm_that_began_ahead_of_time_is_resolved_after_a_restart() -> None:
    before = local_alerts(above(30))
    before.step(reading(300, value=31), NOW_US)
    after = local_alerts(above(30))
    after.resume(before.active.values())
    assert [event.kind for event in after.step(reading(1, value=20), NOW_US + 1_000_000)] == ["resolved"]


def test_alarm_of_a_threshold_that_is_gone_is_resolved_by_the_next_reading() -> None:
    thresholds = {1: (above(30),)}
    made = LocalAlerts("north", lambda: thresholds)
    assert kinds(made, reading(1, value=31)) == [("alert", "warning")]
    thresholds.clear()
    assert kinds(made, reading(2, value=31)) == [("resolved", "warning")]


def test_alarm_is_told_from_the_services_own() -> None:
    (event,) = local_alerts(above(30)).step(reading(1, value=31), NOW_US)
    assert event.event_id.startswith("local-north-1-")
    assert event.alert_id == 0


def test_alarms_forget_sensors_that_left() -> None:
    made = local_alerts(above(30))
    made.step(reading(1, value=31), NOW_US)
    made.forget_all_but({2: None})
    assert made.active == {}
