"""A finished study shared through each kind of remote, and what a clone of it restores.

One kind alone: `pytest tests/stress/test_remotes.py -k ssh`, or `s3`, or `directory`.
"""

import contextlib
import hashlib
import json
import shutil
import time

import pytest
import users
import yaml
from clones import git, nothing_to_do, under_git
from engines import HUNG, content, run, start
from programs import needs
from servers import KINDS, Relay

from vanishing import files

PUSHED = 1_000_000
"""Bytes of an interrupted push that get through, of 2.3 million."""


@pytest.fixture(scope="module")
def finished(build, tmp_path_factory):
    """A study that Snakemake has built, committed without its results."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    shutil.copytree(build("snakemake"), folder)
    under_git(folder)
    git(folder, "config", "user.name", "A")
    git(folder, "config", "user.email", "a@example.org")
    git(folder, "add", "--all", "--", ".", ":!results")
    git(folder, "commit", "--quiet", "--message", "A study")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def server(request, tmp_path_factory):
    server = KINDS[request.param](tmp_path_factory.mktemp(request.param))
    with server.up():
        yield server


def settle(folder, settings):
    """Enter what this checkout alone is told of the remote: keys, and ports that the test has chosen."""
    for option, value in settings.items():
        run(folder, "dvc", "remote", "modify", "--local", "storage", option, value)


def with_remote(study, folder, server, place):
    """Copy a study, and give it a remote: the place is committed, the keys are not."""
    shutil.copytree(study, folder, symlinks=True)
    run(folder, "dvc", "remote", "add", "--default", "storage", server.url(place))
    git(folder, "commit", "--quiet", "--all", "--message", "Name the remote")
    settle(folder, server.settings)
    return folder


def clone(study, folder, server):
    git(folder.parent, "clone", "--quiet", str(study), str(folder))
    settle(folder, server.settings)
    return folder


@pytest.fixture(scope="module")
def shared(finished, server, tmp_path_factory):
    """The study after `vanishing share`."""
    folder = with_remote(finished, tmp_path_factory.mktemp("shared") / "study", server, "shared")
    began = time.monotonic()
    printed = run(folder, "vanishing", "share")
    print(f"share: {time.monotonic() - began:.1f} s")
    assert "no mismatch; " in printed
    assert "committed; `git push` hands it on\n" in printed
    return folder


def tracked(folder, revision="HEAD"):
    return set(git(folder, "ls-tree", "-r", "--name-only", revision).split())


def test_the_record_is_committed_alone_and_the_rest_is_on_the_remote(shared, server):
    new = tracked(shared) - tracked(shared, "HEAD~1")
    assert {"dvc.lock", "results/runs/vgg08/seed0/summary.json", "docs/results.md", "docs/analyses.md"} <= new
    assert {name for name in new if not name.startswith("results/")} == {
        "dvc.lock", "docs/results.md", "docs/result.svg", "docs/analyses.md",
    }  # fmt: skip
    assert git(shared, "diff", "--name-only", "HEAD~1", "HEAD", "--diff-filter=M").split() == ["README.md"]
    assert git(shared, "log", "-1", "--format=%s").strip() == "Record the results of 2 trainings"
    assert whole(server, "shared") == objects(shared)


def objects(folder):
    """Return the names of the objects in the cache of a checkout, but for the results, which git has."""
    cache = folder / ".dvc/cache"
    in_git = {files.digest(path, "md5") for path in (folder / "results").rglob("*") if path.is_file()}
    found = {f"{path.parent.name}{path.name}": path.relative_to(cache) for path in cache.glob("files/md5/??/*")}
    return {path.as_posix() for digest, path in found.items() if digest not in in_git}


def whole(server, place):
    """Return the names of the objects at a place, each of which must be what its name says."""
    found = server.keys(place)
    for key in found:
        digest = hashlib.md5(server.read(place, key), usedforsecurity=False).hexdigest()
        assert digest == key.removeprefix("files/md5/").replace("/", "").removesuffix(".dir")
    return set(found)


def test_a_clone_restores_all_of_it_and_makes_the_same_report(shared, server, tmp_path):
    folder = clone(shared, tmp_path / "clone", server)
    began = time.monotonic()
    run(folder, "vanishing", "restore")
    print(f"restore: {time.monotonic() - began:.1f} s")
    nothing_to_do(folder)
    assert run(folder, "dvc", "status").strip() == "Data and pipelines are up to date."
    assert content(folder) == content(shared)
    (folder / "report/report.pdf").unlink()
    printed = run(folder, "snakemake", "report", "--cores", "1", "--config", "from_results=true")
    assert "vanishing report" in printed
    assert (folder / "report/report.pdf").read_bytes() == (shared / "report/report.pdf").read_bytes()


@contextlib.contextmanager
def cut(server, folder, place):
    """Yield a wait for the moment at which a push is half done, and let nothing more through."""
    with Relay(server.port, PUSHED) as relay:
        settle(folder, server.through(relay.port))
        yield lambda: relay.dead.wait(timeout=HUNG)


@pytest.mark.parametrize("server", ["ssh", "s3"], indirect=True, scope="module")
def test_a_push_that_is_killed_goes_on_with_the_same_command(finished, server, tmp_path):
    folder = with_remote(finished, tmp_path / "study", server, "killed")
    with cut(server, folder, "killed") as wait:
        process = start(["vanishing", "share"], folder)
        assert wait()
        process.kill()
        process.communicate()
    settle(folder, server.settings)
    before = whole(server, "killed")
    assert 0 < len(before) < len(objects(folder))
    assert "dvc.lock" not in tracked(folder)  # no commit that names what the remote lacks
    printed = run(folder, "vanishing", "share")
    assert f"objects sent to 'storage': {len(objects(folder)) - len(before)}\n" in printed
    assert whole(server, "killed") == objects(folder)
    restored = clone(folder, tmp_path / "clone", server)
    run(restored, "vanishing", "restore")
    nothing_to_do(restored)


def key_of(folder, stage, path):
    """Return the name in a remote of an output that a stage has recorded."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    digest = next(out["md5"] for out in lock["stages"][stage]["outs"] if out["path"] == path)
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def list_of_checkpoints(folder):
    return key_of(folder, "train@vgg08-0", "checkpoints/vgg08/seed0")


