"""`iot-edge check` on disks that are full, read-only, out of inodes or another's; and that it changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.check.disk import look_at_disk, look_at_spool
from edge.check.machine import Machine
from edge.check.result import CheckResult, failed, unseen
from edge.check.service import look_at_service
from edge.cli.check import check
from edge.settings import EdgeSettings, GatewaySettings, SpoolSettings
from tests.support import needs

FULL = "mount -t tmpfs -o size=2m none {0} && head -c 3m /dev/zero > {0}/other 2>/dev/null || true"
NEARLY_FULL = "mount -t tmpfs -o size=64m none {0}"
NO_INODES = "mount -t tmpfs -o size=64m,nr_inodes=4 none {0} && touch {0}/1 {0}/2 {0}/3"
READ_ONLY = "mount -t tmpfs none {0} && mount -o remount,ro {0}"


def settings_of(folder: Path, **spool: Any) -> EdgeSettings:
    given = {"path": folder / "spool.db", "max_bytes": 16 * 1024**2, "min_free_bytes": 0} | spool
    return EdgeSettings(gateway=GatewaySettings(data_dir=folder), spool=SpoolSettings(**given))


def machine_of(root: Path, uid: int, euid: int = 0) -> Machine:
    """A machine whose gateway has a user of its own, and is installed."""
    for folder in ("etc", "usr/lib/systemd/system"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\niot-edge:x:{uid}:{uid}::/:/usr/sbin/nologin\n")
    (root / "usr/lib/systemd/system/iot-edge.service").write_text("")
    return Machine(root, euid)


def check_on(folder: Path, made: str, **variables: str) -> dict[str, Any]:
    """What check finds where the folder is what `made` makes of it, in a mount namespace of its own; as root there."""
    folder.mkdir()
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        needs.leave_out(needs.ROOT)
    script = f"{made.format(folder)}; exec {sys.executable} -m edge check --json --listen 0"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("IOT_EDGE_")},
        "IOT_EDGE_GATEWAY__DATA_DIR": str(folder),
        "IOT_EDGE_SPOOL__PATH": str(folder / "spool.db"),
        "IOT_EDGE_SPOOL__MAX_BYTES": "16777216",
        "IOT_EDGE_SPOOL__MIN_FREE_BYTES": "0",
        "IOT_EDGE_HTTP__PORT": "1",
        **variables,
    }
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=environment, capture_output=True, check=False, timeout=60
    )
    document = msgspec.json.decode(done.stdout)
    found: dict[str, Any] = next(each for each in document["findings"] if each["name"] == "disk")
    return found


@pytest.mark.parametrize(
    ("made", "detail", "advice"),
    [
        (FULL, "is full: 0 bytes are free", "sudo du -xhd3"),
        (NO_INODES, "no inodes are left", "sudo du --inodes"),
        (READ_ONLY, "is read-only", "remount,rw"),
    ],
)
def test_check_tells_what_is_wrong_with_a_disk(tmp_path: Path, made: str, detail: str, advice: str) -> None:
    found = check_on(tmp_path / "disk", made)
    assert found["ok"] is False
    assert detail in found["detail"]
    assert advice in found["advice"]
    assert str(tmp_path / "disk") in found["advice"], "the file system that is meant"


def test_check_tells_a_disk_that_others_have_filled_from_one_that_is_too_small(tmp_path: Path) -> None:
    filled = check_on(tmp_path / "a", NEARLY_FULL, IOT_EDGE_SPOOL__MIN_FREE_BYTES=str(100 * 1024**2))
    assert "nearly full" in filled["detail"]
    assert "the spool has 0 bytes of it" in filled["detail"]
    small = check_on(tmp_path / "b", NEARLY_FULL, IOT_EDGE_SPOOL__MAX_BYTES=str(1024**3))
    assert "for a spool of up to 1,073,741,824" in small["detail"]
    assert "iot-edge size" in small["advice"]


def test_check_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert look_at_disk(settings_of(folder), Machine(), installed=False).ok
    assert list(tmp_path.iterdir()) == []
    tmp_path.touch()
    before = tmp_path.stat()
    assert look_at_disk(settings_of(tmp_path), Machine(), installed=False).ok
    assert tmp_path.stat().st_mtime_ns == before.st_mtime_ns, "not even a file that is gone again"


def test_check_of_a_folder_that_belongs_to_another(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(0o700)
    machine = machine_of(tmp_path / "root", uid=os.geteuid() + 1)
    found = look_at_disk(settings_of(folder), machine, installed=True)
    assert found.ok is False
    assert found.advice == f"sudo chown -R iot-edge: {folder}"
    assert "make the folder" not in found.advice
    machine = machine_of(tmp_path / "root", uid=os.geteuid())
    assert look_at_disk(settings_of(folder), machine, installed=True).ok


def test_check_of_a_file_that_was_copied_back_as_root(tmp_path: Path) -> None:
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    folder = tmp_path / "data"
    folder.mkdir(0o700)
    os.chown(folder, 12_345, 12_345)
    (folder / "spool.db").write_bytes(b"")
    found = look_at_disk(settings_of(folder), machine_of(tmp_path / "root", uid=12_345), installed=True)
    assert found.detail == f"{folder}/spool.db: belongs to root, and the gateway runs as iot-edge"
    assert found.advice == f"sudo chown -R iot-edge: {folder}/spool.db"


def test_check_of_a_folder_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    machine = machine_of(tmp_path / "root", uid=12_345)
    found = look_at_disk(settings_of(tmp_path / "data"), machine, installed=True)
    assert found.advice == f"sudo install -d -m 0700 -o iot-edge -g iot-edge {tmp_path}/data"
    (tmp_path / "file").write_text("")
    found = look_at_disk(settings_of(tmp_path / "file" / "data"), Machine(), installed=False)
    assert found.ok is False
    assert "correct gateway.data_dir" in found.advice


@contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """As nobody, who may pass through the folders above `folder`."""
    if os.geteuid():
        needs.leave_out(needs.ROOT)
    for above in folder.parents:
        if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o001)
    os.setegid(65_534)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


async def test_check_by_an_ordinary_user_says_what_only_root_sees(tmp_path: Path) -> None:
    """Of an installed gateway: never a fault of what cannot be seen, never a folder of their own."""
    folder = tmp_path / "data"
    folder.mkdir(0o700)
    machine = machine_of(tmp_path / "root", uid=12_345, euid=65_534)
    with suppress(PermissionError):
        os.chown(folder, 12_345, 12_345)
    with ordinary_user(tmp_path / "data"):
        disk = look_at_disk(settings_of(folder), machine, installed=True)
        service = [each async for each in look_at_service(settings_of(folder), machine, None)]
    assert (disk.ok, disk.needs_root) == (None, True)
    assert [(each.ok, each.needs_root, each.advice) for each in service] == [(None, True, "sudo iot-edge check")]
    assert list(folder.iterdir()) == []


def running(**changed: Any) -> dict[str, Any]:
    spool = {
        "problem": "",
        "records": 3,
        "used_bytes": 100,
        "limit_bytes": 1_000,
        "shed": {"total": 0},
        "lost": 0,
        "set_aside": [],
    }
    return {"spool": spool | changed, "disk_free_bytes": 10**9, "uplink": {"up": True}}


def test_check_tells_why_a_spool_is_full(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, min_free_bytes=10_000)
    full = running(problem="the spool is full", used_bytes=990)
    (by_uplink,) = look_at_spool(settings, full | {"uplink": {"up": False}})
    assert "the uplink is down" in by_uplink.detail
    (by_others,) = look_at_spool(settings, full | {"disk_free_bytes": 9_000})
    assert "other files fill the disk" in by_others.detail
    assert by_others.advice.startswith("sudo du ")


def test_check_tells_what_was_shed_lost_and_set_aside(tmp_path: Path) -> None:
    aside = [{"file": "spool.db.damaged-1", "page": 3, "problem": ""}]
    found = list(
        look_at_spool(settings_of(tmp_path), running(shed={"total": 12, "full": 5, "age": 0}, lost=3, set_aside=aside))
    )
    assert [each.ok for each in found] == [True, None, None, None]
    assert found[1].detail == "12 readings; since the start: 5 full"
    assert found[2].detail == "3 readings, in a damaged spool"
    assert found[3].detail == "spool.db.damaged-1: is being read for what it holds"


@pytest.mark.parametrize(("failing", "code"), [(False, 2), (True, 1)])
def test_exit_code_says_whether_only_root_sees_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: bool, code: int
) -> None:
    async def look(*_: Any, **__: Any) -> AsyncIterator[CheckResult]:
        yield unseen("key", "the gateway's key only root sees")
        if failing:
            yield failed("clock", "nothing keeps it in step " * 8, "timedatectl")

    monkeypatch.setattr("edge.check.look", look)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        check(None, 0, False)
    lines = capsys.readouterr().out.splitlines()
    assert stopped.value.code == code
    assert lines[-1] == "Only root sees all of: key. sudo iot-edge check"
    assert all(len(line) <= 80 for line in lines)
