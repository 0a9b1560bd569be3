"""Several trainings at once: each ends in the bytes that it gives alone."""

import functools
import itertools
import random
import signal

import pytest
import simulated_cuda
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vanishing.training import loop, round_robin, step, streams
from vanishing.training.streams import CudaStream, Mark, Slot

CPU = torch.device("cpu")

RUNS = {
    "plain": ({}, {"epochs": 2}),
    "residual, bf16": ({"norm": "batch", "shortcut": "identity", "blocks": 1}, {"precision": "bf16"}),
    "fused": ({"norm": "batch", "shortcut": "identity"}, {"precision": "bf16", "kernels": "fused"}),
    "two threads": ({"norm": "batch"}, {"threads": 2, "l1": 0.01}),
    "another batch": ({"norm": "group"}, {"batch_size": 7, "learning_rate": 0.01}),
    "diverging": ({}, {"learning_rate": 1e30}),
}
"""Model and training of tiny runs that differ in length, precision and threads."""


@pytest.fixture(autouse=True)
def settings():
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def alone(tiny, dataset, tmp_path_factory):
    """Train each of `RUNS` by itself; return outcomes and bytes of the trajectories."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for name, (model, train) in RUNS.items():
        outcome = loop.train(tiny(model, train), 0, dataset, folder / name, name)
        found[name] = repr(outcome), trajectory(folder / name)
    return found


@pytest.fixture
def side_by_side(tiny, dataset, tmp_path):
    """Return what trains `names` at once, or goes on with them, until the end or a signal."""
    images = loop.Images.upload(dataset, CPU)

    def run(names, at_once):
        tasks = [loop.Training(tiny(*RUNS[name]), 0, images, tmp_path / name, name) for name in names]
        waiting = list(tasks)
        end = round_robin.run(lambda _: waiting.pop(0) if waiting else None, at_once)
        return tasks, end

    return run


def trajectory(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(("state", "."))}


def found(tasks):
    ended = [task for task in tasks if hasattr(task, "outcome")]
    return {task.title: (repr(task.outcome), trajectory(task.folder)) for task in ended}


@pytest.mark.parametrize("at_once", [2, 3, 5])
def test_each_of_several_trainings_ends_in_the_bytes_that_it_gives_alone(side_by_side, alone, at_once):
    tasks, end = side_by_side(RUNS, at_once)
    assert end == round_robin.End([])
    assert found(tasks) == alone


def test_they_take_turns(side_by_side, monkeypatch):
    order, original = [], step.Learner.step
    monkeypatch.setattr(step.Learner, "step", lambda self, *rest: (order.append(self.run_name), original(self, *rest)))
    build = loop.Training._build

    def named(self):
        build(self)
        self.learner.run_name = self.title

    monkeypatch.setattr(loop.Training, "_build", named)
    side_by_side(["plain", "residual, bf16"], 2)
    assert order[:8] == ["plain", "residual, bf16"] * 4, "4 steps are an epoch of both"


@pytest.mark.parametrize("seed", range(3))
def test_stopped_at_random_and_resumed_in_another_grouping_they_end_in_the_same_bytes(
    side_by_side, alone, monkeypatch, seed
):
    draw = random.Random(seed)  # noqa: S311 - of a test
    names, ended, original = list(RUNS), {}, step.Learner.step
    attempts = 0
    while names:
        attempts += 1
        stop = draw.randrange(1, 25)
        left = itertools.count(1)

        def counted(self, *rest, left=left, stop=stop):
            original(self, *rest)
            if next(left) == stop:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(step.Learner, "step", counted)
        draw.shuffle(names)
        tasks, end = side_by_side(names, draw.randrange(1, 4))
        ended |= found(tasks)
        names = [name for name in names if name not in ended]
        assert end.signal == signal.SIGTERM or not names
    assert attempts > 2
    assert ended == alone


def test_the_end_of_the_time_saves_what_is_under_way(tiny, dataset, tmp_path, alone):
    task = loop.Training(tiny(*RUNS["plain"]), 0, loop.Images.upload(dataset, CPU), tmp_path / "plain", "plain")
    waiting = [task]
    end = round_robin.run(lambda _: waiting.pop() if waiting else None, 1, until=0.0)
    assert (end.saved, end.signal, found([task])) == ([task], None, {})
    assert not (tmp_path / "plain").exists(), "nothing of it had begun"


class Scripted(Mark):
    """A mark that the device reaches when it is waited for, or so many looks later."""

    def __init__(self, name, looks, log):
        self.name, self.looks, self.log = name, looks, log

    def query(self):
        self.looks -= 1
        return self.looks < 0

    def synchronize(self):
        self.log.append(self.name)
        self.looks = 0


def test_where_none_can_go_on_the_thread_sleeps_and_looks_no_further():
    log = []

    class Task:
        def __init__(self, name):
            self.name = name

        def proceed(self, slot):
            for _ in range(3):
                yield Scripted(self.name, 1000, log)

        def save(self):
            raise AssertionError

    waiting = [Task("a"), Task("b")]
    assert round_robin.run(lambda _: waiting.pop(0) if waiting else None, 2) == round_robin.End([])
    assert sorted(log) == ["a"] * 3 + ["b"] * 3, "one wait for each mark"


def test_an_error_that_ends_all_saves_the_others_and_closes_them():
    closed = []

    class Task:
        def proceed(self, slot):
            try:
                yield Mark()
                yield Mark()
            finally:
                closed.append("quiet")

        def save(self):
            closed.append("saved")

    class Failing:
        def proceed(self, slot):
            yield Mark()
            raise ZeroDivisionError

    waiting = [Task(), Failing()]
    with pytest.raises(ZeroDivisionError):
        round_robin.run(lambda _: waiting.pop(0) if waiting else None, 2)
    assert closed == ["saved", "quiet"]


def test_what_cannot_be_saved_keeps_nobody_else_from_it():
    saved = []

    class Task:
        def __init__(self, name):
            self.name = name

        def proceed(self, slot):
            yield Mark()
            yield Mark()

        def save(self):
            saved.append(self.name)
            if self.name == "full":
                raise OSError("no room")

    waiting = [Task("full"), Task("other")]
    with pytest.raises(OSError, match="no room"):
        round_robin.run(lambda _: waiting.pop(0) if waiting else None, 2, until=0.0)
    assert saved == ["full", "other"]


# on CUDA, simulated


@pytest.fixture
def cuda(monkeypatch):
    """Have trainings on the CPU work in CUDA streams, events and graphs that are simulated."""
    simulation = simulated_cuda.Simulation().install(monkeypatch)
    monkeypatch.setattr(Slot, "on", functools.cache(lambda slot, device: CudaStream(device)))
    monkeypatch.setattr(CudaStream, "steps", 3)
    return simulation


NAMES = ["plain", "residual, bf16", "fused", "another batch"]


def test_recorded_steps_and_validations_give_the_bytes_of_eager_ones(cuda, side_by_side, alone):
    """Whatever a step takes from Python, such as a rate or draws, must reach the device by a tensor."""
    tasks, _ = side_by_side(NAMES, 2)
    assert found(tasks) == {name: alone[name] for name in NAMES}
    assert len(cuda.of("replay")) == 2 * (4 + 1) + 2 * 3 * (4 + 1) + 3 * (5 + 1), "steps and validations"


def test_each_training_captures_and_replays_on_a_stream_and_in_a_pool_of_its_own(cuda, side_by_side):
    side_by_side(NAMES, len(NAMES))
    streams_of = {}
    for stream, _, pool, mode in cuda.of("capture"):
        assert mode == "thread_local", "the thread that copies checkpoints goes on meanwhile"
        streams_of.setdefault(pool, set()).add(stream)
    assert len(streams_of) == len(NAMES)
    assert len(set.union(*streams_of.values())) == len(NAMES), "no two trainings share a stream"
    captured = {graph: stream for stream, graph, *_ in cuda.of("capture")}
    assert {(captured[graph], stream) for stream, graph in cuda.of("replay")} == {(s, s) for s in captured.values()}


def test_the_size_of_the_last_minibatch_and_the_validation_are_graphs_too(cuda, side_by_side):
    """30 images in 8, 8, 8 and 6, or in 7, 7, 7, 7 and 2."""
    side_by_side(["another batch"], 1)
    graphs = [graph for _, graph in cuda.of("replay")]
    assert len(set(graphs)) == 3
    sevens, two, validation = graphs[0], graphs[4], graphs[5]
    assert graphs == ([sevens] * 4 + [two, validation]) * 3


def test_a_slot_gives_those_who_take_it_one_after_another_the_same_streams(cuda, side_by_side):
    side_by_side(NAMES, 1)
    assert len({stream for stream, *_ in cuda.of("capture")}) == 1
    assert cuda.counts["stream"] == 2, "one for work and one for copies"
    assert cuda.counts["pool"] == len(NAMES), "a pool ends with the graphs of its training"


class Watched(TorchDispatchMode):
    """Notes what this thread computes on which stream, among the calls of the simulation."""

    def __init__(self, simulation):
        super().__init__()
        self.simulation = simulation

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs, result))):  # else it only asks
            self.simulation.calls.append(("compute", self.simulation.streams[-1], function.name()))
        return result


def test_a_checkpoint_is_copied_on_a_stream_of_its_own_that_waits_for_the_weights(cuda, side_by_side):
    with Watched(cuda):
        side_by_side(["plain"], 1)
    (work,) = {stream for stream, *_ in cuda.of("capture")}
    waits = cuda.of("wait")
    assert len(waits) == 4, "epochs 0, 1 and 2, and the best weights"
    calls = [call for call in cuda.calls if call[0] != "wait"]  # those are of another thread
    for copies, event in waits:
        recorded = calls.index(("record", work, event))
        assert calls[recorded - 1] == ("compute", work, "aten::clone"), "the weights of this moment"
        assert cuda.calls.index(("record", work, event)) < cuda.calls.index(("wait", copies, event))
        assert copies != work


def test_nothing_of_a_training_is_computed_on_the_default_stream(cuda, side_by_side):
    """There it would wait for nothing that the training's own stream does, nor that for it."""
    with Watched(cuda):
        side_by_side(NAMES, len(NAMES))
    assert {stream for stream, _ in cuda.of("compute")} == {stream for stream, *_ in cuda.of("capture")}


