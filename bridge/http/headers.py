"""Request headers, read off the ASGI scope: Starlette's mapping costs 4 µs a look-up, and a request needs five."""

from __future__ import annotations

from starlette.requests import Request


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name (in lower case, as ASGI has them), None where there is none."""
    for key, value in request.scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def headers(request: Request, name: bytes) -> list[str]:
    """Every header of this name, in order."""
    return [str(value, "latin-1") for key, value in request.scope["headers"] if key == name]
