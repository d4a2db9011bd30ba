"""The endpoints that MQTT brokers call: may this client connect, may it publish or subscribe?

EMQX 5 reads the decision from the body of a 200, also for a denial; any other status it takes for no
opinion (docs.emqx.com, "Use HTTP Service"). mosquitto-go-auth reads the status, and in its JSON mode
`Ok` as well (its README, "HTTP"), so a denial is a 403 with a body. Both must know the hooks' own secret.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.broker_access import Account, Action, BrokerAccess, may
from bridge.auth.failed_logins import FailedLogins, LoginAttempt
from bridge.errors import DecodeError
from bridge.http.authentication import Authentication
from bridge.http.body import inflate, receive_body
from bridge.http.endpoint import Endpoint
from bridge.http.problems import Problem
from bridge.http.proxy import ClientAddress
from bridge.pipeline.decode import normal_uuid
from bridge.rate_limit import SlidingWindow, check
from bridge.settings.http import HttpSettings
from bridge.settings.service import HookSettings

READ, WRITE, READ_WRITE, SUBSCRIBE = 1, 2, 3, 4
"""`acc` of mosquitto-go-auth: mosquitto_plugin.h, MOSQ_ACL_…"""

MAX_ADDRESS = 45
"""Characters of the longest textual address: IPv6 with IPv4 in its last 32 bits (RFC 4291, section 2.2)."""
_CLIENTS = ClientAddress(())


MAX_LOGGED = 100

log = structlog.get_logger("hooks")


MAX_BODY_BYTES = 65_536
"""Of a hook's request, inflated too: names, a key, a topic. A client whose names are longer is denied."""


