"""Whatever interrupts the pipeline, the same command finishes next time, with the bytes of an undisturbed build."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from engines import content, eager, environment, lay_out, run

TRAIN = {"epochs": 6, "batch_size": 2, "snapshots": [1, 4]}
"""Of 40 iterations an epoch, and long enough to be interrupted in the middle."""

TRAINED = ["checkpoints/vgg14_bn", "results/runs/vgg14_bn"]
TRAINING = ["vanishing", "train", "vgg14_bn", "--seed", "0"]
SNAKEMAKE = ["snakemake", "--cores", "2"]

LEAVE_WITHIN = 10.0
"""Seconds that a training may take to stop."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Build the study by Snakemake, with nothing in its way."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    lay_out(folder, {}, train=TRAIN)
    run(folder, *SNAKEMAKE)
    return folder


@pytest.fixture
def whole(undisturbed, tmp_path):
    """A copy of the finished study."""
    return Path(shutil.copytree(undisturbed, tmp_path / "study"))


@pytest.fixture
def untrained(undisturbed, tmp_path):
    """The study with its data, before any training."""
    lay_out(tmp_path / "study", {}, train=TRAIN)
    shutil.copytree(undisturbed / "data", tmp_path / "study" / "data")
    return tmp_path / "study"


def trained(folder):
    """Return the bytes of what training `vgg14_bn` makes."""
    made = content(folder)
    return {
        name: bytes_
        for name, bytes_ in made.items()
        if name.startswith(tuple(TRAINED)) and not name.endswith("gradients.csv")
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_told_to_stop_saves_its_state_in_time_and_goes_on_from_it(undisturbed, untrained, number):
    process, output = start(untrained, TRAINING)
    wait_for(process, output, "epoch 2/")
    process.send_signal(number)
    since = time.monotonic()
    assert process.wait(timeout=60) == 128 + number
    took = time.monotonic() - since
    assert took < LEAVE_WITHIN
    place = r"saved at (epoch (\d), iteration \d+)"
    stopped = rf"^vanishing train: stopped by {number.name}, {place}; run the same command to resume$"
    found = re.search(stopped, output.read_text(), re.M)
    print(f"{number.name}: left within {took:.2f} s, {found[1]}")
    assert 3 <= int(found[2]) <= TRAIN["epochs"]
    assert not trained(untrained)
    assert f"going on from {found[1]}" in run(untrained, *TRAINING)
    assert trained(untrained) == trained(undisturbed)


def test_a_killed_training_goes_on_from_the_state_of_its_last_save(undisturbed, untrained, tmp_path):
    process, output = start(untrained, TRAINING, eager(tmp_path))
    wait_for(process, output, "epoch 2/")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not trained(untrained)
    resumed = re.search(r"going on from epoch (\d), iteration \d+", run(untrained, *TRAINING))
    assert 2 <= int(resumed[1]) <= TRAIN["epochs"]
    assert trained(untrained) == trained(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_snakemake_told_to_stop_with_its_jobs_saves_their_state_and_goes_on(undisturbed, untrained, number):
    """The signal goes to the whole group, as Ctrl-C does: to Snakemake, its shells, the trainings and their `tee`."""
    command = [*SNAKEMAKE, "results/runs/vgg14_bn/seed0/summary.json", "results/runs/vgg08/seed0/summary.json"]
    log = untrained / "logs/train/vgg14_bn-seed0.log"
    process, output = start(untrained, command)
    wait_for(process, log, "epoch 2/")
    os.killpg(process.pid, number)
    since = time.monotonic()
    assert process.wait(timeout=60) == 1
    took = time.monotonic() - since
    text = output.read_text()
    found = re.search(
        rf"vanishing train: stopped by {number.name}, saved at (epoch \d, iteration \d+)", log.read_text()
    )
    assert found, text
    print(f"{number.name}: left within {took:.2f} s, {found[1]}")
    assert took < LEAVE_WITHIN
    assert found[0] in text
    assert not trained(untrained)
    run(untrained, *command)
    assert f"going on from {found[1]}" in log.read_text()
    assert trained(untrained) == trained(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dvc_told_to_stop_with_its_job_saves_its_state_and_goes_on(undisturbed, untrained, number):
    """DVC waits for the training after SIGINT; of SIGTERM it dies at once, before the training has saved its state."""
    command = ["dvc", "repro", "train@vgg14_bn-0"]
    process, output = start(untrained, command)
    wait_for(process, output, "epoch 2/")
    os.killpg(process.pid, number)
    since = time.monotonic()
    assert process.wait(timeout=60) != 0
    stopped = rf"vanishing train: stopped by {number.name}, saved at (epoch \d, iteration \d+)"
    while not (found := re.search(stopped, output.read_text())):
        assert time.monotonic() < since + LEAVE_WITHIN, output.read_text()
        time.sleep(0.01)
    print(f"{number.name}: left within {time.monotonic() - since:.2f} s, {found[1]}")
    assert not trained(untrained)
    assert f"going on from {found[1]}" in run(untrained, *command)
    assert trained(untrained) == trained(undisturbed)


def test_missing_data_is_a_line_that_names_the_command_which_makes_it(undisturbed, untrained):
    shutil.rmtree(untrained / "data")
    line = "vanishing train: data/generated.npz: not there; run `vanishing data`"
    (command,) = named_commands(untrained, TRAINING, line)
    assert command == ["vanishing", "data"]
    run(untrained, *command)
    run(untrained, *TRAINING)
    assert trained(untrained) == trained(undisturbed)


def test_a_missing_snapshot_is_a_line_that_names_the_commands_which_bring_it_back_and_make_it(undisturbed, whole):
    missing = "checkpoints/vgg14_bn/seed0/epoch0004.safetensors"
    (whole / missing).unlink()
    (whole / "results/runs/vgg14_bn/seed0/gradients.csv").unlink()
    line = f"vanishing gradients: {missing}: missing; "
    gradients = [*SNAKEMAKE, "results/runs/vgg14_bn/seed0/gradients.csv"]  # by name: else the report is there already
    back, command = named_commands(whole, gradients, line)
    assert back == ["rm", "-f", missing, "&&", "dvc", "checkout", "--force", missing]
    assert command == TRAINING
    run(whole, *command)
    run(whole, *gradients)
    assert content(whole) == content(undisturbed)


DEATHS = {"leaves": "import os; os._exit(3)", "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"}


@pytest.mark.parametrize("death", DEATHS)
def test_a_notebook_whose_kernel_dies_is_named_and_leaves_nothing(undisturbed, whole, death):
    """It dies once its figures are drawn, before those of the other notebook are."""
    path = whole / "notebooks/training.ipynb"
    before = path.read_bytes()
    notebook = nbformat.reads(before, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(DEATHS[death], id="death"))
    nbformat.write(notebook, path)
    named = "notebooks/training.ipynb, notebooks/gradient_flow.ipynb"
    text = refused(whole, SNAKEMAKE, f"vanishing figures: {named}: the kernel did not start, or died: ")
    assert "Traceback" not in text
    made = content(whole)
    assert not [name for name in made if name.startswith(("report/figures/", "results/notebooks/core"))]
    assert {name: made[name] for name in made} == {name: content(undisturbed)[name] for name in made}
    path.write_bytes(before)
    run(whole, *SNAKEMAKE)
    assert content(whole) == content(undisturbed)


def test_a_mistake_in_the_report_is_named_by_file_and_line_and_leaves_the_earlier_pdf(undisturbed, whole):
    path = whole / "report/sections/theory.tex"
    before = path.read_bytes()
    path.write_bytes(before + b"\n\\nosuchmacro\n")
    place = f"./sections/theory.tex:{len(path.read_text().splitlines())}: Undefined control sequence."
    refused(whole, SNAKEMAKE, f"vanishing report: report/report.tex: LaTeX failed: {place}")
    path.write_bytes(before)
    assert content(whole) == content(undisturbed)
    run(whole, *SNAKEMAKE)
    assert content(whole) == content(undisturbed)


def start(folder, command, surroundings=None):
    """Start a command as the head of a process group; return it and the file of what it prints."""
    output = folder / "output.txt"
    with output.open("w") as handle:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment() | (surroundings or {}),
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    return process, output


def wait_for(process, path, text):
    """Wait until a file has a text in it, for as long as the process that writes it is alive."""
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None, path.read_text() if path.exists() else "ended"
        time.sleep(0.01)


def refused(folder, command, line):
    """Run a command that must fail with a line that begins with `line`, once in its output or more; return its text."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    assert [said for said in text.splitlines() if said.startswith(line)], text
    return text


def named_commands(folder, command, line):
    """Return the commands that the line of a refusal names in backquotes."""
    text = refused(folder, command, line)
    said = next(said for said in text.splitlines() if said.startswith(line))
    return [named.split() for named in re.findall(r"`(.+?)`", said)]
