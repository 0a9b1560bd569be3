import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

import examples
from vanishing import config
from vanishing.analysis.gradient_flow import fixed_batches
from vanishing.analysis.signal import COLUMNS, agreement, by_layer, gradient_correlation, measure, trace
from vanishing.analysis.snapshots import Snapshot
from vanishing.report.figures import looks
from vanishing.report.why.measured import Measured
from vanishing.report.why.signal import CAPTIONS, draw, numbers, tables
from vanishing.training import models


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def mean(outputs, _):
    return outputs.mean()


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    layer.weight.data = torch.tensor(weight)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer


def batch(*images):
    return torch.tensor(images), torch.zeros(len(images))


def test_a_linear_chain_by_hand():
    chain = nn.Sequential(linear([[2.0]]), linear([[0.5]]), linear([[3.0]]))
    table = by_layer(chain, [batch([1.0], [3.0])], mean)
    assert table["name"].tolist() == ["0", "1", "2"]
    # signals (2, 6), (1, 3), (3, 9)
    assert table.common_square.tolist() == [16, 4, 36]
    assert table.image_variance.tolist() == [4, 1, 9]
    assert table.forward_factor.tolist()[1:] == [0.5, 3]
    # the mean over two images gives each output the error 1/2
    assert table.error.tolist() == [0.75, 1.5, 0.5]
    assert table.backward_factor.tolist()[:2] == [0.5, 3]
    assert table.cosine_distance.tolist() == [0, 0, 0]
    assert table.negative.isna().all()
    assert math.isnan(table.forward_factor[0])
    assert math.isnan(table.backward_factor[2])


def test_a_signal_that_falls_below_1e_13_of_its_mean_is_still_measured():
    # rotations, scaled by 0.4 as a plain layer at PyTorch's default, with biases that all images share
    turn = [[0.4 * math.cos(1), -0.4 * math.sin(1)], [0.4 * math.sin(1), 0.4 * math.cos(1)]]
    layers = [linear(turn, [0.6, -0.2]) for _ in range(32)]
    table = by_layer(nn.Sequential(*layers), [batch([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0])], mean)
    scale = float(torch.tensor(turn).double().norm()) / math.sqrt(2)  # the weights are single precision
    assert table.image_variance.tolist()[0] == pytest.approx(scale**2 / 2, rel=1e-6)
    share = (table.image_variance / table.common_square).iloc[-1] ** 0.5
    assert share < 1e-12
    assert table.image_variance.iloc[-1] == pytest.approx(scale**64 / 2, rel=1e-3, abs=0)
    assert table.forward_factor.tolist()[1:30] == pytest.approx([scale] * 29, rel=1e-5)
    assert table.backward_factor.tolist()[:31] == pytest.approx([scale] * 31, rel=1e-6)


def test_a_rectified_gaussian_has_its_closed_form():
    count = 20_001
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    images = torch.special.ndtri(middles)[:, None]
    net = nn.Sequential(linear([[2.0], [-2.0]]), nn.ReLU(), linear([[3.0, 1.0]]), nn.ReLU())
    table = by_layer(net, [(images, images)], mean)
    # max(0, 2x): mean 2 / sqrt(2 pi), square 4 / 2; then 3 max(0, 2x) + max(0, -2x), which the rectifier keeps
    assert table.common_square.tolist() == pytest.approx([4 / (2 * math.pi), 64 / (2 * math.pi)], rel=1e-3)
    square = (9 * 4 + 4) / 2
    assert table.image_variance.tolist() == pytest.approx(
        [2 - 4 / (2 * math.pi), square - 64 / (2 * math.pi)], rel=1e-3
    )
    assert table.zeros.tolist() == pytest.approx([0.5, 0], abs=1e-4)
    assert table.negative.tolist() == pytest.approx([0.5, 0], abs=1e-4)
    assert table.one_sided.tolist() == [0, 1]


def test_the_cosine_of_two_images_behind_rectifiers_is_the_arc_cosine_kernel():
    # units in all directions alike: Cho & Saul 2009, eq. 6
    angles = torch.arange(3600, dtype=torch.float64) * 2 * math.pi / 3600
    layer = linear(torch.stack([angles.cos(), angles.sin()], 1).tolist())
    apart = 1.0
    images = torch.tensor([[1.0, 0.0], [3 * math.cos(apart), 3 * math.sin(apart)]], dtype=torch.float64)
    row = by_layer(nn.Sequential(layer, nn.ReLU()), [(images, images)], mean).iloc[0]
    kernel = (math.sin(apart) + (math.pi - apart) * math.cos(apart)) / math.pi
    assert row.cosine_distance == pytest.approx(1 - kernel, rel=1e-4)
    # a unit's mean is 1 / pi and its mean square 1/4
    assert row.centred_distance == pytest.approx((1 - kernel) / 4 / (1 / 4 - 1 / math.pi**2), rel=1e-4)


