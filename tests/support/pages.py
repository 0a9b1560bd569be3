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


PROGRAMS = (
    "cat", "chmod", "docker", "du", "dvc", "eval", "export", "find", "git", "kubectl", "make", "mkdir", "mkdocs", "mv",
    "pip", "pre-commit", "pytest", "python", "rm", "scancel", "scontrol", "snakemake", "squeue", "ssh", "sudo",
    "tensorboard", "uv", "vanishing",
)  # fmt: skip
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\.|{'|'.join(PROGRAMS)}) \S")
"""How a command begins: variables, a program, and something to do."""


def commands(page):
    """Return the commands of a page: the lines of its blocks, and what is typed within sentences, each apart."""
    shown = [block.text for block in blocks(page) if block.language in ("", "sh")]
    lines = [line for text in shown for line in text.replace("\\\n", " ").splitlines()]
    typed = [" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines]
    within = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", page))]
    return [line for line in typed if COMMAND.match(line)], [span for span in within if COMMAND.match(span)]
