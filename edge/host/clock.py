"""The gateway's clocks. A Pi has no battery clock: after a boot its time of day is wrong until it is set.

Flows out: the time of day for the doors; and for each time so given, what CLOCK_BOOTTIME said then and
whether the time could be believed. The time of day is kept as an anchor on CLOCK_BOOTTIME, which is never set:
so a jump is noticed when `check` looks, and a time given before it still leads back to its moment.

Two say what time it is: the host, where something keeps its clock in step, and the service with each of its answers
(`learn`). Where they differ by more than the way to the service can explain, the service is right: its database keeps
all gateways' readings by one clock. A site that lets HTTPS through and no NTP has its time from the service alone.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from bridge.model.reading import MAX_TIME_US, SOFTWARE_DATE_US

log = structlog.get_logger("clock")

JUMP_US = 1_000_000
"""A difference that slewing does not make between two checks: chrony slews at most 8.3 %, ntpd 0.05 %."""
REMEMBERED_JUMPS = 16
DRIFT = 1e-4
"""Of a clock that nothing disciplines, 9 s a day: crystals on boards like these are within 100 ppm."""
PROVEN_US = 3_600_000_000
"""So long the service has to say the same before anything is shed by it: one answer may be wrong."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")  # systemd-timesyncd.service(8): exists once synchronised

_STA_UNSYNC = 0x40  # adjtimex(2)
_TIME_ERROR = 5


class Stamp(msgspec.Struct, frozen=True):
    """Says which moment lies behind a time of day."""

    monotonic_us: int
    is_set: bool


class _Era(msgspec.Struct, frozen=True):
    """From `since_us` (CLOCK_BOOTTIME) on, the time of day was CLOCK_BOOTTIME + `anchor_us`."""

    since_us: int
    anchor_us: int
    is_set: bool


class _ServiceTime(msgspec.Struct, frozen=True):
    """What the service said: the anchor, right within `error_us` when CLOCK_BOOTTIME was `at_us`."""

    anchor_us: int
    error_us: int
    at_us: int

    def error_at(self, now_us: int) -> int:
        return self.error_us + round((now_us - self.at_us) * DRIFT)


