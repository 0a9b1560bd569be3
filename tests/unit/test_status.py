"""What `vanishing status` says of every state that a training can be in, from what its processes leave."""

import errno
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import holders
import pytest
import yaml

import examples
from vanishing import cli, config, errors, files, locks, paths
from vanishing.engines import screen, status
from vanishing.training import round_robin

RUNS = ["vgg08", "vgg38", "vgg38_bn"]
CLEAR = b"\x1b[H\x1b[J"


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """Stand in a folder with three small runs."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content({"train": {"epochs": 10}}, RUNS)))
    return config.load()


def only(study, run="vgg08"):
    return next(each for each in status.read(study).trainings if each.run == run)


def tell(study, run="vgg08", **told):
    """Write what a training of today's configuration tells of its progress."""
    content = {"configuration": study.run(run).configuration(), "time": time.time()} | told
    files.write(paths.progress(run, 0), json.dumps(content))


def elsewhere(run, seconds, **who):
    """Write the lock of a training on another machine, an hour old, that has given no sign for so long."""
    path = paths.LOCKS / f"{run}-seed0.lock.7-0123abcd"
    holder = {"machine": "x", "host": "node7", "pid": 7, "since": time.time() - 3600, "command": "train"}
    files.write(path, json.dumps(holder | who))
    os.utime(path, (time.time() - seconds,) * 2)


GRADIENTS = "cmVzdWx0cy9ydW5zL3ZnZzA4L3NlZWQwL2dyYWRpZW50cy5jc3Y="
"""results/runs/vgg08/seed0/gradients.csv in base64, as Snakemake names its records of it."""

PLACE = {"epoch": 4, "epochs": 10, "iteration": 5, "iterations": 20, "steps_per_second": 2.5, "seconds_left": 54.0}


def test_what_has_results_is_done_and_the_rest_is_missing(study):
    examples.result(study, "vgg08")
    found = status.read(study)
    assert found.counts == {"done": 1, "running": 0, "failed": 0, "interrupted": 0, "stale": 0, "missing": 2}
    assert (found.studies["core"]["trainings"], found.studies["core"]["missing"]) == (3, 2)
    assert (found.analyses["gradients"].jobs, found.analyses["gradients"].done) == (3, 1)
    lines = screen.text(found).splitlines()
    assert lines[:2] == ["3 trainings: 1 done, 2 missing", "engine: none at work here"]
    assert "  core  2 of 3" in lines


def test_a_training_of_another_configuration_is_stale_and_the_keys_are_named(study):
    examples.result(study, "vgg08")
    Path("params.yaml").write_text(
        yaml.safe_dump(examples.content({"train": {"epochs": 20}, "model": {"norm": "batch"}}, RUNS))
    )
    found = only(config.load())
    assert (found.state, found.command) == ("stale", "vanishing train vgg08 --seed 0")
    assert found.changed == {"train.epochs": (10, 20), "model.norm": ("none", "batch")}
    text = screen.text(status.read(config.load()))
    assert '\n  vgg08:0: model.norm "none" -> "batch", train.epochs 10 -> 20\n' in text


def test_who_holds_the_lock_trains_and_a_killed_holder_has_been_interrupted(study, holder):
    """The operating system tells them apart, not the age of a file."""
    process = holder(holders.TRAINING)
    assert only(study).state == "running"
    tell(study, **PLACE)
    found = only(study)
    assert (found.state, found.epoch, found.epochs, found.iteration, found.steps_per_second) == (
        "running",
        4,
        10,
        5,
        2.5,
    )
    assert (found.process.pid, found.process.command) == (process.pid, "vanishing train vgg08")
    assert re.search(rf"\nvgg08:0 +4/10 +2.5 +54 s +{process.pid} on ", screen.text(status.read(study)))
    process.kill()
    process.wait()
    found = only(study)
    assert (found.state, found.process.pid, found.command) == (
        "interrupted", process.pid, "vanishing train vgg08 --seed 0",
    )  # fmt: skip
    assert f"\n  vgg08:0, nothing saved; process {process.pid} on " in screen.text(status.read(study))
    assert "\n  go on: vanishing train vgg08:0\n" in screen.text(status.read(study))


