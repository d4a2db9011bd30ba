"""Answers to CONNECT, against whether the next one has a will."""

from __future__ import annotations

from bridge.mqtt.refused_publications import RETRY_S
from bridge.mqtt.will_trial import WillTrial


def connect(trial: WillTrial, *, denies_will: bool = False, denies_us: bool = False, now_s: float = 0.0) -> bool:
    """Once; whether we are connected then."""
    if denies_us or (trial.wants_will(now_s) and denies_will):
        trial.refused(0x87, now_s)
        return False
    return trial.accepted()


def test_will_that_is_refused_is_left_out_and_tried_again_later() -> None:
    trial = WillTrial()
    assert [connect(trial, denies_will=True) for _ in range(5)] == [False, False, False, True, True]
    assert trial.is_refused
    assert not connect(trial, denies_will=True, now_s=RETRY_S + 1)
    assert not trial.is_refused


def test_wrong_password_says_nothing_of_the_will() -> None:
    trial = WillTrial()
    for refusals in range(1, 6):
        for _ in range(refusals):
            assert not connect(trial, denies_us=True)
        while not connect(trial):
            pass
        assert not trial.is_refused
        assert trial.wants_will(0.0)


def test_broker_that_is_busy_says_nothing_of_the_will() -> None:
    trial = WillTrial()
    trial.refused(0x89, 0.0)
    assert trial.wants_will(0.0)
    assert trial.accepted()
