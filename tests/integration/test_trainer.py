"""Trainings of the pipeline, several at once and within a budget of time, and what the user is told."""

import contextlib
import datetime
import errno
import gc
import json
import os
import re
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import engines
import pytest
import torch

import examples
from vanishing import cli, config, locks, paths, stages
from vanishing.config import ParameterError
from vanishing.engines import remaining, time_limit, trainer
from vanishing.engines.time_limit import Budget
from vanishing.results import store
from vanishing.training import cost, devices, loop, step

RUNS = ["vgg08", "vgg38", "vgg38_bn"]
SMALL = {
    "data": {"validation_per_class": 4, "generated": {"classes": 3, "train_per_class": 12, "test_per_class": 4}},
    "model": {"filters": 4, "blocks": 0},
    "train": {"epochs": 2, "batch_size": 8},
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Stand in a folder with three tiny runs and their images."""
    monkeypatch.chdir(tmp_path)
    content = examples.content(SMALL, RUNS)
    (tmp_path / "params.yaml").write_text(config.text(content))
    settings = config.load()
    stages.data(settings)
    yield settings
    torch.use_deterministic_algorithms(False)


def made():
    return {
        path.as_posix(): path.read_bytes()
        for top in ("checkpoints", "results")
        for path in sorted(paths.Path(top).rglob("*"))
        if path.is_file()
    }


def test_the_results_of_trainings_at_once_are_those_of_one_after_another(study, capsys):
    for name in RUNS:
        stages.train(study, [(name, 0)])
    one_by_one = made()
    for name in RUNS:
        (paths.results(name, 0) / "summary.json").unlink()
    assert cli.main(["train", "--missing", "--at-once", "3"]) == 0
    assert made() == one_by_one
    assert {json.loads(paths.rate(name, 0).read_text())["at_once"] for name in RUNS} == {3}
    assert not list(paths.SCRATCH.rglob("*.safetensors"))
    assert cli.main(["train", "--missing", "core"]) == 0
    assert capsys.readouterr().err.endswith("\nnothing is missing\n")


def test_the_gradient_flow_of_what_was_trained_is_measured_where_it_is_missing(study, capsys):
    for name in RUNS[:2]:
        stages.train(study, [(name, 0)])
        stages.gradients(study, name, 0)
    whole = made()
    for name in RUNS[:2]:
        (paths.results(name, 0) / "gradients.csv").unlink()
    assert cli.main(["gradients", "--missing"]) == 0
    assert made() == whole
    assert cli.main(["gradients", "vgg08", "vgg38", "--missing"]) == 0
    assert capsys.readouterr().err.endswith("nothing is missing\n")
    assert cli.main(["gradients"]) == 2


def test_the_memory_of_a_training_is_free_when_the_next_begins(study, monkeypatch):
    begin, alive, seen = step.Learner.__init__, weakref.WeakSet(), []

    def noted(self, *rest):
        seen.append(len(alive))
        begin(self, *rest)
        alive.add(self)

    monkeypatch.setattr(step.Learner, "__init__", noted)
    gc.disable()
    try:
        assert cli.main(["train", "--missing"]) == 0
    finally:
        gc.enable()
    assert seen == [0, 0, 0]


def test_what_has_results_is_not_missing(study, capsys):
    examples.result(study, "vgg38")
    assert remaining.to_train(study) == [("vgg08", 0), ("vgg38_bn", 0)]
    assert remaining.to_train(study, ["core"]) == [("vgg08", 0), ("vgg38_bn", 0)]
    assert cli.main(["train", "vgg38_bn:0", "vgg38", "--missing"]) == 0
    assert remaining.to_train(study) == [("vgg08", 0)], "and vgg38 is as it was"
    assert not paths.checkpoints("vgg38", 0).exists()
    assert cli.main(["train", "--missing", "else"]) == 2
    assert "study 'else' is not configured; allowed: core" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "no run is named; allowed: RUN or RUN:SEED, --missing [STUDY], or both"),
        (["train", "vgg09"], "run 'vgg09' is not configured; allowed: vgg08, vgg38, vgg38_bn"),
        (["train", "vgg08:7"], "seed 7 of run 'vgg08' is not configured; allowed: 0"),
        (["train", "vgg08:x"], "'vgg08:x': after the colon stands a seed; allowed: 0"),
        (["train", "vgg08", "vgg08:0"], "'vgg08:0' is named twice"),
        (
            ["train", "vgg08:0", "--seed", "0"],
            "--seed 0: for runs that are named without a seed, and 'vgg08:0' has one",
        ),
        (["train", "--missing", "vgg08:0"], "--missing 'vgg08:0': not a study; runs stand before --missing"),
        (["train", "vgg08", "--at-once", "17"], "--at-once 17: allowed: 1 to 16"),
        (
            ["train", "vgg08", "--until", "540"],
            "--until '540': allowed: a duration such as 540s, 9min or 1.5h, or a time of day such as 17:30",
        ),
    ],
)
def test_a_mistake_in_what_to_train_is_a_line(study, capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"vanishing train: {message}\n"
    assert not paths.RESULTS.exists()


def test_a_run_without_a_seed_is_all_of_its_seeds(study):
    several = config.check(examples.content(SMALL | {"seeds": [2, 5]}, RUNS))
    assert several.named("vgg08") == [("vgg08", 2), ("vgg08", 5)]
    assert several.named("vgg08", seed=5) == several.named("vgg08:5") == [("vgg08", 5)]


def elsewhere(name):
    """Write what the lock of a training holds while that runs on another machine."""
    path = paths.LOCKS / f"{name}-seed0.lock.7-0123abcd"
    path.parent.mkdir(parents=True, exist_ok=True)
    who = {"machine": "another", "host": "node7", "pid": 7, "since": time.time(), "command": "vanishing train"}
    path.write_text(json.dumps(who))
    return path


@pytest.fixture
def impatient(monkeypatch):
    """Let one elsewhere count as dead after 0.5 s without a sign."""
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "PATIENCE", 0.5)


@pytest.fixture
def at_work(study, impatient):
    """Let another machine train `vgg38` until the test ends, or the file that is returned is gone."""
    path, stop = elsewhere("vgg38"), threading.Event()

    def touch():
        while path.exists() and not stop.wait(0.05):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)

    touching = threading.Thread(target=touch)
    touching.start()
    yield path
    stop.set()
    touching.join()


@pytest.mark.parametrize("at_once", ["1", "2"])
def test_what_another_machine_trains_is_left_to_it(study, at_work, capsys, at_once):
    assert cli.main(["train", "--missing", "--at-once", at_once]) == 75
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == (
        "vanishing train: 1 of 3 trainings left to the processes that are at work on them: vgg38:0; the others are done"
    )
    named = (
        r"vgg38:0: run 'vgg38', seed 0 is being trained by vanishing train \(process 7 on node7, for \d+ s\); if that "
    )
    assert re.match(named, told[-2])
    assert remaining.to_train(study) == [("vgg38", 0)]
    assert cli.main(["train", "vgg38", "--seed", "0"]) == 75


def test_what_others_hold_is_tried_last_and_what_is_free_in_any_order(study):
    """Each machine would otherwise wait seconds for a sign of every other one before it begins."""
    jobs = [trainer.Job(study, name, 0, trainer.Inputs(0), missing=True) for name in RUNS]
    assert trainer._free_first(jobs) == jobs
    elsewhere("vgg08")
    orders = {tuple(job.name for job in trainer._free_first(jobs)) for _ in range(100)}
    assert orders == {("vgg38", "vgg38_bn", "vgg08"), ("vgg38_bn", "vgg38", "vgg08")}
    with locks.hold(jobs[1].lock):
        assert locks.taken(paths.LOCKS) == {"vgg08-seed0.lock"}, "and not one's own"


def test_what_another_machine_was_training_when_it_died_is_tried_again_at_the_end(study, at_work, monkeypatch):
    publish = store.publish

    def last(name, *rest):
        publish(name, *rest)
        if name == "vgg38_bn":
            at_work.unlink()

    monkeypatch.setattr(store, "publish", last)
    assert cli.main(["train", "--missing"]) == 0
    assert remaining.to_train(study) == []


def test_what_another_machine_has_trained_since_the_start_is_not_trained_again(study, monkeypatch, capsys):
    whole, publish = made_by(study), store.publish

    def also(name, *rest):
        publish(name, *rest)
        examples.result(study, "vgg38")

    monkeypatch.setattr(store, "publish", also)
    assert cli.main(["train", "vgg08", "vgg38", "--missing"]) == 0
    assert capsys.readouterr().err.endswith("vgg38:0: trained by another process meanwhile\n")
    assert made()["results/runs/vgg38/seed0/summary.json"] != whole["results/runs/vgg38/seed0/summary.json"]


def test_while_a_sign_of_another_machine_is_waited_for_other_trainings_and_signals_go_on(study, monkeypatch, capsys):
    elsewhere("vgg08")
    examples.at_step(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGINT))
    began = time.monotonic()
    assert cli.main(["train", "--missing", "--at-once", "2"]) == 130
    assert time.monotonic() - began < locks.PATIENCE / 2
    assert "saved: vgg38:0 at epoch " in capsys.readouterr().err.splitlines()[-1]


def test_a_signal_reaches_all_and_the_line_names_the_command_that_goes_on(study, monkeypatch, capsys):
    whole = made_by(study)
    with monkeypatch.context() as patch:
        examples.at_step(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        assert cli.main(["train", "vgg08:0", "vgg38:0", "vgg38_bn:0", "--at-once", "2"]) == 143
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        "vanishing train: stopped by SIGTERM, saved: vgg08:0 at epoch 1, iteration 3; vgg38:0 at epoch 1, iteration 2; "
        "run `vanishing train vgg08:0 vgg38:0 vgg38_bn:0 --at-once 2` to resume"
    )
    assert cli.main(told.split("`")[1].split()[1:]) == 0
    assert made() == whole


def made_by(study):
    """Return what the trainings leave one after another, and take it away again."""
    for name in RUNS:
        stages.train(study, [(name, 0)])
    whole = made()
    for name in RUNS:
        (paths.results(name, 0) / "summary.json").unlink()
    return whole


WITH_SWITCHES = """
import signal
from vanishing import config, stages
from vanishing.training import step

original, steps = step.Learner.step, iter(range(4))

def stopped(*arguments):
    original(*arguments)
    if next(steps) == 3:
        signal.raise_signal(signal.SIGTERM)

step.Learner.step = stopped
stages.train(config.load(), [("vgg38_bn", 0)])
"""
"""A program of a user that trains in its own process, and is stopped in the second epoch."""


def test_a_training_of_a_process_with_switches_of_the_arithmetic_is_not_gone_on_with(study):
    """`vanishing` computes without them, and its weights would be neither those of the one nor of the other."""
    stages.train(study, [("vgg38_bn", 0)])
    whole = made()
    (paths.results("vgg38_bn", 0) / "summary.json").unlink()
    switched = {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    process = engines.start([sys.executable, "-c", WITH_SWITCHES], Path(), switched)
    printed, _ = process.communicate(timeout=120)
    assert "Interrupted: stopped by SIGTERM, saved at epoch 2, iteration 1" in printed
    (state,) = paths.resume("vgg38_bn", 0).glob("*/state.safetensors")
    assert "going on" not in engines.run(Path(), "vanishing", "train", "vgg38_bn", "--seed", "0", **switched)
    assert made() == whole
    assert not state.exists()


def test_the_key_of_a_state_tells_the_switches_of_the_arithmetic(study, monkeypatch):
    run = study.run("vgg08")

    def key():
        return loop.state_key(run, "0" * 64, devices.environment(run.train, torch.device("cpu")))

    without = key()
    assert key() == without
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert key() != without


SHORT = "no memory left on the device; fewer --at-once need less"
FAILURES = {
    "CUDA": (torch.OutOfMemoryError("CUDA out of memory."), SHORT),
    "cuDNN": (RuntimeError("GET was unable to find an engine to execute this computation"), SHORT),
    "disk": (OSError(errno.ENOSPC, "No space left on device", "a/file"), "a/file: No space left on device; make room"),
}


@pytest.mark.parametrize(("error", "message"), FAILURES.values(), ids=FAILURES)
def test_one_that_fails_does_not_stop_the_others(study, monkeypatch, capsys, error, message):
    begin = step.Learner.__init__

    def fail(self, run, *rest):
        if run.model.norm == "batch":
            raise error
        begin(self, run, *rest)

    monkeypatch.setattr(step.Learner, "__init__", fail)
    assert cli.main(["train", "--missing", "--at-once", "2"]) == 1
    told = capsys.readouterr().err
    assert f"\nvgg38_bn:0: {message}" in told
    assert told.endswith("vanishing train: 1 of 3 trainings failed: vgg38_bn:0; the others are done\n")
    assert remaining.to_train(study) == [("vgg38_bn", 0)]


def test_one_that_fails_leaves_the_settings_of_the_others_as_they_were(study, monkeypatch):
    """Its number of threads would give others other sums."""
    content = examples.content(SMALL, RUNS)
    content["runs"]["vgg38_bn"]["train"] = {"threads": 2}
    Path("params.yaml").write_text(config.text(content))
    begin, original, threads = step.Learner.__init__, step.Learner.step, []

    def fail(self, run, *rest):
        if run.train.threads == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        begin(self, run, *rest)

    def noted(self, *rest):
        threads.append(torch.get_num_threads())
        original(self, *rest)

    monkeypatch.setattr(step.Learner, "__init__", fail)
    monkeypatch.setattr(step.Learner, "step", noted)
    assert cli.main(["train", "vgg08", "vgg38_bn", "--at-once", "2"]) == 1
    assert set(threads) == {1}
    assert len(threads) == 6, "2 epochs of 24 images, 8 at a time"


# the budget


def test_durations_and_times_of_day():
    now = time.monotonic()
    assert time_limit.parse("540s") - now == pytest.approx(540, abs=5)
    assert time_limit.parse("1.5h") - now == pytest.approx(5400, abs=5)
    soon = datetime.datetime.now() + datetime.timedelta(minutes=30)
    before = datetime.datetime.now() - datetime.timedelta(minutes=30)
    assert time_limit.parse(f"{soon:%H:%M}") - now == pytest.approx(1800, abs=65)
    assert time_limit.parse(f"{before:%H:%M}") - now == pytest.approx(23.5 * 3600, abs=65)
    for odd in ("", "9", "-9s", "9 min", "25:00"):
        with pytest.raises(ParameterError, match="allowed: a duration"):
            time_limit.parse(odd)


class Timed:
    """A job that takes so many seconds alone, and so many beside as many others as there may be."""

    def __init__(self, name, seconds, beside=None, done=0.0):
        self.name, self.seconds, self.beside, self.share = name, seconds, beside or seconds, 1 - done
        self.entry = SimpleNamespace(last_share=0.0)

    def remaining(self):
        return self.share


@pytest.fixture
def given(monkeypatch):
    """Return a maker of budgets on a clock that tests set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)

    def make(jobs, seconds, at_once=8):
        def estimate(entries, at_once=1):
            return cost.Estimate({job.name: job.seconds if at_once == 1 else job.beside for job in jobs}, [], at_once)

        monkeypatch.setattr(cost, "estimate", estimate)
        return Budget(jobs, clock.now + seconds + time_limit.RESERVE, at_once), clock

    return make


