"""Folders and sockets of their owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bridge.embedded import private
from bridge.errors import ConfigError


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / f"iot-bridge-{os.geteuid()}"


def test_a_short_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert private.socket_path(Path("/srv/b"), "redis.sock") == Path("/srv/b/redis.sock")


def test_the_longest_path_that_a_socket_takes() -> None:
    room = private.SOCKET_PATH_BYTES - len("/redis.sock")
    longest = Path("/" + "a" * (room - 1))
    assert private.socket_path(longest, "redis.sock").parent == longest


def test_a_long_path_is_replaced_by_one_of_the_runtime_folder(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    one, other = (private.socket_path(Path("/srv") / (letter * 100), "redis.sock") for letter in "ab")
    assert one.parent == other.parent == short_dir / f"iot-bridge-{os.geteuid()}"
    assert one != other
    assert stat.S_IMODE(one.parent.stat().st_mode) == 0o700


def test_umlauts_count_as_bytes(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    assert private.socket_path(Path("/srv/" + "ü" * 60), "redis.sock").is_relative_to(short_dir)


def test_a_runtime_folder_that_others_may_write_to_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write there"):
        private.runtime_folder()


def test_a_runtime_folder_that_is_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(0o700)
    runtime.symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError):
        private.runtime_folder()


def test_a_file_that_was_readable_is_closed_as_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    path.touch(0o644)
    with private.open_private(path, "w") as file:
        file.write("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_an_earlier_release_has_left_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir(0o755)
    (folder / "dump.rdb").touch(0o644)
    private.make_private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "dump.rdb").stat().st_mode) == 0o600
