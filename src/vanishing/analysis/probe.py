"""Measure signal and gradient at every layer of any network, on a copy of it.

A layer is a module with a weight matrix of its own, or a normalisation. A module that uses the weights of its parts
without calling them, as attention does, is one layer with them. Every call of a layer is measured at its input: behind
the activation, the shortcut or the pooling before it, whether that is a module or not.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn import functional
from torch.nn.utils.parametrize import ParametrizationList

from vanishing.analysis.gradient_flow import NORMALISATIONS
from vanishing.analysis.vectors import Loss
from vanishing.errors import UserError

MOST = 8
"""Minibatches that are read; a loader may have no end."""

OUTPUT = "(output)"
"""Name of the last row, the output of the network."""

ROOT = "(model)"
"""Name of the model itself, where it is a layer."""

CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
"""Layers whose units are the second dimension of their input; of the others it is the last."""

COLUMNS = {
    "name": f"of the layer within the model; {OUTPUT} for the output of the network, the last row",
    "call": "number of this call of the layer in a forward pass, from 1",
    "type": "class of the layer",
    "activation": "RMS of the layer's input",
    "example_share": "RMS of the input's deviation from its mean over the examples, over that of the whole input",
    "bits": "bits of the significand that carry that part: log2(example_share / epsilon of the dtype)",
    "zeros": "share of the input that is exactly 0",
    "dead": "share of the input's units (channels, features) with one value for all examples of a minibatch",
    "gradient": "L2 norm of the gradient of an example's loss with respect to the layer's input, RMS over examples",
    "forward": "activation of the next row over that of this one",
    "backward": "gradient of this row over that of the next one",
    "weight_gradient": "norm of dL/dW, of all calls together, over that of W or of weights of variance 1 / fan-in",
}
"""Of the table: what each column means. NaN is what cannot be measured, infinity what is not finite.

The gradient of weights is set beside those that a layer can come to have, the larger of the two: some begin near 0 on
purpose.
"""


@dataclass(frozen=True)
class Measurement:
    """What `measure` found."""

    table: pd.DataFrame
    """A row for each call of a layer, in the order of the forward pass; see `COLUMNS`."""
    steps: dict[str, np.ndarray]
    """Of recurrent layers that run over time by themselves: norm of dL/dx by time step of the input x, (steps,).

    Minibatches of different lengths are aligned at their last step.
    """
    detached: list[str]
    """Layers that take part in the forward pass, but on whose weights the loss does not depend."""
    zero_weights: list[str]
    """Layers whose weights are all 0: what is behind them alone has no gradient yet."""
    examples: int
    """Examples of all minibatches."""
    normalised: bool
    """Whether there is a normalisation for every second layer at least."""
    bounded: bool
    """Whether a sigmoid or hyperbolic tangent is among the modules: derivatives below 1 nearly everywhere."""
    limits: list[str]
    """What could not be judged, and why."""

    @property
    def error(self) -> float:
        """Norm of the gradient of an example's loss with respect to the output."""
        return float(self.table.gradient.iloc[-1])


def measure(model: nn.Module, batches: Iterable[Any], loss: Loss | None = None) -> Measurement:
    """Run the first minibatches forward and backward through a copy of the model, and measure every layer.

    Batch normalisation uses the statistics of the minibatch, as in training. All else runs as in evaluation: what
    dropout draws would pass for a signal. Sums are in double precision; the network computes in its own dtype.

    Args:
        model: any module; it, its gradients and buffers, its mode and the state of the generators stay as they are.
        batches: minibatches, of which the first `MOST` are read: pairs (inputs, targets), or inputs alone. Inputs are a
            tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        loss: maps (output, targets) to a scalar, the mean over the examples. By default it is the output itself if
            that is a scalar, the cross-entropy for integer targets, and without targets a random projection of the
            output, which needs no task.

    Raises:
        UserError: for a model that cannot be copied or has no layer, weights that are not initialised yet, no
            minibatch, or targets that need a loss of their own.
    """
    copied = _prepared(model)
    with torch.random.fork_rng(devices=_cuda(copied)), torch.enable_grad():
        torch.manual_seed(0)
        read = [_arranged(batch) for batch in itertools.islice(_listed(batches), MOST)]
        if not read:
            raise UserError("a diagnosis needs at least one minibatch")
        probe = _Probe(copied, read, loss)
        probe.run()
        if heads := probe.heads():
            for head in heads:
                _draw(copied.get_submodule(head))
            probe = _Probe(copied, read, loss)
            probe.run()
            probe.limit("weights that are all 0 pass no gradient; measured with random ones instead", heads)
        return probe.result()


