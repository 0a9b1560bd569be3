"""The tutorial, followed to the letter.

`VANISHING_PASTE=1 pytest tests/integration/test_tutorial.py` pastes what its commands print into the page.
"""

import os
import re
import shutil
import subprocess

import engines
import pages
import pytest

import examples

PAGE = examples.ROOT / "docs" / "tutorial.md"
SET_UP = ["make setup", ". .venv/bin/activate"]
"""What the environment of the tests stands in for; tests/integration/test_setup.py has it."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a folder with the files that a clone has, as they are now."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=examples.ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.strip("\0").split("\0"):
        if (examples.ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(examples.ROOT / name, folder / name)
    return folder


def follow(page, clone):
    """Do what the page says, block by block; return what it shows of the output, and what there was, by place."""
    here, printed, shown = clone, "", []
    for block in pages.blocks(page):
        if block.language == "sh":
            printed = ""
            for line in block.text.splitlines():
                if line.startswith("cd "):
                    here = here / line.removeprefix("cd ")
                elif line not in SET_UP:
                    printed += engines.run(here, "bash", "-c", line, OMP_WAIT_POLICY="PASSIVE")
        elif block.language == "text":
            shown.append((block, printed))
        elif above := re.fullmatch(r"(.+), above (\w+:)", block.title):
            file = here / above[1]
            before, line, after = file.read_text().partition(f"\n{above[2]}")
            file.write_text(f"{before}\n{block.text}{line}{after}" if line else "")
        else:
            (here / block.title).write_text(block.text)
    return here, shown


def seen(block, text):
    """Return an output as it is compared: without numbers and the width of columns where another machine's are shown."""
    lines = [line.rstrip() for line in text.splitlines()]
    if "another machine" not in block.title:
        return lines
    return [" ".join(re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", line).split()) for line in lines]


def test_it_prints_what_it_says_and_ends_in_a_report(clone):
    page = PAGE.read_text()
    here, shown = follow(page, clone)
    if os.environ.get("VANISHING_PASTE"):
        for block, printed in reversed(shown):
            start, end = block.span
            page = page[:start] + "".join(f"{line.rstrip()}\n" for line in printed.splitlines()) + page[end:]
        PAGE.write_text(page)
        shown = []
    for block, printed in shown:
        assert seen(block, printed) == seen(block, block.text)
    figures = {path.name for path in (here / "report" / "figures" / "saturation").iterdir()}
    assert {"loss.pdf", "gradient_flow_log.pdf"} <= figures
    assert "saturation" in (here / "report" / "studies.tex").read_text()
    assert (here / "report" / "report.pdf").read_bytes().startswith(b"%PDF")
