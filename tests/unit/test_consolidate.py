"""One state for each sensor: levels, flapping, silence by its own rhythm, and devices that go and come back."""

from __future__ import annotations

from random import Random

import pytest

from bridge.consumers.api import Event
from bridge.consumers.consolidate import Consolidation, Decision, SensorState, human_s
from bridge.consumers.orchestrator import decode, encode
from bridge.consumers.rhythm import Rhythm
from bridge.settings.consumers import OrchestratorSettings

SETTINGS = OrchestratorSettings(flap_changes=4, flap_window_s=100, silence_min_s=10, max_sensors=1_000)
S = 1_000_000
START_S = 1_769_594_400


def at_us(second: float) -> int:
    return round((START_S + second) * S)


def reading(sensor: int, second: float, measured: float | None = None, device: int = 1, source: str = "http") -> Event:
    stored = f"{START_S + second:.6f}"
    ts = stored if measured is None else f"{START_S + measured:.6f}"
    fields = {
        "sensor_id": str(sensor),
        "timestamp": ts,
        "ingested_ts": stored,
        "device_id": str(device),
        "source": source,
    }
    return Event("iot:readings", f"{second}-{sensor}", fields)


class Story:
    """Alerts of sensors, numbered as they come."""

    def __init__(self, settings: OrchestratorSettings = SETTINGS) -> None:
        self.known = Consolidation(settings)
        self.number = 0
        self.decisions: list[Decision] = []

    def event(self, kind: str, severity: str, second: float, sensor: int = 1, table: str = "a") -> Event:
        self.number += 1
        fields = {
            "event_id": f"{table}-{self.number}-{kind}",
            "sensor_id": str(sensor),
            "kind": kind,
            "severity": severity,
            "value": "99.5",
            "triggered_at": f"{START_S + second:.6f}",
        }
        return Event("iot:alerts", str(self.number), fields)

    def tell(self, *events: Event) -> list[str]:
        made: list[Decision] = []
        for place, event in enumerate(events):
            made += self.known.alert(event, events[place + 1] if place + 1 < len(events) else None)
        self.decisions += made
        return [decision.decision for decision in made]

    def hear(self, sensor: int, *seconds: float, device: int = 1) -> list[str]:
        made = [each for second in seconds for each in self.known.reading(reading(sensor, second, device=device))]
        self.decisions += made
        return [decision.decision for decision in made]


@pytest.fixture
def story() -> Story:
    return Story()


def test_alert_escalates_and_its_end_de_escalates(story: Story) -> None:
    assert story.tell(story.event("alert", "critical", 1)) == ["escalate"]
    assert story.tell(story.event("resolved", "critical", 2)) == ["de_escalate"]
    up, down = story.decisions
    assert (up.severity, down.severity) == ("critical", "critical")
    assert up.reason == "alert (critical) at 99.5: from normal to critical"
    assert up.event_id == "d-1-a-1-alert-escalate"


def test_warning_below_an_open_alert_changes_nothing(story: Story) -> None:
    assert story.tell(story.event("alert", "critical", 1)) == ["escalate"]
    assert story.tell(story.event("warning", "warning", 2, table="w")) == []
    assert story.tell(story.event("resolved", "critical", 3)) == ["de_escalate"]
    assert story.decisions[-1].reason.endswith("from critical to warning")
    assert story.tell(story.event("resolved", "warning", 4, table="w")) == ["de_escalate"]
    assert story.decisions[-1].reason.endswith("from warning to normal")


def test_alert_that_takes_the_place_of_another_is_one_change(story: Story) -> None:
    story.tell(story.event("alert", "warning", 1))
    assert story.tell(story.event("resolved", "warning", 2), story.event("alert", "critical", 2)) == ["escalate"]
    assert story.decisions[-1].reason.endswith("from warning to critical")


def past(event: Event) -> Event:
    return Event(event.stream, event.id, {**event.fields, "past": "1"})