def _prepared(model: nn.Module) -> nn.Module:
    """Copy a model, and switch off all that is drawn at random."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("a TorchScript module has no layers to measure; give the module that it was made of")
    for name, weight in model.named_parameters():
        if nn.parameter.is_lazy(weight):
            raise UserError(f"{name} is not initialised yet; run the lazy model once on a minibatch before")
    try:
        copied = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"the model cannot be copied, so that it would not stay as it is: {error}") from error
    copied.eval()
    copied.zero_grad(set_to_none=True)
    for module in copied.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.training = True
        elif isinstance(module, nn.RNNBase):
            module.training, module.dropout = True, 0.0  # cuDNN has no backward pass in evaluation
    return copied


def _cuda(model: nn.Module) -> list[int]:
    devices = (weight.device for weight in model.parameters())
    return sorted({device.index or 0 for device in devices if device.type == "cuda"})


def _listed(batches: Iterable[Any]) -> Iterable[Any]:
    """Take a single minibatch for a list of one."""
    pair = isinstance(batches, tuple) and len(batches) == 2 and isinstance(batches[1], Tensor)
    if isinstance(batches, Tensor | Mapping) or pair:
        return [batches]
    if not isinstance(batches, Iterable):
        raise UserError(
            f"batches is a {type(batches).__name__}; allowed: minibatches in a list, a loader, or one alone"
        )
    return batches


def _arranged(batch: Any) -> tuple[Any, Any]:
    """Return inputs and targets, which are None where there are none."""
    if isinstance(batch, Tensor | Mapping):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise UserError(
        f"a minibatch is a {type(batch).__name__}; allowed: inputs, or a pair (inputs, targets), where inputs are a "
        "tensor, a tuple of arguments or a mapping of keyword arguments"
    )


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping | tuple | list):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _tensors(value)


def _fresh(values: Any, device: torch.device) -> Any:
    """Copy inputs to a device, with gradients, so that the network may change them in place."""
    if isinstance(values, Tensor):
        moved = values.detach().to(device)
        return moved.requires_grad_().clone() if moved.is_floating_point() else moved
    if isinstance(values, Mapping):
        return {key: _fresh(value, device) for key, value in values.items()}
    return tuple(_fresh(value, device) for value in values) if isinstance(values, tuple | list) else values


def _run(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _draw(module: nn.Module) -> None:
    """Give matrices that are 0 normal weights of variance 1 / fan-in."""
    generator = torch.Generator().manual_seed(0)
    for weight in _matrices(module):
        drawn = torch.randn(weight.shape, generator=generator) / math.sqrt(weight[0].numel())
        weight.data.copy_(drawn)


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    """List the weight matrices that a module holds itself; of a container, not a token or a scale."""
    leaf = next(module.children(), None) is None
    own = (weight for weight in module._parameters.values() if weight is not None and weight.dim() >= 2)
    return [weight for weight in own if leaf or sum(size > 1 for size in weight.shape) >= 2]


@dataclass
class _Call:
    """What one call of a layer receives: a value for each minibatch."""

    epsilon: float = np.nan
    squares: list[float] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    zeros: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    constant: Tensor | None = None

    def see(self, x: Tensor, examples: int, axis: int, units: int) -> bool:
        """Enter an input; return whether its examples could be told apart."""
        self.epsilon = torch.finfo(x.dtype).eps
        wide = x.detach().double()
        self.squares.append(_finite(float(wide.square().mean())))
        self.zeros.append(float((wide == 0).double().mean()))
        if axis == 1 and wide.dim() > 2 and wide.shape[1] == examples:
            wide = wide.movedim(1, 0)
        elif axis == 1 or wide.dim() < 2 or len(wide) % examples:
            return False
        else:
            wide = wide.movedim(units, -1)
        wide = wide.reshape(examples, -1, wide.shape[-1])  # (examples, positions, units)
        if examples > 1:
            self.variances.append(_finite(float(wide.var(dim=0, correction=0).mean())))
            same = (wide == wide[:1]).flatten(0, 1).all(dim=0)
            self.constant = same if self.constant is None else self.constant & same
        return True

    def see_gradient(self, examples: int, gradient: Tensor) -> None:
        """Enter the gradient of the mean loss with respect to the input, for that of each example's loss."""
        self.gradients.append(_finite(math.sqrt(examples * float(gradient.double().square().sum()))))

    def row(self) -> dict[str, float]:
        """Return the columns of the table that are this call's alone."""
        square, variance = (float(np.mean(each)) if each else np.nan for each in (self.squares, self.variances))
        share = math.sqrt(variance / square) if 0 < square < math.inf else np.nan
        return {
            "activation": math.sqrt(square),
            "example_share": share,
            "bits": math.log2(share / self.epsilon) if share > 0 else -math.inf if share == 0 else np.nan,
            "zeros": float(np.mean(self.zeros)) if self.zeros else np.nan,
            "dead": np.nan if self.constant is None else float(self.constant.double().mean()),
            "gradient": float(np.sqrt(np.mean(np.square(self.gradients)))) if self.gradients else np.nan,
        }


