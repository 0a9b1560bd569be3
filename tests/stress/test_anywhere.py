"""The whole demonstration where everything is otherwise: the same bytes as elsewhere."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import users
from engines import content, hostile

from examples import ROOT

PLAIN = {"PATH": "/usr/bin:/bin", "OMP_WAIT_POLICY": "PASSIVE"}
MAKE = ["make", "--old-file", ".venv/.ready", "CORES=2", "demo"]
"""The environment is the one that runs the tests."""


def unpack(folder: Path) -> Path:
    """Unpack what git would commit, without git, with the environment of this Python, one epoch of six."""
    folder.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git repository to make an archive of")
    there = b"\0".join(name for name in listed.stdout.split(b"\0") if name and (ROOT / os.fsdecode(name)).exists())
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"], cwd=ROOT, input=there, capture_output=True, check=True
    )
    subprocess.run(["tar", "--extract"], cwd=folder, input=packed.stdout, check=True)
    (folder / ".venv").symlink_to(sys.prefix)
    demo = folder / "workflow" / "demo.yaml"
    shorter = demo.read_text().replace("  epochs: 6\n", "  epochs: 1\n", 1)
    assert shorter != demo.read_text()
    demo.write_text(shorter)
    return folder


def turkish(folder: Path) -> dict[str, str]:
    """Make the locale in which the capital of i is no I, and return the variables that put it in force."""
    folder.mkdir()
    subprocess.run(["localedef", "-i", "tr_TR", "-f", "UTF-8", folder / "tr_TR.UTF-8"], check=True)
    variables = {"LOCPATH": str(folder), "LC_ALL": "tr_TR.UTF-8"}
    code = "import locale; print(locale.setlocale(locale.LC_ALL, ''), locale.localeconv()['decimal_point'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=PLAIN | variables, capture_output=True, text=True, check=False
    )
    assert done.stdout == "tr_TR.UTF-8 ,\n", f"not in force: {done.stdout}{done.stderr}"
    return variables


def demonstrate(folder: Path, before: list[str], variables: dict[str, str], umask: int) -> dict[str, bytes]:
    """Run `make demo` and return what it has made."""
    done = subprocess.run(
        [*before, *MAKE], cwd=folder, env=PLAIN | variables, umask=umask,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Traceback" not in done.stdout
    return content(folder / "build" / "demo")


@pytest.fixture
def open_folder():
    """Return a folder that any user may enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="anywhere-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_demonstration_gives_the_same_bytes_anywhere(open_folder, no_flock):
    nameless = users.nameless("unshare", "--net")
    tmp_path = open_folder
    plain = unpack(tmp_path / "plain")
    elsewhere = unpack(tmp_path / "an \u00e9l\u00e9gant folder" / "vanishing study")
    variables = turkish(tmp_path / "locales") | hostile(tmp_path) | no_flock(95)
    for path in (elsewhere, *elsewhere.rglob("*")):
        os.chown(path, users.NOBODY, users.NOBODY, follow_symlinks=False)
    one = demonstrate(plain, [], {"HOME": str(tmp_path)}, 0o022)
    other = demonstrate(elsewhere, nameless, variables, 0o002)
    assert len(one) > 100
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name] != other[name]] == []
    made = [path for path in (elsewhere / "build" / "demo" / "results").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o664}
