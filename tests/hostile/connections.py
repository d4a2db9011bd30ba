"""Hostile HTTP below the level of requests: heads that two read differently, bodies without end, slow readers.

A `Connection` is a connection: what is sent on it, whether the answer is read, and what it must be where that matters.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

from tests.hostile.attacked import Loot
from tests.hostile.requests import encode, keys_of, packet_of

MIB = 1 << 20
HALF_SENT = 100
"""Connections with a body of which the last byte never comes, for each endpoint."""
Then = Literal["read", "hold", "cut"]
"""What is done once it is sent: read until the door closes; keep it open and unread; reset it."""


class Connection(NamedTuple):
    """A hostile connection."""

    name: str
    make: Callable[[], bytes]
    then: Then = "read"
    expect: int = 0  # the status of the answer, 0: whatever is no 5xx


def connections(loot: Loot) -> Iterator[Connection]:
    """Every one of them."""
    yield from _ambiguous(loot)
    yield from _malformed(loot)
    yield from _half_sent(loot)
    yield from _unread(loot)


def _post(loot: Loot, *lines: bytes, body: bytes = b"", path: bytes = b"") -> bytes:
    path = path or b"/devices/%s/readings" % loot.device.uuid.encode()
    keys = b"X-Device-Key: %s\r\n" % loot.device.key.encode()
    return b"POST %s HTTP/1.1\r\n%s%s\r\n\r\n%s" % (path, keys, b"\r\n".join(lines), body)


def _ambiguous(loot: Loot) -> Iterator[Connection]:
    packet = packet_of(loot.sensor_uuid, 1)
    length, chunked = b"Content-Length: %d" % len(packet), b"Transfer-Encoding: chunked"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(packet), packet)
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
    heads = {
        "two Hosts": ((b"Host: a", b"Host: b", length), packet),
        "length and chunks": ((b"Host: a", length, chunked), chunks + smuggled),
        "chunks and length": ((b"Host: a", chunked, b"Content-Length: 3"), chunks + smuggled),
        "gzip, chunked": ((b"Host: a", b"Transfer-Encoding: gzip, chunked"), chunks),
        "chunked, identity": ((b"Host: a", b"Transfer-Encoding: chunked, identity"), chunks),
        "chunked twice": ((b"Host: a", chunked, chunked), chunks),
        "a coding that is nearly chunked": ((b"Host: a", b"Transfer-Encoding: xchunked"), chunks),
        "chunked behind a tab": ((b"Host: a", b"Transfer-Encoding:\tchunked"), chunks),
        "two encodings": ((b"Host: a", b"Content-Encoding: gzip", b"Content-Encoding: gzip", length), packet),
        "gzip of gzip": ((b"Host: a", b"Content-Encoding: gzip, gzip", length), packet),
        "two lengths": ((b"Host: a", length, b"Content-Length: 3"), packet),
        "a list of lengths": ((b"Host: a", b"Content-Length: 3, 3"), packet),
        "a length with a sign": ((b"Host: a", b"Content-Length: +3"), packet),
        "a length below zero": ((b"Host: a", b"Content-Length: -1"), packet),
        "a length of 5000 digits": ((b"Host: a", b"Content-Length: " + b"9" * 5_000), packet),
        "a length in other digits": ((b"Host: a", "Content-Length: ٣".encode()), packet),
        "a folded header": ((b"Host: a", b"X-A: b\r\n c", length), packet),
        "a blank before the colon": ((b"Host: a", b"Content-Length : 3"), packet),
        "a bare line feed": ((b"Host: a\nContent-Length: 3", length), packet),
        "a request behind the body": ((b"Host: a", length), packet + smuggled),
        "a chunk without end": ((b"Host: a", chunked), b"ffffffffffffffff\r\n" + packet),
        "a chunk below zero": ((b"Host: a", chunked), b"-1\r\n" + packet),
        "a chunk's extension of 100 KB": ((b"Host: a", chunked), b"1;a=" + b"b" * 100_000 + b"\r\n{\r\n0\r\n\r\n"),
        "trailers of 100 KB": ((b"Host: a", chunked), b"0\r\nX-A: " + b"b" * 100_000 + b"\r\n\r\n"),
        "50,000 chunks": ((b"Host: a", chunked), b"1\r\n \r\n" * 50_000 + b"0\r\n\r\n"),
        "gzip in 10,000 members": (
            (b"Host: a", b"Content-Encoding: gzip", b"Content-Length: %d" % (len(gzip.compress(b"")) * 10_000)),
            gzip.compress(b"") * 10_000,
        ),
    }
    for name, (lines, body) in heads.items():
        yield Connection(name, partial(_post, loot, *lines, b"Connection: close", body=body))


def _malformed(loot: Loot) -> Iterator[Connection]:
    host = b"\r\nHost: a\r\n"
    raws = {
        "CONNECT": b"CONNECT a:443 HTTP/1.1" + host + b"\r\n",
        "OPTIONS *": b"OPTIONS * HTTP/1.1" + host + b"\r\n",
        "an absolute URI": b"GET http://a/health HTTP/1.1" + host + b"\r\n",
        "a URI of nothing": b"GET  HTTP/1.1" + host + b"\r\n",
        "a path with NUL": b"GET /\0 HTTP/1.1" + host + b"\r\n",
        "a path of 1 MB": b"GET /" + b"a" * MIB + b" HTTP/1.1" + host + b"\r\n",
        "a method of 100 KB": b"A" * 100_000 + b" / HTTP/1.1" + host + b"\r\n",
        "HTTP/0.9": b"GET /\r\n",
        "HTTP/1.0": b"GET /health HTTP/1.0\r\n\r\n",
        "HTTP/9.9": b"GET / HTTP/9.9" + host + b"\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 100,
        "TLS": bytes.fromhex("16030100f0010000ec0303") + b"\x5a" * 230,
        "MQTT": b"\x10\x0c\0\4MQTT\4\2\0<\0\0",
        "noise": bytes(range(256)) * 40,
        "blank lines": b"\r\n" * 50_000,
        "100,000 headers": b"GET /health HTTP/1.1" + host + b"A: b\r\n" * 100_000 + b"\r\n",
        "a header of 1 MB": b"GET /health HTTP/1.1" + host + b"A: " + b"b" * MIB + b"\r\n\r\n",
        "a header's name of 100 KB": b"GET /health HTTP/1.1" + host + b"A" * 100_000 + b": b\r\n\r\n",
        "NUL in a header": b"GET /health HTTP/1.1" + host + b"A: b\0c\r\n\r\n",
        "an upgrade": b"GET /health HTTP/1.1" + host + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "h2c": b"GET /health HTTP/1.1" + host + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        "1,000 requests at once": b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 1_000,
        "1,000 wrong requests at once": b"GET /%0a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" * 1_000,
    }
    for name, raw in raws.items():
        closing = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        yield Connection(name, partial(bytes, raw + closing))
    two = _post(loot, b"Host: a", b"Content-Length: %d" % (2 * MIB), body=b" " * 2 * MIB)
    yield Connection("2 MiB at once", partial(bytes, two), expect=413)


def _half_sent(loot: Loot) -> Iterator[Connection]:
    keys = keys_of(loot)
    paths = {
        "/gateways/enrol": {},
        "/hooks/emqx/authn": {},
        "/ingest/packets": {"X-Device-Key": b"dk_wrong"},
        "/ingest/readings": {"X-API-Key": keys["X-API-Key"]},
    }
    for path, own in paths.items():
        whole = encode("POST", path.encode(), {**own, "Content-Length": b"%d" % MIB, "Connection": b"keep-alive"}, b"")
        for number in range(HALF_SENT):
            yield Connection(f"POST {path}, half sent", partial(_padded, whole, MIB - 1 - number), "hold")


def _padded(head: bytes, size: int) -> bytes:
    return head + b" " * size


def _unread(loot: Loot) -> Iterator[Connection]:
    status = encode("GET", b"/sensors/%d/status" % loot.sensor_id, {**keys_of(loot), "Connection": b"keep-alive"}, b"")
    for name, raw, then in (
        ("answers that are not read", b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 200, "hold"),
        ("metrics that are not read", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 200, "hold"),
        ("statuses that are not read", status * 200, "hold"),
        ("answers that are cut", b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 50, "cut"),
        ("a head that is cut", b"POST /ingest/packets HTTP/1.1\r\nHost", "cut"),
        ("a body that is cut", _post(loot, b"Host: a", b"Content-Length: 1000", body=b"{"), "cut"),
        ("chunks that are cut", _post(loot, b"Host: a", b"Transfer-Encoding: chunked", body=b"5\r\nab"), "cut"),
        ("nothing", b"", "hold"),
    ):
        for _ in range(8):
            yield Connection(name, partial(bytes, raw), "cut" if then == "cut" else "hold")
