"""Plugs that are pulled while devices send, and what must be true afterwards."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

from tests.acceptance.field import moments
from tests.field.conftest import FieldSite
from tests.support.servers import wait_until

LONGEST_S = 4.0
"""A boot takes about one second: some plugs are pulled before its end."""
AUTOSAVE_S = 5.0
"""autosave_interval in Mosquitto's file, edge/host/installed/mosquitto-keys.conf."""
LATE_S = 2.0
"""By which Mosquitto may be late with it, on a busy machine."""
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
            pulled_s.append(time.monotonic())
            field.machine.switch_on()
        field.machine.await_running()
    drained(field)
    kept = {door: judge(field, door) for door in field.senders.acknowledged}
    sys.stderr.write(f"{field.debian.suite}: {kills} plugs pulled: {kept}\n")
    assert kept["http"].lost == kept["http"].doubled == 0, kept
    # Mosquitto alone had them: it keeps messages in memory between two autosaves.
    assert kept["mqtt"].doubled == 0, kept
    acknowledged = field.senders.acknowledged["mqtt"]
    for number in missing(field, "mqtt"):
        assert any(0 <= pull_s - acknowledged[number] <= AUTOSAVE_S + LATE_S for pull_s in pulled_s), number
    assert all(of_door.acknowledged > kills // 2 for of_door in kept.values()), "nothing was sent meanwhile"
    return kept


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
