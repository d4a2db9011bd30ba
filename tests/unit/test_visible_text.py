"""What others wrote does nothing to a terminal, and is still what they wrote."""

from __future__ import annotations

import io
import logging
import sys

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bridge import logs
from bridge.model.visible_text import visible, visible_json
from bridge.settings.process import LogSettings
from tests.support.commands import _logging_restored


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("shed, Grüße, 温室, 20 °C", "shed, Grüße, 温室, 20 °C"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),  # CSI as one character of C1
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x7f\x00\x07", "\\x7f\\x00\\x07"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("a\u2028b\u200bc\ufeff", "a\\u2028b\\u200bc\\ufeff"),
        ("\udc80", "\\udc80"),  # what Python makes of a byte of an argument that is no UTF-8
        ("\U000e0041", "\\U000e0041"),  # a tag: ASCII that nobody sees
    ],
)
def test_visible_text(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_visible_text_is_one_printable_line(text: str) -> None:
    assert visible(text).isprintable()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_visible_json_is_printable_and_has_the_same_values(value: object) -> None:
    document = msgspec.json.encode(value)
    shown = visible_json(document)
    assert shown.decode().isprintable()
    assert msgspec.json.decode(shown) == value


def test_visible_json_keeps_the_lines_of_json_that_a_client_wrote() -> None:
    raw = b'{\n\t"payload": "\xe2\x80\xae"\n}'
    assert visible_json(msgspec.json.encode({"a": msgspec.Raw(raw)})) == b'{"a":{\n\t"payload": "\\u202e"\n}}'


def test_log_on_a_console_is_visible_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with _logging_restored():
        logs.configure(LogSettings(format="console"))
        structlog.get_logger("test").warning("refused", topic="a\x1b[2Jb\nforged", name="x")
        logging.getLogger("paho").warning("said \x1b]0;title\x07")
        try:
            raise ValueError("why")
        except ValueError:
            structlog.get_logger("test").exception("failed")
    said = out.getvalue()
    assert "\x1b" not in said
    assert "a\\x1b[2Jb\\nforged" in said
    assert "said \\x1b]0;title\\x07" in said
    assert "\nTraceback" in said
