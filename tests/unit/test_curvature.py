import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from support import examples
from torch import nn
from torch.nn import functional

from vanishing.analysis import curvature
from vanishing.analysis.snapshots import Snapshot
from vanishing.report import figures
from vanishing.report.why import curvature as shown
from vanishing.report.why.measured import Measured
from vanishing.results import depth_prediction
from vanishing.training import models
from vanishing.training.schedule import learning_rate
from vanishing.training.step import Learner


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_square(outputs, targets):
    return ((outputs - targets) ** 2).sum() / 2


def matrix(product, size):
    return torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)]).numpy()


def symmetric(values, seed=1):
    """Return a matrix with these eigenvalues, in a random basis."""
    basis = torch.linalg.qr(drawn(len(values), len(values), seed=seed))[0]
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


class Quadratic(nn.Module):
    """Half of w^T H w, whatever the input."""

    def __init__(self, hessian):
        super().__init__()
        self.weight = nn.Parameter(drawn(len(hessian), seed=2))
        self.hessian = hessian

    def forward(self, _):
        return self.weight @ self.hessian @ self.weight / 2


def first(outputs, _):
    return outputs


def test_the_spectrum_of_a_quadratic_is_known():
    values = [-3.0, -1.0, 0.0, 0.25, 0.5, 2.0, 7.0]
    product = curvature.hessian_product(Quadratic(symmetric(values)), [(torch.empty(0), None)], first)
    spectrum = curvature.lanczos(product, drawn(7, seed=3), steps=20)  # ends by itself after 7
    np.testing.assert_allclose(spectrum.values, values, atol=1e-12)
    assert spectrum.weights.sum() == pytest.approx(1)
    assert spectrum.residuals.max() < 1e-9


def test_an_eigenvalue_lies_within_the_residual_of_every_value():
    values = np.concatenate([np.linspace(-1, 1, 195), [5.0, 6.0, 8.0, 13.0, 21.0]])
    hessian = symmetric(values)
    spectrum = curvature.lanczos(lambda vector: hessian @ vector, drawn(200, seed=3), steps=12)
    distances = np.abs(spectrum.values[:, None] - values).min(axis=1)
    assert (distances <= spectrum.residuals + 1e-12).all()
    assert spectrum.residuals[-1] < 1e-6 < spectrum.residuals[4]  # the largest has converged, the bulk has not
    assert spectrum.values[-1] == pytest.approx(21)


def test_the_weights_give_the_moments_of_the_density():
    # a vector of squares 1 / n stands for every eigenvalue alike: Gauss's rule is exact for the first 2 k - 1 moments
    values = np.linspace(-1, 3, 50)
    spectrum = curvature.lanczos(lambda vector: torch.from_numpy(values) * vector, torch.ones(50).double(), steps=6)
    for power in range(12):
        assert (spectrum.weights * spectrum.values**power).sum() == pytest.approx(np.mean(values**power))


def test_a_matrix_of_zeros_has_the_one_value_0():
    spectrum = curvature.lanczos(torch.zeros_like, drawn(5), steps=4)
    assert (spectrum.values.tolist(), spectrum.weights.tolist(), spectrum.residuals.tolist()) == ([0.0], [1.0], [0.0])


def test_two_layers_by_hand():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    net[0].weight.data.fill_(2.0)
    net[1].weight.data.fill_(3.0)
    # f = (b a x - y)^2 / 2 with a = 2, b = 3, x = 5, y = 1: f_aa = (b x)^2, f_bb = (a x)^2,
    # f_ab = b a x^2 + (b a x - y) x
    batch = torch.full((1, 1), 5.0).double(), torch.ones(1, 1).double()
    product = curvature.hessian_product(net, [batch], half_square)
    assert matrix(product, 2).tolist() == [[225, 150 + 29 * 5], [150 + 29 * 5, 100]]
    net[0].weight.requires_grad_(False)  # frozen weights are no direction
    assert matrix(curvature.hessian_product(net, [batch], half_square), 1).tolist() == [[100]]


def test_the_hessian_of_minibatches_is_their_mean():
    net = nn.Linear(1, 1, bias=False).double()
    batches = [(torch.full((1, 1), x).double(), torch.zeros(1, 1).double()) for x in (1.0, 3.0)]
    assert matrix(curvature.hessian_product(net, batches, half_square), 1).tolist() == [[(1 + 9) / 2]]
    # gradients w x^2 with w = 2: squares 4 and 324
    net.weight.data.fill_(2.0)
    assert curvature.second_moment(net, batches, half_square).tolist() == [(4 + 324) / 2]


