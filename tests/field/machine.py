"""A machine on a site: a Debian that is booted, asked, and pulled the plug of."""

from __future__ import annotations

import shlex
import signal
import subprocess
import time
from contextlib import suppress
from os import kill
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from tests.field.namespaces import NAMES, SiteNetwork, children
from tests.support.servers import wait_until

BOOT_S = 60.0
REBOOT = 133
COMMAND_S = 180.0
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=dumb")
ENGINEER = "engineer"
"""An ordinary user, who may do what sudo lets them."""


class Ran(NamedTuple):
    """What became of a command; out is what it has printed and what it has complained of, as on a terminal."""

    code: int
    out: str


class Machine:
    """One machine, whose disk is the folder `root`."""

    def __init__(self, root: Path, network: SiteNetwork) -> None:
        self.root = root
        self._network = network
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._console = root.with_name("console.log")
        self._furnish()

    @property
    def init(self) -> int:
        """Its first process, as this machine counts."""
        assert self._nspawn is not None
        with suppress(ValueError, OSError):
            (nspawn,) = children(self._nspawn.pid)
            (init,) = children(nspawn)
            return init
        return 0

    def boot(self) -> float:
        """Switch it on; returns once it runs: after how many seconds."""
        began_s = time.monotonic()
        self.switch_on()
        self.await_running()
        return time.monotonic() - began_s

    def switch_on(self) -> None:
        """Begin to boot."""
        command = self._network.command(
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe"),
            "--capability=CAP_NET_ADMIN",  # the network is its own
            *(f"--directory={self.root}", "--machine=gateway", "--hostname=gateway"),
            # Names and addresses of the site, and of nobody else.
            *("--resolv-conf=off", "--link-journal=no", "--timezone=off"),
            f"--network-namespace-path=/proc/{self._network.gateway_pid}/ns/net",
        )
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        wait_until(lambda: self.init, BOOT_S)

    def await_running(self) -> str:
        """Wait for the end of the boot; what systemd says of itself then: running or degraded."""

        def state() -> str:
            assert self._nspawn is not None
            assert self._nspawn.poll() is None, self._console.read_text()
            if not self.init:
                return ""
            said = self.run("systemctl is-system-running --wait", expect=None).out.strip()
            return said if said in ("running", "degraded") else ""

        return str(wait_until(state, BOOT_S))

    def pull_plug(self) -> None:
        """Every process on it ends at once, in the middle of whatever it does."""
        assert self._nspawn is not None
        kill(self.init or self._nspawn.pid, signal.SIGKILL)
        self._nspawn.wait(BOOT_S)

    def reboot(self) -> float:
        """As an engineer does."""
        assert self._nspawn is not None
        self.run("systemctl reboot", expect=None)
        assert self._nspawn.wait(BOOT_S) == REBOOT, "systemd-nspawn tells so that it wants to be started again"
        return self.boot()

    def run(self, command: str, *, user: str = "root", expect: int | None = 0, timeout_s: float = COMMAND_S) -> Ran:
        """Run a command in a shell of a user."""
        home = "/root" if user == "root" else f"/home/{user}"
        arguments = [f"--target={self.init}", "--all", "env", "-i", *ENVIRONMENT, f"HOME={home}", f"USER={user}"]
        shell = f"cd {home}; {command}"
        if user != "root":
            shell = f"exec setpriv --reuid={user} --regid={user} --init-groups bash -c {shlex.quote(shell)}"
        done = subprocess.run(
            ["nsenter", *arguments, "bash", "-c", shell],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout)
        if expect is not None:
            assert ran.code == expect, f"{command}: ended with {ran.code}, not {expect}:\n{ran.out}"
        return ran

    def journal(self, unit: str) -> str:
        return self.run(f"journalctl --no-pager --output=cat --unit={unit}").out

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def _furnish(self) -> None:
        """What a site's machine has after its first installation: a name, the site's addresses, and an engineer."""
        hosts = "".join(f"{address} {name}\n" for name, address in NAMES.items())
        self.write("/etc/hosts", f"127.0.0.1 localhost gateway\n{hosts}")
        self.write("/etc/hostname", "gateway\n")
        (self.root / "etc/resolv.conf").unlink(missing_ok=True)
        self.write("/etc/resolv.conf", "")
        self.write(f"/etc/sudoers.d/{ENGINEER}", f"{ENGINEER} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        subprocess.run(["chroot", self.root, "useradd", "--create-home", "--shell=/bin/bash", ENGINEER], check=True)
        # The clock is this machine's, which nobody sets in there: as systemd-timesyncd says that it has set it.
        self.write("/etc/tmpfiles.d/clock.conf", "f /run/systemd/timesync/synchronized\n")
        self.write("/etc/machine-id", f"{uuid4().hex}\n", 0o444)
        for file in (self.root / "etc/apt/sources.list.d").iterdir():
            file.unlink()
        self.write("/etc/apt/sources.list", "deb [trusted=yes] http://deb.debian.org/debian ./\n")
