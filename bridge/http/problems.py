"""Problem details (RFC 9457): the one form of every error answer."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil

import msgspec
from starlette.responses import Response

from bridge.errors import BridgeError, DecodeError, StoreUnavailable, Unavailable

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
    return response(error.http_status, error.code, detail, headers)
