"""Set-up and make with what users have: pip's and Python's settings, moved checkouts, LaTeX in part, running engines.

The checkout is a small one, with this project's Makefile and set-up script: its lock holds one package, made here.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import holders
import pytest

import examples
from vanishing.report import typeset

PACKAGE = examples.ROOT / "src" / "vanishing"
SETUP = examples.ROOT / "workflow" / "setup.sh"
LATEX = ("latexmk", "pdflatex", "bibtex", "kpsewhich")
TOOLS = ("sh", "env", "sed", "head", "grep", "paste", "cat", "dirname", "touch", "make", "awk", "rm", "find", "true")

PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "vanishing"
version = "1.0"
"""
BACKEND = """import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "vanishing-1.0.dist-info/"
    with zipfile.ZipFile(f"{folder}/vanishing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(name + "METADATA", "Metadata-Version: 2.1\\nName: vanishing\\nVersion: 1.0\\n")
        wheel.writestr(name + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(name + "entry_points.txt", "[console_scripts]\\nvanishing = pinned:main\\n")
        wheel.writestr(name + "RECORD", "")
    return "vanishing-1.0-py3-none-any.whl"
"""


def write_wheel(folder):
    """Write the package `pinned`, and return the line of the lock that pins it."""
    path, info = folder / "pinned-2.0-py3-none-any.whl", "pinned-2.0.dist-info/"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("pinned.py", "def main():\n    print('at work')\n")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: pinned\nVersion: 2.0\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")
    return f"pinned==2.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def write_checkout(folder):
    """Write the small checkout, with an index of its one package beside it."""
    for name in ("workflow", "src", "tests"):
        (folder / name).mkdir(parents=True)
    for name in ("Makefile", "workflow/setup.sh", "workflow/idle.py"):
        shutil.copy(examples.ROOT / name, folder / name)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder of packages, and the lock that pins its one."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "requirements.lock").write_text(write_wheel(folder))
    return folder


def programs(folder, *others, without=(), **scripts):
    """Return a folder of programs to be found in place of the machine's: LaTeX's do nothing."""
    folder.mkdir()
    for name in {*TOOLS, *others} - set(without) - set(scripts):
        (folder / name).symlink_to(shutil.which(name))
    empty = {name: "" for name in LATEX if name not in without}
    for name, text in (empty | scripts).items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def make(folder, *arguments, **variables):
    """Run make, or another command, and return its code and its output, without what make says of itself."""
    command = ["make", "--silent", *arguments] if arguments[0] != "sh" else arguments
    done = subprocess.run(command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if not re.match(r"make: \*\*\*", line)]
    return done.returncode, said


@pytest.fixture
def here(tmp_path, index, monkeypatch):
    """A small checkout, and an environment in which its package is found."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "PYTHON"))]:
        monkeypatch.delenv(name)
    folder = write_checkout(tmp_path / "checkout")
    shutil.copy(index / "requirements.lock", folder)
    found = programs(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{found}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", sys._base_executable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return folder


def works(folder):
    """Whether the environment's program runs, and runs there."""
    script = folder / ".venv" / "bin" / "vanishing"
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    return done.stdout == "at work\n" and str(folder) in script.read_text()


def test_an_environment_follows_its_checkout_and_the_base_python(here, tmp_path):
    assert make(here, "setup")[0] == 0
    assert works(here)
    assert make(here, "setup") == (0, []), "nothing is left to do"
    copied = shutil.copytree(here, tmp_path / "copied", symlinks=True)
    assert make(copied, "setup")[0] == 0, "its programs would run those of the first"
    assert works(copied)
    assert works(here)
    moved = here.rename(tmp_path / "moved")
    assert make(moved, "setup")[0] == 0
    assert works(moved)
    python = moved / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert make(moved, "setup")[0] == 0
    assert works(moved)


