"""Says what went wrong between us and the broker, and what to look at. Pure: errors in, text out."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence

from bridge.mqtt.connack import BrokerLimits

CLOSED_EARLY = (
    "the broker hangs up before the session begins; is this its port for mqtt, or for mqtts (TLS)? Has it as many "
    "connections as it takes (Mosquitto: max_connections)? "
    'Or it does not speak MQTT {spoken}: try mqtt.protocol = "{other}"'
)
CLOSED_EARLY_TLS = (
    "the broker hangs up before the session begins; does it want another client certificate (mqtt.cert_file)? "
    "Or it has as many connections as it takes (Mosquitto: max_connections), "
    'or does not speak MQTT {spoken}: try mqtt.protocol = "{other}"'
)
MUTE = (
    "the broker takes the connection, and does not answer CONNECT; is it an MQTT broker, and not overloaded? Or it "
    'does not speak MQTT {spoken}: try mqtt.protocol = "{other}"'
)
CLOSED_UNSUBSCRIBED = "the broker has taken us, and closes the connection instead of answering SUBSCRIBE; see its log"
NOT_UNDERSTOOD = (
    "the answer to CONNECT is not MQTT {spoken}; does mqtt.url name an MQTT broker? Or it speaks another version: try "
    'mqtt.protocol = "{other}"'
)
AFTER_PUBLICATION = ", right after our publish to %s: it may refuse that; we try without it"
ONLY_WITHOUT_WILL = "the broker takes us without our will; connecting again with it, to be sure"
WILL_REFUSED = (
    "the broker takes us only without our will: its ACL must allow us to write {topic}. Readings come in all the "
    "same; it publishes no offline status when it loses us"
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


def of_connecting(error: Exception, host: str, protocol: str) -> str:
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
        return of_version(CLOSED_EARLY, protocol)
    if isinstance(error, TimeoutError):
        return "the broker does not answer"
    return f"cannot connect: {error}"


def of_early_end(alert: ssl.SSLError | None, protocol: str, *, tls_wanted: bool, is_mqtt: bool) -> str:
    """Why a connection ended before CONNACK, from what TLS said, or the answer that is not MQTT, or its absence."""
    if alert is not None:
        return of_alert(alert)
    if not is_mqtt:
        return of_version(NOT_UNDERSTOOD, protocol)
    return of_version(CLOSED_EARLY_TLS if tls_wanted else CLOSED_EARLY, protocol)


def of_version(text: str, protocol: str) -> str:
    """A text that names the MQTT version that we speak, and the other one."""
    return text.format(spoken=protocol, other=_other(protocol))


def _other(protocol: str) -> str:
    return "5" if protocol == "3.1.1" else "3.1.1"


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


_LOGIN = "check mqtt.username and mqtt.password"
_CODES = {
    0x80: ("Unspecified error", "its log may say why"),
    0x81: ("Malformed packet", "its log may say why"),
    0x82: ("Protocol error", "its log may say why"),
    0x83: ("Implementation specific error", "its log may say why"),
    0x84: ("Unsupported protocol version", 'it does not speak MQTT {spoken}; set mqtt.protocol = "{other}"'),
    0x85: ("Client identifier not valid", "set mqtt.client_id to one that the broker takes (this is {client_id})"),
    0x86: ("Bad user name or password", _LOGIN),
    0x87: ("Not authorized", f"{_LOGIN}, and what the broker lets this account and the client id {{client_id}} do"),
    0x88: ("Server unavailable", "it is up and cannot serve; its log says why"),
    0x89: ("Server busy", "it has too much to do"),
    0x8A: ("Banned", "an administrator of the broker, or its own protection, has shut us out; lift the ban there"),
    0x8B: ("Server shutting down", "it is tried again"),
    0x8C: ("Bad authentication method", "it wants a login other than by name and password, which we do not have"),
    0x8D: ("Keep alive timeout", "it has heard nothing of us for too long; see mqtt.keep_alive_s"),
    0x90: ("Topic name invalid", "it does not take the topic of our will, bridge/<service.name>/status"),
    0x93: ("Receive maximum exceeded", "more was sent at once than it takes; please report this"),
    0x95: ("Packet too large", "it takes only smaller packets; see its limit"),
    0x96: ("Message rate too high", "raise its limit for this account"),
    0x97: ("Quota exceeded", "a limit of the broker's is reached, as of connections or sessions; raise it there"),
    0x98: ("Administrative action", "somebody has ended this connection at the broker"),
    0x99: ("Payload format invalid", "it does not take our will"),
    0x9A: ("Retain not supported", "connecting again without a retained will; the status of the bridge is not kept"),
    0x9B: ("QoS not supported", "connecting again with the will at QoS 0"),
    0x9C: ("Use another server", "set mqtt.url to {elsewhere}"),
    0x9D: ("Server moved", "set mqtt.url to {elsewhere}"),
    0x9E: ("Shared Subscriptions not supported", 'set mqtt.share = ""'),
    0x9F: ("Connection rate exceeded", "too many connections are made at once; it is tried again"),
    0xA0: ("Maximum connect time", "it ends connections after a time; it is tried again"),
    0xA2: ("Wildcard Subscriptions not supported", "it is of no use to us without them"),
}
"""Names of MQTT 5, section 2.4, and what to do."""


def of_code(code: int, protocol: str, client_id: str, elsewhere: str = "") -> str:
    """A reason code of CONNACK or DISCONNECT; `elsewhere` is the broker's Server Reference."""
    name, advice = _CODES.get(code, (f"reason 0x{code:02X}", "its log may say why"))
    told = advice.format(
        spoken=protocol, other=_other(protocol), client_id=client_id, elsewhere=elsewhere or "the other server"
    )
    return f"{name}; {told}"


def of_refusal(code: int, protocol: str, client_id: str, elsewhere: str = "") -> str:
    """The broker has answered CONNECT with no."""
    return f"the broker refuses us: {of_code(code, protocol, client_id, elsewhere)}"


def of_end(code: int | None, protocol: str, client_id: str, *, orderly: bool, elsewhere: str = "") -> str:
    """A connection ended that the broker had subscribed."""
    if code:
        return f"the broker ends the connection: {of_code(code, protocol, client_id, elsewhere)}"
    return "the connection ended: " + ("the broker closed it" if orderly else "it broke")


def of_limits(limits: BrokerLimits, session_expiry_s: int) -> Iterator[str]:
    """What the broker takes of us that costs readings."""
    if limits.session_expiry_s is not None and limits.session_expiry_s < session_expiry_s:
        yield (
            f"the broker keeps our session for {limits.session_expiry_s} s, not {session_expiry_s} s "
            "(mqtt.session_expiry_s): what comes while we are away for longer is lost"
        )
    if not limits.maximum_qos:
        yield "the broker has QoS 0 alone: it keeps nothing while we are away, and loses messages without a word"


_SUBSCRIBE_CODES = {
    0x8F: "it says that they are not valid filters",
    0x97: "a quota of the broker's is reached: raise it there",
    0x9E: 'it has no shared subscriptions: set mqtt.share = ""',
    0xA2: "it has no subscriptions with wildcards",
}


def of_subscription(filters: Sequence[str], code: int = 0) -> str:
    """SUBACK refuses filters."""
    told = _SUBSCRIBE_CODES.get(code, "check its ACL")
    return f"the broker does not let us subscribe to {', '.join(filters)}; {told}"
