"""Two engines started in one folder, in each order of the two: one works, and the other is refused and names it."""

import contextlib
import re
import subprocess
import time

import engines
import psutil
import pytest

TARGETS = {
    "snakemake": ["snakemake", "--cores", "1", "results/runs/vgg14_bn/seed0/summary.json"],
    "dvc": ["dvc", "repro", "train@vgg14_bn-0"],
}
BUSY = {
    ("snakemake", "snakemake"): r"^at work here: snakemake .+ \(process {pid} on .+\)$",
    ("snakemake", "dvc"): r"^ERROR: failed to reproduce .+ busy(?s:.+)^  \(PID {pid}\): snakemake ",
    ("dvc", "snakemake"): r"^snakemake: another engine is at work here: \(PID {pid}\): .*dvc repro",
    ("dvc", "dvc"): r"^ERROR: failed to reproduce .+ busy(?s:.+)^  \(PID {pid}\): .*dvc repro",
}


@contextlib.contextmanager
def held_still(process):
    """Stop a process and all that it has started, and let them go on at the end."""
    family = [process, *process.children(recursive=True)]
    try:
        for each in family:
            each.suspend()
        yield
    finally:
        for each in family:
            each.resume()


@pytest.mark.parametrize(("first", "second"), BUSY)
def test_of_two_starts_one_works_and_the_other_names_it(tmp_path, first, second):
    engines.lay_out(tmp_path, {}, train={"epochs": 25, "batch_size": 2})
    process = engines.start(TARGETS[first], tmp_path)
    while not list((tmp_path / ".vanishing").rglob("*.safetensors")) and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    with held_still(psutil.Process(process.pid)):  # at work for as long as the second takes to start
        refused = subprocess.run(
            TARGETS[second], cwd=tmp_path, env=engines.environment(), capture_output=True, text=True, check=False
        )
    assert refused.returncode not in (0, 2), refused.stdout
    said = refused.stdout + refused.stderr
    assert re.search(BUSY[first, second].format(pid=process.pid), said, re.M), said
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert engines.run(tmp_path, "vanishing", "verify").startswith("no mismatch; ")
    engines.run(tmp_path, *TARGETS[second])  # who was refused is not locked out
