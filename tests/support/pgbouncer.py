"""A real pgbouncer before a PostgreSQL of the tests, on a free port of the loopback."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.redis_process import free_port
from tests.support.servers import START_S, listens, wait_until

SERVERS_USER = "pgserver"
"""Whom the wheel runs PostgreSQL as for root, and who alone may enter the folder of its socket."""


class Pgbouncer:
    """It asks for no password. `extra`: more lines of its configuration, section [pgbouncer]."""

    def __init__(self, program: str, folder: Path, socket_folder: str, *extra: str, mode: str = "transaction") -> None:
        self._command = [program, str(folder / "pgbouncer.ini")]
        if os.geteuid() == 0:  # it refuses to run as root
            self._command[1:1] = ["-u", SERVERS_USER]
        self._log = folder / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        (folder / "users.txt").write_text('"postgres" ""\n')
        lines = [
            "[databases]",
            f"* = host={socket_folder}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = trust",
            f"auth_file = {folder / 'users.txt'}",
            f"pool_mode = {mode}",
            "default_pool_size = 3",
            *extra,
        ]
        (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        folder.chmod(0o755)

    def url_of(self, database: str) -> str:
        """The URL of a database through it."""
        return f"postgresql://postgres:@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns once it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(lambda: listens(self.port), START_S)
        except TimeoutError:
            raise TimeoutError(self._log.read_text()) from None

    def stop(self) -> None:
        """At once, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(START_S)
            self._process = None
