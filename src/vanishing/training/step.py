"""The training step on one device: augmentation, forward, backward, optimiser, sums; and the evaluation.

No step waits for the device or copies from it, so that a GPU is never idle between steps.
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
from vanishing.training import augmentation, devices, models, precision
from vanishing.training.streams import Stream

EVALUATION_BATCH = {"cpu": 250, "cuda": 2500}
"""Images evaluated at once, by kind of device: few enough for a cache, and enough to keep a GPU busy.

The metrics depend on it by rounding alone.
"""


def upload(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Put all images of a split, uint8 (n, 3, 32, 32), and their labels, int64 (n,), on a device."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).long().to(device)


class Metrics(NamedTuple):
    """Mean cross-entropy in nats, and the share of images whose largest logit is the label's."""

    loss: float
    accuracy: float


def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy in nats, in single precision under autocast too.

    CUDA's autocast leaves the logarithms of the probabilities in bfloat16, in steps of 1/32 where they are near that of
    1 %, since PyTorch's own function asks for the type of the logits; the CPU's does not (PyTorch 2.11 to 2.15).

    Args:
        logits: (batch, classes).
        target: class numbers (batch,).
        reduction: `mean` or `sum`, over the batch.
    """
    return functional.cross_entropy(logits.float(), target, reduction=reduction)


class Learner:
    """A model, its optimiser and the sums of its metrics over an epoch: everything that a training step changes.

    All of it lies on `device`, and no method but `metrics` waits for the device.
    """

    def __init__(self, run: config.Run, seed: int, device: torch.device) -> None:
        self.bf16 = run.train.precision == "bf16"
        self.device = device
        self.memory_format = devices.memory_format(run.train, device)
        model = models.build(run.model, run.data.classes, seed, run.train.kernels)
        self.model = model.to(device).to(memory_format=self.memory_format)
        self.counters = models.counters(self.model)
        self.l1, self.scaling = run.train.l1, run.data.scaling
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

    def step(self, images: Tensor, labels: Tensor, draws: augmentation.Draws) -> None:
        """Take one step of Adam on a minibatch.

        Args:
            images: all training images, uint8 (n, 3, 32, 32).
            labels: their labels, int64 (n,).
            draws: which of them make the minibatch, and how they are cropped and flipped.
        """
        target = labels[draws.order]
        batch = augmentation.normalise(augmentation.augment(images[draws.order], draws), self.scaling)
        batch = batch.contiguous(memory_format=self.memory_format)
        self.optimiser.zero_grad()
        with precision.autocast(self.device.type, self.bf16):
            logits = self.cast(batch) if self.cast else self.model(batch)
            loss = cross_entropy(logits, target)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.cast:
            self.cast.return_gradients()
        if self.l1:
            self._penalise()
        self.optimiser.step()
        correct = (logits.detach().argmax(dim=1) == target).double().mean()
        self.sums += torch.stack([loss.detach().double(), correct])
        if self.counters:
            torch._foreach_add_(self.counters, 1)

    @torch.no_grad()
    def _penalise(self) -> None:
        """Add the gradient of an L1 penalty (Tibshirani 1996) before Adam, whose L2 is not decoupled either."""
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        torch._foreach_add_(gradients, torch._foreach_sign(self.weights), alpha=self.l1)

    def metrics(self, minibatches: int) -> Metrics:
        """Return the means over the epoch's minibatches, and begin new sums; waits for the device."""
        means = Metrics(*(self.sums / minibatches).tolist())
        self.sums.zero_()
        return means

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes, by name."""
        named = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, weight in self.model.named_parameters():
            named |= {f"optimiser.{name}.{key}": tensor for key, tensor in self.optimiser.state[weight].items()}
        return named | {"sums": self.sums}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy back what `tensors` returned earlier."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])


class _Cast:
    """A model whose convolutions and linear layers compute with bfloat16 copies of their weights.

    Autocast casts every weight and every gradient by itself; here one call casts all weights and one all gradients,
    with the same bits: two calls a step where autocast makes two for each of 45 tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        self.weights = {f"{layer}.{name}": w for layer, module in layers for name, w in module.named_parameters()}
        copies = ((name, torch.empty_like(weight, dtype=torch.bfloat16)) for name, weight in self.weights.items())
        self.copies = {name: copy.requires_grad_() for name, copy in copies}

    def __call__(self, batch: Tensor) -> Tensor:
        """Map normalised images to logits, within autocast."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.copies.values()), list(self.weights.values()))
        for copy in self.copies.values():
            copy.grad = None
        logits: Tensor = functional_call(self.model, self.copies, batch)
        return logits

    @torch.no_grad()
    def return_gradients(self) -> None:
        """Give the weights the gradients of their copies."""
        gradients = [torch.empty_like(weight) for weight in self.weights.values()]
        torch._foreach_copy_(gradients, [copy.grad for copy in self.copies.values() if copy.grad is not None])
        for weight, gradient in zip(self.weights.values(), gradients, strict=True):
            weight.grad = gradient


class Step:
    """A learner's step on minibatches of fixed sizes, recorded once for each size.

    A step of a deep, narrow network is hundreds of kernels of a few microseconds each, less than a launch takes; a
    CUDA graph launches them all at once. It computes what `Learner.step` does, bit for bit.

    Args:
        learner: recording leaves it as it was.
        images: all training images, uint8 (n, 3, 32, 32).
        labels: their labels, int64 (n,).
        sizes: numbers of images in a minibatch, that of a short last one included.
        stream: the learner's.
        pool: of `stream`.
    """

    def __init__(
        self, learner: Learner, images: Tensor, labels: Tensor, sizes: Iterable[int], stream: Stream, pool: Any
    ) -> None:
        self.recorded: dict[int, tuple[augmentation.Draws, Callable[[], None]]] = {}
        for size in set(sizes):
            draws = augmentation.draw(len(images), seed=0, epoch=0).batch(0, size).to(learner.device)
            work = functools.partial(learner.step, images, labels, draws)
            self.recorded[size] = draws, stream.record(work, learner.tensors(), pool)

    def __call__(self, draws: augmentation.Draws) -> None:
        """Take one step on the minibatch of `draws`, without waiting for it."""
        recorded, launch = self.recorded[len(draws.order)]
        recorded.copy_(draws)
        launch()


class Evaluation:
    """`evaluate` on fixed images, recorded once: the validation at the end of every epoch.

    Args:
        model: see `evaluate`.
        images: uint8 (n, 3, 32, 32).
        labels: int64 (n,).
        bf16: see `evaluate`.
        stream: the one that the model is trained on.
        pool: of `stream`.
        scaling: see `evaluate`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - those of `evaluate`, and two of the device
        self, model: nn.Module, images: Tensor, labels: Tensor, bf16: bool, stream: Stream, pool: Any,
        scaling: config.Scaling = config.CIFAR10,
    ) -> None:  # fmt: skip
        self.means = means = torch.zeros(2, dtype=torch.float64, device=images.device)

        def work() -> None:  # holds no `self`: a reference cycle would keep its memory for a while
            means.copy_(_means(model, images, labels, bf16, scaling))

        self.launch = stream.record(work, {}, pool)

    def metrics(self) -> Metrics:
        """Return the metrics of the last `launch`; waits for the device."""
        return Metrics(*self.means.tolist())


