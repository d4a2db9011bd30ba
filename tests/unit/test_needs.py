"""What is left out is said in one line, and in CI it fails."""

from __future__ import annotations

import pytest

from tests.support.needs import MOSQUITTO, MOSQUITTO_PUB, PROMTOOL, ROOT, Need, program, told

ABSENT = Need("no-such-program", "no-such-package")


def test_nothing_left_out_says_nothing() -> None:
    assert told([], [MOSQUITTO]) == []


def test_programs_and_root_are_told_in_one_line() -> None:
    reasons = [MOSQUITTO.reason] * 3 + [ROOT.reason]
    assert told(reasons, [MOSQUITTO, MOSQUITTO_PUB]) == [
        "left out 4 test(s) for want of mosquitto, mosquitto_pub, root; "
        "to have them: apt-get install mosquitto mosquitto-clients, and run as root"
    ]


def test_root_alone_names_no_package() -> None:
    assert told([ROOT.reason], []) == ["left out 1 test(s) for want of root; to have them: run as root"]


def test_other_reasons_are_told_apart() -> None:
    assert told(["slow", PROMTOOL.reason, "slow"], [PROMTOOL]) == [
        "skipped 2: slow",
        "left out 1 test(s) for want of promtool; to have them: apt-get install prometheus",
    ]


def test_missing_program_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^needs no-such-program$"):
        program(ABSENT)


def test_missing_program_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="nothing is left out"):
        program(ABSENT)
