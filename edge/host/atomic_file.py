"""Small files that must survive a pulled plug: written whole or not at all.

Flows in: bytes. Flows out: a file in their place, on the disk when `replace` returns.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edge.host.private_files import FILE_MODE, make_folder


def replace(path: Path, content: bytes, *, mode: int = FILE_MODE, keep: Path | None = None) -> None:
    """Put `content` in the place of a file; what was there becomes `keep`. Raises OSError.

    The file belongs to whoever owns its folder: commands are run as root, the gateway is not.
    """
    make_folder(path.parent)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if os.geteuid() == 0:  # by the descriptor: who owns the folder may put something else under the name meanwhile
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)
    if keep is not None:
        with suppress(FileNotFoundError):
            path.replace(keep)
    new.replace(path)
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file where it is there, for good. Raises OSError."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync the folder: the new name is on the disk only once the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
