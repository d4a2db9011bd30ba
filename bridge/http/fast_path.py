"""The short way for ingest requests: past the routing, dependency and exception layers of FastAPI and Starlette.

For these routes the layers cost more than the rest of the request together (docs/performance.md), and do
nothing: the endpoints take the raw request. The framework keeps the same routes, for its documentation and for
whatever is not a plain POST to one of them. Innermost of the middlewares, so that the others see the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.errors import BridgeError
from bridge.http import problems


class FastPath:
    """ASGI middleware. `endpoints`, by path, take the request first, and the parameters of the path by name."""

    def __init__(
        self, app: Any, routes: Sequence[Route], endpoints: Mapping[str, Callable[..., Awaitable[Response]]]
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._plain = {route.path: route for route in routes if not route.param_convertors}
        self._patterns = [route for route in routes if route.param_convertors]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        route, parameters = self._find(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await self._endpoints[route.path](Request(scope, receive), **parameters)
        except BridgeError as error:
            response = problems.of_error(error)
        await response(scope, receive, send)

    def _find(self, scope: Any) -> tuple[Route | None, dict[str, str]]:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None, {}
        path = scope["path"]
        route = self._plain.get(path)
        if route is not None:
            return route, {}
        for route in self._patterns:
            match = route.path_regex.match(path)
            if match is not None:
                return route, match.groupdict()
        return None, {}
