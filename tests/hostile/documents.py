"""JSON documents from JSON Schemas: a good one, and the same with one field replaced by something hostile.

Schemas come from the OpenAPI document and from `msgspec.json.schema`, so a field that is added there is attacked here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

Schema = Mapping[str, Any]
Path = tuple[str | int, ...]
Names = Mapping[str, Callable[[], Any]]
"""What a good document has in fields of these names: something registered, or the time of day."""

_TOO_DEEP = 12


def example(schema: Schema, root: Schema, names: Names, name: str = "", depth: int = 0) -> Any:
    """A document of the schema with every field that it may have. `root` holds what `$ref` refers to."""
    if name in names:
        return names[name]()
    if "$ref" in schema:
        return example(_resolve(schema["$ref"], root), root, names, name, depth + 1)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            options = [option for option in schema[choice] if option.get("type") != "null"]
            return example(options[0], root, names, name, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    return _of_type(schema, root, names, name, depth)


def _of_type(schema: Schema, root: Schema, names: Names, name: str, depth: int) -> Any:
    match schema.get("type"):
        case "object" if depth < _TOO_DEEP:
            fields = schema.get("properties", {})
            return {key: example(field, root, names, key, depth + 1) for key, field in fields.items()}
        case "array":
            items = schema.get("items") or {}
            return [example(items, root, names, name, depth + 1)] if depth < _TOO_DEEP else []
        case "boolean":
            return bool(schema.get("default", False))
        case "integer":
            return max(1, int(schema.get("minimum", 1)))
        case "number":
            return 20.5
        case "object":
            return {}
    return "" if schema.get("contentEncoding") else str(schema.get("default") or "x")


def _resolve(reference: str, root: Schema) -> Schema:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found


def paths(document: Any, at: Path = ()) -> Iterator[Path]:
    """Every place of a document, the whole first."""
    yield at
    if isinstance(document, (dict, list)):
        for key, inner in document.items() if isinstance(document, dict) else enumerate(document):
            yield from paths(inner, (*at, key))


def replaced(document: Any, at: Path, raw: bytes) -> bytes:
    """The document as JSON, with these bytes at a place of it, whatever they are."""
    if not at:
        return raw
    changed = copy.deepcopy(document)
    holder = changed
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = msgspec.Raw(raw)
    return msgspec.json.encode(changed)


def doubled(document: Any, at: Path, raw: bytes) -> bytes:
    """The document with the key of a place twice: as it was, and then with these bytes."""
    if not at or not isinstance(at[-1], str):
        return replaced(document, at, raw)
    holder = document
    for key in at[:-1]:
        holder = holder[key]
    whole = msgspec.json.encode(holder)
    return replaced(document, at[:-1], whole[:-1] + b",%s:%s}" % (msgspec.json.encode(at[-1]), raw))


def text_of(at: Path) -> str:
    """A place as a JSON path."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in at)