def network(**model):
    settings = examples.study({"model": {"filters": 4, "blocks": 1} | model}, ["vgg08"])
    return models.build(settings.model, 10, seed=0).double()


@pytest.fixture
def batch():
    return drawn(6, 3, 32, 32), torch.arange(6)


def gradient(model, batch, vector, step):
    moved = copy.deepcopy(model).train()
    weights = nn.utils.parameters_to_vector(moved.parameters())
    nn.utils.vector_to_parameters(weights.detach() + step * vector, moved.parameters())
    images, labels = batch
    return nn.utils.parameters_to_vector(
        torch.autograd.grad(functional.cross_entropy(moved(images), labels), list(moved.parameters()))
    )


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("shortcut", ["none", "identity"])
def test_products_are_those_of_finite_differences(norm, shortcut, batch):
    model = network(norm=norm, shortcut=shortcut, groups=2)
    size = sum(weight.numel() for weight in model.parameters())
    vector = drawn(size, seed=4)
    vector /= vector.norm()
    product = curvature.hessian_product(model, [batch])(vector)
    step = 1e-6
    numeric = (gradient(model, batch, vector, step) - gradient(model, batch, vector, -step)) / (2 * step)
    assert (product - numeric).norm() <= 1e-6 * product.norm()


def test_single_precision_resolves_every_layer_of_a_plain_network_of_38(batch):
    precise = network(blocks=5)
    images, labels = batch
    sizes = [weight.numel() for weight in precise.parameters()]
    vector = drawn(sum(sizes), seed=6)
    expected = curvature.hessian_product(precise, [batch])(vector).split(sizes)
    found = curvature.hessian_product(copy.deepcopy(precise).float(), [(images.float(), labels)])(vector).split(sizes)
    assert max(layer.norm() for layer in expected) > 1e10 * min(layer.norm() for layer in expected)
    for single, double in zip(found, expected, strict=True):
        assert (single - double).norm() <= 1e-4 * double.norm()


def test_single_precision_gives_the_extremes_where_batch_normalisation_lets_gradients_grow(batch):
    precise = network(blocks=5, norm="batch")
    images, labels = batch
    start = drawn(sum(weight.numel() for weight in precise.parameters()), seed=5)
    double = curvature.lanczos(curvature.hessian_product(precise, [batch]), start, 12).values
    product = curvature.hessian_product(copy.deepcopy(precise).float(), [(images.float(), labels)])
    single = curvature.lanczos(product, start, 12).values
    assert single[[0, -1]] == pytest.approx(double[[0, -1]], rel=0.02)


def test_a_measurement_leaves_the_network_as_it_is(batch):
    model = network(norm="batch").eval()
    before = copy.deepcopy(model.state_dict())
    curvature.hessian_product(model, [batch])
    curvature.second_moment(model, [batch])
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_the_largest_values_are_those_of_scipy(batch):
    model = network(norm="batch", blocks=0)
    product = curvature.hessian_product(model, [batch])
    size = sum(weight.numel() for weight in model.parameters())
    operator = LinearOperator(
        (size, size), matvec=lambda vector: product(torch.from_numpy(vector.ravel())).numpy(), dtype=np.float64
    )
    found = curvature.lanczos(product, drawn(size, seed=5), steps=40).values
    lowest, highest = eigsh(operator, k=2, which="BE", v0=np.ones(size), return_eigenvectors=False)
    assert found[[0, -1]] == pytest.approx([lowest, highest], rel=1e-6)


def test_preconditioning_divides_by_the_denominator():
    hessian = symmetric([1.0, 4.0, 9.0])
    denominator = torch.tensor([1.0, 0.25, 4.0], dtype=torch.float64)
    product = curvature.preconditioned(lambda vector: hessian @ vector, denominator)
    found = np.linalg.eigvalsh(matrix(product, 3))
    expected = np.linalg.eigvals(torch.diag(1 / denominator).numpy() @ hessian.numpy())
    np.testing.assert_allclose(found, np.sort(expected))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("factor", "stable"), [(0.99, True), (1.01, False)])
def test_the_edge_is_where_steps_begin_to_diverge(momentum, factor, stable):
    rate = 1e-3
    sharpness = factor * curvature.edge(rate, momentum)
    weight, mean = 1.0, 0.0
    for _ in range(20_000):  # Adam at a preconditioner of 1
        mean = momentum * mean + (1 - momentum) * sharpness * weight
        weight -= rate * mean
        if abs(weight) > 1e6:
            break
    assert (abs(weight) < 1e-6) == stable
    assert (abs(weight) > 1e6) == (not stable)


