"""What root writes for the gateway is the gateway's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.host import atomic_file
from edge.host.private_files import make_folder
from edge.service_api.enrolment import WAITING_FILE, waiting_for
from tests.support import needs

GATEWAY = 54_321


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid():
        needs.leave_out(needs.ROOT)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of the gateway's user."""
    folder = tmp_path / "data"
    make_folder(folder, (GATEWAY, GATEWAY))
    return folder


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_folders_that_root_makes_are_the_gateways(tmp_path: Path) -> None:
    folder = tmp_path / "card" / "iot-edge"
    make_folder(folder, (GATEWAY, GATEWAY))
    assert owner(folder) == owner(folder.parent) == (GATEWAY, GATEWAY)
    assert owner(tmp_path) != (GATEWAY, GATEWAY), "it was there"


def test_file_that_root_replaces_stays_the_gateways(data: Path) -> None:
    for content in (b"one", b"two"):
        atomic_file.replace(data / "enrolment.json", content, keep=data / "enrolment.json.previous")
    assert owner(data / "enrolment.json") == owner(data / "enrolment.json.previous") == (GATEWAY, GATEWAY)


def test_link_that_the_gateway_has_laid_is_not_written_through(data: Path, tmp_path: Path) -> None:
    outside = tmp_path / "shadow"
    outside.write_text("of root")
    for name in ("enrolment.json", "enrolment.json.new"):
        (data / name).symlink_to(outside)
    atomic_file.replace(data / "enrolment.json", b"key")
    assert outside.read_text() == "of root"
    assert owner(outside) == (0, 0)


def test_root_that_runs_the_gateway_goes_on_as_the_folders_owner(data: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from edge.host.private_files import become_owner; "
        "become_owner(Path(sys.argv[1])); print(os.getuid(), os.geteuid(), os.getgid(), os.getgroups())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(data)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(GATEWAY)] * 3 + [f"[{GATEWAY}]"]
    done = subprocess.run([sys.executable, "-c", program, "/none"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("0 0 0 ")


def test_what_the_boot_file_waits_for_is_no_text_of_anybody(data: Path) -> None:
    for content in (b"", b"\xff", b"[]", b'{"file": 1}'):
        (data / WAITING_FILE).write_bytes(content)
        assert waiting_for(data) == ""