def _finite(value: float) -> float:
    """Return the value, and infinity for NaN too, which stands for what is not measured."""
    return value if math.isfinite(value) else math.inf


class _Probe:
    """The hooks on a model, and what they have seen on all minibatches."""

    def __init__(self, model: nn.Module, batches: list[tuple[Any, Any]], loss: Loss | None) -> None:
        self.model, self.batches, self.loss = model, batches, loss
        self.device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
        self.modules = dict(model.named_modules())
        self.calls: dict[tuple[str, int], _Call] = {}
        self.weights: dict[str, list[nn.Parameter]] = {}
        self.gradients: dict[str, list[float]] = {}
        self.steps: dict[str, list[np.ndarray]] = {}
        self.limits: dict[str, dict[str, None]] = {}
        self.examples, self.axis, self.total = 1, 0, 0

    def limit(self, text: str, names: Iterable[str] = ()) -> None:
        """Note what cannot be judged, once, and of which layers."""
        self.limits.setdefault(text, {}).update(dict.fromkeys(name or ROOT for name in names))

    def run(self) -> None:
        """Find the layers, then measure them on every minibatch."""
        self._find_layers()
        for inputs, targets in self.batches:
            self._count_examples(inputs, targets)
            self.total += self.examples
            outputs = self._hooked(self.weights, partial(self._before, Counter()), inputs)
            value = self._loss(outputs, targets.to(self.device) if isinstance(targets, Tensor) else targets)
            if value.dim() or not value.requires_grad:
                fault = f"has shape {tuple(value.shape)}" if value.dim() else "depends on no weight and no input"
                raise UserError(f"the loss {fault}; allowed: a scalar that depends on the model")
            self._note_custom_gradients(value)
            self.model.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            for name, weights in self.weights.items():
                found = [weight.grad for weight in weights if weight.grad is not None]
                if found:
                    self.gradients.setdefault(name, []).append(_norm(found))

    def heads(self) -> list[str]:
        """List layers whose weights are all 0 and so keep the gradient from every other layer."""
        zero = [name for name in self.gradients if not _norm(self.weights[name])]
        blocked = not any(any(sizes) for name, sizes in self.gradients.items() if name not in zero)
        return [name for name in zero if blocked and any(self.gradients[name])]

    def result(self) -> Measurement:
        """Summarise the minibatches."""
        detached = self._drop_unused()
        rows = [
            {"name": name or ROOT, "call": call, "type": self._type(name)} | seen.row()
            for (name, call), seen in self.calls.items()
        ]
        table = pd.DataFrame(rows)
        table["forward"] = table.activation.shift(-1) / table.activation
        table["backward"] = table.gradient / table.gradient.shift(-1)
        ratios = {
            name or ROOT: float(np.mean(each)) / _scale(self.weights[name]) for name, each in self.gradients.items()
        }
        table["weight_gradient"] = table.name.map(ratios).astype(float)
        self._note_limits(table)
        return Measurement(
            table=table[list(COLUMNS)],
            steps={name: _aligned(each) for name, each in self.steps.items()},
            detached=detached,
            zero_weights=self._zero(),
            examples=self.total,
            normalised=3 * sum(isinstance(self.modules[name], NORMALISATIONS) for name in self.weights)
            >= len(self.weights),
            bounded=any(isinstance(module, nn.Sigmoid | nn.Tanh) for module in self.modules.values()),
            limits=[f"{text}: {some(list(names))}" if names else text for text, names in self.limits.items()],
        )

    def _hooked(self, names: Iterable[str], hook: Callable[..., None], inputs: Any) -> Any:
        """Run the model with a hook before these modules."""
        with ExitStack() as hooks:
            for name in names:
                before = self.modules[name].register_forward_pre_hook(partial(hook, name), with_kwargs=True)
                hooks.enter_context(before)
            return _run(self.model, _fresh(inputs, self.device))

    def _find_layers(self) -> None:
        """Give each weight matrix to its module, or if that is never called, to the nearest one around it that is."""
        called: dict[str, None] = {}
        with torch.no_grad():
            self._hooked(self.modules, lambda name, *_: called.setdefault(name), self.batches[0][0])
        for name, module in self.modules.items():
            weights, owner = _matrices(module), name
            while owner and (owner not in called or isinstance(self.modules[owner], ParametrizationList)):
                owner = owner.rpartition(".")[0]
            if weights or (owner == name and isinstance(module, NORMALISATIONS)):
                self.weights.setdefault(owner, []).extend(weight for weight in weights if weight.requires_grad)
            if any(not weight.requires_grad for weight in weights):
                self.limit("frozen weights, whose gradient is not measured", [name])
        if not any(self.weights.values()):
            raise UserError("the model has no layer with a trainable weight matrix")

    def _count_examples(self, inputs: Any, targets: Any) -> None:
        """Find out how many examples a minibatch has, and in which dimension of the inputs they lie."""
        first = next(_tensors(inputs), None)
        if first is None:
            raise UserError("the inputs hold no tensor")
        first = first.unsqueeze(0) if first.dim() < 2 and first.is_floating_point() else first
        self.examples, self.axis = (len(first) if first.dim() else 1), 0
        labels = len(targets) if isinstance(targets, Tensor) and targets.dim() else self.examples
        if labels != self.examples and first.dim() > 1 and first.shape[1] == labels:
            self.examples, self.axis = labels, 1  # time first
        if self.examples == 1:
            self.limit("one example a minibatch, so that dependence on the example is not judged")

    def _before(self, counts: Counter[str], name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Measure the input of a layer that is about to be called."""
        counts[name] += 1
        call = self.calls.setdefault((name, counts[name]), _Call())
        values = [args, kwargs]
        if isinstance(module, nn.RNNCellBase):  # the state, or the input where there is none yet
            values = [args[1:], kwargs.get("hx"), args]
        x = next((tensor for tensor in _tensors(values) if tensor.is_floating_point()), None)
        if x is None:
            self.limit("integer inputs, which have no scale", [name])
            return
        self._see(call, name, x, 1 if isinstance(module, CHANNELS_FIRST) else -1)
        if isinstance(module, nn.RNNBase) and not module.bidirectional and x.requires_grad and x.dim() == 3:
            time = 1 if module.batch_first else 0
            _watch(x, lambda gradient: self._see_steps(name, gradient.double().movedim(time, 0)))

    def _see(self, call: _Call, name: str, x: Tensor, units: int) -> None:
        if not call.see(x, self.examples, self.axis, units):
            self.limit("no batch dimension in the input, so that dependence on the example is not judged", [name])
        if x.requires_grad:
            _watch(x, partial(call.see_gradient, self.examples))

    def _see_steps(self, name: str, gradient: Tensor) -> None:
        self.steps.setdefault(name, []).append(gradient.flatten(1).norm(dim=1).cpu().numpy())

    def _loss(self, outputs: Any, targets: Any) -> Tensor:
        """Measure the output, and return the loss."""
        several = [tensor for tensor in _tensors(outputs) if tensor.is_floating_point()]
        if not several:
            raise UserError(f"the model returns a {type(outputs).__name__} without a floating-point tensor")
        named = outputs if isinstance(outputs, Mapping) else {}
        output: Tensor = named.get("logits", several[0])
        if len(several) > 1:
            self.limit("the model returns several tensors; only the logits, or else the first, are measured")
        self._see(self.calls.setdefault((OUTPUT, 1), _Call()), OUTPUT, output, -1)
        if self.loss:
            return self.loss(outputs, targets)
        given: Any = named.get("loss") if output.dim() else output
        if isinstance(given, Tensor):
            return given
        if targets is None:
            self.limit("no targets: the loss is a random projection of the output")
            drawn = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            return (output * drawn.to(output)).sum() / math.sqrt(output.numel() * self.examples)
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            raise UserError("targets that are not classes need a loss, such as torch.nn.functional.mse_loss")
        if output.shape[:-1] == targets.shape:  # a sequence: classes last
            output, targets = output.flatten(0, -2), targets.flatten()
        return functional.cross_entropy(output, targets)

    def _note_custom_gradients(self, value: Tensor) -> None:
        """Name the custom functions in the graph: their gradient is whatever their author wrote."""
        waiting: list[Any] = [value.grad_fn]
        seen = set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if isinstance(node, BackwardCFunction):
                name = type(node).__name__.removesuffix("Backward")
                self.limit("custom gradients, which need not be the derivative of what runs forward", [name])
            waiting.extend(before for before, _ in node.next_functions)

    def _drop_unused(self) -> list[str]:
        """Leave out layers that no gradient reaches; return those of them that are called."""
        silent = [name for name, weights in self.weights.items() if weights and name not in self.gradients]
        called = {name for name, _ in self.calls}
        own = {name for name in silent if name in called and _matrices(self.modules[name])}
        spare = [name for name, module in self.modules.items() if _matrices(module) and not self._reached(name)]
        if unused := [name for name in spare if name not in own]:
            self.limit("weights that the forward pass does not use", unused)
        self.calls = {key: call for key, call in self.calls.items() if key[0] not in silent or key[0] in own}
        return [name for name in self.weights if name in own]

    def _reached(self, name: str) -> bool:
        weights = _matrices(self.modules[name])
        return any(weight.grad is not None or not weight.requires_grad for weight in weights)

    def _zero(self) -> list[str]:
        """List layers whose matrices, or scale of a normalisation, are all 0."""
        scales = ((name, getattr(self.modules[name], "weight", None)) for name in self.weights)
        held: dict[str, Sequence[Tensor]] = {
            name: self.weights[name] or ([scale] if isinstance(scale, Tensor) else []) for name, scale in scales
        }
        return [name for name, weights in held.items() if weights and not _norm(weights)]

    def _type(self, name: str) -> str:
        return type(self.modules[name]).__name__ if name in self.modules else ""

    def _note_limits(self, table: pd.DataFrame) -> None:
        if again := list(dict.fromkeys(table.name[table.call > 1])):
            self.limit("called more than once: a row for each call, and one gradient for the weights", again)
        if (table.example_share.dropna()[:1] == 0).any():
            self.limit("all examples of a minibatch are alike, so that dependence on the example is not judged")
        if fused := [name for name in self.weights if isinstance(self.modules[name], nn.RNNBase)]:
            self.limit("runs over time by itself: its states are not seen, only the gradient at its inputs", fused)
        if uneven := [name for name, each in self.steps.items() if len(set(map(len, each))) > 1]:
            self.limit(
                "sequences of different lengths: aligned at the last step; only the longest have the first", uneven
            )
        seen = {(name, len(call.squares)) for (name, _), call in self.calls.items()}
        if uneven := sorted(name for name, differing in Counter(name for name, _ in seen).items() if differing > 1):
            self.limit("called more often in some minibatches: calls are counted from the first one", uneven)
        if (zero := self._zero()) and (table.weight_gradient == 0).any():
            self.limit("weights that are all 0 keep the gradient from layers, which are not judged", zero)


def some(names: list[str], most: int = 4) -> str:
    """List names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _aligned(each: list[np.ndarray]) -> np.ndarray:
    """Average sequences (steps,) from the last step back, each step over those that are long enough."""
    back = range(max(map(len, each)), 0, -1)
    return np.array([np.mean([sizes[-step] for sizes in each if len(sizes) >= step]) for step in back])


def _scale(weights: list[nn.Parameter]) -> float:
    """Return the norm of weights, or that of weights of variance 1 / fan-in where it is larger."""
    return max(_norm(weights), math.sqrt(sum(len(weight) for weight in weights)))


def _watch(tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
    tensor.register_hook(hook)  # type: ignore[no-untyped-call]


def _norm(tensors: Iterable[Tensor]) -> float:
    """Return the L2 norm of tensors together; infinite where one of them is not finite."""
    dense = (tensor.detach().to_dense().double() for tensor in tensors)
    return _finite(math.sqrt(sum(float(tensor.square().sum()) for tensor in dense)))
