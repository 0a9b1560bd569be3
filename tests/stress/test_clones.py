"""A finished study committed and pushed, and what a clone of it does: its report alone, or nothing at all.

And what becomes of it in an archive without git, in an experiment of DVC, and with outputs that are links.
"""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from clones import git, nothing_to_do, under_git
from engines import HUNG, WINDOWS, planned, run, start

from vanishing import config, files

OWN = {".git", ".dvc", ".snakemake", ".vanishing"}
"""Folders that git and the engines keep for themselves."""


@pytest.fixture(scope="module")
def shared(build, tmp_path_factory):
    """A study that Snakemake has built, shared as README says: results in git, the rest pushed."""
    folder, remote = tmp_path_factory.mktemp("shared") / "study", tmp_path_factory.mktemp("remote")
    shutil.copytree(build("snakemake"), folder)
    under_git(folder)
    run(folder, "dvc", "remote", "add", "--default", "storage", str(remote))
    run(folder, "vanishing", "sync")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A finished study")
    run(folder, "dvc", "push")
    return folder


@pytest.fixture(scope="module")
def pulled(shared, tmp_path_factory):
    """A clone after `dvc pull` and `vanishing sync`."""
    folder = tmp_path_factory.mktemp("pulled") / "clone"
    git(folder.parent, "clone", "--quiet", str(shared), str(folder))
    run(folder, "dvc", "pull")
    run(folder, "vanishing", "sync")
    return folder


def both_see_a_changed_learning_rate(folder):
    """Assert it, so that having nothing to do is no blindness."""
    content = config.read(folder / "params.yaml")
    content["runs"] = config.merge(content["runs"], {"vgg08": {"train": {"learning_rate": 0.002}}})
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    assert {name for rule, name in planned(folder) if rule == "train"} == {"vgg08"}
    assert set(json.loads(run(folder, "dvc", "status", "--json"))) == {"configure"}


def test_git_has_the_results_and_nothing_that_is_pushed(shared):
    tracked = set(git(shared, "ls-files").split())
    assert {"results/runs/vgg08/seed0/gradients.csv", "results/tables/core.csv", "dvc.lock"} <= tracked
    made = ("data/", "checkpoints/", "configuration/", "report/figures/", "report/tables/", "report/comparison/")
    assert not [name for name in tracked if name.startswith((*made, ".snakemake/", ".vanishing/", "logs/"))]
    assert "report/report.pdf" not in tracked


@pytest.mark.parametrize("options", [[], WINDOWS], ids=["plain", "Windows"])
def test_a_clone_makes_the_report_alone_without_data_or_training(shared, tmp_path, options):
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", *options, str(shared), str(folder))
    shutil.copytree(shared / "report/samples", folder / "report/samples")  # the page that stands on data
    start = time.monotonic()
    printed = run(folder, "snakemake", "report", "--cores", "2", "--config", "from_results=true")
    print(f"the report alone, from a clone: {time.monotonic() - start:.1f} s")
    assert "vanishing report" in printed
    assert not [verb for verb in ("data", "train", "gradients") if f"vanishing {verb}" in printed]
    assert not [made for made in ("data", "checkpoints") if (folder / made).exists()]
    assert (folder / "report/report.pdf").read_bytes() == (shared / "report/report.pdf").read_bytes()
    assert git(folder, "status", "--porcelain") == ""
    run(folder, "dvc", "pull")  # what was built here is what was pushed, and in nobody's way
    run(folder, "vanishing", "sync")
    nothing_to_do(folder)
    run(folder, "vanishing", "check")
    assert "no mismatch; " in run(folder, "vanishing", "verify")
    nothing_to_do(folder)


def test_a_clone_whose_text_git_has_converted_is_right_and_nobody_advises_to_train(shared, tmp_path):
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-checkout", str(shared), str(folder))
    (folder / ".git/info/attributes").write_text("* text eol=crlf\n")  # which goes before .gitattributes
    git(folder, "checkout", "--quiet")
    checks = Path("results/checks.csv")
    assert b"\r\n" in (folder / checks).read_bytes()
    run(folder, "dvc", "pull")
    printed = [run(folder, "vanishing", command) for command in ("verify", "check", "verify")]
    assert all("no mismatch; " in found for found in (printed[0], printed[2]))
    assert files.content(folder / checks) == (shared / checks).read_bytes()
    (folder / "report/report.pdf").unlink()
    printed.append(run(folder, "snakemake", "report", "--cores", "2", "--config", "from_results=true"))
    assert (folder / "report/report.pdf").read_bytes() == (shared / "report/report.pdf").read_bytes()
    assert "vanishing train" not in "".join(printed)
    git(folder, "add", "--update")  # git calls a file of another size changed until it has looked into it
    assert git(folder, "status", "--porcelain") == ""


