"""The HTTP door: requests in, deliveries to the pipeline, answers from their receipts.

Ingest routes take the raw request: key, rate limit, body, decoder, `offer`, wait for the receipts.
A 200 leaves from one place, `Ingest.answer`, and only when no receipt says FAILED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bridge.errors import BridgeError, DecodeError, Unavailable
from bridge.http import limits, problems, schemas
from bridge.http.body import read_body
from bridge.http.front import Front
from bridge.http.headers import header
from bridge.http.keys import KeyOwner, KeyRing
from bridge.http.limits import SlidingWindow, Verdict
from bridge.http.page import INDEX
from bridge.http.problems import Problem
from bridge.http.proxy import ClientAddress
from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_packet, normal_uuid
from bridge.reading import Code, Delivery, Outcome, Packet, Receipt, Refusal, Source
from bridge.settings import HttpSettings, LimitSettings
from bridge.telemetry import Metrics

MAX_IDEMPOTENCY_KEY = 255
_BIGINT = 1 << 63

Decoder = Callable[[bytes], Packet]


class Intake(Protocol):
    """What the door needs of the pipeline."""

    def offer(self, delivery: Delivery) -> None: ...


class Parts(msgspec.Struct, frozen=True):
    """What the app is handed."""

    http: HttpSettings
    limits: LimitSettings
    intake: Intake
    keys: KeyRing
    metrics: Metrics
    problems: Callable[[], Sequence[str]]  # why nothing can be stored; empty when it can
    sensor_status: Callable[[int], Awaitable[dict[str, Any] | None]]
    now: Callable[[], float]
    now_us: Callable[[], int]


class Ingest:
    """The steps that every ingest route shares."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._address = ClientAddress(parts.http.trusted_proxies)
        tracked = parts.limits.max_tracked
        self._by_ip = SlidingWindow("ip", parts.limits.ip_per_minute, tracked)
        self._by_sender = SlidingWindow("device", parts.limits.device_per_minute, tracked)
        self._by_sensor = SlidingWindow("sensor", parts.limits.sensor_per_minute, tracked)

    async def owner(self, request: Request, kind: str, name: str) -> KeyOwner:
        """Whose key the request carries in the header `name`. Raises Problem 401 or 429, StoreUnavailable."""
        owner = await self._parts.keys.owner(header(request, name.lower().encode()) or "")
        if owner is None or owner.kind != kind:
            self._limited(limits.check([(self._by_ip, [(self._client(request), 1)])], self._parts.now()))
            raise Problem(401, "bad_key", f"send a usable key in the {name} header", {"WWW-Authenticate": name})
        if owner.disabled:
            raise Problem(403, "device_disabled", "the device is disabled; ask the operator")
        return owner

    async def run(self, request: Request, owner: KeyOwner, device: str | None, decode: Decoder) -> Response:
        """Body to answer, for an authenticated sender."""
        parts = self._parts
        key = _idempotency_key(request, owner)
        body = b""
        try:
            body = await read_body(request, parts.http)
            received_us = parts.now_us()
            packet = decode(body)
        except DecodeError as error:
            await self._quarantine(request, owner, body, error)
            raise
        if device is not None and packet.device_uuid not in (None, device):
            raise Problem(403, "foreign_device", "the key belongs to another device than the packet names")
        verdict = self._limit(request, owner, packet)
        receipts = await self._settled(
            partial(
                Delivery,
                packet,
                Source.HTTP,
                body,
                received_us,
                device_uuid=device,
                device_id=owner.device_id if device is not None else 0,
                topic=request.scope["path"],
                key=key,
            )
        )
        return self._answer(receipts, device is not None, received_us, verdict)

    def _answer(self, receipts: Sequence[Receipt], is_device: bool, received_us: int, verdict: Verdict) -> Response:
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
            answer["ingested_ts"] = received_us / 1_000_000
        return Response(msgspec.json.encode(answer), media_type="application/json", headers=_limit_headers(verdict))

    async def _settled(self, delivery: Callable[..., Delivery]) -> Sequence[Receipt]:
        """Offer a delivery and wait for its receipts. Raises Unavailable."""
        settled: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()

        def settle(receipts: Sequence[Receipt]) -> None:
            if not settled.done():  # the client may have been told 503 meanwhile
                settled.set_result(receipts)

        self._parts.intake.offer(delivery(settle=settle))
        try:
            async with asyncio.timeout(self._parts.http.ack_timeout_s):
                return await settled
        except TimeoutError:
            raise Unavailable("the database is too slow; send the same again", retry_after_s=2) from None

    async def _quarantine(self, request: Request, owner: KeyOwner, body: bytes, error: DecodeError) -> None:
        """Keep what could not be decoded. If even that cannot be stored, the sender is told 503."""
        is_device = owner.kind == "device"
        packet = Packet((), (Refusal(0, Code(error.reason), error.detail),))
        receipts = await self._settled(
            partial(
                Delivery,
                packet,
                Source.HTTP,
                body,
                self._parts.now_us(),
                device_uuid=owner.device_uuid,
                device_id=owner.device_id if is_device else 0,
                topic=request.scope["path"],
            )
        )
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            raise Unavailable("nothing is stored now; send the same again")

    def _limit(self, request: Request, owner: KeyOwner, packet: Packet) -> Verdict:
        sensors: dict[int | str, int] = {}
        for draft in packet.drafts:
            sensors[draft.sensor] = sensors.get(draft.sensor, 0) + 1
        return self._limited(
            limits.check(
                [
                    (self._by_ip, [(self._client(request), 1)]),
                    (self._by_sender, [((owner.kind, owner.device_id), 1)]),
                    (self._by_sensor, sensors.items()),
                ],
                self._parts.now(),
            )
        )

    def _limited(self, verdict: Verdict) -> Verdict:
        if verdict.allowed:
            return verdict
        self._parts.metrics.limited.labels(verdict.name).inc()
        headers = _limit_headers(verdict) | {"Retry-After": str(verdict.reset_s)}
        detail = f"over {verdict.limit} a minute for this {verdict.name}; come again in {verdict.reset_s} s"
        raise Problem(429, "rate_limited", detail, headers)

    def _client(self, request: Request) -> str:
        peer = request.client.host if request.client else ""
        return self._address.of(peer, header(request, b"x-forwarded-for") or "")