def test_a_training_that_says_nothing_more_is_said_to_be_silent(study):
    elsewhere("vgg08", 5)
    tell(study, **PLACE, time=time.time() - 180)
    assert re.search(r"\nvgg08:0 +4/10 +2.5 +silent for 3 min ", screen.text(status.read(study)))


def test_what_an_earlier_start_has_told_is_not_said_of_the_one_that_goes_on(study, holder):
    tell(study, **PLACE, time=time.time() - 48 * 3600)
    holder(holders.TRAINING)
    assert (only(study).state, only(study).epoch, only(study).seconds_silent) == ("running", None, None)
    assert re.search(r"\nvgg08:0 +- +- +- +\d+ on ", screen.text(status.read(study)))


def test_another_node_trains_as_long_as_it_gives_signs(study):
    tell(study, "vgg38", **PLACE)
    elsewhere("vgg38", 5)
    found = only(study, "vgg38")
    assert (found.state, found.process.host, found.epoch) == ("running", "node7", 4)
    elsewhere("vgg38", locks.PATIENCE + 5)
    assert only(study, "vgg38").state == "interrupted"


def test_a_failed_one_shows_the_end_of_its_log_and_what_goes_on(study):
    tell(study, error="RuntimeError: a broken step", **PLACE)
    assert "\n    | RuntimeError: a broken step\n" in screen.text(status.read(study))
    log = Path("logs/train/vgg08-seed0.log")
    files.write(log, "1\n2\nTraceback (most recent call last):\n  \x1b[2J odd\n\nRuntimeError: a broken step\n")
    found = only(study)
    assert (found.state, found.error) == ("failed", "RuntimeError: a broken step")
    assert found.log == ["Traceback (most recent call last):", "   [2J odd", "RuntimeError: a broken step"]
    os.utime(log, (time.time() - 300,) * 2)
    assert only(study).log == [], "of an earlier start"


def test_a_log_alone_tells_a_failure(study):
    """A training that fails before it begins has told nothing."""
    log = Path("logs/train/vgg08-seed0.log")
    files.write(log, "vanishing train: data/generated.npz: missing; `vanishing data` makes it\n")
    assert (only(study).state, only(study).error) == ("failed", log.read_text().strip())
    full = errors.line(OSError(errno.ENOSPC, "No space left on device", "checkpoints"))
    files.write(log, f"vanishing train: {full}\n")
    assert full.endswith(" to resume")
    assert only(study).error == log.read_text().strip()


LONG = "`vanishing --set 'runs={...%s}' train vgg08:0 --at-once 2`" % ("." * 300)
"""A command that goes on, longer than what is shown of a line."""


@pytest.mark.parametrize(
    "error",
    [
        "interrupted",
        round_robin.Interrupted(signal.SIGTERM, "saved at epoch 1", LONG),
        f"the time is up: 0 of 2 trainings done; saved: vgg08:0 at epoch 1; run {LONG} to resume",
        f"too little time is left to begin another: 0 of 2 trainings done; run {LONG} to resume",
        "--until: less than 30 s are left, in which nothing is worth beginning",
        "run 'vgg08', seed 0 is being trained by vanishing train vgg08 (process 7 on node7, for 3 s)",
        "1 of 2 trainings left to the processes that are at work on them: vgg38:0; the others are done",
    ],
)
def test_what_was_stopped_or_left_to_others_has_not_failed(study, error):
    for stage, name in (("train", "vgg08-seed0"), ("gradients", "vgg08-seed0")):
        files.write(Path(f"logs/{stage}/{name}.log"), f"epoch 1\nvanishing {stage}: {error}\n")
    assert only(study).state == "missing"
    assert status.read(study).failures == []
    tell(study, **PLACE)
    assert only(study).state == "interrupted"


