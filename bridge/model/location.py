"""Where a redirect leads, in words. Pure.

No client of ours follows one: it would hand keys and readings to a host that nobody has set.
"""

from __future__ import annotations

from urllib.parse import urlsplit

REDIRECTS = frozenset({300, 301, 302, 303, 305, 307, 308})
MAX_HOST = 255


def redirect_detail(who: str, status: int, location: str | None) -> str:
    """Say that `who` has answered with a redirect, and to which host: of what it names, only that is no secret."""
    try:
        parts = urlsplit(location or "")
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    to = ascii(host[:MAX_HOST])[1:-1] if host else "another path of its own"
    return f"{who} answers {status} and points to {to}; redirects are not followed: if that is right, set it as the URL"
