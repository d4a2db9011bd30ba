"""The commands of a page of the documentation, as they are written."""

from __future__ import annotations

import re

from tests.field.debian import PROJECT


def commands(page: str) -> dict[str, str]:
    """The blocks marked `sh` of docs/`page`, by the heading that they stand under."""
    found: dict[str, str] = {}
    heading = ""
    for part in re.finditer(r"^#+ ([^\n]+)$|^```sh\n(.*?)^```", (PROJECT / "docs" / page).read_text(), re.M | re.S):
        if part[1]:
            heading = part[1]
        else:
            found[heading] = found.get(heading, "") + part[2]
    return found
