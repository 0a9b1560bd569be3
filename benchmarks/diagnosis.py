"""Diagnose networks of which is known whether they train, and count false alarms and misses.

What is expected is known from elsewhere, in the column `because`: it is not what the diagnosis says. A network that
trains must be called healthy; for one that does not, a finding of the expected kind must be among those made. A network
that begins as another one, and differs in its training alone, has a row and is not counted. Weights are drawn with seed
0; networks of torchvision have no pretrained weights, so that nothing is downloaded. Images are those of CIFAR-100,
enlarged where a network needs it, or noise with random labels where there are none of them.

    python benchmarks/diagnosis.py      # all, into results/diagnosis.csv and docs/diagnosis.md (ten minutes)
    python benchmarks/diagnosis.py --only resnet18 deep_sigmoid
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

import vanishing
from vanishing import config, paths
from vanishing.data import dataset
from vanishing.training import augmentation, checkpoints

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "results" / "diagnosis.csv"
PAGE = ROOT / "docs" / "diagnosis.md"
COLUMNS = ["group", "network", "expected", "said", "agrees", "findings", "span", "bits", "not_judged", "because"]
SEED = 0

SAME = {"vgg38_bn_lr2": "vgg38_bn", "vgg38_bn_rc_lr2": "vgg38_bn_rc"}
"""Runs that begin with the weights of another one."""

Built = tuple[nn.Module, Any]
HEALTHY = "healthy"


@dataclass(frozen=True)
class Case:
    """A network, what is known of it, and how to build it with its minibatches."""

    group: str
    name: str
    expected: str
    """healthy, or the kinds of finding of which one at least must be made, separated by |"""
    because: str
    build: Callable[[], Built]


def images(count: int, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Return a minibatch of normalised training images and their labels."""
    path, generator = ROOT / "data" / "cifar100.npz", torch.Generator().manual_seed(SEED)
    if not path.exists():
        return [(torch.randn(count, 3, size, size, generator=generator), torch.arange(count) % 100)]
    train = dataset.load(path).train
    chosen = torch.randperm(len(train.images), generator=generator)[:count]
    pictures = augmentation.normalise(torch.from_numpy(train.images)[chosen])
    labels = torch.from_numpy(train.labels)[chosen].long()
    return [(functional.interpolate(pictures, size=size, mode="bilinear", antialias=True), labels)]


def vision(name: str, size: int = 64, **options: Any) -> Case:
    """Return a network of torchvision, whose own initialisation is known to train."""
    known = "known to train on ImageNet; torchvision's own initialisation"
    build = lambda: (getattr(torchvision.models, name)(weights=None, **options), images(16, size))  # noqa: E731
    title = name + ("_zero_init" if "zero_init_residual" in options else "")
    return Case("torchvision", title, HEALTHY, known, build)


def core(run: str, expected: str, because: str, epoch: int = 0) -> Case:
    """Return a network of this study, at its initialisation or at a snapshot of seed 0."""

    def build() -> Built:
        model = vanishing.build_model(config.load(ROOT / "params.yaml").run(run), SEED)
        if epoch:
            checkpoints.load_weights(paths.snapshot(ROOT / "checkpoints" / run / "seed0", epoch), model)
        return model, images(32)

    return Case("this study", f"{run} epoch {epoch}" if epoch else run, expected, because, build)


def made(name: str, expected: str, because: str, build: Callable[[], Built]) -> Case:
    """Return a network made for this table."""
    return Case("made", name, expected, because, build)