def test_the_thread_sleeps_until_the_device_has_done_what_was_handed_over(cuda, side_by_side):
    side_by_side(NAMES, 2)
    recorded = {event for _, event in cuda.of("record")}
    waited = {event for (event,) in cuda.of("synchronize")}
    assert waited
    assert waited <= recorded


def test_an_operation_that_went_without_its_memory_ends_the_training(cuda, side_by_side, monkeypatch):
    """cuDNN takes another algorithm then, whose sums are others."""
    begin = step.Evaluation.__init__

    def starved(self, *arguments):
        cuda.failed_allocations += 1
        begin(self, *arguments)

    monkeypatch.setattr(step.Evaluation, "__init__", starved)
    with pytest.raises(torch.OutOfMemoryError, match="without the memory that it asked for"):
        side_by_side(["plain"], 1)


def test_work_after_a_capture_is_still_on_the_stream(cuda):
    stream = CudaStream(CPU)
    with stream:
        stream.record(lambda: None, {}, None)
        assert cuda.streams[-1] == stream.work.number
    assert cuda.streams == [0]


def test_a_captured_step_leaves_the_learner_as_it_was(cuda, tiny, dataset):
    run = tiny(*RUNS["residual, bf16"])
    untouched, recorded = step.Learner(run, 0, CPU), step.Learner(run, 0, CPU)
    stream = CudaStream(CPU)
    step.Step(recorded, *step.upload(dataset.train, CPU), [8, 6], stream, stream.pool())
    theirs = untouched.tensors()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in recorded.tensors().items())


def test_looking_at_a_value_within_a_capture_is_an_error_of_the_simulation_as_of_cuda(cuda):
    stream, value = CudaStream(CPU), torch.ones(1)
    looks = iter([False] * streams.WARM_UP + [True])
    with pytest.raises(RuntimeError, match="looked at during a capture"):
        stream.record(lambda: value.item() if next(looks) else None, {}, None)
