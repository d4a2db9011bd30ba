"""Content encodings: gzip in one or more members, bounded, and nothing that is cut or goes on after it."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from bridge.errors import DecodeError
from bridge.http.body import inflate
from bridge.http.problems import Problem
from bridge.model.reading import Code

LIMIT = 10_000


def request(encoding: str | None) -> Request:
    headers = [] if encoding is None else [(b"content-encoding", encoding.encode())]
    return Request({"type": "http", "headers": headers})


def unpack(raw: bytes, encoding: str | None = "gzip") -> bytes:
    return inflate(request(encoding), raw, LIMIT)


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity "])
def test_body_without_encoding(encoding: str | None) -> None:
    assert unpack(b"abc", encoding) == b"abc"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", " GZip"])
def test_body_of_one_member(encoding: str) -> None:
    assert unpack(gzip.compress(b"abc" * 100, mtime=0), encoding) == b"abc" * 100


def test_body_of_several_members() -> None:
    members = (b"abc", b"", b"def" * 1_000)
    assert unpack(b"".join(gzip.compress(member, mtime=0) for member in members)) == b"".join(members)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd", "x" * 1_000])
def test_body_of_an_encoding_that_is_not_known(encoding: str) -> None:
    with pytest.raises(Problem) as caught:
        unpack(b"abc", encoding)
    assert caught.value.status == 415
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 100_000_000])
def test_body_is_bounded_after_inflation(size: int) -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000))
    bomb += packer.compress(bytes(size % 1_000_000)) + packer.flush()
    if size <= LIMIT:
        assert unpack(bomb) == bytes(size)
        return
    with pytest.raises(Problem) as caught:
        unpack(bomb)
    assert caught.value.status == 413


def test_body_of_many_members_is_bounded_together() -> None:
    with pytest.raises(Problem) as caught:
        unpack(gzip.compress(bytes(LIMIT // 2 + 1)) * 2)
    assert caught.value.status == 413


def test_body_of_too_many_members() -> None:
    with pytest.raises(DecodeError, match="members"):
        unpack(gzip.compress(b"", mtime=0) * 10_000)


PACKED = gzip.compress(b'{"readings":[]}', mtime=0)


@pytest.mark.parametrize(
    "raw",
    [b"", b"abc", PACKED[:1], PACKED[:-1], PACKED[:-9], PACKED + b"abc", PACKED + PACKED[:-1], b"\x1f\x8b" + bytes(20)],
)
def test_body_that_is_not_whole_gzip(raw: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        unpack(raw)
    assert caught.value.reason == Code.BAD_ENCODING


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_any_bytes_are_gzip_or_refused(raw: bytes, tail: bytes) -> None:
    for body in (raw, gzip.compress(raw, mtime=0) + tail, b"\x1f\x8b\x08\x00" + raw):
        with suppress(DecodeError):
            assert len(unpack(body)) <= LIMIT
