"""One engine at a time: who is second is refused and told who is first, and a killed engine stands in nobody's way."""

import contextlib
import errno
import json
import os
import re
import time
from pathlib import Path

import holders
import psutil
import pytest

from vanishing.engines import lock
from vanishing.errors import UserError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Enter a folder with DVC in it, and a lock that a killed Snakemake has left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    lock.STALE.mkdir(parents=True)
    (lock.STALE / "0.output.lock").write_text("results/data.csv\n")


def test_the_locks_of_a_killed_snakemake_are_removed(checkout, capsys):
    lock.clear()
    assert not list(lock.STALE.iterdir())
    assert capsys.readouterr().err == ""


def test_those_of_a_snakemake_at_work_are_left_and_it_is_named(checkout, holder, capsys):
    process = holder(holders.ENGINE)
    lock.clear()
    assert [path.name for path in lock.STALE.iterdir()] == ["0.output.lock"]
    assert re.fullmatch(
        rf"at work here: snakemake --cores 2 \(process {process.pid} on .+, for \d+ s\)\n", capsys.readouterr().err
    )


def test_who_is_second_is_refused_until_the_first_has_ended(checkout, holder):
    process = holder(holders.ENGINE)
    named = rf"^another engine is at work here: snakemake --cores 2 \(process {process.pid} on .+, for \d+ s\)$"
    with pytest.raises(UserError, match=named):
        lock.check("vanishing sync")
    with pytest.raises(UserError, match=named):
        lock.take(["snakemake"])
    process.communicate()
    lock.check("vanishing sync")
    assert list(lock.LOCK.parent.iterdir()) == [lock.LOCK]


def test_a_kill_releases_it(checkout, holder):
    process = holder(holders.ENGINE)
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


@pytest.mark.parametrize("code", [holders.ENGINE, holders.DVC])
def test_one_that_was_killed_and_that_nobody_has_waited_for_stands_in_nobodys_way(checkout, holder, code):
    process = holder(code)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert json.loads(Path(".dvc/tmp/rwlock").read_text())["write"]
    lock.check("vanishing sync")
    assert not json.loads(Path(".dvc/tmp/rwlock").read_text()).get("write")


def test_dvc_finds_the_holder_in_its_list_as_writer_of_everything(checkout, holder):
    process = holder(holders.ENGINE)
    written = {str(Path.cwd()): {"pid": process.pid, "cmd": "snakemake --cores 2"}}
    assert json.loads(Path(".dvc/tmp/rwlock").read_text())["write"] == written
    process.communicate()
    assert not json.loads(Path(".dvc/tmp/rwlock").read_text()).get("write")


def test_a_dvc_at_work_is_named_once(checkout, holder):
    process = holder(holders.DVC)
    with pytest.raises(
        UserError,
        match=rf"^another engine is at work here: \(PID {process.pid}\): dvc repro; "
        rf"if no engine runs on any machine, remove .dvc/tmp/rwlock \(\d s old\)$",
    ):
        lock.check("vanishing sync")
    process.communicate()
    lock.check("vanishing sync")


def test_an_entry_that_a_dead_snakemake_of_another_machine_has_left_is_not_taken_for_a_process_of_this_one(
    checkout, holder
):
    """Its number may be that of any process here; an entry for the whole folder is made under the lock held here."""
    process = holder("import sys; print('held', flush=True); sys.stdin.read()")
    left = {"write": {str(Path.cwd()): {"pid": process.pid, "cmd": "snakemake --cores 2"}}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps(left))
    lock.check("vanishing sync")
    assert not json.loads(Path(".dvc/tmp/rwlock").read_text()).get("write")


def test_a_process_with_the_number_of_one_that_is_gone_is_not_taken_for_it(checkout, holder):
    process = holder("import sys; print('held', flush=True); sys.stdin.read()")
    listed = Path(".dvc/tmp/rwlock")
    listed.write_text(json.dumps({"write": {f"{Path('data').absolute()}": {"pid": process.pid, "cmd": "dvc repro"}}}))
    with pytest.raises(UserError, match=rf"\(PID {process.pid}\): dvc repro; if no engine runs "):
        lock.check("vanishing sync")
    os.utime(listed, (0, psutil.Process(process.pid).create_time() - 60))
    lock.check("vanishing sync")


WORKING = {
    holders.ENGINE: r"another engine is at work here: snakemake --cores 2 \(process {pid} on .+\)",
    holders.DVC: r"another engine is at work here: \(PID {pid}\): dvc repro; .+",
    holders.TRAINING: r"a training is at work here: vanishing train vgg08 \(process {pid} on .+\)",
}
DELETING = (
    "--delete-all-output", "--delete-all", "--delete-temp-output", "--delete-t", "--unlock", "--unl", "--no-hooks",
    "--cleanup-metadata x", "--cleanup-m x", "--cm x", "--cores 2 --delete-all-output -- all",
)  # fmt: skip


@pytest.mark.parametrize("code", WORKING, ids=["snakemake", "dvc", "training"])
def test_no_call_that_deletes_begins_beside_work(checkout, holder, code):
    named = f"^{WORKING[code].format(pid=holder(code).pid)}$"
    for options in DELETING if code == holders.TRAINING else DELETING[:1]:  # others wait a second each
        with pytest.raises(UserError, match=named):
            lock.guard(["snakemake", *options.split()])
        lock.guard(["snakemake", "--dry-run", *options.split()])
    with pytest.raises(UserError, match=named):
        lock.check_idle("make clean")


def test_no_call_that_makes_finished_outputs_again_begins_beside_a_training(checkout, holder):
    named = f"^{WORKING[holders.TRAINING].format(pid=holder(holders.TRAINING).pid)}$"
    for options in ("--forceall", "-F", "--force x", "-f x", "--forcerun train", "--forcea"):
        lock.guard(["snakemake", *options.split()])  # which may be a dry run, or print a graph
        with pytest.raises(UserError, match=named):
            lock.take(["snakemake", *options.split()])


def test_other_calls_begin_beside_a_training(checkout, holder, monkeypatch):
    held = contextlib.ExitStack()
    monkeypatch.setattr(lock, "_held", held)
    holder(holders.TRAINING)
    for options in ("report", "--touch --force x"):  # the second as `vanishing sync` calls it
        lock.guard(["snakemake", "--cores", "1", *options.split()])
        lock.take(["snakemake", "--cores", "1", *options.split()])
        held.close()


def test_a_call_that_deletes_keeps_engines_out_while_it_does(checkout, monkeypatch):
    held = contextlib.ExitStack()
    monkeypatch.setattr(lock, "_held", held)
    lock.guard(["snakemake", "--delete-all-output"])
    with pytest.raises(UserError, match=r"^another engine is at work here: snakemake --delete-all-output \(process "):
        lock.check("vanishing sync")
    held.close()
    lock.check("vanishing sync")
    lock.check_idle("make clean")


def test_an_error_of_the_file_system_is_one_line(checkout, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), ".vanishing/locks")

    monkeypatch.setattr(Path, "mkdir", fail)
    for call in (lock.clear, lambda: lock.take(["snakemake"]), lambda: lock.check("vanishing sync")):
        with pytest.raises(UserError, match=r"^\.vanishing/locks: Read-only file system$"):
            call()


def test_it_works_without_dvc(tmp_path, monkeypatch, holder):
    monkeypatch.chdir(tmp_path)
    process = holder(holders.ENGINE)
    with pytest.raises(UserError, match=rf"process {process.pid} "):
        lock.check("vanishing sync")
    assert not (tmp_path / ".dvc").exists()
