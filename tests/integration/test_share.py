"""What `vanishing share` and `vanishing restore` refuse, each in a line that says what to do."""

import hashlib
import shutil

import engines
import holders
import pytest
from clones import git, under_git
from programs import needs
from servers import free_port

from vanishing import files

AGAIN = "; see docs/remotes.md, then run the same command to resume\n"


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """Lay out the tiny study in a commit."""
    folder = tmp_path_factory.mktemp("committed") / "study"
    engines.lay_out(folder, {})
    under_git(folder)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A study")
    return folder


@pytest.fixture
def study(committed, tmp_path):
    """Copy the study, with a directory as its remote."""
    (tmp_path / "storage").mkdir()
    folder = shutil.copytree(committed, tmp_path / "study", symlinks=True)
    with_remote(folder, tmp_path / "storage")
    return folder


def with_remote(folder, place):
    """Name the remote as `dvc remote add --local --default` does."""
    (folder / ".dvc" / "config.local").write_text(f"[core]\nremote = storage\n['remote \"storage\"']\nurl = {place}\n")


def refused(folder, command, allowed=""):
    """Run a command that must fail; return the line that it ends in, after what is `allowed` and its name."""
    process = engines.start(["vanishing", command], folder)
    printed, _ = process.communicate(timeout=engines.HUNG)
    assert process.returncode == 1, printed
    before, name, told = printed.rpartition(f"vanishing {command}: ")
    assert (before, name) == (allowed, f"vanishing {command}: "), printed
    return told


@pytest.mark.parametrize("command", ["share", "restore"])
def test_without_a_remote_it_names_the_command_that_adds_one(study, command):
    (study / ".dvc" / "config.local").unlink()
    assert refused(study, command) == (
        "DVC has no default remote; `dvc remote add --default NAME PLACE` names one (docs/remotes.md)\n"
    )


@pytest.mark.parametrize("command", ["share", "restore"])
def test_a_directory_that_is_not_there_is_not_made(study, command):
    (study.parent / "storage").rmdir()
    assert refused(study, command) == (
        f"{study.parent}/storage: no such directory; mount the disk, or make it with `mkdir -p`\n"
    )
    assert not (study.parent / "storage").exists()


@pytest.mark.parametrize("command", ["share", "restore"])
def test_a_host_out_of_reach_is_told(study, command):
    needs("dvc_ssh")
    with_remote(study, f"ssh://127.0.0.1:{free_port()}/storage")
    printed = refused(study, command)
    assert printed.startswith("remote: [Errno 111] Connect call failed ('127.0.0.1', ")
    assert printed.endswith(AGAIN)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("command", ["share", "restore"])
def test_missing_credentials_are_told(study, monkeypatch, command):
    needs("dvc_s3")
    with_remote(study, "s3://study/storage")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(study / "none"))
    (study / "none").touch()
    assert refused(study, command) == f"remote: Unable to locate credentials{AGAIN}"


def test_what_the_results_stand_on_is_committed_first(study):
    (study / "notebooks" / "mine.ipynb").write_text("{}")  # which git does not know
    (study / "notes.txt").write_text("")  # nor this, on which nothing stands
    with (study / "params.yaml").open("a") as handle:
        handle.write("# edited\n")
    (study / "Snakefile").write_text((study / "Snakefile").read_text() + "# edited\n")
    git(study, "add", "Snakefile")
    assert refused(study, "share") == (
        "not committed: Snakefile, params.yaml, notebooks/mine.ipynb; "
        "commit them, or put them aside with `git stash --include-untracked`\n"
    )


def test_nobody_shares_without_git(study):
    (study / ".git").rename(study / "git")
    printed = refused(study, "share")
    assert printed.startswith("no commit to add to: ")
    assert printed.endswith("; without git, `dvc push` alone hands on data and checkpoints\n")