class HookAuthentication:
    """Holds requests against the hooks' own secret and rate limit. `now` is a monotonic clock in seconds.

    The secret is compared before anything is counted: a broker with the right one is let in, whoever guesses beside it.
    """

    def __init__(
        self, settings: HookSettings, http: HttpSettings, addresses: Authentication, now: Callable[[], float]
    ) -> None:
        self._secret = settings.secret
        self._addresses = addresses
        self._http = http
        self._now = now
        self._window = SlidingWindow("hooks", settings.per_minute, 1)

    async def fields(self, request: Request) -> Mapping[str, str]:
        """The fields of a hook's request, JSON or form. Raises Problem (401, 422, 429)."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        given = given or request.query_params.get("secret", "")
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            how = "send hooks.secret as Authorization: Bearer …, or as ?secret=…"
            raise self._addresses.note_failure(request, "hook") or Problem(401, "bad_secret", how)
        verdict = check([(self._window, [("", 1)])], self._now())
        if not verdict.allowed:
            raise Problem(429, "rate_limited", "over hooks.per_minute", {"Retry-After": str(verdict.reset_s)})
        body = inflate(request, await receive_body(request, self._http, MAX_BODY_BYTES), MAX_BODY_BYTES)
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            try:
                return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=32))
            except ValueError as error:
                raise Problem(422, "bad_form", f"no form: {error}") from None
        try:
            found = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Problem(422, "bad_form", "a JSON object or a form is wanted")
        return {str(key): "" if value is None else str(value) for key, value in found.items()}


class Hooks:
    """The endpoints below /hooks/. They stay out of OpenAPI: brokers call them, devices never do."""

    def __init__(
        self,
        settings: HookSettings,
        http: HttpSettings,
        access: BrokerAccess,
        failed: FailedLogins,
        addresses: Authentication,
        now: Callable[[], float],
    ) -> None:
        self._trust_certificates = settings.trust_certificates
        self._access = access
        self._missing_id_logged = False
        self._failed = failed
        self._authentication = HookAuthentication(settings, http, addresses, now)

    @property
    def endpoints(self) -> list[Endpoint]:
        """Their rows of the table."""
        return [
            Endpoint("POST", "/hooks/emqx/authn", self.emqx_authn),
            Endpoint("POST", "/hooks/emqx/authz", self.emqx_authz),
            Endpoint("POST", "/hooks/mosquitto/user", self.mosquitto_user),
            Endpoint("POST", "/hooks/mosquitto/superuser", self.mosquitto_superuser),
            Endpoint("POST", "/hooks/mosquitto/acl", self.mosquitto_acl),
        ]

    async def emqx_authn(self, request: Request) -> Response:
        """Whether a client may connect, as EMQX asks it."""
        return _emqx(await self._may_connect(await self._fields_or_denial(request)), is_superuser=False)

    async def emqx_authz(self, request: Request) -> Response:
        """Whether a client may publish or subscribe, as EMQX asks it."""
        fields = await self._fields_or_denial(request)
        actions: dict[str, Action] = {"publish": "publish", "subscribe": "subscribe"}
        action = actions.get(fields.get("action", ""))
        return _emqx(action is not None and await self._is_allowed(fields, action))

    async def mosquitto_user(self, request: Request) -> Response:
        """Whether a client may connect, as mosquitto-go-auth asks it."""
        return _go_auth(await self._may_connect(await self._authentication.fields(request)))

    async def mosquitto_superuser(self, request: Request) -> Response:
        """Whether a client may do everything: nobody may."""
        await self._authentication.fields(request)
        return _go_auth(False)

    async def mosquitto_acl(self, request: Request) -> Response:
        """Whether a client may publish or subscribe, as mosquitto-go-auth asks it."""
        fields = await self._authentication.fields(request)
        actions: dict[str, tuple[Action, ...]] = {
            str(READ): ("subscribe",),
            str(WRITE): ("publish",),
            str(READ_WRITE): ("subscribe", "publish"),
            str(SUBSCRIBE): ("subscribe",),
        }
        wanted = actions.get(fields.get("acc", ""), ())
        return _go_auth(bool(wanted) and all([await self._is_allowed(fields, action) for action in wanted]))

    async def _may_connect(self, fields: Mapping[str, str]) -> bool:
        """Whether it is somebody, and the client id is nobody else's: with it go a session and what waits in it."""
        account = await self._login(fields)
        if "clientid" not in fields and not self._missing_id_logged:
            self._missing_id_logged = True
            log.warning("hook_without_client_id", advice="have the broker send clientid: a device may take a bridge's")
        if account is None or await self._access.may_have(account, fields.get("clientid", "")):
            return account is not None
        log.warning("client_id_refused", account=account.name, client_id=fields["clientid"][:MAX_LOGGED])
        return False

    async def _login(self, fields: Mapping[str, str]) -> Account | None:
        username, password = fields.get("username", ""), fields.get("password", "")
        named_by_certificate = fields.get("cert_common_name", "")
        if self._trust_certificates and not password and named_by_certificate:
            device = normal_uuid(named_by_certificate)
            if device is None or (username and normal_uuid(username) != device):
                return None
            return await self._access.named(device)
        # Of the client, as EMQX tells it; mosquitto-go-auth does not, and failures are counted by account alone.
        attempt = LoginAttempt("mqtt", _CLIENTS.of(fields.get("peerhost", "")[:MAX_ADDRESS], ()), username)
        account = await self._access.login(username, password, doubted=self._failed.too_many(attempt) is not None)
        if account is None:
            self._failed.note(attempt)
        return account

    async def _is_allowed(self, fields: Mapping[str, str], action: Action) -> bool:
        account = await self._access.named(fields.get("username", ""))
        return account is not None and may(account, action, fields.get("topic", ""))

    async def _fields_or_denial(self, request: Request) -> Mapping[str, str]:
        """EMQX takes a 4xx for no opinion and asks the next authenticator: what is malformed must be denied."""
        try:
            return await self._authentication.fields(request)
        except DecodeError:
            return {}
        except Problem as problem:
            if problem.status in (401, 429):
                raise
            return {}


def _emqx(allow: bool, **more: Any) -> Response:
    body = {"result": "allow" if allow else "deny"} | (more if allow else {})
    return Response(msgspec.json.encode(body), media_type="application/json")


def _go_auth(ok: bool) -> Response:
    body = {"Ok": ok, "Error": "" if ok else "not allowed"}
    return Response(msgspec.json.encode(body), status_code=200 if ok else 403, media_type="application/json")
