"""The SQLite file under the spool: opened, bounded, checkpointed, and set aside where it is damaged.

Flows in: statements of `spool.sql`. Flows out: rows, and errors of ours: StoreUnavailable (disk full,
I/O error, no permission: withhold and try again), StoreRefused (a row that cannot be kept) and Damaged.
Used by one thread at a time. Imports nothing of the gateway but the form of a row.

After an I/O error the connection is dropped. The kernel may have thrown away what a failed fsync did not write,
while reads still show it; so the next connection must first carry the whole log into the file, with writes
and an fsync of its own. Only then is what it shows believed.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog

from bridge.errors import BridgeError, StoreRefused, StoreUnavailable
from bridge.store import queries
from edge.spool import access
from edge.spool.lock import SpoolLock
from edge.spool.rows import SqlRow

log = structlog.get_logger("spool")

APPLICATION_ID = 0x69_6F_74_65  # "iote": PRAGMA application_id, which `file` shows
SCHEMA_VERSION = 1
PAGE_BYTES = 1024
"""A commit of one reading writes three pages: with SQLite's usual 4096 bytes it costs an SD card 21 kB, so 8 kB."""
RESERVE_CHECKPOINTS = 3
"""The reserve on disk, in logs of `checkpoint_bytes`: one is for readings that come, two for what leaves."""
VALUES_AT_ONCE = (128, 16, 1)
"""Rows in one INSERT. A statement for each row would wait for the interpreter lock once a row."""
SUFFIXES = ("", "-wal", "-shm")

T = TypeVar("T")
Connect = Callable[[str], sqlite3.Connection]

_UNAVAILABLE = {
    sqlite3.SQLITE_FULL: "the disk, or the spool, is full",
    sqlite3.SQLITE_IOERR: "I/O error on the spool's disk",
    sqlite3.SQLITE_CANTOPEN: "the spool cannot be opened",
    sqlite3.SQLITE_READONLY: "the spool is read-only",
    sqlite3.SQLITE_PERM: "no permission for the spool",
    sqlite3.SQLITE_BUSY: "another process holds the spool",
    sqlite3.SQLITE_LOCKED: "the spool is locked",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_PROTOCOL: "the spool's locks do not work on this file system",
}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_REFUSED = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH)


class SpoolFull(StoreUnavailable):
    """The spool has reached its limit, or the disk is full."""

    code = "spool_full"


class Damaged(BridgeError):
    """The file can be read, and is not a spool of ours, or not a whole one."""

    code = "spool_damaged"


def connect(path: str) -> sqlite3.Connection:
    """A connection for one thread at a time, without transactions of the driver's own."""
    return sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)


def _open_private(path: str, flags: int) -> int:
    """Open a file that, where it is new, is for its owner alone: readings stand in it."""
    return os.open(path, flags, 0o600)


def any_text(data: bytes) -> str:
    """Decode whatever stands where text should: damage is for the row's CRC to find, not for the driver."""
    return data.decode(errors="replace")


def translate(error: Exception) -> BridgeError:
    """Translate an error of sqlite3 into one of ours, by its result code."""
    if isinstance(error, UnicodeDecodeError):  # SQLite's message quotes a schema that is no text any more
        return Damaged(f"not text where there should be: {error}")
    if not isinstance(error, sqlite3.Error):
        return StoreRefused(f"the spool cannot keep this: {error}")
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return StoreUnavailable(f"the spool says: {error}")
    primary = code & 0xFF
    if primary in _REFUSED:
        return StoreRefused(f"the spool cannot keep this: {error}")
    if primary in _UNAVAILABLE:
        text = f"{_UNAVAILABLE[primary]} ({getattr(error, 'sqlite_errorname', primary)})"
        return SpoolFull(text) if primary == sqlite3.SQLITE_FULL else StoreUnavailable(text)
    if primary in _DAMAGED or primary == sqlite3.SQLITE_ERROR:  # ERROR: a table of ours is not there
        return Damaged(str(error))
    return StoreUnavailable(f"the spool says: {error}")


