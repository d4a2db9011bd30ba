"""What a measured process says, and the one who listens.

A process warms up, writes a line "started", works for the time it is given, and writes what it did
as JSON. Whoever started it reads the CPU clocks of everybody at these two moments.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

Clock = Callable[[], float]
WARM_UP_S = 1.0


class Work(msgspec.Struct, frozen=True):
    """What a measured process did between its two lines."""

    seconds: float
    calls: int  # requests, messages, or calls of the procedure
    readings: int
    cpu_s: float  # its own
    failed: int = 0
    note: str = ""


class Sample(msgspec.Struct, frozen=True):
    """One measurement: the work, and the CPU seconds that each party spent on it."""

    work: Work
    cpu_s: dict[str, float]

    @property
    def per_s(self) -> float:
        return self.work.readings / self.work.seconds

    def cpu_us(self, party: str) -> float:
        """CPU of a party per reading, in microseconds."""
        return self.cpu_s.get(party, 0.0) * 1e6 / max(1, self.work.readings)


class Stopwatch:
    """For the measured process: `tick` returns False when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._begin_s = time.perf_counter() + WARM_UP_S
        self._end_s = self._begin_s + seconds
        self._cpu_s = 0.0
        self.running = False

    def tick(self) -> bool:
        """Call often. `running` says whether work counts by now."""
        now_s = time.perf_counter()
        if not self.running and now_s >= self._begin_s:
            self.running = True
            self._begin_s, self._end_s = now_s, now_s + self._end_s - self._begin_s
            self._cpu_s = time.process_time()
            _say(b"started")
        return now_s < self._end_s

    def done(self, calls: int, readings: int, failed: int = 0, note: str = "") -> None:
        """Say what was done since `running`."""
        seconds = time.perf_counter() - self._begin_s
        work = Work(seconds, calls, readings, time.process_time() - self._cpu_s, failed, note)
        _say(msgspec.json.encode(work))
        sys.stdin.buffer.read()  # until the clocks are read: those of processes that end with us, too


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def measure(module: str, arguments: Sequence[str], clocks: Mapping[str, Clock]) -> Sample:
    """Run `python -m module arguments…`; what it did, and the CPU of the parties meanwhile. Raises RuntimeError."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = process.stdout.readline()
        before = {name: clock() for name, clock in clocks.items()}
        last = process.stdout.readline()
        after = {name: clock() for name, clock in clocks.items()}
        process.stdin.close()
    if first != b"started\n" or not last:
        raise RuntimeError(f"{module} ended without a result")
    work = msgspec.json.decode(last, type=Work)
    if work.failed:
        raise RuntimeError(f"{module}: {work.failed} of {work.calls} failed: {work.note}")
    cpu_s: dict[str, Any] = {name: after[name] - before[name] for name in clocks}
    return Sample(work, cpu_s | {"load": work.cpu_s})
