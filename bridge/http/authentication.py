"""Authenticates and limits requests: client address and key of a request in, its sender or a Problem out.

Cheapest first, so that a refused request costs as little as can be: the key, the limits of its address and its
owner; and, once the body is decoded, the limits of its sensors. A request counts against its address and its
owner even where a later step refuses it. One whose key is wrong counts as a failed login of its address instead,
so that nobody uses up what a right key from the same address may do; see `FailedLogins`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec
from starlette.requests import Request

from bridge.auth.failed_logins import FailedLogins, LoginAttempt, LoginDoor, key_id
from bridge.auth.key_cache import KeyCache, KeyOwner
from bridge.http.headers import header, headers
from bridge.http.problems import Problem
from bridge.http.proxy import ClientAddress
from bridge.model.reading import Packet
from bridge.model.scopes import allows
from bridge.rate_limit import SlidingWindow, Verdict, check
from bridge.settings.http import HttpSettings, LimitSettings
from bridge.telemetry import Metrics

KeyKind = Literal["api", "device", "gateway"]
KEY_HEADERS: dict[KeyKind, str] = {"api": "X-API-Key", "device": "X-Device-Key", "gateway": "X-Gateway-Key"}
"""The header that carries a key of each kind."""


class AuthenticatedSender(msgspec.Struct, frozen=True):
    """An authenticated sender, and the tightest of the limits that it has met so far."""

    key: KeyOwner
    verdict: Verdict

    @property
    def device_id(self) -> int:
        """The device, 0 for an API key."""
        return self.key.device_id if self.key.kind == "device" else 0

    def may_speak_for(self, device_uuid: str) -> bool:
        """Whether an API key's devices are every one, or this is one of them."""
        return self.key.devices is None or device_uuid in self.key.devices

    @property
    def key_owner(self) -> str:
        """Whose key it is, as quarantine keeps it: "device:7", or "api:3"."""
        return f"{self.key.kind}:{self.key.device_id}"


class Authentication:
    """Finds out who sends, and holds requests against the rate limits. `now` is a monotonic clock in seconds."""

    def __init__(
        self,
        http: HttpSettings,
        limits: LimitSettings,
        keys: KeyCache,
        failed: FailedLogins,
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._failed = failed
        self._metrics = metrics
        self._now = now
        self._address = ClientAddress(http.trusted_proxies)
        self._by_ip = SlidingWindow("ip", limits.ip_per_minute, limits.max_tracked)
        self._by_sender = SlidingWindow("device", limits.device_per_minute, limits.max_tracked)
        self._by_sensor = SlidingWindow("sensor", limits.sensor_per_minute, limits.max_tracked)

    async def sender(self, request: Request, kind: KeyKind, scope: str = "") -> AuthenticatedSender:
        """The sender of a request, by its key of this kind; an API key must have the scope.

        Raises Problem (401, 403, 429) and Unavailable.
        """
        name = KEY_HEADERS[kind]
        text = (header(request, name.lower().encode()) or "").strip()
        address = self.client(request)
        owner = self._keys.remembered(text)  # most requests: the limit of wrong keys costs them nothing
        if owner is None or owner.kind != kind:
            owner = await self._looked_up(text, kind, address)
        verdict = self._limited(check([(self._by_ip, [(address, 1)])], self._now()))
        if owner.disabled and kind == "gateway":
            raise Problem(403, "gateway_revoked", "the gateway is revoked; enrol it again to go on")
        if owner.disabled:
            raise Problem(403, "device_disabled", "the device is disabled; ask the operator")
        if scope and not allows(owner.scopes, scope):
            raise Problem(403, "missing_scope", f"the key lacks the scope {scope}; ask the operator for one with it")
        own = self._limited(check([(self._by_sender, [((kind, owner.device_id), 1)])], self._now()))
        return AuthenticatedSender(owner, verdict.tighter(own))

    async def _looked_up(self, text: str, kind: KeyKind, address: str) -> KeyOwner:
        """The owner of a key that is not remembered. Raises Problem (401, 429) and Unavailable."""
        attempt = LoginAttempt("http", address, key_id(text))
        too_many = self._failed.too_many(attempt)
        owner = await self._keys.owner(text, doubted=too_many is not None)
        if owner is not None and owner.kind == kind:
            return owner
        self._failed.note(attempt)
        if too_many is not None:
            raise self.too_many(too_many)
        name = KEY_HEADERS[kind]
        raise Problem(401, "bad_key", f"send a usable key in the {name} header", {"WWW-Authenticate": name})

    def expect_new_key(self) -> None:
        """A key was made: it is let in at once, however many wrong ones came before."""
        self._keys.expect_new()

    async def admit_code(self, request: Request, digest: str) -> None:
        """Let a one-time code go on to the database, by its hash, unless it is wrong and too many were before it.

        Raises Problem 429, Unavailable.
        """
        attempt = LoginAttempt("enrol", self.client(request))
        too_many = self._failed.too_many(attempt)
        if too_many is not None and not await self._keys.may_exist(digest):
            self._failed.note(attempt)
            raise self.too_many(too_many)

    def note_failure(self, request: Request, door: LoginDoor) -> Problem | None:
        """Count a wrong code or secret of the request's address. What to answer where there were too many before it."""
        attempt = LoginAttempt(door, self.client(request))
        verdict = self._failed.too_many(attempt)
        self._failed.note(attempt)
        return None if verdict is None else self.too_many(verdict)

    def too_many(self, verdict: Verdict) -> Problem:
        """The answer to a wrong key where there were too many before it."""
        self._metrics.limited.labels(verdict.name).inc()
        detail = f"over {verdict.limit} wrong keys a minute; a right one is let in"
        return Problem(429, "rate_limited", detail, limit_headers(verdict) | {"Retry-After": str(verdict.reset_s)})

    def limit_sensors(self, sender: AuthenticatedSender, packet: Packet) -> Verdict:
        """Count the readings against their sensors' limits. Raises Problem 429."""
        if not self._by_sensor.limit:
            return sender.verdict
        # By device as well: who names another device's sensor uses up nothing of its owner's.
        hits = Counter((sender.device_id, decoded.sensor) for decoded in packet.readings)
        return sender.verdict.tighter(self._limited(check([(self._by_sensor, hits.items())], self._now())))

    def _limited(self, verdict: Verdict) -> Verdict:
        if verdict.allowed:
            return verdict
        self._metrics.limited.labels(verdict.name).inc()
        headers = limit_headers(verdict) | {"Retry-After": str(verdict.reset_s)}
        detail = f"over {verdict.limit} a minute for this {verdict.name}; come again in {verdict.reset_s} s"
        raise Problem(429, "rate_limited", detail, headers)

    def client(self, request: Request) -> str:
        """The address to hold a request against; of IPv6 its /64."""
        peer = request.client.host if request.client else ""
        return self._address.of(peer, headers(request, b"x-forwarded-for"))


def limit_headers(verdict: Verdict) -> dict[str, str]:
    """RateLimit-* headers of the tightest limit; none where no limit is set."""
    if not verdict.limit:
        return {}
    return {
        "RateLimit-Limit": str(verdict.limit),
        "RateLimit-Remaining": str(verdict.remaining),
        "RateLimit-Reset": str(verdict.reset_s),
    }
