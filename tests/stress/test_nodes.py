"""Two nodes of a cluster in one folder: each a host name, a start of the system and process numbers of its own.

Linux's namespaces give all three to the processes of one machine; both nodes count processes from 1, so that their
numbers coincide. What a real file system adds, the delays of its caches, is not there.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import engines
import pytest
from programs import lacks

from vanishing import locks

RUNS = list(engines.RUNS)
TRAIN = {"epochs": 24, "batch_size": 2, "snapshots": [1]}
"""Ten seconds each, longer than a node takes to see that another one is alive."""

BEAT, PATIENCE = locks.BEAT / 10, locks.PATIENCE / 10
"""Of the nodes: a tenth of what they are, in the same proportion to each other, so that deaths are soon noticed."""

PROGRAM = """#!{python}
import sys

from vanishing import locks

locks.BEAT, locks.PATIENCE = {beat}, {patience}
{then}
"""

VANISHING = """
from vanishing import cli

if sys.argv[1] == "train":
    from vanishing.training import loop

    loop.SAVE_EVERY = {every}
sys.exit(cli.main())
"""

SNAKEMAKE_PROGRAM = """
from snakemake.cli import main

sys.exit(main())
"""

MISSING = ["vanishing", "train", *RUNS, "--missing"]
ONE = ["vanishing", "train", "vgg14_bn", "--seed", "0"]
SNAKEMAKE = ["snakemake", "--cores", "1", *(f"results/runs/{run}/seed0/summary.json" for run in RUNS)]

END = 600.0
"""Seconds within which everything must end, on cores that others use too: most wait for `PATIENCE` twice."""

NODE = 'hostname "$1" && mount --bind "$2" /proc/sys/kernel/random/boot_id && shift 2 && "$@"; exit $?'
UNSHARE = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", NODE, "sh"]

EAGER = 0.0
"""Seconds between the saves of a node that is to die."""

FLOCK = {"for both": None, "for each": 0, "for none": errno.ENOSYS}
"""What `flock` is: of the file system, of each node alone (Lustre's `localflock`), or not there."""


@pytest.fixture(params=FLOCK)
def flock(request):
    """Return the variables under which a node's processes see a kind of `flock`."""
    kind = FLOCK[request.param]
    lock = {} if kind is None else request.getfixturevalue("no_flock")(kind)
    return lock | programs(request.getfixturevalue("tmp_path") / "programs")


@pytest.fixture
def node(tmp_path):
    """Return a starter of commands on nodes by name; all end with the test."""
    with contextlib.ExitStack() as ending:

        def start(name: str, command: list[str], folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
            boot = tmp_path / f"boot-{name}"
            if not boot.exists():
                boot.write_text(f"{uuid.uuid4()}\n")
            process = engines.start([*UNSHARE, name, str(boot), *command], folder, variables)
            ending.callback(end, process)
            return process

        tried = start("node", ["true"], tmp_path, {})
        said, _ = tried.communicate(timeout=END)
        if tried.returncode:
            lacks(f"no namespaces, as only root makes them: {said.strip()}")
        yield start


def programs(folder: Path, every: float = 30.0) -> dict[str, str]:
    """Write a node's `vanishing` and `snakemake`, which notice deaths soon; return the variables to run them."""
    folder.mkdir()
    for name, then in (("vanishing", VANISHING.format(every=every)), ("snakemake", SNAKEMAKE_PROGRAM)):
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, beat=BEAT, patience=PATIENCE, then=then))
        program.chmod(0o755)
    first = folder / "first"  # read by the shells of Snakemake's jobs, before which it puts its own Python's programs
    first.write_text(f"PATH={shlex.quote(str(folder))}:$PATH\n")
    return {"PATH": f"{folder}:{engines.environment()['PATH']}", "BASH_ENV": str(first)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return a folder with the data, and one with the trainings too, that nothing has disturbed."""
    untrained, trained = (tmp_path_factory.mktemp(name) / "study" for name in ("untrained", "trained"))
    engines.lay_out(untrained, {}, train=TRAIN)
    engines.run(untrained, "vanishing", "data")
    shutil.copytree(untrained, trained, symlinks=True)
    engines.run(trained, *MISSING)
    return untrained, trained


@pytest.fixture
def study(undisturbed, tmp_path):
    """Return a folder with the data, before any training."""
    return Path(shutil.copytree(undisturbed[0], tmp_path / "study", symlinks=True))


def end(process):
    """Kill a node: `unshare` takes the first process of its namespace along, and that one all others."""
    process.kill()
    process.wait()
    process.stdout.close()


def printed(process):
    """Return what a command has printed, once it has ended by itself."""
    said, _ = process.communicate(timeout=END)
    return said


def wait_for(process, folder, pattern):
    """Wait until there is a file of this pattern."""
    until = time.monotonic() + END
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)


def epochs(*said):
    """Count how often each epoch of each run was trained, from what the trainings have printed."""
    return Counter(found for text in said for found in re.findall(r"^(\w+), seed 0: .*epoch (\d+)/", text, re.M))


ONCE = Counter((run, f"{epoch}") for run in RUNS for epoch in range(1, TRAIN["epochs"] + 1))


def trained(folder):
    """Return the bytes of all that the trainings make."""
    return {name: bytes_ for name, bytes_ in engines.content(folder).items() if name.startswith(("check", "results"))}


@pytest.mark.parametrize("flock", ["for both", "for none"], indirect=True)
def test_of_two_nodes_that_train_the_same_at_once_one_does_and_the_other_names_it(node, undisturbed, study, flock):
    both = {name: node(name, ONE, study, flock) for name in ("nodeA", "nodeB")}
    said = {name: printed(process) for name, process in both.items()}
    codes = {name: process.returncode for name, process in both.items()}
    assert sorted(codes.values()) == [0, 75], said
    refused, first = sorted(codes, key=codes.get, reverse=True)
    who = rf"vanishing train vgg14_bn --seed 0 \(process \d+ on {first}, for \d+ s\); if that machine is dead, remove "
    named = (
        rf"^vanishing train: run 'vgg14_bn', seed 0 is being trained by {who}\.vanishing/locks/vgg14_bn-seed0\.lock\."
    )
    assert re.search(named, said[refused], re.M), said
    assert epochs(*said.values()) == {each: 1 for each in ONCE if each[0] == "vgg14_bn"}
    of_it = {name: bytes_ for name, bytes_ in trained(undisturbed[1]).items() if "/vgg14_bn/" in name}
    assert trained(study) == of_it


def test_two_nodes_share_what_is_missing_and_each_training_is_done_once(node, undisturbed, study, flock):
    both = [node(name, MISSING, study, flock) for name in ("nodeA", "nodeB")]
    said = [printed(process) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 75]), said
    assert epochs(*said) == ONCE
    if codes == [0, 75]:
        left = (
            r"^vanishing train: 1 of 2 trainings left to the processes that are at work on them: vgg\w+:0; the others"
        )
        assert re.search(left, said[both[0].returncode == 0], re.M), said
    assert trained(study) == trained(undisturbed[1])
    assert engines.run(study, *MISSING).endswith("nothing is missing\n")


@pytest.mark.parametrize("flock", ["for each", "for none"], indirect=True)
def test_what_a_node_was_training_when_it_died_another_finishes(node, undisturbed, study, flock, tmp_path):
    dying = node(
        "nodeA", ["vanishing", "train", "vgg14_bn", "--missing"], study, flock | programs(tmp_path / "eager", EAGER)
    )
    wait_for(dying, study, ".vanishing/resume/vgg14_bn/seed0/*/state.safetensors")
    other = node("nodeB", MISSING, study, flock)
    wait_for(other, study, ".vanishing/locks/vgg08-seed0.lock.*")
    time.sleep(2.0)
    dying.kill()
    killed = time.monotonic()
    said = [dying.stdout.read(), printed(other)]
    took = time.monotonic() - killed
    print(f"ended {took:.0f} s after the kill")
    assert other.returncode == 0, said
    assert took > PATIENCE
    begun = re.search(r"going on from epoch (\d+), iteration \d+", said[1])
    assert begun, said
    counted = epochs(*said)
    assert counted.keys() == ONCE.keys()
    repeated = [each for each, times in counted.items() if times > 1]
    assert repeated in ([], [("vgg14_bn", begun[1])]), "at most the epoch that was under way"
    assert trained(study) == trained(undisturbed[1])


@pytest.mark.parametrize("flock", ["for both", "for none"], indirect=True)  # DVC's locks have no third way
def test_of_two_snakemakes_on_two_nodes_one_is_refused_and_takes_over_from_a_dead_one(
    node, undisturbed, study, flock, tmp_path
):
    head = node("nodeA", SNAKEMAKE, study, flock | programs(tmp_path / "eager", EAGER))
    wait_for(head, study, ".vanishing/resume/*/seed0/*/state.safetensors")
    refused = node("nodeB", SNAKEMAKE, study, flock)
    said = printed(refused)
    assert refused.returncode == 1, said
    assert re.search(r"^at work here: snakemake --cores 1 .+ \(process \d+ on nodeA, for \d+ s\); if that", said, re.M)
    assert head.poll() is None, "and is left in peace"
    head.kill()
    killed = time.monotonic()
    first = head.stdout.read()
    other = node("nodeB", SNAKEMAKE, study, flock)
    said = printed(other)
    print(f"ended {time.monotonic() - killed:.0f} s after the kill")
    assert other.returncode == 0, said
    assert "going on from epoch" in said
    assert epochs(first, said).keys() == ONCE.keys()
    assert trained(study) == trained(undisturbed[1])
    assert "Nothing to be done" in engines.run(study, *SNAKEMAKE)