def test_what_cannot_end_in_time_waits_for_what_can(given):
    long, short = Timed("long", 500), Timed("short", 50)
    made, _ = given([long, short], 100)
    assert made.choose([long, short], []) is short
    assert made.choose([long], [short]) is None
    assert made.choose([long], []) is long, "nothing else can"


def test_where_nothing_can_end_in_time_no_slot_stays_empty(given):
    jobs = [Timed(f"{at}", 500) for at in range(3)]
    made, _ = given(jobs, 100)
    assert made.choose(jobs, []) is jobs[0]
    assert made.choose(jobs[1:], jobs[:1]) is jobs[1]


def test_too_little_time_is_not_begun_with(given):
    long = Timed("long", 500)
    made, clock = given([long], 100)
    clock.now = 100 - time_limit.WORTH
    assert made.choose([long], []) is None


def test_what_was_begun_earlier_goes_first_with_what_is_left_of_it(given):
    new, begun = Timed("new", 60), Timed("begun", 500, done=0.9)
    made, _ = given([new, begun], 100)
    assert made.choose([new, begun], []) is begun


def simulate(jobs, made, clock, at_once, pace):
    """Train on a device where each of n does `pace(n)` of its seconds alone in a second; return who ended."""
    waiting, active, ended = list(jobs), [], []
    while clock.now < made.until:
        while len(active) < at_once and (job := made.choose(waiting, active)):
            waiting.remove(job)
            active.append(job)
        if not active:
            break
        clock.now += 1
        for job in active:
            job.share = max(0.0, job.share - pace(len(active)) / job.seconds)
        ended += [job.name for job in active if job.share < 1e-9]
        active = [job for job in active if job.share >= 1e-9]
    return ended


