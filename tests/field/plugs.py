"""Plugs that are pulled while devices send, and what must be true afterwards."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from typing import NamedTuple

from tests.acceptance.field import moments
from tests.field.conftest import FieldSite
from tests.support.servers import wait_until

LONGEST_S = 4.0
"""A boot takes about one second: some plugs are pulled before its end."""
AUTOSAVE_S = 6.0
"""Mosquitto saves once more than autosave_interval has passed, 5 s, and counts whole seconds."""
LATE_S = 2.0
"""By which Mosquitto and the gateway may be late, on a busy machine."""
ARRIVED_S = 180.0


class Kept(NamedTuple):
    """What became of the readings of a door."""

    acknowledged: int
    stored: int
    lost: int
    doubled: int


def pull_plugs(field: FieldSite, kills: int, seed: int) -> dict[str, Kept]:
    """Pull the plug at random moments of boot and run, and hold what is stored against what was acknowledged."""
    pulled_s = []
    with field.senders.sending():
        for pause_s in moments(seed, kills, LONGEST_S):
            time.sleep(pause_s)
            field.machine.pull_plug()
            field.machine.switch_on()
            pulled_s.append(time.monotonic())  # what is acknowledged from now on, Mosquitto has started for
        field.machine.await_running()
    drained(field)
    kept = {door: judge(field, door) for door in field.senders.acknowledged}
    sys.stderr.write(f"{field.debian.suite}: {kills} plugs pulled: {kept}; {runs(field, pulled_s)}\n")
    assert kept["http"].lost == kept["http"].doubled == 0, kept
    assert kept["mqtt"].doubled == 0, kept
    for run in runs(field, pulled_s):
        # Mosquitto alone had them, in memory: what was under way, or all of a boot whose gateway was not up yet.
        window_s = LATE_S if run.gateway_took > run.lost else AUTOSAVE_S + LATE_S
        assert run.oldest_lost_s <= window_s, run
    assert all(of_door.acknowledged > kills // 2 for of_door in kept.values()), "nothing was sent meanwhile"
    return kept


class Run(NamedTuple):
    """What became of what Mosquitto acknowledged between two pulls."""

    gateway_took: int
    lost: int
    oldest_lost_s: float
    """Before the pull."""


def runs(field: FieldSite, pulled_s: list[float]) -> list[Run]:
    """Each time between two pulls in which a reading was lost over MQTT."""
    acknowledged = field.senders.acknowledged["mqtt"]
    lost = missing(field, "mqtt")
    assert all(acknowledged[number] <= pulled_s[-1] for number in lost), "lost without a pull"
    found = []
    for began_s, pull_s in pairwise([0.0, *pulled_s]):
        of_run = {number for number, at_s in acknowledged.items() if began_s < at_s <= pull_s}
        if gone := of_run & lost:
            oldest_s = max(pull_s - acknowledged[number] for number in gone)
            found.append(Run(len(of_run - lost), len(gone), round(oldest_s, 2)))
    return found


def drained(field: FieldSite) -> None:
    """Wait until broker and gateway have handed everything over: what was sent last is stored, and nothing waits."""
    last = {door: max(taken, default=0) for door, taken in field.senders.acknowledged.items()}
    with field.senders.sending():
        wait_until(lambda: all(max(numbers(field, door), default=0) > last[door] for door in last), ARRIVED_S)
    wait_until(lambda: '"records":0' in field.machine.run("iot-edge status --json", expect=None).out, ARRIVED_S)


def judge(field: FieldSite, door: str) -> Kept:
    stored = numbers(field, door)
    return Kept(
        len(field.senders.acknowledged[door]),
        len(set(stored)),
        len(missing(field, door)),
        len(stored) - len(set(stored)),
    )


def missing(field: FieldSite, door: str) -> set[int]:
    """What was acknowledged and is not at the service."""
    return field.senders.acknowledged[door].keys() - set(numbers(field, door))


def numbers(field: FieldSite, door: str) -> list[int]:
    return [number for number in field.service.stored(field.device.sensors[door]) if number is not None]
