"""Folders, files and sockets that nobody but their owner may open.

Whoever reaches the socket of the embedded PostgreSQL or Redis may do there what its owner may, so that the folder
around it is the lock on its door.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

from bridge.errors import ConfigError

UMASK = 0o077
SOCKET_PATH_BYTES = 107
"""Longest path of a socket: unix(7) has 108 bytes with the NUL at its end."""


def make_private_folder(folder: Path) -> Path:
    """Make a folder for its owner alone; what an earlier release has left in it is closed to others, too."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for path in folder.iterdir():
        if stat.S_ISREG(path.lstat().st_mode):
            path.chmod(0o600)
    return folder


def open_private(path: Path, mode: str) -> IO[str]:
    """Open a text file that only its owner may read, whatever the umask."""
    # The caller closes it.
    file: IO[str] = open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
    os.fchmod(file.fileno(), 0o600)
    return file


def socket_path(folder: Path, name: str) -> Path:
    """Where a socket goes: into `folder`; where that path is too long, into the runtime folder. Raises ConfigError."""
    wanted = folder / name
    if len(os.fsencode(wanted)) <= SOCKET_PATH_BYTES:
        return wanted
    short = runtime_folder() / f"{sha256(os.fsencode(folder)).hexdigest()[:16]}-{name}"
    if len(os.fsencode(short)) > SOCKET_PATH_BYTES:
        raise ConfigError([f"{short}: too long for a socket; set XDG_RUNTIME_DIR or TMPDIR to a shorter folder"])
    return short


def runtime_folder() -> Path:
    """The folder of this user for sockets and locks. Raises ConfigError where somebody else has made it."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(base if base and os.access(base, os.W_OK) else tempfile.gettempdir()) / f"iot-bridge-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError([f"{folder}: {error.strerror}"]) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError([f"{folder}: belongs to somebody else, or others may write there; remove it"])
    return folder


@contextmanager
def private_umask() -> Iterator[None]:
    """Whatever is made meanwhile, by us or a child, is its owner's alone."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)
