"""Publications and ends of connections, against what is made of them."""

from __future__ import annotations

import pytest

from bridge.mqtt.own_topics import OwnTopic
from bridge.mqtt.refused_publications import (
    CLEARED_S,
    NOT_AUTHORIZED,
    QUIET_S,
    RETRY_S,
    SOON_S,
    SUSPICIOUS,
    Permission,
    PublicationKind,
    RefusedPublications,
)

STATUS = PublicationKind(OwnTopic.STATUS, large=False)
SITE = PublicationKind(OwnTopic.SITE, large=False)
LARGE_COMMAND = PublicationKind(OwnTopic.COMMAND, large=True)
TOPICS = {STATUS: "bridge/1/status", SITE: "site/sensors/1", LARGE_COMMAND: "devices/d/commands/c"}


class Broker:
    """One that hangs up at some kinds, and the session that publishes to it. The time is that of the test."""

    def __init__(self, *denied: PublicationKind) -> None:
        self.denied = denied
        self.refused = RefusedPublications()
        self.now_s = 1_000.0
        self.ends = 0
        self.refused.begin(self.now_s)

    def publish(self, *kinds: PublicationKind) -> list[Permission]:
        """Publish, one after the other; a broker that hangs up takes us back at once."""
        permissions = []
        for kind in kinds:
            permissions.append(self.refused.permit(kind, self.now_s))
            if permissions[-1] is Permission.GRANTED:
                self.refused.sent(kind, TOPICS[kind], 10, self.now_s)
        if any(
            kind in self.denied for kind, each in zip(kinds, permissions, strict=True) if each is Permission.GRANTED
        ):
            self.end()
        return permissions

    def end(self, code: int | None = None, after_s: float = 0.1) -> str:
        """End the connection; what it may have answered so."""
        self.now_s += after_s
        self.ends += 1
        suspected = self.refused.ended(code, self.now_s)
        self.refused.begin(self.now_s)
        return suspected

    def run(self, seconds: float, *kinds: PublicationKind) -> None:
        """Publish these at each second."""
        for _ in range(round(seconds)):
            self.publish(*kinds)
            self.now_s += 1.0

    @property
    def told(self) -> dict[str, str]:
        return self.refused.told(self.now_s)


def test_status_that_the_broker_hangs_up_at_is_held_back_and_told() -> None:
    broker = Broker(STATUS)
    broker.run(30, STATUS)
    assert broker.ends == SUSPICIOUS + 1
    assert list(broker.told) == ["bridge/1/status"]
    assert "its ACL must allow us to write bridge/+/status" in broker.told["bridge/1/status"]
    assert broker.publish(STATUS, SITE) == [Permission.REFUSED, Permission.GRANTED]


def test_suspected_publication_is_told_of_only_after_its_trial() -> None:
    broker = Broker(STATUS)
    for _ in range(SUSPICIOUS):
        broker.publish(STATUS)
    assert broker.told == {}
    assert broker.publish(STATUS) == [Permission.LATER]
    broker.now_s += QUIET_S
    assert broker.publish(STATUS) == [Permission.GRANTED]
    assert list(broker.told) == ["bridge/1/status"]


@pytest.mark.parametrize("denied", [STATUS, SITE])
def test_of_two_publications_at_once_the_one_is_found_that_is_refused(denied: PublicationKind) -> None:
    broker = Broker(denied)
    broker.run(60, STATUS, SITE)
    assert list(broker.told) == [TOPICS[denied] if denied is STATUS else "site/#"]
    assert broker.ends == SUSPICIOUS + 1
    other = SITE if denied is STATUS else STATUS
    assert broker.publish(other) == [Permission.GRANTED]


def test_two_refused_publications_are_both_found() -> None:
    broker = Broker(STATUS, SITE)
    broker.run(60, STATUS, SITE)
    assert sorted(broker.told) == ["bridge/1/status", "site/#"]
    assert broker.ends == SUSPICIOUS + 2


def test_broker_that_restarts_right_after_a_publication_convicts_nothing() -> None:
    broker = Broker()
    for _ in range(SUSPICIOUS):
        broker.publish(STATUS)
        assert broker.end() == "bridge/1/status"
    broker.run(QUIET_S + SOON_S + 2, STATUS)
    assert broker.told == {}
    assert broker.publish(STATUS) == [Permission.GRANTED]


