"""A disk that is really full: a small one in memory, in a mount namespace of its own, filled but for some pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from engines import HUNG

import examples
from vanishing import stages
from vanishing.engines import workspace

PAGE = 4096
DISK = "32m"
STUDY = {
    "data": {"generated": {"classes": 3, "train_per_class": 14, "test_per_class": 5}, "validation_per_class": 4},
    "model": {"filters": 16},
    "train": {"epochs": 2},
}
"""A snapshot has 58 kB, and the state of a training about 4 times that."""

SCRIPT = """
set -u
mount -t tmpfs -o size={disk} none disk
cp -a study/. disk
cd disk
command() {{ {command} ; }}
dd if=/dev/zero of=ballast bs={page} 2> /dev/null
truncate -s -{free} ballast
command 2> ../told
echo $? > ../first
find . -name '.*.*' -path '*.??????*' -type f | grep -v -e dvcignore -e latexmkrc > ../left
rm ballast
command 2> ../told_then
echo $? > ../second
cp -a . ../after
"""
"""Run a command with `free` bytes left, make room, and run it again."""

EAGER = (
    "import sys; from vanishing import cli; from vanishing.training import loop; "
    "loop.SAVE_EVERY = 0.0; sys.exit(cli.main(sys.argv[1:]))"
)
"""The command line, with the state of a training saved at every step."""


def unshare(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(examples.ROOT / "src")}
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=HUNG,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A study that is built up to its tables: what an undisturbed command leaves."""
    folder = tmp_path_factory.mktemp("built")
    if not shutil.which("unshare") or unshare("mount", "-t", "tmpfs", "none", str(folder), folder=folder).returncode:
        pytest.skip("this system lets nobody mount a disk in memory")
    workspace.lay_out(examples.ROOT, folder / "study", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "study")
        Path("params.yaml").write_text(yaml.safe_dump(examples.content(STUDY, ["vgg08"]), sort_keys=False))
        settings = examples.study(STUDY, ["vgg08"])
        stages.data(settings)
        stages.train(settings, [("vgg08", 0)])
        stages.gradients(settings, "vgg08", 0)
        stages.tables(settings)
        stages.numbers(settings)
    return folder / "study"


def check(tmp_path, built, command, free, gone, words):
    """Run a command on a full disk and then on one with room; compare what it leaves with an undisturbed one."""
    shutil.copytree(built, tmp_path / "study")
    for name in gone:
        path = tmp_path / "study" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "disk").mkdir()
    done = unshare("sh", "-c", SCRIPT.format(disk=DISK, command=command, page=PAGE, free=free), folder=tmp_path)
    told = {name: (tmp_path / name).read_text() for name in ("first", "told", "left", "second", "told_then")}
    assert told["first"].strip() == "1", (done, told)
    last = told["told"].splitlines()[-1]
    assert last.startswith("vanishing ")
    assert all(word in last for word in words), last
    assert "Traceback" not in told["told"]
    assert told["left"] == "", "a temporary file is left"
    assert told["second"].strip() == "0", told["told_then"]
    for name in gone:
        assert content(tmp_path / "after" / name) == content(built / name)


def content(path):
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path)): each.read_bytes() for each in found}


TRAINED = ["checkpoints/vgg08/seed0", "results/runs/vgg08/seed0"]
FULL = "No space left on device"


def vanishing(arguments, start="-m vanishing.cli"):
    return f"{sys.executable} {start} {arguments}"


def test_while_a_snapshot_is_written(built, tmp_path):
    gone = [TRAINED[0], f"{TRAINED[1]}/history.csv", f"{TRAINED[1]}/summary.json"]
    words = [FULL, "epoch0000.safetensors", "make room, then run the same command to resume"]
    check(tmp_path, built, vanishing("train vgg08 --seed 0"), 10 * PAGE, gone, words)


def test_while_the_resumable_state_is_written(built, tmp_path):
    gone = [TRAINED[0], f"{TRAINED[1]}/history.csv", f"{TRAINED[1]}/summary.json"]
    words = [FULL, "state.safetensors", "make room, then run the same command to resume"]
    command = vanishing("train vgg08 --seed 0", f"-c '{EAGER}'")
    check(tmp_path, built, command, 30 * PAGE, gone, words)


def test_while_a_finished_training_is_published(built, tmp_path):
    """The trajectory lies in the scratch folder and is complete; there is no room for it beside."""
    gone = [TRAINED[0], f"{TRAINED[1]}/history.csv", f"{TRAINED[1]}/summary.json"]
    words = [FULL, f"{TRAINED[0]}/", "make room, then run the same command to resume"]
    check(tmp_path, built, vanishing("train vgg08 --seed 0"), 70 * PAGE, gone, words)


def test_while_gradient_flow_is_written(built, tmp_path):
    gone = [f"{TRAINED[1]}/gradients.csv"]
    check(tmp_path, built, vanishing("gradients vgg08 --seed 0"), 0, gone, [FULL, "gradients.csv", "make room"])


def test_while_tables_are_written(built, tmp_path):
    gone = ["results/tables", "report/tables"]
    check(tmp_path, built, vanishing("tables"), 2 * PAGE, gone, [FULL, "make room"])


def test_while_the_data_file_is_written(built, tmp_path):
    check(tmp_path, built, vanishing("data"), 5 * PAGE, ["data/generated.npz"], [FULL, "generated.npz", "make room"])


def test_while_the_disk_takes_no_more_files(built, tmp_path):
    """Room for bytes is left, and no inode: what the file system says is the same."""
    shutil.copytree(built, tmp_path / "study")
    (tmp_path / "study" / TRAINED[1] / "gradients.csv").unlink()
    (tmp_path / "disk").mkdir()
    script = """
    mount -t tmpfs -o nr_inodes=1000 none disk && cp -a study/. disk && cd disk && mkdir -p spare .vanishing/locks
    n=0; while : 2> /dev/null > spare/$n; do n=$((n + 1)); done
    {command} gradients vgg08 --seed 0; echo $?
    rm spare/0; {command} gradients vgg08 --seed 0; echo $?; cp -a results ../after
    """
    done = unshare("bash", "-c", script.format(command=vanishing("")), folder=tmp_path)
    assert done.stdout.split() == ["1", "0"], done
    told = f"{TRAINED[1]}/gradients.csv: {FULL}; make room by deleting files, of which it takes no more, then run "
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert content(tmp_path / "after") == content(built / "results")


@pytest.fixture(scope="module")
def drawn(built, tmp_path_factory):
    """The same with figures and PDF, which take a kernel and LaTeX."""
    folder = shutil.copytree(built, tmp_path_factory.mktemp("drawn") / "study")
    environment = os.environ | {"PYTHONPATH": str(examples.ROOT / "src")}
    for arguments in (["figures", "core"], ["published"], ["explain"], ["report"]):
        command = [sys.executable, "-m", "vanishing.cli", *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=HUNG)
    return folder


def test_while_figures_are_drawn(drawn, tmp_path):
    gone = ["report/figures/core", "results/notebooks/core.ipynb"]
    check(tmp_path, drawn, vanishing("figures core"), 4 * PAGE, gone, [FULL])


def test_while_the_report_is_typeset(drawn, tmp_path):
    check(tmp_path, drawn, vanishing("report"), 20 * PAGE, ["report/report.pdf"], [FULL])
