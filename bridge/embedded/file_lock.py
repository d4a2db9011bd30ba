"""Locks on files, which the kernel gives back when their process ends, however it ends: flock(2)."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from bridge.embedded.private import open_private

STEP_S = 0.01


class FileLock:
    """One process's lock on a file: shared with others, or its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def take(self, *, shared: bool = False, within_s: float = 0.0) -> bool:
        """Take the lock; False where others have it for longer than `within_s`."""
        file = open_private(self._path, "w")
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    file.close()
                    return False
                time.sleep(STEP_S)
            else:
                self._file = file
                return True

    def wait(self) -> None:
        """Take the lock for this process alone, however long that takes."""
        file = open_private(self._path, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file

    def release(self) -> None:
        """Give it back, where it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def is_free(self, *, shared: bool = False) -> bool:
        """Whether it could be taken now. For that it is taken, for a moment."""
        if not self.take(shared=shared):
            return False
        self.release()
        return True
