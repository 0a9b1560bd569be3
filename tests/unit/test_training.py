import os
import signal
import subprocess
import sys
import threading
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vanishing import config, paths
from vanishing.data.dataset import save
from vanishing.data.records import Dataset
from vanishing.errors import UserError
from vanishing.training import augmentation, checkpoints, devices, loop, models, step
from vanishing.training.loop import Epoch, Place
from vanishing.training.round_robin import Interrupted
from vanishing.training.step import Learner

CPU = torch.device("cpu")
STEPS = 12  # 3 epochs of 30 images in batches of 8, 8, 8 and 6

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    torch.use_deterministic_algorithms(False)


def run_to_end(run, dataset, folder, seed=0):
    return loop.train(run, seed, dataset, folder, "tiny")


def trajectory(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(("state", "."))}


@pytest.fixture
def attempt(tiny, dataset, tmp_path):
    """Return what trains the tiny run, or goes on with it, and gives its outcome and the bytes of its trajectory."""
    return lambda: (run_to_end(tiny(), dataset, tmp_path), trajectory(tmp_path))


@pytest.fixture(scope="module")
def uninterrupted(tiny, dataset, tmp_path_factory):
    """Return the outcome of a tiny training and the bytes of its trajectory."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run_to_end(tiny(), dataset, folder), trajectory(folder)


# the schedule


@pytest.mark.parametrize("schedule", ["cosine_per_epoch", "cosine_per_iteration"])
def test_the_learning_rate_is_that_of_pytorchs_scheduler(study, schedule):
    train = study.train.model_copy(update={"schedule": schedule})
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=100, eta_min=2e-5)
    epochs, iterations = (100, 3) if schedule == "cosine_per_epoch" else (3, 475)
    for epoch in range(1, epochs + 1):
        for iteration in range(iterations):
            rate = loop.learning_rate(train, epoch, iteration, iterations)
            assert rate == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9), (epoch, iteration)
            optimiser.step()
            if schedule == "cosine_per_iteration":
                scheduler.step()
        if schedule == "cosine_per_epoch":
            scheduler.step()


@pytest.mark.parametrize("schedule", ["cosine_per_epoch", "cosine_per_iteration"])
def test_every_step_of_a_training_has_the_rate_of_pytorchs_scheduler(tiny, dataset, tmp_path, monkeypatch, schedule):
    rates, step = [], Learner.step

    def noted(self, *arguments):
        rates.append(self.rate.item())
        step(self, *arguments)

    monkeypatch.setattr(Learner, "step", noted)
    outcome = run_to_end(tiny(train={"schedule": schedule}), dataset, tmp_path)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=3, eta_min=2e-5)
    expected = []
    for step_number in range(1, STEPS + 1):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if schedule == "cosine_per_iteration" or step_number % 4 == 0:
            scheduler.step()
    assert rates == pytest.approx(expected, rel=1e-6)
    assert [row.learning_rate for row in outcome.history] == pytest.approx(expected[::4], rel=1e-6)


def test_the_learning_rate_by_hand(study):
    per_epoch = study.train
    assert loop.learning_rate(per_epoch, 1, 474, 475) == 1e-3
    assert loop.learning_rate(per_epoch, 51, 0, 475) == pytest.approx((1e-3 + 2e-5) / 2)
    per_iteration = per_epoch.model_copy(update={"schedule": "cosine_per_iteration"})
    assert loop.learning_rate(per_iteration, 1, 100, 475) == pytest.approx(2e-5)
    assert loop.learning_rate(per_iteration, 1, 200, 475) == pytest.approx(1e-3)
    assert loop.learning_rate(per_iteration, 2, 125, 475) == pytest.approx(1e-3)
    constant = per_epoch.model_copy(update={"schedule": "constant"})
    assert {loop.learning_rate(constant, epoch, at, 475) for epoch in (1, 50, 100) for at in (0, 474)} == {1e-3}


def test_a_training_at_a_constant_rate_reports_it_in_every_epoch(tiny, dataset, tmp_path):
    outcome = run_to_end(tiny(train={"schedule": "constant", "learning_rate": 3e-3}), dataset, tmp_path)
    assert [row.learning_rate for row in outcome.history] == [3e-3] * 3


# the step


def uploaded(split):
    return torch.from_numpy(split.images), torch.from_numpy(split.labels).long()


def textbook(run, seed, images, labels, all_draws, rates):
    """Train as a textbook does; return the model, and the losses and accuracies of its minibatches."""
    model = models.build(run.model, 3, seed).train()
    optimiser = torch.optim.Adam(
        model.parameters(), lr=1.0, weight_decay=run.train.weight_decay, fused=False, foreach=False
    )
    metrics = []
    for draws, rate in zip(all_draws, rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        logits = model(augmentation.normalise(augmentation.augment(images[draws.order], draws)))
        loss = functional.cross_entropy(logits, labels[draws.order])
        penalty = sum(weight.abs().sum() for weight in model.parameters() if weight.dim() > 1)
        optimiser.zero_grad()
        (loss + run.train.l1 * penalty).backward()
        optimiser.step()
        for counter in models.counters(model):
            counter.add_(1)
        metrics.append((loss.item(), (logits.argmax(1) == labels[draws.order]).float().mean().item()))
    return model, metrics


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"norm": "none"}, {}),
        ({"norm": "batch", "blocks": 1, "shortcut": "identity"}, {"weight_decay": 0.1}),
        ({"norm": "batch", "blocks": 1, "shortcut": "identity"}, {"l1": 0.01, "weight_decay": 0.1}),
        ({"shortcut": "dense", "blocks": 1}, {"l1": 0.003, "weight_decay": 0.02}),
    ],
    ids=["plain", "normalised residual with weight decay", "with an L1 penalty too", "dense with both"],
)
def test_a_step_is_that_of_a_textbook_loop(tiny, dataset, model, train):
    run = tiny(model=model, train=train)
    images, labels = uploaded(dataset.train)
    whole = augmentation.draw(len(images), seed=1, epoch=1)
    all_draws = [whole.batch(start, 8) for start in (0, 8, 16, 24)]
    rates = [1e-3, 1e-3, 5e-4, 2e-4]
    learner = Learner(run, 1, CPU)
    for draws, rate in zip(all_draws, rates, strict=True):
        learner.rate.fill_(rate)
        learner.step(images, labels, draws)
    expected, metrics = textbook(run, 1, images, labels, all_draws, rates)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(
            learner.model.state_dict()[name],
            tensor,
            rtol=1e-4,
            atol=1e-5,
            check_stride=False,
            msg=lambda m, n=name: n + m,
        )
    assert learner.model.entry.norm.num_batches_tracked == 4
    assert learner.metrics(4) == pytest.approx(tuple(np.mean(metrics, axis=0)), rel=1e-5)
    assert learner.metrics(4) == (0, 0)


def test_an_l1_penalty_adds_the_sign_of_weights_to_their_gradients_and_nothing_to_the_loss(tiny, dataset):
    images, labels = uploaded(dataset.train)
    plain, penalised = (Learner(tiny(model={"norm": "batch"}, train={"l1": l1}), 0, CPU) for l1 in (0.0, 0.25))
    before = {name: weight.detach().clone() for name, weight in plain.model.named_parameters()}
    for each in (plain, penalised):
        each.step(images, labels, augmentation.draw(30, seed=0, epoch=1).batch(0, 8))
    for name, weight in penalised.model.named_parameters():
        penalty = 0.25 * before[name].sign() if weight.dim() > 1 else torch.zeros_like(weight)
        torch.testing.assert_close(weight.grad, plain.model.get_parameter(name).grad + penalty, msg=name)
    assert penalised.metrics(1) == plain.metrics(1)


def test_a_learner_goes_on_from_its_tensors(tiny, dataset):
    images, labels = uploaded(dataset.train)
    draws = augmentation.draw(30, seed=0, epoch=1)
    first, second = Learner(tiny(), 0, CPU), Learner(tiny(), 1, CPU)
    first.step(images, labels, draws.batch(0, 8))
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for each in (first, second):
        each.step(images, labels, draws.batch(8, 8))
    after = second.tensors()
    assert all(torch.equal(tensor, after[name]) for name, tensor in first.tensors().items())


NO_DETERMINISTIC_FORM = (
    "adaptive_", "pool3d", "fractional_", "unpool", "upsample_", "reflection_pad", "replication_pad", "nll_loss2d",
    "ctc_loss", "embedding_bag", "grid_sampler", "kthvalue", "median", "histc", "bincount", "cumsum",
)  # fmt: skip
"""Operations that raise on CUDA under `torch.use_deterministic_algorithms`, by parts of their names."""


class Recorded(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.name())
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize(
    ("shortcut", "reduction_shortcut"),
    [("none", "none"), ("identity", "pool"), ("identity", "convolution"), ("none", "subsample"), ("dense", "none")],
)
def test_every_operation_of_a_step_has_a_deterministic_form_on_cuda(tiny, dataset, norm, shortcut, reduction_shortcut):
    model = {"norm": norm, "shortcut": shortcut, "reduction_shortcut": reduction_shortcut, "blocks": 1}
    learner = Learner(tiny(model=model, train={"l1": 0.01}), 0, CPU)
    with Recorded() as recorded:
        learner.step(*uploaded(dataset.train), augmentation.draw(30, seed=0, epoch=1).batch(0, 8))
    assert {"aten::avg_pool2d_backward", "aten::convolution_backward", "aten::nll_loss_backward"} <= recorded.names
    assert not [name for name in recorded.names if any(part in name for part in NO_DETERMINISTIC_FORM)]


# the evaluation


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3072, 3, generator=torch.Generator().manual_seed(0)) / 50)
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize("size", [1, 4, 15, 250])
def test_an_evaluation_by_hand_whatever_the_batch(dataset, monkeypatch, size):
    monkeypatch.setitem(step.EVALUATION_BATCH, "cpu", size)
    images, labels = uploaded(dataset.test)
    model = Flat().train()
    loss, accuracy = step.evaluate(model, images, labels)
    normalised = (images.numpy() / 255 - np.array(config.CIFAR10.mean)[:, None, None]) / np.array(config.CIFAR10.std)[
        :, None, None
    ]
    logits = normalised.reshape(15, -1) @ model.weight.detach().numpy()
    of_label = logits[np.arange(15), labels]
    assert loss == pytest.approx(np.mean(np.log(np.exp(logits).sum(axis=1)) - of_label), rel=1e-5)
    assert accuracy == np.mean(of_label == logits.max(axis=1))
    assert 0 < accuracy < 1
    assert model.training
    assert set(model.modes) == {False}


def test_an_evaluation_changes_nothing(tiny, dataset):
    model = models.build(tiny().model, 3, seed=0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert step.evaluate(model, *uploaded(dataset.val)) == step.evaluate(model, *uploaded(dataset.val))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# a whole training


def test_a_history_has_a_row_an_epoch_and_the_documented_columns(uninterrupted):
    outcome, _ = uninterrupted
    columns = ["epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert [column.name for column in fields(Epoch)] == columns
    assert [row.epoch for row in outcome.history] == [1, 2, 3]
    rates = [2e-5 + 98e-5 * share for share in (1, 0.75, 0.25)]  # half of 1 + cos(0, pi/3, 2 pi/3)
    assert [row.learning_rate for row in outcome.history] == pytest.approx(rates)
    assert outcome.status == "completed"


def test_the_history_is_that_of_a_textbook_loop(tiny, dataset, uninterrupted):
    run = tiny()
    images, labels = uploaded(dataset.train)
    outcome, _ = uninterrupted
    all_draws, rates = [], []
    for row in outcome.history:
        whole = augmentation.draw(30, seed=0, epoch=row.epoch)
        all_draws += [whole.batch(start, 8) for start in (0, 8, 16, 24)]
        rates += [row.learning_rate] * 4
    model, metrics = textbook(run, 0, images, labels, all_draws, rates)
    means = np.mean(np.reshape(metrics, (3, 4, 2)), axis=1)
    assert [row.train_loss for row in outcome.history] == pytest.approx(list(means[:, 0]), rel=1e-4)
    assert [row.train_accuracy for row in outcome.history] == pytest.approx(list(means[:, 1]), rel=1e-6)
    val = step.evaluate(model, *uploaded(dataset.val))
    assert outcome.history[-1].val_loss == pytest.approx(val.loss, rel=1e-4)


def test_the_snapshots_are_those_configured(tiny, uninterrupted):
    outcome, files = uninterrupted
    assert outcome.snapshots == [0, 1, 3] == list(tiny().train.snapshot_epochs)
    assert sorted(files) == [
        "best.safetensors",
        "epoch0000.safetensors",
        "epoch0001.safetensors",
        "epoch0003.safetensors",
    ]


def test_snapshot_0_is_the_initialisation(tiny, dataset, tmp_path):
    run_to_end(tiny(train={"epochs": 1}), dataset, tmp_path, seed=7)
    weights, _ = checkpoints.read(paths.snapshot(tmp_path, 0))
    initial = models.build(tiny().model, 3, seed=7).state_dict()
    assert sorted(weights) == sorted(initial)
    assert all(torch.equal(weights[name], initial[name]) for name in weights)


def test_the_best_epoch_has_the_best_validation_and_its_weights_make_the_test(tiny, dataset, tmp_path):
    outcome = run_to_end(tiny(train={"epochs": 6, "snapshots": list(range(7))[1:]}), dataset, tmp_path)
    accuracies = [row.val_accuracy for row in outcome.history]
    assert outcome.best.epoch == 1 + accuracies.index(max(accuracies))
    assert paths.best(tmp_path).read_bytes() == paths.snapshot(tmp_path, outcome.best.epoch).read_bytes()
    model = models.build(tiny().model, 3, seed=5)
    model.load_state_dict(checkpoints.read(paths.best(tmp_path))[0])
    val = step.evaluate(model, *uploaded(dataset.val))
    assert (val.loss, val.accuracy) == pytest.approx((outcome.best.val_loss, outcome.best.val_accuracy), rel=1e-5)
    assert outcome.test == pytest.approx(step.evaluate(model, *uploaded(dataset.test)), rel=1e-5)


def row(epoch, val_accuracy, loss=1.0):
    return Epoch(epoch, 1e-3, loss, 0.5, 1.0, val_accuracy)


def test_of_equal_epochs_the_first_is_the_best():
    history = [row(1, 0.2), row(2, 0.5), row(3, 0.5), row(4, 0.4), row(5, 0.9, float("nan"))]
    assert Place(history=history).best.epoch == 2
    assert Place(history=history).diverged
    assert not Place(history=history[:4]).diverged
    assert Place(history=history[4:]).best is None
    assert Place().best is None


def test_the_same_seed_gives_the_same_bytes(attempt, uninterrupted):
    torch.manual_seed(99)
    assert attempt() == uninterrupted


def test_another_seed_gives_other_bytes(tiny, dataset, tmp_path, uninterrupted):
    outcome = run_to_end(tiny(), dataset, tmp_path, seed=1)
    assert outcome.history != uninterrupted[0].history
    other = trajectory(tmp_path)
    assert all(other[name] != content for name, content in uninterrupted[1].items())


def test_a_training_learns(tiny, dataset, tmp_path):
    outcome = run_to_end(tiny(train={"epochs": 12, "learning_rate": 2e-2}), dataset, tmp_path)
    assert outcome.history[-1].train_loss < 0.8 * outcome.history[0].train_loss


def test_a_short_last_batch_is_kept(tiny, dataset, tmp_path, monkeypatch):
    sizes = []
    at_step(monkeypatch, range(1, STEPS + 1), lambda draws: sizes.append(len(draws.order)))
    run_to_end(tiny(), dataset, tmp_path)
    assert sizes == [8, 8, 8, 6] * 3


def test_every_image_is_trained_on_once_an_epoch(tiny, dataset, tmp_path, monkeypatch):
    seen = []
    at_step(monkeypatch, range(1, STEPS + 1), lambda draws: seen.extend(draws.order.tolist()))
    run_to_end(tiny(), dataset, tmp_path)
    epochs = [seen[start : start + 30] for start in (0, 30, 60)]
    assert [sorted(order) for order in epochs] == [list(range(30))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_bf16_trains_on_a_cpu_with_weights_in_single_precision(tiny, dataset, tmp_path, uninterrupted):
    outcome = run_to_end(tiny(train={"precision": "bf16"}), dataset, tmp_path)
    weights, _ = checkpoints.read(paths.best(tmp_path))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    losses, single = ([row.train_loss for row in each.history] for each in (outcome, uninterrupted[0]))
    assert losses != single
    assert losses == pytest.approx(single, rel=0.05)


# killed at any moment


def at_step(monkeypatch, numbers, act):
    """Have `act` called with the draws after the steps of these numbers, from 1."""
    step, count = Learner.step, 0

    def counted(self, images, labels, draws):
        nonlocal count
        step(self, images, labels, draws)
        count += 1
        if count in numbers:
            act(draws)

    monkeypatch.setattr(Learner, "step", counted)


@pytest.mark.parametrize(
    ("step", "place"),
    [
        (1, "epoch 1, iteration 1"),
        (4, "epoch 1, iteration 4"),
        (7, "epoch 2, iteration 3"),
        (STEPS, "epoch 3, iteration 4"),
    ],
)
def test_a_terminated_training_goes_on_to_the_same_bytes(attempt, monkeypatch, uninterrupted, step, place):
    with monkeypatch.context() as patch:
        at_step(patch, {step}, lambda _: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted) as caught:
            attempt()
    assert caught.value.exit_code == 143
    assert str(caught.value) == f"stopped by SIGTERM, saved at {place}; run the same command to resume"
    steps = []
    at_step(monkeypatch, range(1, STEPS + 1), steps.append)
    assert attempt() == uninterrupted
    assert len(steps) == STEPS - step


def test_a_training_terminated_again_and_again_gives_the_same_bytes(attempt, monkeypatch, uninterrupted):
    at_step(monkeypatch, range(1, STEPS + 1), lambda _: signal.raise_signal(signal.SIGINT))
    for _ in range(STEPS):
        with pytest.raises(Interrupted, match=r"^stopped by SIGINT") as caught:
            attempt()
        assert caught.value.exit_code == 130
    assert attempt() == uninterrupted


@pytest.mark.parametrize("evaluation", [1, 3])
def test_a_training_terminated_while_it_validates_goes_on_to_the_same_bytes(
    attempt, monkeypatch, uninterrupted, evaluation
):
    means, count = step._means, 0

    def counted(*arguments, **options):
        nonlocal count
        count += 1
        if count == evaluation:
            signal.raise_signal(signal.SIGTERM)
        return means(*arguments, **options)

    monkeypatch.setattr(step, "_means", counted)
    with pytest.raises(Interrupted, match=f"saved at epoch {evaluation}, iteration 4"):
        attempt()
    assert attempt() == uninterrupted


def test_steps_go_on_while_a_slow_disk_takes_the_state(attempt, monkeypatch, uninterrupted):
    third, write = threading.Event(), checkpoints.write

    def slow(*arguments):
        assert third.wait(60), "the training waits for its files"
        write(*arguments)

    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    monkeypatch.setattr(checkpoints, "write", slow)
    at_step(monkeypatch, {3}, lambda _: third.set())
    assert attempt() == uninterrupted


class Killed(BaseException):
    """Stands in for SIGKILL: nothing is saved."""


def die(_):
    raise Killed


@pytest.mark.parametrize("step", [1, 4, 5, 11, STEPS])
@pytest.mark.parametrize("seconds", [0, 1e9], ids=["state of the last step", "no state"])
def test_a_training_that_vanished_gives_the_same_bytes(attempt, monkeypatch, uninterrupted, step, seconds):
    monkeypatch.setattr(loop, "SAVE_EVERY", seconds)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_step(patch, {step}, die)
        attempt()
    assert attempt() == uninterrupted


KILLED = """
import os, signal, sys, time
from pathlib import Path
from vanishing import config
from vanishing.data import dataset
from vanishing.training import loop, step

