"""The service side of gateways: enrolment, batches of their spool, the registry snapshot.

A record of a batch is a delivery like any other, with its own device, door and time of receipt; the batch
is answered when all of them are settled. Sent again after any error, nothing of it is stored twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import Backpressure, DecodeError, StoreRefused, Unavailable
from bridge.gateway_protocol.batches import (
    Enrolled,
    EnrolmentRequest,
    GatewayLedger,
    GatewayState,
    RefusedCode,
    UplinkBatch,
    UplinkRecord,
    answer_of,
    delivery_of,
)
from bridge.gateway_protocol.decode import decode_batch
from bridge.gateway_protocol.receipt_time import ClockEstimate, estimates_in, placed
from bridge.gateway_protocol.snapshot import etag, signature
from bridge.http.authentication import AuthenticatedSender, Authentication, limit_headers
from bridge.http.body import inflate, receive_body
from bridge.http.endpoint import Endpoint
from bridge.http.gateway_cache import GatewayCache, GatewayInfo
from bridge.http.headers import header
from bridge.http.problems import Problem
from bridge.http.turns import Turns
from bridge.model.reading import Delivery, Outcome, Receipt, TsQuality
from bridge.pipeline.isolate import in_parts
from bridge.pipeline.json_body import decode_json
from bridge.pipeline.ports import DeliverySink
from bridge.pipeline.receipt_collector import FAILED, ReceiptCollector
from bridge.settings.http import HttpSettings
from bridge.store.secret import code_hash

log = structlog.get_logger("gateways")

MAX_BATCH_BYTES = 8 * 1_048_576
"""Of a batch after inflation: 5,000 records, some of them with quarantined bytes."""
MAX_ENROLMENT_BYTES = 4_096
"""Nobody has shown a key yet; code and version are 100 characters each."""
ESTIMATES_LOGGED = 10
"""Of a batch: a gateway may say that each of its records is of another boot."""

_enrolment = msgspec.json.Decoder(EnrolmentRequest)


class GatewayDirectory(Protocol):
    """Where gateways are registered. All raise StoreUnavailable."""

    async def enrol(self, code: str, version: str, address: str, key_hash: str) -> Enrolled | RefusedCode: ...
    async def rotate(self, gateway_id: int, present_hash: str) -> str: ...
    async def settle_rotation(self, gateway_id: int, present_hash: str) -> None: ...
    async def report(self, gateway_id: int, state: GatewayState | None) -> None: ...
    async def report_books(self, gateway_id: int, books: Sequence[GatewayLedger], run: str = "") -> int: ...
    async def note_estimates(self, gateway_id: int, estimates: Sequence[ClockEstimate]) -> None: ...


class GatewayDoor:
    """The endpoints below /gateways/. They stay out of OpenAPI: only `iot-edge` calls them.

    `now_us` is the time of day in microseconds.
    """

    def __init__(
        self,
        directory: GatewayDirectory,
        cache: GatewayCache,
        authentication: Authentication,
        pipeline: DeliverySink,
        http: HttpSettings,
        turns: Turns,
        now_us: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._cache = cache
        self._authentication = authentication
        self._pipeline = pipeline
        self._http = http
        self._now_us = now_us
        self._settled_keys: set[str] = set()
        self._gone: dict[int, tuple[int, int]] = {}  # what each gateway has shed and lost, as it said last
        self._turns = turns

    @property
    def endpoints(self) -> list[Endpoint]:
        """Their rows of the table."""
        return [
            Endpoint("POST", "/gateways/enrol", self.enrol),
            Endpoint("POST", "/gateways/{name}/batches", self.batch),
            Endpoint("POST", "/gateways/{name}/key", self.rotate),
            Endpoint("GET", "/gateways/{name}/registry", self.registry),
        ]

    async def sender(self, request: Request, name: str) -> tuple[AuthenticatedSender, GatewayInfo]:
        """The gateway that asks. Raises Problem (401, 403, 429), Unavailable."""
        sender = await self._authentication.sender(request, "gateway")
        gateway_id = sender.key.device_id
        found = await self._cache.gateway(gateway_id)
        if found is None or found.name != name:
            raise Problem(403, "foreign_gateway", "the key belongs to another gateway")
        if sender.key.hash not in self._settled_keys:  # after a rotation, the first use of the new key ends the old one
            await self._directory.settle_rotation(gateway_id, sender.key.hash)
            self._settled_keys.add(sender.key.hash)
        return sender, found

    async def enrol(self, request: Request) -> Response:
        """A one-time code for a key. Raises Problem (403, 422, 429), Unavailable."""
        body = await receive_body(request, self._http, MAX_ENROLMENT_BYTES)
        try:
            asked = decode_json(_enrolment, body)
        except DecodeError as error:
            raise DecodeError(error.reason, 'send {"code": "ABCD-EFGH-JKMN"}') from None
        await self._authentication.admit_code(request, code_hash(asked.code))
        address = self._authentication.client(request)
        made = await self._directory.enrol(asked.code, asked.version, address, asked.key_hash)
        if isinstance(made, RefusedCode):
            # Only who has the code whole is told more than that it is wrong, and it counts as a guess all the same.
            raise self._authentication.note_failure(request, "enrol") or Problem(403, made.reason, made.detail)
        self._authentication.expect_new_key()
        return _json(made)

    async def batch(self, request: Request, name: str) -> Response:
        """Take a batch in; answer once every record is settled. Raises Problem, DecodeError, Unavailable."""
        came_us = self._now_us()  # before the body, which may take long: ages are of when the gateway began to send
        sender, gateway = await self.sender(request, name)
        raw = await receive_body(request, self._http)
        async with self._turns:
            received, ignored = decode_batch(inflate(request, raw, MAX_BATCH_BYTES))
        # Before the records, which its ledger counts: at no moment has more come than the gateway says it took in.
        ignored += await self._report(sender.key.device_id, received)
        if received.state is not None:
            self._note_gone(sender.key.device_id, name, received.state)
        if ignored:
            log.warning("gateway_report_ignored", gateway=name, problems=ignored)
        records = placed(received.records, came_us)
        if records is not received.records:
            await self._note_times(sender.key.device_id, name, records)
        outcomes = await self._settled(received.epoch, records, gateway)
        tag = etag(_known(await self._cache.snapshot(sender.key.device_id)))
        now_us = self._now_us()
        answer = answer_of(records, outcomes, tag, ignored, now_us, now_us - came_us)
        return _json(answer, limit_headers(sender.verdict))

    async def _report(self, gateway_id: int, batch: UplinkBatch) -> list[str]:
        """Keep state and books; what of them cannot be kept does not hold up the records. Returns what is left out."""
        foreign = 0

        async def keep(books: Sequence[GatewayLedger]) -> None:
            nonlocal foreign
            run = "" if batch.state is None else batch.state.run
            foreign += await self._directory.report_books(gateway_id, books, run)

        ignored = []
        try:
            await self._directory.report(gateway_id, batch.state)
        except StoreRefused as error:
            log.error("gateway_state_refused_by_store", gateway=gateway_id, detail=error.detail)
            ignored.append("state: it cannot be stored")
        for line, refusal in await in_parts(batch.books, keep):
            log.error("gateway_book_refused_by_store", gateway=gateway_id, device=line.device_id, detail=refusal.detail)
            ignored.append(f"books: the line of device {line.device_id}, {line.source} cannot be stored")
        if foreign:
            ignored.append(f"books: {foreign} lines are of devices that are not this gateway's")
        return ignored

    async def _note_times(self, gateway_id: int, name: str, records: Sequence[UplinkRecord]) -> None:
        """Tell of times that are not the gateway's own, and keep what estimates are worth. Raises Unavailable."""
        computed = sum(record.ts_quality is TsQuality.COMPUTED for record in records)
        estimates = estimates_in(records)
        if computed:
            log.warning("gateway_clock_wrong", gateway=name, readings=computed)
        for each in estimates[:ESTIMATES_LOGGED]:
            earlier_s = None if each.earlier_us is None else each.earlier_us / 1e6
            log.warning("gateway_times_estimated", gateway=name, boot_id=each.boot_id, may_be_earlier_s=earlier_s)
        if len(estimates) > ESTIMATES_LOGGED:
            log.warning("gateway_times_estimated", gateway=name, more_boots=len(estimates) - ESTIMATES_LOGGED)
        if estimates:
            try:
                await self._directory.note_estimates(gateway_id, estimates)
            except StoreRefused as error:
                log.error("gateway_estimates_refused_by_store", gateway=name, detail=error.detail)

    def _note_gone(self, gateway_id: int, name: str, state: GatewayState) -> None:
        """Say it where a gateway has shed or lost more than when it was last heard."""
        shed, lost = self._gone.get(gateway_id, (state.shed, state.lost))
        self._gone[gateway_id] = state.shed, state.lost
        if state.shed > shed or state.lost > lost:
            log.warning(
                "gateway_sheds",
                gateway=name,
                shed=max(0, state.shed - shed),
                lost=max(0, state.lost - lost),
                advice="its spool or its disk is full, or was damaged: see iot-bridge gateway show",
            )

    async def registry(self, request: Request, name: str) -> Response:
        """The signed snapshot, or 304. Raises Problem, Unavailable."""
        sender, _ = await self.sender(request, name)
        body = _known(await self._cache.newest_snapshot(sender.key.device_id))
        tag = etag(body)
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in (header(request, b"if-none-match") or ""):
            return Response(status_code=304, headers=headers)
        headers["X-Registry-Signature"] = signature(body, sender.key.hash)
        return Response(body, media_type="application/json", headers=headers)

    async def rotate(self, request: Request, name: str) -> Response:
        """A new key; the present one works until the new one is used."""
        sender, gateway = await self.sender(request, name)
        key = await self._directory.rotate(sender.key.device_id, sender.key.hash)
        self._authentication.expect_new_key()
        return _json(Enrolled(gateway.name, key))

    async def _settled(self, epoch: str, records: Sequence[UplinkRecord], gateway: GatewayInfo) -> Sequence[Receipt]:
        """One receipt a record. Raises Unavailable where any of them could not be settled."""
        collector = ReceiptCollector(len(records))
        for index, record in enumerate(records):
            try:
                self._pipeline.submit(self._delivery(epoch, record, gateway, partial(collector.settle, index)))
            except Unavailable as error:
                if index == 0 or not isinstance(error, Backpressure):
                    raise
                for rest in range(index, len(records)):
                    collector.settle(rest, [FAILED])
                break
        try:
            async with asyncio.timeout(self._http.ack_timeout_s):
                receipts = await collector.wait()
        except TimeoutError:
            raise Unavailable("the database is too slow; send the same again", retry_after_s=2) from None
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            raise Unavailable("not all of it is stored; send the same again")
        return receipts

    def _delivery(
        self,
        epoch: str,
        record: UplinkRecord,
        gateway: GatewayInfo,
        settle: Callable[[Sequence[Receipt]], None],
    ) -> Delivery:
        return delivery_of(record, epoch, gateway.name, record.received_us, settle, gateway.devices)


def _known(snapshot: bytes | None) -> bytes:
    if snapshot is None:
        raise Problem(403, "foreign_gateway", "there is no such gateway any more")
    return snapshot


def _json(answer: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json", headers=headers)
