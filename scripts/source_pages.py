"""MkDocs hook: links from the documentation to the code work in the site too, offline.

A page links to `../bridge/pipeline/run.py`, or `…/run.py#Pipeline.submit`, as it does in the repository. In the site
each linked file becomes a page with its text, and the symbol the number of its line. What is not there is a warning,
and so an error of `mkdocs build --strict`. CONTRIBUTING.md, which lies beside the README, is a page of the site too.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FOLDERS = "bridge|edge|config|scripts|tests|bench|packages"
LINK = re.compile(rf"\[([^\]]+)\]\(((?:\.\./)+(?:{FOLDERS})/[\w./-]+\.(\w+))(?:#([\w.]+))?\)")
PAGE = """\
---
search: {{exclude: true}}
hide: [navigation, toc]
---

# {path}

``````{language} linenums="1"
{text}
``````
"""
LANGUAGES = {"py": "python", "sql": "postgresql", "lua": "lua", "toml": "toml", "md": "markdown"}

log = logging.getLogger("mkdocs.hooks.source_pages")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file of the code that a page links to."""
    files.append(File.generated(config, "contributing.md", content=_contributing()))
    linked: dict[str, str] = {}
    for page in files.documentation_pages():
        for _, target, suffix, _ in LINK.findall(page.content_string):
            linked[_source(page.src_uri, target)] = suffix
    for path, suffix in sorted(linked.items()):
        if (ROOT / path).is_file():
            language = LANGUAGES.get(suffix, "text")
            text = PAGE.format(path=path, language=language, text=(ROOT / path).read_text())
            files.append(File.generated(config, f"code/{path}.md", content=text))
        else:
            log.warning("a page links to %s, which is not there", path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to the code at its pages."""
    if page.file.src_uri.startswith("code/"):
        return markdown
    here = posixpath.dirname(page.file.src_uri)
    markdown = markdown.replace("](../CONTRIBUTING.md)", "](contributing.md)")

    def link(found: re.Match[str]) -> str:
        text, target, _, symbol = found.groups()
        path = _source(page.file.src_uri, target)
        anchor = f"#__codelineno-0-{_line(path, symbol)}" if symbol else ""
        return f'<a href="{posixpath.relpath(f"code/{path}.html", here or ".")}{anchor}">{text}</a>'

    return LINK.sub(link, markdown)


def _contributing() -> str:
    """CONTRIBUTING.md, with the links of a page in docs/."""
    text = re.sub(r"\]\((?!https?:|docs/|#)", "](../", (ROOT / "CONTRIBUTING.md").read_text())
    return text.replace("](docs/", "](")


def _source(page: str, target: str) -> str:
    """The linked file, from the root of the project."""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))


def _line(path: str, symbol: str) -> int:
    body = ast.parse((ROOT / path).read_text()).body if path.endswith(".py") else []
    line = 0
    for name in symbol.split("."):
        found = [node for node in body if name in (getattr(node, "name", ""), *_assigned(node))]
        if not found:
            log.warning("%s has no %s", path, symbol)
            return 1
        line, body = found[0].lineno, getattr(found[0], "body", [])
    return line


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
