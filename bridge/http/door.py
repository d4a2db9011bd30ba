"""The endpoints that devices use: requests in, deliveries to the pipeline, answers from their receipts.

Ingest endpoints take the raw request: `authentication` says whose it is, `ingest` does the rest. The service puts
them under FastAPI, which describes them (`app`); a gateway serves them as they are (`plain_app`), without the 5 MB
of memory that FastAPI takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from functools import partial
from typing import Annotated, Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import WithJsonSchema
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from bridge.auth.failed_logins import FailedLogins
from bridge.auth.key_cache import KeyCache
from bridge.errors import DecodeError, Unavailable
from bridge.http import schemas
from bridge.http.authentication import Authentication, limit_headers
from bridge.http.endpoint import Endpoint
from bridge.http.fast_path import FastPath
from bridge.http.ingest import Ingest
from bridge.http.problems import EXCEPTION_HANDLERS, Problem
from bridge.http.rendered_answer import RenderedAnswer
from bridge.http.request_counter import RequestCounter
from bridge.http.schemas import Uuid
from bridge.http.turns import Turns
from bridge.model.reading import Code, Packet, Source
from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_packet, normal_uuid
from bridge.pipeline.ignored import IgnoredFields
from bridge.pipeline.ports import DeliverySink
from bridge.settings.http import HttpSettings, LimitSettings
from bridge.telemetry import Metrics

_BIGINT = 1 << 63

# A path parameter reaches its endpoint as text: what is not of the form is ours to answer.
SensorIdText = Annotated[str, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _BIGINT - 1})]
App = Callable[[Any, Any, Any], Awaitable[None]]


class DoorParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the door is handed."""

    http: HttpSettings
    limits: LimitSettings
    pipeline: DeliverySink
    keys: KeyCache
    failed_logins: FailedLogins  # of all doors together
    metrics: Metrics
    problems: Callable[[], Sequence[str]]  # why nothing can be stored; empty when it can
    sensor_status: Callable[[int], Awaitable[dict[str, Any] | None]]
    now: Callable[[], float]
    now_us: Callable[[], int]
    knows_time: Callable[[], bool] = lambda: True  # whether `now_us` can be right: a gateway's clock may not be set
    degraded: Callable[[], Sequence[str]] = list  # what else is away while readings are stored
    notes: Sequence[str] = ()  # what the settings keep from other processes


