"""The process that keeps an embedded PostgreSQL for as long as somebody uses it.

    python -m bridge.embedded.postgres_keeper PROGRAM FOLDER SOCKETS UID GID

Whoever uses the server of a data folder holds a shared lock on the file `postgres.users` beside it, which the kernel
gives back at the end of its process, killed or stopped. This process waits for the lock of its own: when it has it,
nobody is left, and it stops the server. Until the server has ended it keeps that lock, so that whoever comes meanwhile
waits. When this process itself is killed, the kernel stops the server. Imports nothing but its neighbours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

from bridge.embedded.file_lock import FileLock
from bridge.embedded.private import UMASK, open_private

USERS, STARTING, KEEPER = "postgres.users", "postgres.starting", "postgres.keeper"
"""Files beside a server's folder: locked by each of its users, by the one who starts it, by its keeper."""
FAST_STOP, CRASH_STOP = signal.SIGINT, signal.SIGQUIT
"""What PostgreSQL takes these signals for: break clients off and stop in order; stop without writing anything more.
https://www.postgresql.org/docs/current/server-shutdown.html"""
FAST_STOP_S, CRASH_STOP_S = 30.0, 5.0
LOOKED_AT_S = 1.0
"""Whoever looks whether there is a keeper has its lock for a moment."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


def keep(program: str, folder: Path, sockets: str, uid: int, gid: int) -> int:
    """Run the server until nobody uses it. Returns its exit code."""
    keeper, users = FileLock(folder.with_name(KEEPER)), FileLock(folder.with_name(USERS))
    if not keeper.take(within_s=LOOKED_AT_S):
        return 0  # another one does
    me = os.getpid()
    with open_private(folder / "log", "a") as output:
        if uid != os.geteuid():
            os.chown(folder / "log", uid, gid)
        server = subprocess.Popen(
            [program, "-D", str(folder), "-h", "", "-k", sockets],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            umask=UMASK,
            preexec_fn=lambda: _become(uid, gid, me),
        )
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(FAST_STOP))
    Thread(target=_stop_when_unused, args=(users, server), daemon=True).start()
    return server.wait()


def _stop_when_unused(users: FileLock, server: subprocess.Popen[bytes]) -> None:
    users.wait()
    for number, within_s in ((FAST_STOP, FAST_STOP_S), (CRASH_STOP, CRASH_STOP_S)):
        server.send_signal(number)
        try:
            server.wait(within_s)
        except subprocess.TimeoutExpired:
            continue
        return
    server.kill()


def _become(uid: int, gid: int, keeper: int) -> None:
    """In the child: the server's user, where PostgreSQL would not run as root; and the end of its keeper is its own."""
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, FAST_STOP)  # the kernel forgets it where the user changes after it
    if os.getppid() != keeper:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
