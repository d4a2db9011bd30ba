"""Server processes of ours: they end with us, even when we are killed."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bridge.embedded.private import UMASK, open_private
from bridge.errors import Unavailable

_PR_SET_PDEATHSIG = 1  # prctl(2)
STOP_S = 4.0
START_S = 15.0

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""


class Child:
    """Is a running server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End it: SIGTERM first, SIGKILL after a while."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()


def start_child(name: str, command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> Child:
    """Start a server; its output goes to `folder/name.log`. Without an environment it has ours.

    What it writes is its owner's alone.
    """
    with open_private(folder / f"{name}.log", "a") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            umask=UMASK,
            start_new_session=True,  # Ctrl-C is for us: we stop it in our order
            preexec_fn=partial(_die_with_parent, os.getpid()),
        )
    return Child(process)


def start_server(name: str, what: str, command: list[str], data_dir: Path, address: Address) -> Child:
    """Start a child, and wait until it listens at its address. Raises Unavailable."""
    child = start_child(name, command, data_dir)
    deadline_s = time.monotonic() + START_S
    while not listens(address):
        if time.monotonic() > deadline_s:
            child.stop()
            raise Unavailable(f"{what} did not start; see {data_dir / f'{name}.log'}")
        time.sleep(0.02)
    return child


def until_silent(what: str, address: Address, log: Path, within_s: float = START_S) -> None:
    """Wait until nothing listens at an address any more: a server of ours that was told to end. Raises Unavailable."""
    deadline_s = time.monotonic() + within_s
    while listens(address):
        if time.monotonic() > deadline_s:
            raise Unavailable(f"{what} of a service that is gone has not ended; see {log}")
        time.sleep(0.02)


def listens(address: Address) -> bool:
    """Whether something accepts connections there."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        probe.settimeout(1)
        return probe.connect_ex(address) == 0


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before the kernel knew
        os._exit(1)
