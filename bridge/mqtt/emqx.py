"""Tells EMQX to end the sessions of devices that lost their key: its management API, version 5.

Flows in: devices that were cut off. Flows out: `DELETE /api/v5/clients/{clientid}` for each of their
sessions. A device that still has another key comes back with it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

import httpx
import structlog

from bridge.errors import BridgeError
from bridge.model.location import redirect_detail
from bridge.settings.service import EmqxSettings

log = structlog.get_logger("emqx")

LOOK_BACK_S = 60.0
"""How far back changes are read: EMQX may have been away."""
CHANGES_KEPT = 10_000
TIMEOUT_S = 3.0
PAGE = 1_000


class _Redirected(BridgeError):
    """Raised where EMQX, or something before it, points elsewhere: the secret would go along."""


class EmqxSessions:
    """`follow` once a second. `cut_off(seconds)` gives (change, device UUID) of the last seconds."""

    def __init__(
        self, settings: EmqxSettings, cut_off: Callable[[float], Awaitable[Sequence[tuple[int, str]]]]
    ) -> None:
        self._cut_off = cut_off
        self._done: OrderedDict[int, None] = OrderedDict()
        self._error_logged = False
        self._client = httpx.AsyncClient(
            base_url=settings.url.rstrip("/"),
            auth=(settings.key, settings.secret),
            timeout=TIMEOUT_S,
            follow_redirects=False,
        )

    async def follow(self) -> None:
        """End what must end. Raises StoreUnavailable; an EMQX that does not answer is tried again next time."""
        todo: dict[str, list[int]] = {}
        for change, device in await self._cut_off(LOOK_BACK_S):
            if change not in self._done:
                todo.setdefault(device, []).append(change)
        for device, changes in todo.items():
            try:
                await self._end_sessions(device)
            except (httpx.HTTPError, _Redirected) as error:
                self._log_error_once(str(error) or type(error).__name__)
                return
            self._error_logged = False
            self._remember(changes)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    def _remember(self, changes: Sequence[int]) -> None:
        self._done.update(dict.fromkeys(changes))
        while len(self._done) > CHANGES_KEPT:
            self._done.popitem(last=False)

    async def _end_sessions(self, device: str) -> None:
        # Devices may write their UUID in either case, and a session's id is the device's own choice.
        answers = await asyncio.gather(*(self._sessions(name) for name in (device, device.upper())))
        for client in {client for found in answers for client in found}:
            answer = await self._client.delete(f"/api/v5/clients/{quote(client, safe='')}")
            if answer.status_code != httpx.codes.NOT_FOUND:
                _require_success(answer)
            log.info("mqtt_session_ended", device=device, client=client)

    async def _sessions(self, username: str) -> list[str]:
        answer = await self._client.get("/api/v5/clients", params={"username": username, "limit": PAGE})
        _require_success(answer)
        return [str(client["clientid"]) for client in answer.json().get("data", [])]

    def _log_error_once(self, detail: str) -> None:
        if not self._error_logged:
            log.error("emqx_unavailable", detail=detail, advice="revoked keys go on in open sessions; check emqx.url")
        self._error_logged = True


def _require_success(answer: httpx.Response) -> None:
    """Raises httpx.HTTPStatusError, _Redirected."""
    if answer.is_redirect:
        raise _Redirected(redirect_detail("EMQX", answer.status_code, answer.headers.get("location")))
    answer.raise_for_status()
