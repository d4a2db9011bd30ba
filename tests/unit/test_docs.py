"""The documentation names only what is there: files, modules, symbols, SQL functions, settings, metrics, anchors.

That the site builds, and asks nothing of other machines, is `make docs`.
"""

from __future__ import annotations

import builtins
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import code_names
from tests.support.reference import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

_FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, code_names.FOLDERS))})/[\w./-]*")
_FILE = re.compile(r"[\w./-]*\w\.(?:py|sql|lua)")
_DOTTED = re.compile(rf"(?:{'|'.join(code_names.PACKAGES)})(?:\.\w+)+")
_MEMBER = re.compile(r"([A-Z]\w*[a-z]\w*)\.(\w+)(?:\(.*\))?")
_CLASS = re.compile(r"[A-Z][a-z]\w*[A-Z]\w*")
_CALL = re.compile(r"(?:\w+\.)*([A-Za-z_]\w*)\(.*\)")
_KEYWORD = re.compile(r"([a-z]\w*)=(?:True|False|None|[\d.]+)")
_SQL = re.compile(r"(?:sp|ingest)_\w+")
_SETTING = re.compile(r"([a-z]+\.\w+)(?: = .*)?")
_METRIC = re.compile(r"((?:iot_bridge|iot_edge)_\w+)(?:\{.*\})?")
_TARGET = re.compile(r"make ([a-z]+)")

MADE_BY_READERS = {"acme.py", "hot.py"}
"""Files that a page tells its reader to make."""
OF_OTHERS = {"HoltWinters", "NaN", "OrderedDict", "TaskGroup"}
OF_OTHERS |= {"PressureUnit", "TempUnit", "SpeedUnit", "ProbeTemperature", "DewPoint", "HeatIndex"}
"""Names in the form of our classes that are another project's."""
SETTINGS_OF_OTHERS = {"mqtt.output", "advanced.cache_state", "paho.mqtt"}


def outside_fences(text: str) -> str:
    return _FENCE.sub("", text)


def code_spans(text: str) -> list[str]:
    return _CODE.findall(outside_fences(text))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", outside_fences(text), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode())
        slug = re.sub(r"[-\s]+", "-", plain.strip().lower())
        number = 1
        while slug in found:
            slug, number = f"{slug.removesuffix(f'_{number - 1}')}_{number}", number + 1
        found.add(slug)
    return found


def unknown_names(text: str) -> Iterator[str]:
    """What stands in backticks, has the form of a name of ours, and is none."""
    for span in code_spans(text):
        if not _is_known(span):
            yield span


def _is_known(span: str) -> bool:
    if _PATH.fullmatch(span):
        return (ROOT / span).exists()
    if _FILE.fullmatch(span):
        return span in MADE_BY_READERS or any(f"/{file}".endswith(f"/{span}") for file in code_names.files())
    if _DOTTED.fullmatch(span) and not span.endswith(".toml"):
        return code_names.is_symbol(span)
    if member := _MEMBER.fullmatch(span):
        return member[2] in code_names.members().get(member[1], ())
    if _CLASS.fullmatch(span):
        return span in OF_OTHERS or hasattr(builtins, span) or span in code_names.members() or _is_alert_rule(span)
    if call := _CALL.fullmatch(span):
        return call[1] in code_names.functions() or call[1] in code_names.members()
    if keyword := _KEYWORD.fullmatch(span):
        return keyword[1] in code_names.keywords()
    if _SQL.fullmatch(span):
        return span in code_names.sql_names()
    if metric := _METRIC.fullmatch(span):
        return metric[1] in code_names.metrics()
    if target := _TARGET.fullmatch(span):
        return re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
    setting = _SETTING.fullmatch(span)
    sections = {key.partition(".")[0] for key in code_names.settings()}
    if setting and setting[1].partition(".")[0] in sections and not _is_file_name(span):
        return setting[1] in code_names.settings() or setting[1] in SETTINGS_OF_OTHERS
    return True


def _is_alert_rule(name: str) -> bool:
    return f"alert: {name}\n" in (ROOT / "config" / "prometheus" / "iot-bridge.rules.yml").read_text()


def _is_file_name(span: str) -> bool:
    return span.endswith((".db", ".toml", ".json", ".csv", ".conf"))


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Links to a file, a heading, or, as `file.py#Class.method`, a symbol that is not there."""
    for link in _LINK.findall(outside_fences(text)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            yield link
        elif anchor and target.suffix == ".md":
            if anchor not in anchors(text if target == page else target.read_text()):
                yield link
        elif anchor and not code_names.is_in_module(target.resolve().relative_to(ROOT).as_posix(), anchor.split(".")):
            yield link


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page, page.read_text())) == []


@each_page
def test_names_in_the_text_exist(page: Path) -> None:
    assert list(unknown_names(page.read_text())) == []


@pytest.mark.parametrize(
    "name",
    [
        "bridge/pipeline/runner.py",
        "edge/uplink/gone/",
        "pipeline/limits.py",
        "bridge.pipeline.run.Intake",
        "bridge.consumers.shipped",
        "Pipeline.offer",
        "Intake.submit",
        "ChannelPostman",
        "fold_the_books()",
        "alone=True",
        "sp_gone",
        "http.max_conections",
        "http.port_ = 8080",
        "iot_bridge_gone_total",
        "make gone",
    ],
)
def test_a_name_that_is_gone_is_found(name: str) -> None:
    assert list(unknown_names(f"Text before `{name}` and after `Pipeline.submit`.")) == [name]


@pytest.mark.parametrize(
    "link", ["gone.md", "http.md#gone", "#gone", "../bridge/gone.py", "../bridge/pipeline/run.py#Pipeline.gone"]
)
def test_a_link_that_leads_nowhere_is_found(link: str) -> None:
    page = ROOT / "docs" / "index.md"
    text = f"# Index\n\n[a]({link}) [b](http.md#limits) [c](#index) [d](../bridge/pipeline/run.py#Pipeline.submit)"
    assert list(broken_links(page, text)) == [link]


PICTURES = sorted((ROOT / "docs" / "img").glob("*.svg"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_is_described_and_names_what_is_there(picture: Path) -> None:
    drawing = ElementTree.parse(picture).getroot()
    kinds = {element.tag.partition("}")[2]: (element.text or "").strip() for element in drawing.iter()}
    assert kinds["title"]
    assert kinds["desc"]
    assert drawing.get("role") == "img"
    assert drawing.get("aria-labelledby") == "title desc"
    texts = [element.text or "" for element in drawing.iter() if element.tag.endswith("}text")]
    assert [text for text in texts if _PATH.fullmatch(text) and not (ROOT / text).exists()] == []