def test_the_users_pip_and_python_lead_nowhere_else_but_their_index_is_used(here, tmp_path, monkeypatch):
    """Only the index of the environment has the package."""
    poison, home = tmp_path / "poison", tmp_path / "home"
    poison.mkdir()
    home.mkdir()
    for name in ("pip", "ensurepip", "venv", "pinned"):
        (poison / f"{name}.py").write_text("raise SystemExit('a module of the user')")
    (home / "pip.conf").write_text("[global]\nuser = true\n[install]\nuser = true\nno-warn-conflicts = true\n")
    for name, value in {
        "PIP_USER": "1", "PIP_TARGET": poison, "PIP_PREFIX": poison, "PIP_ROOT": poison, "PIP_DRY_RUN": "1",
        "PIP_REQUIRE_VIRTUALENV": "1", "PIP_PYTHON": "/nowhere/python", "PIP_NO_BINARY": ":all:",
        "PIP_CONSTRAINT": "/nowhere/constraints.txt", "PIP_CONFIG_FILE": home / "pip.conf",
        "PYTHONPATH": poison, "PYTHONHOME": "/nowhere", "PYTHONSTARTUP": "/nowhere", "PYTHONWARNINGS": "error",
        "PYTHONUSERBASE": home, "VIRTUAL_ENV": "/nowhere/other", "CONDA_PREFIX": "/nowhere/conda", "CDPATH": home,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    code, said = make(here, "setup")
    assert code == 0, said
    monkeypatch.delenv("PYTHONHOME")
    monkeypatch.delenv("PYTHONPATH")
    assert works(here)


def test_a_pip_that_installs_elsewhere_is_named(here, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text(f"[install]\ntarget = {tmp_path / 'elsewhere'}\n")
    code, said = make(here, "setup")
    assert code
    assert said[-1] == "pip has installed elsewhere; check `.venv/bin/pip config list`"


def test_a_link_to_another_environment_is_not_emptied(here, tmp_path):
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "pip").write_text("#!/somewhere/else/.venv/bin/python\n")
    (here / ".venv").symlink_to(other)
    code, said = make(here, "setup")
    assert code
    assert said == [f"{here}/.venv: is a link to an environment of another place; remove the link"]
    assert (other / "bin" / "pip").exists()


@pytest.mark.parametrize("character", [":", "{", "}"])
def test_what_no_path_may_have_is_refused_at_once_by_name(here, character):
    folder = here.rename(here.with_name(f"a{character}b"))
    code, said = make(folder, "setup", PYTHON="false")
    assert code
    assert len(said) == 1
    assert said[0].startswith(f"{folder}: ")
    assert said[0].endswith(f" do not work in a path with '{character}'; move the checkout")


@pytest.mark.parametrize("name", ["é x  p;q", "$1#2%3~4&'5'"])
def test_odd_characters_of_the_path_work(here, name):
    folder = here.rename(here.with_name(name))
    code, said = make(folder, "setup")
    assert code == 0, said
    assert works(folder)
    assert make(folder, "setup") == (0, [])
    code, said = make(folder, "clean", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert (code, said) == (0, [])


def test_a_path_in_which_no_program_starts_is_refused_before_the_download(here):
    """A blank makes pip start its programs by a shell, which then reads the dollar."""
    folder = here.rename(here.with_name("x $HOME"))
    code, said = make(folder, "setup", PIP_FIND_LINKS="/nowhere")
    assert code
    assert len(said) == 1
    assert said[0].startswith(f"{folder}/.venv/bin: programs do not run there; move the checkout to a path of letters")


@pytest.mark.parametrize(("python", "said"), [
    ("nosuch", "nosuch is not found, or not Python; type: make PYTHON=python3.N, with N from 11 to 13"),
    ("true", "true is not found, or not Python; type: make PYTHON"),
    ("old", "old is Python 2.7; type: make PYTHON=python3.N, with N from 11 to 13"),
    ("new", "new is Python 3.14; type: make PYTHON=python3.N, with N from 11 to 13"),
])  # fmt: skip
def test_a_python_that_is_none_or_of_another_version_is_named(here, tmp_path, monkeypatch, python, said):
    found = programs(tmp_path / "found", old="echo Python 2.7", new="echo Python 3.14")
    monkeypatch.setenv("PATH", f"{found}:{os.environ['PATH']}")
    code, lines = make(here, "setup", PYTHON=python)
    assert code
    assert len(lines) == 1
    assert lines[0].startswith(said)
    assert not (here / ".venv").exists()


PACKAGES = "latexmk texlive-latex-recommended texlive-fonts-recommended lmodern"


@pytest.mark.parametrize("absent", [LATEX, ["latexmk"], ["pdflatex"], ["bibtex"], ["lmodern.sty"], ["pdflatex.fmt"]])
def test_what_is_missing_of_latex_is_named_with_what_to_type(here, tmp_path, absent):
    """Without the right to install it."""
    scripts = {"id": "echo 1000", "sudo": "exit 1", "apt-get": "exit 1"}
    if "." in absent[0]:
        scripts["kpsewhich"] = f'for last; do true; done; test "$last" != {absent[0]}'
    found = programs(tmp_path / "found", "python3", without=absent, **scripts)
    code, said = make(here, "setup", PATH=str(found))
    names = " ".join(sorted(absent, key=LATEX.index)) if len(absent) > 1 else absent[0]
    assert code
    assert said == [f"LaTeX ({names}) is missing; type: sudo apt-get install --no-install-recommends {PACKAGES}"]


@pytest.mark.parametrize(("apt", "said"), [
    ({"apt-get": "exit 100"}, f"LaTeX (pdflatex) is missing; type: sudo apt-get install --no-install-.* {PACKAGES}"),
    ({"apt-get": "exit 0"}, "LaTeX: pdflatex: still missing after its packages are installed"),
    ({}, rf"LaTeX \(pdflatex\) is missing, and this is not Debian; install what its packages hold: {PACKAGES}"),
])  # fmt: skip
def test_an_installation_that_does_not_help_is_told(here, tmp_path, apt, said):
    found = programs(tmp_path / "found", "python3", without=["pdflatex"], id="echo 0", **apt)
    code, lines = make(here, "setup", PATH=str(found))
    assert code
    assert re.match(said.replace("(pdflatex)", r"\(pdflatex\)") if apt else said, lines[-1])


def test_the_script_looks_for_what_the_report_needs():
    text = SETUP.read_text()
    named = {
        key: re.search(rf'^{key}="([^"]*)"', text, re.MULTILINE)[1].split() for key in ("programs", "files", "latex")
    }
    needed = [name for names in typeset.NEEDED.values() for name in names]
    assert sorted(named["programs"] + named["files"]) == sorted(needed)
    assert set(typeset.NEEDED) <= set(named["latex"])


def test_make_hands_on_no_variable_that_leads_to_other_packages_or_folders(here):
    names = ("CDPATH", "PYTHONPATH", "PYTHONHOME")
    shown = "".join(f"$${name}" for name in names)
    assert make(here, f"--eval=show: ; @echo [{shown}]", "show", **dict.fromkeys(names, "/set")) == (0, ["[]"])


# make beside a running engine


@pytest.mark.parametrize("target", ["clean", "distclean"])
@pytest.mark.parametrize("where", [".", "build/demo"])
def test_nothing_is_deleted_beside_a_running_engine(here, holder, where, target):
    (here / "src" / "vanishing").symlink_to(PACKAGE)
    kept = here / "build" / "demo" / "results.csv"
    kept.parent.mkdir(parents=True)
    kept.write_text("hours of work")
    engine = holder(holders.ENGINE, folder=here / where)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    code, said = make(here, target, PATH=path)
    assert code
    assert len(said) == 1
    assert said[0].startswith(f"make clean: {where}: another engine is at work here: snakemake --cores 2 (process")
    assert kept.exists()
    engine.communicate()
    assert make(here, target, PATH=path) == (0, [])
    assert not kept.exists()


def test_an_environment_in_use_is_not_made_again(here, holder):
    """The checkout is seen under another path, as by another mount point."""
    (here / "src" / "vanishing").symlink_to(PACKAGE)
    (here / ".venv" / "bin").mkdir(parents=True)
    for name, text in (("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'), ("pip", "#!/other/.venv/bin/python\n")):
        (here / ".venv" / "bin" / name).write_text(text)
        (here / ".venv" / "bin" / name).chmod(0o755)
    engine = holder(holders.ENGINE, folder=here)
    code, said = make(here, "setup")
    assert code
    assert len(said) == 1
    assert said[0].startswith("make setup: .: another engine is at work here: snakemake --cores 2 (process")
    assert (here / ".venv" / "bin" / "pip").exists()
    engine.communicate()
    assert make(here, "setup")[0] == 0
    assert works(here)


def test_clean_works_without_an_environment_and_with_a_broken_one(here, tmp_path):
    for program in ("", "exit 1"):
        (here / "build").mkdir()
        found = programs(tmp_path / f"found{bool(program)}", "getconf")
        if program:
            (here / ".venv").mkdir()
        assert make(here, "distclean", PATH=str(found)) == (0, [])
        assert not (here / "build").exists()


def test_a_program_that_a_target_needs_is_named(here, tmp_path):
    scripts = here / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").symlink_to(sys.executable)
    (scripts / "pip").write_text(f"#!{scripts}/python\n")
    (here / ".venv" / ".ready").touch()
    found = programs(tmp_path / "found", "getconf")
    assert make(here, "lock", PATH=str(found)) == (
        2,
        ["uv: not installed; see https://docs.astral.sh/uv/getting-started/installation/"],
    )


def test_a_python_without_venv_is_told_with_the_package_of_its_version(here, tmp_path):
    """As Debian packs it, for each version of Python on its own."""
    scripts = {"id": "echo 1000", "sudo": "exit 1", "apt-get": "exit 1"}
    split = """case "$*" in *ensurepip*) exit 1 ;; *) echo Python 3.12 ;; esac"""
    found = programs(tmp_path / "found", **scripts, **{"python3.12": split})
    assert make(here, "setup", PATH=str(found), PYTHON="python3.12") == (
        2,
        ["Python's venv is missing; type: sudo apt-get install --no-install-recommends python3.12-venv"],
    )
