"""One holder at a time, with `flock` and without, on one machine and on several; nobody waits for the dead."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from vanishing import locks

HOLD = """
import sys
from pathlib import Path
from vanishing import locks
locks.BEAT = 0.05
with locks.hold(Path(sys.argv[1]), command="vanishing train"):
    print("held", flush=True)
    sys.stdin.read()
    print("saved")
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "folder" / "x.lock"


@pytest.fixture
def other(lock, holder):
    """Return a function that starts a process which holds the lock until its input ends."""
    return partial(holder, HOLD, lock)


@pytest.fixture
def impatient(monkeypatch):
    """Let a holder elsewhere touch its file every 0.05 s, and count as dead after 0.4 s without."""
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "PATIENCE", 0.4)


ERRORS = {"ENOSYS": errno.ENOSYS, "EOPNOTSUPP": errno.EOPNOTSUPP, "ENOLCK": errno.ENOLCK}


@pytest.fixture(params=["flock", *ERRORS])
def answer(request, monkeypatch):
    """Answer `flock` in this process and in those that it starts: as it is, or by an error."""
    if request.param == "flock":
        return {}

    def refuse(*_):
        raise OSError(ERRORS[request.param], os.strerror(ERRORS[request.param]))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return request.getfixturevalue("no_flock")(ERRORS[request.param])


def test_a_second_process_is_refused_and_told_who_holds_it(lock, other, answer):
    process = other(**answer)
    named = rf"^vanishing train \(process {process.pid} on {re.escape(socket.gethostname())}, for \d s\)$"
    with pytest.raises(locks.Held, match=named), locks.hold(lock):
        pytest.fail("two hold it")
    assert [holder.pid for holder in locks.holders(lock.parent)] == [process.pid]
    process.stdin.close()
    assert process.wait() == 0
    with locks.hold(lock, wait=0):
        pass
    assert list(lock.parent.iterdir()) == [lock]


def test_whoever_waits_gets_it_once_it_is_free(lock, other, answer):
    process = other(**answer)
    threading.Timer(0.3, process.stdin.close).start()
    with locks.hold(lock, wait=float("inf")):
        assert process.wait() == 0


def test_a_killed_holder_is_in_nobodys_way(lock, other, answer):
    process = other(**answer)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:  # which nobody has waited for
        time.sleep(0.01)
    assert len(list(lock.parent.iterdir())) == 2
    with locks.hold(lock):
        assert locks.holders(lock.parent)[0].pid == os.getpid()
    assert list(lock.parent.iterdir()) == [lock]


def test_two_threads_do_not_both_hold_it(lock, answer):
    with locks.hold(lock), pytest.raises(locks.Held, match=rf"\(process {os.getpid()} on "), locks.hold(lock, wait=0):
        pytest.fail("two hold it")


def test_one_with_flock_and_one_without_see_each_other(lock, other, no_flock, monkeypatch):
    process = other(**no_flock(errno.ENOSYS))
    with pytest.raises(locks.Held, match=rf"process {process.pid} "), locks.hold(lock):
        pytest.fail("two hold it")
    process.stdin.close()
    assert process.wait() == 0
    process = other()
    monkeypatch.setattr(locks, "flock", lambda _: None)
    with pytest.raises(locks.Held, match=rf"process {process.pid} "), locks.hold(lock):
        pytest.fail("two hold it")


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_of_many_that_start_at_once_without_flock_each_holds_it_alone(tmp_path, error, no_flock):
    """Each adds one to a number, by reading it, waiting a little and writing it."""
    code = """
import sys, time
from pathlib import Path
from vanishing import locks
number = Path("number")
for _ in range(5):
    with locks.hold(Path("x.lock"), wait=60):
        read = int(number.read_text())
        time.sleep(0.002)
        number.write_text(f"{read + 1}")
"""
    (tmp_path / "number").write_text("0")
    variables = os.environ | no_flock(error)
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=variables) for _ in range(4)]
    assert [process.wait(timeout=60) for process in started] == [0] * 4
    assert (tmp_path / "number").read_text() == "20"


def elsewhere(lock, **differences):
    """Write what a holder on another machine has beside the lock."""
    lock.parent.mkdir(exist_ok=True)
    path = lock.with_name(f"{lock.name}.7-0123abcd")
    who = {
        "machine": "node7 4026531836",
        "host": "node7",
        "pid": 7,
        "since": time.time() - 7200,
        "command": "dvc repro",
    }
    path.write_text(json.dumps(who | differences))
    return path