def test_the_edge_of_adam_is_38_over_the_rate():
    assert curvature.edge(1e-3, 0.9) == pytest.approx(38_000)
    assert curvature.edge(1e-3, 0.0) == 2_000


@pytest.fixture
def snapshot(batch):
    def at(epoch, **train):
        settings = examples.study({"model": {"filters": 4}, "train": train}, ["vgg08"])
        run = settings.run("vgg08")
        model = models.build(run.model, 10, seed=0)
        images, labels = batch
        batches = [(images.float(), labels), (images.float().flip(0), labels)]
        return Snapshot(model, epoch, [epoch], None, run, batches), settings.analyses.curvature

    return at


def test_a_snapshot_is_measured_twice_alike(snapshot):
    at, settings = snapshot(epoch=0)
    table = curvature.measure(at, settings.model_copy(update={"steps": 5}))
    assert list(table.columns) == list(curvature.COLUMNS)
    assert table.kind.tolist() == ["hessian"] * 5 + ["preconditioned"] * 5
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    for _, rows in table.groupby("kind"):
        assert rows.value.is_monotonic_decreasing
        assert rows.weight.sum() == pytest.approx(1)
    assert table.equals(curvature.measure(at, settings.model_copy(update={"steps": 5})))


def test_the_hessian_is_of_the_first_images_and_the_second_moment_of_all(snapshot):
    at, settings = snapshot(epoch=0)
    few = settings.model_copy(update={"steps": 3, "images": 2})
    table = curvature.measure(at, few).set_index("kind")
    images, labels = at.batches[0]
    product = curvature.hessian_product(at.model, [(images[:2], labels[:2])])
    size = sum(weight.numel() for weight in at.model.parameters())
    start = torch.randn(size, generator=torch.Generator().manual_seed(few.seed), dtype=torch.float64)
    assert table.loc["hessian"].value.tolist() == curvature.lanczos(product, start, 3).values[::-1].tolist()
    denominator = curvature.second_moment(at.model, at.batches).sqrt() + 1e-8
    scaled = curvature.preconditioned(product, denominator)
    assert table.loc["preconditioned"].value.tolist() == curvature.lanczos(scaled, start, 3).values[::-1].tolist()


def test_momentum_and_epsilon_are_those_that_every_run_is_trained_with(tiny):
    adam = Learner(tiny(), 0, torch.device("cpu")).optimiser.defaults
    assert (adam["betas"][0], adam["eps"]) == (curvature.BETA1, depth_prediction.EPSILON)


@pytest.mark.parametrize("schedule", ["cosine_per_epoch", "cosine_per_iteration", "constant"])
def test_the_rate_is_that_of_the_last_step(snapshot, schedule):
    # 150 training images of 10 classes in minibatches of 10: 15 iterations an epoch
    for epoch, last in ((0, (1, 0)), (1, (1, 14)), (7, (7, 14))):
        at, settings = snapshot(epoch, epochs=10, schedule=schedule)
        rows = curvature.measure(at, settings.model_copy(update={"steps": 2}))
        rate = learning_rate(at.run.train, *last, 15)
        assert rows.learning_rate.unique().tolist() == [rate]
        assert rows.groupby("kind").edge.first().tolist() == [2 / rate, pytest.approx(38 / rate)]


def spectra(run, seed, epoch, values, adam):
    """Rows of a spectrum with equal weights, and a preconditioned one of a single value; the edges are 2 and 38."""
    plain = [
        (run, seed, epoch, "hessian", at, value, 1 / len(values), 0.1, 1.0, 2.0) for at, value in enumerate(values, 1)
    ]
    columns = ["run", "seed", "epoch", *curvature.COLUMNS]
    return pd.DataFrame([*plain, (run, seed, epoch, "preconditioned", 1, adam, 1.0, 0.0, 1.0, 38.0)], columns=columns)


