"""The SQL functions: `sql/functions` holds one file for each, of its name. Imports no driver.

`migrate` installs all of them once the migrations are through. The migration that brings a change carries their digest
(`functions = "…"`): by a test, none changes without a migration that takes the change to databases that exist.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "sql" / "functions"


def load(folder: Path = FOLDER) -> dict[str, str]:
    """The statement that makes each function, by the function's name."""
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.sql"))}


def digest(functions: dict[str, str]) -> str:
    """16 hexadecimal digits that change with any of their texts."""
    return hashlib.sha256("\0".join(f"{name}\0{functions[name]}" for name in sorted(functions)).encode()).hexdigest()[
        :16
    ]
