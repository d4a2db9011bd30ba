"""Server processes of ours: they end with us, even when we are killed."""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
STOP_S = 4.0


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
    """Start a server; its output goes to `folder/name.log`. Without an environment it has ours."""
    with (folder / f"{name}.log").open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us: we stop it in our order
            preexec_fn=_die_with_parent,
        )
    return Child(process)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
