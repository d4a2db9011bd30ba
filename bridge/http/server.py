"""Runs uvicorn within a process that has other things to do; starts and stops in order."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import uvicorn

from bridge.errors import ConfigError
from bridge.http.connection_limits import HttpBudgets, LimitedProtocol
from bridge.http.graceful_shutdown import GracefulShutdown
from bridge.http.heap import give_back_large_blocks
from bridge.settings.http import HttpSettings
from bridge.telemetry import Metrics


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Signals belong to the process, not to one of its parts."""
        return nullcontext()


class HttpServer:
    """Serves an ASGI app: `start`, then `stop` once."""

    def __init__(self, app: Any, settings: HttpSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._requests = GracefulShutdown(app)
        self._server = _Server(
            uvicorn.Config(
                self._requests,
                http=cast(
                    Any, partial(LimitedProtocol, settings, metrics, HttpBudgets(settings, metrics))
                ),  # uvicorn calls it like a class
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=round(settings.keep_alive_s),
                timeout_graceful_shutdown=None,
                backlog=2048,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen. Returns the URL. Raises ConfigError where the address cannot be used."""
        give_back_large_blocks()
        host, port = self._settings.host, self._settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            of_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            wrong = (
                f"http.host = {host!r}: cannot listen there"
                if of_host
                else f"http.port = {port}: cannot listen on {host}"
            )
            raise ConfigError([f"{wrong}: {error.strerror}"]) from error
        self._task = asyncio.create_task(self._server.serve([sock]), name="http")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        bound = sock.getsockname()[1]
        return f"http://[{host}]:{bound}" if family == socket.AF_INET6 else f"http://{host}:{bound}"

    async def stop(self, deadline_s: float) -> None:
        """Stop listening and let requests under way finish; those that have not by then are answered 503."""
        if self._task is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=deadline_s)
        if not done:
            await self._requests.end_waiting()
            self._server.force_exit = True
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        for connection in list(self._server.server_state.connections):  # late ones: nothing more comes in by them
            transport: asyncio.Transport = connection.transport
            transport.abort()