def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False, scaling: config.Scaling = config.CIFAR10
) -> Metrics:
    """Evaluate a model, in evaluation mode and without augmentation.

    Args:
        model: maps normalised images to logits (batch, classes); left in the mode it was in.
        images: uint8 (n, 3, 32, 32).
        labels: int64 (n,).
        bf16: whether to compute in bfloat16 where autocast does.
        scaling: what the images are normalised by.
    """
    return Metrics(*_means(model, images, labels, bf16, scaling).tolist())


def loss_std(
    model: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False, scaling: config.Scaling = config.CIFAR10
) -> float:
    """Return the standard deviation (n - 1) of the cross-entropy over images, in nats; arguments as of `evaluate`."""
    return float(losses(model, images, labels, bf16, scaling).std())


def losses(
    model: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False, scaling: config.Scaling = config.CIFAR10
) -> Tensor:
    """Return the cross-entropy of each image in nats, float64 (n,); arguments as of `evaluate`."""

    def each(logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(logits.double(), target, reduction="none")

    return torch.cat(_evaluated(model, images, labels, bf16, scaling, each))


def _means(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool, scaling: config.Scaling) -> Tensor:
    """Return mean loss and accuracy, float64 (2,), without waiting for the device."""

    def totals(logits: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(logits, target, "sum")
        return torch.stack([loss.double(), (logits.argmax(dim=1) == target).sum().double()])

    zero = torch.zeros(2, dtype=torch.float64, device=images.device)
    return sum(_evaluated(model, images, labels, bf16, scaling, totals), start=zero) / len(images)


@torch.no_grad()
def _evaluated(
    model: nn.Module, images: Tensor, labels: Tensor, bf16: bool, scaling: config.Scaling,
    metric: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:  # fmt: skip
    """Return `metric` of logits and labels for every part of the images, with the model in evaluation mode."""
    training, size = model.training, EVALUATION_BATCH[images.device.type]
    model.eval()
    found = []
    for part, target in zip(torch.split(images, size), torch.split(labels, size), strict=True):
        with precision.autocast(images.device.type, bf16):
            found.append(metric(model(augmentation.normalise(part, scaling)), target))
    model.train(training)
    return found
