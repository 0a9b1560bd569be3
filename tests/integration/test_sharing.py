"""A checkout on a file system without `flock`, and one that several people share."""

import errno
import re
import signal
import subprocess
import time

import engines
import holders
import pytest
import users

import examples
from vanishing.engines import workspace
from vanishing.errors import UserError

TRAINED = "results/runs/vgg08/seed0/summary.json"
HARD_LINKS = "`dvc config --local core.hardlink_lock true` has it lock by hard links"


def tried(folder, *command, **variables):
    """Run a command; return its exit code and what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=engines.environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_both_engines_work_without_flock(tmp_path, no_flock):
    """Snakemake at once; DVC once it is told to lock by hard links, and the files of its failures are gone."""
    variables = no_flock(errno.EOPNOTSUPP)
    engines.lay_out(tmp_path, {})
    engines.run(tmp_path, "snakemake", "--cores", "1", TRAINED, **variables)
    code, printed = tried(tmp_path, "dvc", "repro", "train@vgg14_bn-0", **variables)
    assert (code, "Unable to acquire lock" in printed) == (255, True)
    code, printed = tried(tmp_path, "vanishing", "sync", **variables)
    assert (code, printed) == (
        1, f"vanishing sync: this file system has no flock, by which DVC locks; {HARD_LINKS}\n"
    )  # fmt: skip
    engines.run(tmp_path, "dvc", "config", "--local", "core.hardlink_lock", "true", **variables)
    assert "in DVC's record: 3 (configure, data, train@vgg08-0)" in engines.run(
        tmp_path, "vanishing", "sync", **variables
    )
    engines.run(tmp_path, "dvc", "repro", "train@vgg14_bn-0", **variables)
    assert "in Snakemake's record: 1 (train@vgg14_bn-0)" in engines.run(tmp_path, "vanishing", "sync", **variables)
    assert [path.name for path in (tmp_path / ".dvc" / "tmp").glob("*lock*")] == ["rwlock"]


def test_the_hard_link_of_a_killed_dvc_is_named_with_its_age(tmp_path):
    engines.lay_out(tmp_path, {})
    engines.run(tmp_path, "dvc", "config", "--local", "core.hardlink_lock", "true")
    (tmp_path / ".dvc" / "tmp").mkdir(exist_ok=True)
    claim = tmp_path / ".dvc" / "tmp" / "0123.lock"
    claim.write_text("0123")
    (tmp_path / ".dvc" / "tmp" / "lock").hardlink_to(claim)
    code, printed = tried(tmp_path, "vanishing", "sync")
    assert code == 1
    said = (
        "vanishing sync: another engine is at work here: DVC; if no engine runs on any machine, remove .dvc/tmp/lock ("
    )
    assert printed.startswith(said)
    assert printed.endswith(" s old)\n")
    (tmp_path / ".dvc" / "tmp" / "lock").unlink()
    engines.run(tmp_path, "vanishing", "sync")


HOLD = {"a training": holders.TRAINING, "another engine": holders.ENGINE}


@pytest.fixture
def group_folder():
    with users.shared_folder() as folder:
        yield folder


@pytest.fixture
def checkout(tmp_path):
    """Lay out the study, with an output."""
    engines.lay_out(tmp_path, {})
    (tmp_path / TRAINED).parent.mkdir(parents=True)
    (tmp_path / TRAINED).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("who", "option"),
    [
        ("another engine", "--delete-all"),
        ("another engine", "--forceall"),
        ("a training", "--delete-all-output"),
        ("a training", "--forceall"),
    ],
)
def test_snakemake_deletes_nothing_beside_work(checkout, holder, who, option):
    process = holder(HOLD[who], folder=checkout)
    code, printed = tried(checkout, "snakemake", "--cores", "1", option)
    assert code == 1, printed
    assert f"snakemake: {who} is at work here: " in printed.splitlines()[-1]
    assert f"(process {process.pid} on " in printed.splitlines()[-1]
    assert (checkout / TRAINED).read_text() == "{}"


def test_a_profile_that_makes_everything_again_is_seen(checkout, holder):
    holder(holders.TRAINING, folder=checkout)
    with (checkout / "profiles" / "default" / "config.yaml").open("a") as profile:
        profile.write("\nforceall: true\n")
    code, printed = tried(checkout, "snakemake", "--cores", "1")
    assert code == 1, printed
    assert "snakemake: a training is at work here: " in printed.splitlines()[-1]
    assert (checkout / TRAINED).read_text() == "{}"


def test_it_lists_what_it_would_delete_and_deletes_when_nobody_works(checkout, holder):
    process = holder(holders.TRAINING, folder=checkout)
    assert "Would delete" in engines.run(checkout, "snakemake", "--delete-all-output", "--dry-run")
    process.communicate()
    assert (checkout / TRAINED).exists()
    engines.run(checkout, "snakemake", "--cores", "1", "--delete-all-output")
    assert not (checkout / TRAINED).exists()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (holders.TRAINING, r"a training is at work here: vanishing train vgg08 \(process {pid} .*"),
        (holders.ENGINE, r"another engine is at work here: snakemake --cores 2 \(process {pid} .*"),
        (holders.DVC, r"another engine is at work here: \(PID {pid}\): dvc repro; .*"),
        (holders.DVC_BETWEEN_STAGES, "another engine is at work here: DVC"),
    ],
    ids=["training", "snakemake", "dvc", "dvc between two stages"],
)
def test_a_workspace_in_use_is_not_laid_out_again(checkout, holder, code, named):
    (checkout / ".dvc" / "tmp").mkdir(exist_ok=True)
    process = holder(code, folder=checkout)
    with pytest.raises(UserError) as caught:
        workspace.lay_out(examples.ROOT, checkout, None)
    assert re.fullmatch(f"{re.escape(str(checkout))}: {named.format(pid=process.pid)}", str(caught.value))
    process.communicate()
    workspace.lay_out(examples.ROOT, checkout, None)


TAKE = """
from pathlib import Path
from vanishing import locks
with locks.hold(Path("x.lock"), wait=0):
    print("held")
