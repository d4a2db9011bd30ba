"""The endpoints that devices use: requests in, deliveries to the pipeline, answers from their receipts.

Ingest endpoints take the raw request: `authentication` says whose it is, `ingest` does the rest. The service puts
them under FastAPI, which describes them (`app`); a gateway serves them as they are (`plain_app`), without the 6 MB
of memory that the description takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import WithJsonSchema
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from bridge.auth.key_cache import KeyCache
from bridge.errors import BridgeError, DecodeError, Unavailable
from bridge.http import problems
from bridge.http.authentication import Authentication, limit_headers
from bridge.http.fast_path import FastPath
from bridge.http.ingest import Ingest
from bridge.http.problems import Problem
from bridge.model.reading import Code, Packet
from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_packet, normal_uuid
from bridge.pipeline.ports import DeliverySink
from bridge.settings.http import HttpSettings, LimitSettings
from bridge.telemetry import Metrics

_BIGINT = 1 << 63

# Path parameters reach their endpoints as text: what is not of the form is ours to answer.
SensorId = Annotated[str, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _BIGINT - 1})]
DeviceUuid = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Endpoint = Callable[..., Awaitable[Response]]
App = Callable[[Any, Any, Any], Awaitable[None]]


class DoorParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the door is handed."""

    http: HttpSettings
    limits: LimitSettings
    pipeline: DeliverySink
    keys: KeyCache
    metrics: Metrics
    problems: Callable[[], Sequence[str]]  # why nothing can be stored; empty when it can
    sensor_status: Callable[[int], Awaitable[dict[str, Any] | None]]
    now: Callable[[], float]
    now_us: Callable[[], int]
    degraded: Callable[[], Sequence[str]] = list  # what else is away while readings are stored


class Door:
    """Every endpoint takes the request, and the parameters of its path by name."""

    def __init__(self, parts: DoorParts) -> None:
        self.authentication = Authentication(parts.http, parts.limits, parts.keys, parts.metrics, parts.now)
        self._parts = parts
        self._ingest = Ingest(parts.http, parts.pipeline, self.authentication, parts.now_us)
        self._decode_bulk = partial(decode_api_bulk, max_readings=parts.http.max_readings_per_packet)
        self._decode_packet = partial(decode_packet, max_readings=parts.http.max_readings_per_packet)

    @property
    def ingest(self) -> dict[str, Endpoint]:
        """By path, for POST."""
        return {
            "/ingest/readings": self.ingest_reading,
            "/ingest/readings/bulk": self.ingest_bulk,
            "/ingest/packets": self.ingest_packet,
            "/devices/{device_uuid}/readings": self.device_readings,
        }

    @property
    def questions(self) -> dict[str, Endpoint]:
        """By path, for GET."""
        return {
            "/sensors/{sensor_id}/status": self.sensor_status,
            "/health": self.health,
            "/health/ready": self.ready,
            "/metrics": self.exposition,
        }

    async def ingest_reading(self, request: Request) -> Response:
        sender = await self.authentication.sender(request, "api", "X-API-Key")
        return await self._ingest.run(request, sender, decode_api_reading)

    async def ingest_bulk(self, request: Request) -> Response:
        sender = await self.authentication.sender(request, "api", "X-API-Key")
        return await self._ingest.run(request, sender, self._decode_bulk)

    async def ingest_packet(self, request: Request) -> Response:
        sender = await self.authentication.sender(request, "device", "X-Device-Key")
        return await self._ingest.run(request, sender, self._decode_named_packet)

    async def device_readings(self, request: Request, device_uuid: DeviceUuid) -> Response:
        sender = await self.authentication.sender(request, "device", "X-Device-Key")
        if normal_uuid(device_uuid) != sender.key.device_uuid:
            raise Problem(403, "foreign_device", "the key belongs to another device")
        return await self._ingest.run(request, sender, self._decode_packet)

    async def sensor_status(self, request: Request, sensor_id: SensorId) -> Response:
        sender = await self.authentication.sender(request, "api", "X-API-Key")
        if not (sensor_id.isascii() and sensor_id.isdecimal() and len(sensor_id) < 20 and 0 < int(sensor_id) < _BIGINT):
            raise Problem(422, Code.BAD_FORM, "sensor_id is a positive whole number")
        try:
            async with asyncio.timeout(self._parts.http.ack_timeout_s):
                status = await self._parts.sensor_status(int(sensor_id))
        except TimeoutError:
            raise Unavailable("the database is too slow; come again", retry_after_s=2) from None
        if status is None:
            raise Problem(404, Code.UNKNOWN_SENSOR, "no such sensor")
        # msgspec and not json: others write `payload`, and a number beyond float becomes null, not an error.
        return Response(
            msgspec.json.encode(status), media_type="application/json", headers=limit_headers(sender.verdict)
        )

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        found = list(self._parts.problems())
        degraded = list(self._parts.degraded())
        body = {"status": "not ready" if found else "ready", "problems": found, "degraded": degraded}
        return JSONResponse(body, status_code=503 if found else 200, headers={"Retry-After": "1"} if found else None)

    async def exposition(self, _: Request) -> Response:
        return Response(generate_latest(self._parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _decode_named_packet(self, body: bytes) -> Packet:
        packet = self._decode_packet(body)
        if packet.device_uuid is None:
            raise DecodeError(Code.BAD_FORM, "device_uuid is missing", where="$.device_uuid")
        return packet


def plain_app(parts: DoorParts) -> App:
    """The door by itself, an ASGI app."""
    door = Door(parts)
    ingest = [_Route(path, _plain(run), methods=["POST"]) for path, run in door.ingest.items()]
    questions = [_Route(path, _plain(run), methods=["GET"]) for path, run in door.questions.items()]
    app = Starlette(routes=[*ingest, *questions], exception_handlers=ERROR_ANSWERS)
    app.router.redirect_slashes = False
    app.add_middleware(FastPath, routes=ingest, endpoints=door.ingest)
    app.add_middleware(RequestCounter, metrics=parts.metrics)
    return app


class _Route(Route):
    """Says which it is, as FastAPI's do, for `RequestCounter`."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}


def _plain(endpoint: Endpoint) -> Endpoint:
    async def run(request: Request) -> Response:
        return await endpoint(request, **request.path_params)

    return run


async def _of_ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, BridgeError)
    return problems.of_error(error)


async def _of_theirs(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return problems.response(error.status_code, code, str(error.detail), error.headers)


async def _of_bug(_: Request, error: Exception) -> Response:
    """Starlette sends this and raises the error again, for the log."""
    return problems.response(500, "internal", "a mistake of ours; send the same again later")


ERROR_ANSWERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    BridgeError: _of_ours,
    HTTPException: _of_theirs,
    Exception: _of_bug,
}
"""What is told to the client, by the error that an endpoint raises."""


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
