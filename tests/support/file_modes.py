"""Which files and folders others than their owner may open."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_to_others(root: Path) -> list[str]:
    """`mode path` of everything below a folder, and of itself, that its group or the world has any right to.

    A socket is as closed as the folder it stands in. For root the embedded PostgreSQL runs as another user, who must
    pass through the folders above its own.
    """
    others = 0o066 if os.geteuid() == 0 else 0o077
    found = []
    for path in (root, *sorted(root.rglob("*"))):
        mode = path.lstat().st_mode
        if stat.S_ISSOCK(mode) or stat.S_ISLNK(mode):
            continue
        if stat.S_IMODE(mode) & (others if stat.S_ISDIR(mode) else 0o077):
            found.append(f"{stat.S_IMODE(mode):o} {path.relative_to(root)}")
    return found