def test_a_clone_that_has_built_its_report_and_repeated_the_rest_with_dvc_needs_one_sync(shared, tmp_path):
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(shared), str(folder))
    shutil.copytree(shared / "report/samples", folder / "report/samples")
    run(folder, "snakemake", "report", "--cores", "2", "--config", "from_results=true")
    run(folder, "dvc", "repro")
    printed = run(folder, "vanishing", "sync")
    assert "stages entered in DVC's record: 0\n" in printed
    assert "stages entered in Snakemake's record: 0\n" not in printed
    nothing_to_do(folder)


def test_an_archive_without_git_is_checked_and_gives_the_report_and_its_engines_what_they_need(shared, tmp_path):
    folder = tmp_path / "archive"
    git(shared, "archive", "--output", str(tmp_path / "archive.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "archive.tar", folder)
    assert "no mismatch; " in run(folder, "vanishing", "verify")
    assert json.loads(run(folder, "vanishing", "manifest"))
    assert "vgg08" in run(folder, "vanishing", "show")
    shutil.copytree(shared / "report/samples", folder / "report/samples")
    run(folder, "snakemake", "report", "--cores", "2", "--config", "from_results=true")
    assert (folder / "report/report.pdf").read_bytes() == (shared / "report/report.pdf").read_bytes()
    refused = start(["vanishing", "sync"], folder)
    way = "dvc config --local core.no_scm true"
    assert refused.communicate()[0].splitlines() == [
        f"vanishing sync: dvc: {folder} is not a git repository; `{way}` has it work without git "
        "(docs/reproducibility.md)"
    ]
    assert refused.returncode == 1
    run(folder, *way.split())
    run(folder, "dvc", "pull")
    run(folder, "vanishing", "sync")
    assert "Nothing to be done" in run(folder, "snakemake", "-n")
    assert "Data and pipelines are up to date." in run(folder, "dvc", "repro")


@pytest.fixture
def experiment(shared, tmp_path):
    return Path(shutil.copytree(shared, tmp_path / "study", symlinks=True))


def test_an_experiment_with_another_setting_takes_one_try(experiment):
    printed = run(experiment, "dvc", "exp", "run", "--temp", "-S", "train.epochs=1", "train@vgg08-0")
    assert "Ran experiment(s)" in printed
    assert git(experiment, "status", "--porcelain") == ""


def test_an_experiment_with_another_seed_says_what_takes_one_try_and_that_does(experiment):
    """Each begins from a copy of what is here, so that the same command again would fail for ever."""
    process = start(["dvc", "exp", "run", "--temp", "-S", "seeds=[0,1]", "gradients@vgg08-0"], experiment)
    printed, _ = process.communicate(timeout=HUNG)
    assert process.returncode != 0
    assert "make the change in params.yaml, type `vanishing configure`, then `dvc exp run` without -S for it" in printed
    assert git(experiment, "status", "--porcelain") == ""
    content = config.read(experiment / "params.yaml") | {"seeds": [0, 1]}
    (experiment / "params.yaml").write_text(config.text(content))
    run(experiment, "vanishing", "configure")
    printed = run(experiment, "dvc", "exp", "run", "--temp", "gradients@vgg08-1")
    assert "Ran experiment(s)" in printed
    assert "vanishing train vgg08 --seed 1" in printed


def plain(*command):
    """Return a command that has none of root's rights to others' and to read-only files."""
    if os.getuid():
        return command
    lost = "-dac_override,-dac_read_search,-fowner"
    return "setpriv", f"--bounding-set={lost}", f"--inh-caps={lost}", *command


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_outputs_that_are_links_into_the_cache_are_built_again_and_it_stays(pulled, tmp_path, kind):
    if not os.getuid() and not shutil.which("setpriv"):
        pytest.skip("runs as root, and no setpriv (util-linux) to be less")
    folder = Path(shutil.copytree(pulled, tmp_path / "study", symlinks=True))
    cache = folder / ".dvc/cache/files/md5"
    run(folder, *plain("dvc", "config", "cache.type", kind))
    run(folder, *plain("dvc", "checkout", "--relink"))
    snapshot = folder / "checkpoints/vgg08/seed0/epoch0000.safetensors"
    assert snapshot.is_symlink() if kind == "symlink" else snapshot.stat().st_nlink > 1
    run(folder, *plain("vanishing", "sync"))
    assert "Nothing to be done" in run(folder, *plain("snakemake", "-n"))
    before = {path: path.read_bytes() for path in cache.glob("??/*")}
    both_see_a_changed_learning_rate(folder)
    run(folder, *plain("snakemake", "--cores", "1"))
    run(folder, *plain("vanishing", "sync"))
    nothing_pending = run(folder, *plain("dvc", "repro"))
    assert "Data and pipelines are up to date." in nothing_pending
    assert {path: path.read_bytes() for path in before} == before
    assert "no mismatch; " in run(folder, *plain("vanishing", "verify"))


def test_data_and_checkpoints_on_another_disk_work_without_gits_part_of_dvc(pulled, tmp_path):
    folder = Path(shutil.copytree(pulled, tmp_path / "study", symlinks=True))
    for name in ("data", "checkpoints"):
        shutil.move(folder / name, tmp_path / "disk" / name)
        (folder / name).symlink_to(tmp_path / "disk" / name)
    assert git(folder, "status", "--porcelain") == ""
    run(folder, "dvc", "config", "--local", "core.no_scm", "true")
    run(folder, "vanishing", "sync")
    nothing_to_do(folder)
    both_see_a_changed_learning_rate(folder)
    run(folder, "dvc", "repro", "gradients@vgg08-0")
    run(folder, "snakemake", "--cores", "1", "results/runs/vgg08/seed0/gradients.csv")
    assert (folder / "checkpoints").is_symlink()
    assert "data" not in git(folder, "status", "--porcelain")


def test_before_a_sync_snakemake_goes_by_the_times_of_a_clone(shared, tmp_path):
    """Else the sync would be for nothing, and so would the cases below."""
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(shared), str(folder))
    run(folder, "dvc", "pull")
    (folder / "results/runs/vgg08/seed0/summary.json").touch()
    assert ("gradients", "vgg08") in planned(folder)


def touch(folder, order, first, step):
    """Give every file and folder of the working tree a time of its own, in an order of their names."""
    found = [path for path in folder.rglob("*") if not OWN & set(path.relative_to(folder).parts)]
    for place, path in enumerate(sorted(found, reverse=order == "backwards")):
        os.utime(path, (first + step * place,) * 2)


def touched_now(folder):
    touch(folder, "forwards", time.time() - 1, 0.001)


def touched_now_backwards(folder):
    touch(folder, "backwards", time.time() - 1, 0.001)


def touched_into_the_past(folder):
    touch(folder, "forwards", 1e9, 1)


def touched_into_the_past_backwards(folder):
    touch(folder, "backwards", 1e9, 1)


def with_an_empty_commit(folder):
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "Nothing")


