import os
import re
import subprocess
import sys

import pytest

from vanishing import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(capsys):
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45.4, "45 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (360000, "100 h 0 min"),
        (float("inf"), "unknown time"),
    ],
)
def test_durations_are_written_as_people_read_them(seconds, text):
    assert progress.duration(seconds) == text


def test_a_log_file_gets_plain_lines_with_rate_and_time_left(clock, capsys):
    with progress.Progress("vgg08, seed 0", 1200) as job:
        clock[0] += 20
        job.advance(400)
    assert lines(capsys) == ["vgg08, seed 0: 400/1,200, 20.0 it/s, 40 s left"]


def test_plain_lines_are_no_more_than_one_every_few_seconds(clock, capsys):
    with progress.Progress("job", 1000) as job:
        for _ in range(1000):
            clock[0] += 0.1
            job.advance()
    assert len(lines(capsys)) in (9, 10)  # 100 seconds, a line every 10


def test_the_rate_leaves_out_what_an_earlier_start_has_done(clock, capsys):
    with progress.Progress("job", 1000, done=900, unit="image") as job:
        clock[0] += 10
        job.advance(50)
    assert lines(capsys) == ["job: 950/1,000, 5.0 image/s, 10 s left"]


def test_without_progress_the_time_left_is_unknown(clock, capsys):
    with progress.Progress("job", 10) as job:
        clock[0] += 10
        job.advance(0)
    assert lines(capsys) == ["job: 0/10, 0.0 it/s, unknown time left"]


def test_the_latest_figures_stand_beside_the_count(clock, capsys):
    with progress.Progress("job", 10) as job:
        job.figures("loss 4.6")
        job.figures("loss 4.5")
        clock[0] += 10
        job.advance(5)
    assert lines(capsys) == ["job: 5/10, 0.5 it/s, 10 s left, loss 4.5"]


def test_what_is_said_goes_to_the_log_whole(capsys):
    progress.say("50 % done")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "50 % done\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar():
    pty = pytest.importorskip("pty")
    code = (
        "from vanishing.progress import Progress, say\n"
        "with Progress('job', 4, done=1) as job:\n"
        "    job.figures('loss 4.5'); job.advance(3); say('a line')\n"
    )
    ours, theirs = pty.openpty()
    pytest.importorskip("termios").tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert re.search(r"job: 100%\|.*\| 4/4 .*loss 4\.5", shown)
    assert "a line\r\n" in shown