def test_past_alert_says_nothing_of_the_sensor_as_it_is(story: Story) -> None:
    pair = [past(story.event("alert", "critical", 1)), past(story.event("resolved", "critical", 2))]
    assert story.tell(*pair) == []
    assert story.tell(story.event("alert", "critical", 3)) == ["escalate"]
    assert story.tell(*pair) == []  # the end of what is past is no end of what is open
    assert story.tell(story.event("resolved", "critical", 4)) == ["de_escalate"]


def test_past_alert_of_the_same_moment_hides_no_change(story: Story) -> None:
    opened = story.event("alert", "critical", 3)
    assert story.tell(opened, past(story.event("alert", "warning", 3))) == ["escalate"]


def test_events_that_come_again_give_the_same_ids(story: Story) -> None:
    events = [story.event("alert", "critical", 1), story.event("resolved", "critical", 2)]
    story.tell(*events)
    story.tell(*events)
    ids = [decision.event_id for decision in story.decisions]
    assert len(ids) == 4
    assert ids[:2] == ids[2:]


def test_flapping_is_told_once_and_its_end_when_it_is_steady(story: Story) -> None:
    told: list[str] = []
    for second in range(11):  # ends raised
        kind = "alert" if second % 2 == 0 else "resolved"
        told += story.tell(story.event(kind, "critical", second))
    assert told == ["escalate", "de_escalate", "escalate", "de_escalate", "flapping_suppressed"]
    assert story.known.steady(at_us(109)) == []
    [steady] = story.known.steady(at_us(110))
    assert (steady.decision, steady.severity) == ("escalate", "critical")
    assert "steady for 100 s" in steady.reason
    assert story.known.steady(at_us(200)) == []
    assert story.tell(story.event("resolved", "critical", 300)) == ["de_escalate"]


def test_slow_changes_are_not_flapping(story: Story) -> None:
    told: list[str] = []
    for place in range(20):
        told += story.tell(story.event("alert" if place % 2 == 0 else "resolved", "critical", place * 30))
    assert told == ["escalate", "de_escalate"] * 10


def test_reason_names_the_other_sensors_of_the_device(story: Story) -> None:
    for sensor in (1, 2, 3):
        story.hear(sensor, 0.5)
    story.tell(story.event("alert", "critical", 1, sensor=2))
    story.tell(story.event("alert", "critical", 1, sensor=1))
    assert story.decisions[-1].reason.endswith("; 1 of 2 other sensors of the device are raised too")
    assert story.decisions[-1].device_id == 1


def test_silence_is_judged_by_each_sensors_own_rhythm(story: Story) -> None:
    story.hear(1, *range(0, 600, 4))
    story.hear(2, *range(0, 6000, 60))
    story.hear(3, 0, 1)  # not known well yet
    silent = {second: set(story.known.silent_sensors(at_us(second))) for second in (610, 620, 6239, 6242, 86_402)}
    assert silent == {610: set(), 620: {1}, 6239: {1}, 6242: {1, 2}, 86_402: {1, 2, 3}}
    story.known.mark_stale([1])
    assert set(story.known.silent_sensors(at_us(6242))) == {2}
    story.hear(1, 6243)
    assert set(story.known.silent_sensors(at_us(6800))) == {1, 2}


def test_device_that_sends_seldom_and_much_is_not_silent_between() -> None:
    rhythm = Rhythm()
    for packet in range(10):
        for second in range(600):
            rhythm.heard(at_us(packet * 600 + second), at_us(packet * 600 + 600))
    assert rhythm.silent_after_s(SETTINGS) == pytest.approx(5 * 600, rel=0.01)


def test_backlog_that_is_drained_does_not_make_a_sensor_quick() -> None:
    rhythm = Rhythm()
    for place in range(1_000):  # one reading in 10 min, a week of it within 10 s
        rhythm.heard(at_us(place * 600), at_us(600_000 + place / 100))
    assert rhythm.silent_after_s(SETTINGS) == pytest.approx(5 * 600, rel=0.01)


