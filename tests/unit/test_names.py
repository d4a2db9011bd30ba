"""Names that were given up stay given up: one word for one thing, and no private metaphors (docs/glossary.md).

Read from the syntax trees of `bridge`, `edge`, `tests` and `bench`. Names on the wire, columns and SQL parameters are
contracts and stay: they are the exceptions below.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MODULES = {
    *(
        "recount",
        "backfill",
        "shipped",
        "mistakes",
        "supervise",
        "doubt",
        "unpublished",
        "gather",
        "front",
        "dismissal",
    ),
    *(
        "guard",
        "admission",
        "lines",
        "advice",
        "takeover",
        "way",
        "pace",
        "handed",
        "refusals",
        "site",
        "room",
        "salvage",
    ),
    *("inlet", "outlet", "shed", "books", "link", "wire", "runner", "handover", "alarm_file"),
}
CLASSES = {
    *(
        "Doubts",
        "LeftInTable",
        "Gathering",
        "Front",
        "Dismissal",
        "Guard",
        "Admission",
        "Line",
        "Contest",
        "Way",
        "Pace",
    ),
    *(
        "GatewayBooks",
        "BooksClosed",
        "Page",
        "HandedRecord",
        "HandedBatch",
        "Draft",
        "Refusal",
        "Committed",
        "Readings",
    ),
    *("Ask", "Holder", "Slot", "Memory", "NoMemory", "Order", "Postman", "Letter", "Mailbox", "Intention", "Turn"),
    *(
        "Place",
        "Alarms",
        "AlarmFile",
        "Judge",
        "LocalJudge",
        "KnownGateways",
        "Link",
        "HttpsLink",
        "DirectLink",
        "Wire",
    ),
    *("Intake", "Access", "KeyRing", "Row", "Message", "Registry", "Finding", "Parts", "Sender", "Answers", "Site"),
    *("Salvager", "Room", "SpoolInlet", "SpoolOutlet", "RefusedRecords", "RefusedRecord"),
}
MEMBERS = {
    *(
        "patient",
        "patience_s",
        "fresh",
        "alone",
        "condemn",
        "condemned",
        "bury",
        "nudge",
        "hand_over",
        "handed",
        "offer",
    ),
    *("doubts", "gathering", "admission", "dismissal", "postman", "letter", "letters", "mailbox", "intention"),
    *("intentions", "refusals", "alarms", "contest", "holder", "wire", "inlet", "outlet", "known_gateways"),
}
"""Functions, methods, parameters, fields and attributes; a leading underscore does not count."""

PARAMETERS = {
    "tests/support/plant.py",
    "tests/integration/test_procedures.py",
    "tests/integration/test_procedures_equal.py",
}
"""Where `fresh` is the parameter of the stored procedure."""


def names(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Line, name, and whether it is a class's, of everything that is defined or reached into."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name):
                yield node.lineno, name, True
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name, False
            case ast.Attribute(attr=name) | ast.arg(arg=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield node.lineno, name, False
            case ast.keyword(arg=str(name)):
                yield node.value.lineno, name, False
            case _:
                pass


def sources() -> list[Path]:
    return sorted(path for folder in ("bridge", "edge", "tests", "bench") for path in (ROOT / folder).rglob("*.py"))


def test_no_class_function_or_attribute_bears_an_old_name() -> None:
    found = []
    for path in sources():
        relative = path.relative_to(ROOT).as_posix()
        for line, name, is_class in names(ast.parse(path.read_text())):
            bare = name.lstrip("_")
            old = bare in CLASSES if is_class else bare in MEMBERS
            if old and not (bare == "fresh" and relative in PARAMETERS):
                found.append(f"{relative}:{line}: {name}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", ["bridge", "edge"])
def test_no_module_bears_an_old_name(package: str) -> None:
    paths = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")]
    assert [path.as_posix() for path in paths if path.stem in MODULES or set(path.parts) & MODULES] == []


def test_only_what_belongs_there_lies_at_the_top() -> None:
    """DESIGN section 3: nothing lies loose."""
    at_the_top = {package: {path.stem for path in (ROOT / package).glob("*.py")} for package in ("bridge", "edge")}
    packages = {"__init__", "__main__"}
    assert at_the_top["bridge"] == packages | {"errors", "logs", "tasks", "telemetry", "rate_limit"}
    assert at_the_top["edge"] == packages | {"app", "settings", "telemetry", "record", "ports"}
