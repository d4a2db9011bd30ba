"""Links of the README and the pages lead somewhere, and the files they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.reference import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_the_text_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:bridge|config|docs|scripts|tests)/[\w./-]+)`", page.read_text()))
    assert [name for name in named if not (ROOT / name).exists()] == []
