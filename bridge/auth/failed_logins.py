"""Counts refused logins, over all doors: so that guessing costs little, is seen, and shuts nobody out.

Flows in: each attempt that was refused: by which door, from which address, as whom. Flows out: whether an address, an
account or all of them together have had too many; a line of the log for each address and minute; totals for the audit
trail.

Too many is no lock: the door then asks `KeyIndex` before the database, so that wrong keys cost a look-up in memory and
are answered 429, and a right key goes on being let in. Whatever is remembered here is bounded, by number and length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
import structlog

from bridge.model.ttl_cache import TtlCache
from bridge.rate_limit import WINDOW_S, SlidingWindow, Verdict, check
from bridge.telemetry import Metrics

log = structlog.get_logger("auth")

LoginDoor = Literal["http", "enrol", "hook", "mqtt"]
"""Where somebody was refused: with a key over HTTP, with a gateway's one-time code, with the secret of the hooks, or at
an MQTT broker that asks the hooks."""

TRACKED = 20_000
"""Addresses and accounts whose failures are counted; the least recent is forgotten first."""
KEPT = 50
"""Attempts told apart between two calls of `take`, half of them with a name. Others count by address, or door alone."""
LINES_PER_MINUTE = 60
"""Lines of the log, of all addresses together."""
EVERYBODY_TIMES = 10
"""So many times what one address may fail, all of them may together: more, and none of them costs a query."""
MAX_NAME = 64

_KEY_ID = re.compile(r"[a-z]{2}_[0-9a-f]{8}(?=_)")


class LoginAttempt(msgspec.Struct, frozen=True):
    """Who tries to get in. `address` and `account` are empty where they are not known."""

    door: LoginDoor
    address: str = ""  # of IPv6 its /64
    account: str = ""  # a user name, or the readable part of a key


class FailedLogin(msgspec.Struct, frozen=True):
    """Attempts of one kind that were refused since the last time."""

    door: LoginDoor
    address: str
    account: str
    count: int
    first_us: int
    last_us: int


def key_id(text: str) -> str:
    """The readable part of a key of ours (`dk_1a2b3c4d`), which is no secret. Empty for all else: that may be one."""
    found = _KEY_ID.match(text)
    return found[0] if found else ""


class FailedLogins:
    """The failures of the last minute, by address and by account. `now` is monotonic, `now_us` the time of day."""

    def __init__(self, per_minute: int, metrics: Metrics, now: Callable[[], float], now_us: Callable[[], int]) -> None:
        self._by_address = SlidingWindow("failures", per_minute, TRACKED)
        self._by_account = SlidingWindow("failures", per_minute, TRACKED)
        self._of_all = SlidingWindow("failures", per_minute * EVERYBODY_TIMES, 1)
        self._lines = SlidingWindow("log", LINES_PER_MINUTE, 1)
        self._told: TtlCache[str, bool] = TtlCache(TRACKED, WINDOW_S)
        self._metrics = metrics
        self._now = now
        self._now_us = now_us
        self._totals: dict[LoginAttempt, list[int]] = {}  # count, first and last

    def too_many(self, attempt: LoginAttempt) -> Verdict | None:
        """The limit that was passed, where somebody, or everybody together, failed too often in the last minute."""
        now_s = self._now()
        for window, origin in self._counted(attempt):
            # First without a verdict, which costs more than the rest: each request comes this way.
            if window.limit and window.used(origin, now_s) > window.limit - 1:
                return window.verdict(origin, now_s)
        return None

    def note(self, attempt: LoginAttempt) -> None:
        """Count a refusal."""
        now_s, now_us = self._now(), self._now_us()
        attempt = msgspec.structs.replace(attempt, account=attempt.account[:MAX_NAME])
        self._metrics.login_failures.labels(attempt.door).inc()
        for window, origin in self._counted(attempt):
            window.used(origin, now_s)
            window.add(origin, now_s)
        self._add(attempt, 1, now_us, now_us)
        self._tell(attempt, now_s)

    def take(self) -> list[FailedLogin]:
        """What was refused since the last call."""
        totals, self._totals = self._totals, {}
        return [FailedLogin(each.door, each.address, each.account, *total) for each, total in totals.items()]

    def put_back(self, failed: Iterable[FailedLogin]) -> None:
        """Count again what was taken and could not be written down."""
        for each in failed:
            self._add(LoginAttempt(each.door, each.address, each.account), each.count, each.first_us, each.last_us)

    def _add(self, attempt: LoginAttempt, count: int, first_us: int, last_us: int) -> None:
        for plainer in (attempt, LoginAttempt(attempt.door, attempt.address), LoginAttempt(attempt.door)):
            # Made-up names fill their half, and then count with their address; made-up addresses fill the other.
            attempt, most = plainer, KEPT // 2 if plainer.account else KEPT
            if attempt in self._totals or len(self._totals) < most:
                break
        total = self._totals.setdefault(attempt, [0, first_us, last_us])
        total[0] += count
        total[1], total[2] = min(total[1], first_us), max(total[2], last_us)

    def _counted(self, attempt: LoginAttempt) -> list[tuple[SlidingWindow, str]]:
        """The windows in which an attempt counts. A key's readable part is as made up as the rest: it is no account."""
        found = [(self._of_all, "")]
        if attempt.address:
            found.append((self._by_address, attempt.address))
        if attempt.door == "mqtt" and attempt.account:
            found.append((self._by_account, attempt.account[:MAX_NAME]))
        return found

    def _tell(self, attempt: LoginAttempt, now_s: float) -> None:
        """A line a minute for each address, or account where there is no address, and one more at its limit; at most so
        many in all.
        """
        origin = attempt.address or attempt.account
        window = self._by_address if attempt.address else self._by_account
        failures = round(window.used(origin, now_s)) or 1
        is_at_limit = 0 < window.limit <= failures
        told = self._told.get(origin, now_s)
        if told is is_at_limit or told or not check([(self._lines, [("", 1)])], now_s).allowed:
            return
        self._told.put(origin, is_at_limit, now_s)
        log.warning(
            "login_refused",
            door=attempt.door,
            address=attempt.address or None,
            account=attempt.account or None,
            failures_in_a_minute=failures,
        )
