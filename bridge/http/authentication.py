"""Authenticates and limits requests: client address and key of a request in, its sender or a Problem out.

Cheapest first, so that a refused request costs as little as can be: the limit of the address, the key, the
limit of its owner; and, once the body is decoded, the limits of its sensors. A request counts against its
address and its owner even where a later step refuses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec
from starlette.requests import Request

from bridge.auth.key_cache import KeyCache, KeyOwner
from bridge.http.headers import header, headers
from bridge.http.problems import Problem
from bridge.http.proxy import ClientAddress
from bridge.model.reading import Packet
from bridge.rate_limit import SlidingWindow, Verdict, check
from bridge.settings.http import HttpSettings, LimitSettings
from bridge.telemetry import Metrics

KeyKind = Literal["api", "device", "gateway"]
KEY_HEADERS: dict[KeyKind, str] = {"api": "X-API-Key", "device": "X-Device-Key", "gateway": "X-Gateway-Key"}
"""The header that carries a key of each kind."""

UNAUTHENTICATED_WEIGHT = 10
"""A request without a key counts as so many: it may be guessing."""


class AuthenticatedSender(msgspec.Struct, frozen=True):
    """An authenticated sender, and the tightest of the limits that it has met so far."""

    key: KeyOwner
    verdict: Verdict

    @property
    def device_id(self) -> int:
        """The device, 0 for an API key."""
        return self.key.device_id if self.key.kind == "device" else 0


class Authentication:
    """Finds out who sends, and holds requests against the rate limits. `now` is a monotonic clock in seconds."""

    def __init__(
        self, http: HttpSettings, limits: LimitSettings, keys: KeyCache, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._metrics = metrics
        self._now = now
        self._address = ClientAddress(http.trusted_proxies)
        self._by_ip = SlidingWindow("ip", limits.ip_per_minute, limits.max_tracked)
        self._by_sender = SlidingWindow("device", limits.device_per_minute, limits.max_tracked)
        self._by_sensor = SlidingWindow("sensor", limits.sensor_per_minute, limits.max_tracked)

    async def sender(self, request: Request, kind: KeyKind) -> AuthenticatedSender:
        """The sender of a request, by its key of this kind. Raises Problem (401, 403, 429) and Unavailable."""
        name = KEY_HEADERS[kind]
        verdict = self._limited(check([(self._by_ip, [(self._client(request), 1)])], self._now()))
        owner = await self._keys.owner((header(request, name.lower().encode()) or "").strip())
        if owner is None or owner.kind != kind:
            raise Problem(401, "bad_key", f"send a usable key in the {name} header", {"WWW-Authenticate": name})
        if owner.disabled and kind == "gateway":
            raise Problem(403, "gateway_revoked", "the gateway is revoked; enrol it again to go on")
        if owner.disabled:
            raise Problem(403, "device_disabled", "the device is disabled; ask the operator")
        own = self._limited(check([(self._by_sender, [((kind, owner.device_id), 1)])], self._now()))
        return AuthenticatedSender(owner, verdict.tighter(own))

    def limit_unauthenticated(self, request: Request) -> None:
        """Count a request without a key against its address, with its weight. Raises Problem 429."""
        self._limited(check([(self._by_ip, [(self._client(request), UNAUTHENTICATED_WEIGHT)])], self._now()))

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

    def _client(self, request: Request) -> str:
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
