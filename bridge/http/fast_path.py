"""The way of requests to endpoints, past the routing, dependency and exception layers of FastAPI and Starlette.

For these endpoints the layers cost more than the rest of a request together (docs/performance.md), and do nothing: they
take the raw request. The framework behind has the same endpoints as routes, for its documentation and for whatever does
not match: it answers 404, 405 and HEAD. Innermost of the middlewares, so that the others see the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from re import Pattern
from typing import Any

from starlette.requests import Request
from starlette.routing import compile_path

from bridge.errors import BridgeError
from bridge.http import problems
from bridge.http.endpoint import Endpoint


class FastPath:
    """ASGI middleware: calls the endpoint that matches method and path, and the app behind where there is none."""

    def __init__(self, app: Any, endpoints: Sequence[Endpoint]) -> None:
        self._app = app
        self._by_path: dict[tuple[str, str], Endpoint] = {}
        self._by_pattern: dict[str, list[tuple[Pattern[str], Endpoint]]] = {}
        for endpoint in endpoints:
            pattern, _, parameters = compile_path(endpoint.path)
            if parameters:
                self._by_pattern.setdefault(endpoint.method, []).append((pattern, endpoint))
            else:
                self._by_path[endpoint.method, endpoint.path] = endpoint

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        endpoint, parameters = self._find(scope)
        if endpoint is None:
            if scope["type"] == "http" and scope["path"].endswith("\n"):  # Starlette's patterns end before it, too
                await problems.response(404, "not_found", "Not Found")(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        scope["route"] = endpoint  # whoever counts requests reads its path
        try:
            response = await endpoint.run(Request(scope, receive), **parameters)
        except BridgeError as error:
            response = problems.of_error(error)
        await response(scope, receive, send)

    def _find(self, scope: Any) -> tuple[Endpoint | None, dict[str, str]]:
        if scope["type"] != "http":
            return None, {}
        method, path = scope["method"], scope["path"]
        endpoint = self._by_path.get((method, path))
        if endpoint is not None:
            return endpoint, {}
        for pattern, endpoint in self._by_pattern.get(method, ()):
            match = pattern.fullmatch(path)
            if match is not None:
                return endpoint, match.groupdict()
        return None, {}
