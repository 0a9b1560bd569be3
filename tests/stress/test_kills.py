"""Killed over and over at random moments, the same command ends at last, with the bytes of an undisturbed build."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter

import psutil
import pytest
from engines import content, eager, environment, lay_out, run

TRAIN = {"epochs": 6, "batch_size": 2, "snapshots": [1, 2, 3, 4, 5]}
BUILD = ["sh", "-c", "snakemake --cores 2 && vanishing sync"]
REPRO = ["dvc", "repro"]

STAGES = {
    "training": r"vanishing train ",
    "gradients": r"vanishing gradients ",
    "notebook": r"vanishing (figures|published)",
    "LaTeX": r"pdflatex|latexmk",
    "sync": r"vanishing sync$",
    "record": r"-m dvc commit ",
}
"""In the order in which they run, each with what the command line of one of its processes has in it."""

SEED = 20261
KILLS = (
    [("training", 0.5), ("snapshot", 0.0)] * 5
    + [("gradients", 3.0)] * 5
    + [("notebook", 6.0)] * 5
    + [("LaTeX", 1.0)] * 4
    + [("sync", 3.0), ("record", 2.0)] * 3
)
"""The stage whose beginning is waited for, and up to how many seconds after it the kill comes."""

REPRO_KILLS = [
    ("training", 0.5),
    ("snapshot", 0.0),
    ("gradients", 4.0),
    ("notebook", 8.0),
    ("notebook", 8.0),
    ("LaTeX", 1.0),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the bytes of a build that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    lay_out(folder, {}, train=TRAIN)
    run(folder, *BUILD)
    return content(folder)


def test_thirty_kills_of_snakemake_and_sync_lose_and_change_nothing(undisturbed, tmp_path):
    hit = killed_over_and_over(tmp_path / "study", BUILD, KILLS, environment() | eager(tmp_path))
    assert sum(hit.values()) == len(KILLS) == 30
    assert set(hit) >= {"training", "snapshot", "gradients", "notebook", "LaTeX", "sync"}
    run(tmp_path / "study", *BUILD)
    assert content(tmp_path / "study") == undisturbed
    finished(tmp_path / "study")


def test_kills_of_dvc_lose_and_change_nothing(undisturbed, tmp_path):
    hit = killed_over_and_over(tmp_path / "study", REPRO, REPRO_KILLS, environment() | eager(tmp_path))
    assert sum(hit.values()) == len(REPRO_KILLS)
    run(tmp_path / "study", *REPRO)
    assert content(tmp_path / "study") == undisturbed
    run(tmp_path / "study", "vanishing", "sync")
    finished(tmp_path / "study")


def finished(folder):
    """Check that neither engine has anything left to do, and that every file is what its records say."""
    assert "Nothing to be done" in run(folder, "snakemake", "-n")
    assert "up to date" in run(folder, "dvc", "status")
    assert run(folder, "vanishing", "verify").startswith("no mismatch; ")


def killed_over_and_over(folder, command, kills, variables):
    """Lay out the study, start the command and kill it for each of `kills`; count the stages in which that was."""
    lay_out(folder, {}, train=TRAIN)
    chance, hit = random.Random(SEED), Counter()  # noqa: S311
    for number, (stage, seconds) in enumerate(kills):
        if stage == "record":
            forget(folder)
        since = time.time()
        with (folder / "output.txt").open("w") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_for(stage, process, folder, since)
            time.sleep(chance.uniform(0, seconds))
            found = running(process)
            if number % 3 == 2 and seconds:  # the engine first, and what it has started a moment later
                kill_engine(process)
                time.sleep(chance.uniform(0, 1))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if found == "training" and writes(folder, since):
            found = "snapshot"
        print(f"kill {number + 1}: waited for {stage}, came in {found}, {time.time() - since:.1f} s", flush=True)
        hit[found] += 1
    print(dict(hit))
    return hit


def forget(folder):
    """Take DVC's record away, as a folder has none that Snakemake alone has built; one that a kill cut short stays."""
    done = subprocess.run(
        ["dvc", "status", "--json"], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    if done.stdout.strip() == "{}":
        (folder / "dvc.lock").unlink()


def wait_for(stage, process, folder, since):
    """Wait until a stage is at work, or a later one where that one has ended."""
    later = list(STAGES)[list(STAGES).index("training" if stage == "snapshot" else stage) + 1 :]
    while (found := running(process)) not in later:
        assert process.poll() is None, (stage, (folder / "output.txt").read_text())
        if found == "training" == stage and trains(folder, since):
            return
        if found == "training" and stage == "snapshot":
            for _ in range(200):
                if writes(folder, since):
                    return
        elif found == stage != "training":
            return
        time.sleep(0.05)


def trains(folder, since):
    """Say whether a training has saved its state since a time."""
    return newer(folder.glob(".vanishing/resume/*/*/*/state.safetensors"), since)


def writes(folder, since):
    """Say whether a snapshot or state is there half-written, begun since a time."""
    return newer(folder.glob(".vanishing/resume/*/*/*/.*.safetensors.*"), since)


def newer(paths, since):
    """Say whether one of some files, which may be gone by now, was written to since a time."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > since:
                return True
    return False


def members(process):
    """Yield the processes of a group that are alive, and the command line of each."""
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(each.pid) == process.pid and "-c" not in (words := each.cmdline())[:2]:
                yield each, " ".join(words)


def running(process):
    """Return the latest of `STAGES` that is at work in a process group; None if there is none."""
    lines = [line for _, line in members(process)]
    return next((stage for stage in reversed(STAGES) if any(re.search(STAGES[stage], line) for line in lines)), None)


def kill_engine(process):
    """Kill the engine in a group alone."""
    for each, line in members(process):
        if re.search(r"/(snakemake --|dvc repro|vanishing sync)", line):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