def test_irregular_sensor_is_seldom_thought_silent() -> None:
    random = Random(3)
    rhythm, now, wrong = Rhythm(), 0.0, 0
    for _ in range(5_000):
        gap = random.expovariate(1 / 10)
        wrong += rhythm.count > 100 and gap > rhythm.silent_after_s(SETTINGS)
        now += gap
        rhythm.heard(at_us(now), at_us(now))
    assert wrong <= 15


def test_outage_does_not_make_a_sensor_slow() -> None:
    rhythm = Rhythm()
    for second in [*range(0, 400, 4), *range(10_000, 10_400, 4)]:
        rhythm.heard(at_us(second), at_us(second))
    assert rhythm.silent_after_s(SETTINGS) < 30


def test_sensor_that_becomes_slower_is_learned_anew() -> None:
    rhythm = Rhythm()
    for second in [*range(0, 400, 4), *range(460, 10_000, 60)]:
        rhythm.heard(at_us(second), at_us(second))
    assert rhythm.silent_after_s(SETTINGS) == pytest.approx(300, rel=0.01)


def test_device_goes_offline_once_and_comes_back(story: Story) -> None:
    story.hear(1, *range(0, 100, 4))
    story.hear(2, *range(0, 100, 50))
    assert story.known.silent_devices(at_us(110)) == {}
    assert set(story.known.silent_devices(at_us(117))) == {1}
    [gone] = story.known.mark_offline(1, at_us(96), at_us(117), tell=True)
    assert gone.event_id == f"d-device-1-{at_us(96)}-device_offline"
    assert gone.reason == "silent for 21 s, usually heard every 4 s"
    assert story.known.silent_devices(at_us(1000)) == {}
    assert story.hear(2, 116) == []  # the stream lagged
    assert story.hear(2, 200) == ["device_back"]
    assert story.decisions[-1].event_id == f"d-device-1-{at_us(96)}-device_back"
    assert story.hear(1, 201) == []


def test_imported_readings_are_no_sign_of_life(story: Story) -> None:
    assert story.known.reading(reading(1, 5, source="import")) == []
    assert story.known.state(1) is None


def test_sensor_that_moves_to_another_device_is_known_there(story: Story) -> None:
    story.hear(1, 0, 1, device=1)
    story.hear(1, 2, device=2)
    assert set(story.known.silent_devices(at_us(200_000))) == {2}


def test_state_is_bounded_and_forgets_the_least_heard() -> None:
    story = Story(SETTINGS.model_copy(update={"max_sensors": 100}))
    for sensor in range(1, 301):
        story.hear(sensor, sensor, device=sensor)
    assert len(story.known) == 100
    assert story.known.forgotten == set(range(1, 201))
    assert story.known.dirty == set(range(201, 301))


def test_state_is_kept_and_read_back(story: Story) -> None:
    story.hear(1, *range(0, 100, 4))
    for second in range(6):
        story.tell(story.event("alert" if second % 2 == 0 else "resolved", "critical", second))
    story.known.mark_offline(1, at_us(96), at_us(117), tell=True)
    state = story.known.state(1)
    assert state is not None
    assert decode(encode(state)) == state
    again = Consolidation(SETTINGS, [(1, decode(encode(state)))])
    assert again.silent_devices(at_us(5000)) == {}
    assert [each.decision for each in again.reading(reading(1, 5000))] == ["device_back"]
    assert again.steady(at_us(9_000)) == []  # it ended as it was last told
    assert len(encode(SensorState())) < 100


def test_human_durations() -> None:
    assert [human_s(seconds) for seconds in (0.1, 4, 45, 600, 10_000)] == ["0.1 s", "4 s", "45 s", "10 min", "2.8 h"]
