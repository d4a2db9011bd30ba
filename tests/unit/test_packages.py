"""Which version is installed and which waits, by the files that dpkg and apt keep."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from edge.host.first_boot import look_at_first_boot
from edge.host.packages import MAX_LIST_BYTES, compare, read_state

ASCENDING = [
    "0.0~rc1-1", "0.0-1", "0.1a-1", "0.1.0~a-1", "0.1.0-1~deb12u1", "0.1.0-1~deb13u1", "0.1.0-1", "0.1.0-1+b1",
    "0.1.0-1.1",
    "0.1.0-2", "0.1.0+x-1", "0.1.9-1", "0.1.10-1", "0.2-1", "1:0.0-1",
]  # fmt: skip


def test_versions_compare_as_dpkg_has_them() -> None:
    for one, other in pairwise(ASCENDING):
        assert compare(one, other) < 0 < compare(other, one), (one, other)
        assert compare(one, one) == 0
        if shutil.which("dpkg"):
            subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=True)


def installed(root: Path, status: str = "install ok installed") -> None:
    folder = root / "var/lib/dpkg"
    folder.mkdir(parents=True)
    (folder / "status").write_text(
        "Package: iot-edge-doc\nStatus: install ok installed\nVersion: 9-1\n\n"
        f"Package: iot-edge\nStatus: {status}\nDescription: a gateway\n Version: none\nVersion: 0.1.0-1~deb12u1\n\n"
        "Package: mosquitto\nStatus: install ok installed\nVersion: 2.0.11-1\n"
    )


def offered(root: Path, *versions: str, name: str = "site_Packages") -> None:
    folder = root / "var/lib/apt/lists"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(f"Package: iot-edge\nVersion: {each}\nSize: 1\n" for each in versions))


def test_newer_version_of_the_sites_repository_waits(tmp_path: Path) -> None:
    installed(tmp_path)
    offered(tmp_path, "0.1.0-1~deb12u1", "0.1.10-1~deb12u1", "0.1.9-1~deb12u1")
    state = read_state(tmp_path)
    assert (state.installed, state.update, state.held) == ("0.1.0-1~deb12u1", "0.1.10-1~deb12u1", False)
    offered(tmp_path, "0.0.9-1")
    assert read_state(tmp_path).update == ""


def test_package_on_hold_and_a_reboot_that_is_due(tmp_path: Path) -> None:
    installed(tmp_path, "hold ok installed")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/reboot-required").write_text("")
    state = read_state(tmp_path)
    assert (state.held, state.reboot_required) == (True, True)


@pytest.mark.parametrize("status", ["deinstall ok config-files", "install ok half-configured"])
def test_what_is_not_installed_is_no_package(tmp_path: Path, status: str) -> None:
    installed(tmp_path, status)
    assert read_state(tmp_path).installed == ""


def test_machine_without_dpkg_says_nothing_and_lists_of_all_debian_are_passed_over(tmp_path: Path) -> None:
    assert read_state(tmp_path).installed == ""
    installed(tmp_path)
    offered(tmp_path, "9.9-1")
    large = tmp_path / "var/lib/apt/lists/site_Packages"
    large.write_text(large.read_text() + "x" * MAX_LIST_BYTES)
    assert read_state(tmp_path).candidate == ""


# -- the enrolment file of the first boot


def test_enrolment_file_waits_or_has_failed_with_its_reason(tmp_path: Path) -> None:
    assert look_at_first_boot(tmp_path).state == ""
    folder = tmp_path / "boot/firmware"
    folder.mkdir(parents=True)
    (folder / "iot-edge-enrol.toml").write_text('url = "https://iot.example.com"\n')
    assert look_at_first_boot(tmp_path).state == "waits"
    (folder / "iot-edge-enrol.toml").unlink()
    (folder / "iot-edge-enrol.toml.failed").write_text("# iot-edge: the code has expired\r\n# iot-edge: correct it\r\n")
    found = look_at_first_boot(tmp_path)
    assert (found.state, found.reason) == ("failed", "the code has expired")
    assert found.file.endswith("boot/firmware/iot-edge-enrol.toml.failed")
