"""The names that the code has: files, modules, classes with their members, functions, SQL functions, settings, metrics.

tests/unit/test_docs.py holds the documentation against them. Python is read as text (`ast`), never imported.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from prometheus_client import CollectorRegistry

from bridge.settings.service import Settings
from bridge.settings.sources import keys
from bridge.telemetry import Metrics
from edge.settings import EdgeSettings
from edge.telemetry import RegistryMetrics, SiteMetrics, SpoolMetrics, UplinkMetrics
from tests.support.reference import ROOT

FOLDERS = ("bridge", "edge", "bench", "packages", "tests", "config", "docs", "scripts", ".ci")
PACKAGES = ("bridge", "edge", "bench", "packages")
_SQL_NAME = re.compile(r"(?:FUNCTION|TABLE|VIEW|SEQUENCE)\s+(?:IF NOT EXISTS\s+)?(?:public\.)?(\w+)", re.IGNORECASE)


@cache
def files() -> frozenset[str]:
    """Every file of the project, from its root."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    found += ROOT.iterdir()
    return frozenset(path.relative_to(ROOT).as_posix() for path in found if path.is_file())


@cache
def members() -> dict[str, set[str]]:
    """By the name of a class, with its bases: what its instances have."""
    own: dict[str, set[str]] = defaultdict(set)
    bases: dict[str, set[str]] = defaultdict(set)
    for tree in _trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own[node.name] |= set(_members(node))
                bases[node.name] |= {base.id for base in node.bases if isinstance(base, ast.Name)}

    def all_of(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        above = bases[name] - seen if name in own else set()
        return own.get(name, set()).union(*(all_of(base, seen | {name}) for base in above))

    return {name: all_of(name) for name in list(own)}


@cache
def functions() -> frozenset[str]:
    """Every function and method, of Python and of the database."""
    return frozenset(_defined(ast.FunctionDef, ast.AsyncFunctionDef)) | sql_names()


@cache
def keywords() -> frozenset[str]:
    """What a call names: parameters of functions, fields of classes, and what calls name of other libraries."""
    kinds = ast.arg, ast.keyword
    named = {node.arg for tree in _trees().values() for node in ast.walk(tree) if isinstance(node, kinds) and node.arg}
    return frozenset(named.union(*members().values()))


@cache
def sql_names() -> frozenset[str]:
    """Functions, tables and views of the database."""
    texts = (path.read_text() for path in (ROOT / "bridge" / "store").rglob("*.sql"))
    return frozenset(name for text in texts for name in _SQL_NAME.findall(text))


@cache
def settings() -> frozenset[str]:
    """Every setting of service and gateway, as `section.key`."""
    return frozenset(keys(Settings)) | frozenset(keys(EdgeSettings))


@cache
def metrics() -> frozenset[str]:
    """Every metric of service, consumers and gateway, by the name that Prometheus sees."""
    registry = CollectorRegistry()
    Metrics(registry), SpoolMetrics(registry), UplinkMetrics(registry), RegistryMetrics(registry), SiteMetrics(registry)
    return frozenset(
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()
    )


def is_symbol(dotted: str) -> bool:
    """Whether `bridge.pipeline.run.Pipeline.submit`, or what comes before a dot in it, is there."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:length])
        module = folder.with_suffix(".py")
        if module.is_file():
            return is_in_module(module.relative_to(ROOT).as_posix(), parts[length:])
        if folder.is_dir():
            return length == len(parts)
    return False


def is_in_module(file: str, names: list[str]) -> bool:
    """Whether a module has `["Class", "member"]`, `["name"]`, or, for nothing, is there."""
    tree = _trees().get(file) or _test(file)
    if tree is None or not names:
        return tree is not None
    there = {name: node for node in tree.body for name in _names(node)}
    if names[0] not in there or len(names) > 2:
        return False
    node = there[names[0]]
    return len(names) == 1 or (isinstance(node, ast.ClassDef) and names[1] in _members(node))


@cache
def _trees() -> dict[str, ast.Module]:
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


@cache
def _test(file: str) -> ast.Module | None:
    """A module of the tests: pages link to some, and no name of theirs is one of the code."""
    path = ROOT / file
    return ast.parse(path.read_text()) if file.startswith("tests/") and path.is_file() else None


def _defined(*kinds: type[ast.AST]) -> Iterator[str]:
    for tree in _trees().values():
        yield from (str(getattr(node, "name", "")) for node in ast.walk(tree) if isinstance(node, kinds))


def _names(node: ast.stmt) -> Iterator[str]:
    """What a statement binds."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name
    elif isinstance(node, ast.AnnAssign):
        if isinstance(node.target, ast.Name):
            yield node.target.id
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


def _members(node: ast.ClassDef) -> Iterator[str]:
    """What a class binds, and what its methods set on `self`."""
    for statement in node.body:
        yield from _names(statement)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            yield inner.attr
