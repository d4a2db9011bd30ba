"""Files of a gateway are for its user alone: keys, hashes of keys and readings stand in them.

`keep_new_files_private` sees to what this process and its children make; what makes a file names its mode as well, for
commands. `narrow` sees to what an earlier release has left.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import structlog

log = structlog.get_logger("app")

OTHERS = 0o077
FILE_MODE, FOLDER_MODE = 0o600, 0o700


def keep_new_files_private() -> None:
    """Have nobody else read what this process makes from now on."""
    os.umask(OTHERS)


def become_owner(folder: Path) -> None:
    """Have root go on as the folder's owner: what it made there as root, the gateway could not use. Raises OSError."""
    if os.geteuid() != 0 or not folder.exists():
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        os.setgroups([owner.st_gid])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def make_folder(folder: Path, owner: tuple[int, int] | None = None) -> None:
    """Make a folder where there is none, and those above it. Raises OSError.

    `owner` (user and group) gets what is made, where root makes it for the gateway.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(FOLDER_MODE, exist_ok=True)
        if owner is not None and os.geteuid() == 0:
            os.chown(each, *owner)
    if not missing:
        folder.mkdir(FOLDER_MODE, exist_ok=True)  # says so where a file has its name


def open_private(path: str, flags: int) -> int:
    """Open a file as the `opener` of `open`: one that is new is for its owner alone."""
    return os.open(path, flags, FILE_MODE)


def narrow(data_dir: Path, spool: Path) -> None:
    """Take from others what they may do with files that are there. The spool's folder may be shared, and stays."""
    wide = [path for path in _own(data_dir, spool) if _narrowed(path)]
    if wide:
        log.warning("modes_narrowed", files=[str(path) for path in wide])


def _own(data_dir: Path, spool: Path) -> Iterable[Path]:
    yield data_dir
    names = (
        "enrolment.*",
        "client_id*",
        "registry.json*",
        "alarms.json*",
        "refused.jsonl*",
        "running.json*",
        "mosquitto*",
    )
    for name in names:
        yield from data_dir.glob(name)
    yield from spool.parent.glob(f"{spool.name}*")


def _narrowed(path: Path) -> bool:
    """Whether it was open to others, and is no more. Neither links nor what belongs to others is touched."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or not found.st_mode & OTHERS:
            return False
        path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
    except OSError as error:
        log.error("mode_not_narrowed", file=str(path), detail=str(error))
        return False
    return True
