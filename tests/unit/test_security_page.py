"""docs/security.md: every line of its tables names a test, and the test is there."""

from __future__ import annotations

import re

import pytest

from tests.support import code_names
from tests.support.reference import ROOT

_TEST = re.compile(r"\]\(\.\./(tests/[\w/]+\.py)#(test_\w+)\)")


def page() -> str:
    return (ROOT / "docs" / "security.md").read_text()


def rows() -> list[str]:
    """The lines of its tables, without their heads."""
    lines = page().splitlines()
    heads = {number - 1 for number, line in enumerate(lines) if line.startswith("| --- ")}
    return [
        line
        for number, line in enumerate(lines)
        if line.startswith("| ") and not line.startswith("| --- ") and number not in heads
    ]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[:60])
def test_every_line_names_a_test(row: str) -> None:
    assert _TEST.search(row), row


def test_every_test_that_is_named_is_there() -> None:
    named = _TEST.findall(page())
    assert len(named) >= len(rows())
    assert [found for found in named if not code_names.is_in_module(found[0], [found[1]])] == []


def test_a_test_that_is_gone_is_found() -> None:
    here = "tests/unit/test_security_page.py"
    assert code_names.is_in_module(here, ["test_a_test_that_is_gone_is_found"])
    assert not code_names.is_in_module(here, ["test_gone"])
    assert not code_names.is_in_module("tests/unit/test_gone.py", ["test_gone"])
