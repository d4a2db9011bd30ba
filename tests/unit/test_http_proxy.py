"""Client addresses: X-Forwarded-For is believed as far as the trusted proxies reach."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bridge.http.proxy import ClientAddress
from bridge.settings.http import HttpSettings

TRUSTED = ClientAddress(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])
PROXY, OTHER_PROXY, CLIENT, SPOOFED = "10.0.0.1", "192.0.2.7", "203.0.113.9", "198.51.100.1"


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        (CLIENT, [], CLIENT),
        (CLIENT, [SPOOFED], CLIENT),  # not a proxy of ours: whatever it says of itself
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{SPOOFED}, {CLIENT}"], CLIENT),
        (PROXY, [f"{SPOOFED},{CLIENT} , {OTHER_PROXY}"], CLIENT),
        (PROXY, [SPOOFED, CLIENT], CLIENT),  # HAProxy adds a line of its own below the client's
        (PROXY, [f"{SPOOFED},{PROXY}", CLIENT], CLIENT),
        (PROXY, [f"{CLIENT}, nonsense"], PROXY),
        (PROXY, [f"{CLIENT}, "], PROXY),
        (PROXY, [OTHER_PROXY], OTHER_PROXY),
        (PROXY, [f"{CLIENT}:50123"], CLIENT),
        (PROXY, ["[2001:db8:1:2::3]:50123"], "2001:db8:1:2::/64"),
        (f"::ffff:{PROXY}", [CLIENT], CLIENT),
        (PROXY, [f"::ffff:{CLIENT}"], CLIENT),
        ("fd00::1", [CLIENT], CLIENT),
        ("2001:db8:1:2:a:b:c:d", [], "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", [SPOOFED], "2001:db8:1:2::/64"),
        ("", [CLIENT], ""),
        ("unix", [CLIENT], "unix"),
    ],
)
def test_address_of(peer: str, lines: list[str], expected: str) -> None:
    assert TRUSTED.of(peer, lines) == expected


def test_address_without_trusted_proxies_is_the_peer() -> None:
    assert ClientAddress([]).of(PROXY, [CLIENT]) == PROXY


@given(st.lists(st.text(max_size=60) | st.ip_addresses().map(str), max_size=5))
def test_address_of_any_header_is_a_peer_or_an_address(lines: list[str]) -> None:
    found = TRUSTED.of(PROXY, lines)
    ip_address(found.removesuffix("/64"))
    assert TRUSTED.of(CLIENT, lines) == CLIENT


@pytest.mark.parametrize("entry", ["proxy.internal", "10.0.0.0/33", "10.0.0.1:80", ""])
def test_trusted_proxy_that_is_none_is_a_mistake_of_the_settings(entry: str) -> None:
    with pytest.raises(ValidationError, match="no address or network"):
        HttpSettings(trusted_proxies=(entry,))
