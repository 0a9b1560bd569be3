"""The pages of the documentation as their readers see them: blocks of code, and the commands among them."""

import re
import textwrap
from dataclasses import dataclass

import examples

PAGES = [
    *(examples.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((examples.ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]*)")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    language: str
    title: str
    text: str
    span: tuple[int, int]
    """Where its text begins and ends in the page."""


def blocks(page):
    """Return the blocks of code of a page, in order."""
    return [
        Block(found[2], found[3] or "", textwrap.dedent(found[4]) if found[1] else found[4], found.span(4))
        for found in FENCE.finditer(page)
    ]
