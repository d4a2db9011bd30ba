"""Spool files that an engineer brings back: handed over by `iot-edge spool import`, read by the gateway that runs.

Flows in: a file, whole or damaged, with its log. Flows out: a copy in the spool's folder, under a name that says which
gateway wrote it and what is in it (`<spool>.import-<gateway>-<fingerprint>`). Only the process that has the spool
ever writes to it; it finds the copy within a second, or at its next start, and brings its rows over as it does those of
a damaged spool (`edge/spool/recovery.py`). The fingerprint is of file and log: the same is not read twice.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bridge.errors import ConfigError
from edge.spool.file import APPLICATION_ID, SCHEMA_VERSION, sync_folder
from edge.spool.pages import DamagedFile
from edge.spool.rows import READING_COLUMNS, is_whole, is_whole_refused

REFUSED_COLUMNS = 13
MAX_LOG_BYTES = 256 * 1024 * 1024
"""A log is written back at a few MiB; its index is held in memory while it is read."""
LEAST_FREE_BYTES = 16 * 1024 * 1024
"""What a copy leaves of the disk, at the least: the running spool needs its log."""
_COPY_BYTES = 1 << 20
_PROGRESS_PAGES = 2_000
_PARTIAL = re.compile(r"\.partial-([0-9]+)(?:-wal)?$")
_NAME = re.compile(r"\.import-(?P<gateway>[a-z0-9-]{0,63})-(?P<print>[0-9a-f]{16})$")

Progress = Callable[[int, int], None]
"""Told how many pages of how many have been looked at."""


class Contents(NamedTuple):
    """What a file holds, by the CRC of each row."""

    readings: int
    quarantined: int
    damaged: int  # rows that are not what was written


def gateway_of(file: str) -> str | None:
    """The gateway that wrote a file that was handed over, by its name; None where the file is none of these."""
    match = _NAME.search(file)
    return None if match is None else match["gateway"]


def files_to_import(spool: Path) -> list[str]:
    """The names of files beside a spool that wait to be read, or are being read."""
    return sorted(file.name for file in spool.parent.glob(f"{spool.name}.import-*") if _NAME.search(file.name))


def drop(copy: Path) -> None:
    """Delete a copy that has been read. Raises OSError."""
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)


def open_source(path: Path, most_bytes: int) -> BinaryIO:
    """Open what is to be imported: a file, and no link, folder or device. Raises ConfigError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        link = "; it is a link: name the file itself" if path.is_symlink() else ""
        raise ConfigError([f"{path}: {error.strerror}{link}"]) from None
    found = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "is no file"
    elif not found.st_size and most_bytes != MAX_LOG_BYTES:
        problem = "is empty"
    elif found.st_size > most_bytes:
        problem = (
            f"has {found.st_size} bytes, and at most {most_bytes} are read (spool.max_bytes, or the log's own limit)"
        )
    if problem:
        os.close(descriptor)
        raise ConfigError([f"{path}: {problem}"])
    return os.fdopen(descriptor, "rb")


def look(path: Path, progress: Progress = lambda done, pages: None) -> Contents:
    """Count what can be brought back of a file with its log. Raises ConfigError where it is of a later schema."""
    file = DamagedFile(path)
    counts = [0, 0, 0]
    try:
        _check_version(path, file.page(1)[:100])
        for number in range(1, file.pages + 1):
            for row in file.rows(number):
                if len(row) == READING_COLUMNS:
                    counts[0 if is_whole(row) else 2] += 1
                elif len(row) == REFUSED_COLUMNS:
                    counts[1 if is_whole_refused(row) else 2] += 1
            if number % _PROGRESS_PAGES == 0:
                progress(number, file.pages)
        progress(file.pages, file.pages)
    finally:
        file.close()
    return Contents(*counts)


def _check_version(path: Path, header: bytes) -> None:
    """ "Database File Format", sqlite.org/fileformat2.html, 1.3: user_version at 60, application_id at 68."""
    if len(header) < 100 or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        return  # of a damaged file the rows tell what they are
    version = int.from_bytes(header[60:64], "big")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            [f"{path}: is of schema {version}, and this release reads up to {SCHEMA_VERSION}: upgrade, then import it"]
        )


def copy_beside(source: Path, spool: Path, gateway: str, max_bytes: int) -> Path:
    """Copy a file and its log to where the gateway that has `spool` finds it; returns the copy. Raises ConfigError.

    The copy belongs to whom the folder belongs to: this may be root, and the gateway is not.
    """
    folder = spool.parent
    with ExitStack() as files:
        parts = [("", files.enter_context(open_source(source, max_bytes)))]
        with suppress(FileNotFoundError):
            log_file = Path(f"{source}-wal")
            log_file.lstat()
            parts.append(("-wal", files.enter_context(open_source(log_file, MAX_LOG_BYTES))))
        if any(os.path.samefile(source, other) for other in (spool,) if other.exists()):
            raise ConfigError([f"{source}: is the spool that the gateway works with"])
        size = sum(os.fstat(part.fileno()).st_size for _, part in parts)
        try:
            status = os.statvfs(folder)
            if status.f_bavail * status.f_frsize < size + LEAST_FREE_BYTES:
                raise ConfigError(
                    [f"{folder}: no room for a copy of {size} bytes; make room on the disk: df -h {folder}"]
                )
            return _copy(parts, spool, gateway, os.stat(folder))
        except OSError as error:
            raise ConfigError([f"{folder}: {error.strerror}; run this as root or as the gateway's user"]) from None


def _copy(parts: list[tuple[str, BinaryIO]], spool: Path, gateway: str, owner: os.stat_result) -> Path:
    _drop_partial(spool)
    hashed = sha256()
    made: list[tuple[str, Path]] = []
    try:
        for suffix, source in parts:
            partial = spool.with_name(f"{spool.name}.partial-{os.getpid()}{suffix}")
            made.append((suffix, partial))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, 0o600), "wb") as copy:
                while data := source.read(_COPY_BYTES):
                    hashed.update(data)
                    copy.write(data)
                copy.flush()
                os.fsync(copy.fileno())
                if os.geteuid() == 0:
                    os.fchown(copy.fileno(), owner.st_uid, owner.st_gid)
            hashed.update(b"|")
        copy_path = spool.with_name(f"{spool.name}.import-{gateway}-{hashed.hexdigest()[:16]}")
        for suffix, partial in reversed(made):  # the log first: with the file's name it is there to be found
            os.replace(partial, f"{copy_path}{suffix}")
        sync_folder(spool.parent)
        return copy_path
    finally:
        for _, partial in made:
            partial.unlink(missing_ok=True)


def _drop_partial(spool: Path) -> None:
    """Delete what copies have left whose process was killed: as large as a spool, and nobody else looks for it."""
    for partial in spool.parent.glob(f"{spool.name}.partial-*"):
        found = _PARTIAL.search(partial.name)
        if found and (found[1] == str(os.getpid()) or not Path("/proc", found[1]).exists()):
            partial.unlink(missing_ok=True)
