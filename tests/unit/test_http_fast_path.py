"""The short way for ingest requests: what goes it, what does not, and that both answer alike."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse, Response

from bridge.http.fast_path import FastPath
from bridge.http.problems import Problem

Answer = tuple[int, dict[bytes, bytes], bytes]


class Behind:
    """The app behind the front: it only notes that it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def fronted() -> tuple[FastPath, Behind]:
    app = FastAPI()

    @app.post("/ingest/readings")
    async def plain(request: Request) -> Response:
        return PlainTextResponse(b"plain " + await request.body())

    @app.post("/devices/{device_uuid}/readings")
    async def of_device(request: Request, device_uuid: str) -> Response:
        if device_uuid == "bad":
            raise Problem(403, "foreign_device", "not yours")
        return PlainTextResponse(f"device {device_uuid}")

    behind = Behind()
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    return FastPath(behind, routes, {route.path: route.endpoint for route in routes}), behind


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> Answer:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_front_post_to_a_route_does_not_reach_the_app_behind() -> None:
    front, behind = fronted()
    assert (await ask(front, "POST", "/ingest/readings", b"1"))[::2] == (200, b"plain 1")
    assert (await ask(front, "POST", "/devices/d1/readings"))[::2] == (200, b"device d1")
    assert behind.asked == []


async def test_front_anything_else_goes_to_the_app_behind() -> None:
    front, behind = fronted()
    others = [
        ("GET", "/ingest/readings"),
        ("POST", "/ingest/readings/"),
        ("POST", "/devices//readings"),
        ("POST", "/devices/a/b/readings"),
        ("POST", "/devices/d1/readings/x"),
        ("POST", "/health"),
    ]
    for method, path in others:
        assert (await ask(front, method, path))[0] == 404
    assert behind.asked == [path for _, path in others]


async def test_front_error_of_ours_is_a_problem() -> None:
    front, _ = fronted()
    status, headers, body = await ask(front, "POST", "/devices/bad/readings")
    assert status == 403
    assert headers[b"content-type"] == b"application/problem+json"
    assert b'"code":"foreign_device"' in body


async def test_front_notes_the_route_for_whoever_counts_requests() -> None:
    front, _ = fronted()
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/devices/d1/readings", "headers": []}

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await front(scope, nothing, nothing)
    assert scope["route"].path == "/devices/{device_uuid}/readings"