def test_ctrl_c_before_the_command_begins_is_no_failure(study):
    files.write(
        Path("logs/tables/core.log"), "Traceback (most recent call last):\n  import pandas\nKeyboardInterrupt\n"
    )
    assert status.read(study).failures == []


def test_files_that_cannot_be_read_count_as_not_there(study):
    for path in (paths.progress("vgg08", 0), Path("logs/train/vgg08-seed0.log"), Path("logs/tables/core.log")):
        path.mkdir(parents=True)
    assert status.read(study).counts["missing"] == 3


def test_a_file_that_others_may_not_read_is_an_error_of_its_training(study, monkeypatch):
    """As in the checkout of a group; root may read everything, so the system's answer is made up."""
    for run in ("vgg08", "vgg38"):
        examples.result(study, run)
    forbidden, stat = (paths.results("vgg08", 0) / "history.csv", paths.ANALYSES / "vgg38/seed0/signal.csv"), Path.stat

    def guarded(path, **how):
        if path in forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", guarded)
    assert (only(study).state, only(study).error) == ("failed", f"{forbidden[0]}: Permission denied")
    assert (only(study, "vgg38").state, status.read(study).analyses["signal"].done) == ("done", 0)


def test_nothing_of_another_process_steers_the_terminal(study):
    tell(study, error="a\x1b[2Jb", **PLACE)
    elsewhere("vgg38", 5, host="node\x1b[7", command="train\r")
    files.write(paths.LOCKS / "snakemake.lock.7-0123abcd", json.dumps({"command": "s\x1b[2J", "host": "h", "pid": 7}))
    found = status.read(study)
    assert only(study).error == "a [2Jb"
    assert (only(study, "vgg38").process.host, only(study, "vgg38").process.command) == ("node [7", "train")
    assert found.engine.startswith("s [2J (process 7 on h, ")
    assert "\x1b" not in screen.text(found)


def test_what_a_training_of_another_configuration_has_told_does_not_count(study):
    tell(study, error="a")
    files.write(Path("logs/train/vgg08-seed0.log"), "vanishing train: a\n")
    Path("params.yaml").write_text(yaml.safe_dump(examples.content({"train": {"epochs": 20}}, RUNS)))
    assert only(config.load()).state == "missing"


def test_a_damaged_summary_and_a_half_written_word_are_no_traceback(study):
    examples.result(study, "vgg08")
    (paths.results("vgg08", 0) / "summary.json").write_text("{")
    files.write(paths.progress("vgg38", 0), '{"epoch": ')
    found = only(study)
    assert (found.state, only(study, "vgg38").state) == ("failed", "missing")
    assert found.error.startswith("results/runs/vgg08/seed0/summary.json: cannot be read")


def test_failures_of_other_stages_are_found_by_their_logs(study):
    log = Path("logs/tables/core.log")
    files.write(log, "vanishing tables: study 'core' has no results yet; `snakemake core` makes them\n")
    (failure,) = status.read(study).failures
    assert (failure.command, failure.log_file) == ("vanishing tables core", str(log))
    assert failure.log == [log.read_text().strip()]
    for name in ("core", "core-differences"):
        files.write(paths.TABLES / f"{name}.csv", "made since\n")
    assert status.read(study).failures == []


def test_what_an_analysis_was_measured_with_is_known_by_snakemakes_record(study):
    examples.result(study, "vgg08")
    record = {"params": [repr(json.dumps(study.gradients.model_dump() | {"batches": 7}))], "endtime": time.time()}
    files.write(Path(".snakemake/metadata") / GRADIENTS, json.dumps(record))
    found = status.read(study)
    assert (found.analyses["gradients"].done, found.analyses["gradients"].stale) == (0, 1)
    assert "\n  gradients of 1: batches 7 -> 2\n" in screen.text(found)
    files.write(Path(".snakemake/metadata") / GRADIENTS, json.dumps(record | {"endtime": time.time() - 60}))
    assert status.read(study).analyses["gradients"].done == 1, "DVC has made it again since"


