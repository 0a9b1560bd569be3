"""What `make release` builds: an archive of the last commit, the same bytes each time, that says one version."""

import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import clones
import pytest

import examples
from vanishing.errors import UserError

VERSION = tomllib.loads((examples.ROOT / "pyproject.toml").read_text())["project"]["version"]
NAME = f"vanishing-{VERSION}"
COMMITTED = 1_700_000_000
"""Unix time of the commit."""


@pytest.fixture
def script(monkeypatch):
    """Return `workflow/release.py`, in an environment that has the project's version."""
    spec = importlib.util.spec_from_file_location("release", examples.ROOT / "workflow" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.importlib.metadata, "version", lambda _: VERSION)
    return module


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A repository with one commit, of the files that git knows here, as they are now."""
    folder = tmp_path_factory.mktemp("project")
    examples.copy_committed(folder)
    clones.git(folder, "init", "--quiet")
    commit(folder)
    return folder


@pytest.fixture
def project(committed, tmp_path, monkeypatch):
    """A copy of that repository, which is the working folder."""
    monkeypatch.chdir(shutil.copytree(committed, tmp_path / "project"))
    return Path.cwd()


def commit(folder):
    clones.git(folder, "add", "--all")
    date = f"--date=@{COMMITTED}"
    clones.run(
        folder, "git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", date, "-m", "x",
        GIT_COMMITTER_DATE=f"@{COMMITTED}", GIT_CONFIG_GLOBAL=os.devnull,
    )  # fmt: skip


def built():
    return {path.name: path.read_bytes() for path in Path("build/release").iterdir()}


def test_a_release_is_every_committed_file_the_same_bytes_each_time_and_says_what_it_holds(script, project, capsys):
    script.release()
    files = [f"{NAME}.tar.gz", f"{NAME}-manifest.json", "SHA256SUMS"]
    assert capsys.readouterr().out.splitlines() == [f"build/release/{name}" for name in files]
    first = built()
    clones.git(project, "config", "tar.umask", "0077")
    os.utime(project / "README.md")
    script.release()
    assert built() == first

    sums = first.pop("SHA256SUMS").decode().splitlines()
    assert sorted(sums) == sorted(f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in first.items())
    with tarfile.open(fileobj=io.BytesIO(first[f"{NAME}.tar.gz"])) as archive:
        members = [member for member in archive if not member.isdir()]
        found = {member.name: archive.extractfile(member).read() for member in members}
        assert {member.mtime for member in members} == {COMMITTED}
        assert {member.mode for member in members} == {0o644, 0o755}
    assert found == {f"{NAME}/{name}": (project / name).read_bytes() for name in examples.committed()}

    manifest = json.loads(first[f"{NAME}-manifest.json"])
    assert manifest["revision"] == clones.git(project, "rev-parse", "HEAD").strip()
    assert set(manifest) == {"revision", "repeats"}
    outputs = manifest["repeats"]["outputs"]
    summaries = sorted(map(str, Path("results").glob("runs/*/*/summary.json")))
    assert [name for name in outputs if name.endswith("summary.json")] == summaries
    for name, digest in outputs.items():
        assert hashlib.sha256((project / name).read_bytes()).hexdigest() == digest, name


def test_outputs_that_are_not_committed_are_not_in_the_manifest(script, project):
    Path("data").mkdir()
    Path("data/cifar100.npz").write_bytes(b"images")
    Path("report/report.pdf").write_bytes(b"report")
    script.release()
    repeats = json.loads(built()[f"{NAME}-manifest.json"])["repeats"]
    assert repeats["data"] == {"data/cifar100.npz": None}
    assert "report/report.pdf" not in repeats["outputs"]


def test_the_compressed_archive_names_neither_a_date_nor_a_file(script, project):
    content = script.packed("x/")
    assert content[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
    listed = subprocess.run(["git", "get-tar-commit-id"], input=gzip.decompress(content), stdout=-1, check=True).stdout
    assert listed.decode() == clones.git(project, "rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["new file", "README.md"])
def test_what_is_not_committed_is_named(script, project, name):
    (project / name).write_text("x")
    with pytest.raises(UserError, match=rf"^not committed: {name}; commit them, or put them aside with `git stash"):
        script.release()
    assert not Path("build").exists()


def test_a_folder_without_git_is_no_release(script, project):
    shutil.rmtree(project / ".git")
    with pytest.raises(UserError, match=r"^no commit to make an archive of: fatal: not a git repository"):
        script.release()


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("pyproject.toml", f'\nversion = "{VERSION}"'),
        ("CITATION.cff", f"\nversion: {VERSION}"),
        (".zenodo.json", f'"version": "{VERSION}"'),
        ("CHANGELOG.md", f"\n## [{VERSION}]"),
    ],
)
def test_a_file_with_another_version_is_named(script, project, name, before):
    text = (project / name).read_text()
    assert text.count(before) == 1
    (project / name).write_text(text.replace(before, before.replace(VERSION, "9.8.7")))
    commit(project)
    with pytest.raises(UserError, match=r"^versions differ: pyproject\.toml has ") as raised:
        script.release()
    assert f"{name} has 9.8.7" in str(raised.value)
    assert str(raised.value).count(VERSION) == 4
    assert not Path("build").exists()


def test_an_environment_of_another_version_is_named(script, project, monkeypatch):
    monkeypatch.setattr(script.importlib.metadata, "version", lambda _: "0.0.1")
    with pytest.raises(UserError, match=r"the environment \(`make setup`\) has 0\.0\.1$"):
        script.release()
