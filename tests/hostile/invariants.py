"""What holds whatever is sent: looked at after each attack, so that a breach is known to be of it; and at the end.

A breach is a line of text. An attack that breaks something does not end the run: one run shows everything.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from bridge.errors import BridgeError
from tests.acceptance.service import Service
from tests.hostile.attacked import GATEWAY, AttackedService
from tests.hostile.good import GoodSenders, Sent
from tests.support.process import OwnProcess
from tests.support.servers import listens, wait_until

MIB = 1_024  # KiB
SETTLED_S = 30.0
COMMAND_S = 300.0
STAYS = 0.6
"""Part of what a process may grow by that may stay: caches, which have limits of their own, and the heap around."""
MANY_IDS = 20_000
"""Of quarantined rows that are replayed by one command: what a command line takes."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class ResidentMemory:
    """Resident memory of a process: how far it has grown since `begin`, at its peak and now."""

    def __init__(self, name: str, process: OwnProcess, most_mib: int) -> None:
        self.name = name
        self.worst_mib = 0.0
        self._process = process
        self._most_mib = most_mib
        self._began_kib = self._last_kib = 0
        self._pid = 0

    def begin(self) -> None:
        """From here on. The kernel forgets the peak so far (proc(5), clear_refs)."""
        self._pid = self._process.pid
        self._began_kib = self._last_kib = self._process.memory_kib()
        self._forget_peak()

    def breaches(self) -> Iterator[str]:
        """Grown too far since the last look, or not come back."""
        if self._process.pid != self._pid:  # it has been started again
            self.begin()
            return
        peak_mib = (self._status("VmHWM") - self._last_kib) / MIB
        self.worst_mib = max(self.worst_mib, peak_mib)
        if peak_mib >= self._most_mib:
            yield f"{self.name} grew by {peak_mib:.0f} MiB; {self._most_mib} are allowed"
        try:
            wait_until(lambda: self.grown_mib() < self._most_mib * STAYS, 5)
        except TimeoutError:
            yield f"{self.name} does not come back: still {self.grown_mib():.0f} MiB more than at the beginning"
        self._last_kib = self._process.memory_kib()
        self._forget_peak()

    def grown_mib(self) -> float:
        """By how much it is larger now."""
        return (self._process.memory_kib() - self._began_kib) / MIB

    def _forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])


class Log:
    """The log of a process, read on from where it was read last."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._read = len(text())

    def breaches(self) -> Iterator[str]:
        """Tracebacks, and what the process itself calls an error."""
        text = self._text()
        new, self._read = text[self._read :], len(text)
        for line in new.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                if line.startswith("Traceback") or "Error" in line:
                    yield f"in the log: {line[:300]}"
                continue
            if entry.get("level") in ("error", "critical") or "Traceback" in line:
                end = str(entry.get("exception", "")).strip().rpartition("\n")[2]
                yield f"in the log: {entry.get('event')} {entry.get('detail', '')} {end}"[:300]


def ledger(site: AttackedService) -> Iterator[str]:
    """Everything that was taken in gets settled, and the recount finds no difference."""
    try:
        wait_until(lambda: site.find_pending() == 0, SETTLED_S)
        yield from (f"the ledger does not balance: {line}" for line in site.find_imbalance() if not _of_liar(line))
    except TimeoutError:
        yield f"{site.find_pending()} readings are not settled after {SETTLED_S:g} s"
    except (psycopg.Error, BridgeError) as error:
        yield f"the ledger cannot be recounted: {str(error).splitlines()[0]}"


def _of_liar(problem: str) -> bool:
    """Whether the recount has caught the captured gateway at its false books, which is what it is for."""
    return problem.startswith(f"gateway {GATEWAY}:")


def stored(site: AttackedService, good: GoodSenders, wait_s: float = SETTLED_S) -> Iterator[str]:
    """What good devices have sent stands in the table, and nothing else stands at their sensors."""

    def there() -> list[Sent]:
        rows = site.rows(
            "SELECT sensor_id, sequence, value FROM sensor_readings WHERE sensor_id = ANY(%s)",
            [sensor for device in site.good for sensor in device.sensors],
        )
        return [Sent(*row) for row in rows]

    with suppress(TimeoutError):
        wait_until(lambda: good.acknowledged <= set(there()), wait_s)
    yield from good.wrong(there())


def final(site: AttackedService, good: GoodSenders, gateways: Sequence[str] = (GATEWAY,)) -> Iterator[str]:
    """At the end: everything is stored, and a replay of what was quarantined changes nothing of that."""
    yield from stored(site, good)
    yield from verified(site.service)
    yield from replayed(site)
    yield from (f"after the replay, {line}" for line in stored(site, good, wait_s=1))
    yield from (f"after the replay, {line}" for line in (*ledger(site), *verified(site.service)))
    yield from terminal(site.service, gateways)


def verified(service: Service) -> Iterator[str]:
    """`iot-bridge ledger --verify` answers, and finds nothing but the false books of the captured gateway."""
    done = _ran(service, "ledger", "--verify", "--json")
    answered = done.returncode in (0, 1) and done.stdout.startswith("{")
    if not answered:
        yield f"ledger --verify answers {done.returncode}: {done.stderr[-300:]}"
        return
    problems = [line for line in json.loads(done.stdout)["problems"] if not _of_liar(line)]
    if problems or (done.returncode and not json.loads(done.stdout)["problems"]):
        yield f"ledger --verify answers {done.returncode}: {problems[:3]}"


def replayed(site: AttackedService) -> Iterator[str]:
    """Everything in quarantine is replayed; some of it is refused again, which is right."""
    ids = [str(row_id) for (row_id,) in site.rows("SELECT id FROM quarantine ORDER BY 1")]
    for start in range(0, len(ids), MANY_IDS):
        done = _ran(site.service, "quarantine", "replay", "--json", *ids[start : start + MANY_IDS])
        if done.returncode not in (0, 1) or not done.stdout.strip():
            yield f"quarantine replay answers {done.returncode}: {done.stderr[-300:]}"


def terminal(service: Service, gateways: Sequence[str]) -> Iterator[str]:
    """Nothing that a device or a gateway wrote reaches the operator's terminal as a control character."""
    shown = [("gateway", "show", name) for name in gateways]
    for command in (("quarantine", "list", "--limit", "3000"), *shown):
        done = _ran(service, *command)
        if done.returncode:
            yield f"iot-bridge {' '.join(command)} answers {done.returncode}: {done.stderr[-300:]}"
        if found := _CONTROLS.search(done.stdout):
            yield f"iot-bridge {' '.join(command)} prints {found[0]!r}"


def is_alive(process: OwnProcess) -> bool:
    """Whether the process runs: one that has ended is a zombie until it is waited for."""
    return "\nState:\tZ" not in Path(f"/proc/{process.pid}/status").read_text()


def alive(name: str, process: OwnProcess, port: int, start: Callable[[], None]) -> Iterator[str]:
    """The process is the one that was started. Where it is gone, another one is, for the attacks that follow."""
    if is_alive(process) and listens(port):
        return
    with suppress(TimeoutError):
        wait_until(lambda: not is_alive(process), SETTLED_S)
    yield f"{name} is gone"
    process.kill()
    start()


def said(breaches: Callable[[], Iterator[str]]) -> list[str]:
    """The breaches, each once, the first ten."""
    return list(dict.fromkeys(breaches()))[:10]


def _ran(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        env=service.environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