class HostClock:
    """Implements `Time` on the host's clocks (`wall_us`, `boottime_us`); `synchronised` says whether they are set.

    Implements `UplinkClock`, too.
    """

    def __init__(
        self,
        boot_id: str,
        *,
        wall_us: Callable[[], int],
        boottime_us: Callable[[], int],
        synchronised: Callable[[], bool],
    ) -> None:
        self.boot_id = boot_id
        self._wall_us = wall_us
        self._boottime_us = boottime_us
        self._synchronised = synchronised
        self._service: _ServiceTime | None = None
        self._doubt: _ServiceTime | None = None  # an answer that contradicts the others, until the next decides
        self._agreed_since_us = 0
        now_us = boottime_us()
        wall = wall_us()
        self._eras: deque[_Era] = deque(maxlen=REMEMBERED_JUMPS)
        self._eras.append(_Era(now_us, wall - now_us, self._judge(wall)))

    @property
    def anchor_us(self) -> int | None:
        """Return time of day minus CLOCK_BOOTTIME; None until the clock is set."""
        era = self._eras[-1]
        return era.anchor_us if era.is_set else None

    def now_us(self) -> int:
        """See `Time.now_us`. Goes on evenly between two calls of `check`."""
        return self._boottime_us() + self._eras[-1].anchor_us

    def is_set(self) -> bool:
        """Return whether the time of day can be believed."""
        return self._eras[-1].is_set

    def is_confirmed(self) -> bool:
        """Return whether the service has told the time in this boot: a time server on the site may be wrong itself."""
        return self._service is not None

    def is_proven(self) -> bool:
        """See `Time.is_proven`."""
        service, now_us = self._service, self._boottime_us()
        if service is None or self._doubt is not None or now_us - self._agreed_since_us < PROVEN_US:
            return False
        wall_us = self._wall_us()
        return not self._judge(wall_us) or self._agrees(service, wall_us - now_us, now_us)

    def is_in_step(self) -> bool:
        """Return whether something keeps the host's own clock."""
        return self._judge(self._wall_us())

    def boottime_us(self) -> int:
        """See `UplinkClock.boottime_us`."""
        return self._boottime_us()

    def host_is_right(self) -> bool:
        """See `CertificateClock.host_is_right`."""
        return self.is_set() and abs(self._wall_us() - self.now_us()) < JUMP_US

    def host_us(self) -> int:
        """Return the host's own time of day, whatever is known of it."""
        return self._wall_us()

    def ahead_s(self) -> float:
        """Return how far the host's clock is ahead of the service's; 0 where that is not known."""
        if self._service is None:
            return 0.0
        return (self._wall_us() - self._boottime_us() - self._service.anchor_us) / 1_000_000

    def learn(self, service_us: int, held_us: int, sent_us: int, received_us: int) -> None:
        """See `UplinkClock.learn`. The better of what was learnt before, as it has aged, and this is kept.

        What contradicts the former is taken once a second answer says the same: the service's clock was set meanwhile.
        What cannot be is left out: its clock is not set, or was set while it had the request.
        """
        way_us = received_us - sent_us
        if not SOFTWARE_DATE_US <= service_us <= MAX_TIME_US or not 0 <= held_us <= way_us + JUMP_US:
            return
        error_us = max(0, way_us - held_us) // 2
        told, former = _ServiceTime(service_us + error_us - received_us, error_us, received_us), self._service
        if former is None:
            self._agreed_since_us = received_us
        elif not _agree(told, former):
            doubt, self._doubt = self._doubt, told
            if doubt is None or not _agree(told, doubt):
                return
            self._agreed_since_us = received_us
        elif error_us > former.error_at(received_us):
            self._doubt = None
            return
        self._doubt = None
        self._service = told
        self.check()

    def stamp(self, given_us: int) -> Stamp:
        """See `Time.stamp`: the newest era in which `now_us` can have said `given_us`."""
        end_us = self._boottime_us()
        for era in reversed(self._eras):
            monotonic_us = given_us - era.anchor_us
            if era.since_us - JUMP_US <= monotonic_us <= end_us + JUMP_US:
                return Stamp(monotonic_us, era.is_set)
            end_us = era.since_us
        return Stamp(self._boottime_us(), False)  # of no clock of ours

    def check(self) -> None:
        """Look at the host's clocks: follow them, notice jumps, and notice that they have been set.

        To be called every second or so.
        """
        now_us = self._boottime_us()
        last = self._eras[-1]
        anchor_us, is_set = self._anchor(now_us, self._wall_us(), last)
        jump_us = anchor_us - last.anchor_us
        if abs(jump_us) < JUMP_US and is_set == last.is_set:
            self._eras[-1] = _Era(last.since_us, anchor_us, is_set)
            return
        self._eras.append(_Era(now_us, anchor_us, is_set))
        if is_set and not last.is_set:
            log.info("clock_set", moved_s=jump_us / 1_000_000)
        else:
            log.warning("clock_jumped", moved_s=jump_us / 1_000_000)

    def _anchor(self, now_us: int, wall_us: int, last: _Era) -> tuple[int, bool]:
        """Return the anchor to go by from now on, and whether it can be believed."""
        host_us, service = wall_us - now_us, self._service
        in_step = self._judge(wall_us)
        if service is not None:
            agree = self._agrees(service, host_us, now_us)
            return (host_us, True) if in_step and agree else (service.anchor_us, True)
        if last.is_set and not in_step and abs(host_us - last.anchor_us) >= JUMP_US:
            return last.anchor_us, True  # set by hand: nobody vouches for that, and somebody did for the last
        return host_us, last.is_set or in_step

    @staticmethod
    def _agrees(service: _ServiceTime, host_us: int, now_us: int) -> bool:
        return abs(host_us - service.anchor_us) <= service.error_at(now_us) + JUMP_US

    def _judge(self, wall_us: int) -> bool:
        return wall_us >= SOFTWARE_DATE_US and self._synchronised()


def _agree(told: _ServiceTime, former: _ServiceTime) -> bool:
    """Whether both can be true."""
    return abs(told.anchor_us - former.anchor_us) <= told.error_us + former.error_at(told.at_us)


def host_clock(*, assume_set: bool = False) -> HostClock:
    """Make the clock of this host. `assume_set`: it has a battery, and no time server to wait for."""
    return HostClock(
        BOOT_ID.read_text().strip(),
        wall_us=lambda: time.time_ns() // 1_000,
        boottime_us=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000,
        synchronised=(lambda: True) if assume_set else is_synchronised,
    )


def is_synchronised() -> bool:
    """Whether something keeps this host's clock: the kernel's own flag, which ntpd, chrony (with rtcsync)
    and systemd-timesyncd clear, or systemd-timesyncd's mark.
    """
    return TIMESYNCD_MARK.exists() or kernel_synchronised()


def kernel_synchronised() -> bool:
    """Return whether adjtimex(2) says that the clock is in step. False where it cannot be asked."""
    # struct timex: `status` is the fifth word-aligned field; the rest is not of interest.
    # 208 bytes on 64-bit Linux, 128 on 32-bit: 512 hold either.
    buffer = (ctypes.c_long * (512 // ctypes.sizeof(ctypes.c_long)))()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return False
    # modes (unsigned int, padded to a long), offset, freq, maxerror, esterror: then status.
    status = buffer[5] & 0xFFFF_FFFF
    return 0 <= state < _TIME_ERROR and not status & _STA_UNSYNC
