"""Says what went wrong between us and the broker, and what to look at. Pure: errors in, text out."""

from __future__ import annotations

import socket
import ssl

CLOSED_EARLY = "the broker hangs up before the session begins; is this its port for mqtt, or for mqtts (TLS)?"
CLOSED_EARLY_TLS = (
    "the broker hangs up before the session begins; does it want another client certificate (mqtt.cert_file)?"
)
UNSETTLED = "a message could not be settled; connecting again, so that the broker sends it again"

_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_…, x509_vfy.h
_UNTRUSTED = (18, 19, 20, 21)

_ALERTS = {
    "CERTIFICATE_REQUIRED": "the broker wants a client certificate; set mqtt.cert_file and mqtt.key_file",
    "HANDSHAKE_FAILURE": "the broker finds no common ground; it may want a client certificate: see mqtt.cert_file",
    "UNKNOWN_CA": "the broker does not know the CA of our client certificate; check mqtt.cert_file",
    "BAD_CERTIFICATE": "the broker does not take our client certificate; check mqtt.cert_file",
    "DECRYPT_ERROR": "the broker does not take our client certificate; check mqtt.cert_file",
    "CERTIFICATE_EXPIRED": "the broker says that our client certificate has expired; renew mqtt.cert_file",
    "CERTIFICATE_REVOKED": "the broker says that our client certificate is revoked; renew mqtt.cert_file",
    "CERTIFICATE_UNKNOWN": "the broker does not take our client certificate; check mqtt.cert_file",
    "PROTOCOL_VERSION": "the broker has no TLS 1.2 or newer",
}
"""TLS alerts by the end of OpenSSL's names for them (RFC 8446, section 6.2)."""


def of_connecting(error: Exception, host: str) -> str:
    """Why no connection came about."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, host)
    if isinstance(error, ssl.SSLError):
        return of_alert(error)
    if isinstance(error, socket.gaierror):
        return f"the broker's host name is not known: {error.strerror}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens at the broker's address"
    if isinstance(error, ConnectionResetError):
        return CLOSED_EARLY
    if isinstance(error, TimeoutError):
        return "the broker does not answer"
    return f"cannot connect: {error}"


def of_early_end(alert: ssl.SSLError | None, *, tls_wanted: bool) -> str:
    """Why a connection ended, from what TLS said; without that, it was closed before the session began."""
    if alert is not None:
        return of_alert(alert)
    return CLOSED_EARLY_TLS if tls_wanted else CLOSED_EARLY


def of_alert(error: ssl.SSLError) -> str:
    """What TLS says."""
    reason = error.reason or ""
    for name, advice in _ALERTS.items():
        if reason.endswith(name):
            return f"TLS: {advice}"
    return f"TLS: {reason or error}; is this the broker's TLS port?"


def _of_certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
        return f"TLS: the broker's certificate is not for the host {host}; check the host in mqtt.url"
    if error.verify_code in _UNTRUSTED:
        return f"TLS: we do not trust the CA of the broker's certificate ({error.verify_message}); check mqtt.ca_file"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return f"TLS: the broker's certificate is not valid now ({error.verify_message}); check it, and the clocks"
    return f"TLS: the broker's certificate does not hold: {error.verify_message}"


def of_refusal(reason: str) -> str:
    """The broker has answered CONNECT with no."""
    return f"the broker refuses us: {reason}; check mqtt.username and mqtt.password"