def perceptron(depth: int, activation: Callable[[], nn.Module], scale: float, bias: bool = False) -> Built:
    """Build a plain perceptron 256 units wide, with normal weights of variance scale^2 / fan-in."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 3072
    for _ in range(depth):
        layers += [nn.Linear(inputs, 256, bias=bias), activation()]
        inputs = 256
    model = nn.Sequential(*layers, nn.Linear(inputs, 100, bias=bias))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=scale / math.sqrt(module.in_features))
    return model, images(32)


def orthogonal() -> Built:
    """Build a perceptron of 100 tanh layers with orthogonal weights."""
    model, batches = perceptron(100, nn.Tanh, 1.0)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
    return model, batches


def default_sigmoid() -> Built:
    """Build a perceptron of 12 sigmoid layers with PyTorch's default weights and biases."""
    widths = [3072, *[256] * 12]
    layers = [nn.Sequential(nn.Linear(a, b), nn.Sigmoid()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(256, 100)), images(64)


def dead() -> Built:
    """Build a perceptron whose third layer never gets above 0."""
    model, batches = perceptron(5, nn.ReLU, math.sqrt(2), bias=True)
    nn.init.constant_(model[5].bias, -100.0)
    return model, batches


class Unrolled(nn.Module):
    """A recurrent cell over 100 steps, read at the last."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.readout = cell, nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, features) to logits (batch, 10)."""
        state = x.new_zeros(len(x), 64)
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
        return self.readout(state)


class Fused(nn.Module):
    """The same with a layer of PyTorch, which runs over time by itself."""

    def __init__(self, layer: type[nn.RNNBase], forget: float | None = None) -> None:
        super().__init__()
        self.recurrent, self.readout = layer(8, 64, batch_first=True), nn.Linear(64, 10)
        if forget is not None:
            nn.init.constant_(self.recurrent.bias_ih_l0[64:128], forget)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, features) to logits (batch, 10)."""
        return self.readout(self.recurrent(x)[0][:, -1])


def sequences() -> list[tuple[Tensor, Tensor]]:
    """Return a minibatch of noise: 32 sequences of 100 steps and 8 features."""
    return [(torch.randn(32, 100, 8, generator=torch.Generator().manual_seed(SEED)), torch.arange(32) % 10)]


def orthogonal_cell(gain: float) -> Built:
    """Build an unrolled rectified RNN with recurrent weights `gain` times the identity (Le et al. 2015 for 1)."""
    cell = nn.RNNCell(8, 64, nonlinearity="relu")
    with torch.no_grad():
        cell.weight_hh.copy_(gain * torch.eye(64))
        cell.bias_hh.zero_()
        cell.bias_ih.zero_()
    return Unrolled(cell), sequences()


class Block(nn.Module):
    """A transformer block, with or without layer normalisation."""

    def __init__(self, width: int, normalised: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm1, self.norm2 = (nn.LayerNorm(width) if normalised else nn.Identity() for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, width) to the same shape."""
        normalised = self.norm1(x)
        x = x + self.attention(normalised, normalised, normalised, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def transformer(normalised: bool, std: float, blocks: int = 12) -> Built:
    """Build a language model of 64 tokens, with normal weights of a standard deviation."""
    model = nn.Sequential(
        nn.Embedding(100, 64), *(Block(64, normalised) for _ in range(blocks)),
        nn.LayerNorm(64) if normalised else nn.Identity(), nn.Linear(64, 100),
    )  # fmt: skip
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=std)
    tokens = torch.randint(100, (32, 33), generator=torch.Generator().manual_seed(SEED))
    return model, [(tokens[:, :-1], tokens[:, 1:])]


class Residual(nn.Module):
    """Residual blocks of two rectified layers with He's initialisation, without normalisation."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.entry = nn.Linear(3072, 256)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)) for _ in range(blocks)
        )
        self.classifier = nn.Linear(256, 100)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = self.entry(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.classifier(x)


class Detached(nn.Module):
    """Two branches, one of which is cut off from the gradient by mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.classifier = nn.Linear(3072, 64), nn.Linear(3072, 64), nn.Linear(64, 100)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = x.flatten(1)
        return self.classifier(torch.relu(self.left(x)) + torch.relu(self.right(x)).detach())


PLAIN = "stays at chance in all published reports, and by the theory of this study"
PUBLISHED = "learns in the published reports"
HE = "He et al. 2015: plain networks of 30 layers train from it"

