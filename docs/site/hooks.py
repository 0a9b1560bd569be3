"""Hooks of MkDocs: pages may link any file of the repository, as they do where they are read without the site.

A linked Markdown file outside `docs/` becomes a page, another text a page that shows it, and the rest is copied.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
"""The file of a relative link."""

COPIED = (".ipynb", ".svg", ".png", ".pdf")
"""Endings of the files that the site holds as they are."""

ASSETS = ("iframe-worker.js", "site.css")
EPOCH = "0"
"""Of the dates that the site would have, so that it has the same bytes each time."""


def on_startup(**_: object) -> None:
    """Fix the dates of the site."""
    os.environ["SOURCE_DATE_EPOCH"] = EPOCH


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the home page, what pages link outside `docs/`, and the site's own scripts and styles."""
    for name in ASSETS:
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(ROOT / "docs" / "site" / name)))
    paths = ["README.md", *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    for path in paths:  # which grows meanwhile
        if not path.startswith("docs/"):
            files.append(_file(path, config))
        if path.endswith(".md"):
            linked = dict.fromkeys(
                _target(path, link) for link in LINK.findall((ROOT / path).read_text(encoding="utf-8"))
            )
            paths += [target for target in linked if (ROOT / target).is_file() and target not in paths]


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between files of the repository into links between those of the site; dead ones stay, to be named."""
    here = page.file.src_uri
    path = here if (ROOT / here).is_file() else f"docs/{here}"

    def moved(link: re.Match[str]) -> str:
        target = _target(path, link[1])
        return posixpath.relpath(_uri(target), posixpath.dirname(here) or ".") if (ROOT / target).is_file() else link[1]

    return LINK.sub(moved, markdown)


def _target(path: str, link: str) -> str:
    """Return the file that a link in a file leads to, both by their paths in the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _uri(path: str) -> str:
    """Return the place in the site of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith((".md", *COPIED)) else f"{path}.md"


def _file(path: str, config: MkDocsConfig) -> File:
    """Make a file of the site from one outside `docs/`."""
    if path.endswith((".md", *COPIED)):
        return File.generated(config, path, abs_src_path=str(ROOT / path))
    text = (ROOT / path).read_text(encoding="utf-8")
    shown = f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n~~~~ {Path(path).suffix[1:]}\n{text}~~~~\n"
    return File.generated(config, f"{path}.md", content=shown)
