"""The network of a site, apart from this machine's: the gateway on one end of a cable, everybody else on the other.

One process holds the namespaces. It is the first of its own process namespace and ends when its standard input does:
whatever becomes of the tests, the kernel then ends everything that was started in it, and unmounts what was mounted.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

GATEWAY = "192.0.2.2"
OUTSIDE = "192.0.2.1"
NAMES = {"iot.example.com": OUTSIDE, "deb.debian.org": OUTSIDE, "packages.example.com": OUTSIDE}

HOLD = f"""
mount -t tmpfs tmpfs /run  # where systemd-nspawn keeps its records
ip link set lo up
unshare --net sleep infinity & gateway=$!
until [ "$(readlink /proc/$gateway/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done
ip link add site0 type veth peer name eth0 netns $gateway
ip address add {OUTSIDE}/24 dev site0
ip link set site0 up
in_gateway() {{ nsenter --net=/proc/$gateway/ns/net "$@"; }}
in_gateway ip link set lo up
in_gateway ip address add {GATEWAY}/24 dev eth0
in_gateway ip link set eth0 up
echo $gateway
read -r _
"""
CGROUPS = ("systemd", "unified", ".")
"""Where systemd counts processes: version 1 with version 2 beside it, or version 2 alone."""
CLONE_NEWNET = 0x40000000
T = TypeVar("T")


class SiteNetwork:
    """Two network namespaces with a cable between them. Use as a context manager."""

    def __init__(self) -> None:
        self._first_process: subprocess.Popen[str] | None = None
        self._cgroup = f"field-{os.getpid()}"
        self.pid = 0
        """Of the first process in the namespaces."""
        self.gateway_pid = 0
        """As seen in there: of a process on the gateway's end."""

    def __enter__(self) -> SiteNetwork:
        for stale in (path for path in _cgroups("field-*") if not Path(f"/proc/{path.name[6:]}").exists()):
            _remove_cgroup(stale)
        self._first_process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "sh", "-c", HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._first_process.stdout is not None
        line = self._first_process.stdout.readline()
        assert line.strip().isdecimal(), f"no namespaces: {line}"
        self.gateway_pid = int(line)
        (self.pid,) = children(self._first_process.pid)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._first_process is not None
        self._first_process.communicate()
        for path in _cgroups(self._cgroup):
            _remove_cgroup(path)

    def command(self, *arguments: str) -> list[str]:
        """Arguments that run a program among the processes of the site, outside of the gateway."""
        enter = f'{_enter_cgroup(self._cgroup)}\nexec nsenter --target={self.pid} --mount --pid --net "$@"'
        return ["sh", "-c", enter, "sh", *arguments]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plug_cable(self, plugged: bool) -> None:
        """Whether there is a network between the gateway and everybody else."""
        self.run("ip", "link", "set", "site0", "up" if plugged else "down")

    def enter(self) -> None:
        """From now on the sockets of the calling thread are made outside of the gateway."""
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns that makes its sockets outside of the gateway."""
        with ThreadPoolExecutor(1, "outside", self.enter) as threads:
            return threads.submit(function).result()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cgroups(pattern: str) -> list[Path]:
    return [path for hierarchy in CGROUPS for path in Path("/sys/fs/cgroup", hierarchy).glob(pattern)]


def _enter_cgroup(name: str) -> str:
    """Shell commands. Two systems that boot in the same control group would end each other's processes."""
    roots = [Path("/sys/fs/cgroup", hierarchy) for hierarchy in CGROUPS]
    return "\n".join(
        f"mkdir -p {root / name} && echo $$ >{root / name}/cgroup.procs"
        for root in roots
        if (root / "cgroup.procs").exists()
    )


def _remove_cgroup(path: Path) -> None:
    """What the kernel has left of a control group whose processes have ended: empty folders."""
    for folder, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):  # one that still ends is removed by the next run
            Path(folder).rmdir()
