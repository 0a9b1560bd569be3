import os
import re
import subprocess
import sys

import pytest

from vanishing import console
from vanishing.console import Progress, aligned, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.1234, "0.12 s"),
        (45.4, "45 s"),
        (89, "89 s"),
        (100, "1.7 min"),
        (4321, "72 min"),
        (5400, "1.5 h"),
        (4e5, "110 h"),
        (float("inf"), "unknown time"),
    ],
)
def test_durations_have_two_digits(seconds, text):
    assert duration(seconds) == text


def test_columns_are_aligned_the_first_to_the_left():
    assert aligned([("run", "layers"), ("vgg08", "8")], gap=2) == "run    layers\nvgg08       8"


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_lines_tell_count_rate_time_left_and_results_no_oftener_than_every_ten_seconds(capsys, clock):
    with Progress("vgg08, seed 0", total=5000, done=1000) as shown:
        clock[0] = 109.9
        shown.advance()
        assert capsys.readouterr().err == ""
        clock[0] = 110.0
        shown.advance(999)
        assert capsys.readouterr().err == "vgg08, seed 0: 2,000/5,000, 100.0 it/s, 30 s left\n"
        clock[0] = 115.0
        shown.show("loss 1.234")
        told = capsys.readouterr().err
        clock[0] = 120.0
        shown.advance(0)
    assert told == "vgg08, seed 0: 2,000/5,000, 66.7 it/s, 45 s left, loss 1.234\n", "results come at once"
    assert capsys.readouterr().err == ""


def test_nothing_done_yet_has_no_time_left(capsys, clock):
    with Progress("a", total=10, unit="snapshot") as shown:
        clock[0] = 110.0
        shown.advance(0)
    assert capsys.readouterr().err == "a: 0/10, 0.0 snapshot/s, unknown time left\n"


def test_a_bar_takes_the_place_of_lines_on_a_terminal(capsys, clock, monkeypatch):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    with Progress("a", total=10) as shown:
        clock[0] = 200.0
        shown.advance(5)
    told = capsys.readouterr().err
    assert "5/10" in told
    assert "left" not in told


def test_what_is_said_goes_to_the_log_whole(capsys):
    console.say("50 % done")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "50 % done\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar():
    pty = pytest.importorskip("pty")
    code = (
        "from vanishing.console import Progress, say\n"
        "with Progress('job', 4, done=1) as job:\n"
        "    job.show('loss 4.5'); job.advance(3); say('a line')\n"
    )
    ours, theirs = pty.openpty()
    pytest.importorskip("termios").tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert re.search(r"job: 100%\|.*\| 4/4 .*loss 4\.5", shown)
    assert "a line\r\n" in shown
