"""Reaching a service whose certificate is not valid by a clock that is known to be wrong.

Flows in: the certificate that a server has shown, and the clock. Flows out: why its dates do not hold. A gateway
without a time server learns the time from the service, which it could not reach while OpenSSL asks a clock of 1970.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

NO_CHECK_TIME = 0x20_0000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, X509_VERIFY_PARAM_set_flags(3): Python has no name for it."""
NOT_YET_VALID, EXPIRED = 9, 10
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED: X509_STORE_CTX_get_error(3)."""
DATE_ERRORS = (NOT_YET_VALID, EXPIRED)


class CertificateClock(Protocol):
    """Says by which time the dates of a certificate can be judged."""

    def host_is_right(self) -> bool:
        """Return whether the host's own time of day is what `now_us` says: OpenSSL asks no other."""
        ...

    def is_set(self) -> bool: ...
    def now_us(self) -> int: ...


class AnyDate(NamedTuple):
    """How to connect then: `tls` checks everything but dates (`http_client.tls_context`).

    They are held against `clock` once that is set, by the service itself where no time server is. Until then nobody can
    judge them.
    """

    tls: ssl.SSLContext
    clock: CertificateClock

    def may_help(self, error: ssl.SSLCertVerificationError) -> bool:
        """Return whether a certificate was refused by its dates, and by a clock that is wrong."""
        return error.verify_code in DATE_ERRORS and not self.clock.host_is_right()

    def problem(self, certificate: Mapping[str, Any]) -> str:
        """Return why a server's certificate is not valid; empty where it is, or where nobody can tell."""
        begins, ends = str(certificate["notBefore"]), str(certificate["notAfter"])
        now_s = self.clock.now_us() / 1_000_000
        if not self.clock.is_set() or ssl.cert_time_to_seconds(begins) <= now_s <= ssl.cert_time_to_seconds(ends):
            return ""
        return f"TLS: the service's certificate is valid from {begins} to {ends}; renew it there"