CASES = [
    *(vision(name) for name in (
        "resnet18", "resnet50", "vgg11", "vgg16", "vgg16_bn", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small",
        "shufflenet_v2_x1_0", "mnasnet1_0", "regnet_y_400mf", "efficientnet_b0", "densenet121", "convnext_tiny",
        "swin_t", "swin_v2_t",
    )),
    vision("alexnet", 96), vision("inception_v3", 96, init_weights=True),
    vision("googlenet", init_weights=True), vision("vit_b_16", image_size=64),
    vision("resnet18", zero_init_residual=True),
    core("vgg08", HEALTHY, "learns in the published reports and here (55 % of training images)"),
    core("vgg38", "lost|vanishing", PLAIN),
    core("vgg38_bn", HEALTHY, PUBLISHED), core("vgg38_rc", HEALTHY, PUBLISHED),
    core("vgg38_bn_rc", HEALTHY, PUBLISHED), core("vgg38_bn_lr2", HEALTHY, PUBLISHED),
    core("vgg38_bn_rc_lr2", HEALTHY, PUBLISHED), core("vgg38_resnet", HEALTHY, PUBLISHED),
    core("vgg38_he", HEALTHY, HE),
    core("vgg38_orthogonal", HEALTHY, "Xiao et al. 2018: orthogonal kernels at the critical gain train plain networks"),
    core("vgg08", HEALTHY, "trained here", epoch=100),
    core("vgg38_short", "lost|vanishing", "at chance after these 15 epochs", epoch=15),
    core("vgg38_bn_rc_short", HEALTHY, "trained here", epoch=15),
    made("he_30", HEALTHY, HE, lambda: perceptron(30, nn.ReLU, math.sqrt(2))),
    made("tanh_100_orthogonal", HEALTHY, "Saxe et al. 2014, Xiao et al. 2018", orthogonal),
    made("transformer", HEALTHY, "GPT-2's blocks and weights (normal, 0.02)", lambda: transformer(True, 0.02)),
    made("identity_rnn", HEALTHY, "Le et al. 2015: over hundreds of steps", lambda: orthogonal_cell(1.0)),
    made("lstm_open", HEALTHY, "forget bias of 5: Gers et al. 2000, Tallec & Ollivier 2018",
         lambda: (Fused(nn.LSTM, 5.0), sequences())),
    made("sigmoid_12", "lost|vanishing", "Glorot & Bengio 2010, and a derivative of 1/4 at most", default_sigmoid),
    made("small_20", "vanishing", "0.07^20 by construction", lambda: perceptron(20, nn.ReLU, 0.1)),
    made("large_20", "exploding|non-finite", "7^20 by construction", lambda: perceptron(20, nn.ReLU, 10.0)),
    made("chaotic_tanh_50", "exploding", "Schoenholz et al. 2017: chaotic phase", lambda: perceptron(50, nn.Tanh, 4.0)),
    made("dead", "dead", "biases of -100 by construction", dead),
    made("rnn_unrolled", "vanishing", "Pascanu et al. 2013", lambda: (Unrolled(nn.RNNCell(8, 64)), sequences())),
    made("rnn_fused", "vanishing", "Pascanu et al. 2013", lambda: (Fused(nn.RNN), sequences())),
    made("lstm", "vanishing", "Jozefowicz et al. 2015: forget gates begin half open",
         lambda: (Fused(nn.LSTM), sequences())),
    made("rnn_exploding", "exploding", "1.2^100 by construction", lambda: orthogonal_cell(1.2)),
    made("residual_50", "exploding", "2^50 in variance: Zhang et al. 2019", lambda: (Residual(50), images(64))),
    made("transformer_large", "exploding|non-finite", "weights of 0.5 without layer normalisation",
         lambda: transformer(False, 0.5)),
    made("detached", "detached", "by construction", lambda: (Detached(), images(64))),
]  # fmt: skip


def main() -> None:
    """Diagnose the chosen networks, print the table and its counts, and write it if all were chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="print these alone, with all that is found")
    options = parser.parse_args()
    rows = [judged(case, bool(options.only)) for case in CASES if not options.only or case.name in options.only]
    table = pd.DataFrame(rows)[COLUMNS]
    print(table[["network", "expected", "said", "agrees", "span", "bits"]].to_string(index=False))
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}: {counts(table)}")
    if not options.only:
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        table.assign(**versions).to_csv(TABLE, index=False, float_format="%.3g")
        document(table)


def judged(case: Case, told: bool) -> dict[str, Any]:
    """Return the row of a network."""
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model, batches = case.build()
    found = vanishing.diagnose(model, batches)
    said = "|".join(dict.fromkeys(finding.kind for finding in found.findings)) or HEALTHY
    print(f"{case.name}: {said} ({time.perf_counter() - started:.0f} s)", flush=True)
    if told:
        print(found)
    return {
        "group": case.group, "network": case.name, "expected": case.expected, "said": said,
        "agrees": bool(set(said.split("|")) & set(case.expected.split("|"))),
        "findings": found.verdict if found.findings else "", "span": found.span, "bits": found.table.bits.min(),
        "not_judged": "; ".join(found.limits), "because": case.because,
    }  # fmt: skip


def document(table: pd.DataFrame) -> None:
    """Write the verdicts into the page of the diagnosis."""
    rows = ["| network | | expected | said | span |", "|---|---|---|---|---|"]
    for row in table.itertuples():
        said = " and ".join(row.said.split("|")) if row.agrees else f"**{row.said.replace('|', ' and ')}**"
        expected = " or ".join(row.expected.split("|"))
        span = f"{row.span:.2g}" if math.isfinite(row.span) else ""
        rows.append(f"| `{row.network}` | {row.group} | {expected} | {said} | {span} |")
    versions = f"PyTorch {torch.__version__.partition('+')[0]}, torchvision {torchvision.__version__.partition('+')[0]}"
    text = f"{counts(table).capitalize()} ({versions}).\n\n" + "\n".join(rows)
    begin, end = "<!-- verdicts: made by benchmarks/diagnosis.py -->", "<!-- end of verdicts -->"
    before, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def counts(table: pd.DataFrame) -> str:
    """Count false alarms and misses among networks that differ."""
    distinct = table[~table.network.isin(SAME)]
    healthy = distinct.expected == HEALTHY
    alarms, misses = (~distinct.agrees & healthy).sum(), (~distinct.agrees & ~healthy).sum()
    return (
        f"false alarms: {alarms} of {healthy.sum()} networks that train; misses: {misses} of {(~healthy).sum()} others"
    )


if __name__ == "__main__":
    main()
