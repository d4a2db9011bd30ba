"""The fast path: requests of an endpoint go straight to it, all others to the app behind; errors are problems."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bridge.http.endpoint import Endpoint
from bridge.http.fast_path import FastPath
from bridge.http.problems import Problem

Answer = tuple[int, dict[bytes, bytes], bytes]


class Behind:
    """The app behind the fast path: it only notes that it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ingest(request: Request) -> Response:
    return PlainTextResponse(b"plain " + await request.body())


async def of_device(_: Request, device_uuid: str) -> Response:
    if device_uuid == "bad":
        raise Problem(403, "foreign_device", "not yours")
    return PlainTextResponse(f"device {device_uuid}")


async def of_command(_: Request, device_uuid: str, command_id: str) -> Response:
    return PlainTextResponse(f"command {command_id} of {device_uuid}")


async def status(_: Request) -> Response:
    return PlainTextResponse("status")


def fast_path() -> tuple[FastPath, Behind]:
    endpoints = [
        Endpoint("POST", "/ingest/readings", ingest),
        Endpoint("POST", "/devices/{device_uuid}/readings", of_device),
        Endpoint("GET", "/devices/{device_uuid}/commands/{command_id}", of_command),
        Endpoint("GET", "/status", status),
    ]
    behind = Behind()
    return FastPath(behind, endpoints), behind


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> Answer:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_request_of_an_endpoint_does_not_reach_the_app_behind() -> None:
    app, behind = fast_path()
    assert (await ask(app, "POST", "/ingest/readings", b"1"))[::2] == (200, b"plain 1")
    assert (await ask(app, "POST", "/devices/d1/readings"))[::2] == (200, b"device d1")
    assert (await ask(app, "GET", "/devices/d1/commands/c2"))[::2] == (200, b"command c2 of d1")
    assert (await ask(app, "GET", "/status"))[::2] == (200, b"status")
    assert behind.asked == []


async def test_anything_else_goes_to_the_app_behind() -> None:
    app, behind = fast_path()
    others = [
        ("GET", "/ingest/readings"),
        ("POST", "/ingest/readings/"),
        ("GET", "/devices/d1/readings"),
        ("POST", "/devices//readings"),
        ("POST", "/devices/a/b/readings"),
        ("POST", "/devices/d1/readings/x"),
        ("POST", "/status"),
        ("HEAD", "/status"),
        ("GET", "/devices/d1/commands/"),
        ("POST", "/health"),
    ]
    for method, path in others:
        assert (await ask(app, method, path))[0] == 404
    assert behind.asked == [path for _, path in others]


async def test_error_of_ours_is_a_problem() -> None:
    app, _ = fast_path()
    status, headers, body = await ask(app, "POST", "/devices/bad/readings")
    assert status == 403
    assert headers[b"content-type"] == b"application/problem+json"
    assert b'"code":"foreign_device"' in body


async def test_endpoint_is_noted_for_whoever_counts_requests() -> None:
    app, _ = fast_path()
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/devices/d1/readings", "headers": []}

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(scope, nothing, nothing)
    assert scope["route"].path == "/devices/{device_uuid}/readings"