def build_app(parts: Parts) -> FastAPI:
    """The app with every route. Its documentation page loads nothing from elsewhere."""
    app = FastAPI(title="IoT edge bridge", version="1", docs_url=None, redoc_url=None)
    ingest = Ingest(parts)
    _add_error_answers(app)
    _add_ingest_routes(app, ingest, parts.http.max_readings_per_packet)
    app.add_middleware(Front, routes=[route for route in app.routes if isinstance(route, APIRoute)])
    _add_status_route(app, ingest, parts)
    _add_health_routes(app, parts)
    app.add_middleware(RequestCounter, metrics=parts.metrics)
    return app


def _add_ingest_routes(app: FastAPI, ingest: Ingest, most: int) -> None:
    errors = schemas.problems(400, 401, 403, 408, 413, 415, 422, 429, 503)
    packet_decoder = partial(decode_packet, max_readings=most)

    @app.post(
        "/ingest/readings",
        response_model=schemas.Inserted,
        responses=errors,
        openapi_extra=schemas.body_of(schemas.ApiReading),
    )
    async def ingest_reading(request: Request) -> Response:
        owner = await ingest.owner(request, "api", "X-API-Key")
        return await ingest.run(request, owner, None, decode_api_reading)

    @app.post(
        "/ingest/readings/bulk",
        response_model=schemas.Inserted,
        responses=errors,
        openapi_extra=schemas.body_of(schemas.ApiPacket),
    )
    async def ingest_bulk(request: Request) -> Response:
        owner = await ingest.owner(request, "api", "X-API-Key")
        return await ingest.run(request, owner, None, partial(decode_api_bulk, max_readings=most))

    @app.post(
        "/ingest/packets",
        response_model=schemas.DeviceInserted,
        responses=errors,
        openapi_extra=schemas.body_of(schemas.NamedDevicePacket),
    )
    async def ingest_packet(request: Request) -> Response:
        owner = await ingest.owner(request, "device", "X-Device-Key")

        def decode(body: bytes) -> Packet:
            packet = packet_decoder(body)
            if packet.device_uuid is None:
                raise DecodeError(Code.BAD_FORM, "device_uuid is missing", where="$.device_uuid")
            return packet

        return await ingest.run(request, owner, owner.device_uuid, decode)

    @app.post(
        "/devices/{device_uuid}/readings",
        response_model=schemas.DeviceInserted,
        responses=errors,
        openapi_extra=schemas.body_of(schemas.DevicePacket),
    )
    async def device_readings(request: Request, device_uuid: str) -> Response:
        owner = await ingest.owner(request, "device", "X-Device-Key")
        if normal_uuid(device_uuid) != owner.device_uuid:
            raise Problem(403, "foreign_device", "the key belongs to another device")
        return await ingest.run(request, owner, owner.device_uuid, packet_decoder)