class Door:
    """The endpoints for readings and statuses, and those that say how the process is."""

    def __init__(self, parts: DoorParts) -> None:
        self.authentication = Authentication(
            parts.http, parts.limits, parts.keys, parts.failed_logins, parts.metrics, parts.now
        )
        self._parts = parts
        self.turns = Turns()  # of large bodies, whatever they hold: one at a time, so that small ones come in between
        ignored = IgnoredFields(Source.HTTP, parts.metrics)
        self._ingest = Ingest(
            parts.http, parts.pipeline, self.authentication, self.turns, parts.now_us, parts.knows_time, ignored
        )
        self._metrics = RenderedAnswer(partial(generate_latest, parts.metrics.registry))
        self._decode_bulk = partial(decode_api_bulk, max_readings=parts.http.max_readings_per_packet)
        self._decode_packet = partial(decode_packet, max_readings=parts.http.max_readings_per_packet)

    @property
    def endpoints(self) -> list[Endpoint]:
        """Their rows of the table."""
        single = partial(schemas.ingest, schemas.Inserted, schemas.ApiReading)
        most = self._parts.http.max_readings_per_packet
        bulk = partial(schemas.ingest, schemas.Inserted, schemas.ApiPacket, most)
        named_packet = partial(schemas.ingest, schemas.DeviceInserted, schemas.NamedDevicePacket, most)
        packet = partial(schemas.ingest, schemas.DeviceInserted, schemas.DevicePacket, most)
        status = partial(schemas.answer, schemas.SensorStatus, 401, 403, 404, 422, 429, 503)
        return [
            Endpoint("POST", "/ingest/readings", self.ingest_reading, "api", single),
            Endpoint("POST", "/ingest/readings/bulk", self.ingest_bulk, "api", bulk),
            Endpoint("POST", "/ingest/packets", self.ingest_packet, "device", named_packet),
            Endpoint("POST", "/devices/{device_uuid}/readings", self.device_readings, "device", packet),
            Endpoint("GET", "/sensors/{sensor_id}/status", self.sensor_status, "api", status),
            Endpoint("GET", "/health", self.health, None, partial(schemas.answer, schemas.Health)),
            Endpoint("GET", "/health/ready", self.ready, None, schemas.readiness),
            Endpoint("GET", "/metrics", self.metrics),
        ]

    async def ingest_reading(self, request: Request) -> Response:
        sender = await self.authentication.sender(request, "api", "readings:write")
        return await self._ingest.run(request, sender, decode_api_reading)

    async def ingest_bulk(self, request: Request) -> Response:
        sender = await self.authentication.sender(request, "api", "readings:write")
        return await self._ingest.run(request, sender, self._decode_bulk)

    async def ingest_packet(self, request: Request) -> Response:
        sender = await self.authentication.sender(request, "device")
        return await self._ingest.run(request, sender, self._decode_named_packet)

    async def device_readings(self, request: Request, device_uuid: Uuid) -> Response:
        sender = await self.authentication.sender(request, "device")
        if normal_uuid(device_uuid) != sender.key.device_uuid:
            raise Problem(403, "foreign_device", "the key belongs to another device")
        return await self._ingest.run(request, sender, self._decode_packet)

    async def sensor_status(self, request: Request, sensor_id: SensorIdText) -> Response:
        sender = await self.authentication.sender(request, "api", "status:read")
        if not (sensor_id.isascii() and sensor_id.isdecimal() and len(sensor_id) < 20 and 0 < int(sensor_id) < _BIGINT):
            raise Problem(422, Code.BAD_FORM, "sensor_id is a positive whole number")
        try:
            async with asyncio.timeout(self._parts.http.ack_timeout_s):
                status = await self._parts.sensor_status(int(sensor_id))
        except TimeoutError:
            raise Unavailable("the database is too slow; come again", retry_after_s=2) from None
        # Of another device than the key's it is answered as one that does not exist: nobody can ask which do.
        if status is None or not sender.may_speak_for(status.get("device_uuid", "")):
            raise Problem(404, Code.UNKNOWN_SENSOR, "no such sensor")
        # msgspec and not json: others write `payload`, and a number beyond float becomes null, not an error.
        return Response(
            msgspec.json.encode(status), media_type="application/json", headers=limit_headers(sender.verdict)
        )

    async def health(self, _: Request) -> Response:
        # By its Date a gateway sees how far its own clock is off (`iot-edge check`).
        date = formatdate(self._parts.now_us() / 1_000_000, usegmt=True)
        return JSONResponse({"status": "ok"} | self._notes(), headers={"Date": date})

    async def ready(self, _: Request) -> Response:
        found = list(self._parts.problems())
        degraded = list(self._parts.degraded())
        body = {"status": "not ready" if found else "ready", "problems": found, "degraded": degraded} | self._notes()
        return JSONResponse(body, status_code=503 if found else 200, headers={"Retry-After": "1"} if found else None)

    def _notes(self) -> dict[str, list[str]]:
        return {"notes": list(self._parts.notes)} if self._parts.notes else {}

    async def metrics(self, _: Request) -> Response:
        return Response(self._metrics.body(), media_type=CONTENT_TYPE_LATEST)

    def _decode_named_packet(self, body: bytes) -> Packet:
        packet = self._decode_packet(body)
        if packet.device_uuid is None:
            raise DecodeError(Code.BAD_FORM, "device_uuid is missing", where="$.device_uuid")
        return packet


def plain_app(parts: DoorParts) -> App:
    """The endpoints of a door by themselves, without FastAPI: an ASGI app."""
    endpoints = Door(parts).endpoints
    app = Starlette(routes=[_PlainRoute(endpoint) for endpoint in endpoints], exception_handlers=EXCEPTION_HANDLERS)
    app.router.redirect_slashes = False
    app.add_middleware(FastPath, endpoints=endpoints)
    app.add_middleware(RequestCounter, metrics=parts.metrics)
    return app


class _PlainRoute(Route):
    """Starlette's route for an endpoint. It says which it is, as FastAPI's do, for `RequestCounter`."""

    def __init__(self, endpoint: Endpoint) -> None:
        async def run(request: Request) -> Response:
            return await endpoint.run(request, **request.path_params)

        super().__init__(endpoint.path, run, methods=[endpoint.method])

    def matches(self, scope: Any) -> tuple[Match, Any]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}
