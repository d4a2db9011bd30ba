"""A spool that may not be read is unavailable: nothing is set aside or replaced, and it goes on once it may be."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.errors import StoreUnavailable
from edge.spool import access
from tests.support import needs
from tests.support.spool_as_user import NOBODY
from tests.support.spool_site import SpoolFeeder, make_spool, read_all, reading

ROOT = Path(__file__).parents[2]
READINGS = 50

Repair = Callable[[], object]


class OtherProcess:
    """A gateway's process without root's rights."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send_reading(self) -> dict[str, object]:
        """Have it spool a reading; what it says of that."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said: dict[str, object] = json.loads(self._process.stdout.readline())
        return said


@contextmanager
def other_process(folder: Path) -> Iterator[OtherProcess]:
    command = [sys.executable, "-m", "tests.support.spool_as_user", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield OtherProcess(process)
        finally:
            process.kill()


async def fill(folder: Path, other: Path) -> None:
    """Spool readings in `folder`, and copy file and log to `other` as a kill would leave them."""
    alive = make_spool(folder)
    await SpoolFeeder(alive).send(*(reading(n) for n in range(READINGS)))
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(folder / f"spool.db{suffix}", other)
    await alive.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A spool with readings and a log, whose owner is an ordinary user. Not in pytest's folder: that is its user's."""
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer) / "site"
        folder.mkdir()
        asyncio.run(fill(tmp_path, folder))
        for path in (folder, *folder.iterdir()):
            path.chmod(0o700 if path == folder else 0o600)
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
        yield folder


def taken_away(path: Path) -> Repair:
    """As after somebody has run a command as root: the owner may no more."""
    owner = path.stat()
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    else:
        path.chmod(0)

    def give_back() -> None:
        path.chmod(owner.st_mode & 0o777)
        os.chown(path, owner.st_uid, owner.st_gid)

    return give_back


def in_its_place(path: Path, make: Callable[[Path], object]) -> Repair:
    away = path.with_name("away")
    path.rename(away)
    make(path)

    def put_back() -> None:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        away.rename(path)

    return put_back


STATES: dict[str, tuple[Callable[[Path], Repair], str]] = {
    "the file is another's": (lambda site: taken_away(site / "spool.db"), "Permission denied"),
    "its log is another's": (lambda site: taken_away(site / "spool.db-wal"), "Permission denied"),
    "its index is another's": (lambda site: taken_away(site / "spool.db-shm"), "Permission denied"),
    "the folder is another's": (lambda site: taken_away(site), "Permission denied"),
    "a folder in its place": (lambda site: in_its_place(site / "spool.db", Path.mkdir), "is a folder"),
    "a pipe in its place": (lambda site: in_its_place(site / "spool.db", os.mkfifo), "is a pipe"),
    "a loop of links": (
        lambda site: in_its_place(site / "spool.db", lambda path: path.symlink_to(path.name)),
        "lead in a circle",
    ),
    "a file in place of its folder": (lambda site: in_its_place(site, Path.touch), "namei -l"),
}


@pytest.mark.parametrize("state", STATES)
def test_spool_that_may_not_be_read_is_waited_for(site: Path, state: str) -> None:
    fail, says = STATES[state]
    with other_process(site) as process:
        repair = fail(site)
        for _ in range(2):
            said = process.send_reading()
            assert says in str(said["problem"])
            assert said["lost"] == 0
            assert str(site) not in str(said["told"]), "devices are told no path"
        if "another's" in state:
            assert "chown" in str(said["problem"]) or "chmod" in str(said["problem"]) or "namei" in str(said["problem"])
        repair()
        assert process.send_reading() == {"records": READINGS + 1, "imbalance": []}
    assert not list(site.glob("*damaged*")) + list(site.glob("*salvaged*"))


def test_second_gateway_is_locked_out_until_the_first_has_ended(site: Path) -> None:
    with other_process(site) as first, other_process(site) as second:
        assert first.send_reading()["records"] == READINGS + 1
        said = second.send_reading()
        assert "another process" in str(said["problem"])
        assert "stop one of the two" in str(said["problem"])
        assert first.send_reading()["records"] == READINGS + 2
    with other_process(site) as second:
        assert second.send_reading()["records"] == READINGS + 2, "the same reading as the first"


def test_disk_that_is_mounted_read_only_is_waited_for(site: Path) -> None:
    def mount(*options: str) -> bool:
        return not subprocess.run(["mount", *options, str(site)], capture_output=True).returncode

    if os.geteuid() or not mount("--bind", str(site)):
        needs.leave_out(needs.ROOT)
    try:
        assert mount("-o", "remount,bind,ro")
        with other_process(site) as process:
            said = process.send_reading()
            assert "read-only" in str(said["problem"]).lower()
            assert "dmesg" in str(said["problem"])
            assert mount("-o", "remount,bind,rw")
            assert process.send_reading() == {"records": READINGS + 1, "imbalance": []}
    finally:
        subprocess.run(["umount", "--lazy", str(site)], check=True)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.ENODEV, errno.ESTALE, errno.EINTR])
def test_each_fault_of_the_system_says_what_to_do(tmp_path: Path, code: int) -> None:
    said = access.unavailable(tmp_path / "spool.db", OSError(code, os.strerror(code)))
    assert isinstance(said, StoreUnavailable)
    assert os.strerror(code) in said.detail
    assert "{" not in said.detail
    assert len(said.detail.split("; ", 1)[1]) > 10


async def test_log_without_its_file_is_set_aside_and_read(tmp_path: Path) -> None:
    """Somebody has deleted the file: SQLite would delete the log."""
    site = tmp_path / "site"
    site.mkdir()
    await fill(tmp_path / "alive", site)
    (site / "spool.db").unlink()
    spool = make_spool(site)
    await SpoolFeeder(spool).send(reading(1_000))
    while await spool.maintain():
        pass
    assert len(await read_all(spool)) == READINGS + 1
    await spool.close()
