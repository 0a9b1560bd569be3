"""A training step on one device: augment, forward, backward, optimiser, sums.

Nothing in a step waits for the device or copies from it, so that a GPU is never idle between steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vanishing import config
from vanishing.data.records import Split
from vanishing.training import augmentation, devices, models
from vanishing.training.streams import Stream

EVALUATION_BATCH = {"cpu": 250, "cuda": 2500}
"""Images evaluated at once, by kind of device: what a cache holds, and what keeps a GPU busy between launches.

In evaluation mode the figures do not depend on it, up to rounding.
"""


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

    def __init__(self, run: config.Run, seed: int, device: torch.device) -> None:
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
        self.cast = _Cast(self.model) if self.bf16 else None

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
        self.optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.cast(batch) if self.cast else self.model(batch)
            loss = functional.cross_entropy(logits, chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.cast:
            self.cast.hand_over()
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


class _Cast:
    """A model whose convolutions and linear layers compute with copies of their weights in bfloat16.

    What autocast does weight by weight, and to the gradients again, is one call for all of them, bit for bit the same:
    two calls where there were two for each of 45 tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        self.weights = {f"{layer}.{name}": w for layer, module in layers for name, w in module.named_parameters()}
        self.copies = {
            name: torch.empty_like(weight, dtype=torch.bfloat16).requires_grad_()
            for name, weight in self.weights.items()
        }

    def __call__(self, batch: Tensor) -> Tensor:
        """Map normalised images to logits, within autocast."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.copies.values()), list(self.weights.values()))
        for copy in self.copies.values():
            copy.grad = None
        logits: Tensor = functional_call(self.model, self.copies, batch)
        return logits

    @torch.no_grad()
    def hand_over(self) -> None:
        """Give the weights the gradients of their copies."""
        gradients = {name: torch.empty_like(weight) for name, weight in self.weights.items()}
        torch._foreach_copy_(
            list(gradients.values()), [copy.grad for copy in self.copies.values() if copy.grad is not None]
        )
        for name, weight in self.weights.items():
            weight.grad = gradients[name]


class Step:
    """A learner's step on minibatches of fixed sizes, recorded once for each.

    A step of a deep, narrow network is hundreds of kernels of a few microseconds each, less than a launch
    takes; a CUDA graph launches them all at once. It computes what `Learner.step` does, bit for bit.

    Args:
        learner: is left as it was.
        images: all training images, uint8 (n, 3, 32, 32); read at every step, and kept for it.
        labels: their labels, int64 (n,).
        sizes: images in a minibatch; that of the short last one too.
        stream: that the learner works on.
        pool: of `stream`.
    """

    def __init__(
        self, learner: Learner, images: Tensor, labels: Tensor, sizes: Iterable[int], stream: Stream, pool: Any
    ) -> None:
        self.recorded: dict[int, tuple[augmentation.Plan, Callable[[], None]]] = {}
        for size in set(sizes):
            plan = augmentation.draw(len(images), seed=0, epoch=0).batch(0, size).to(learner.device)
            work = functools.partial(learner.step, images, labels, plan)
            self.recorded[size] = plan, stream.record(work, learner.tensors(), pool)

    def __call__(self, plan: augmentation.Plan) -> None:
        """Take one step on the minibatch of `plan`, without waiting for it."""
        mine, launch = self.recorded[len(plan.order)]
        mine.copy_(plan)
        launch()


class Evaluation:
    """The metrics of a model on fixed images, recorded once: what an epoch's validation repeats.

    Args:
        model: see `evaluate`.
        images: uint8 (n, 3, 32, 32).
        labels: int64 (n,).
        bf16: see `evaluate`.
        stream: that the model is trained on.
        pool: of `stream`.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, bf16: bool, stream: Stream, pool: Any) -> None:
        self.means = means = torch.zeros(2, dtype=torch.float64, device=images.device)

        def work() -> None:  # holds no `self`: a reference cycle would keep its memory for a while
            means.copy_(_means(model, images, labels, bf16))

        self.launch = stream.record(work, {}, pool)

    def figures(self) -> Figures:
        """Return what the last `launch` found, once it is done: waits for the device."""
        loss, accuracy = self.means.tolist()
        return Figures(loss, accuracy)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False) -> Figures:
    """Evaluate a model, in evaluation mode and without augmentation.

    Args:
        model: maps normalised images to logits (batch, classes); left in the mode it was in.
        images: uint8 (n, 3, 32, 32).
        labels: int64 (n,).
        bf16: whether to compute in bfloat16 where autocast does.
    """
    loss, accuracy = _means(model, images, labels, bf16).tolist()
    return Figures(loss, accuracy)


@torch.no_grad()
def _means(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool) -> Tensor:
    """Return mean loss and accuracy, float64 (2,), without waiting for the device."""
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
    return sums / len(images)


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
