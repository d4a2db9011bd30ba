"""CPU time of other processes, from /proc: user and system, all threads, in seconds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PPID, _UTIME, _STIME, _CUTIME, _CSTIME = 1, 11, 12, 13, 14  # proc(5), counted from the field after the name


def process_s(pid: int) -> float:
    """Of one process."""
    fields = _stat(pid)
    return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S


def family_s(pid: int) -> float:
    """Of a process, its children, and the children it has waited for: a PostgreSQL with its backends."""
    fields = _stat(pid)
    total_s = sum(int(fields[i]) for i in (_UTIME, _STIME, _CUTIME, _CSTIME)) * _TICK_S
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # gone meanwhile
                child = int(entry.name)
                if int(_stat(child)[_PPID]) == pid:
                    total_s += process_s(child)
    return total_s


def resident_kib(pid: int) -> int:
    """Resident memory of one process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
