"""The endpoints of commands to devices: an operator's command in, its state out. The MQTT door reads their table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import isfinite
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import DecodeError, Unavailable
from bridge.http import schemas
from bridge.http.authentication import AuthenticatedSender, Authentication, limit_headers
from bridge.http.body import inflate, receive_body
from bridge.http.endpoint import Endpoint
from bridge.http.ingest import idempotency_key
from bridge.http.problems import Problem
from bridge.http.schemas import Uuid
from bridge.model.reading import Code
from bridge.pipeline.decode import decode_any, normal_uuid
from bridge.pipeline.json_body import bounded, decode_json
from bridge.settings.http import HttpSettings
from bridge.settings.service import CommandSettings

T = TypeVar("T")

LISTED = 100
"""Commands of a device in one list, the newest."""

_REJECTIONS = {
    "unknown_device": (404, "no such device"),
    "device_disabled": (409, "the device is disabled; enable it first"),
    "too_many_commands": (429, "the device has too many commands open; wait until some are done or have expired"),
}


class AddedCommand(Protocol):
    """What became of a new command. `rejection` is a reason code, or empty."""

    @property
    def command_id(self) -> str: ...
    @property
    def is_new(self) -> bool: ...
    @property
    def rejection(self) -> str: ...


class Commands(Protocol):
    """The table of commands. All raise StoreUnavailable."""

    async def add(self, device_uuid: str, payload: bytes, expires_s: float, key: str | None, most: int) -> AddedCommand:
        """A new command, unless `most` are open; where `key` was used before, the command of then."""
        ...

    async def show(self, device_uuid: str, command_id: str | None, limit: int) -> Sequence[dict[str, Any]] | None:
        """As documents, the newest first; None where there is no such device."""
        ...


class CommandRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a new command."""

    payload: msgspec.Raw
    expires_in_s: float | None = None


_request = msgspec.json.Decoder(CommandRequest)


class CommandDoor:
    """The endpoints below /devices/{device_uuid}/commands. `wake` says that there is a new command."""

    def __init__(
        self,
        commands: Commands,
        authentication: Authentication,
        http: HttpSettings,
        settings: CommandSettings,
        wake: Callable[[], None],
    ) -> None:
        self._commands = commands
        self._authentication = authentication
        self._http = http
        self._settings = settings
        self._wake = wake

    @property
    def endpoints(self) -> list[Endpoint]:
        """Their rows of the table."""
        path = "/devices/{device_uuid}/commands"
        new = partial(schemas.command, self._settings.max_expiry_s)
        many = partial(schemas.answer, list[schemas.Command], 401, 403, 404, 422, 429, 503)
        one = partial(schemas.answer, schemas.Command, 401, 403, 404, 422, 429, 503)
        return [
            Endpoint("POST", path, self.send_command, "api", new),
            Endpoint("GET", path, self.list_commands, "api", many),
            Endpoint("GET", path + "/{command_id}", self.show_command, "api", one),
        ]

    async def send_command(self, request: Request, device_uuid: Uuid) -> Response:
        sender, device = await self._sender(request, device_uuid, "commands:write")
        key = idempotency_key(request, sender)
        body = inflate(request, await receive_body(request, self._http), self._http.max_inflated_bytes)
        settings = self._settings
        asked = read_command_request(body, settings)
        expires_s = settings.default_expiry_s if asked.expires_in_s is None else asked.expires_in_s
        added = await self._in_time(
            self._commands.add(device, bytes(asked.payload), expires_s, key, settings.max_open_per_device)
        )
        if added.rejection:
            status, detail = _REJECTIONS[added.rejection]
            raise Problem(status, added.rejection, detail, {"Retry-After": "60"} if status == 429 else None)
        self._wake()
        found = await self._find(device, added.command_id)
        location = {"Location": f"/devices/{device}/commands/{added.command_id}"}
        return _document(found[0], sender, 201 if added.is_new else 200, location)

    async def list_commands(self, request: Request, device_uuid: Uuid) -> Response:
        sender, device = await self._sender(request, device_uuid, "commands:read")
        return _document(await self._find(device, None), sender)

    async def show_command(self, request: Request, device_uuid: Uuid, command_id: Uuid) -> Response:
        sender, device = await self._sender(request, device_uuid, "commands:read")
        found = await self._find(device, _uuid(command_id, "command_id"))
        if not found:
            raise Problem(404, "unknown_command", "the device has no such command")
        return _document(found[0], sender)

    async def _sender(self, request: Request, device_uuid: str, scope: str) -> tuple[AuthenticatedSender, str]:
        """Who asks, and the device, which its key may speak for. Raises Problem (401, 403, 422, 429), Unavailable."""
        sender = await self._authentication.sender(request, "api", scope)
        device = _uuid(device_uuid, "device_uuid")
        if not sender.may_speak_for(device):  # whether there is such a device or not
            raise Problem(403, "foreign_device", "the key may not speak for this device")
        return sender, device

    async def _find(self, device: str, command_id: str | None) -> Sequence[dict[str, Any]]:
        found = await self._in_time(self._commands.show(device, command_id, LISTED))
        if found is None:
            raise Problem(404, Code.UNKNOWN_DEVICE, "no such device")
        return found

    async def _in_time(self, answer: Awaitable[T]) -> T:
        """What the database answers. Raises Unavailable where it takes too long."""
        try:
            async with asyncio.timeout(self._http.ack_timeout_s):
                return await answer
        except TimeoutError:
            raise Unavailable("the database is too slow; send the same again", retry_after_s=2) from None


def read_command_request(body: bytes, settings: CommandSettings) -> CommandRequest:
    """The body of a new command. Raises DecodeError, and Problem 413."""
    try:
        asked = decode_json(_request, bounded(body))
    except DecodeError as error:
        if error.reason != Code.BAD_FORM:
            raise
        raise DecodeError(Code.BAD_FORM, f'{error.detail}; send {{"payload": …, "expires_in_s": …}}') from None
    if len(asked.payload) > settings.max_payload_bytes:
        raise Problem(413, "too_large", f"the payload is over {settings.max_payload_bytes} bytes")
    decode_any(bytes(asked.payload))  # a raw value is skipped over, not looked at
    expiry = asked.expires_in_s
    if expiry is not None and not (isfinite(expiry) and 1 <= expiry <= settings.max_expiry_s):
        raise DecodeError(Code.BAD_FORM, f"expires_in_s is from 1 to {settings.max_expiry_s:g}", where="$.expires_in_s")
    return asked


def _uuid(text: str, name: str) -> str:
    uuid = normal_uuid(text)
    if uuid is None:
        raise Problem(422, Code.BAD_FORM, f"{name} is a UUID")
    return uuid


def _document(
    value: Any, sender: AuthenticatedSender, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        media_type="application/json",
        headers=limit_headers(sender.verdict) | (headers or {}),
    )