def test_distances_are_means_over_all_pairs():
    images = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0], [-2.0, 1.0, 1.0], [4.0, 1.0, 0.0]])
    row = by_layer(linear(torch.eye(3).tolist()), [(images, images)], mean).iloc[0]
    pairs = [(a, b) for at, a in enumerate(images) for b in images[at + 1 :]]
    cosines = [functional.cosine_similarity(a, b, dim=0).item() for a, b in pairs]
    centred = [functional.cosine_similarity(a - a.mean(), b - b.mean(), dim=0).item() for a, b in pairs]
    assert row.cosine_distance == pytest.approx(1 - sum(cosines) / 6, rel=1e-6)
    assert row.centred_distance == pytest.approx(1 - sum(centred) / 6, rel=1e-6)


def test_dead_units_by_hand():
    net = nn.Sequential(linear([[1.0], [0.0], [-1.0], [0.0]], [0.0, 5.0, -10.0, 0.0]), nn.ReLU())
    # before (-1, 2), (5, 5), (-9, -12), (0, 0); after (0, 2), (5, 5), (0, 0), (0, 0)
    row = by_layer(net, [batch([-1.0], [2.0])], mean).iloc[0]
    assert row.constant_units == 3 / 4
    assert row.zero_units == 2 / 4
    assert row.zeros == 5 / 8
    assert row.negative == 3 / 8
    assert row.one_sided == 3 / 4


def test_a_unit_is_constant_where_single_precision_rounds_its_variation_away():
    layer = linear([[2.0**-26], [2.0**-20]], [1.0, 1.0])
    assert by_layer(layer, [batch([0.0], [1.0])], mean).constant_units.tolist() == [1 / 2]


def test_signal_to_noise_by_hand():
    layer = linear([[5.0, 1.0]])
    first, second = batch([1.0, 0.0]), batch([3.0, 4.0])
    # gradients (1, 0) and (3, 4): mean (2, 2); variances 2 and 8, over two minibatches 5
    assert by_layer(layer, [first, second], mean).signal_to_noise.tolist() == [pytest.approx(math.sqrt(8 / 5))]
    assert by_layer(layer, [first], mean).signal_to_noise.isna().all()


def test_measures_are_means_over_the_minibatches():
    layer = linear([[1.0]])
    table = by_layer(layer, [batch([0.0], [2.0]), batch([3.0], [9.0])], mean)
    assert table.common_square.tolist() == [(1 + 36) / 2]
    assert table.image_variance.tolist() == [(1 + 9) / 2]


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.1, inplace=True),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 5, 3, bias=False),
            nn.Flatten(),
            nn.Linear(5, 3),
        )


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.randint(3, (6,), generator=generator)


def test_a_convolutional_net_has_the_signals_and_errors_of_plain_autograd(net, images):
    table = by_layer(net, [images]).set_index("name")
    assert table.index.tolist() == ["0", "4", "6"]
    assert table.width.tolist() == [6, 1, 1]
    double, (inputs, targets) = net.double().train(), images
    outputs = [double[0](inputs.double())]
    before = functional.batch_norm(outputs[0], None, None, training=True, eps=double[1].eps)
    signal = functional.leaky_relu(before, 0.1)
    outputs.append(double[4](functional.avg_pool2d(signal, 2)))
    outputs.append(double[6](outputs[1].flatten(1)))
    errors = torch.autograd.grad(functional.cross_entropy(outputs[2], targets), [before, *outputs[1:]])
    assert table.error.tolist() == pytest.approx([error.square().mean().sqrt().item() for error in errors])
    first = table.loc["0"]
    assert first.image_variance == pytest.approx(signal.var(0, unbiased=False).mean().item())
    assert first.common_square == pytest.approx(signal.mean(0).square().mean().item())
    assert first.negative == (before < 0).double().mean().item()
    assert table.image_variance.iloc[1] == pytest.approx(outputs[1].var(0, unbiased=False).mean().item())


def test_the_model_is_left_untouched(net, images):
    net.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    by_layer(net, [images])
    agreement(net, images[0], torch.bfloat16)
    gradient_correlation(net, images[0], [0.5], torch.ones(3))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == [False] * 8
    assert net[2].inplace
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_measures_are_the_same_each_time(net, images):
    pd.testing.assert_frame_equal(by_layer(net, [images]), by_layer(net, [images]), check_exact=True)


