"""Reads the address of the broker, the account and the TLS settings out of the MQTT settings."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from bridge.errors import ConfigError
from bridge.model import host_name
from bridge.settings.mqtt import MqttSettings


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
    if host_name.problem(parts.hostname) is not None:
        raise ConfigError(["mqtt.url: the host name is none that can be looked up"])
    tls = parts.scheme == "mqtts"
    return BrokerAddress(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=unquote(parts.username or "") or settings.username,
        password=unquote(parts.password or "") or settings.password,
    )


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, with certificate and host name checked. Raises ConfigError, which names the file."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"mqtt.ca_file = {settings.ca_file}: {_reason(error)}"]) from error
    context.sslsocket_class = _AlertKeepingSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file is not None:
        _load_client_certificate(context, settings.cert_file, settings.key_file)
    return context


def _load_client_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for name, file in (("cert_file", certificate), ("key_file", key)):
        try:
            if file is not None:
                file.read_bytes()
        except OSError as error:
            raise ConfigError([f"mqtt.{name} = {file}: {error.strerror}"]) from error
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError([f"mqtt.key_file = {key}: is not the key of mqtt.cert_file"]) from error
        where = f"mqtt.cert_file = {certificate}" + (f", mqtt.key_file = {key}" if key else "")
        raise ConfigError([f"{where}: no PEM certificate with its key: {_reason(error)}"]) from error


def _no_password() -> str:
    """OpenSSL would ask on the terminal, which a service has not."""
    raise ConfigError(
        ["mqtt.key_file: the key has a password; write it without one (openssl pkey), readable by us alone"]
    )


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


class _AlertKeepingSocket(ssl.SSLSocket):
    """Keeps what TLS said as it ended, and closes itself when its handshake fails: paho does neither.

    With TLS 1.3 a server may refuse our certificate after the handshake is over for us (RFC 8446, section 4.4.2.4).
    """

    alert: ssl.SSLError | None = None

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            self.alert = error
            raise
