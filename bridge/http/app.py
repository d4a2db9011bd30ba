"""The service's HTTP door: the endpoints of `door` and those that only a service has, described in OpenAPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from starlette.responses import Response

from bridge.auth.broker_access import BrokerAccess
from bridge.auth.key_cache import KeyCache
from bridge.http import door as devices
from bridge.http import schemas
from bridge.http.authentication import Authentication
from bridge.http.commands import Commands, add_command_routes
from bridge.http.door import ERROR_ANSWERS, Door, RequestCounter
from bridge.http.fast_path import FastPath
from bridge.http.gateway_cache import GatewayCache
from bridge.http.gateways import Directory, GatewayDoor, add_gateway_routes
from bridge.http.hooks import add_hook_routes
from bridge.http.page import INDEX
from bridge.settings.service import CommandSettings, HookSettings


class GatewayParts(msgspec.Struct, frozen=True):
    """What the routes of gateways are handed."""

    directory: Directory
    known: GatewayCache
    keys: KeyCache


class ServiceDoorParts(devices.DoorParts, frozen=True, kw_only=True):
    """What the app is handed."""

    hooks: HookSettings = HookSettings()
    access: BrokerAccess | None = None  # what the hooks ask
    gateways: GatewayParts | None = None
    commands: Commands | None = None  # to devices
    command_settings: CommandSettings = CommandSettings()
    new_command: Callable[[], None] = lambda: None


def build_app(parts: ServiceDoorParts) -> FastAPI:
    """The app with every route. Its documentation page loads nothing from elsewhere."""
    app = FastAPI(
        title="IoT edge bridge",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict(ERROR_ANSWERS),
    )
    door = Door(parts)
    _add_ingest_routes(app, door, parts.http.max_readings_per_packet)
    ingest = [route for route in app.routes if isinstance(route, APIRoute)]
    app.add_middleware(FastPath, routes=ingest, endpoints=door.ingest)
    _add_questions(app, door)
    if parts.commands is not None:
        add_command_routes(
            app, door.authentication, parts.commands, parts.http, parts.command_settings, parts.new_command
        )
    if parts.hooks.enabled and parts.access is not None:
        add_hook_routes(app, parts.hooks, parts.http, parts.access, parts.now)
    if parts.gateways is not None:
        _add_gateway_routes(app, parts, parts.gateways)
    _describe(app)
    app.add_middleware(RequestCounter, metrics=parts.metrics)
    return app


def _add_ingest_routes(app: FastAPI, door: Door, most: int) -> None:
    described = {
        "/ingest/readings": (schemas.Inserted, schemas.ingest("ApiKey", schemas.ApiReading)),
        "/ingest/readings/bulk": (schemas.Inserted, schemas.ingest("ApiKey", schemas.ApiPacket, most)),
        "/ingest/packets": (schemas.DeviceInserted, schemas.ingest("DeviceKey", schemas.NamedDevicePacket, most)),
        "/devices/{device_uuid}/readings": (
            schemas.DeviceInserted,
            schemas.ingest("DeviceKey", schemas.DevicePacket, most),
        ),
    }
    for path, endpoint in door.ingest.items():
        answer, extra = described[path]
        app.post(path, response_model=answer, responses=schemas.INGEST_ERRORS, openapi_extra=extra)(endpoint)


def _add_questions(app: FastAPI, door: Door) -> None:
    described: dict[str, dict[str, Any]] = {
        "/sensors/{sensor_id}/status": {
            "response_model": schemas.SensorStatus,
            "responses": schemas.problems(401, 404, 422, 429, 503),
            "openapi_extra": {"security": [{"ApiKey": []}]},
        },
        "/health": {"response_model": schemas.Health},
        "/health/ready": {"response_model": schemas.Readiness, "responses": {503: {"model": schemas.Readiness}}},
        "/metrics": {"include_in_schema": False},
    }
    for path, endpoint in door.questions.items():
        app.get(path, **described[path])(endpoint)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(INDEX)


def _add_gateway_routes(app: FastAPI, parts: ServiceDoorParts, gateways: GatewayParts) -> None:
    authentication = Authentication(parts.http, parts.limits, gateways.keys, parts.metrics, parts.now)
    add_gateway_routes(
        app, GatewayDoor(gateways.directory, gateways.known, authentication, parts.pipeline, parts.http, parts.now_us)
    )


def _describe(app: FastAPI) -> None:
    """OpenAPI with what the routes do by themselves."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            components = FastAPI.openapi(app).setdefault("components", {})
            components.setdefault("schemas", {}).update(schemas.components())
            components["securitySchemes"] = schemas.SECURITY
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
