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
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


def parse_address(settings: MqttSettings) -> BrokerAddress:
    """Raises ConfigError."""
    parts = urlsplit(settings.url)
    try:
        port = parts.port
    except ValueError:
        raise ConfigError(["mqtt.url: the port is not a number from 1 to 65535"]) from None
    if not parts.hostname:
        raise ConfigError(["mqtt.url: names no host; write mqtt://host:1883"])
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
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
