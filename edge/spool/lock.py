"""Who has the spool, and how far it had come: a small file beside it, which outlives the process.

Flows in: totals after each commit. Flows out: StoreUnavailable where another process has the spool; and the totals that
the last process left, against which the next start holds the file. Where the newest commits are gone, with the log that
they stood in, the file itself looks whole: it is only older, and only what stands outside of it can tell.

A line of fixed length is written over in place, without a sync: after a kill it is exact, after a power cut about half
a minute old (vm.dirty_expire_centisecs). It is never ahead of the file, as it is written once a commit is durable.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bridge.errors import StoreUnavailable
from edge.spool import access

_LINE_BYTES = 64
_NUMBER = re.compile("[0-9]{1,18}")
"""SQLite's integers have 63 bits: of a line that a worn card has garbled more may stand there."""


class Left(NamedTuple):
    """How far a spool had come."""

    written: int  # records ever written
    pending: int  # of them, those that were still in the spool


class SpoolLock:
    """Keeps other processes off a spool: flock(2), which ends with the process, however it ends.

    SQLite would let two gateways write by turns, each with a memory of its own of what is there.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._path = spool.with_name(f"{spool.name}-lock")
        self._descriptor: int | None = None
        self.left: Left | None = None
        """What the last process left, then what this one has noted last; None: nothing is known."""

    def take(self) -> None:
        """Take it, unless it is held already. Raises StoreUnavailable where another process has it."""
        if self._descriptor is not None:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise access.unavailable(self._path, error) from error
        pid, left = _parsed(_content(descriptor))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StoreUnavailable(
                f"another process ({pid}) has the spool {self._spool}: stop one of the two, or give each a spool.path "
                f"of its own",
                told=access.TOLD,
            ) from error
        except OSError:  # a file system without locks
            pass
        self._descriptor = descriptor
        self.left = left

    def note(self, written: int | None, pending: int) -> None:
        """Write down how far the spool has come; `written` is None where that is not on the disk yet.

        A disk that does not take it takes nothing away from the spool.
        """
        if self._descriptor is None:
            return
        if written is None:
            written = 0 if self.left is None else self.left.written
        self.left = Left(written, pending)
        line = f"{os.getpid()} {written} {pending}".ljust(_LINE_BYTES - 1) + "\n"
        with suppress(OSError):
            os.pwrite(self._descriptor, line.encode(), 0)

    def release(self) -> None:
        """Give it back, where it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(spool: Path) -> bool:
    """Whether a process has this spool now. Raises StoreUnavailable where that cannot be seen."""
    path = spool.with_name(f"{spool.name}-lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise access.unavailable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _content(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, _LINE_BYTES, 0)
    except OSError:
        return b""


def _parsed(content: bytes) -> tuple[str, Left | None]:
    """The process and the totals in a line; of anything else, nothing."""
    words = content.decode("ascii", errors="replace").split()
    if len(words) != 3 or len(content) != _LINE_BYTES or not all(map(_NUMBER.fullmatch, words)):
        return "?", None
    return words[0], Left(int(words[1]), int(words[2]))
