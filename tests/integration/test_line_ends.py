"""What git may do to text: a clone with other settings of git, and files whose line ends something else has changed."""

import subprocess
from pathlib import Path

import pytest
import yaml
from engines import WINDOWS

import examples
from vanishing import files, paths
from vanishing.results import store
from vanishing.verify.mismatch import Scope
from vanishing.verify.run import summaries


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no git repository to clone: {done.stderr.decode()}")
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A Windows-style clone of this project."""
    folder = tmp_path_factory.mktemp("windows") / "clone"
    git("clone", "--quiet", "--no-hardlinks", *WINDOWS, str(examples.ROOT), str(folder))
    return folder


def test_a_windows_style_clone_has_every_byte_and_needs_no_link(clone, tmp_path):
    entries = git("-C", str(clone), "ls-files", "--stage", "-z").decode().rstrip("\0").split("\0")
    names = [entry.partition("\t")[2] for entry in entries]
    assert "Snakefile" in names
    assert [entry for entry in entries if entry.startswith("120000")] == [], "symbolic links"
    raw = git("-C", str(clone), "-c", "core.autocrlf=false", "archive", "HEAD")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=raw, check=True)
    changed = [name for name in names if (clone / name).read_bytes() != (tmp_path / name).read_bytes()]
    assert changed == []


def test_the_shell_reads_setup_in_a_windows_style_clone(clone):
    programs = clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").touch(mode=0o755)
    for place, code in ((programs, 0), ("/elsewhere/.venv/bin", 1)):
        (programs / "pip").write_text(f"#!{place}/python\n")
        done = subprocess.run(
            ["sh", "workflow/setup.sh", "--made"], cwd=clone, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (code, "")


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """A small study whose results and parameters an editor has given the line ends of Windows."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content(), sort_keys=False))
    examples.result(examples.study(), "vgg08")
    folder = paths.results("vgg08", 0)
    for path in (*folder.iterdir(), Path("params.yaml")):
        text = path.read_bytes()
        assert b"\r" not in text
        path.write_bytes(text.replace(b"\n", b"\r\n"))
    return folder


def test_converted_results_are_read_and_match_their_records(converted):
    settings = examples.study()
    assert store.is_available(settings, "vgg08", 0)
    assert store.read("vgg08", 0).summary["epochs"] == len(store.read("vgg08", 0).history)
    scope = Scope(settings)
    found = list(summaries(scope))
    assert [str(mismatch) for mismatch in found if mismatch.path.suffix != ".safetensors"] == []
    assert converted / "history.csv" in scope.compared


def test_an_edited_history_is_found_whatever_its_line_ends(converted):
    path = converted / "history.csv"
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"1\r\n", 2))
    back = r"`rm -f .* && git checkout HEAD -- .*` brings it back if it was recorded, `vanishing train"
    message = rf"history.csv: not what .*; {back}"
    with pytest.raises(store.UserError, match=message):
        store.check_history("vgg08", 0, store.read_summary(converted / "summary.json"))


def test_bytes_that_are_no_text_are_hashed_as_they_are(tmp_path):
    for name in ("a.safetensors", "a.npz", "a.pdf"):
        (tmp_path / name).write_bytes(b"\r\n")
        (tmp_path / "other").write_bytes(b"\n")
        assert files.sha256(tmp_path / name) != files.sha256(tmp_path / "other")