def _add_status_route(app: FastAPI, ingest: Ingest, parts: Parts) -> None:
    @app.get(
        "/sensors/{sensor_id}/status",
        response_model=schemas.SensorStatus,
        responses=schemas.problems(401, 404, 422, 429, 503),
    )
    async def sensor_status(request: Request, sensor_id: str) -> Response:
        await ingest.owner(request, "api", "X-API-Key")
        if not (sensor_id.isascii() and sensor_id.isdecimal() and 0 < int(sensor_id[:20]) < _BIGINT):
            raise Problem(422, Code.BAD_FORM, "sensor_id is a positive whole number")
        status = await parts.sensor_status(int(sensor_id))
        if status is None:
            raise Problem(404, Code.UNKNOWN_SENSOR, "no such sensor")
        return JSONResponse(status)


def _add_health_routes(app: FastAPI, parts: Parts) -> None:
    @app.get("/health", response_model=schemas.Health)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/health/ready", response_model=schemas.Readiness, responses={503: {"model": schemas.Readiness}})
    async def ready() -> Response:
        found = list(parts.problems())
        body = {"status": "not ready" if found else "ready", "problems": found}
        return JSONResponse(body, status_code=503 if found else 200, headers={"Retry-After": "1"} if found else None)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(INDEX)


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(BridgeError)
    async def ours(_: Request, error: BridgeError) -> Response:
        return problems.of_error(error)

    @app.exception_handler(HTTPException)
    async def theirs(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return problems.response(error.status_code, code, str(error.detail), error.headers)

    def with_problem_schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = FastAPI.openapi(app)
            known = schema.setdefault("components", {}).setdefault("schemas", {})
            for model in (schemas.Problem, schemas.DeviceReading, schemas.ApiReading):
                known[model.__name__] = model.model_json_schema()
        return app.openapi_schema or {}

    app.openapi = with_problem_schema  # type: ignore[method-assign]


def _idempotency_key(request: Request, owner: KeyOwner) -> str | None:
    """The Idempotency-Key, scoped to its sender. Raises Problem 422."""
    text = header(request, b"idempotency-key")
    if text is None:
        return None
    if not 0 < len(text) <= MAX_IDEMPOTENCY_KEY or not all("!" <= c <= "~" for c in text):
        raise Problem(422, Code.BAD_FORM, f"Idempotency-Key is 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters")
    return "h-" + blake2b(f"{owner.kind}\0{owner.device_id}\0{text}".encode(), digest_size=16).hexdigest()


def _limit_headers(verdict: Verdict) -> dict[str, str]:
    if not verdict.limit:
        return {}
    return {
        "RateLimit-Limit": str(verdict.limit),
        "RateLimit-Remaining": str(verdict.remaining),
        "RateLimit-Reset": str(verdict.reset_s),
    }


class RequestCounter:
    """ASGI middleware: counts requests by route and status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._children: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                key = (getattr(route, "path", "other"), message["status"])
                child = self._children.get(key)
                if child is None:
                    child = self._children[key] = self._metrics.http_requests.labels(*key)
                child.inc()
            await send(message)

        await self._app(scope, receive, counted)
