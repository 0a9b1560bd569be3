"""Pages that readers follow to the letter, followed so.

`VANISHING_PASTE=1 pytest tests/integration/test_followed_pages.py` pastes what the commands print into the tutorial.
"""

import os
import re
import shutil

import engines
import pages
import pytest

import examples

DOCS = examples.ROOT / "docs"
SET_UP = ["make setup", ". .venv/bin/activate"]
"""What the environment of the tests stands in for; tests/integration/test_setup.py has it."""

ELU = """
import torch
from vanishing import build_model, config, gradient_flow, load_parameters
from vanishing.training import models

run = load_parameters().run("vgg38_elu")
assert run.model.layers == 38
assert torch.allclose(models.ACTIVATIONS["elu"]()(torch.tensor([-1.0, 2.0])), torch.tensor([-0.632, 2.0]), atol=1e-3)
small = run.model_copy(update={"model": run.model.model_copy(update={"blocks": 0, "filters": 4, "norm": NORM})})
images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
assert (gradient_flow(build_model(small), images, labels).mean_abs_gradient > 0).all()
"""
"""What a network with the new activation must do, and with a norm of that name."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a folder with the files that a clone has, as they are now."""
    folder = tmp_path_factory.mktemp("clone")
    examples.copy_committed(folder)
    return folder


def follow(page, here):
    """Do what a page says, block by block; return where it ends, and each block of output with what there was."""
    printed, shown = "", []
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
            assert line
            file.write_text(f"{before}\n{block.text}{line}{after}")
        else:
            (here / block.title).write_text(block.text)
    return here, shown


def seen(block, text):
    """Return an output as it is compared: where another machine's is shown, without numbers and width of columns."""
    lines = [line.rstrip() for line in text.splitlines()]
    if "another machine" not in block.title:
        return lines
    return [" ".join(re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", line).split()) for line in lines]


def paste(path, shown):
    """Write what was printed into a page."""
    page = path.read_text()
    for block, printed in reversed(shown):
        start, end = block.span
        page = page[:start] + "".join(f"{line.rstrip()}\n" for line in printed.splitlines()) + page[end:]
    path.write_text(page)


def test_the_tutorial_prints_what_it_says_and_ends_in_a_report(clone):
    here, shown = follow((DOCS / "tutorial.md").read_text(), clone)
    if os.environ.get("VANISHING_PASTE"):
        paste(DOCS / "tutorial.md", shown)
        pytest.skip("pasted")
    assert len(shown) > 3
    for block, printed in shown:
        assert seen(block, printed) == seen(block, block.text)
    figures = {path.name for path in (here / "report" / "figures" / "saturation").iterdir()}
    assert {"loss.pdf", "gradient_flow_log.pdf"} <= figures
    assert "saturation" in (here / "report" / "studies.tex").read_text()
    assert (here / "report" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert "vgg08_bn_sigmoid" in (here / "report" / "report.html").read_text()


def test_the_network_that_does_not_train_gets_the_verdict_that_the_page_shows(tmp_path):
    ((block, printed),) = follow((DOCS / "does-not-train.md").read_text(), tmp_path)[1]
    assert "\n".join(seen(block, block.text)) in "\n".join(seen(block, printed))


def test_an_activation_and_a_norm_are_added_as_the_page_says(tmp_path):
    page = (DOCS / "activation.md").read_text()
    shutil.copytree(examples.ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(examples.ROOT / "params.yaml", tmp_path)
    norm, builder = re.search(r'"(\w+)": (lambda .+\))`', page).groups()
    model, models = tmp_path / "src/vanishing/config/model.py", tmp_path / "src/vanishing/training/models.py"
    for block in pages.blocks(page):
        lines = block.text.splitlines()
        before, after = ("\n".join(line[1:] for line in lines if line[0] != mark) for mark in "+-")
        replace(tmp_path / block.title, before, after)
    replace(model, '"batch", "group"]', f'"batch", "group", "{norm}"]')
    replace(models, '    "none": lambda', f'    "{norm}": {builder},\n    "none": lambda')
    code = f"import sys; sys.path.insert(0, 'src'); NORM = {norm!r}{ELU}"
    engines.run(tmp_path, "python", "-c", code)


def replace(path, before, after):
    """Replace what stands in a file once."""
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, after))
