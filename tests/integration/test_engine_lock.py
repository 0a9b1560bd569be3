"""One engine at a time: who is second is refused and told who is first, and a killed engine stands in nobody's way."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vanishing.engines import lock
from vanishing.errors import UserError

HOLD = """
import sys
from vanishing.engines import lock
lock.take(["/somewhere/bin/snakemake", "--cores", "2"])
print("held", flush=True)
sys.stdin.read()
"""

WRITE = """
import os, sys
from dvc.fs import localfs
from dvc.rwlock import rwlock
written = [os.path.abspath(name) for name in ("results", "checkpoints")]
with rwlock(".dvc/tmp", localfs, "dvc repro", [], written, hardlink=False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Enter a folder with DVC in it, and a lock that a killed Snakemake has left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    lock.STALE.mkdir(parents=True)
    (lock.STALE / "0.output.lock").write_text("results/data.csv\n")


@pytest.fixture
def other():
    """Return a function that starts another process of some code and waits until it holds its lock."""
    started = []

    def start(code):
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_locks_of_a_killed_snakemake_are_removed(checkout, capsys):
    lock.clear()
    assert not list(lock.STALE.iterdir())
    assert capsys.readouterr().err == ""


def test_those_of_a_snakemake_at_work_are_left_and_it_is_named(checkout, other, capsys):
    process = other(HOLD)
    lock.clear()
    assert [path.name for path in lock.STALE.iterdir()] == ["0.output.lock"]
    assert re.fullmatch(
        rf"at work here: snakemake --cores 2 \(process {process.pid} on .+, for \d+ s\)\n", capsys.readouterr().err
    )


def test_who_is_second_is_refused_until_the_first_has_ended(checkout, other):
    process = other(HOLD)
    named = rf"^another engine is at work here: snakemake --cores 2 \(process {process.pid} on .+, for \d+ s\)$"
    with pytest.raises(UserError, match=named):
        lock.check("vanishing sync")
    with pytest.raises(UserError, match=named):
        lock.take(["snakemake"])
    process.communicate()
    lock.check("vanishing sync")
    assert list(lock.LOCK.parent.iterdir()) == [lock.LOCK]


def test_a_kill_releases_it(checkout, other):
    process = other(HOLD)
    process.kill()
    process.communicate()
    lock.check("vanishing sync")
    lock.clear()
    assert not list(lock.STALE.iterdir())


@pytest.mark.parametrize("left", ["", '{"write": {"/study/resu'])
def test_the_list_that_a_killed_dvc_has_left_half_written_is_removed(checkout, left):
    Path(".dvc/tmp/rwlock").write_text(left)
    lock.check("vanishing sync")
    assert not json.loads(Path(".dvc/tmp/rwlock").read_text()).get("write")


@pytest.mark.parametrize("code", [HOLD, WRITE])
def test_one_that_was_killed_and_that_nobody_has_waited_for_stands_in_nobodys_way(checkout, other, code):
    process = other(code)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert json.loads(Path(".dvc/tmp/rwlock").read_text())["write"]
    lock.check("vanishing sync")
    assert not json.loads(Path(".dvc/tmp/rwlock").read_text()).get("write")


def test_dvc_finds_the_holder_in_its_list_as_writer_of_everything(checkout, other):
    process = other(HOLD)
    written = {str(Path.cwd()): {"pid": process.pid, "cmd": "snakemake --cores 2"}}
    assert json.loads(Path(".dvc/tmp/rwlock").read_text())["write"] == written
    process.communicate()
    assert not json.loads(Path(".dvc/tmp/rwlock").read_text()).get("write")


def test_a_dvc_at_work_is_named_once(checkout, other):
    process = other(WRITE)
    with pytest.raises(
        UserError,
        match=rf"^another engine is at work here: \(PID {process.pid}\): dvc repro; "
        rf"if that is none, on any machine, remove .dvc/tmp/rwlock \(\d s old\)$",
    ):
        lock.check("vanishing sync")
    process.communicate()
    lock.check("vanishing sync")


def test_a_process_with_the_number_of_one_that_is_gone_is_not_taken_for_it(checkout, other):
    process = other("import sys; print('held', flush=True); sys.stdin.read()")
    listed = Path(".dvc/tmp/rwlock")
    listed.write_text(json.dumps({"write": {str(Path.cwd()): {"pid": process.pid, "cmd": "dvc repro"}}}))
    with pytest.raises(UserError, match=rf"\(PID {process.pid}\): dvc repro; if that is none, "):
        lock.check("vanishing sync")
    os.utime(listed, (0, psutil.Process(process.pid).create_time() - 60))
    lock.check("vanishing sync")


def test_it_works_without_dvc(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    process = other(HOLD)
    with pytest.raises(UserError, match=rf"process {process.pid} "):
        lock.check("vanishing sync")
    assert not (tmp_path / ".dvc").exists()
