"""The enrolment file on the boot partition, as editors, people and FAT leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import ConfigError
from edge.host import boot_file
from edge.host.boot_file import BootFile

PLAIN = 'url = "https://iot.example.com"\ncode = "ABCD-EFGH-JKMN"\n'
MEANT = BootFile("https://iot.example.com", "ABCD-EFGH-JKMN")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "iot-edge-enrol.toml"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.replace('"', "\u201c").encode("cp1252"),
        "url = \u201chttps://iot.example.com\u201d\ncode = \u201eABCD-EFGH-JKMN\u201c".encode(),
        b"url = https://iot.example.com  # ours\ncode=ABCD-EFGH-JKMN",
        "URL = 'https://iot.example.com'\nCode\u00a0= 'ABCD-EFGH-JKMN'\nInsecure = False\n".encode(),
        f"\n\n# of Monday\n{PLAIN}\ninsecure = false\n".encode(),
    ],
)
def test_file_is_read_as_editors_write_it(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert boot_file.read(path) == MEANT


def test_file_may_ask_for_http_and_name_certificates(path: Path) -> None:
    path.write_text("url = http://iot.lan\ncode = abcd efgh jkmn\ninsecure = True\nca_file = site-ca.pem\n")
    assert boot_file.read(path) == BootFile("http://iot.lan", "abcd efgh jkmn", True, "site-ca.pem")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "url"),
        (b"url = 'https://x'\n", "code"),
        (b"just words\n", "write: url ="),
        (PLAIN.encode() + b"wifi = 'x'\n", "wifi"),
        (PLAIN.encode() + b"insecure = 'perhaps'\n", "insecure"),
        (b"\0\x01\xff" * 100, "text file"),
        (b"x" * 100_000, "larger than"),
    ],
)
def test_file_that_cannot_be_meant_says_why(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        boot_file.read(path)
    assert said in caught.value.detail


def test_name_that_windows_makes_is_found(path: Path) -> None:
    assert boot_file.find([path]) is None
    named = path.with_name("iot-edge-enrol.toml.txt")
    named.write_text(PLAIN)
    assert boot_file.find([path.parent / "no" / path.name, path]) == named
    assert boot_file.set_aside(named, "why").name == "iot-edge-enrol.toml.failed"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_file_that_is_set_aside_says_why_once_and_can_be_used_again(path: Path, encoding: str) -> None:
    path.write_text(PLAIN, encoding=encoding)
    for reason in ("the first reason", "the second reason"):
        failed = boot_file.set_aside(path, reason)
        assert not path.exists()
        text = failed.read_text()
        assert text.startswith(f"# iot-edge: {reason}\n")
        failed.rename(path)
    assert text.count("# iot-edge: ") == 2
    assert boot_file.read(path) == MEANT


def test_file_that_is_no_text_is_set_aside_with_the_reason_elsewhere(path: Path) -> None:
    path.write_bytes(b"\0\x01\xff" * 100)
    assert boot_file.set_aside(path, "is no text file").read_bytes() == b"\0\x01\xff" * 100


def test_file_without_an_end_is_set_aside_unread(path: Path) -> None:
    """A disk image under the wrong name: read whole it would pass the unit's memory, at each of its starts."""
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="bytes"):
        boot_file.read(path)
    assert boot_file.set_aside(path, "is too large").stat().st_size == 1 << 40
    assert not path.exists()


def test_reason_of_several_lines_stays_in_its_comment(path: Path) -> None:
    path.write_text('url = "x"\ncode = "y"\n')
    failed = boot_file.set_aside(path, 'no\nurl = "https://elsewhere"\r\nor so')
    assert failed.read_text().splitlines()[0] == '# iot-edge: no url = "https://elsewhere" or so'
