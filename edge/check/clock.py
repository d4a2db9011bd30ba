"""The clock: set, kept by something, and as the service's, whose time comes with its answer to /health.

Stock Debian 12 and 13 bring nothing that keeps it: systemd-timesyncd is a package of its own.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from bridge.model.reading import SOFTWARE_DATE_US
from edge.check.machine import Machine
from edge.check.result import CheckResult, failed, noted, passed
from edge.host.clock import HostClock, host_clock, is_synchronised
from edge.settings import EdgeSettings

NAME, TIME = "clock", "time"
OFF_S = 30.0
"""A Date has whole seconds, and the way to the service a few more; a device's reading ahead by 300 s is refused."""
KEEPERS = {
    "chrony.service": ("usr/sbin/chronyd", "chronyc sources"),
    "ntpsec.service": ("usr/sbin/ntpd", "ntpq -p"),
    "systemd-timesyncd.service": ("lib/systemd/systemd-timesyncd", "timedatectl timesync-status"),
}
"""What Debian has to keep a clock, its program, and how it is asked whom it follows."""


def known_clock(settings: EdgeSettings, document: dict[str, Any] | None) -> HostClock:
    """Return a clock that knows what the gateway that runs does: it may have the time from the service."""
    clock = host_clock(assume_set=settings.gateway.trust_clock)
    if (ahead_s := _ahead_of_service_s(document)) is not None:
        now_us = clock.boottime_us()
        clock.learn(clock.host_us() - ahead_s * 1_000_000, 0, now_us, now_us)
    return clock


def _ahead_of_service_s(document: dict[str, Any] | None) -> int | None:
    """Return how far the host's clock is ahead; None where the gateway that runs has not heard the service's time."""
    told = (document or {}).get("clock", {})
    return int(told["ahead_s"]) if told.get("by_service") else None


def look_at_clock(
    settings: EdgeSettings,
    machine: Machine,
    now_s: float,
    document: dict[str, Any] | None = None,
    *,
    in_step: bool | None = None,
) -> CheckResult:
    """Return whether the time is known. `in_step`: what the kernel says, where that is known already."""
    if settings.gateway.trust_clock:
        return passed(NAME, "trusted: gateway.trust_clock")
    is_set = now_s * 1_000_000 >= SOFTWARE_DATE_US
    if is_set and (is_synchronised() if in_step is None else in_step):
        return passed(NAME, "in step")
    found = "nothing keeps it in step"
    if not is_set:
        found = f"it is not set: it says {datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M}"
    detail, advice = _keeper(machine, found)
    if _ahead_of_service_s(document) is not None:
        return passed(NAME, f"set by the service; the host's own is not kept: {detail}", advice)
    return failed(NAME, detail, advice)


def _keeper(machine: Machine, found: str) -> tuple[str, str]:
    if (machine.root / "run/systemd/container").exists():
        return f"{found}; this is a container: its host keeps it", "set gateway.trust_clock = true"
    for unit, (program, ask) in KEEPERS.items():
        if not machine.has_program(program, f"usr/{program}"):
            continue
        state = machine.unit_state(unit)
        if state in ("active", ""):
            return f"{found}: {unit.removesuffix('.service')} has no answer (UDP port 123)", ask
        return f"{found}: {unit.removesuffix('.service')} is {state}", f"sudo systemctl enable --now {unit}"
    return found, "sudo apt-get install systemd-timesyncd"


def beside_service(date: str, now_s: float | None = None, *, in_step: bool = True) -> CheckResult | None:
    """Return how far we are from the Date header of the service; None where it has none that can be read.

    Of a clock that is not `in_step`, the clock's own line has said what to do.
    """
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    off_s = (time.time() if now_s is None else now_s) - theirs
    if abs(off_s) < OFF_S:
        return passed(TIME, "as the service's")
    detail = f"{_span(abs(off_s))} {'ahead of' if off_s > 0 else 'behind'} the service"
    if not in_step:
        return noted(TIME, detail)
    return failed(TIME, detail, "timedatectl; where this clock is right: the same on the service's host")


def _span(seconds: float) -> str:
    for limit, unit, word in ((120, 1, "s"), (5_400, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86_400:,.0f} days"
