"""A training killed or stopped at points that hypothesis thinks of, as often as it likes, ends in the same bytes."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vanishing import files
from vanishing.training import loop, step
from vanishing.training.round_robin import Interrupted
from vanishing.training.step import Learner


class Killed(BaseException):
    """Stands in for SIGKILL: nothing is saved."""


def counting(function, at: int, act) -> Any:
    """Wrap `function`, so that `act` is called after its call of the number `at`."""
    count = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        made = function(*arguments, **options)
        count += 1
        if count == at:
            act()
        return made

    return counted


def killed() -> None:
    raise Killed


def terminated() -> None:
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # before the first step and after the last it kills
        raise Killed
    signal.raise_signal(signal.SIGTERM)


POINTS = {"step": (Learner, "step"), "evaluation": (step, "_means"), "write": (files, "write")}
"""Where a training is killed: after a step, an evaluation, or the writing of a file."""

kills = st.lists(
    st.tuples(
        st.sampled_from(sorted(POINTS)),
        st.integers(1, 12),
        st.sampled_from([killed, terminated]),
        st.sampled_from([0.0, 1e9]),  # seconds between two states
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def undisturbed(tiny, dataset, tmp_path_factory):
    return finish(tiny(), dataset, tmp_path_factory.mktemp("undisturbed"))


def finish(run, dataset, folder) -> tuple[Any, dict[str, bytes]]:
    outcome = loop.train(run, 0, dataset, folder, "tiny")
    left = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != loop.STATE}
    return outcome, left


@given(kills)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_killed_anywhere_and_as_often_a_training_gives_the_same_bytes(tiny, dataset, undisturbed, plan):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for point, number, act, seconds in plan:
            with pytest.MonkeyPatch.context() as patch:
                owner, function = POINTS[point]
                patch.setattr(owner, function, counting(getattr(owner, function), number, act))
                patch.setattr(loop, "SAVE_EVERY", seconds)
                try:
                    finish(tiny(), dataset, folder)
                except (Killed, Interrupted):
                    continue
        assert finish(tiny(), dataset, folder) == undisturbed
