"""The diagnosis of networks of any kind."""

import copy
import json
import math
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

import examples
import vanishing
from vanishing import cli, config
from vanishing.analysis import diagnosis, probe
from vanishing.errors import UserError


def seeded(count, *shape):
    """Draw `count` examples and labels of ten classes."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(count, *shape, generator=generator), torch.arange(count) % 10)]


def linear(*factors):
    """Build a chain of layers that each multiply by a number."""
    chain = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in factors))
    for layer, factor in zip(chain, factors, strict=True):
        nn.init.constant_(layer.weight, factor)
    return chain


def perceptron(depth, activation=nn.ReLU, gain=2**0.5, bias=False):
    """Build a perceptron 32 units wide, its weights normal and of variance gain^2 / 32."""
    layers = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(depth):
            layers += [nn.Linear(32, 32, bias=bias), activation()]
        model = nn.Sequential(*layers, nn.Linear(32, 10, bias=bias))
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=gain / math.sqrt(32))
    return model


def kinds(model, batches=None, loss=None):
    """Diagnose a network and return the kind and direction of each finding."""
    found = vanishing.diagnose(model, batches or seeded(64, 32), loss)
    return [(finding.kind, finding.direction) for finding in found.findings]


def mean(outputs, _):
    return outputs.mean()


def test_the_factors_of_a_linear_chain_are_its_weights():
    x = torch.tensor([[1.0], [-1.0], [3.0], [1.0]])
    found = vanishing.diagnose(linear(2, -3, 0.5), [(x, None)], mean)
    table = found.table
    assert table.columns.tolist() == list(probe.COLUMNS)
    assert table["name"].tolist() == ["0", "1", "2", "(output)"]
    size = math.sqrt(3)  # of x, whose mean is 1 and whose mean square around it is 2
    assert table.activation.tolist() == pytest.approx([size, 2 * size, 6 * size, 3 * size])
    assert table.forward[:3].tolist() == pytest.approx([2, 3, 0.5])
    assert table.gradient.tolist() == pytest.approx([3, 1.5, 0.5, 1])
    assert table.backward[:3].tolist() == pytest.approx([2, 3, 0.5])
    assert table.weight_gradient[:3].tolist() == pytest.approx(
        [1.5 / 2, 1 / 3, 6]
    )  # mean of dL/dy * x, over 2, 3, and 1 for the last
    assert table.example_share.tolist() == pytest.approx([math.sqrt(2 / 3)] * 4)
    assert table.bits.tolist() == pytest.approx([23 + math.log2(2 / 3) / 2] * 4)
    assert table.loc[3, ["forward", "backward", "weight_gradient"]].isna().all()


def test_the_gradient_is_that_of_an_example_and_does_not_depend_on_their_number():
    (x, y), model = seeded(40, 32)[0], perceptron(2)
    whole, halves = (
        vanishing.diagnose(model, batches).table for batches in ([(x, y)], [(x[:20], y[:20]), (x[20:], y[20:])])
    )
    assert whole.gradient.tolist() == pytest.approx(halves.gradient.tolist(), rel=1e-5)
    assert whole.activation.tolist() == pytest.approx(halves.activation.tolist(), rel=1e-5)


def test_tiny_signals_are_summed_in_double_precision():
    found = vanishing.diagnose(linear(1e-30, 1), [(torch.tensor([[1.0], [2.0]]), None)], mean)
    assert found.table.activation[1] == pytest.approx(1e-30 * math.sqrt(2.5))


def test_zeros_and_dead_units_are_counted_behind_the_activation():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 1.0, -1.0])))
    x = torch.tensor([[1.0, 2.0, -1.0, 1.0], [2.0, -1.0, -3.0, 5.0]])  # leaves 1 2 0 0 and 2 0 0 0
    table = vanishing.diagnose(model, [(x, None)], mean).table
    assert table.zeros.tolist() == [0, 5 / 8, 0]
    assert table.dead.tolist() == [0, 2 / 4, 0]


def test_a_channel_is_a_unit_of_a_convolution_and_a_feature_one_of_other_layers():
    images = torch.zeros(2, 3, 2, 2)
    images[:, 0] = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0))
    assert vanishing.diagnose(nn.Conv2d(3, 1, 1), [(images, None)], mean).table.dead[0] == pytest.approx(2 / 3)
    assert vanishing.diagnose(nn.Linear(2, 1), [(images, None)], mean).table.dead[0] == 0


def test_normalisations_are_layers_without_a_gradient_of_their_own():
    model = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    table = vanishing.diagnose(model.eval(), seeded(64, 32)).table
    assert table.type.tolist() == ["Linear", "BatchNorm1d", "Linear", ""]
    assert table.weight_gradient.isna().tolist() == [False, True, False, True]
    assert table.activation[2] == pytest.approx(1, rel=1e-3)  # the statistics are those of the minibatch


def test_the_model_is_left_untouched():
    model = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 10))
    model[3].eval()
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    (x, y), kept = seeded(64, 32)[0], seeded(64, 32)[0][0]
    with torch.no_grad():
        first = vanishing.diagnose(model, [(x, y)])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert model[0].weight.grad.unique().tolist() == [7.0]
    assert model[3].weight.grad is None
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(x, kept)
    assert not x.requires_grad
    pd.testing.assert_frame_equal(first.table, vanishing.diagnose(model, [(x, y)]).table)


def test_what_dropout_draws_is_no_signal():
    found = vanishing.diagnose(nn.Sequential(nn.Dropout(), nn.Linear(2, 1)), torch.ones(8, 2))
    assert found.table.example_share.tolist() == [0, 0]
    assert found.limits[-1] == "all examples of a minibatch are alike, so that dependence on the example is not judged"


HEALTHY = {
    "he": lambda: perceptron(20),
    "layer_norm": lambda: nn.Sequential(
        *(nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.GELU()) for _ in range(20)), nn.Linear(32, 10)
    ),
    "large_inputs_of_a_norm": lambda: nn.Sequential(Scale(1e6), nn.BatchNorm1d(32), nn.Linear(32, 10)),
    "one_layer": lambda: nn.Linear(32, 10),
    "branches_of_almost_nothing": lambda: Branches(1e-6),
    "branches_of_nothing": lambda: Branches(0.0),
}  # fmt: skip

ILL = {
    "sigmoid": (lambda: perceptron(20, nn.Sigmoid, 1, bias=True), [("lost", "forward"), ("vanishing", "backward")]),
    "too_small": (lambda: perceptron(20, gain=0.1), [("vanishing", "forward")]),
    "too_large": (lambda: perceptron(20, gain=10), [("exploding", "forward")]),
    "chaotic": (lambda: perceptron(50, nn.Tanh, 4), [("exploding", "backward")]),
    "overflow": (lambda: perceptron(20, gain=1e3), [("non-finite", "forward")]),
    "dead": (lambda: with_bias(perceptron(4, bias=True), 4, -100), [("dead", "forward")]),
    "noise_amplified": (
        lambda: nn.Sequential(perceptron(20, nn.Sigmoid, 1, bias=True), nn.BatchNorm1d(10), nn.Linear(10, 10)),
        [("lost", "forward"), ("vanishing", "backward")],
    ),
    "detached": (lambda: nn.Sequential(Detached()), [("detached", "backward")]),
}  # fmt: skip


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class Branches(nn.Module):
    """Residual blocks whose branches begin with a factor: the layer scale of ConvNeXt, and the zeros of Fixup."""

    def __init__(self, factor):
        super().__init__()
        self.entry, self.head = nn.Linear(32, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList(perceptron(1) for _ in range(4))
        for block in self.blocks:
            block[2] = nn.Linear(32, 32)
            nn.init.constant_(block[2].bias, 0)
            block[2].weight.data.mul_(factor)

    def forward(self, x):
        x = self.entry(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(32, 8), nn.Linear(32, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.left(x) + self.right(x).detach())


def with_bias(model, layer, value):
    nn.init.constant_(model[layer].bias, value)
    return model


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_are_called_healthy(name):
    found = vanishing.diagnose(HEALTHY[name](), seeded(64, 32))
    assert found.healthy, found.verdict
    assert found.verdict.startswith("Healthy at these weights. ")


@pytest.mark.parametrize("name", ILL)
def test_ill_networks_are_told_what_ails_them(name):
    build, expected = ILL[name]
    assert kinds(build()) == expected


def test_the_plain_network_of_this_study_is_ill_and_its_cures_are_healthy(tiny):
    from vanishing.training import models

    batches = [(torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3)]
    cures = [{}, {"norm": "batch"}, {"shortcut": "identity"}, {"initialisation": "he"}]
    built = (models.build(tiny(model={"blocks": 9, **cure}).model, 3, seed=0) for cure in cures)
    plain, *cured = (vanishing.diagnose(model, batches) for model in built)
    assert {finding.kind for finding in plain.findings} == {"lost", "vanishing"}
    vanishing_ = next(finding for finding in plain.findings if finding.kind == "vanishing")
    assert vanishing_.first == "entry.conv"
    assert vanishing_.factor < 1e-6
    assert diagnosis.NORMALISATION in vanishing_.advice  # the entry's own normalisation is not enough
    assert [found.healthy for found in cured] == [True] * 3


class Unrolled(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(16, 10)

    def forward(self, x):
        state = torch.zeros(len(x), 16)
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
        return self.head(state)


def cell(gain):
    made = nn.RNNCell(4, 16, nonlinearity="relu")
    nn.init.zeros_(made.bias_hh)
    nn.init.zeros_(made.bias_ih)
    made.weight_hh.data.copy_(gain * torch.eye(16))
    return made


def test_a_recurrent_network_is_judged_through_time():
    (sequences, labels), steps = seeded(32, 60, 4)[0], 60
    small, right, large = (vanishing.diagnose(Unrolled(cell(gain)), [(sequences, labels)]) for gain in (0.5, 1.0, 1.5))
    assert [(finding.kind, finding.direction) for finding in small.findings] == [("vanishing", "through time")]
    assert right.healthy
    assert ("exploding", "through time") in [(finding.kind, finding.direction) for finding in large.findings]
    calls = small.table[small.table["name"] == "cell"]
    assert calls.call.tolist() == list(range(1, steps + 1))
    assert any(line.startswith("called more than once") and line.endswith(": cell") for line in small.limits)


def test_a_layer_that_runs_over_time_is_judged_by_the_gradient_at_its_inputs():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(4, 16, batch_first=True), nn.Linear(16, 10)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Fused()
    found = vanishing.diagnose(model, seeded(32, 60, 4))
    assert [(finding.kind, finding.direction) for finding in found.findings] == [("vanishing", "through time")]
    assert found.measurement.steps["rnn"].shape == (60,)
    assert any("states are not seen" in line for line in found.limits)


def test_sequences_of_different_lengths_are_aligned_at_their_last_step():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 10)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Fused()
    short, long = seeded(16, 10, 4)[0], seeded(16, 12, 4)[0]
    both, *alone = (vanishing.diagnose(model, batches) for batches in ([short, long], [short], [long]))
    steps, of_short, of_long = (found.measurement.steps["lstm"] for found in (both, *alone))
    assert steps.shape == (12,)
    assert steps[:2].tolist() == pytest.approx(of_long[:2].tolist())
    assert steps[2:].tolist() == pytest.approx(((of_short + of_long[2:]) / 2).tolist())
    line = "sequences of different lengths: aligned at the last step; only the longest have the first: lstm"
    assert [line in found.limits for found in (both, *alone)] == [True, False, False]


def test_a_cell_that_some_minibatches_call_more_often_is_named():
    limits = vanishing.diagnose(Unrolled(cell(1.0)), [*seeded(8, 5, 4), *seeded(8, 7, 4)]).limits
    assert "called more often in some minibatches: calls are counted from the first one: cell" in limits


def test_a_transformer_of_tokens_is_judged_with_its_attention_as_a_layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        model = nn.Sequential(
            nn.Embedding(20, 16), nn.TransformerEncoder(block, 3, enable_nested_tensor=False), nn.Linear(16, 20)
        )
    tokens = torch.randint(20, (32, 9), generator=torch.Generator().manual_seed(0))
    found = vanishing.diagnose(model, [(tokens[:, :-1], tokens[:, 1:])])
    assert found.healthy, found.verdict
    attention = found.table[found.table.type == "MultiheadAttention"]
    assert attention["name"].tolist() == [f"1.layers.{at}.self_attn" for at in range(3)]
    assert (attention.weight_gradient > 0).all()
    assert "integer inputs, which have no scale: 0" in found.limits
    assert found.table.activation.isna().tolist() == [True] + [False] * (len(found.table) - 1)


def test_a_head_of_zeros_is_measured_with_random_weights():
    model = perceptron(3)
    nn.init.zeros_(model[6].weight)
    found = vanishing.diagnose(model, seeded(64, 32))
    assert found.healthy, found.verdict
    assert (found.table.weight_gradient[:-1] > 0).all()
    assert found.limits == ["weights that are all 0 pass no gradient; measured with random ones instead: 6"]
    assert not model[6].weight.any()


class Strange(nn.Module):
    """Two outputs, a frozen and an unused layer, a custom gradient, and a table of positions without examples."""

    def __init__(self):
        super().__init__()
        self.first, self.spare, self.positions, self.head = (nn.Linear(8, 8) for _ in range(4))
        self.first.weight.requires_grad_(False)

    def forward(self, x):
        place = self.positions(torch.ones(3, 8)).sum(dim=0)
        x = Doubled.apply(self.first(x) + place)
        return self.head(x), x


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_what_cannot_be_judged_is_said():
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    assert vanishing.diagnose(Strange(), [x]).limits == [
        "frozen weights, whose gradient is not measured: first",
        "one example a minibatch, so that dependence on the example is not judged",
        "the model returns several tensors; only the logits, or else the first, are measured",
        "no targets: the loss is a random projection of the output",
        "custom gradients, which need not be the derivative of what runs forward: Doubled",
        "weights that the forward pass does not use: spare",
    ]
    two = vanishing.diagnose(Strange(), [torch.cat([x, -x])])
    assert "no batch dimension in the input, so that dependence on the example is not judged: positions" in two.limits


def test_examples_in_the_second_dimension_are_found_by_the_targets():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 10)

        def forward(self, x):
            return self.head(self.inner(x).mean(dim=0))

    x = torch.zeros(5, 32, 4) + torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    table = vanishing.diagnose(TimeFirst(), [(x, torch.arange(32) % 10)]).table
    assert table.example_share[0] == pytest.approx(1, abs=0.05)  # all the same in the other dimension


def test_functions_in_place_and_keyword_arguments_are_no_obstacle():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 10)

        def forward(self, *, values):
            return {"logits": functional.relu_(self.head(values.mul_(2))), "loss": None}

    x = torch.ones(4, 8)
    table = vanishing.diagnose(InPlace(), [({"values": x}, torch.arange(4))]).table
    assert table.activation[0] == 2
    assert x.unique().tolist() == [1]


def test_weights_that_a_module_uses_without_calling_their_own_are_one_layer_with_it():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({"q": nn.Linear(8, 8), "k": nn.Linear(8, 8)})

        def forward(self, x):
            return functional.linear(functional.linear(x, self.parts["q"].weight), self.parts["k"].weight)

    table = vanishing.diagnose(nn.Sequential(Outer(), nn.Linear(8, 10)), seeded(16, 8)).table
    assert table["name"].tolist() == ["0", "1", "(output)"]
    assert table.weight_gradient[0] > 0


def test_at_most_eight_minibatches_are_read_of_a_loader_without_end():
    def endless():
        while True:
            yield from seeded(4, 32)

    assert vanishing.diagnose(perceptron(1), endless()).measurement.examples == 32


x, y = seeded(4, 32)[0]
WRONG = {
    r"a diagnosis needs at least one minibatch": (nn.Linear(32, 10), []),
    r"batches is a int; allowed: minibatches in a list, a loader, or one alone": (nn.Linear(32, 10), 3),
    r"a minibatch is a tuple; allowed: inputs, or a pair .*": (nn.Linear(32, 10), [(x, y, y)]),
    r"the inputs hold no tensor": (Scale(2.0), [(3, None)]),
    r"targets that are not classes need a loss, such as torch.nn.functional.mse_loss": (nn.Linear(32, 1), [(x, x)]),
    r"the model has no layer with a trainable weight matrix": (nn.ReLU(), [x]),
    r"weight is not initialised yet; run the lazy model once on a minibatch before": (nn.LazyLinear(10), [x]),
    r"a TorchScript module has no layers to measure; give the module that it was made of": (None, [x]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # TorchScript is on its way out
@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_measured_is_told_in_one_line(text):
    model, batches = WRONG[text]
    if text.startswith("the inputs hold"):
        model = nn.Sequential(nn.Linear(32, 10))
        batches = [({}, None)]
        model.forward = lambda: model[0](x)
    model = torch.jit.trace(nn.Linear(32, 10), x) if model is None else model
    with pytest.raises(UserError, match=rf"^{text}$"):
        vanishing.diagnose(model, batches)


def test_a_loss_that_depends_on_nothing_or_is_no_scalar_is_told():
    for loss, fault in (
        (lambda out, _: out, r"has shape \(4, 10\)"),
        (lambda out, _: out.detach().sum(), "depends on no weight and no input"),
    ):
        with pytest.raises(UserError, match=rf"^the loss {fault}; allowed: a scalar that depends on the model$"):
            vanishing.diagnose(nn.Linear(32, 10), [(x, y)], loss)


def test_the_text_shows_table_verdict_advice_and_limits():
    found = vanishing.diagnose(perceptron(20, nn.Sigmoid, 1, bias=True), [x])
    text = str(found)
    assert text.splitlines()[0].split() == [
        "layer",
        *" ".join(
            column.replace("_", " ") for column in probe.COLUMNS if column not in ("name", "call", "type")
        ).split(),
    ]
    assert re.search(r"^Verdict: The signal is lost: from layer \d+ on, all examples look the same", text, re.MULTILINE)
    assert "\n- Normalise after each convolution or linear layer. Measured: " in text
    assert "\n- no targets: the loss is a random projection of the output" in text
    assert max(map(len, text.split("\n\n", 1)[1].splitlines())) <= 100


def test_a_long_table_is_cut_in_the_text_alone():
    found = vanishing.diagnose(perceptron(60, nn.Tanh, 1), seeded(64, 32))
    table = str(found).split("\n\n")[0].splitlines()
    assert len(found.table) == 62
    assert len(table) == 1 + 40 + 1
    assert table[1].startswith("0 ")
    assert table[-2].startswith("(output)")
    assert table[-1] == "(22 more rows in .table)"


def test_the_page_of_a_notebook_escapes_names_and_holds_a_figure():
    model = nn.Sequential()
    model.add_module("<b>", nn.Linear(32, 10))
    page = vanishing.diagnose(model, [(x, y)])._repr_html_()
    assert "data:image/svg+xml;base64," in page
    assert "&lt;b&gt;" in page
    assert "<td><b>" not in page
    assert "Healthy at these weights" in page


@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_the_same_diagnosis_saves_the_same_bytes(kind, tmp_path):
    for name in ("a", "b"):
        vanishing.diagnose(perceptron(3), [(x, y)]).save(tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_another_format_of_a_figure_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"f\.gif: a figure ends in \.pdf, \.png, \.svg$"):
        vanishing.diagnose(nn.Linear(32, 10), [(x, y)]).save(tmp_path / "f.gif")


def test_the_evidence_is_what_the_study_has_measured():
    """The numbers in the texts, within what another seed may change, and the rule that reads them."""
    table = pd.read_csv(examples.ROOT / "results/comparison/initialisation.csv").set_index("network")
    texts = {name: diagnosis.__dict__[name].evidence for name in ("NORMALISATION", "SHORTCUT", "BOTH")}
    quoted = {name: [float(each) for each in re.findall(r"\d\.\d\d", text)] for name, text in texts.items()}
    plain, bn, rc, both = (f"vgg38{cure}_start" for cure in ("", "_bn", "_rc", "_bn_rc"))
    for name, networks in {"NORMALISATION": (plain, bn), "SHORTCUT": (plain, rc), "BOTH": (bn, both)}.items():
        measured = table.measured[list(networks)].tolist()
        assert quoted[name][:2] == pytest.approx(measured, rel=0.05), name
    assert quoted["NORMALISATION"][2:] == pytest.approx(table.predicted[[plain, bn]].tolist(), abs=0.005)
    assert quoted["SHORTCUT"][2] == table.predicted[rc]
    assert quoted["BOTH"][2:] == pytest.approx(table.predicted[[bn, both]].tolist(), abs=0.005)
    runs = (examples.ROOT / f"results/runs/{run}/seed0/summary.json" for run in ("vgg38_short", "vgg38_bn_rc_short"))
    accuracies = [json.loads(path.read_text())["test"]["accuracy"] for path in runs]
    assert quoted["SHORTCUT"][3:] == [round(accuracy, 2) for accuracy in accuracies]
    parameters = config.load(examples.ROOT / "params.yaml")
    assert f"Trained for {parameters.run('vgg38_short').train.epochs} epochs" in texts["SHORTCUT"]
    assert any(parameters.run(name).model.norm == "group" for name in parameters.studies["remedies"].runs)
    built = [parameters.run(name).model for name in parameters.runs]
    assert "relu" not in {model.activation for model in built}  # no study compares the leaky rectifier with another
    assert {model.norm for model in built} == {"none", "batch", "group"}  # no study has layer normalisation
    default = math.sqrt(torch.nn.Linear(600, 600).weight.var().item() * 600 / 2)
    quoted_default = re.search(r"(\d\.\d\d) for PyTorch's default", diagnosis.INITIALISATION.evidence)[1]
    assert float(quoted_default) == pytest.approx(default, abs=0.005)


def test_the_page_shows_the_committed_verdicts_and_counts_networks_that_differ():
    table = pd.read_csv(examples.ROOT / "results/diagnosis.csv")
    parameters = config.load(examples.ROOT / "params.yaml")
    built = table.network.map(lambda name: repr(parameters.run(name).model) if name in parameters.runs else name)
    page = (examples.ROOT / "docs/diagnosis.md").read_text()
    for row in table.itertuples():
        expected, said = (" or ".join(row.expected.split("|")), " and ".join(row.said.split("|")))
        assert f"| `{row.network}` | {row.group} | {expected} | {said} |" in page
        assert row.agrees == bool(set(row.expected.split("|")) & set(row.said.split("|")))
    assert table.agrees.all()
    distinct = table[~(built + table.group).duplicated()]
    well = (distinct.expected == "healthy").sum()
    assert f"False alarms: 0 of {well} networks that train; misses: 0 of {len(distinct) - well} others" in page
    assert f"its verdicts on {len(distinct)} networks" in (examples.ROOT / "README.md").read_text()


MODEL = """
import torch
from torch import nn

