"""One state for each sensor from all that is known of it, and what follows when it changes. Pure.

Flows in: events of iot:readings and iot:alerts, in order, and the time. Flows out: `Decision`s. The same
events give the same decisions with the same ids, so that they may come again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from bridge.consumers.api import Event
from bridge.consumers.rhythm import Rhythm
from bridge.settings.consumers import OrchestratorSettings

LEVELS = ("normal", "info", "warning", "critical")
NOT_ALIVE = ("import", "replay")
"""Sources of readings that say nothing of the device being alive."""


class Decision(msgspec.Struct, frozen=True):
    """One entry of iot:decisions."""

    event_id: str
    sensor_id: int
    device_id: int
    decision: str  # escalate, de_escalate, device_offline, device_back, flapping_suppressed
    severity: str
    reason: str
    at_us: int


class SensorState(msgspec.Struct, omit_defaults=True):
    """Holds what is known of one sensor. This is also the form in which it is kept."""

    device_id: int = 0
    rhythm: Rhythm = msgspec.field(default_factory=Rhythm)
    alert: int = 0  # level of the open alert
    warning: int = 0  # level of the active warning
    was: int = 0  # the level after the latest change
    told: int = 0  # the level of the latest decision
    changed_us: list[int] = msgspec.field(default_factory=list)  # latest changes of level, as many as flapping needs
    cause: str = ""  # event id of the latest change
    flapping: bool = False
    stale: bool = False
    offline_us: int = 0  # when its device was last heard before it went offline, 0 while it is not
    offline_at_us: int = 0  # when that was decided

    @property
    def level(self) -> int:
        return max(self.alert, self.warning)


class Consolidation:
    """Decides what people hear of, for at most `max_sensors` sensors; the least recently heard are forgotten."""

    def __init__(self, settings: OrchestratorSettings, kept: Iterable[tuple[int, SensorState]] = ()) -> None:
        self._settings = settings
        self._sensors: OrderedDict[int, SensorState] = OrderedDict()
        self._devices: dict[int, set[int]] = {}
        self._flapping: set[int] = set()
        self.dirty: set[int] = set()
        """Sensors whose state is not as it was kept."""
        self.urgent: set[int] = set()
        """Of those, the ones of which decisions were made."""
        self.forgotten: set[int] = set()
        for sensor_id, state in kept:
            self._sensors[sensor_id] = state
            self._join(sensor_id, state)

    def __len__(self) -> int:
        return len(self._sensors)

    def state(self, sensor_id: int) -> SensorState | None:
        """Return what is known of a sensor."""
        return self._sensors.get(sensor_id)

    # -- events

    def reading(self, event: Event) -> list[Decision]:
        """Take an entry of iot:readings; return decisions. Raises KeyError or ValueError for what is none."""
        fields = event.fields
        measured_us, seen_us = _us(fields["timestamp"]), _us(fields["ingested_ts"])
        device_id = int(fields["device_id"] or 0)
        if fields["source"] in NOT_ALIVE:
            return []
        state = self._touched(event.sensor_id)
        if state.device_id != device_id:
            self._leave(event.sensor_id, state)
            state.device_id = device_id
            self._join(event.sensor_id, state)
        state.rhythm.heard(measured_us, seen_us)
        state.stale = False
        return self._back(event.sensor_id, device_id, seen_us)

    def alert(self, event: Event, following: Event | None) -> list[Decision]:
        """Take an entry of iot:alerts; return decisions. Raises KeyError or ValueError for what is none.

        A sensor's events of one moment are one change: when a critical alert takes the place of a lesser
        one, that one is resolved first. So `following` is looked at: the event behind this one.
        A past alert was over before it was known, and says nothing of the sensor as it is.
        """
        if is_past(event):
            return []
        kind, severity, at_us = event.fields["kind"], event.fields["severity"], _us(event.fields["triggered_at"])
        level = 0 if kind == "resolved" else LEVELS.index(severity)
        state = self._touched(event.sensor_id)
        # The procedure's event ids begin with the table: "a-" alerts, "w-" ml_events.
        if kind == "warning" or event.event_id.startswith("w-"):
            state.warning = level
        else:
            state.alert = level
        is_followed = following is not None and not is_past(following) and _moment(following) == _moment(event)
        if state.level == state.was or is_followed:
            return []
        window_us = round(self._settings.flap_window_s * 1e6)
        recent = [us for us in state.changed_us if us > at_us - window_us]
        state.changed_us = [*recent[-self._settings.flap_changes :], at_us]
        state.was, state.cause = state.level, event.event_id
        self.urgent.add(event.sensor_id)
        if state.flapping:
            return []
        if len(state.changed_us) > self._settings.flap_changes:
            return [self._suppressed(event.sensor_id, state, at_us)]
        value = event.fields.get("value", "")
        return self._told(event.sensor_id, state, f"{kind} ({severity}) at {value}", at_us, state.cause)

    def _told(self, sensor_id: int, state: SensorState, because: str, at_us: int, cause: str) -> list[Decision]:
        before, state.told = state.told, state.level
        if state.told == before:
            return []
        name = "escalate" if state.told > before else "de_escalate"
        # An all-clear has the severity of what is over, so that it goes where the alarm went.
        severity = LEVELS[max(before, state.told)]
        reason = f"{because}: from {LEVELS[before]} to {LEVELS[state.told]}{self._of_device(sensor_id, state)}"
        event_id = f"d-{sensor_id}-{cause}-{name}"
        return [Decision(event_id, sensor_id, state.device_id, name, severity, reason, at_us)]

    def _of_device(self, sensor_id: int, state: SensorState) -> str:
        others = self._devices.get(state.device_id, set()) - {sensor_id}
        raised = sum(self._sensors[other].level > 0 for other in others)
        return f"; {raised} of {len(others)} other sensors of the device are raised too" if raised else ""

    def _suppressed(self, sensor_id: int, state: SensorState, at_us: int) -> Decision:
        state.flapping = True
        self._flapping.add(sensor_id)
        reason = (
            f"{len(state.changed_us)} changes within {human_s(self._settings.flap_window_s)}; "
            f"nothing more is decided until it has been steady for as long"
        )
        event_id = f"d-{sensor_id}-{state.cause}-flapping_suppressed"
        return Decision(event_id, sensor_id, state.device_id, "flapping_suppressed", "warning", reason, at_us)

    # -- time

    def steady(self, now_us: int) -> list[Decision]:
        """Return decisions that were suppressed, for sensors that have calmed down."""
        decisions: list[Decision] = []
        for sensor_id in sorted(self._flapping):
            state = self._sensors[sensor_id]
            if now_us - state.changed_us[-1] >= self._settings.flap_window_s * 1e6:
                state.flapping = False
                self._flapping.discard(sensor_id)
                self.dirty.add(sensor_id)
                self.urgent.add(sensor_id)
                because = f"steady for {human_s(self._settings.flap_window_s)}"
                decisions += self._told(sensor_id, state, because, now_us, f"{state.cause}-steady")
        return decisions

    def silent_sensors(self, now_us: int) -> dict[int, float]:
        """Return the sensors that seem to have fallen silent, each with the seconds that it may usually be silent."""
        found: dict[int, float] = {}
        for sensor_id, state in self._sensors.items():
            if not state.stale and state.rhythm.count:
                limit_s = state.rhythm.silent_after_s(self._settings)
                if now_us - state.rhythm.seen_us > limit_s * 1e6:
                    found[sensor_id] = limit_s
        return found

    def mark_stale(self, sensor_ids: Iterable[int]) -> None:
        """Decide of sensors that the database says are silent."""
        for sensor_id in sensor_ids:
            self._sensors[sensor_id].stale = True
            self.dirty.add(sensor_id)

    def silent_devices(self, now_us: int) -> dict[int, float]:
        """Return devices unheard for longer than their quickest sensor is ever silent, each with those seconds."""
        found: dict[int, float] = {}
        for device_id, sensor_ids in self._devices.items():
            states = [self._sensors[sensor_id] for sensor_id in sensor_ids]
            if not device_id or any(state.offline_us for state in states):
                continue
            limit_s = min(state.rhythm.silent_after_s(self._settings) for state in states)
            if now_us - max(state.rhythm.seen_us for state in states) > limit_s * 1e6:
                found[device_id] = limit_s
        return found

    def mark_offline(self, device_id: int, seen_us: int, now_us: int, *, tell: bool) -> list[Decision]:
        """Decide of a device that is silent since `seen_us`. `tell` is false where that is known already."""
        speaker = max(self._devices[device_id], key=lambda each: self._sensors[each].rhythm.seen_us)
        state = self._sensors[speaker]
        state.offline_us, state.offline_at_us = seen_us or 1, now_us
        self.dirty.add(speaker)
        self.urgent.add(speaker)
        if not tell:
            return []
        silent, usual = human_s((now_us - seen_us) / 1e6), human_s(state.rhythm.usual_s)
        reason = f"silent for {silent}, usually heard every {usual}"
        event_id = f"d-device-{device_id}-{seen_us}-device_offline"
        return [Decision(event_id, speaker, device_id, "device_offline", "warning", reason, now_us)]

    def _back(self, sensor_id: int, device_id: int, seen_us: int) -> list[Decision]:
        for each in self._devices[device_id]:
            since_us = self._sensors[each].offline_us
            # The stream may lag: readings from before the decision are no news.
            if since_us and seen_us > self._sensors[each].offline_at_us:
                self._sensors[each].offline_us = 0
                self.dirty.add(each)
                self.urgent |= {each, sensor_id}
                reason = f"heard again after {human_s((seen_us - since_us) / 1e6)}"
                event_id = f"d-device-{device_id}-{since_us}-device_back"
                return [Decision(event_id, sensor_id, device_id, "device_back", "warning", reason, seen_us)]
        return []

    # -- who is known

    def _touched(self, sensor_id: int) -> SensorState:
        state = self._sensors.get(sensor_id)
        if state is None:
            state = self._sensors[sensor_id] = SensorState()
            self._join(sensor_id, state)
            while len(self._sensors) > self._settings.max_sensors:
                self._forget()
        self._sensors.move_to_end(sensor_id)
        self.dirty.add(sensor_id)
        return state

    def _forget(self) -> None:
        sensor_id, state = self._sensors.popitem(last=False)
        self._leave(sensor_id, state)
        self._flapping.discard(sensor_id)
        self.dirty.discard(sensor_id)
        self.urgent.discard(sensor_id)
        self.forgotten.add(sensor_id)

    def _join(self, sensor_id: int, state: SensorState) -> None:
        self._devices.setdefault(state.device_id, set()).add(sensor_id)
        if state.flapping:
            self._flapping.add(sensor_id)

    def _leave(self, sensor_id: int, state: SensorState) -> None:
        sensors = self._devices[state.device_id]
        sensors.discard(sensor_id)
        if not sensors:
            del self._devices[state.device_id]


def is_past(event: Event) -> bool:
    """Whether an entry of iot:alerts is of an alert that was over before it was known."""
    return event.fields.get("past") == "1"


def human_s(seconds: float) -> str:
    """A duration in words: 0.5 s, 45 s, 12 min, 3.5 h."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _us(text: str) -> int:
    return round(float(text) * 1_000_000)


def _moment(event: Event) -> tuple[int, str]:
    return event.sensor_id, event.fields.get("triggered_at", "")
