"""Whether the spool's files may be used at all, and what to do where they may not. Looks, and changes nothing.

Flows in: the path of a spool. Flows out: nothing, or StoreUnavailable, which says why and what to do. What may not be
read is not damaged: it is neither set aside nor replaced, and everything is withheld until it can be read.

SQLite would say "cannot open" of most of this, and the reasons have different remedies.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from bridge.errors import StoreUnavailable

TOLD = "the gateway cannot use its spool"
"""What devices and strangers read: paths and users are for whoever runs the gateway."""

_REMEDIES = {
    errno.EROFS: "its file system is mounted read-only, as Linux does after a fault: look at dmesg, and at the card",
    errno.EIO: "the disk does not answer: look at dmesg; the card may be worn out",
    errno.ENOTDIR: "a file stands where a folder should be: namei -l {path}",
    errno.ELOOP: "its links lead in a circle: namei -l {path}",
    errno.EISDIR: "a folder stands in its place: move it away",
    errno.EMFILE: "the gateway has too many files open",
    errno.ENFILE: "the host has too many files open",
    errno.ENOSPC: "the disk is full: df {folder}",
    errno.EDQUOT: "the disk quota of the gateway's user is used up",
    errno.ENXIO: "the disk is not there: is it mounted?",
    errno.ENODEV: "the disk is not there: is it mounted?",
    errno.ESTALE: "the network file system has lost it: mount it again",
}
_DENIED = (errno.EACCES, errno.EPERM)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def unavailable(path: Path, error: OSError) -> StoreUnavailable:
    """Say why a file of the spool cannot be used, and what to do."""
    if error.errno in _DENIED:
        remedy = _whose(path)
    else:
        remedy = _REMEDIES.get(error.errno or 0, "look at dmesg").format(path=path, folder=path.parent)
    return StoreUnavailable(f"{path}: {error.strerror}; {remedy}", told=TOLD)


def check(path: Path) -> None:
    """Try the folder, and those of the spool's files that are there. Raises StoreUnavailable."""
    folder = path.parent
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise unavailable(folder, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from error
    except OSError as error:
        raise unavailable(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        read_only = os.access(folder, os.R_OK) and os.statvfs(folder).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise unavailable(folder, OSError(code, os.strerror(code)))
    for suffix in ("", "-wal", "-shm"):
        _try(Path(f"{path}{suffix}"), opens=suffix != "-shm")


def _try(path: Path, *, opens: bool) -> None:
    """Open a file that is there as SQLite will.

    Not the one that SQLite's locks are on (`-shm`): to close it would end those of a reader in this process.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind != stat.S_IFREG:
            detail = f"{path} is {_KINDS.get(kind, 'no file')}, and the spool's file should stand there: move it away"
            raise StoreUnavailable(detail, told=TOLD)
        if opens:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        elif not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        return
    except OSError as error:
        raise unavailable(path, error) from error


def _whose(path: Path) -> str:
    me = _user(os.geteuid())
    try:
        found = path.stat()
    except OSError:
        return f"the user {me} may not enter a folder above it: namei -l {path}"
    mode = f"{stat.S_IMODE(found.st_mode):o}"
    if found.st_uid == os.geteuid():
        return f"its mode is {mode}: sudo chmod u+rwX {path}"
    return f"it belongs to {_user(found.st_uid)} (mode {mode}), and this runs as {me}: sudo chown {me}: {path}"


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)