folder, steps = Path(sys.argv[1]), 0
original = step.Learner.step

def counted(self, *arguments):
    global steps
    original(self, *arguments)
    steps += 1
    loop.SAVE_EVERY = 0 if steps == 3 else 1e9
    if steps == 6:
        while not (folder / "run" / loop.STATE).exists():  # it is written meanwhile
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

step.Learner.step = counted
run = config.Run.model_validate_json((folder / "run.json").read_text())
loop.train(run, 0, dataset.load(folder / "data.npz"), folder / "run", "killed")
"""


def test_a_killed_process_leaves_a_state_that_gives_the_same_bytes(tiny, dataset, tmp_path, root, uninterrupted):
    save(tmp_path / "data.npz", dataset)
    (tmp_path / "run.json").write_text(tiny().model_dump_json())
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=environment, check=False)
    folder = tmp_path / "run"
    assert killed.returncode == -signal.SIGKILL
    assert (folder / "state.safetensors").exists()
    assert (run_to_end(tiny(), dataset, folder), trajectory(folder)) == uninterrupted


@pytest.mark.parametrize("damage", ["state", "snapshot", "missing snapshot"])
def test_a_state_that_cannot_be_used_is_named_and_the_training_begins_anew(
    tiny, dataset, tmp_path, monkeypatch, capsys, damage
):
    whole = run_to_end(tiny(), dataset, tmp_path / "whole")
    folder = tmp_path / "damaged"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_step(patch, {2}, lambda _: signal.raise_signal(signal.SIGTERM))
        run_to_end(tiny(), dataset, folder)
    path = folder / ("state.safetensors" if damage == "state" else "epoch0000.safetensors")
    if damage == "missing snapshot":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    assert repr(run_to_end(tiny(), dataset, folder)) == repr(whole)
    assert f"{path}: {'missing' if 'missing' in damage else 'damaged'}" in capsys.readouterr().err
    assert trajectory(folder) == trajectory(tmp_path / "whole")


def other(**values):
    return lambda state, place: place.update(values)


BAD_STATES = {
    "no keys": (lambda state, place: place.clear(), "not a state of this training"),
    "a key more": (other(more=1), "not a state of this training"),
    "an epoch in words": (other(epoch="2"), "not the state of a training"),
    "an epoch of no history": (other(epoch=3), "not a state of this training"),
    "an iteration beyond the epoch": (other(iteration=5), "not a state of this training"),
    "a negative iteration": (other(iteration=-1), "not a state of this training"),
    "an odd history": (other(history=[[1, 2]]), "not the state of a training"),
    "a row without metrics": (other(history=[{"epoch": 1}]), "not the state of a training"),
    "another epoch's row": (
        lambda state, place: place["history"][0].update(epoch=2),
        "not a state of this training",
    ),
    "a tensor less": (lambda state, place: state.pop("sums"), "tensors of another training"),
    "no best weights": (
        lambda state, place: [state.pop(name) for name in list(state) if name.startswith("best.")],
        "tensors of another training",
    ),
    "a tensor more": (lambda state, place: state.update(more=torch.ones(1)), "tensors of another training"),
    "a tensor of another shape": (
        lambda state, place: state.update(sums=torch.ones(3, dtype=torch.float64)),
        "tensors of another training",
    ),
    "a tensor of another type": (lambda state, place: state.update(sums=torch.ones(2)), "tensors of another training"),
}


@pytest.mark.parametrize(("change", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_sound_file_of_another_state_is_named_and_the_training_begins_anew(  # noqa: PLR0917 - mostly fixtures
    attempt, tmp_path, monkeypatch, capsys, uninterrupted, change, message
):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_step(patch, {6}, lambda _: signal.raise_signal(signal.SIGTERM))
        attempt()
    path = tmp_path / loop.STATE
    tensors, values = checkpoints.read(path)
    change(tensors, values)
    checkpoints.write(path, tensors, values)
    assert attempt() == uninterrupted
    assert f"{path}: {message}; the training begins anew" in capsys.readouterr().err


def test_signals_are_handled_as_before_once_the_training_is_over(tiny, dataset, tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    at_step(monkeypatch, {1}, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        run_to_end(tiny(), dataset, tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_images_of_another_number_of_classes_are_refused_in_one_line(tiny, dataset, tmp_path):
    more = Dataset(dataset.train, dataset.val, dataset.test, (*dataset.classes, "fourth"))
    with pytest.raises(UserError) as caught:
        run_to_end(tiny(), more, tmp_path)
    made = "found (4, 30, 12, 15), and the parameters say (3, 30, 12, 15); run `vanishing data`"
    assert str(caught.value).endswith(made)
    assert not list(tmp_path.iterdir())


# diverged


def test_a_training_that_diverges_at_once_keeps_the_initialisation_alone(tiny, dataset, tmp_path):
    outcome = run_to_end(tiny(train={"learning_rate": 1e30}), dataset, tmp_path)
    assert outcome.status == "diverged"
    assert [(row.epoch, row.finite) for row in outcome.history] == [(1, False)]
    assert (outcome.best, outcome.test, outcome.snapshots) == (None, None, [0])
    assert list(trajectory(tmp_path)) == ["epoch0000.safetensors"]


@pytest.fixture
def diverging(tiny, monkeypatch):
    """Return a run that diverges in its third epoch of five."""
    rate = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda train, epoch, *place: 1e30 if epoch == 3 else rate(train, epoch, *place)
    )
    return tiny(train={"epochs": 5, "snapshots": [1, 2, 3, 4]})


def test_a_training_that_diverges_later_keeps_what_was_finite(diverging, dataset, tmp_path):
    outcome = run_to_end(diverging, dataset, tmp_path)
    assert outcome.status == "diverged"
    assert [(row.epoch, row.finite) for row in outcome.history] == [(1, True), (2, True), (3, False)]
    assert outcome.best.epoch in (1, 2)
    assert np.isfinite(outcome.test.loss)
    assert outcome.snapshots == [0, 1, 2]
    assert sorted(trajectory(tmp_path)) == ["best.safetensors", *(f"epoch000{epoch}.safetensors" for epoch in range(3))]


def test_a_diverged_training_can_be_terminated_too(diverging, dataset, tmp_path, monkeypatch):
    whole = run_to_end(diverging, dataset, tmp_path / "whole")
    means, count = step._means, 0

    def counted(*arguments, **options):
        nonlocal count
        count += 1
        if count == 3:
            signal.raise_signal(signal.SIGTERM)
        return means(*arguments, **options)

    monkeypatch.setattr(step, "_means", counted)
    with pytest.raises(Interrupted):
        run_to_end(diverging, dataset, tmp_path / "again")
    assert repr(run_to_end(diverging, dataset, tmp_path / "again")) == repr(whole)
    assert trajectory(tmp_path / "again") == trajectory(tmp_path / "whole")


# stopped early


@pytest.fixture
def validating(monkeypatch):
    """Have these be the accuracies of a training of 4 steps an epoch, from the first; with NaN it diverges."""

    def script(*accuracies):
        def scripted(model, *_, **__):
            accuracy = accuracies[model.entry.norm.num_batches_tracked // 4 - 1]
            return torch.tensor([1.0 + 0 * accuracy, accuracy], dtype=torch.float64)

        monkeypatch.setattr(step, "_means", scripted)

    return script


@pytest.fixture
def patient(tiny, dataset, tmp_path, validating):
    """Return what trains up to 8 epochs with a patience and these validation accuracies."""

    def finish(patience, accuracies):
        validating(*accuracies)
        run = tiny(train={"epochs": 8, "patience": patience, "snapshots": [1, 2, 5, 6]})
        return run_to_end(run, dataset, tmp_path / str(patience))

    return finish


WAITED = (0.2, 0.5, 0.5, 0.4, 0.6, 0.6, 0.1, 0.5)
FALLEN = (0.9, *[0.1] * 7)


@pytest.mark.parametrize(
    ("patience", "accuracies", "expected"),
    [
        (2, WAITED, ("stopped early", 4, 2)),
        (3, WAITED, ("completed", 8, 5)),
        (1, WAITED, ("stopped early", 3, 2)),
        (0, FALLEN, ("completed", 8, 1)),
        (7, FALLEN, ("completed", 8, 1)),
        (6, FALLEN, ("stopped early", 7, 1)),
    ],
)
def test_a_training_stops_once_its_patience_is_over(patient, tmp_path, patience, accuracies, expected):
    outcome, folder = patient(patience, accuracies), tmp_path / str(patience)
    status, epochs, best = expected
    assert (outcome.status, outcome.best.epoch) == (status, best)
    assert [row.epoch for row in outcome.history] == list(range(1, epochs + 1))
    kept = sorted({0, epochs, *(epoch for epoch in (1, 2, 5, 6) if epoch <= epochs)})
    assert outcome.snapshots == kept
    assert sorted(trajectory(folder)) == ["best.safetensors", *(f"epoch000{epoch}.safetensors" for epoch in kept)]
    assert paths.best(folder).read_bytes() == paths.snapshot(folder, best).read_bytes()
    assert outcome.test.accuracy == accuracies[best - 1]


def test_a_training_that_stops_early_took_the_steps_of_one_that_does_not(patient):
    assert patient(2, WAITED).history == patient(0, WAITED).history[:4]


def test_a_training_that_diverges_as_its_patience_ends_has_diverged(patient):
    outcome = patient(2, (0.5, 0.4, float("nan")))
    assert (outcome.status, len(outcome.history), outcome.snapshots) == ("diverged", 3, [0, 1, 2])


@pytest.mark.parametrize("step", [9, 12, 15, 16])
def test_a_training_terminated_before_it_stops_early_gives_the_same_bytes(
    tiny, dataset, tmp_path, monkeypatch, validating, step
):
    validating(*WAITED)
    run = tiny(train={"epochs": 8, "patience": 2})
    whole = run_to_end(run, dataset, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_step(patch, {step}, lambda _: signal.raise_signal(signal.SIGTERM))
        run_to_end(run, dataset, tmp_path / "again")
    steps = []
    at_step(monkeypatch, range(1, 33), steps.append)
    assert run_to_end(run, dataset, tmp_path / "again") == whole
    assert len(steps) == 16 - step
    assert trajectory(tmp_path / "again") == trajectory(tmp_path / "whole")


def test_a_training_terminated_while_it_validates_for_the_last_time_stops_early_too(
    tiny, dataset, tmp_path, monkeypatch, validating
):
    validating(*WAITED)
    run = tiny(train={"epochs": 8, "patience": 2})
    whole = run_to_end(run, dataset, tmp_path / "whole")
    scripted = step._means

    def terminated(model, *arguments, **options):
        if model.entry.norm.num_batches_tracked == 16:
            signal.raise_signal(signal.SIGTERM)
        return scripted(model, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="saved at epoch 4, iteration 4"):
        patch.setattr(step, "_means", terminated)
        run_to_end(run, dataset, tmp_path / "again")
    assert run_to_end(run, dataset, tmp_path / "again") == whole
    assert trajectory(tmp_path / "again") == trajectory(tmp_path / "whole")


# the machine


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_on_a_machine_without_it_is_a_mistake_of_the_user(tiny):
    with pytest.raises(UserError) as caught:
        devices.configure(tiny(train={"device": "cuda"}).train)
    assert str(caught.value) == "train.device = 'cuda': this machine has no CUDA device; allowed here: auto, cpu"
    assert devices.configure(tiny(train={"device": "auto"}).train) == CPU


def test_the_configuration_sets_the_threads_and_determinism_whatever_was_set_before(tiny, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Snakemake sets it from `--cores`
    for backend, key in (
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    ):
        setattr(backend, key, True)
    devices.configure(tiny(train={"threads": 2}).train)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"


def test_the_environment_names_what_the_numbers_depend_on(tiny):
    assert devices.environment(tiny().train, CPU) == {
        "device": "cpu",
        "kind": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "precision": "fp32",
        "threads": 1,
    }


def key_of(run, data_hash):
    return loop.state_key(run, data_hash, devices.environment(run.train, CPU))


def test_states_are_shared_by_equal_configurations_only(tiny):
    key = key_of(tiny(), "hash")
    moved = tiny()
    moved = moved.model_copy(update={"data": moved.data.model_copy(update={"sources": ["elsewhere"]})})
    assert key_of(moved, "hash") == key
    others = [
        key_of(tiny(), "another"),
        loop.state_key(tiny(), "hash", {"torch": "another"}),
        key_of(tiny(train={"epochs": 4}), "hash"),
        key_of(tiny(train={"threads": 2}), "hash"),
        key_of(tiny(train={"weight_decay": 1e-4}), "hash"),
        key_of(tiny(train={"l1": 1e-4}), "hash"),
        key_of(tiny(train={"patience": 3}), "hash"),
        key_of(tiny(model={"norm": "batch"}), "hash"),
    ]
    assert len({key, *others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("device", "train", "format_"),
    [
        ("cpu", {"precision": "fp32"}, torch.channels_last),
        ("cpu", {"precision": "bf16"}, torch.channels_last),
        ("cuda", {"precision": "fp32"}, torch.contiguous_format),
        ("cuda", {"precision": "fp32", "kernels": "fused"}, torch.channels_last),
        ("cuda", {"precision": "tf32"}, torch.channels_last),
        ("cuda", {"precision": "bf16"}, torch.channels_last),
    ],
)
def test_weights_and_minibatches_lie_in_memory_as_convolutions_of_the_device_want_them(
    tiny, dataset, monkeypatch, device, train, format_
):
    run = tiny(train=train)
    chosen = devices.memory_format(run.train, torch.device(device))
    monkeypatch.setattr(devices, "memory_format", lambda *_: chosen)
    subject = Learner(run, 0, torch.device("cpu"))
    seen = []
    subject.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images, labels = step.upload(dataset.train, subject.device)
    subject.step(images, labels, augmentation.draw(len(images), 0, 1).batch(0, 8))
    formats = {torch.channels_last, torch.contiguous_format}
    convolutions = [weight for weight in subject.model.parameters() if weight.dim() == 4 and weight.shape[-1] > 1]
    for tensor in (*seen, *convolutions):
        assert [each for each in formats if tensor.is_contiguous(memory_format=each)] == [format_]


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_gives_the_same_bytes_twice(tiny, dataset, tmp_path, precision):
    run = tiny(model={"norm": "batch", "blocks": 1}, train={"device": "cuda", "precision": precision})
    first, again = (run_to_end(run, dataset, tmp_path / name) for name in ("first", "again"))
    assert first == again
    assert trajectory(tmp_path / "first") == trajectory(tmp_path / "again")


@needs_cuda
def test_cuda_gives_the_history_of_the_cpu_within_tolerance(tiny, dataset, tmp_path, uninterrupted):
    outcome = run_to_end(tiny(train={"device": "cuda"}), dataset, tmp_path)
    losses, on_cpu = ([row.train_loss for row in each.history] for each in (outcome, uninterrupted[0]))
    assert losses == pytest.approx(on_cpu, rel=1e-3)
    initial = "epoch0000.safetensors"
    assert trajectory(tmp_path)[initial] == uninterrupted[1][initial]


@needs_cuda
def test_cuda_goes_on_to_the_same_bytes(tiny, dataset, tmp_path, monkeypatch):
    run = tiny(train={"device": "cuda"})
    whole = run_to_end(run, dataset, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_step(patch, {7}, lambda _: signal.raise_signal(signal.SIGTERM))
        run_to_end(run, dataset, tmp_path / "again")
    assert run_to_end(run, dataset, tmp_path / "again") == whole
    assert trajectory(tmp_path / "again") == trajectory(tmp_path / "whole")
