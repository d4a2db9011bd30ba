"""Problem details (RFC 9457): the one form of every error answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import BridgeError, DecodeError, StoreRefused, StoreUnavailable, Unavailable

MEDIA_TYPE = "application/problem+json"


class Problem(BridgeError):
    """An error answer."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = code
        self.headers = dict(headers or {})


def response(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: str) -> Response:
    """An error answer with its `code`, and what to do in `detail`."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail}
    return Response(
        msgspec.json.encode(body | more), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def of_error(error: BridgeError) -> Response:
    """The answer for one of our errors."""
    if isinstance(error, Problem):
        return response(error.status, error.reason, error.detail, error.headers)
    if isinstance(error, DecodeError):
        return response(422, error.reason, error.detail, where=error.where)
    headers = {}
    detail = error.detail
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, ceil(error.retry_after_s)))
    if isinstance(error, StoreUnavailable):  # its text names hosts and users of ours; it stands in the log
        detail = "the database is away; send the same again"
    if isinstance(error, StoreRefused):  # likewise
        detail = "our database does not accept this"
    return response(error.http_status, error.code, detail, headers)


async def _bridge_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, BridgeError):
        raise error
    return of_error(error)


async def _http_exception(_: Request, error: Exception) -> Response:
    """The framework's own: no such path, not with this method."""
    if not isinstance(error, HTTPException):
        raise error
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return response(error.status_code, code, str(error.detail), error.headers)


async def _unexpected(_: Request, error: Exception) -> Response:
    """Starlette sends this and raises the error again, for the log."""
    return response(500, "internal", "a mistake of ours; send the same again later")


EXCEPTION_HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    BridgeError: _bridge_error,
    HTTPException: _http_exception,
    Exception: _unexpected,
}
"""The answers for errors that reach FastAPI or Starlette, by class."""
