"""Where the broker is, and as whom we connect."""

from __future__ import annotations

import ssl
from urllib.parse import unquote, urlsplit

import msgspec

from bridge.errors import ConfigError
from bridge.settings import MqttSettings


class BrokerAddress(msgspec.Struct, frozen=True):
    """A broker URL, taken apart. The password stays out of `str`."""

    host: str
    port: int
    tls: bool
    username: str
    password: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_address(settings: MqttSettings) -> BrokerAddress:
    """Raises ConfigError."""
    try:
        parts = urlsplit(settings.url)
    except ValueError:
        raise ConfigError(["mqtt.url: the host is not an address; IPv6 is written [::1]"]) from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(["mqtt.url: ends with the port; in a password write / as %2F, ? as %3F, # as %23"])
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ConfigError(["mqtt.url: the port is not a number from 1 to 65535"])
    if not parts.hostname:
        raise ConfigError(["mqtt.url: names no host; write mqtt://host:1883"])
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ConfigError(["mqtt.url: the host name is none that can be looked up"]) from None
    tls = parts.scheme == "mqtts"
    return BrokerAddress(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=unquote(parts.username or "") or settings.username,
        password=unquote(parts.password or "") or settings.password,
    )


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, with certificate and host name checked. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"mqtt.ca_file = {settings.ca_file}: {error}"]) from error
    context.sslsocket_class = _HandshakingSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _HandshakingSocket(ssl.SSLSocket):
    """Closes itself when its handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise
