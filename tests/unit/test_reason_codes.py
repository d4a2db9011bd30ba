"""docs/reason-codes.md has every code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from bridge.model.reading import Code

PAGE = Path(__file__).parents[2] / "docs" / "reason-codes.md"


def test_every_code_stands_in_the_page_with_cause_and_remedy() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (first|last) \|$", PAGE.read_text(), re.MULTILINE)
    assert [code for code, *_ in rows] == [code.value for code in Code]
    assert all(len(cause) > 20 and len(remedy) > 10 for _, cause, remedy, _ in rows)
    assert {code: thinned == "last" for code, *_, thinned in rows} == {code.value: code.has_remedy for code in Code}
