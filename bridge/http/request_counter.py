"""Counts HTTP requests by the path of their endpoint and by status."""

from __future__ import annotations

from typing import Any

from bridge.telemetry import Metrics


class RequestCounter:
    """ASGI middleware. Requests that match no endpoint count as path `other`."""

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