"""


@pytest.mark.parametrize("mode", [0o2775, 0o3777], ids=["a group's", "sticky"])
def test_a_lock_passes_from_one_user_to_another(group_folder, mode):
    """In a sticky folder the system forbids to open the files of others as if to make them, and to remove them."""
    group_folder.chmod(mode)
    for name in (*users.NAMES, users.NAMES[0]):
        assert tried(group_folder, *users.command(name, group_folder, "python", "-c", TAKE)) == (0, "held\n")
    assert [path.name for path in group_folder.glob("x.lock*")] == ["x.lock"]


def test_a_user_who_may_not_write_is_told_so_in_one_line(group_folder):
    checkout = group_folder / "study"
    first, second = users.NAMES
    users.lay_out(checkout)
    for path in (checkout, *checkout.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    code, printed = tried(checkout, *users.command(second, group_folder, "vanishing", "data"))
    assert (code, printed.splitlines()[-1]) == (1, "vanishing data: data: Permission denied")
    engines.run(checkout, *users.command(first, group_folder, "vanishing", "data"))
    (checkout / "data").chmod(0o755)
    for command in (["train", "vgg08", "--seed", "0"], ["samples"], ["sync"]):
        code, printed = tried(checkout, *users.command(second, group_folder, "vanishing", *command))
        assert (code, len(printed.splitlines())) == (1, 1), printed
        assert printed.endswith(": Permission denied\n")


def test_who_comes_second_goes_on_with_a_training_of_the_first(group_folder):
    """The first is killed; the second takes its lock, its state and its folders over, and publishes the results."""
    checkout = group_folder / "study"
    first, second = users.NAMES
    users.lay_out(checkout, train={"epochs": 40})
    engines.run(checkout, *users.command(first, group_folder, "vanishing", "data"))
    variables = engines.eager(group_folder)
    train = ("vanishing", "train", "vgg08", "--seed", "0")
    process = engines.start(users.command(first, group_folder, *train), checkout, variables)
    while not list((checkout / ".vanishing").rglob("state.safetensors")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    printed, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, printed
    assert list((checkout / ".vanishing" / "locks").glob("vgg08-seed0.lock.*"))
    printed = engines.run(checkout, *users.command(second, group_folder, *train))
    assert "going on from epoch " in printed
    made = [path for path in (checkout / "results").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o664}
    assert {path.stat().st_gid for path in made} == {users.GROUP}
    assert len(made) == 2
    assert [path.name for path in (checkout / ".vanishing" / "locks").iterdir()] == ["vgg08-seed0.lock"]
