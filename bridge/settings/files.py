"""Files that people name: regular ones, of a bounded size. Raises ConfigError, with a line that names the file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from bridge.errors import ConfigError


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read. A pipe would be waited for and a device has no end: neither is opened."""
    try:
        # Without O_NONBLOCK a pipe without a writer holds us before we can see what it is.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return open(descriptor, "rb")
        os.close(descriptor)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except ValueError as error:  # NUL
        raise ConfigError([f"{str(path)!r}: {error}"]) from error
    raise ConfigError([f"{path}: {'Is a directory' if stat.S_ISDIR(mode) else 'is no regular file'}"])


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a whole file. Raises ConfigError where it has more bytes."""
    with open_regular(path) as file:
        try:
            content = file.read(max_bytes + 1)
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}"]) from error
    if len(content) > max_bytes:
        raise ConfigError([f"{path}: is larger than {max_bytes:,} bytes"])
    return content