def build():
    return nn.Linear(4, 2), [(torch.ones(3, 4), torch.tensor([0, 1, 0]))]

def alone():
    return nn.Linear(4, 2)

def batches():
    return [torch.ones(3, 4)]

def nothing():
    return None

def broken():
    raise KeyError("weights")

class Wrong(nn.Linear):
    def forward(self, x):
        return super().forward(x[:, :1])

def wrong():
    return Wrong(4, 2), [torch.ones(3, 4)]

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("model.py").write_text(MODEL)
    Path("other.py").write_text("import missing_package\n")
    Path("bad.py").write_text("def build(:\n")
    return tmp_path


def test_the_command_needs_no_project(folder, capsys):
    assert cli.main(["diagnose", "model.py:build", "--output", "figure.svg"]) == 0
    assert "Verdict: Healthy" in capsys.readouterr().out
    assert Path("figure.svg").read_text().startswith("<?xml")
    assert cli.main(["diagnose", "model.py:alone", "--batches", "model.py:batches"]) == 0
    assert "random projection" in capsys.readouterr().out


def test_a_module_is_imported_as_python_m_does(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert cli.main(["diagnose", "model:build"]) == 0
    assert "Verdict: Healthy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("model.py", r"'model\.py' names no callable; allowed: MODULE:CALLABLE, such as model\.py:build"),
        ("nowhere.py:build", r"nowhere\.py: no such file"),
        ("nowhere:build", r"nowhere: no such module, and no such file"),
        ("model.py:missing", r"model\.py:missing: model\.py has no 'missing'"),
        ("model.py:number", r"model\.py:number: model\.py has a 'number' that cannot be called"),
        (
            "model.py:nothing",
            r"model\.py:nothing returns a NoneType; allowed: a torch\.nn\.Module, or \(model, batches\)",
        ),
        (
            "model.py:alone",
            r"model\.py:alone returns no minibatches; return \(model, batches\), or add --batches MODULE:CALLABLE",
        ),
        ("model.py:broken", r"model\.py:broken: .*model\.py:18: KeyError: 'weights'"),
        ("model.py:wrong", r"model\.py:wrong: .*model\.py:22: RuntimeError: .*mat1 and mat2 shapes.*"),
        ("other.py:build", r"other\.py:build: .*other\.py:1: ModuleNotFoundError: No module named 'missing_package'"),
        ("bad.py:build", r"bad\.py:build: .*bad\.py:1: SyntaxError: invalid syntax .*"),
    ],
)  # fmt: skip
def test_a_mistake_of_the_user_is_one_line(folder, capsys, named, said):
    assert cli.main(["diagnose", named]) == 1
    assert re.fullmatch(rf"vanishing diagnose: {said}\n", capsys.readouterr().err)
