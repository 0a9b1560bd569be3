"""The commands of docs/data.md that version a copy of the raw data, in a repository that ignores what ours ignores."""

import re
import shutil

import pytest
from engines import run, start

from examples import ROOT

GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
CONTENT = b"an archive"


@pytest.fixture
def folder(tmp_path):
    """A repository with DVC and a remote, and the archive where the page says that it is."""
    made = tmp_path / "study"
    (tmp_path / "Downloads").mkdir()
    (tmp_path / "Downloads" / "archive.zip").write_bytes(CONTENT)
    made.mkdir()
    shutil.copy(ROOT / ".gitignore", made)
    run(made, "git", "init", "--quiet")
    run(made, "dvc", "init", "--quiet")
    run(made, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    return made


def documented():
    """Return the page's section, and its shell commands."""
    section = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").split("\n## Your own copy, ")[1].split("\n## ")[0]
    return section, re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1]


def test_the_documented_commands_version_an_archive_that_another_clone_can_fetch(folder, tmp_path):
    section, commands = documented()
    run(folder, "sh", "-e", "-c", commands, HOME=str(tmp_path))
    push, pull = re.findall(r"`(dvc (?:push|pull) [^`]*)`", section)
    run(folder, *push.split())
    run(folder, *GIT, "add", "--all")
    assert run(folder, "git", "ls-files", "sources").split() == ["sources/.gitignore", "sources/archive.zip.dvc"]
    run(folder, *GIT, "commit", "--quiet", "--message", "Version the archive")
    run(tmp_path, "git", "clone", "--quiet", str(folder), "clone")
    assert not (tmp_path / "clone/sources/archive.zip").exists()
    run(tmp_path / "clone", *pull.split())
    assert (tmp_path / "clone/sources/archive.zip").read_bytes() == CONTENT


def test_the_documented_import_does_the_same(folder, tmp_path):
    command = re.search(r"dvc import-url ADDRESS \S+", documented()[1])[0]
    (folder / "sources").mkdir()
    run(folder, *command.replace("ADDRESS", str(tmp_path / "Downloads/archive.zip")).split())
    assert (folder / "sources/archive.zip").read_bytes() == CONTENT
    assert (folder / "sources/archive.zip.dvc").exists()


@pytest.mark.parametrize("command", [["add", "data/source"], ["import-url", "ARCHIVE", "data/source/archive.zip"]])
def test_a_copy_below_data_is_refused_as_the_page_says(folder, tmp_path, command):
    (folder / "data/source").mkdir(parents=True)
    archive = tmp_path / "Downloads/archive.zip"
    process = start(["dvc", *(str(archive) if word == "ARCHIVE" else word for word in command)], folder)
    assert "git-ignored" in process.communicate()[0]
    assert process.returncode != 0
