"""Tells whether the broker refuses us for our will: answers to CONNECT in; whether the next has a will, out. Pure.

A broker whose access list denies the topic of the will may refuse CONNECT for it, with the same code as for a wrong
password (Mosquitto takes it, and drops the will when it is due). Readings are worth more than a will, so:

    WITH ──refused──► PROBE (without) ──refused──► WITH: it is not the will
                        │ taken
                        ▼
                      PROOF (with, at once) ──taken──► WITH: what was wrong is mended
                        │ refused
                        ▼
                      WITHOUT, for RETRY_S; then WITH
"""

from __future__ import annotations

from enum import Enum, auto

from bridge.mqtt.refused_publications import RETRY_S

MAY_BE_THE_WILL = frozenset({0x87, 0x90, 0x99})
"""Not authorized, topic name invalid, payload format invalid (MQTT 5, section 3.2.2.2)."""


class _Phase(Enum):
    WITH = auto()
    PROBE = auto()
    PROOF = auto()
    WITHOUT = auto()


class WillTrial:
    """Over all connections of one session. `now_s` is of a monotonic clock."""

    def __init__(self) -> None:
        self._phase = _Phase.WITH
        self._until_s = 0.0

    @property
    def is_refused(self) -> bool:
        """Whether the broker takes us only without our will."""
        return self._phase is _Phase.WITHOUT

    def wants_will(self, now_s: float) -> bool:
        """Whether the next CONNECT is to have a will."""
        if self._phase is _Phase.WITHOUT and now_s >= self._until_s:
            self._phase = _Phase.WITH
        return self._phase in (_Phase.WITH, _Phase.PROOF)

    def refused(self, code: int, now_s: float) -> None:
        """CONNACK: the broker does not take us."""
        if self._phase is _Phase.PROOF and code in MAY_BE_THE_WILL:
            self._phase = _Phase.WITHOUT
            self._until_s = now_s + RETRY_S
        elif self._phase is _Phase.WITH and code in MAY_BE_THE_WILL:
            self._phase = _Phase.PROBE
        elif self._phase is not _Phase.WITHOUT:
            self._phase = _Phase.WITH

    def accepted(self) -> bool:
        """CONNACK: the broker takes us; False where that is worth nothing yet, and CONNECT is tried with the will."""
        if self._phase is _Phase.PROBE:
            self._phase = _Phase.PROOF
            return False
        if self._phase is _Phase.PROOF:
            self._phase = _Phase.WITH
        return True
