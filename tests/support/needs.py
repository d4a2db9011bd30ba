"""What tests need of the machine and cannot bring themselves: programs of the system, and root.

A test whose need is not met is left out, and the run says so in one line at its end (`conftest.py`). In CI it fails:
there `scripts/servers` has installed everything.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

import pytest


class Need(NamedTuple):
    """A program, with Debian's package of it; or root, which is no package."""

    name: str
    package: str = ""

    @property
    def reason(self) -> str:
        return f"needs {self.name}"


MOSQUITTO = Need("mosquitto", "mosquitto")
MOSQUITTO_PASSWD = Need("mosquitto_passwd", "mosquitto")
MOSQUITTO_PUB = Need("mosquitto_pub", "mosquitto-clients")
PAHO_C_PUB = Need("paho_c_pub", "paho.mqtt.c-examples")
PGBOUNCER = Need("pgbouncer", "pgbouncer")
PROMTOOL = Need("promtool", "prometheus")
SYSTEMD_ANALYZE = Need("systemd-analyze", "systemd")
SYSTEMD_NSPAWN = Need("systemd-nspawn", "systemd-container")
MMDEBSTRAP = Need("mmdebstrap", "mmdebstrap")
DPKG_SCANPACKAGES = Need("dpkg-scanpackages", "dpkg-dev")
APT_FTPARCHIVE = Need("apt-ftparchive", "apt-utils")
GPG = Need("gpg", "gnupg")
QEMU_AARCH64 = Need("qemu-aarch64-static", "qemu-user-static")
ROOT = Need("root")
ALL = (
    *(MOSQUITTO, MOSQUITTO_PASSWD, MOSQUITTO_PUB, PAHO_C_PUB, PGBOUNCER, PROMTOOL, SYSTEMD_ANALYZE),
    *(SYSTEMD_NSPAWN, MMDEBSTRAP, DPKG_SCANPACKAGES, APT_FTPARCHIVE, GPG, QEMU_AARCH64, ROOT),
)


def find(need: Need) -> str | None:
    """Where the program is; Debian keeps some where users' PATH does not look."""
    return shutil.which(need.name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def program(need: Need) -> str:
    """Where the program is. Leaves the test out where it is not installed."""
    return find(need) or leave_out(need)


def absent() -> list[Need]:
    """The programs that are not installed here."""
    return [need for need in ALL if need.package and find(need) is None]


def leave_out(need: Need) -> NoReturn:
    """End the test: left out by itself, failed in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{need.reason}, and in CI nothing is left out")
    pytest.skip(need.reason)


def told(reasons: Iterable[str], missing: Iterable[Need]) -> list[str]:
    """The lines that say what was skipped: one for all that was left out, and one for each other reason.

    `missing` is what the machine lacks: a test that needs several programs has asked for the first alone.
    """
    counts = Counter(reasons)
    left_out = {need: counts.pop(need.reason) for need in ALL if need.reason in counts}
    lines = [f"skipped {count}: {reason}" for reason, count in sorted(counts.items())]
    if left_out:
        wanted = [need for need in ALL if need in left_out or need in missing]
        packages = " ".join(dict.fromkeys(need.package for need in wanted if need.package))
        remedies = [f"apt-get install {packages}"] if packages else []
        remedies += ["run as root"] if ROOT in wanted else []
        names = ", ".join(need.name for need in wanted)
        lines.append(
            f"left out {sum(left_out.values())} test(s) for want of {names}; to have them: {', and '.join(remedies)}"
        )
    return lines
