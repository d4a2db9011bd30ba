"""The HTTP door: routes. Requests in, deliveries to the pipeline, answers from their receipts.

Ingest routes take the raw request: `admission` says whose it is, `ingest` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bridge.errors import BridgeError, DecodeError, Unavailable
from bridge.http import problems, schemas
from bridge.http.access import Access
from bridge.http.admission import Admission, limit_headers
from bridge.http.front import Front
from bridge.http.gateway_cache import KnownGateways
from bridge.http.gateways import Directory, GatewayDoor, add_gateway_routes
from bridge.http.hooks import add_hook_routes
from bridge.http.ingest import Ingest, Intake
from bridge.http.keys import KeyRing
from bridge.http.page import INDEX
from bridge.http.problems import Problem
from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_packet, normal_uuid
from bridge.reading import Code, Packet
from bridge.settings import HookSettings, HttpSettings, LimitSettings
from bridge.telemetry import Metrics

_BIGINT = 1 << 63

# Path parameters reach their routes as text: what is not of the form is ours to answer.
SensorId = Annotated[str, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _BIGINT - 1})]
DeviceUuid = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]


class GatewayParts(msgspec.Struct, frozen=True):
    """What the routes of gateways are handed."""

    directory: Directory
    known: KnownGateways
    keys: KeyRing


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
    degraded: Callable[[], Sequence[str]] = list  # what else is away while readings are stored
    hooks: HookSettings = HookSettings()
    access: Access | None = None  # what the hooks ask
    gateways: GatewayParts | None = None


def build_app(parts: Parts) -> FastAPI:
    """The app with every route. Its documentation page loads nothing from elsewhere."""
    app = FastAPI(title="IoT edge bridge", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    admission = Admission(parts.http, parts.limits, parts.keys, parts.metrics, parts.now)
    ingest = Ingest(parts.http, parts.intake, admission, parts.now_us)
    _add_error_answers(app)
    _add_api_routes(app, admission, ingest, parts.http.max_readings_per_packet)
    _add_device_routes(app, admission, ingest, parts.http.max_readings_per_packet)
    app.add_middleware(Front, routes=[route for route in app.routes if isinstance(route, APIRoute)])
    _add_status_route(app, admission, parts)
    _add_health_routes(app, parts)
    if parts.hooks.enabled and parts.access is not None:
        add_hook_routes(app, parts.hooks, parts.http, parts.access, parts.now)
    if parts.gateways is not None:
        _add_gateway_routes(app, parts, parts.gateways)
    _describe(app)
    app.add_middleware(RequestCounter, metrics=parts.metrics)
    return app


def _add_api_routes(app: FastAPI, admission: Admission, ingest: Ingest, most: int) -> None:
    bulk_decoder = partial(decode_api_bulk, max_readings=most)

    @app.post(
        "/ingest/readings",
        response_model=schemas.Inserted,
        responses=schemas.INGEST_ERRORS,
        openapi_extra=schemas.ingest("ApiKey", schemas.ApiReading),
    )
    async def ingest_reading(request: Request) -> Response:
        sender = await admission.sender(request, "api", "X-API-Key")
        return await ingest.run(request, sender, decode_api_reading)

    @app.post(
        "/ingest/readings/bulk",
        response_model=schemas.Inserted,
        responses=schemas.INGEST_ERRORS,
        openapi_extra=schemas.ingest("ApiKey", schemas.ApiPacket, most),
    )
    async def ingest_bulk(request: Request) -> Response:
        sender = await admission.sender(request, "api", "X-API-Key")
        return await ingest.run(request, sender, bulk_decoder)


def _add_device_routes(app: FastAPI, admission: Admission, ingest: Ingest, most: int) -> None:
    packet_decoder = partial(decode_packet, max_readings=most)

    def named_packet_decoder(body: bytes) -> Packet:
        packet = packet_decoder(body)
        if packet.device_uuid is None:
            raise DecodeError(Code.BAD_FORM, "device_uuid is missing", where="$.device_uuid")
        return packet

    @app.post(
        "/ingest/packets",
        response_model=schemas.DeviceInserted,
        responses=schemas.INGEST_ERRORS,
        openapi_extra=schemas.ingest("DeviceKey", schemas.NamedDevicePacket, most),
    )
    async def ingest_packet(request: Request) -> Response:
        sender = await admission.sender(request, "device", "X-Device-Key")
        return await ingest.run(request, sender, named_packet_decoder)

    @app.post(
        "/devices/{device_uuid}/readings",
        response_model=schemas.DeviceInserted,
        responses=schemas.INGEST_ERRORS,
        openapi_extra=schemas.ingest("DeviceKey", schemas.DevicePacket, most),
    )
    async def device_readings(request: Request, device_uuid: DeviceUuid) -> Response:
        sender = await admission.sender(request, "device", "X-Device-Key")
        if normal_uuid(device_uuid) != sender.key.device_uuid:
            raise Problem(403, "foreign_device", "the key belongs to another device")
        return await ingest.run(request, sender, packet_decoder)


def _add_gateway_routes(app: FastAPI, parts: Parts, gateways: GatewayParts) -> None:
    admission = Admission(parts.http, parts.limits, gateways.keys, parts.metrics, parts.now)
    add_gateway_routes(
        app, GatewayDoor(gateways.directory, gateways.known, admission, parts.intake, parts.http, parts.now_us)
    )


def _add_status_route(app: FastAPI, admission: Admission, parts: Parts) -> None:
    @app.get(
        "/sensors/{sensor_id}/status",
        response_model=schemas.SensorStatus,
        responses=schemas.problems(401, 404, 422, 429, 503),
        openapi_extra={"security": [{"ApiKey": []}]},
    )
    async def sensor_status(request: Request, sensor_id: SensorId) -> Response:
        sender = await admission.sender(request, "api", "X-API-Key")
        if not (sensor_id.isascii() and sensor_id.isdecimal() and len(sensor_id) < 20 and 0 < int(sensor_id) < _BIGINT):
            raise Problem(422, Code.BAD_FORM, "sensor_id is a positive whole number")
        try:
            async with asyncio.timeout(parts.http.ack_timeout_s):
                status = await parts.sensor_status(int(sensor_id))
        except TimeoutError:
            raise Unavailable("the database is too slow; come again", retry_after_s=2) from None
        if status is None:
            raise Problem(404, Code.UNKNOWN_SENSOR, "no such sensor")
        # msgspec and not json: others write `payload`, and a number beyond float becomes null, not an error.
        return Response(
            msgspec.json.encode(status), media_type="application/json", headers=limit_headers(sender.verdict)
        )


def _add_health_routes(app: FastAPI, parts: Parts) -> None:
    @app.get("/health", response_model=schemas.Health)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/health/ready", response_model=schemas.Readiness, responses={503: {"model": schemas.Readiness}})
    async def ready() -> Response:
        found = list(parts.problems())
        body = {"status": "not ready" if found else "ready", "problems": found, "degraded": list(parts.degraded())}
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

    # Starlette sends this and raises the error again, for the log.
    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return problems.response(500, "internal", "a mistake of ours; send the same again later")


def _describe(app: FastAPI) -> None:
    """OpenAPI with what the routes do by themselves."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            components = FastAPI.openapi(app).setdefault("components", {})
            components.setdefault("schemas", {}).update(schemas.components())
            components["securitySchemes"] = schemas.SECURITY
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


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
