"""The HTTP door: its limits, and the keys that are shown to it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator

from bridge.settings.section import Age, Count, Host, Limit, Port, Positive, Section


def _network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network; allowed are such as 10.0.0.0/8") from None
    return text


Network = Annotated[str, AfterValidator(_network)]


class HttpSettings(Section):
    enabled: bool = True
    """Whether the HTTP door is open."""
    host: Host = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8080
    """Port to listen on; 0 takes a free one."""
    max_body_bytes: Count = 1_048_576
    """Largest body as sent; more is 413 while it streams."""
    max_inflated_bytes: Count = 8_388_608
    """Largest body after gzip inflation."""
    max_bodies_bytes: Count = 25_165_824
    """Bytes of all bodies together that are held, half received or inflated, until they are stored; more is 503."""
    max_header_bytes: Count = 32_768
    """Largest request head; more is 431."""
    max_readings_per_packet: Count = 5_000
    """Most readings in one body."""
    max_connections: Count = 5_000
    """Open connections; more are closed at once."""
    header_timeout_s: Positive = 10.0
    """Time to receive a whole request head."""
    body_timeout_s: Positive = 20.0
    """Time to receive a whole body."""
    keep_alive_s: Positive = 65.0
    """How long an idle connection is kept."""
    ack_timeout_s: Positive = 5.0
    """Longest wait for a commit; then 503 with Retry-After."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses or networks whose X-Forwarded-For is believed."""


class LimitSettings(Section):
    """Sliding-window rate limits; 0 switches one off."""

    ip_per_minute: Limit = 600_000
    """Requests a minute from one client address."""
    device_per_minute: Limit = 60_000
    """Requests a minute of one device or API key."""
    sensor_per_minute: Limit = 60_000
    """Readings a minute of one sensor."""
    mqtt_device_per_minute: Limit = 60_000
    """MQTT messages a minute of one device; what is over it goes to quarantine as rate_limited."""
    rejections_per_minute: Limit = 60
    """Rejections a minute that are told to one device on devices/{uuid}/rejected."""
    failures_per_minute: Limit = 300
    """Wrong keys, codes or passwords a minute from one address or for one account; more cost no query and are 429."""
    max_tracked: Count = 200_000
    """Addresses, devices and sensors remembered; the least recent is forgotten first."""


class KeySettings(Section):
    cache_size: Count = 100_000
    """Keys kept in memory."""
    cache_ttl_s: Age = 300.0
    """How long a key is believed without asking; revocations arrive by the change feed long before."""
    negative_ttl_s: Age = 5.0
    """How long an unknown key is refused without asking."""
