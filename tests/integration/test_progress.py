"""What a training tells of itself: to `vanishing status`, and to TensorBoard where that is wanted."""

import contextlib
import errno
import json
import shlex
import signal
import sys
import time
from pathlib import Path

import programs
import pytest
import torch

import examples
from vanishing import cli, config, files, paths, stages
from vanishing.engines import graph, progress, screen, status

RUNS = ["vgg08", "vgg38"]
SMALL = {
    "data": {"validation_per_class": 4, "generated": {"classes": 3, "train_per_class": 12, "test_per_class": 4}},
    "model": {"filters": 4, "blocks": 0},
    "train": {"epochs": 3, "batch_size": 8},
}


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """Stand in a folder with two tiny runs of 3 epochs of 3 iterations, and their images."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(config.text(examples.content(SMALL, RUNS)))
    settings = config.load()
    stages.data(settings)
    yield settings
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def board(study):
    """Have the trainings write curves; return a reader of those of a run: its epochs and training losses."""
    programs.needs("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator as reader

    Path("params.yaml").write_text(config.text(examples.content(SMALL | {"tensorboard": True}, RUNS)))

    def read(run):
        events = reader.EventAccumulator(str(paths.BOARD / run / "seed0"))
        events.Reload()
        return [(each.step, each.value) for each in events.Scalars("loss/training")]

    return read


def made():
    found = (path for top in ("checkpoints", "results") for path in sorted(Path(top).rglob("*")))
    return {path.as_posix(): path.read_bytes() for path in found if path.is_file()}


def test_an_interrupted_training_is_found_where_it_was_saved_and_goes_on_by_the_command(study, monkeypatch):
    with monkeypatch.context() as patch:
        examples.at_step(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        assert cli.main(["train", "vgg08", "--seed", "0"]) == 143
    found = status.read(study).trainings[0]
    assert (found.state, found.epoch, found.iteration) == ("interrupted", 2, 2)
    assert "\n  vgg08:0, saved at epoch 2, iteration 2\n" in screen.text(status.read(study))
    assert cli.main(shlex.split(found.command)[1:]) == 0
    assert [each.state for each in status.read(study).trainings] == ["done", "missing"]
    assert list(paths.PROGRESS.iterdir()) == []


def test_the_last_line_of_a_command_that_was_stopped_is_known_as_such(study, monkeypatch, capsys):
    examples.at_step(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["train", "vgg08"]) == 143
    assert cli.main(["train", "vgg08", "--until", "1s"]) == 124
    monkeypatch.setattr(stages, "train", lambda *_: signal.raise_signal(signal.SIGINT))
    assert cli.main(["train", "vgg08"]) == 130
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vanishing train: ")]
    assert [status.STOPPED.match(line) is not None for line in lines] == [True] * 3


def test_one_under_way_says_how_far_it_is(study, monkeypatch):
    seen = []
    examples.at_step(monkeypatch, 5, lambda: seen.append(status.read(study).trainings[0]))
    monkeypatch.setattr("vanishing.engines.progress.EVERY", 0.0)
    assert cli.main(["train", "vgg08", "--seed", "0"]) == 0
    (found,) = seen
    assert (found.state, found.epoch, found.epochs, found.iterations) == ("running", 2, 3, 3)
    assert found.steps_per_second > 0
    assert found.seconds_left == pytest.approx((9 - 3 - found.iteration) / found.steps_per_second)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("a broken\nstep"), "RuntimeError: a broken step"),
        (OSError(5, "Input/output error", "f"), "f: Input"),
    ],
)
def test_one_that_failed_says_why(study, monkeypatch, error, told):
    def fail():
        raise error

    examples.at_step(monkeypatch, 2, fail)
    with contextlib.suppress(RuntimeError):  # which is no mistake of the user's
        assert cli.main(["train", "vgg08", "--seed", "0"]) == 1
    found = status.read(study).trainings[0]
    assert found.state == "failed"
    assert found.error.startswith(told)


def test_the_curves_are_the_history_and_change_no_result(study, board):
    assert cli.main(["train", "vgg08"]) == 0
    whole, history = made(), (paths.results("vgg08", 0) / "history.csv").read_text().splitlines()[1:]
    losses = [(int(row.split(",")[0]), pytest.approx(float(row.split(",")[2]))) for row in history]
    assert board("vgg08") == losses
    Path("params.yaml").write_text(config.text(examples.content(SMALL, RUNS)))
    assert cli.main(["train", "vgg08"]) == 0
    assert made() == whole


def test_a_resumed_training_has_each_epoch_once(study, board, monkeypatch):
    with monkeypatch.context() as patch:
        examples.at_step(patch, 7, lambda: signal.raise_signal(signal.SIGTERM))
        assert cli.main(["train", "vgg08"]) == 143
    assert [epoch for epoch, _ in board("vgg08")] == [1, 2]
    assert cli.main(["train", "vgg08"]) == 0
    assert [epoch for epoch, _ in board("vgg08")] == [1, 2, 3]


def test_a_disk_that_is_full_or_a_folder_in_the_way_ends_no_training(board, monkeypatch, capsys):
    """Two runs, each with one line: the first cannot make its folder, the second cannot write its first epoch."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    paths.BOARD.mkdir(parents=True)
    (paths.BOARD / "vgg08").touch()
    monkeypatch.setattr(RecordWriter, "write", full)
    assert cli.main(["train", "vgg08", "vgg38"]) == 0
    ends = "; the training goes on without curves for TensorBoard"
    assert [line for line in capsys.readouterr().err.splitlines() if line.endswith(ends)] == [
        f"{paths.BOARD}/vgg08/seed0: Not a directory{ends}",
        f"{paths.BOARD}/vgg38/seed0: No space left on device{ends}",
    ]


def test_a_start_that_is_killed_before_its_first_step_has_forgotten_the_error_before(study):
    files.write(paths.progress("vgg08", 0), json.dumps({"error": "a", "epoch": 2, "time": time.time() - 60}))
    with contextlib.suppress(KeyboardInterrupt), progress.Reporter(study, "vgg08", 0):
        raise KeyboardInterrupt
    found = status.read(study).trainings[0]
    assert (found.state, found.error) == ("interrupted", "")


def test_without_its_package_a_line_says_so(board, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    assert cli.main(["train", "vgg08"]) == 1
    assert capsys.readouterr().err == (
        "vanishing train: tensorboard is not installed; run `pip install tensorboard`, or set `tensorboard: false`\n"
    )


def test_no_stage_depends_on_it(study, board):
    assert config.load().tensorboard
    assert graph.configurations(config.load()) == graph.configurations(study)
