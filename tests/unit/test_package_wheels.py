"""What a package brings along is what its own machine needs, whichever Python builds it."""

from __future__ import annotations

import pytest

from packages import definition, wheels
from packages.targets import TARGETS, Target
from tests.support.reference import ROOT


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.name)
def test_wheels_of_the_service_are_those_that_debians_python_needs(target: Target) -> None:
    text = wheels.requirements(ROOT, definition.load(ROOT, "iot-bridge"), target)
    assert ("async-timeout==" in text) is (target.suite.codename == "bookworm")  # of redis, below Python 3.11.3
    assert "psycopg-binary==" in text
    assert "apprise==" in text
    assert text.count("\ntyper==") == 1
    assert " ; " not in text
