"""The table of endpoints: each row is a route of FastAPI and of the plain app; OpenAPI keeps its names."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.routing import Route

from bridge.auth.broker_access import BrokerAccess
from bridge.auth.failed_logins import FailedLogins
from bridge.auth.key_cache import KeyCache
from bridge.http.app import GatewayParts, ServiceDoorParts, build_app, service_endpoints
from bridge.http.authentication import KEY_HEADERS
from bridge.http.door import Door, plain_app
from bridge.http.endpoint import Endpoint
from bridge.http.gateway_cache import GatewayCache
from bridge.settings.http import HttpSettings, KeySettings, LimitSettings
from bridge.settings.service import HookSettings
from bridge.telemetry import Metrics
from tests.support.gateway_service import FakeDirectory
from tests.support.http_door import DEVICE, FakeKeys
from tests.support.mqtt_door import FakePipeline

OPERATIONS = {
    ("post", "/ingest/readings"): "ingest_reading_ingest_readings_post",
    ("post", "/ingest/readings/bulk"): "ingest_bulk_ingest_readings_bulk_post",
    ("post", "/ingest/packets"): "ingest_packet_ingest_packets_post",
    ("post", "/devices/{device_uuid}/readings"): "device_readings_devices__device_uuid__readings_post",
    ("get", "/sensors/{sensor_id}/status"): "sensor_status_sensors__sensor_id__status_get",
    ("get", "/health"): "health_health_get",
    ("get", "/health/ready"): "ready_health_ready_get",
    ("post", "/devices/{device_uuid}/commands"): "send_command_devices__device_uuid__commands_post",
    ("get", "/devices/{device_uuid}/commands"): "list_commands_devices__device_uuid__commands_get",
    ("get", "/devices/{device_uuid}/commands/{command_id}"): (
        "show_command_devices__device_uuid__commands__command_id__get"
    ),
}
"""What generated clients call the operations."""

BODIES = {
    "/ingest/readings": "ApiReading",
    "/ingest/readings/bulk": "ApiPacket",
    "/ingest/packets": "NamedDevicePacket",
    "/devices/{device_uuid}/readings": "DevicePacket",
    "/devices/{device_uuid}/commands": "Order",
}
"""What they call the bodies; the class of the last has another name by now."""

COMPONENTS = """ActiveAlert ActiveWarning ApiReading Command CurrentPrediction DeviceInserted DeviceReading Health
    Inserted Problem Readiness Rejected ResolvedAlert SensorStatus"""


class NoCommands:
    """A table of commands that holds none."""

    async def add(self, *_: Any) -> Any:
        raise NotImplementedError

    async def show(self, *_: Any) -> None:
        return None


def parts() -> ServiceDoorParts:
    """Everything that a service can serve."""

    async def nothing(*_: Any) -> Any:
        return None

    metrics, directory = Metrics(), FakeDirectory()
    keys = KeyCache(FakeKeys().find, KeySettings(), metrics, lambda: 0.0, lambda: 0)
    return ServiceDoorParts(
        http=HttpSettings(),
        limits=LimitSettings(),
        pipeline=FakePipeline(),
        keys=keys,
        failed_logins=FailedLogins(0, metrics, lambda: 0.0, lambda: 0),
        metrics=metrics,
        problems=list,
        sensor_status=nothing,
        now=lambda: 0.0,
        now_us=lambda: 0,
        hooks=HookSettings(enabled=True, secret="a secret of the hooks"),
        access=BrokerAccess(keys, nothing, nothing, lambda: 0.0),
        gateways=GatewayParts(directory, GatewayCache(directory, lambda: 0.0), keys),
        commands=NoCommands(),
    )


def named(endpoints: list[Endpoint]) -> list[tuple[str, str]]:
    return [(endpoint.method, endpoint.path) for endpoint in endpoints]


def test_each_endpoint_stands_once_and_is_a_route_of_fastapi() -> None:
    table = named(service_endpoints(parts()))
    assert [row for row, count in Counter(table).items() if count > 1] == []
    routes = [route for route in build_app(parts()).routes if isinstance(route, APIRoute)]
    served = [(method, route.path) for route in routes for method in route.methods or ()]
    assert served == [*table, ("GET", "/openapi.json")]


def test_each_endpoint_of_a_door_is_a_route_of_the_plain_app() -> None:
    app = plain_app(parts())
    assert isinstance(app, Starlette)
    routes = [route for route in app.routes if isinstance(route, Route)]
    served = [(method, route.path) for route in routes for method in sorted(route.methods or ()) if method != "HEAD"]
    assert served == named(Door(parts()).endpoints)


def test_openapi_keeps_the_names_that_generated_clients_know() -> None:
    document = build_app(parts()).openapi()
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert {place: operation["operationId"] for place, operation in operations.items()} == OPERATIONS
    bodies = {
        path: operation["requestBody"] for (_, path), operation in operations.items() if "requestBody" in operation
    }
    assert {path: body["content"]["application/json"]["schema"]["title"] for path, body in bodies.items()} == BODIES
    schemas = document["components"]["schemas"]
    assert sorted(schemas) == COMPONENTS.split()
    assert {name: schema["title"] for name, schema in schemas.items()} == {name: name for name in schemas}


def test_openapi_names_the_key_of_each_endpoint_that_wants_one() -> None:
    document = build_app(parts()).openapi()
    schemes = {"api": "ApiKey", "device": "DeviceKey", None: None}
    for endpoint in service_endpoints(parts()):
        if endpoint.describe is not None:
            operation = document["paths"][endpoint.path][endpoint.method.lower()]
            security = operation.get("security", [{None: []}])
            assert security == [{schemes[endpoint.key]: []}]
    assert {name: scheme["name"] for name, scheme in document["components"]["securitySchemes"].items()} == {
        "ApiKey": "X-API-Key",
        "DeviceKey": "X-Device-Key",
    }


async def test_each_endpoint_asks_for_the_key_that_its_row_names() -> None:
    given = parts()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(given)), base_url="http://bridge") as client:
        for endpoint in service_endpoints(given):
            if endpoint.describe is not None:
                path = endpoint.path.format(device_uuid=DEVICE, sensor_id=1, command_id=DEVICE)
                answer = await client.request(endpoint.method, path)
                wanted = None if endpoint.key is None else KEY_HEADERS[endpoint.key]
                assert answer.status_code == (200 if wanted is None else 401)
                assert answer.headers.get("WWW-Authenticate") == wanted
