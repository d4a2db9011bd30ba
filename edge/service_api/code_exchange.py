"""A one-time code for a name and a key, so that no code is ever lost: neither to a disk nor to a lost answer.

Flows in: URL and code, of whoever types them or of the file on the boot partition. Flows out: `Enrolment`, on the disk.

The key is made here: from a secret that is on the disk before the code is sent, and the code. So it is known that the
folder takes files, and whoever asks again with the same code, after a pulled plug or an answer that never came, asks
for the same key, which the service gives its name again. The secret goes once the key stands in its file.
"""

from __future__ import annotations

import hmac
import secrets
import ssl
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

import msgspec

from bridge.errors import BridgeError, ConfigError
from bridge.store.secret import CODE_ALPHABET, CODE_LENGTH, code_hash
from edge.host import atomic_file
from edge.host.clock import HostClock
from edge.host.private_files import make_folder
from edge.service_api import enrolment
from edge.service_api.certificate_dates import AnyDate
from edge.service_api.enrolment import Enrolment, EnrolmentFile
from edge.service_api.http_client import Address, ServiceAway, ServiceClient, parse_url, tls_context
from edge.service_api.transport import TransportDenied, TransportRejected
from edge.service_api.transport import enrol as ask

SECRET_FILE = "enrolment.secret"  # noqa: S105  its name
SECRET_BYTES = 32
TIMEOUT_S = 30.0
REFUSALS = {"bad_code", "code_used", "code_expired", "gateway_revoked"}
"""The `code` of answers that are the service's no to this code; every other may be of something on the way."""
SEPARATORS = " -_.\t\u00a0\u2010\u2011\u2012\u2013\u2014\u2212"
"""What people put between the parts of a code, and what editors make of a hyphen."""


class CodeRefused(BridgeError):
    """Raised where the code is none, or the service has said no to it. `reason` is the `code` of its answer."""

    code = "code_refused"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class CodeOrder(msgspec.Struct, frozen=True):
    """Says where to enrol, with which code, and with whose certificates."""

    url: str
    code: str
    insecure: bool = False
    ca_file: Path | None = None  # of the settings
    ca_pem: str = ""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Return what TLS is to trust; None for http. Raises ConfigError."""
        return tls_context(self.ca_file, self.ca_pem) if self.address.tls else None

    def any_date(self, clock: HostClock) -> AnyDate | None:
        """Return how to connect by a clock that is known to be wrong; None for http. Raises ConfigError."""
        return AnyDate(tls_context(self.ca_file, self.ca_pem, any_date=True), clock) if self.address.tls else None

    @property
    def address(self) -> Address:
        """Return the URL, taken apart. Raises ConfigError where it is none, or would send the key in clear."""
        found = parse_url(self.url)
        if found.in_clear and not self.insecure:
            advice = f"write https://{found.host}, or --insecure where nobody else is on the way"
            raise ConfigError([f"{self.url}: http would send code, key and readings in clear: {advice}"])
        return found


def normal_code(text: str) -> str:
    """Return the characters of a code, however it is written. Raises CodeRefused where it cannot be one."""
    found = "".join(c for c in text.upper() if c not in SEPARATORS)
    strange = sorted({c for c in found if c not in CODE_ALPHABET})
    form = f"a code has {CODE_LENGTH} characters, such as ABCD-EFGH-JKMN"
    if strange:
        raise CodeRefused("mistyped", f"the code is mistyped: there is no {' '.join(strange)} in any; {form}")
    if len(found) != CODE_LENGTH:
        raise CodeRefused("mistyped", f"the code is mistyped: {len(found)} characters; {form}")
    return found


def present(folder: Path) -> Enrolment | None:
    """Return the enrolment that is there; None where there is none that can be read."""
    try:
        return EnrolmentFile(folder).current
    except ConfigError:
        return None


def is_done(folder: Path, order: CodeOrder) -> bool:
    """Return whether the gateway has been enrolled with this very code already. Raises CodeRefused."""
    there = present(folder)
    return there is not None and (there.url, there.code_hash) == (order.url, code_hash(normal_code(order.code)))


async def exchange(
    folder: Path, order: CodeOrder, version: str, clock: HostClock, owner: tuple[int, int] | None = None
) -> Enrolment:
    """Enrol, and write it down. `owner` gets the folder where it has to be made.

    Raises ConfigError (URL, folder), CodeRefused, and ServiceAway: then the same order may be given again.
    """
    code, tls, any_date = normal_code(order.code), order.tls, order.any_date(clock)
    clock.check()  # whoever waits for the service may have waited for hours: it may have been set meanwhile
    key = _key(_kept_secret(folder, owner), code)
    client = ServiceClient(order.address, tls, TIMEOUT_S, any_date)
    try:
        made = await ask(client, code, version, sha256(key.encode()).hexdigest())
    except TransportDenied as error:
        if error.reason in REFUSALS:
            raise CodeRefused(error.reason, error.told) from error
        detail = f"no service of ours takes codes at {order.url}: the answer is {error.status}: {error.told}"
        raise ServiceAway("stranger", detail) from error
    except TransportRejected as error:
        raise CodeRefused("refused", error.detail) from error
    finally:
        client.close()
    now_s = clock.now_us() / 1_000_000
    found = Enrolment(order.url, made.name, made.gateway_key or key, now_s, code_hash(code), order.ca_pem)
    try:
        enrolment.write(folder, found)
        atomic_file.remove(folder / SECRET_FILE)
    except OSError as error:
        again = "the code is kept for this gateway: once that is mended, give the same code again"
        raise ConfigError([f"{folder}: {error.strerror}; {again}"]) from error
    return found


def _kept_secret(folder: Path, owner: tuple[int, int] | None) -> bytes:
    """Return the secret of this attempt and those before it; it is written each time, as the key will be."""
    path = folder / SECRET_FILE
    try:
        make_folder(folder, owner)
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            found = b""
        if len(found) != SECRET_BYTES:
            found = secrets.token_bytes(SECRET_BYTES)
        atomic_file.replace(path, found)
    except PermissionError as error:
        advice = "run this as root: sudo iot-edge enrol …; the code is not used"
        raise ConfigError([f"{folder}: {error.strerror}; {advice}"]) from error
    except OSError as error:
        advice = "the gateway could not keep its key; the code is not used"
        raise ConfigError([f"{folder}: {error.strerror}; {advice}"]) from error
    return found


def _key(secret: bytes, code: str) -> str:
    """Return the key for a code, in the form of every key: gk_<8 characters>_<43 characters>, 256 bits."""
    digest = hmac.digest(secret, b"gateway key " + code.encode(), "sha256")
    mark = sha256(digest).hexdigest()[:8]
    return f"gk_{mark}_{urlsafe_b64encode(digest).decode().rstrip('=')}"
