"""The steps that every ingest endpoint shares: body, decoder, `submit`, wait for the receipts, answer.

A 200 leaves from one place, `Ingest._answer`, and only when no receipt says FAILED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import DecodeError, Unavailable
from bridge.http.authentication import AuthenticatedSender, Authentication, limit_headers
from bridge.http.body import inflate, receive_body
from bridge.http.byte_budget import lease_of
from bridge.http.headers import header
from bridge.http.problems import Problem
from bridge.http.turns import Turns
from bridge.model.reading import Code, Delivery, Outcome, Packet, Receipt, Rejection, Source
from bridge.pipeline.batch import MAX_QUARANTINED_BYTES
from bridge.pipeline.ignored import IgnoredFields
from bridge.pipeline.ports import DeliverySink
from bridge.rate_limit import Verdict
from bridge.settings.http import HttpSettings

MAX_IDEMPOTENCY_KEY = 255

LARGE_BYTES = 262_144
"""A body that may be larger, inflated, is decoded in its turn: the largest takes a tenth of a second."""
_MAX_RATIO = 1_032
"""Of deflate: 258 bytes for two bits (RFC 1951, section 3.2.5)."""

Decoder = Callable[[bytes], Packet]


class Ingest:
    """Takes one request to the pipeline and its receipts back: what all ingest endpoints share."""

    def __init__(
        self,
        http: HttpSettings,
        pipeline: DeliverySink,
        authentication: Authentication,
        turns: Turns,
        now_us: Callable[[], int],
        knows_time: Callable[[], bool],
        ignored: IgnoredFields,
    ) -> None:
        self._http = http
        self._pipeline = pipeline
        self._authentication = authentication
        self._now_us = now_us
        self._knows_time = knows_time
        self._turns = turns
        self._ignored = ignored

    async def run(self, request: Request, sender: AuthenticatedSender, decode: Decoder) -> Response:
        """Body to answer, for an authenticated sender."""
        key = idempotency_key(request, sender)
        device = sender.key.device_uuid
        body, packet, received_us = await self._received(request, decode)
        if isinstance(packet, DecodeError):
            await self._quarantine(request, sender, body, packet, key)
            raise packet
        if device is not None and packet.device_uuid not in (None, device):
            raise Problem(403, "foreign_device", "the key belongs to another device than the packet names")
        verdict = self._authentication.limit_sensors(sender, packet)
        if packet.ignored:
            self._ignored.note(sender.key_owner, request.scope["path"], packet.ignored, received_us / 1_000_000)
        receipts = await self._settled(
            request,
            partial(
                Delivery,
                packet,
                Source.HTTP,
                body,
                received_us,
                device_uuid=device,
                device_id=sender.device_id,
                sender=sender.key_owner,
                topic=request.scope["path"],
                key=key,
                devices=sender.key.devices,
            ),
        )
        if key is not None:
            _refuse_if_all_conflict(receipts)
        return self._answer(receipts, packet.ignored, device is not None, received_us, verdict)

    async def _received(self, request: Request, decode: Decoder) -> tuple[bytes, Packet | DecodeError, int]:
        """A body, what it is or why it is nothing, and when it was here. Of the latter, what quarantine keeps."""
        body = b""
        try:
            body = raw = await receive_body(request, self._http)
            received_us = self._now_us()
            async with self._turns if _may_be_large(request, raw) else nullcontext():
                body = inflate(request, raw, self._http.max_inflated_bytes)
                return body, decode(body), received_us
        except DecodeError as error:
            return body[:MAX_QUARANTINED_BYTES], error.bare(), self._now_us()

    def _answer(
        self,
        receipts: Sequence[Receipt],
        ignored: Sequence[str],
        is_device: bool,
        received_us: int,
        verdict: Verdict,
    ) -> Response:
        counts = [0] * len(Outcome)
        for receipt in receipts:
            counts[receipt.outcome] += 1
        if counts[Outcome.FAILED]:
            raise Unavailable("nothing is stored now; send the same again")
        refused = [r for r in receipts if r.outcome == Outcome.QUARANTINED] if counts[Outcome.QUARANTINED] else []
        answer: dict[str, Any] = {
            "inserted": counts[Outcome.STORED],
            "duplicates": counts[Outcome.DUPLICATE],
            "rejected": [{"index": r.index, "code": r.code, "detail": r.detail} for r in refused],
        }
        if is_device:
            unknown = (str(r.sensor) for r in refused if r.code == Code.UNKNOWN_SENSOR)
            answer["unknown_sensors"] = list(dict.fromkeys(unknown))
            # Devices set their clocks by it: a time that nobody knows must not look like one.
            answer["ingested_ts"] = received_us / 1_000_000 if self._knows_time() else 0
        if ignored:
            answer["ignored"] = ignored
        return Response(msgspec.json.encode(answer), media_type="application/json", headers=limit_headers(verdict))

    async def _settled(self, request: Request, delivery: Callable[..., Delivery]) -> Sequence[Receipt]:
        """Submit a delivery and wait for its receipts. Raises Unavailable."""
        lease = lease_of(request.scope)
        settled: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()

        def settle(receipts: Sequence[Receipt]) -> None:
            lease.release()  # the delivery kept the body, longer perhaps than the request
            if not settled.done():  # the client may have been told 503 meanwhile
                settled.set_result(receipts)

        lease.keep()
        try:
            self._pipeline.submit(delivery(settle=settle))
        except Unavailable:
            lease.release()
            raise
        try:
            async with asyncio.timeout(self._http.ack_timeout_s):
                return await settled
        except TimeoutError:
            raise Unavailable("the database is too slow; send the same again", retry_after_s=2) from None

    async def _quarantine(
        self, request: Request, sender: AuthenticatedSender, body: bytes, error: DecodeError, key: str | None
    ) -> None:
        """Keep what could not be decoded. If even that cannot be stored, the sender is told 503."""
        packet = Packet((), (Rejection(0, Code(error.reason), error.detail, whole=True),))
        receipts = await self._settled(
            request,
            partial(
                Delivery,
                packet,
                Source.HTTP,
                body,
                self._now_us(),
                device_uuid=sender.key.device_uuid,
                device_id=sender.device_id,
                sender=sender.key_owner,
                topic=request.scope["path"],
                key=key,
            ),
        )
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            raise Unavailable("nothing is stored now; send the same again")


def _refuse_if_all_conflict(receipts: Sequence[Receipt]) -> None:
    """Raise Problem 422 where an Idempotency-Key came with another body, of which nothing is what it was before.

    A body that has grown, or lost some readings, is answered 200: firmware must not be trapped with it. What conflicts
    is in quarantine either way.
    """
    if receipts and all(receipt.code == Code.CONFLICTING_IDENTITY for receipt in receipts):
        told = f"this Idempotency-Key came with another body before: {receipts[0].detail}"
        raise Problem(422, Code.CONFLICTING_IDENTITY, told)


def _may_be_large(request: Request, raw: bytes) -> bool:
    size = len(raw)
    return size > LARGE_BYTES or (size * _MAX_RATIO > LARGE_BYTES and bool(header(request, b"content-encoding")))


def idempotency_key(request: Request, sender: AuthenticatedSender) -> str | None:
    """The Idempotency-Key, scoped to its sender. Raises Problem 422."""
    text = header(request, b"idempotency-key")
    if text is None:
        return None
    if not 0 < len(text) <= MAX_IDEMPOTENCY_KEY or not all("!" <= c <= "~" for c in text):
        raise Problem(422, Code.BAD_FORM, f"Idempotency-Key is 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters")
    return "h-" + blake2b(f"{sender.key.kind}\0{sender.key.device_id}\0{text}".encode(), digest_size=16).hexdigest()
