"""A training step on one device: augment, forward, backward, optimiser, sums.

Nothing in a step waits for the device or copies from it, so that a GPU is never idle between steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vanishing import augmentation, devices, models, parameters
from vanishing.splits import Split

EVALUATION_BATCH = {"cpu": 250, "cuda": 2500}
"""Images evaluated at once, by kind of device: what a cache holds, and what keeps a GPU busy between launches.

In evaluation mode the figures do not depend on it, up to rounding.
"""

WARM_UP = 3
"""Eager steps before a capture: kernels are loaded and workspaces allocated in them."""


def upload(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Put all images of a split, uint8 (n, 3, 32, 32), and their labels, int64 (n,), on a device."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).long().to(device)


class Figures(NamedTuple):
    """A mean cross-entropy in nats and the share of images whose largest logit is the label's."""

    loss: float
    accuracy: float


class Learner:
    """A model, its optimiser, and the epoch's sums: everything that a training step changes.

    All of it lies on one device, and no method but `figures` waits for that device.
    """

    def __init__(self, run: parameters.Run, seed: int, device: torch.device) -> None:
        self.bf16 = run.train.precision == "bf16"
        self.device = device
        self.memory_format = devices.memory_format(run.train, device)
        self.model = models.build(run.model, run.data.classes, seed, run.train.kernels).to(device)
        self.model = self.model.to(memory_format=self.memory_format)
        self.counters = models.counters(self.model)
        self.l1 = run.train.l1
        self.weights: list[Tensor] = [weight for weight in self.model.parameters() if weight.dim() > 1]
        self.rate = torch.tensor(run.train.learning_rate, device=device)
        self.optimiser = torch.optim.Adam(
            self.model.parameters(),
            lr=self.rate,
            weight_decay=run.train.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        for weight in self.model.parameters():  # Adam's state exists from the start, so that it can be restored
            self.optimiser.state[weight] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)

    def step(self, images: Tensor, labels: Tensor, plan: augmentation.Plan) -> None:
        """Take one step of Adam on a minibatch.

        Args:
            images: all training images, uint8 (n, 3, 32, 32).
            labels: their labels, int64 (n,).
            plan: which of them, and how they are cropped and flipped.
        """
        chosen = labels[plan.order]
        batch = augmentation.normalise(augmentation.augment(images[plan.order], plan))
        batch = batch.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.model(batch)
            loss = functional.cross_entropy(logits, chosen)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.l1:
            self._penalise()
        self.optimiser.step()
        correct = (logits.detach().argmax(dim=1) == chosen).double().mean()
        self.sums += torch.stack([loss.detach().double(), correct])
        if self.counters:
            torch._foreach_add_(self.counters, 1)

    @torch.no_grad()
    def _penalise(self) -> None:
        """Add the gradient of an L1 penalty on weights (Tibshirani 1996) where Adam adds its L2: not decoupled."""
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        torch._foreach_add_(gradients, torch._foreach_sign(self.weights), alpha=self.l1)

    def figures(self, minibatches: int) -> Figures:
        """Return the means over the epoch's minibatches, and begin new sums."""
        loss, accuracy = (self.sums / minibatches).tolist()
        self.sums.zero_()
        return Figures(loss, accuracy)

    def tensors(self) -> dict[str, Tensor]:
        """Name every tensor that a step changes."""
        named = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, weight in self.model.named_parameters():
            named |= {f"optimiser.{name}.{key}": tensor for key, tensor in self.optimiser.state[weight].items()}
        return named | {"sums": self.sums}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave, in place."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])


class CapturedStep:
    """A learner's step, recorded as a CUDA graph for minibatches of one size and replayed; for others it is eager.

    A step of a deep, narrow network is hundreds of kernels of a few microseconds each, less than a launch
    takes; a replay launches them all at once. It computes what `Learner.step` does, bit for bit.

    Args:
        learner: on a CUDA device; the capture leaves it as it was.
        images: all training images, uint8 (n, 3, 32, 32); read at every replay, and kept for it.
        labels: their labels, int64 (n,).
        size: images in a minibatch.
    """

    def __init__(self, learner: Learner, images: Tensor, labels: Tensor, size: int) -> None:
        self.eager = functools.partial(learner.step, images, labels)
        self.plan = augmentation.draw(len(images), seed=0, epoch=0).batch(0, size).to(learner.device)
        before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self.eager(self.plan)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.eager(self.plan)
        learner.restore(before)

    def __call__(self, plan: augmentation.Plan) -> None:
        """Take one step on the minibatch of `plan`, without waiting for it."""
        if len(plan.order) != len(self.plan.order):
            self.eager(plan)
            return
        self.plan.order.copy_(plan.order)
        self.plan.offsets.copy_(plan.offsets)
        self.plan.flips.copy_(plan.flips)
        self.graph.replay()


def fastest_step(learner: Learner, images: Tensor, labels: Tensor, size: int) -> Callable[[augmentation.Plan], None]:
    """Return the step for minibatches of `size` images: captured on CUDA, eager elsewhere."""
    if learner.device.type == "cuda":
        return CapturedStep(learner, images, labels, size)
    return functools.partial(learner.step, images, labels)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False) -> Figures:
    """Evaluate a model, in evaluation mode and without augmentation.

    Args:
        model: maps normalised images to logits (batch, classes); left in the mode it was in.
        images: uint8 (n, 3, 32, 32).
        labels: int64 (n,).
        bf16: whether to compute in bfloat16 where autocast does.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=images.device)
    size = EVALUATION_BATCH[images.device.type]
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = model(augmentation.normalise(images[part]))
            loss = functional.cross_entropy(logits, labels[part], reduction="sum")
        correct = (logits.argmax(dim=1) == labels[part]).sum()
        sums += torch.stack([loss.double(), correct.double()])
    model.train(training)
    loss_mean, accuracy = (sums / len(images)).tolist()
    return Figures(loss_mean, accuracy)


@torch.no_grad()
def loss_std(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False) -> float:
    """Return the standard deviation (n - 1) of the cross-entropy over images, in nats; evaluated as `evaluate` does."""
    training = model.training
    model.eval()
    size = EVALUATION_BATCH[images.device.type]
    losses = []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = model(augmentation.normalise(images[part]))
        losses.append(functional.cross_entropy(logits.double(), labels[part], reduction="none"))
    model.train(training)
    return float(torch.cat(losses).std())
