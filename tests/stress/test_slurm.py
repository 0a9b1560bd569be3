"""The study on a real SLURM cluster, on which a job is cancelled, killed, pre-empted and stopped at its limit.

One command: pytest tests/stress/test_slurm.py
"""

import signal
import sys
import time
from collections import Counter

import engines
import psutil
import pytest
import slurm

from vanishing import config

PROFILE = ["snakemake", "--profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"]

TRAIN = {"epochs": 6, "batch_size": 2, "device": "auto", "snapshots": [1, 4]}
STEPS = 6 * 40
"""Of a training."""

LOST = 5
"""Most steps since the last save that a kill or pre-emption costs a training which saves each of them."""

DELAY = 0.25
"""Seconds by which each step is slowed, so that all trainings are under way together."""

SEEDS = range(4)
CANCELLED, KILLED, LIMITED, _ = SEEDS
"""Trainings that are stopped in these ways, after all have been pre-empted."""

TRAINING = "rule_train_wildcards_vgg08_"
"""Begins the comment of a training's job, before its seed."""

SLOW = """#!{python}
import os, sys, time
from pathlib import Path

from vanishing import cli

if sys.argv[1] == "train":
    from vanishing.training import loop

    loop.SAVE_EVERY = 0.0
    with Path("gpus.txt").open("a") as gpus:
        gpus.write(f"{{os.environ.get('CUDA_VISIBLE_DEVICES')}}\\n")

    def slow(training, save=loop.Training._save_if_due):
        if training.place.iteration:
            with Path("steps.txt").open("a") as steps:
                steps.write(f"{{training.seed}} {{training.place.epoch}} {{training.place.iteration}}\\n")
        save(training)
        time.sleep({delay})

    loop.Training._save_if_due = slow
sys.exit(cli.main())
"""
"""A `vanishing` whose trainings are slow, write down their GPU and every step, and save it."""


def lay_out(folder):
    """Lay out a study of one run with four seeds."""
    engines.lay_out(folder, {}, train=TRAIN)
    content = config.with_runs(config.read(folder / "params.yaml"), ["vgg08"])
    content["studies"]["core"]["runs"] = ["vgg08"]
    (folder / "params.yaml").write_text(config.text(content | {"seeds": list(SEEDS)}))
    engines.run(folder, "vanishing", "configure")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The bytes of the study, built without a cluster."""
    folder = tmp_path_factory.mktemp("local") / "study"
    lay_out(folder)
    engines.run(folder, "snakemake", "--cores", "2")
    return engines.content(folder)


@pytest.fixture
def cluster():
    with slurm.cluster() as started:
        yield started


def wait_for(cluster, process, condition):
    """Wait until a condition holds; the cluster's Snakemake must not end meanwhile."""
    until = time.monotonic() + 300
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, cluster.run(cluster.folder, "squeue", "--all", "--states=all")
        time.sleep(0.2)
    return found


def steps(folder, seed):
    """Count how often each step of a training was done."""
    path = folder / "steps.txt"
    done = path.read_text().splitlines() if path.exists() else []
    return Counter(line for line in done if line.startswith(f"{seed} "))


def test_a_study_whose_jobs_are_stopped_ends_in_the_bytes_of_a_local_build(local, cluster, tmp_path):
    folder = tmp_path / "study"
    lay_out(folder)
    variables = engines.eager(tmp_path)
    (tmp_path / "bin" / "vanishing").write_text(SLOW.format(python=sys.executable, delay=DELAY))
    process = cluster.start(folder, *PROFILE, **variables)

    def under_way(least):
        """Wait until every training has done so many steps; return the numbers of their jobs."""
        wait_for(cluster, process, lambda: all(steps(folder, seed).total() > least for seed in SEEDS))
        return [cluster.jobs(f"{TRAINING}{seed}")[-1][0] for seed in SEEDS]

    under_way(10)
    cluster.run(folder, "sbatch", "--partition=urgent", "--gpus=4", "--wrap=true")
    wait_for(cluster, process, lambda: "PENDING" in dict(cluster.jobs(TRAINING)).values())
    before = max(steps(folder, seed).total() for seed in SEEDS)
    numbers = under_way(before + 10)
    cluster.run(folder, "scancel", numbers[CANCELLED])
    training(folder, KILLED).send_signal(signal.SIGKILL)
    # less than the three minutes before its limit at which a job receives SIGTERM
    cluster.run(folder, "scontrol", "update", f"JobId={numbers[LIMITED]}", "TimeLimit=1")
    second = cluster.start(folder, *PROFILE)
    assert "at work here: snakemake" in second.communicate(timeout=60)[0]
    assert second.returncode == 1
    said = process.communicate(timeout=engines.HUNG)[0]
    assert process.returncode == 0, said
    assert differing(engines.content(folder), local) == []
    for seed in SEEDS:
        done = steps(folder, seed)
        assert len(done) == STEPS
        assert STEPS <= done.total() <= STEPS + LOST * (1 + (seed == KILLED))
        states = [state for _, state in cluster.jobs(f"{TRAINING}{seed}")]
        assert states[-1] == "COMPLETED"
        assert len(states) == 1 + (seed in (CANCELLED, KILLED, LIMITED))  # SLURM starts a pre-empted job again itself
    gpus = (folder / "gpus.txt").read_text().splitlines()
    assert set(gpus) <= set("0123")  # one for each job
    assert len(set(gpus)) > 1
    groups = [state for _, state in cluster.jobs("rule_report_")]
    assert groups == ["COMPLETED"]  # tables, figures and report together
    assert engines.planned(folder) == set()


def test_partition_gres_and_settings_reach_a_job(cluster, tmp_path):
    folder = tmp_path / "study"
    lay_out(folder)
    target = "results/runs/vgg08/seed0/summary.json"
    resources = ["--default-resources", "slurm_partition=urgent", "mem_mb=500", "runtime=7"]
    settings = ["--config", "gres=gpu:1", "train={epochs: 1}"]
    process = cluster.start(folder, *PROFILE, *resources, *settings, "--", target)
    said = process.communicate(timeout=engines.HUNG)[0]
    assert process.returncode == 0, said
    assert '"epochs": 1,' in (folder / target).read_text()
    (data, _), (job, _) = cluster.jobs()
    assert " TimeLimit=00:07:00 " in cluster.run(folder, "scontrol", "show", "job", data)
    shown = cluster.run(folder, "scontrol", "show", "job", job).split()
    # ten minutes, and twenty steps of a small network
    assert {"Partition=urgent", "TresPerNode=gres:gpu:1", "MinMemoryNode=8000M", "TimeLimit=00:11:00"} <= set(shown)


def differing(one, other):
    """Name the files that differ, or that only one of them has."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def training(folder, seed):
    """Return the process of a training in a folder."""
    words = ["train", "vgg08", "--seed", f"{seed}"]
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-4:] == words and process.cwd() == str(folder) and "python" in process.exe():
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no process of seed {seed}")