def test_a_holder_on_another_machine_that_shows_life_is_named_with_the_file_to_remove(lock, impatient):
    path, stop = elsewhere(lock), threading.Event()
    beating = threading.Thread(target=locks._beat, args=(path, stop))
    beating.start()
    named = rf"^dvc repro \(process 7 on node7, for 2 h\); if that machine is dead, remove {re.escape(str(path))}$"
    with pytest.raises(locks.Held, match=named), locks.hold(lock, wait=0):
        pytest.fail("two hold it")
    stop.set()
    beating.join()
    assert path.exists()


def test_one_that_shows_none_is_dead(lock, impatient, capsys):
    path, began = elsewhere(lock), time.monotonic()
    with locks.hold(lock, wait=0):
        assert 0.4 < time.monotonic() - began < 5
        assert not path.exists()
    who = f"dvc repro (process 7 on node7, for 2 h); if that machine is dead, remove {path}"
    assert capsys.readouterr().err == f"waiting up to 0 s for a sign of {who}\n"
    path = elsewhere(lock)
    assert locks.holders(lock.parent) == []


def test_a_holder_shows_its_own_life(lock, impatient):
    with locks.hold(lock):
        mine = locks.holders(lock.parent)[0].path
        os.utime(mine, (0, 0))
        time.sleep(0.3)
        assert time.time() - mine.stat().st_mtime < 0.3


def test_a_host_of_the_same_name_is_another_machine(lock, impatient):
    """As `localhost` is in many containers; the first namespace of processes has one number on every machine."""
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    path, stop = elsewhere(lock, machine=f"{socket.gethostname()} {namespace}", pid=2**22 + 1), threading.Event()
    beating = threading.Thread(target=locks._beat, args=(path, stop), daemon=True)
    beating.start()
    with pytest.raises(locks.Held, match=r"^dvc repro "), locks.hold(lock, wait=0):
        pytest.fail("two hold it")
    stop.set()
    beating.join()


def test_a_holder_that_has_lost_its_lock_ends_at_once_without_saving(lock, other):
    """It was suspended for long; who has the lock now works on the same files."""
    process = other()
    process.send_signal(signal.SIGSTOP)
    taken = next(lock.parent.glob("x.lock.*"))
    taken.unlink()
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=30) == 1
    said, warned = process.communicate()
    assert said == b""
    assert warned.decode() == f"{lock}: another process has taken this lock over; ended without saving\n"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"place": "here"}'], ids=repr)
def test_a_holder_file_that_a_kill_has_cut_short_is_of_a_dead_one(lock, impatient, content):
    elsewhere(lock).write_text(content)
    with locks.hold(lock, wait=0):
        assert len(list(lock.parent.iterdir())) == 2


def test_a_later_process_with_the_number_of_a_dead_one_is_not_taken_for_it(lock):
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(running.pid).create_time()
    here = {"machine": locks._machine(), "pid": running.pid}
    elsewhere(lock, **here, since=started + 60)
    with pytest.raises(locks.Held), locks.hold(lock, wait=0):
        pytest.fail("its process runs")
    elsewhere(lock, **here, since=started - 60)
    with locks.hold(lock, wait=0):
        running.communicate(b"\n")


def test_a_process_that_is_hidden_from_other_users_is_alive_while_it_touches_its_file(lock, impatient, monkeypatch):
    """As under `hidepid`: there is such a process, and its entry in `/proc` is not to be seen."""

    def hide(pid):
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", hide)
    path, stop = elsewhere(lock, machine=locks._machine(), pid=os.getppid()), threading.Event()
    beating = threading.Thread(target=locks._beat, args=(path, stop))
    beating.start()
    with pytest.raises(locks.Held, match=r"^dvc repro "), locks.hold(lock, wait=0):
        pytest.fail("two hold it")
    stop.set()
    beating.join()
    with locks.hold(lock, wait=0):
        assert not path.exists()


def test_an_error_that_is_none_of_a_missing_flock_is_raised(lock, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), locks.hold(lock):
        pytest.fail("the disk fails")


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077], ids=oct)
def test_the_umask_says_who_may_take_it_next(lock, mask):
    before = os.umask(mask)
    try:
        with locks.hold(lock):
            modes = {path.stat().st_mode & 0o777 for path in lock.parent.iterdir()}
        assert (modes, lock.parent.stat().st_mode & 0o777) == ({0o666 & ~mask}, 0o777 & ~mask)
    finally:
        os.umask(before)
