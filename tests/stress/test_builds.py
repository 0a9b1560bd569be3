"""Clean builds that differ in engine, cores, folder, date, time zone, locale, hash seed and umask: the same bytes."""

import os
import re
import shutil
from datetime import UTC, datetime, timedelta

import nbformat
import pytest
from engines import BUILDS, content, run

from examples import ROOT

ONE, *OTHERS = BUILDS
DATE = "import datetime; print(datetime.datetime.now(datetime.UTC).date())"


@pytest.mark.parametrize("other", OTHERS)
def test_every_build_gives_the_same_bytes(build, other):
    one, same = content(build(ONE)), content(build(other))
    assert set(one) == set(same)
    assert [name for name in one if one[name] != same[name]] == []


@pytest.mark.parametrize("other", OTHERS)
def test_python_notebooks_and_latex_see_the_builds_date(calendar, tmp_path, other):
    """Else the builds' dates would differ for nobody."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler (cc) to move the date with: every build had today's")
    variables = calendar(BUILDS[other].days)
    today = datetime.now(UTC).date() - timedelta(days=BUILDS[other].days)
    dates = [f"{today}", f"{today + timedelta(days=1)}"]  # it may be midnight soon
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(DATE)]), tmp_path / "date.ipynb")
    (tmp_path / "date.tex").write_text(r"\typeout{[\the\year-\ifnum\month<10 0\fi\the\month]}\stop")
    assert run(tmp_path, "python", "-c", DATE, **variables).strip() in dates
    run(tmp_path, "papermill", "--kernel", "python3", "date.ipynb", "executed.ipynb", **variables)
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() in dates
    printed = run(tmp_path, "pdflatex", "-interaction=nonstopmode", "date.tex", TZ="UTC", **variables)
    assert re.search(r"\[(.+)\]", printed)[1] in [date[: len("2020-01")] for date in dates]


def test_nothing_in_the_results_names_a_folder_a_host_or_a_day(build):
    for folder in map(build, BUILDS):
        hosts = {str(folder), str(folder.parent), os.uname().nodename + ".", str(ROOT)}
        for name, text in content(folder).items():
            if name.startswith("results/"):
                found = [host for host in hosts if host.encode() in text]
                assert not found, f"{name} names {found}"
                assert not re.search(rb"20\d\d-\d\d-\d\d", text), f"{name} holds a date"
