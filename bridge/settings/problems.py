"""What is wrong with settings, one line for each mistake: its key or variable, the value, what is allowed.

Flows in: pydantic's errors, the model, the environment. Flows out: text. Imports nothing of ours.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

MAX_NAME = 200
LIKENESS = 0.66
"""Least `difflib` ratio of a mistake and what was meant: two letters of three that are swapped (lgo, log) have it."""
_PASSWORD = re.compile(r"(?<=:)(?!//)[^:@]*(?=@)")


def describe(
    errors: Iterable[Mapping[str, Any]], fields: Mapping[str, FieldInfo], variables: Mapping[str, str]
) -> list[str]:
    """One line for each of pydantic's errors.

    `fields`: every "section.key" with its field. `variables`: the key for each variable that is set.
    """
    by_key = {key: name for name, key in variables.items()}
    sections = {key.partition(".")[0] for key in fields}
    lines = []
    for error in errors:
        place = [str(part) for part in error["loc"]]
        if not place:  # of sections that do not fit together
            lines.append(str(error["ctx"]["error"]))
            continue
        key = ".".join(place[:2])
        name = by_key.get(key) or (by_key.get(place[0]) if key not in fields else None) or ".".join(place)
        if _is_of_unknown_variable(".".join(place), fields, by_key):
            continue  # `unknown_variables` says it
        if error["type"] == "extra_forbidden":
            near = nearest(key, fields) if len(place) <= 2 else None
            lines.append(f"{name}: unknown key{_hint(near)}")
            continue
        if error["type"] == "value_error":  # of a validator of ours, which says it all
            # A whole table explains nothing, and may hold secrets.
            shown = "" if isinstance(error["input"], dict) else f" = {_shown(place, error['input'])}"
            lines.append(f"{name}{shown}: {error['ctx']['error']}")
            continue
        if _is_of_table_in_list(place, fields.get(key)):
            allowed = error["msg"].removeprefix("Input should be ")
            lines.append(f"{'.'.join(place)} = {_shown(place, error['input'])}: allowed is {allowed}")
            continue
        field = fields.get(key)
        allowed = _allowed(field) if field is not None else "a table of keys" if key in sections else error["msg"]
        lines.append(f"{name} = {_shown(place, error['input'])}: allowed is {allowed}")
    return list(dict.fromkeys(map(_plain, lines)))  # each member of a union, or of a table, reports by itself


def _is_of_table_in_list(place: list[str], field: FieldInfo | None) -> bool:
    """Whether a mistake stands inside a table of a list of tables."""
    inner = get_args(field.annotation) if field is not None else ()
    return len(place) > 3 and bool(inner) and isinstance(inner[0], type) and issubclass(inner[0], BaseModel)


def unknown_variables(environment: Iterable[str], prefix: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    """A line for each variable with our prefix that sets nothing."""
    known = {_variable(prefix, key): key for key in fields}
    known |= {_variable(prefix, key.partition(".")[0]): key.partition(".")[0] for key in fields}
    lines = []
    for name in sorted(environment):
        upper = name.upper()
        if not upper.startswith(prefix) or upper in known:
            continue
        # Deeper levels belong to a key that holds a table, such as pipeline.limits.
        if any(upper.startswith(f"{_variable(prefix, key)}__") for key, field in fields.items() if _is_table(field)):
            continue
        near = nearest(upper[len(prefix) :].lower().replace("__", "."), fields)
        lines.append(_plain(f"{_cut(name)}: unknown variable{_hint(near and _variable(prefix, near))}"))
    return lines


def variables_of(environment: Iterable[str], prefix: str) -> dict[str, str]:
    """Each variable with our prefix, and the "section.key" it sets."""
    return {
        name: name[len(prefix) :].lower().replace("__", ".") for name in environment if name.upper().startswith(prefix)
    }


def hide_password(url: str) -> str:
    """The same text, without the password of a URL."""
    return _PASSWORD.sub("(hidden)", url)


def nearest(word: str, keys: Iterable[str]) -> str | None:
    """The "section.key", or the section, that `word` is likely to be a mistake for; None where nothing is like it.

    Parts are compared with parts: what two names have in common because both begin with the section says nothing.
    """
    if len(word) > MAX_NAME:
        return None
    by_section: dict[str, list[str]] = {}
    for key in keys:
        section, _, name = key.partition(".")
        by_section.setdefault(section, []).append(name)
    section, dot, name = word.partition(".")
    if not dot:  # a section; or LOG_LEVEL for LOG__LEVEL
        joined = {f"{one}_{each}": f"{one}.{each}" for one, names in by_section.items() for each in names}
        found = _closest(word, [*by_section, *joined])
        return found and (joined.get(found) or found)
    found = section if section in by_section else _closest(section, by_section)
    near = _closest(name, by_section[found]) if found is not None else None
    return near and f"{found}.{near}"


def _closest(word: str, known: Iterable[str]) -> str | None:
    found = get_close_matches(word, list(known), n=1, cutoff=LIKENESS)
    return found[0] if found else None


def _hint(near: str | None) -> str:
    return f"; did you mean {near}?" if near else ""


def _is_of_unknown_variable(place: str, fields: Mapping[str, FieldInfo], by_key: Mapping[str, str]) -> bool:
    if place in fields:
        return not _is_table(fields[place]) and any(key.startswith(f"{place}.") for key in by_key)
    return place in by_key and "." in place and not any(place.startswith(f"{key}.") for key in fields)


def _variable(prefix: str, key: str) -> str:
    return f"{prefix}{key.replace('.', '__')}".upper()


def _is_table(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict


def _shown(place: list[str], value: Any) -> str:
    of_channels = place[0] == "notifier" and place[1:2] in ([], ["channels"])  # whose URLs are tokens
    if of_channels or any(word in part for part in place for word in ("password", "secret", "token")):
        return "(hidden)"
    return _cut(hide_password(_repr.repr(value)))


_repr = reprlib.Repr()
"""Python's own `repr` recurses into whatever is nested, and shows a text of 1 MB."""
_repr.maxlevel = 4
_repr.maxstring = _repr.maxother = _repr.maxlong = 250
_repr.maxlist = _repr.maxdict = _repr.maxtuple = 50


def _cut(text: str) -> str:
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"


def _plain(line: str) -> str:
    """A line that a terminal shows as it is: a quoted key may hold anything."""
    return line if line.isprintable() else repr(line)[1:-1]


def _allowed(field: FieldInfo) -> str:
    """What may stand there, in words."""
    limits = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le") if hasattr(item, name)
    }
    words = _kind(field.annotation)
    if "ge" in limits and "le" in limits:
        words += f" from {limits['ge']} to {limits['le']}"
    elif "ge" in limits:
        words += f", {limits['ge']} or more"
    elif "gt" in limits:
        words += f" above {limits['gt']}" + (f", up to {limits['le']}" if "le" in limits else "")
    if any(getattr(item, "pattern", None) for item in field.metadata) and field.description:
        words += f" ({field.description.splitlines()[0].rstrip('.')})"
    return words


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return "a list of texts" if arguments[-1] is Ellipsis else f"{len(arguments)} numbers"
    if origin is dict:
        return f"a table, each value {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a table of keys"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    named = [plain[part] for part in (annotation, *arguments) if part in plain and part is not NoneType]
    return named[0] if named else "another form"