def test_a_mismatch_stops_it_before_anything_leaves_the_machine(study):
    engines.run(study, "dvc", "repro", "data")
    digest = files.digest(study / "data/generated.npz", "md5")
    cached = study / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    cached.chmod(0o644)
    cached.write_bytes(b"damaged")
    cached.chmod(0o444)  # which DVC trusts
    process = engines.start(["vanishing", "share"], study)
    printed, _ = process.communicate(timeout=engines.HUNG)
    assert process.returncode == 1, printed
    assert f"{cached.relative_to(study)}: found " in printed
    assert printed.splitlines()[-1].startswith("vanishing share: 1 file does not match")
    assert list((study.parent / "storage").iterdir()) == []
    assert git(study, "log", "--format=%s").splitlines() == ["A study"]


def test_a_study_trained_in_part_is_shared_and_restored_over_nothing_of_ones_own(study, tmp_path, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "A")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")
    engines.run(study, "dvc", "repro", "train@vgg08-0")
    printed = engines.run(study, "vanishing", "share")
    assert "objects sent to 'storage': " in printed
    assert "results/runs/vgg08/seed0/summary.json" in git(study, "ls-tree", "-r", "--name-only", "HEAD").split()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(study), str(clone))
    with_remote(clone, tmp_path / "storage")
    (clone / "data").mkdir()
    (clone / "data/generated.npz").write_text("my own")
    assert refused(clone, "restore", "objects brought from 'storage': 24\n") == (
        "remote: Can't remove the following unsaved files without confirmation. Use `dvc checkout --force` to force. "
        f"{clone}/data/generated.npz{AGAIN}"
    )
    assert (clone / "data/generated.npz").read_text() == "my own"
    (clone / "data/generated.npz").unlink()
    printed = engines.run(clone, "vanishing", "restore")
    assert "stages entered in Snakemake's record: 2 (data, train@vgg08-0)\n" in printed
    for name in ("data", "checkpoints"):
        assert {path.name: path.read_bytes() for path in (clone / name).rglob("*.*")} == {
            path.name: path.read_bytes() for path in (study / name).rglob("*.[ns]*")
        }


def test_nothing_is_restored_beside_a_training(study, holder):
    process = holder(holders.TRAINING, folder=study)
    assert refused(study, "restore").startswith("a training is at work here: ")
    process.communicate()


def test_without_a_record_there_is_nothing_to_restore(study):
    assert refused(study, "restore") == "dvc.lock: missing; nothing has been shared yet\n"


LOCK = """
schema: '2.0'
stages:
  train@vgg08-0:
    cmd: vanishing train vgg08 --seed 0
    outs:
    - path: checkpoints/vgg08/seed0
      hash: md5
      md5: {digest}
      size: 4
      nfiles: 1
"""


@pytest.mark.parametrize("name", ["../../../../evil", "epoch0000.safetensors"])
def test_a_list_that_a_remote_has_made_up_brings_no_file(study, tmp_path, name):
    """DVC itself puts each file where a directory's list says, and compares neither the list nor the place."""
    content, evil = b"evil", hashlib.md5(b"evil", usedforsecurity=False).hexdigest()
    right = hashlib.md5(b"[]", usedforsecurity=False).hexdigest() + ".dir"
    for digest, stored in ((evil, content), (right, f'[{{"md5": "{evil}", "relpath": "{name}"}}]'.encode())):
        path = tmp_path / "storage/files/md5" / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True)
        path.write_bytes(stored)
    (study / "dvc.lock").write_text(LOCK.format(digest=right))
    before = {path for path in tmp_path.rglob("*") if ".dvc" not in path.parts}
    process = engines.start(["vanishing", "restore"], study)
    printed, _ = process.communicate(timeout=engines.HUNG)
    assert process.returncode == 1, printed
    assert "checkpoints/vgg08/seed0: found no intact copy on 'storage'" in printed
    after = {path for path in tmp_path.rglob("*") if ".dvc" not in path.parts}
    assert {path.name for path in after - before} & {"evil", "epoch0000.safetensors"} == set()