def test_on_a_device_that_eight_do_not_fill_eight_end_in_the_time_of_one(given):
    jobs = [Timed(f"{at}", 300) for at in range(20)]
    made, clock = given(jobs, 540)
    assert len(simulate(jobs, made, clock, 8, lambda n: 1.0)) == 8


def test_on_a_device_that_one_fills_none_is_begun_that_would_make_another_late(given):
    """Four end two by two in 400 s; of the 140 s that are left a fifth needs 100, and two would need 200."""
    jobs = [Timed(f"{at}", 100, beside=200) for at in range(9)]
    made, clock = given(jobs, 540, at_once=2)
    assert simulate(jobs, made, clock, 2, lambda n: 1 / n) == ["0", "1", "2", "3", "4"]
    assert [job.share for job in jobs[5:]] == pytest.approx([0.8, 0.8, 1.0, 1.0]), (
        "what 40 s are worth, to be gone on with"
    )


def test_with_few_active_the_time_lies_between_that_alone_and_that_of_most(given):
    job = Timed("a", 100, beside=170)
    made, _ = given([job] * 8, 540)
    assert [made.seconds(job, 0.5, active) for active in (1, 4, 8)] == [50, 65, 85]


def test_a_limit_of_seconds_is_refused_before_anything_is_measured(study, monkeypatch, capsys):
    monkeypatch.setattr(cost, "estimate", lambda *_: pytest.fail("measured"))
    assert cli.main(["train", "--missing", "--until", "20s"]) == 124
    told = "vanishing train: --until: less than 30 s are left, in which nothing is worth beginning\n"
    assert capsys.readouterr().err == told
    assert cli.main(["train", "--missing", "--until", ""]) == 2


def test_a_training_knows_how_many_have_shared_the_device_with_it(study):
    assert cli.main(["train", "vgg08", "--at-once", "3"]) == 0
    assert json.loads(paths.rate("vgg08", 0).read_text())["at_once"] == 1


def test_within_a_budget_nothing_is_lost(study, monkeypatch, capsys):
    """The clock strikes in the midst of two trainings; the command that is named ends in the same bytes."""
    whole = made_by(study)
    known = cost.Estimate(dict.fromkeys(RUNS, 1.0), [])
    monkeypatch.setattr(cost, "estimate", lambda entries, at_once=1: known)
    with monkeypatch.context() as patch:
        patch.setattr(time_limit, "RESERVE", 0.0)
        late = time.monotonic() + 1e6
        examples.at_step(patch, 7, lambda: patch.setattr(time, "monotonic", lambda: late))
        assert cli.main(["train", "--missing", "core", "--at-once", "2", "--until", "1h"]) == 124
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("vanishing train: the time is up: 0 of 3 trainings done; saved: vgg08:0 at epoch ")
    assert told.endswith("; run `vanishing train --missing core --at-once 2 --until 1h` to resume")
    assert cli.main(told.split("`")[1].split()[1:]) == 0
    assert made() == whole
