"""What is an address or a host name, and what is not."""

from __future__ import annotations

import pytest

from bridge.model.host_name import problem


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "0.0.0.0",
        "::",
        "::1",
        "fe80::1%eth0",
        "localhost",
        "h",
        "redis_1",
        "a-b.example.com",
        "a.b.",
        "bücher.de",
    ],
)
def test_host_that_is_one(text: str) -> None:
    assert problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        " h",
        "h ",
        "a..b",
        ".",
        "-a",
        "a-",
        "h:80",
        "[::1]",
        "a/b",
        "999.1.1.1",
        "127.1",
        "*",
        "x" * 64,
        ".".join(["x" * 60] * 5),
        "fe80::1%a b",
        "a\0",
    ],
)
def test_host_that_is_none(text: str) -> None:
    assert problem(text)
