"""Named queries, read from `sql/*.sql`. A query begins with `-- name: its_name`."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def load(file: str) -> dict[str, str]:
    """The queries of `sql/<file>.sql`, by name."""
    text = (Path(__file__).parent / "sql" / f"{file}.sql").read_text()
    parts = _NAME.split(text)
    return {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}
