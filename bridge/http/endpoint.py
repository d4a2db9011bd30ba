"""A row of the table of endpoints. FastAPI's routes, a gateway's plain app and `fast_path` all come from such rows.

`Door`, `CommandDoor`, `GatewayDoor` and `Hooks` each list theirs as `endpoints`; `app` and `door` put them together.
Imports no FastAPI: gateways have rows too. See docs/decisions/0016-one-table-of-endpoints.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.responses import Response

from bridge.http.authentication import KeyKind


class Endpoint(msgspec.Struct, frozen=True):
    """What is served at a path for a method."""

    method: str
    path: str  # parameters in braces, each a whole level: /devices/{device_uuid}/readings
    run: Callable[..., Awaitable[Response]]
    """Takes the request, and the parameters of the path by name, as text. Its name becomes the `operationId`, its
    docstring the description: of what stands in OpenAPI, both are a contract."""
    key: KeyKind | None = None
    """The kind of key that `run` asks for, as OpenAPI says it; None where it asks for none, or stays out of OpenAPI."""
    describe: Callable[[], dict[str, Any]] | None = None
    """Makes the arguments of FastAPI's `add_api_route`, when there is a FastAPI; None keeps it out of OpenAPI."""
