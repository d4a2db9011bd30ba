"""The service's HTTP door: every endpoint of the table under FastAPI, which describes them in OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from bridge.auth.broker_access import BrokerAccess
from bridge.auth.key_cache import KeyCache
from bridge.http import schemas
from bridge.http.authentication import Authentication
from bridge.http.commands import CommandDoor, Commands
from bridge.http.door import Door, DoorParts
from bridge.http.endpoint import Endpoint
from bridge.http.fast_path import FastPath
from bridge.http.gateway_cache import GatewayCache
from bridge.http.gateways import GatewayDirectory, GatewayDoor
from bridge.http.hooks import Hooks
from bridge.http.page import INDEX
from bridge.http.problems import EXCEPTION_HANDLERS
from bridge.http.request_counter import RequestCounter
from bridge.settings.service import CommandSettings, HookSettings


class GatewayParts(msgspec.Struct, frozen=True):
    """What the endpoints of gateways are handed."""

    directory: GatewayDirectory
    cache: GatewayCache
    keys: KeyCache


class ServiceDoorParts(DoorParts, frozen=True, kw_only=True):
    """What the app is handed."""

    hooks: HookSettings = HookSettings()
    access: BrokerAccess | None = None  # what the hooks ask
    gateways: GatewayParts | None = None
    commands: Commands | None = None  # to devices
    command_settings: CommandSettings = CommandSettings()
    new_command: Callable[[], None] = lambda: None


def build_app(parts: ServiceDoorParts) -> FastAPI:
    """The app with every endpoint. Its documentation page loads nothing from elsewhere."""
    app = FastAPI(
        title="IoT edge bridge",
        version="1",
        docs_url=None,
        openapi_url=None,  # an endpoint of the table, which makes it once
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    endpoints = [*service_endpoints(parts), Endpoint("GET", "/openapi.json", _openapi_of(app))]
    _add_routes(app, endpoints)
    _complete_openapi(app)
    app.add_middleware(FastPath, endpoints=endpoints)
    app.add_middleware(RequestCounter, metrics=parts.metrics)
    return app


def service_endpoints(parts: ServiceDoorParts) -> list[Endpoint]:
    """The table of what a service serves; the order is that of the OpenAPI document."""
    door = Door(parts)
    endpoints = [*door.endpoints, Endpoint("GET", "/", _index)]
    if parts.commands is not None:
        endpoints += CommandDoor(
            parts.commands, door.authentication, parts.http, parts.command_settings, parts.new_command
        ).endpoints
    if parts.hooks.enabled and parts.access is not None:
        endpoints += Hooks(
            parts.hooks, parts.http, parts.access, parts.failed_logins, door.authentication, parts.now
        ).endpoints
    if parts.gateways is not None:
        directory, cache, keys = parts.gateways.directory, parts.gateways.cache, parts.gateways.keys
        authentication = Authentication(parts.http, parts.limits, keys, parts.failed_logins, parts.metrics, parts.now)
        gateways = GatewayDoor(directory, cache, authentication, parts.pipeline, parts.http, door.turns, parts.now_us)
        endpoints += gateways.endpoints
    return endpoints


async def _index(_: Request) -> Response:
    return HTMLResponse(INDEX)


def _openapi_of(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of the document, which nothing changes once the app is built."""
    encoded = b""

    async def openapi(_: Request) -> Response:
        nonlocal encoded
        encoded = encoded or msgspec.json.encode(app.openapi())
        return Response(encoded, media_type="application/json")

    return openapi


def _add_routes(app: FastAPI, endpoints: Sequence[Endpoint]) -> None:
    for endpoint in endpoints:
        described: dict[str, Any] = {"include_in_schema": False} if endpoint.describe is None else endpoint.describe()
        if endpoint.key is not None:
            security: list[dict[str, list[str]]] = [{schemas.SECURITY_SCHEMES[endpoint.key]: []}]
            described["openapi_extra"] = {"security": security, **described.get("openapi_extra", {})}
        app.add_api_route(endpoint.path, endpoint.run, methods=[endpoint.method], **described)


def _complete_openapi(app: FastAPI) -> None:
    """Add to the document what the endpoints do by themselves: keys, bodies, errors."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            components = FastAPI.openapi(app).setdefault("components", {})
            components.setdefault("schemas", {}).update(schemas.components())
            components["securitySchemes"] = schemas.security_schemes()
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