def test_each_layer_of_a_residual_network_is_traced_with_its_own_activation(tiny, images):
    model = models.build(tiny(model={"stages": 1, "blocks": 1, "shortcut": "identity"}).model, 3, seed=0)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    sites, _ = trace(model, images[0])
    blocks = [f"stage1.{block}.{conv}" for block in ("block1", "reduction") for conv in ("conv1", "conv2")]
    assert [site.name for site in sites] == ["entry.conv", *blocks, "classifier"]
    entry, _, block, *_ = sites
    # before its activation, the upper convolution of the block has received the block's input
    torch.testing.assert_close(block.after, functional.leaky_relu(block.before, models.SLOPE))
    branch = model.stage1.block1.conv2(sites[1].after)
    torch.testing.assert_close(block.before, branch + entry.after)


def test_a_layer_that_the_loss_does_not_depend_on_has_no_error(net, images):
    def constant(outputs, _):
        return (outputs * 0).sum()

    table = by_layer(net, [images, images], constant)
    assert table.error.tolist() == [0, 0, 0]
    assert table.backward_factor.isna().all()


def test_nothing_to_measure_is_an_error(net, images):
    message = r"^the signal needs at least one minibatch and one convolution or linear layer$"
    with pytest.raises(ValueError, match=message):
        by_layer(net, [])


@pytest.mark.parametrize(
    ("weight", "single", "brain"), [(1.0, 1, 1), (2.0**-7, 1, 1), (2.0**-11, 1, 0), (2.0**-27, 0, 0)]
)
def test_a_signal_survives_a_precision_whose_rounding_is_smaller(weight, single, brain):
    layer, images = linear([[weight]], [1.0]), torch.tensor([[-1.0], [0.0], [1.0]])
    assert agreement(layer, images, torch.float32) == [pytest.approx(single)]
    assert agreement(layer, images, torch.bfloat16) == [pytest.approx(brain, rel=0.2)]


def test_the_rounding_of_weights_is_not_counted():
    # bfloat16 rounds 1 + 2^-9 to 1; outputs of the rounded weights are 0, -2^-6 and 0, exactly
    layer, images = linear([[1 + 2.0**-9, -1.0]]), torch.tensor([[8.0, 8.0], [0.0, 2.0**-6], [0.0, 0.0]])
    assert agreement(layer, images, torch.bfloat16) == [pytest.approx(1)]


def test_gradients_of_a_linear_network_are_alike_however_small():
    images = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, 0.0]])
    net = nn.Sequential(linear([[1e-18, 2e-18]]), nn.BatchNorm1d(1, eps=1e-30), linear([[1e-20], [0.0]]))
    table = gradient_correlation(net, images, [0.25, 1.0], torch.tensor([1.0, 5.0]))
    assert table.distance.tolist() == [0.25, 1]
    assert table.gradient_cosine.tolist() == pytest.approx([1, 1])
    assert table.gradient_cosine_std.tolist() == pytest.approx([0, 0], abs=1e-12)


def test_gradients_of_an_absolute_value_by_hand():
    net = nn.Sequential(linear([[1.0], [-1.0]]), nn.ReLU(), linear([[1.0, 1.0], [0.0, 0.0]]))
    table = gradient_correlation(net, torch.tensor([[1.0], [-3.0]]), [0.125, 0.5, 1.0], torch.tensor([2.0, 1.0]))
    # the line from 1 passes 0 at a quarter of its way, the line back at three quarters
    assert table.gradient_cosine.tolist() == [1, 0, -1]
    assert table.gradient_cosine_std.tolist() == pytest.approx([0, math.sqrt(2), 0])


@pytest.fixture
def snapshot(tiny, dataset):
    run = tiny(model={"norm": "batch"})
    sizes = config.Gradients(recipe=2, batches=3, batch_size=6, seed=0)
    batches = fixed_batches(sizes, dataset.train, torch.device("cpu"))
    return Snapshot(models.build(run.model, 3, seed=0), 0, [0], Path(), run, batches)


