"""The parts of the documentation that follow from the code: every setting, every metric, the example configuration.

`scripts/reference` writes them (`python -m tests.support.reference`); tests/unit/test_reference.py holds them against
the code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from bridge.settings.section import MAX_COUNT
from bridge.settings.service import ENV_PREFIX, Settings
from bridge.settings.sources import keys
from bridge.telemetry import Metrics
from edge.settings import EdgeSettings
from edge.telemetry import RegistryMetrics, SiteMetrics, UplinkMetrics

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "docs" / "configuration.md"
METRICS = ROOT / "docs" / "metrics.md"
EXAMPLE = ROOT / "config" / "bridge.toml"
EDGE_EXAMPLE = ROOT / "config" / "edge.toml"
EDGE_PAGE = ROOT / "docs" / "gateway-operations.md"
EDGE_SECTIONS = ("gateway", "uplink", "page", "site", "spool")
"""Sections that the service does not have."""

_UNSET_EXAMPLES: dict[type, str] = {Path: '"/etc/iot-bridge/ca.pem"', str: '"…"', int: "1", float: "1.0"}


def settings_tables(settings: type[BaseSettings] = Settings, sections: Collection[str] = ()) -> str:
    """One Markdown table a section; of these sections, or of all."""
    return "\n".join(_section_table(settings, section) for section in sections or settings.model_fields)


def _section_table(settings: type[BaseSettings], section: str) -> str:
    model: Any = settings.model_fields[section].annotation
    lines = [f"### {section}", ""]
    if model.__doc__:
        lines += [model.__doc__.strip().splitlines()[0], ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in model.model_fields.items():
        meaning = str(field.description).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{section}.{key}` | {_type(field)} | {_shown_default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    options = [option for option in get_args(annotation) if option is not NoneType]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{option}`" for option in options)
    if get_origin(annotation) is tuple:
        return (
            "list of tables" if isinstance(options[0], type) and issubclass(options[0], BaseModel) else "list of text"
        )
    if get_origin(annotation) is dict:
        return "table"
    plain = options[0] if options else annotation
    plain = _plain(plain)
    name = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}[plain]
    bounds = ", ".join(f"{sign} {_number(bound)}" for sign, bound in _bounds(field))
    return f"{name} {bounds}".strip()


def _plain(annotation: Any) -> Any:
    """The type of an optional setting, without its bounds."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _bounds(field: FieldInfo) -> Iterator[tuple[str, float]]:
    for constraint in field.metadata:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            bound = getattr(constraint, name, None)
            if bound is not None and bound != MAX_COUNT:  # the page says it once
                yield sign, bound


def _number(bound: float) -> str:
    return f"{bound:_.0f}" if abs(bound) >= 10_000 else f"{bound:g}"


def _shown_default(field: FieldInfo) -> str:
    if _is_unset(field):
        return "not set"
    if isinstance(field.default, dict):
        return "see below"
    if isinstance(field.default, tuple):
        return "<br>".join(f"`{item}`" for item in field.default) or "none"
    return f"`{_toml(field.default)}`" if field.default != "" else "empty"


def _is_unset(field: FieldInfo) -> bool:
    return field.default is None or field.default is PydanticUndefined


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:_}" if isinstance(value, int) and abs(value) >= 10_000 else repr(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def example_file() -> str:
    """config/bridge.toml."""
    return _example_file(
        Settings,
        "# Settings of iot-bridge. Every line that is commented out shows its default: take the # away to change it.",
        "# Each key can also be set in the environment, which wins: http.port is " + f"{ENV_PREFIX}HTTP__PORT.",
        "# Check with: iot-bridge config check --config bridge.toml",
    )


def edge_example_file() -> str:
    """config/edge.toml."""
    return _example_file(
        EdgeSettings,
        "# Settings of iot-edge. Every line that is commented out shows its default: take the # away to change it.",
        "# Each key can also be set in the environment, which wins: http.port is IOT_EDGE_HTTP__PORT.",
        "# Check with: iot-edge check --config edge.toml",
    )


def _example_file(settings: type[BaseSettings], *head: str) -> str:
    """Every setting, commented out, with its default."""
    lines = list(head)
    for section, outer in settings.model_fields.items():
        model: Any = outer.annotation
        lines += ["", f"[{section}]"]
        for key, field in model.model_fields.items():
            lines += [f"# {line}" for line in str(field.description).splitlines()]
            lines.append(f"# {key} = {_toml(field.default)}" if not _is_unset(field) else _unset_line(key, field))
    return "\n".join(lines) + "\n"


def _unset_line(key: str, field: FieldInfo) -> str:
    options: list[Any] = [option for option in get_args(field.annotation) if option is not NoneType]
    return f"#   {key} = {_UNSET_EXAMPLES[_plain(options[0])]}    (an example: it is not set by default)"


def uncommented(example: str) -> str:
    """The example with every default in force."""
    return re.sub(r"^# (\w+ = )", r"\1", example, flags=re.MULTILINE)


def metric_rows(*groups: object) -> list[tuple[str, str, str, str]]:
    """(name as Prometheus shows it, type, labels, help) of every metric of ours, sorted by name."""
    parts = [part for group in groups or (Metrics(),) for part in vars(group).values()]
    found = [metric for metric in parts if isinstance(metric, MetricWrapperBase)]
    rows = []
    for metric in found:
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append((name, family.type, ", ".join(metric._labelnames), family.documentation))
    return sorted(rows)


def metrics_table(*groups: object) -> str:
    """One Markdown table."""
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for name, kind, labels, text in metric_rows(*groups):
        lines.append(f"| `{name}` | {kind} | {labels} | {text} |")
    return "\n".join(lines) + "\n"


def with_part(page: str, name: str, content: str) -> str:
    """`page` with what stands between the marks of `name` replaced."""
    begin, end = f"<!-- {name}: written by scripts/reference -->\n", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    assert tail, f"the marks of {name!r} are missing"
    return f"{head}{begin}\n{content}\n{end}{tail}"


def write() -> None:
    """Write all of it."""
    CONFIGURATION.write_text(with_part(CONFIGURATION.read_text(), "settings", settings_tables()))
    METRICS.write_text(with_part(METRICS.read_text(), "metrics", metrics_table()))
    EXAMPLE.parent.mkdir(exist_ok=True)
    EXAMPLE.write_text(example_file())
    EDGE_EXAMPLE.write_text(edge_example_file())
    EDGE_PAGE.write_text(edge_page(EDGE_PAGE.read_text()))


def edge_page(page: str) -> str:
    """docs/gateway-operations.md with the tables of the gateway's own settings and metrics."""
    page = with_part(page, "settings", settings_tables(EdgeSettings, EDGE_SECTIONS))
    return with_part(page, "metrics", metrics_table(UplinkMetrics(), RegistryMetrics(), SiteMetrics()))


def environment_name(key: str) -> str:
    """The variable of a key."""
    return f"{ENV_PREFIX}{key.replace('.', '__').upper()}"


__all__ = [
    "edge_example_file",
    "edge_page",
    "environment_name",
    "example_file",
    "keys",
    "metric_rows",
    "uncommented",
    "with_part",
    "write",
]

if __name__ == "__main__":
    write()