@pytest.fixture
def measured():
    runs = ["vgg08", "vgg08_short", "vgg38_start"]
    settings = examples.study({"train": {"epochs": 20}}, runs)
    table = pd.concat(
        [
            spectra("vgg08_short", 0, 0, [5.0, -5.0], 1.0),
            spectra("vgg08", 0, 0, [4.0, 0.5, -0.5, -2.0], 19.0),
            spectra("vgg08", 1, 0, [6.0, 2.5, -0.5, -3.0], 57.0),
            spectra("vgg08", 0, 2, [8.0, -1.0], 3.8),
            spectra("vgg38_start", 0, 0, [0.0], 0.0).assign(residual=0.0),
            spectra("vgg38_start", 0, 1, [1.0, 3.0], 38.0),
        ],
        ignore_index=True,
    )
    return Measured(table, runs, figures.looks(settings), settings)


def test_a_summary_by_hand(measured):
    rows = shown.summary(measured.table).set_index(["run", "epoch"])
    row = rows.loc[("vgg08", 0)]
    assert (row.sharpness, row.lowest, row.norm) == (5, -2.5, 5)
    assert row.error == pytest.approx(0.1 / 2)  # of -2, the smallest of these
    assert (row.descent, row.preconditioned, row.adam) == (2.5, 38, 1)
    assert rows.loc[("vgg08_short", 0)].norm == 5
    assert rows.loc[("vgg38_start", 0)][["sharpness", "lowest", "norm"]].tolist() == [0, 0, 0]


def test_the_norm_is_that_of_the_negative_end_where_it_is_longer():
    row = shown.summary(spectra("vgg08", 0, 0, [2.0, -7.0], 1.0)).iloc[0]
    assert (row.sharpness, row.lowest, row.norm) == (2, -7, 7)


def test_what_has_not_converged_is_not_shown(measured):
    table = spectra("vgg08", 0, 0, [4.0, -0.9], 2.0)  # residuals of 0.1: more than a tenth of 0.9
    row = shown.summary(table).iloc[0]
    assert (row.sharpness, row.norm, row.adam) == (4, 4, pytest.approx(2 / 38))
    assert math.isnan(row.lowest)
    assert row.error == pytest.approx(0.1 / 4)
    table.loc[table.kind == "preconditioned", "residual"] = 0.3
    data = Measured(table, ["vgg08"], measured.looks, measured.settings)
    found = {key: text for key, _, text in shown.numbers(data)}
    assert "vgg08/start/descent" in found
    assert not {f"vgg08/start/{column}" for column in ("lowest", "preconditioned", "adam")} & set(found)
    assert found["vgg08/start/adam_least"] == "at least 0.0526"  # 2 of 38: a Ritz value is a lower bound
    row = next(line for line in shown.tables(data)["curvature"].splitlines() if "vgg08" in line)
    assert row.removesuffix(r" \\").split(" & ")[2:] == ["4", "--", "1", "2", r"$\geq$ 0.0526"]


def test_numbers_are_of_the_start_the_first_epoch_and_the_end(measured):
    found = {key: value for key, value, _ in shown.numbers(measured)}
    assert {key.rpartition("/")[0] for key in found} == {"", "vgg08/start", "vgg08/end", "vgg38/start", "vgg38/early"}
    assert (found["vgg08/end/sharpness"], found["vgg08/end/epoch"]) == (8, 2)
    assert found["vgg38/early/adam"] == 1
    assert (found["limit"], found["error"]) == (10, pytest.approx(100 * 0.1))
    assert found["batches"] == measured.settings.analyses.curvature.batches


def test_the_table_has_the_rows_of_the_numbers(measured):
    lines = shown.tables(measured)["curvature"].splitlines()
    assert [line.split(" & ")[:3] for line in lines if "&" in line][1:] == [
        [r"\texttt{vgg08}", "0", "5"],
        ["", "2", "8"],
        [r"\texttt{vgg38\_start}", "0", "0"],
        ["", "1", "3"],
    ]


def test_every_figure_and_table_has_a_caption(measured):
    drawn = shown.draw(measured)
    assert {*drawn, *shown.tables(measured)} == set(shown.CAPTIONS)
    # of the eigenvalues of vgg38_start, half lie beyond 1 and all at it or beyond
    left, right = drawn["density"].axes
    lines = {line.get_label(): line for line in right.lines}
    assert lines["vgg38_start"].get_xydata().tolist() == [[3, 0.5], [1, 1]]
    assert lines["vgg08"].get_xydata().tolist() == [[8, 0.5]]
    assert left.lines[0].get_xydata().tolist() == [[1, 0.5]]
    sharpness, adam = drawn["edge"].axes
    assert sharpness.lines[0].get_xydata().tolist() == [[0, 5], [2, 8]]
    np.testing.assert_allclose(adam.lines[0].get_ydata(), [1, 0.1])
