"""A TOML file, judged before it is parsed: the parser takes time and memory without a bound for some few bytes.

The standard library's `tomllib` recurses into nested arrays, keeps every prefix of a dotted key (20,000 parts are
1.6 GB), and stops at a number of more than 4,300 digits without saying where.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from bridge.errors import ConfigError
from bridge.settings.files import read_bytes

MAX_FILE_BYTES = 1_048_576
MAX_DEPTH = 16
MAX_KEY_PARTS = 16
MAX_WORD = 128
"""Longest number or bare key."""

# Texts and comments are passed over whole. Nothing here is tried twice, so that it takes linear time: the quantifiers
# are possessive, and a text that does not end is taken to the end.
_TOKEN = re.compile(
    r'''
      """(?:[^"\\]|\\.|"{1,2}(?!"))*+"{0,5}
    | \'\'\'(?:[^']|'{1,2}(?!'))*+'{0,5}
    | "(?:[^"\\\n]|\\.)*+"?
    | '[^'\n]*+'?
    | \#[^\n]*+
    | (?P<open>[\[{])
    | (?P<close>[\]}])
    | (?P<dot>\.)
    | (?P<end>[=,\n])
    | (?P<word>[A-Za-z0-9_+:-]++)
    ''',
    re.VERBOSE | re.DOTALL,
)


def load_toml(path: Path) -> dict[str, Any]:
    """The document of a file. Raises ConfigError, with one line."""
    try:
        text = read_bytes(path, MAX_FILE_BYTES).decode()
        wrong = _too_much(text)
        if wrong is None:
            return tomllib.loads(text)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    raise ConfigError([f"{path}: {wrong}"])


def _too_much(text: str) -> str | None:
    """What no settings need, with its line; None where there is nothing of the kind."""
    depth = parts = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "open":
            depth, parts = depth + 1, 0
        elif kind == "close":
            depth, parts = max(0, depth - 1), 0
        elif kind == "dot":
            parts += 1
        elif kind == "end":
            parts = 0
        wrong = None
        if depth > MAX_DEPTH:
            wrong = f"is nested more than {MAX_DEPTH} deep"
        elif parts >= MAX_KEY_PARTS:
            wrong = f"a key has more than {MAX_KEY_PARTS} parts"
        elif kind == "word" and token.end() - token.start() > MAX_WORD:
            wrong = f"a number or key has more than {MAX_WORD} characters: {token[0][:20]}…"
        if wrong is not None:
            return f"{_place(text, token.start())}: {wrong}"
    return None


def _place(text: str, position: int) -> str:
    """The line, and the key that stands there."""
    start = text.rfind("\n", 0, position) + 1
    key, equals, _ = text[start : start + 200].partition("=")
    shown = key.strip()
    named = f", {shown}" if equals and shown.isprintable() else ""
    return f"line {text.count(chr(10), 0, position) + 1}{named}"