def test_a_snapshot_has_its_layers_and_then_its_lines(snapshot):
    settings = config.Signal(
        recipe=1, runs=[], seeds=[0], snapshots=[0], batches=3, batch_size=6, seed=0, lines=4, distances=[0.5, 1.0]
    )
    table = measure(snapshot, settings)
    assert list(table.columns) == list(COLUMNS)
    layers, lines = table[table.kind == "layer"], table[table.kind == "line"]
    assert layers.layer.tolist() == [1, 2, 3, 4, 5, 6]
    assert lines.distance.tolist() == [0.5, 1]
    expected = by_layer(snapshot.model, snapshot.batches)
    pd.testing.assert_frame_equal(layers[expected.columns], expected, check_dtype=False)
    assert (layers.agreement_fp32 > 0.999999).all()
    assert ((layers.agreement_bf16 > 0.9) & (layers.agreement_bf16 < layers.agreement_fp32)).all()
    assert (lines.gradient_cosine.abs() <= 1).all()
    others = [name for name in COLUMNS if name not in {"kind", "distance", "gradient_cosine", "gradient_cosine_std"}]
    assert lines[others].isna().all(axis=None)


@pytest.fixture
def measured():
    """Return two trainings of a network of four layers, of which two are in processing blocks, and one of another."""
    settings = examples.study(runs=("vgg38_start", "vgg38", "vgg08"))
    names = ["entry.conv", "stage1.block1.conv1", "stage1.block1.conv2", "stage1.reduction.conv1", "classifier"]
    tables = []
    for run, epochs in (("vgg08", [0]), ("vgg38", [0, 5]), ("vgg38_start", [0, 1])):
        for epoch in epochs:
            layers = pd.DataFrame({"kind": "layer", "layer": range(1, 6), "name": names, "width": [32, 32, 32, 16, 1]})
            layers = layers.assign(
                common_square=1.0,
                image_variance=[1, 1e-2, 1e-6, 1e-12, 1e-16],
                error=[1.0, 2.0, 8.0, 8.0, 8.0],
                signal_to_noise=[1.0, 2.0, 3.0, 4.0, 50.0],
                one_sided=[0.5, 1.0, 0.98, 0.995, math.nan],
                **dict.fromkeys(("constant_units", "cosine_distance"), 0.5),
                agreement_fp32=[1.0, 1.0, 0.9, 0.6, 0.4],
                agreement_bf16=[1.0, 0.3, 0.9, 0.1, 0.0],
            )
            layers["forward_factor"] = (layers.image_variance / layers.image_variance.shift(1)) ** 0.5
            layers["backward_factor"] = layers.error / layers.error.shift(-1)
            lines = pd.DataFrame({"kind": "line", "distance": [0.5, 1.0], "gradient_cosine": [0.75, 0.25]})
            tables.append(pd.concat([layers, lines]).assign(run=run, seed=0, epoch=epoch))
    return Measured(pd.concat(tables, ignore_index=True), ["vgg08", "vgg38", "vgg38_start"], looks(settings), settings)


def test_values_that_the_report_quotes_by_hand(measured):
    values = {key: value for key, value, _ in numbers(measured)}
    start = {key.removeprefix("vgg38/start/"): value for key, value in values.items() if "vgg38/start/" in key}
    # through the two layers of the block the signal falls from 1 to 1e-3, and the error from 8 to 1
    assert start["forward"] == pytest.approx(10**-1.5)
    assert start["backward"] == pytest.approx(8**-0.5)
    assert start["share"] == pytest.approx(1e-6)
    assert (start["below_bf16"], start["below_fp32"]) == (3, 5)
    assert (start["lost_bf16"], start["lost_fp32"]) == (2, 5)
    assert (start["one_sided"], start["linear"]) == (0.995, 2)
    assert (start["noise"], start["near"], start["far"], start["nearest"]) == (3, 0.75, 0.25, 0.5)
    assert start["predicted"] == pytest.approx(0.4, abs=0.01)
    assert values["vgg38/end/epoch"] == 5
    assert values["bf16"] == 1 / 256
    assert values["batches"] == 2
    assert "vgg08/start/predicted" not in values
    assert "vgg08/end/epoch" not in values


def test_a_network_that_keeps_its_signal_has_no_layer_below_rounding(measured):
    measured.table["image_variance"] = 1.0
    assert not [key for key, *_ in numbers(measured) if "below" in key]
    rows = [line.split(" & ") for line in tables(measured)["summary"].splitlines() if "texttt" in line]
    # a fall of the signal is read from forward_factor alone, which still has it
    assert rows[1][:8] == [r"\texttt{vgg38}", "0", "0.03", "0.35", "0.40", "0.707", "--", "--"]
    assert rows[0][:8] == [r"\texttt{vgg08}", "0", "0.03", "0.35", "--", "0.707", "--", "--"]


@pytest.mark.parametrize("runs", [["vgg38", "vgg08"], ["vgg08"]])
def test_figures_and_tables_have_captions(measured, runs):
    chosen = Measured(measured.table, runs, measured.looks, measured.settings)
    assert {*draw(chosen), *tables(chosen)} == set(CAPTIONS)
