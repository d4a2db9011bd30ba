"""A POST to a server that the settings name, and to no other. Flows in: bytes. Flows out: the answer's. It blocks.

The one HTTP client of consumers and jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from bridge.errors import BridgeError
from bridge.model.location import REDIRECTS, redirect_detail


class PostFailed(BridgeError):
    """Raised where a server did not take what was posted. `answered`: it said so itself."""

    retryable = True
    code = "post_failed"

    def __init__(self, detail: str, *, answered: bool = True) -> None:
        super().__init__(detail)
        self.answered = answered


class _NoRedirect(HTTPRedirectHandler):
    """Refuses redirects: every header would go along, tokens too, and the body would stay behind."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


_opener = build_opener(_NoRedirect)


def post(
    who: str, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, max_answer_bytes: int = 0
) -> bytes:
    """Post JSON; return up to `max_answer_bytes` of the answer. Raises PostFailed, whose text begins with `who`."""
    request = Request(
        url, body, {"Content-Type": "application/json", "User-Agent": "iot-bridge", **headers}, method="POST"
    )
    try:
        with _opener.open(request, timeout=timeout_s) as answer:  # 2xx; everything else is raised
            return bytes(answer.read(max_answer_bytes)) if max_answer_bytes else b""
    except HTTPError as error:
        with error:
            if error.code in REDIRECTS:
                raise PostFailed(redirect_detail(who, error.code, error.headers.get("Location"))) from error
            raise PostFailed(f"{who} answers {error.code}") from error
    except (URLError, HTTPException, OSError) as error:
        raise PostFailed(f"{who} does not answer: {error}", answered=False) from error