def a_checkpoint(folder):
    listed = json.loads((folder / ".dvc/cache" / list_of_checkpoints(folder)).read_text())
    digest = next(each["md5"] for each in listed if each["relpath"] == "epoch0000.safetensors")
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def the_images(folder):
    return key_of(folder, "data", "data/generated.npz")


MENDS = "`vanishing share --all` mends the remote, where they are whole or made again"

DAMAGED = {
    the_images: ("data/generated.npz", "vanishing data"),
    a_checkpoint: ("checkpoints/vgg08/seed0/epoch0000.safetensors", "vanishing train vgg08 --seed 0"),
    list_of_checkpoints: ("checkpoints/vgg08/seed0", "vanishing train vgg08 --seed 0"),
}
"""By what is damaged on the remote: what a clone misses, and the command that makes it again."""


@pytest.fixture
def damaged(shared, server):
    """Return what flips a bit in the middle of an object on the remote; afterwards it is what it was."""
    before = {}

    def damage(key):
        before[key] = server.read("shared", key)
        flipped = bytearray(before[key])
        flipped[len(flipped) // 2] ^= 1
        server.write("shared", key, bytes(flipped))

    yield damage
    for key, whole_one in before.items():
        server.write("shared", key, whole_one)


def last_line(folder, *command):
    """Run a command that must fail, and return its last line and all that it printed."""
    process = start(list(command), folder)
    printed, _ = process.communicate(timeout=HUNG)
    assert process.returncode == 1, printed
    return printed.splitlines()[-1], printed


@pytest.mark.parametrize(
    ("server", "which"),
    [*((kind, [the_images, a_checkpoint]) for kind in KINDS), ("directory", [list_of_checkpoints])],
    indirect=["server"],
    scope="module",
)
def test_what_is_damaged_on_the_remote_is_refused_named_and_mended(shared, server, damaged, tmp_path, which):
    folder = clone(shared, tmp_path / "clone", server)
    for each in which:
        damaged(each(shared))
    last, printed = last_line(folder, "vanishing", "restore")
    for each in which:
        path, command = DAMAGED[each]
        digest = each(shared).removeprefix("files/md5/").replace("/", "")
        expected = f"expected {digest} (dvc.lock); next: `{command}`"
        assert f"{path}: found no intact copy on 'storage', {expected}\n" in printed
        assert not (folder / path).exists()
    assert last == f"vanishing restore: not restored: {len(which)}; {MENDS}"
    printed = run(shared, "vanishing", "share", "--all")
    for each in which:
        assert f"{DAMAGED[each][0]}: 'storage' had no intact copy, now it has\n" in printed
    assert "objects sent to 'storage': 0\n" in printed
    assert "nothing new to commit\n" in printed
    assert whole(server, "shared") == objects(shared)
    run(folder, "vanishing", "restore")
    assert "no mismatch; " in run(folder, "vanishing", "verify")
    nothing_to_do(folder)


@pytest.mark.parametrize("server", ["s3"], indirect=True, scope="module")
def test_verify_finds_what_a_plain_pull_has_brought_and_its_commands_mend_it(shared, server, damaged, tmp_path):
    folder = clone(shared, tmp_path / "clone", server)
    key = the_images(shared)
    damaged(key)
    run(folder, "dvc", "pull")  # which compares nothing by default
    _, printed = last_line(folder, "vanishing", "verify")
    named = [line for line in printed.splitlines() if line.startswith(("data/generated.npz: ", ".dvc/cache/"))]
    assert [line.partition(": ")[0] for line in named] == ["data/generated.npz", f".dvc/cache/{key}"]
    for line in named:
        run(folder, "sh", "-c", line.rpartition("next: `")[2].removesuffix("`"))
    run(folder, "vanishing", "sync")
    assert "no mismatch; " in run(folder, "vanishing", "verify")
    nothing_to_do(folder)


PROXY = """
Host study-storage
    HostName 127.0.0.1
    Port {server.port}
    IdentityFile {server.folder}/user
    ProxyCommand ssh -F none -i {server.folder}/user -o UserKnownHostsFile={known} -o BatchMode=yes -p %p -W %h:%p %r@%h
"""
"""As in docs/remotes.md, with the port and the keys of this server: `~/.ssh` of whoever runs the tests has neither."""


GROUP_PUSH = """
set -e
umask 022
export DVC_SITE_CACHE_DIR=$HOME/dvc
dvc init --no-scm --quiet
dvc remote add --default storage {storage}
dvc remote modify storage shared group
dvc add --quiet file
dvc push
"""


def test_openssh_checks_the_host_where_it_makes_the_connection(tmp_path):
    needs("ssh")
    for name in ("server", "home/.ssh", "project"):
        (tmp_path / name).mkdir(parents=True)
    server, known, project = KINDS["ssh"](tmp_path / "server"), tmp_path / "known", tmp_path / "project"
    (tmp_path / "home/.ssh/config").write_text(PROXY.format(server=server, known=known))
    place = server.url("hosts").replace("127.0.0.1", "study-storage")
    run(project, "dvc", "init", "--no-scm", "--quiet")
    run(project, "dvc", "remote", "add", "--default", "storage", place)
    with server.up():
        for name, expected in (("user", 0), ("host", 1)):  # another key than the host's, then its own
            kind, key = (server.folder / f"{name}.pub").read_text().split()[:2]
            known.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
            (project / name).write_text(name)
            run(project, "dvc", "add", "--quiet", name)
            pushed = start(["dvc", "push", f"{name}.dvc"], project, {"HOME": f"{tmp_path}/home"})
            printed, _ = pushed.communicate(timeout=HUNG)
            assert (pushed.returncode == 0) == bool(expected), printed
            assert len(server.keys("hosts")) == expected


def test_a_directory_of_a_group_takes_what_every_member_pushes():
    """Under the umask 022 too, and into one folder of the remote: both objects' names begin with `00`."""
    texts = (f"{number}" for number in range(10_000))
    found = [text for text in texts if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().startswith("00")]
    with users.shared_folder() as folder:
        (folder / "storage").mkdir()
        (folder / "storage").chmod(0o2775)
        for name, text in zip(users.NAMES, found, strict=False):
            project = folder / name
            project.mkdir()
            (project / "file").write_text(text)
            for path in (project, project / "file"):
                shutil.chown(path, name)
            script = GROUP_PUSH.format(storage=folder / "storage")
            run(project, *users.command(name, folder, "sh", "-c", script))
        assert len(list((folder / "storage").glob("files/md5/00/*"))) == len(users.NAMES)
