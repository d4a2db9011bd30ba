"""The way to the service, as the uplink sees it: batches over, answers back. Implements `Transport` over https.

Flows in: `UplinkBatch`. Flows out: `BatchAnswer`, or why there is none: away (again later), denied (keep spooling, a
human must act), too large, or refused for good, which only an answer of the service itself can say.
"""

from __future__ import annotations

from hashlib import sha256
from typing import ClassVar, Protocol, TypeVar

import msgspec

from bridge.errors import BridgeError, DecodeError
from bridge.gateway_protocol.batches import BatchAnswer, Enrolled, EnrolmentRequest, UplinkBatch, decode_answer
from edge.service_api.http_client import Answer, ServiceAway, ServiceClient, packed

DENIALS = {401, 403, 404, 405, 407, 410}
"""Statuses that say nothing of the records: the key, the URL, or something on the way is wrong."""
LATER = {408, 421, 425, 429}
PROBLEM = "application/problem+json"
HINTS = {
    "gateway_revoked": "the gateway is revoked; it goes on spooling. Ask the operator, then enrol it again",
    "bad_key": "the service does not know this gateway's key; it goes on spooling. Enrol it again",
    "foreign_gateway": "the key belongs to another gateway; it goes on spooling. Enrol it again",
}

T = TypeVar("T")


class TransportDenied(BridgeError):
    """Raised where the service turns the gateway away, whatever it sends. `reason` is the `code` of the answer.

    `told` is the answer's own text.
    """

    retryable: ClassVar[bool] = True
    code = "denied"

    def __init__(self, status: int, reason: str, detail: str, told: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.told = told


class TransportRejected(BridgeError):
    """Raised where the service rejects this batch for good."""

    code = "refused"


class BatchTooLarge(TransportRejected):
    """Raised where a batch is over a limit of the service, or of something before it."""


class Transport(Protocol):
    """Carries batches to the service, and its answers back."""

    async def send_batch(self, lane: str, batch: UplinkBatch) -> BatchAnswer:
        """Send one batch; two lanes may be under way at once.

        Raises ServiceAway, TransportDenied, BatchTooLarge, TransportRejected.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class HttpsTransport:
    """Implements `Transport` over HTTPS. `clients` has one for each lane; `name` and `key` are by enrolment."""

    def __init__(self, name: str, key: str, clients: dict[str, ServiceClient]) -> None:
        self._name = name
        self._key = key
        self._clients = clients

    @property
    def key_hash(self) -> str:
        """Return what signs the registry."""
        return sha256(self._key.encode()).hexdigest()

    def use_key(self, key: str) -> None:
        """Use this key from now on."""
        self._key = key

    async def send_batch(self, lane: str, batch: UplinkBatch) -> BatchAnswer:
        """See `Transport.send_batch`."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"} | self._identity
        answer = await self._clients[lane].request(
            "POST", f"/gateways/{self._name}/batches", headers=headers, body=packed(msgspec.json.encode(batch))
        )
        found = _understood(answer, decode_answer)
        _require_whole(found, batch)
        return found

    async def registry(self, etag: str) -> tuple[bytes, str] | None:
        """Fetch snapshot and signature; None where `etag` still is its. Raises ServiceAway, TransportDenied."""
        headers = self._identity | ({"If-None-Match": etag} if etag else {})
        answer = await self._clients["registry"].request("GET", f"/gateways/{self._name}/registry", headers=headers)
        if answer.status == 304:
            return None
        body = _understood(answer, bytes)
        return body, answer.headers.get("x-registry-signature", "")

    async def rotate(self) -> str:
        """Fetch a new key; the present one works until the new one is used. Raises ServiceAway, TransportDenied."""
        answer = await self._clients["registry"].request("POST", f"/gateways/{self._name}/key", headers=self._identity)
        return _understood(answer, _enrolled).gateway_key

    async def close(self) -> None:
        """See `Transport.close`."""
        for client in self._clients.values():
            client.close()

    @property
    def _identity(self) -> dict[str, str]:
        return {"X-Gateway-Key": self._key}


async def enrol(client: ServiceClient, code: str, version: str, key_hash: str) -> Enrolled:
    """Exchange a one-time code for a name. Raises ServiceAway, TransportDenied, TransportRejected.

    `key_hash` is of the key that we have made; a service of a release before answers with one of its own.
    """
    body = msgspec.json.encode(EnrolmentRequest(code, version, key_hash))
    answer = await client.request("POST", "/gateways/enrol", headers={"Content-Type": "application/json"}, body=body)
    return _understood(answer, _enrolled)


class _Decoded(Protocol[T]):  # type: ignore[misc]
    def __call__(self, body: bytes, /) -> T: ...


def _understood(answer: Answer, decode: _Decoded[T]) -> T:
    """Decode the body of a 200. Raises ServiceAway, TransportDenied, BatchTooLarge, TransportRejected."""
    if answer.status == 200:
        try:
            return decode(answer.body)
        except DecodeError as error:
            raise ServiceAway("stranger", f"{error.detail}; is something between us, such as a portal?") from None
    code, detail = _problem(answer)
    said = f"the service answers {answer.status}: {detail}"
    if answer.status == 413:
        raise BatchTooLarge(said)
    if answer.status in DENIALS:
        raise TransportDenied(answer.status, code, HINTS.get(code, f"{said}; check uplink.url"), detail)
    if 400 <= answer.status < 500 and answer.status not in LATER and code:
        raise TransportRejected(said)
    raise ServiceAway(f"status_{answer.status}", said, retry_after_s=_retry_after_s(answer))


def _problem(answer: Answer) -> tuple[str, str]:
    """Return code and detail of a problem of the service (RFC 9457); no code where it is none of the service's."""
    if answer.headers.get("content-type", "").partition(";")[0].strip() == PROBLEM:
        try:
            said = msgspec.json.decode(answer.body, type=dict[str, str | int])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = {}
        return str(said.get("code", "")), str(said.get("detail", ""))[:300]
    return "", "something other than our service"


def _retry_after_s(answer: Answer) -> float:
    """Return Retry-After in seconds (RFC 9110, section 10.2.3); a date is not what the service sends."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), 3_600.0) if text.isascii() and text.isdecimal() else 0.0


def _enrolled(body: bytes) -> Enrolled:
    try:
        return msgspec.json.decode(body, type=Enrolled)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError("bad_form", f"the service's answer is not of the form: {error}") from None


def _require_whole(answer: BatchAnswer, batch: UplinkBatch) -> None:
    """Check that an answer speaks of exactly the records that were sent: no other answer lets go of anything."""
    named = [*answer.duplicates, *(rejected.id for rejected in answer.rejected)]
    sent = {record.id for record in batch.records}
    if len(set(named)) != len(named) or not sent.issuperset(named) or answer.stored + len(named) != len(sent):
        raise ServiceAway("broken", "the answer does not speak of the records that were sent")
