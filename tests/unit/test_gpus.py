"""Several processes on a machine with several GPUs, of which a list is faked: each computes on one of its own."""

import os
import subprocess
import sys

import pytest

from vanishing.errors import UserError
from vanishing.training import gpus

PROCESS = """
import os, sys
import torch
torch.cuda.device_count = lambda: int(sys.argv[1])
from vanishing import config
from vanishing.training import devices
train = config.load().run("vgg08").train
devices.choose(train)
print("on", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Start a process that takes a GPU and holds it until it is killed."""
    running = []

    def begin(count, **variables):
        command = [sys.executable, "-c", PROCESS, f"{count}"]
        surroundings = {"TMPDIR": f"{tmp_path}"} | variables
        process = subprocess.Popen(
            ["env", "-u", "CUDA_VISIBLE_DEVICES", *(f"{key}={value}" for key, value in surroundings.items()), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def taken(process):
    """Return what CUDA sees in a process, and what that has said of it."""
    said = []
    while not (line := process.stdout.readline()).startswith("on "):
        assert line, said
        said.append(line.rstrip())
    return line.split()[1], said


def test_each_process_takes_a_gpu_of_its_own_and_the_next_ones_share_evenly(start):
    together = [start(2) for _ in range(4)]  # at once
    assert sorted(taken(process)[0] for process in together) == ["0", "0", "1", "1"]


def test_a_dead_process_leaves_its_gpu_to_the_next(start):
    first, second = start(2), start(2)
    gpu, said = taken(first)
    assert said == [f"computing on GPU {gpu}, one of 2"]
    assert {gpu, taken(second)[0]} == {"0", "1"}
    first.kill()
    first.wait()
    assert taken(start(2))[0] == gpu
    other, said = taken(start(2))
    assert said == [f"computing on GPU {other}, one of 2; 1 other shares it"]


def test_it_chooses_among_those_that_are_visible(start):
    gpus = ["5", "GPU-8f6e/1"]
    together = [start(2, CUDA_VISIBLE_DEVICES=",".join(gpus)) for _ in gpus]
    assert sorted(taken(process)[0] for process in together) == gpus
    assert taken(start(1, CUDA_VISIBLE_DEVICES="7,9"))[0] == "7,9"  # of which CUDA sees one only, the first


@pytest.mark.parametrize("count", [0, 1])
def test_one_gpu_is_left_to_cuda(start, count):
    together = [start(count) for _ in range(2)]
    assert [taken(process) for process in together] == [("None", [])] * 2


def test_a_folder_that_others_may_write_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(gpus.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = tmp_path / f"vanishing-gpus-{os.geteuid()}"
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="not a folder of yours alone"):
        gpus.take()
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="not a folder of yours alone"):
        gpus.take()