def test_connection_that_ends_without_the_publication_clears_it() -> None:
    """As where another client takes our client id again and again."""
    broker = Broker()
    for _ in range(SUSPICIOUS):
        broker.publish(STATUS)
        broker.end()
    assert broker.publish(STATUS) == [Permission.LATER]
    assert broker.end() == ""
    for _ in range(10):
        assert broker.publish(STATUS) == [Permission.GRANTED]
        assert broker.end() == "", "not explained: it is evidence of something else"
    broker.now_s += CLEARED_S
    broker.publish(STATUS)
    assert broker.end() == "bridge/1/status"


def test_publication_that_was_taken_before_is_not_suspected() -> None:
    broker = Broker()
    for _ in range(10):
        broker.run(SOON_S + 2, SITE)
        assert broker.end() == ""
    assert broker.told == {}


def test_held_publication_is_tried_again_rarely_and_then_more_rarely() -> None:
    broker = Broker(STATUS)
    broker.run(30, STATUS)
    ends = broker.ends
    broker.run(RETRY_S - 60, STATUS)
    assert broker.ends == ends
    broker.run(60, STATUS)
    assert broker.ends == ends + 1
    broker.run(2 * RETRY_S - 60, STATUS)
    assert broker.ends == ends + 1
    assert list(broker.told) == ["bridge/1/status"]


def test_held_publication_is_published_again_once_the_broker_takes_it() -> None:
    broker = Broker(STATUS)
    broker.run(30, STATUS)
    broker.denied = ()
    broker.run(RETRY_S, STATUS)
    assert broker.told == {}
    assert broker.publish(STATUS) == [Permission.GRANTED]


def test_retry_of_the_status_is_due_when_it_is_permitted() -> None:
    broker = Broker(STATUS)
    assert broker.refused.retry_in_s(OwnTopic.STATUS, broker.now_s) is None
    for _ in range(SUSPICIOUS):
        broker.publish(STATUS)
    for _ in range(3):
        wait_s = broker.refused.retry_in_s(OwnTopic.STATUS, broker.now_s)
        assert wait_s is not None
        broker.now_s += wait_s
        assert broker.publish(STATUS) == [Permission.GRANTED]


def test_answer_of_mqtt_5_is_told_at_once_and_holds_nothing_back() -> None:
    broker = Broker()
    broker.publish(STATUS)
    assert broker.refused.answered(STATUS, NOT_AUTHORIZED, broker.now_s)
    assert "its ACL must allow us to write bridge/+/status" in broker.told["bridge/1/status"]
    broker.now_s += 10
    assert broker.publish(STATUS) == [Permission.GRANTED]
    assert broker.refused.answered(STATUS, 0, broker.now_s)
    assert broker.told == {}


def test_answer_of_mqtt_5_and_then_the_end_needs_no_trial() -> None:
    broker = Broker()
    broker.publish(STATUS)
    broker.refused.answered(STATUS, NOT_AUTHORIZED, broker.now_s)
    assert broker.end() == "bridge/1/status"
    assert broker.publish(STATUS) == [Permission.REFUSED]


@pytest.mark.parametrize("code", [0x8B, 0x8E, 0x95, 0x98])
def test_end_with_a_reason_of_another_kind_is_no_answer(code: int) -> None:
    broker = Broker()
    for _ in range(10):
        broker.publish(STATUS)
        assert broker.end(code) == ""


def test_large_publication_is_told_with_its_size_and_small_ones_go_on() -> None:
    broker = Broker(LARGE_COMMAND)
    broker.run(30, LARGE_COMMAND)
    assert "it takes only packets of less than 10 bytes" in broker.told["devices/+/commands/+"]
    small = PublicationKind(OwnTopic.COMMAND, large=False)
    assert broker.refused.permit(small, broker.now_s) is Permission.GRANTED


def test_cleared_suspicions_are_forgotten() -> None:
    broker = Broker(STATUS)
    broker.run(30, STATUS)
    broker.refused.clear()
    assert broker.told == {}
    assert broker.publish(STATUS) == [Permission.GRANTED]
