"""The study on a real SLURM cluster: jobs cancelled, killed and stopped at their limit, and the bytes of a local build.

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

PROFILE = ["snakemake", "--profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"]

TRAIN = {"epochs": 6, "batch_size": 2, "device": "auto", "snapshots": [1, 4]}
STEPS = 6 * 40
"""Of a training."""

CANCELLED, KILLED, LIMITED = ("vgg08", "0"), ("vgg08", "1"), ("vgg14_bn", "0")
DELAY = {CANCELLED: 0.15, KILLED: 0.15, LIMITED: 0.3}
"""Seconds by which each step of a training is slowed."""

SLOW = """#!{python}
import os, sys, time
from pathlib import Path

from vanishing import cli

if sys.argv[1] == "train":
    from vanishing.training import loop

    loop.SAVE_EVERY = 0.0
    job = sys.argv[2], sys.argv[4]
    with Path("gpus.txt").open("a") as gpus:
        gpus.write(f"{{os.environ.get('CUDA_VISIBLE_DEVICES')}}\n")

    def slow(training, save=loop.Training._save_if_due):
        with Path("steps.txt").open("a") as steps:
            steps.write(f"{{job[0]}} {{job[1]}} {{training.place.epoch}} {{training.place.iteration}}\\n")
        save(training)
        time.sleep({delay}.get(job, 0.0))
    loop.Training._save_if_due = slow
sys.exit(cli.main())
"""
"""A `vanishing` whose trainings are slow, write down their GPU and every step, and save it."""


def lay_out(folder):
    """Lay out the tiny study with two seeds of one run and one of another."""
    engines.lay_out(folder, {}, train=TRAIN)
    path = folder / "params.yaml"
    content = path.read_text().replace("seeds:\n- 0\n", "seeds:\n- 0\n- 1\n")
    path.write_text(content)
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


def steps(folder, job):
    """Count how often each step of a training was done."""
    path = folder / "steps.txt"
    done = path.read_text().splitlines() if path.exists() else []
    return Counter(line for line in done if tuple(line.split()[:2]) == job)


def test_a_study_whose_jobs_are_stopped_ends_in_the_bytes_of_a_local_build(local, cluster, tmp_path):
    folder = tmp_path / "study"
    lay_out(folder)
    (folder / "bin").mkdir()
    variables = engines.eager(tmp_path)
    (tmp_path / "bin" / "vanishing").write_text(SLOW.format(python=sys.executable, delay=DELAY))
    process = cluster.start(folder, *PROFILE, **variables)

    def number(job):
        return cluster.jobs(f"rule_train_wildcards_{'_'.join(job)}")[-1][0]

    stops = {
        CANCELLED: lambda: cluster.run(folder, "scancel", number(CANCELLED)),
        KILLED: lambda: training(folder, KILLED).send_signal(signal.SIGKILL),
        # less than the three minutes before its limit at which a job is told
        LIMITED: lambda: cluster.run(folder, "scontrol", "update", f"JobId={number(LIMITED)}", "TimeLimit=1"),
    }
    while stops:
        under_way = wait_for(cluster, process, lambda: [job for job in stops if len(steps(folder, job)) > 20])
        stops.pop(under_way[0])()
    second = cluster.start(folder, *PROFILE)
    assert "at work here: snakemake" in second.communicate(timeout=60)[0]
    assert second.returncode == 1
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert [name for name, content in (local | engines.content(folder)).items() if local.get(name) != content] == []
    for job, lost in ((CANCELLED, 0), (LIMITED, 0), (KILLED, 5)):
        done = steps(folder, job)
        assert len(done) == STEPS
        assert STEPS <= done.total() <= STEPS + lost
        name = "_".join(job)
        states = [state for _, state in cluster.jobs(f"rule_train_wildcards_{name}")]
        print(name, states, done.total())
        assert states[-1] == "COMPLETED"
        assert len(states) > 1
    gpus = (folder / "gpus.txt").read_text().splitlines()
    assert set(gpus) <= set("0123")  # one for each job
    assert len(set(gpus)) > 1
    groups = [state for _, state in cluster.jobs("rule_report_")]
    assert groups == ["COMPLETED"]  # tables, figures and report together
    assert engines.planned(folder) == set()


def training(folder, job):
    """Return the process of a training in a folder."""
    words = ["train", job[0], "--seed", job[1]]
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-4:] == words and process.cwd() == str(folder) and "python" in process.exe():
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no process of {job}")
