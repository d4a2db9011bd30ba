"""Tells which of our publications the broker refuses: publications and ends of connections in, permissions out. Pure.

Theory of operation
===================

A broker whose access list denies a publication answers in one of three ways:

- With MQTT 5 and QoS 1 it may say so in PUBACK (0x87): then it is known, and nothing else follows.
- It acknowledges, and drops: Mosquitto with MQTT 3.1.1, or at QoS 0. This cannot be known.
- It ends the connection, with or without a reason (Mosquitto with `max_queued_messages 0`, HiveMQ, EMQX with
  `deny_action = disconnect`), often after its PUBACK. Published at each connect, that would be for ever.

The last is told by trial. A kind of publication, small and large apart (a broker may refuse it for its size), is

    FREE ──connections in a row that end within SOON_S of it: SUSPICIOUS──► SUSPECT
    SUSPECT: held back until the connection has been quiet for QUIET_S; then published alone, as a trial
        ──the connection ends all the same, with nothing published──► FREE, cleared for CLEARED_S: it is not the cause
        ──the trial is not followed by an end──► FREE
        ──the trial is followed by an end within SOON_S──► HELD, and said so
    HELD: not published, for RETRY_S at first, then longer; then on trial again

So an end that has another cause (a restart, another client with our client id) convicts nothing, and an end that may
be the answer to a publication is no evidence of another client (`client_id_conflict`). Readings come in all the while.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from bridge.mqtt.own_topics import OwnTopic

SOON_S = 2.0
"""An answer to a publication comes within this time, over a slow link too."""
QUIET_S = 5.0
SUSPICIOUS = 2
CLEARED_S = 60.0
RETRY_S, RETRY_MAX_S = 600.0, 3_600.0
LARGE_BYTES = 4_096
"""A publication from here on may be refused for its size, where smaller ones are taken."""
NOT_AUTHORIZED = 0x87
ANSWERS = frozenset({None, 0x00, 0x80, 0x83, NOT_AUTHORIZED, 0x90})
"""Reasons of DISCONNECT that may answer a publication; the others mean something else, and have words of their own."""


class Permission(Enum):
    """Whether a publication may leave."""

    GRANTED = auto()
    LATER = auto()
    """It is suspected: a trial has to wait."""
    REFUSED = auto()
    """The broker would end the connection."""


class _Standing(Enum):
    FREE = auto()
    SUSPECT = auto()
    HELD = auto()


class PublicationKind(NamedTuple):
    """What is judged as one."""

    topic: OwnTopic
    large: bool


class _Record:
    """What is known of a kind. Times are of the present connection, where not said otherwise."""

    def __init__(self) -> None:
        self.standing = _Standing.FREE
        self.example = ""  # a topic of it
        self.bytes = 0  # of its largest
        self.strikes = 0  # connections in a row that ended soon after it
        self.first_sent_s: float | None = None
        self.trial_s: float | None = None
        self.denied_s: float | None = None  # when PUBACK said no
        self.code: int | None = None  # what PUBACK says of it, over all connections
        self.cleared_until_s = 0.0  # over all connections
        self.held_until_s = 0.0  # likewise
        self.wait_s = RETRY_S


class RefusedPublications:
    """Over all connections of one session. `now_s` is of a monotonic clock."""

    def __init__(self) -> None:
        self._records: dict[PublicationKind, _Record] = {}
        self._is_open = False
        self._quiet_since_s = 0.0

    def begin(self, now_s: float) -> None:
        """The broker has taken us."""
        self._is_open = True
        self._quiet_since_s = now_s
        for record in self._records.values():
            record.first_sent_s = record.trial_s = record.denied_s = None

    def permit(self, kind: PublicationKind, now_s: float) -> Permission:
        """Whether one of a kind may leave now. One that is granted leaves: `sent` follows."""
        record = self._records.get(kind)
        if record is None or self._is_free(record, now_s):
            return Permission.GRANTED
        if record.standing is _Standing.HELD and now_s < record.held_until_s:
            return Permission.REFUSED
        if self._wait_s(record, now_s) > 0:
            return Permission.LATER
        record.trial_s = self._quiet_since_s = now_s
        return Permission.GRANTED

    def sent(self, kind: PublicationKind, topic: str, size: int, now_s: float) -> None:
        """It has left."""
        record = self._records.get(kind)
        if record is None:
            record = self._records[kind] = _Record()
            record.example = topic if kind.topic is OwnTopic.STATUS else kind.topic
        record.bytes = max(record.bytes, size)
        if record.first_sent_s is None:
            record.first_sent_s = now_s
        if record.trial_s is not None:
            record.trial_s = self._quiet_since_s = now_s

    def answered(self, kind: PublicationKind, code: int, now_s: float) -> bool:
        """PUBACK; whether what is refused has changed."""
        record = self._records[kind]
        before, record.code = record.code, code if code >= 0x80 else None
        if record.code is not None:
            record.denied_s = now_s
        return before != record.code

    def ended(self, code: int | None, now_s: float) -> str:
        """The broker has ended the connection: the topic whose publication it may have answered so, or nothing."""
        self._settle_trials(now_s)
        was_open, self._is_open = self._is_open, False
        if not was_open:
            return ""
        if code not in ANSWERS:  # it has said why
            return ""
        suspected = [record for record in self._records.values() if self._may_be_cause(record, now_s)]
        for record in self._records.values():
            if record in suspected:
                self._strike(record, now_s)
            elif record.standing is _Standing.FREE:
                record.strikes = 0
            elif record.standing is _Standing.SUSPECT and not suspected:
                record.standing = _Standing.FREE
                record.strikes = 0
                record.cleared_until_s = now_s + CLEARED_S
        return suspected[0].example if suspected else ""

    def clear(self) -> None:
        """The ends of connections had another cause: what was concluded from them does not hold."""
        for record in self._records.values():
            record.standing = _Standing.FREE
            record.strikes = 0
            record.trial_s = None

    def retry_in_s(self, topic: OwnTopic, now_s: float) -> float | None:
        """When a small publication of this topic is worth another try; None where it is not held back."""
        record = self._records.get(PublicationKind(topic, large=False))
        if record is None:
            return None
        if self._is_free(record, now_s):
            return None
        if record.trial_s is not None:
            return max(0.0, record.trial_s + SOON_S - now_s)
        return max(self._wait_s(record, now_s), record.held_until_s - now_s)

    def told(self, now_s: float) -> dict[str, str]:
        """What the broker refuses: the topic, and what is to be done."""
        self._settle_trials(now_s)
        found: dict[str, str] = {}
        for kind, record in self._records.items():
            if record.standing is _Standing.HELD:
                found[record.example] = _of_end(kind, record)
            elif record.code is not None:
                found[record.example] = _of_answer(kind, record, record.code)
        return found

    def _is_free(self, record: _Record, now_s: float) -> bool:
        if record.standing is not _Standing.FREE:  # the commonest is: there is nothing to look at
            self._settle_trials(now_s)
        return record.standing is _Standing.FREE

    def _may_be_cause(self, record: _Record, now_s: float) -> bool:
        if record.trial_s is not None:
            return now_s - record.trial_s < SOON_S
        return (
            record.standing is _Standing.FREE
            and record.first_sent_s is not None
            and now_s - record.first_sent_s < SOON_S
            and now_s >= record.cleared_until_s
        )

    def _strike(self, record: _Record, now_s: float) -> None:
        said_so = record.denied_s is not None and now_s - record.denied_s < SOON_S
        if record.trial_s is not None or said_so:
            if record.standing is _Standing.HELD:
                record.wait_s = min(RETRY_MAX_S, record.wait_s * 2)
            record.standing = _Standing.HELD
            record.held_until_s = now_s + record.wait_s
            return
        record.strikes += 1
        if record.strikes >= SUSPICIOUS:
            record.standing = _Standing.SUSPECT

    def _settle_trials(self, now_s: float) -> None:
        """Free what was tried, and not answered by an end."""
        for record in self._records.values():
            if self._is_open and record.trial_s is not None and now_s - record.trial_s >= SOON_S:
                record.standing = _Standing.FREE
                record.trial_s = None
                record.strikes = 0
                record.wait_s = RETRY_S

    def _wait_s(self, record: _Record, now_s: float) -> float:
        """Until the connection has been quiet long enough for a trial of it."""
        if record.trial_s is not None:
            return record.trial_s + SOON_S - now_s
        return self._quiet_since_s + QUIET_S - now_s


def _of_end(kind: PublicationKind, record: _Record) -> str:
    minutes = round(record.wait_s / 60)
    why = f"its ACL must allow us to write {kind.topic}"
    if kind.large:
        why = f"it takes only packets of less than {record.bytes} bytes, or its ACL does not let us write {kind.topic}"
    return (
        f"the broker refuses our publish to {record.example}: {why}; it hangs up at each, so we hold it back, and try "
        f"again every {minutes} minutes. Readings come in all the same"
    )


def _of_answer(kind: PublicationKind, record: _Record, code: int) -> str:
    why = f"its ACL must allow us to write {kind.topic}" if code == NOT_AUTHORIZED else f"reason 0x{code:02X}"
    return f"the broker refuses our publish to {record.example}: {why}. Readings come in all the same"
