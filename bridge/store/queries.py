"""Named queries, read from `.sql` files. A query begins with `-- name: its_name`. Imports no driver."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_OURS = Path(__file__).parent / "sql"


def load(file: str, folder: Path = _OURS) -> dict[str, str]:
    """The queries of `<folder>/<file>.sql`, by name."""
    text = (folder / f"{file}.sql").read_text()
    parts = _NAME.split(text)
    return {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}