class SpoolFile:
    """A SQLite file, on one connection. `open` before use."""

    def __init__(self, path: Path, max_bytes: int, checkpoint_bytes: int, *, connect: Connect = connect) -> None:
        self.path = path
        self._checkpoint_bytes = checkpoint_bytes
        self._reserve_path = path.with_name(f"{path.name}-reserve")
        self._reserve_bytes = RESERVE_CHECKPOINTS * checkpoint_bytes
        self.aside_bytes = 2 * checkpoint_bytes + self._reserve_bytes
        """Part of the limit that is not the file's: the log (up to twice its checkpoint size) and the reserve."""
        self.most_pages = (max_bytes - self.aside_bytes) // PAGE_BYTES
        self.sql = queries.load("spool", Path(__file__).parent)
        self._insertions: dict[tuple[str, int], str] = {}  # texts of INSERT, by query and rows
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self.lock = SpoolLock(path)
        self._distrusted = False
        self._synchronous = ""
        self.is_new = False
        self.log_found = False

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self) -> None:
        """Open the file; make it where there is none. `fresh` says which, `log_found` whether it had a log.

        Raises StoreUnavailable, or Damaged where it is not a whole spool of ours: see `set_aside`.
        """
        access.check(self.path)
        self.lock.take()
        if not self.path.exists() and self.log_bytes:
            raise Damaged("there is a log without the file that it is of")
        self.log_found = self.log_bytes > 0
        try:
            os.close(_open_private(str(self.path), os.O_RDWR | os.O_CREAT))  # SQLite gives its log the same mode
            connection = self._connection = self._connect(str(self.path))
            connection.text_factory = any_text
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # these two: of a new file only
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreUnavailable("the file system of the spool cannot hold a write-ahead log")
            self._configure(connection)
            self.is_new = self.one("SELECT count(*) FROM sqlite_schema") == (0,)
            if self.is_new:
                self._create(connection)
            self._check_form()
            self._renew_index(connection)
            if not self.reserve_bytes:
                self.keep_reserve()
        except OSError as error:
            self.close()
            raise access.unavailable(self.path, error) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self.close()
            raise translate(error) from error
        except BridgeError:
            self.close()
            raise

    def _configure(self, connection: sqlite3.Connection) -> None:
        for pragma in (
            "secure_delete = OFF",  # Debian's default would write zeros over what leaves
            "cache_size = -2048",
            f"wal_autocheckpoint = {2 * self._checkpoint_bytes // PAGE_BYTES}",  # should ours not come
            f"max_page_count = {self.most_pages}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        self._synchronise("FULL")
        if self._distrusted:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            if busy:
                raise StoreUnavailable("the spool's log cannot be written back: another process reads it")
            self._distrusted = False

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.executescript(
            f"BEGIN IMMEDIATE; {self.sql['schema']}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        sync_folder(self.path.parent)

    def _check_form(self) -> None:
        (application,) = self.one("PRAGMA application_id")
        (version,) = self.one("PRAGMA user_version")
        if (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
            raise Damaged(f"schema version {version} of application {application:#x} is not this software's")

    def _renew_index(self, connection: sqlite3.Connection) -> None:
        """Make the index of identities again where a former release made it, which took no account of values.

        The form of the file stays: a former release works on with this index. Where there is no room for it, the old
        one stays until the next start.
        """
        found = connection.execute(self.sql["identity_index"]).fetchone()
        wanted = next(text for text in self.sql["schema"].split(";") if "INDEX record_identity" in text)
        wanted = wanted[wanted.index("CREATE") :]
        if found is not None and found[0] != wanted:
            try:
                for statement in ("BEGIN IMMEDIATE", "DROP INDEX record_identity", wanted, "COMMIT"):
                    connection.execute(statement)
            except sqlite3.Error as error:
                self._roll_back()
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise

    def close(self) -> None:
        """Close the connection; the next `open` recovers what the log holds."""
        connection, self._connection, self._synchronous = self._connection, None, ""
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def release(self) -> None:
        """Close, and let other processes have the spool."""
        self.close()
        self.lock.release()

    def distrust(self) -> None:
        """An I/O error: drop the connection and believe nothing that has not been written again."""
        self._distrusted = True
        self.close()

    # -- statements

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable("the spool is not open")
        return self._connection

    def execute(self, query: str, arguments: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a named query. Raises sqlite3.Error; use inside `transaction` or `reading`."""
        return self._open_connection().execute(self.sql[query], arguments)

    def one(self, statement: str) -> SqlRow:
        """The one row of a literal statement."""
        row: SqlRow = self._open_connection().execute(statement).fetchone()
        return row

    def insert(self, query: str, rows: Sequence[Sequence[Any]]) -> int:
        """Insert rows by a query that ends in VALUES; returns how many were new."""
        connection = self._open_connection()
        new = 0
        start = 0
        for size in VALUES_AT_ONCE:
            while len(rows) - start >= size:
                chunk = rows[start : start + size]
                flat = [value for row in chunk for value in row]
                new += connection.execute(self._insertion(query, size, len(chunk[0])), flat).rowcount
                start += size
        return new

    def _insertion(self, query: str, rows: int, columns: int) -> str:
        text = self._insertions.get((query, rows))
        if text is None:
            row = f"({', '.join('?' * columns)})"
            text = self._insertions[query, rows] = f"{self.sql[query]} {', '.join([row] * rows)}"
        return text

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """BEGIN to COMMIT. `durable`: on the disk before this ends; else with the next one that is.

        Raises StoreUnavailable (`in_doubt` where the commit itself failed), StoreRefused or Damaged; then
        nothing of it is there.
        """
        connection = self._connection
        if connection is None:
            raise StoreUnavailable("the spool is not open")
        committing = False
        try:
            self._synchronise("FULL" if durable else "NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            yield
            committing = True
            connection.execute("COMMIT")
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._failed(error, committing=committing) from error
        except BaseException:
            self._roll_back()
            raise

    def _synchronise(self, how: str) -> None:
        """FULL: fsync at each commit. NORMAL: at checkpoints, and with the next commit that is FULL."""
        if how != self._synchronous:
            self._open_connection().execute(f"PRAGMA synchronous = {how}")
            self._synchronous = how

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around statements that only read. Raises StoreUnavailable or Damaged."""
        if self._connection is None:
            raise StoreUnavailable("the spool is not open")
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._failed(error, committing=False) from error

    def _failed(self, error: Exception, *, committing: bool) -> BridgeError:
        self._roll_back()
        fault = translate(error)
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if isinstance(fault, StoreUnavailable) and primary not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
            self.distrust()
            fault.in_doubt = committing
        return fault

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self.distrust()

    # -- size

    def pages(self) -> tuple[int, int]:
        """Pages of the file, and how many of them are free. Raises StoreUnavailable or Damaged."""
        with self.reading():
            return self.one("PRAGMA page_count")[0], self.one("PRAGMA freelist_count")[0]

    @property
    def log_bytes(self) -> int:
        """The write-ahead log on disk."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    def checkpoint(self) -> bool:
        """Write the log back into the file, as far as no reader needs it. False: the disk did not let us."""
        if self._connection is None:
            return False
        try:
            self._synchronise("FULL")
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self._failed(error, committing=False)
            return False
        return True

    def vacuum(self, pages: int) -> None:
        """Give up to `pages` free pages at the end back to the disk; takes effect at the next checkpoint."""
        with self.reading():
            self._synchronise("NORMAL")
            # The pragma frees one page a step, and `execute` makes only the first.
            self._open_connection().executescript(f"PRAGMA incremental_vacuum({pages})")

    # -- the reserve

    @property
    def reserve_bytes(self) -> int:
        """What the reserve takes on disk."""
        try:
            return self._reserve_path.stat().st_size
        except OSError:
            return 0

    def keep_reserve(self) -> None:
        """Hold disk space for the day it is full: without some, not even what is handed over could leave."""
        had = self.reserve_bytes
        if had >= self._reserve_bytes:
            return
        try:
            with open(self._reserve_path, "ab", opener=_open_private) as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, self._reserve_bytes)
                except OSError:
                    file.truncate(had)
        except OSError:
            return
        if not self.reserve_bytes:
            self._reserve_path.unlink(missing_ok=True)

    def give_reserve_to_readings(self) -> bool:
        """Let go of the part of the reserve that is for what comes in; False where that is gone already."""
        self.checkpoint()
        left = self._reserve_bytes - self._checkpoint_bytes
        if self.reserve_bytes <= left:
            return False
        os.truncate(self._reserve_path, left)
        log.warning("spool_reserve_used", left_bytes=left)
        return True

    def with_reserve(self, work: Callable[[], T]) -> T:
        """Do what frees space; where the disk is too full for that, write the log back, then let go of the reserve."""
        try:
            return work()
        except SpoolFull:
            self.checkpoint()
        try:
            return work()
        except SpoolFull:
            if not self.reserve_bytes:
                raise
        self._reserve_path.unlink(missing_ok=True)
        log.warning("spool_reserve_spent")
        self.checkpoint()
        return work()


def set_aside(path: Path, now: str) -> Path:
    """Move a spool that cannot be used, with its log, to a dated name. Raises StoreUnavailable."""
    aside = path.with_name(f"{path.name}.damaged-{now}-{secrets.token_hex(2)}")
    try:
        for suffix in SUFFIXES:
            with suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        os.close(_open_private(str(aside), os.O_WRONLY | os.O_CREAT))  # where there was a log alone
        with suppress(FileNotFoundError):
            os.unlink(f"{aside}-shm")  # an index of the log, made again at need
        sync_folder(path.parent)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be set aside: {error.strerror}") from error
    return aside


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable: a new file's name is lost with the power as its pages are."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