def with_an_edited_readme(folder):
    with (folder / "README.md").open("a") as handle:
        handle.write("\nEdited.\n")
    git(folder, "commit", "--quiet", "--all", "--message", "Edit the README")


def checked_out_again(folder):
    """Have git take away what a commit has not, and write it anew, with new times."""
    git(folder, "rm", "-r", "--quiet", "results", "src", "workflow", "notebooks")
    git(folder, "commit", "--quiet", "--message", "Remove nearly all")
    git(folder, "checkout", "--quiet", "HEAD~1")


CASES = [
    touched_now,
    touched_now_backwards,
    touched_into_the_past,
    touched_into_the_past_backwards,
    with_an_empty_commit,
    with_an_edited_readme,
    checked_out_again,
]


@pytest.fixture
def elsewhere(pulled, tmp_path):
    """The clone in another folder, of a longer name: each case has its own."""
    return Path(shutil.copytree(pulled, tmp_path / "another folder" / "clone", symlinks=True))


def test_a_clone_that_was_pulled_has_nothing_to_do(pulled):
    nothing_to_do(pulled)
    assert run(pulled, "dvc", "status").strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize("happens", CASES, ids=lambda case: case.__name__)
def test_nothing_to_do_whatever_happens_to_the_clone(elsewhere, happens):
    happens(elsewhere)
    nothing_to_do(elsewhere)
    both_see_a_changed_learning_rate(elsewhere)


def test_nothing_to_do_in_another_folder_time_zone_locale_and_order_of_hashes(elsewhere):
    nothing_to_do(elsewhere, TZ="Pacific/Kiritimati", LC_ALL="POSIX", PYTHONHASHSEED="7")
    both_see_a_changed_learning_rate(elsewhere)


def test_nothing_to_do_on_another_date(elsewhere, calendar):
    if not shutil.which("cc"):
        pytest.skip("no C compiler (cc) to move the date with")
    nothing_to_do(elsewhere, **calendar(400))
    both_see_a_changed_learning_rate(elsewhere)