def test_what_was_measured_along_a_stale_training_is_not_counted(study):
    examples.result(study, "vgg08")
    Path("params.yaml").write_text(yaml.safe_dump(examples.content({"train": {"epochs": 20}}, RUNS)))
    assert status.read(config.load()).analyses["gradients"] == status.Analysis(jobs=3, done=0, stale=0, changed={})


def test_an_engine_at_work_is_named(study, holder):
    assert status.read(study).engine == ""
    snakemake = holder(holders.ENGINE)
    mark = Path(".snakemake/incomplete") / GRADIENTS
    files.write(mark, "")
    os.utime(mark, (time.time() - 61,) * 2)
    found = status.read(study)
    assert found.engine.startswith(f"snakemake --cores 2 (process {snakemake.pid} on ")
    assert re.search(r"\nrunning +for\nvanishing gradients vgg08 --seed 0 +61 s\n", screen.text(found))
    snakemake.kill()
    snakemake.wait()
    assert status.read(study).jobs == [], "the mark of a killed one stays"
    Path(".dvc/tmp").mkdir(parents=True)
    dvc = holder(holders.DVC)
    assert status.read(study).engine == f"dvc repro (process {dvc.pid})"
    Path(".dvc/tmp/rwlock").write_text(
        json.dumps({"write": {"/x/results": {"pid": dvc.pid, "cmd": "/x/bin/dvc exp run -S a=it's\x1b"}}})
    )
    assert status.read(study).engine == f"dvc exp run -S a=it's (process {dvc.pid})"
    dvc.kill()
    dvc.wait()
    assert status.read(study).engine == ""


PROGRAM = """
import signal, sys
from vanishing import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background are started without
sys.exit(cli.main())
"""


def call(*arguments):
    environment = os.environ | {"PYTHONPATH": str(examples.ROOT / "src")}
    return [sys.executable, "-c", PROGRAM, *arguments], environment


def test_it_imports_no_pytorch_writes_nothing_and_has_the_keys_that_scripts_read(study):
    tell(study, error="a", **PLACE)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    _, environment = call()
    code = "import sys; from vanishing import cli; cli.main(['status', '--json']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    printed, torch = done.stdout.rstrip().rsplit("\n", 1)
    assert torch == "False"
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    found = json.loads(printed)
    page = (examples.ROOT / "docs/commands.md").read_text()
    keys = {*found, *found["trainings"][0], *found["analyses"]["gradients"], *found["studies"]["core"]}
    assert [key for key in keys if f"`{key}`" not in page] == [], "not explained"
    assert [each["state"] for each in found["trainings"]] == ["failed", "missing", "missing"]


def test_a_study_is_chosen_by_name_and_a_setting_stays_in_the_command(study, capsys):
    assert cli.main(["status", "cor"]) == 2
    assert capsys.readouterr().err == "vanishing status: study 'cor' is not configured; allowed: core\n"
    assert cli.main(["--set", "train.epochs=5", "status", "core", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["trainings"][0]
    assert found["command"] == "vanishing --set train.epochs=5 train vgg08 --seed 0"


def test_watch_refreshes_a_terminal_in_place_and_ctrl_c_ends_it_quietly():
    command, environment = call("status", "--watch", "core", "--every", "0.2")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    until = time.monotonic() + 60
    while seen.count(CLEAR) < 3 and time.monotonic() < until:
        if select.select([ours], [], [], 1)[0]:
            seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    os.close(ours)
    assert seen.startswith(CLEAR + b"3 trainings: 3 missing\r\n")
    assert b"vanishing status" not in seen


def test_an_interval_that_makes_no_sense_is_refused(capsys):
    for text in ("core", "0", "nan"):
        with pytest.raises(SystemExit):
            cli.main(["status", "--every", text])
        assert capsys.readouterr().err.endswith(f"argument --every: '{text}'; allowed: 0.2 to 3600 seconds\n")


def test_watch_writes_no_escapes_into_a_pipe():
    command, environment = call("status", "--every", "0.2")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert lines.count("3 trainings: 3 missing\n") >= 2
    assert "\x1b" not in "".join(lines) + rest
