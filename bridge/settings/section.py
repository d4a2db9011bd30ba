"""What every section of the settings is made of: bounded numbers, plain texts.

What a setting allows is what a process can run with: a number has a largest value that no timer, socket or column
overflows at, a text nothing that a terminal, a header or the C library takes for something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from bridge.model import host_name

MAX_WAIT_S = 2_000_000
"""About 23 days: poll(2) and PostgreSQL's statement_timeout count milliseconds in 31 bits."""
MAX_AGE_S = 3_155_760_000
"""A hundred years: what comes of it is a date that PostgreSQL and Python know."""
MAX_COUNT = 2**31 - 1
MAX_BYTES = 2**48
MAX_TEXT = 4_096
MAX_ITEMS = 10_000

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[float, Field(gt=0, le=MAX_WAIT_S, allow_inf_nan=False)]
"""Seconds of waiting: time limits, delays, how often something is done."""
Delay = Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]
"""The same, where 0 switches it off."""
Age = Annotated[float, Field(gt=0, le=MAX_AGE_S, allow_inf_nan=False)]
"""Seconds that are compared with times, and not waited for."""
Factor = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Limit = Annotated[int, Field(ge=0, le=MAX_COUNT)]
"""A count, where 0 is no limit."""
Days = Annotated[int, Field(ge=1, le=36_500)]
DaysOrNever = Annotated[int, Field(ge=0, le=36_500)]


def _checked_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; name one of the tz database, e.g. Europe/Madrid") from None
    return name


def _checked_host(name: str) -> str:
    wrong = host_name.problem(name)
    if wrong is not None:
        raise ValueError(wrong)
    return name


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        wrong = parts.port == 0 or (bool(url) and parts.scheme != "unix" and not parts.hostname)
        if parts.hostname:
            _checked_host(parts.hostname)
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError("no URL with a host, and a port from 1 to 65535")
    return url


TimeZone = Annotated[str, AfterValidator(_checked_zone)]
Host = Annotated[str, AfterValidator(_checked_host)]
CheckedUrl = AfterValidator(_checked_url)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    of_lines: ClassVar[frozenset[str]] = frozenset()
    """Keys whose text may have several lines."""

    @field_validator("*", mode="before")
    @classmethod
    def _are_plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Judge texts before anything else looks at them."""
        if isinstance(value, list | dict) and len(value) > MAX_ITEMS:
            raise ValueError(f"has more than {MAX_ITEMS} entries")
        lines = info.field_name in cls.of_lines
        for text in _texts(value):
            if len(text) > MAX_TEXT:
                raise ValueError(f"has more than {MAX_TEXT} characters")
            shown = text.translate(_LINE_BREAKS) if lines else text
            if not shown.isprintable():
                raise ValueError("has characters that cannot be printed")
        return value


_LINE_BREAKS = {ord(character): " " for character in "\t\r\n"}


def _texts(value: Any, levels: int = 2) -> Iterator[str]:
    """Every text of a value; tables in a list are sections, which judge themselves. No setting has more levels."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value if isinstance(item, str))
    elif isinstance(value, dict) and levels:
        for key, inner in value.items():
            yield from (key, *_texts(inner, levels - 1))
