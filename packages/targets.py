"""What packages are made for: releases of Debian, each with its Python, and machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Suite:
    """A release of Debian."""

    codename: str
    number: int
    python: tuple[int, int]
    python_micro: int
    glibc_minor: int

    @property
    def version_suffix(self) -> str:
        """What makes the packages of a later release newer than those of an earlier one."""
        return f"~deb{self.number}u1"


@dataclass(frozen=True)
class Architecture:
    """A machine, as Debian calls it, and as wheels do."""

    debian: str
    wheel: str


SUITES: Final = (Suite("bookworm", 12, (3, 11), 2, 36), Suite("trixie", 13, (3, 13), 5, 41))
ARCHITECTURES: Final = (Architecture("amd64", "x86_64"), Architecture("arm64", "aarch64"))


@dataclass(frozen=True)
class Target:
    """One release of Debian on one machine."""

    suite: Suite
    architecture: Architecture

    @property
    def name(self) -> str:
        return f"{self.suite.codename}-{self.architecture.debian}"

    def markers(self) -> dict[str, str]:
        """Return what a line of requirements may ask of that machine: pip itself would answer for this one."""
        version = ".".join(map(str, self.suite.python))
        return {
            "python_version": version,
            "python_full_version": f"{version}.{self.suite.python_micro}",
            "platform_machine": self.architecture.wheel,
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "sys_platform": "linux",
            "os_name": "posix",
            "platform_system": "Linux",
        }

    def pip_options(self) -> list[str]:
        """Return what tells pip of that machine: its Python, its C library (PEP 600) and its processor."""
        major, minor = self.suite.python
        options = ["--implementation", "cp", "--python-version", f"{major}.{minor}", "--only-binary", ":all:"]
        for abi in (f"cp{major}{minor}", "abi3", "none"):
            options += ["--abi", abi]
        platforms = [f"manylinux_2_{glibc}" for glibc in range(self.suite.glibc_minor, 16, -1)]
        for platform in (*platforms, "manylinux2014"):
            options += ["--platform", f"{platform}_{self.architecture.wheel}"]
        return options


TARGETS: Final = tuple(Target(suite, architecture) for suite in SUITES for architecture in ARCHITECTURES)
