"""CPU time and memory of other processes, from /proc (proc(5))."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PPID, _UTIME, _STIME = 1, 11, 12  # counted from the field after the name


def process_s(pid: int) -> float:
    """CPU seconds of one process: user and system, all its threads."""
    fields = _stat(pid)
    return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S


class Family:
    """A process and its children, as a PostgreSQL with its backends is. Those that are gone count as last seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: dict[int, float] = {}

    def cpu_s(self) -> float:
        """CPU seconds of all of them."""
        self._seen[self._pid] = process_s(self._pid)
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):  # gone meanwhile
                    child = int(entry.name)
                    if int(_stat(child)[_PPID]) == self._pid:
                        self._seen[child] = process_s(child)
        return sum(self._seen.values())


def resident_kib(pid: int) -> int:
    """Resident memory of one process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
