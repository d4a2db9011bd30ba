"""Routes of the downlink: an operator's command in, its state out. Behind is a table that the MQTT door reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import isfinite
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from fastapi import FastAPI, Request
from pydantic import WithJsonSchema
from starlette.responses import Response

from bridge.errors import DecodeError, Unavailable
from bridge.http import schemas
from bridge.http.authentication import AuthenticatedSender, Authentication, limit_headers
from bridge.http.body import inflate, receive_body
from bridge.http.ingest import idempotency_key
from bridge.http.problems import Problem
from bridge.model.reading import Code
from bridge.pipeline.decode import normal_uuid
from bridge.settings.http import HttpSettings
from bridge.settings.service import CommandSettings

T = TypeVar("T")

Uuid = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
LISTED = 100

_REFUSALS = {
    "unknown_device": (404, "no such device"),
    "device_disabled": (409, "the device is disabled; enable it first"),
    "too_many_commands": (429, "the device has too many commands open; wait until some are done or have expired"),
}

_SEND_ERRORS = schemas.problems(400, 401, 404, 408, 409, 413, 415, 422, 429, 503)


class Added(Protocol):
    """What became of a new command. `rejection` is a reason code, or empty."""

    @property
    def command_id(self) -> str: ...
    @property
    def is_new(self) -> bool: ...
    @property
    def rejection(self) -> str: ...


class Commands(Protocol):
    """The table of commands. All raise StoreUnavailable."""

    async def add(self, device_uuid: str, payload: bytes, expires_s: float, key: str | None, most: int) -> Added:
        """A new command, unless `most` are open; where `key` was used before, the command of then."""
        ...

    async def show(self, device_uuid: str, command_id: str | None, limit: int) -> Sequence[dict[str, Any]] | None:
        """As documents, the newest first; None where there is no such device."""
        ...


class CommandRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a new command."""

    payload: msgspec.Raw
    expires_in_s: float | None = None


def add_command_routes(
    app: FastAPI,
    authentication: Authentication,
    commands: Commands,
    http: HttpSettings,
    settings: CommandSettings,
    wake: Callable[[], None],
) -> None:
    """The routes below /devices/{device_uuid}/commands. `wake` says that there is a new command."""

    async def answer(asked: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(http.ack_timeout_s):
                return await asked
        except TimeoutError:
            raise Unavailable("the database is too slow; send the same again", retry_after_s=2) from None

    async def find(device: str, command_id: str | None) -> Sequence[dict[str, Any]]:
        found = await answer(commands.show(device, command_id, LISTED))
        if found is None:
            raise Problem(404, Code.UNKNOWN_DEVICE, "no such device")
        return found

    @app.post(
        "/devices/{device_uuid}/commands",
        status_code=201,
        response_model=schemas.Command,
        responses={
            200: {"model": schemas.Command},
            **schemas.problems(400, 401, 404, 408, 409, 413, 415, 422, 429, 503),
        },
        openapi_extra=schemas.command(settings.max_expiry_s),
    )
    async def send_command(request: Request, device_uuid: Uuid) -> Response:
        sender = await authentication.sender(request, "api", "X-API-Key")
        device = _uuid(device_uuid, "device_uuid")
        key = idempotency_key(request, sender)
        body = inflate(request, await receive_body(request, http), http.max_inflated_bytes)
        order = read_command_request(body, settings)
        expires_s = settings.default_expiry_s if order.expires_in_s is None else order.expires_in_s
        added = await answer(commands.add(device, bytes(order.payload), expires_s, key, settings.max_open_per_device))
        if added.rejection:
            status, detail = _REFUSALS[added.rejection]
            raise Problem(status, added.rejection, detail, {"Retry-After": "60"} if status == 429 else None)
        wake()
        found = await find(device, added.command_id)
        place = {"Location": f"/devices/{device}/commands/{added.command_id}"}
        return _document(found[0], sender, 201 if added.is_new else 200, place)

    @app.get(
        "/devices/{device_uuid}/commands",
        response_model=list[schemas.Command],
        responses=schemas.problems(401, 404, 422, 429, 503),
        openapi_extra={"security": [{"ApiKey": []}]},
    )
    async def list_commands(request: Request, device_uuid: Uuid) -> Response:
        sender = await authentication.sender(request, "api", "X-API-Key")
        return _document(await find(_uuid(device_uuid, "device_uuid"), None), sender)

    @app.get(
        "/devices/{device_uuid}/commands/{command_id}",
        response_model=schemas.Command,
        responses=schemas.problems(401, 404, 422, 429, 503),
        openapi_extra={"security": [{"ApiKey": []}]},
    )
    async def show_command(request: Request, device_uuid: Uuid, command_id: Uuid) -> Response:
        sender = await authentication.sender(request, "api", "X-API-Key")
        found = await find(_uuid(device_uuid, "device_uuid"), _uuid(command_id, "command_id"))
        if not found:
            raise Problem(404, "unknown_command", "the device has no such command")
        return _document(found[0], sender)


def read_command_request(body: bytes, settings: CommandSettings) -> CommandRequest:
    """The body of a new command. Raises DecodeError, and Problem 413."""
    try:
        order = msgspec.json.decode(body, type=CommandRequest)
        msgspec.json.decode(order.payload)  # a raw value is skipped over, not looked at
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(Code.BAD_FORM, f'{error}; send {{"payload": …, "expires_in_s": …}}') from None
    except RecursionError:
        raise DecodeError(Code.BAD_FORM, "nested too deeply", where="$.payload") from None
    if len(order.payload) > settings.max_payload_bytes:
        raise Problem(413, "too_large", f"the payload is over {settings.max_payload_bytes} bytes")
    expiry = order.expires_in_s
    if expiry is not None and not (isfinite(expiry) and 1 <= expiry <= settings.max_expiry_s):
        raise DecodeError(Code.BAD_FORM, f"expires_in_s is from 1 to {settings.max_expiry_s:g}", where="$.expires_in_s")
    return order


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
