import copy
import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

import examples
from vanishing import config, paths
from vanishing.analysis import landscape
from vanishing.analysis.gradient_flow import fixed_batches
from vanishing.analysis.snapshots import Snapshot
from vanishing.report.why import landscape as presented
from vanishing.report.why.measured import Measured
from vanishing.training import checkpoints, models


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def settings():
    return config.Landscape(
        recipe=1, runs=[], seeds=[0], snapshots=[0], batches=2, batch_size=5, seed=3,
        directions=2, reach=1.0, cut_steps=2, grid_steps=1,
    )  # fmt: skip


@pytest.fixture
def batches(settings, dataset):
    return fixed_batches(settings, dataset.train, torch.device("cpu"))


def quadratic(points):
    """Return x^2 + 3 y^2 + 2 x y of each weight (x, y), and its x for an accuracy."""
    each = [weights["w"].tolist() for weights in points]
    return np.array([(x * x + 3 * y * y + 2 * x * y, x) for x, y in each])


def test_a_cut_of_a_quadratic_by_hand():
    centre, axis = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([1.0, 2.0])}
    # at (1 + t, 2 t): (1 + t)^2 + 12 t^2 + 4 t (1 + t) = 1 + 6 t + 17 t^2
    found = landscape.sample(quadratic, centre, [axis], [(-1.0,), (0.0,), (0.5,)])
    assert found.to_dict("list") == {"x": [-1, 0, 0.5], "loss": [12, 1, 8.25], "accuracy": [0, 1, 1.5]}


def test_a_plane_of_a_quadratic_by_hand():
    axes = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, -1.0])}]
    found = landscape.sample(quadratic, {"w": torch.zeros(2)}, axes, [(1.0, 0.0), (0.0, 1.0), (2.0, 1.0)])
    assert found.loss.tolist() == [1, 3, 3]
    assert list(found.columns) == ["x", "y", "loss", "accuracy"]


def test_filters_are_normalised_by_hand():
    weight = torch.zeros(2, 1, 1, 2)
    weight[0, 0, 0] = torch.tensor([3.0, 4.0])  # of norm 5; the other filter is 0
    direction = torch.tensor([1.0, 0.0, 6.0, 8.0]).reshape(2, 1, 1, 2)
    found = landscape.normalise_filters(direction, weight)
    assert found.flatten().tolist() == [5, 0, 0, 0]


def test_every_filter_of_a_direction_has_the_norm_of_the_networks(tiny):
    weights = dict(models.build(tiny(model={"norm": "batch"}).model, 3, seed=0).named_parameters())
    direction = landscape.random_direction(weights, 1, seed=0)
    assert list(direction) == list(weights)
    for name, weight in weights.items():
        if weight.dim() < 2:  # biases and normalisations
            assert not direction[name].any()
        else:
            norms = [each.detach().flatten(1).norm(dim=1) for each in (direction[name], weight)]
            assert torch.allclose(*norms, rtol=1e-6)
            cosine = functional.cosine_similarity(direction[name].flatten(), weight.detach().flatten(), dim=0)
            assert abs(cosine) < 4 / math.sqrt(weight.numel())


def test_networks_share_directions_where_they_share_weights(tiny):
    shallow, deep = (
        dict(models.build(tiny(model=model).model, 3, seed).named_parameters())
        for seed, model in enumerate([{}, {"blocks": 1, "norm": "batch"}])
    )
    one, two = (landscape.random_direction(weights, 1, seed=0) for weights in (shallow, deep))
    for name in ("entry.conv.weight", "stage2.reduction.conv1.weight", "classifier.weight"):
        units = [functional.normalize(each[name].flatten(1), dim=1) for each in (one, two)]
        assert torch.allclose(*units, atol=1e-6)
    same = "stage1.reduction.conv1.weight", "stage1.reduction.conv2.weight"  # shapes, but other names
    assert not torch.allclose(*(functional.normalize(one[name].flatten(1), dim=1) for name in same), atol=0.1)


@pytest.mark.parametrize(("number", "seed"), [(2, 0), (1, 1)])
def test_another_number_or_seed_gives_another_direction(number, seed):
    weights = {"w": torch.ones(4, 250)}
    first, other = (landscape.random_direction(weights, *which)["w"] for which in ((1, 0), (number, seed)))
    assert abs(functional.cosine_similarity(first.flatten(), other.flatten(), dim=0)) < 0.1


def test_a_random_cut_has_the_expected_curvature():
    # along filters of norm 1 and 2 with 400 weights each, E[d^T H d] of sum(h w^2) is 2 (1 h1 + 4 h2), h the mean
    h = torch.cat([torch.linspace(0, 2, 400), torch.linspace(2, 6, 400)]).reshape(2, 400)
    centre = {"w": torch.stack([torch.full((400,), 1 / 20), torch.full((400,), 2 / 20)])}

    def loss(points):
        return np.array([((h * weights["w"] ** 2).double().sum().item(), 0.0) for weights in points])

    found = []
    for number in range(50):
        axis = landscape.random_direction(centre, number, seed=0)
        below, at, above = landscape.sample(loss, centre, [axis], [(-1.0,), (0.0,), (1.0,)]).loss
        found.append(below - 2 * at + above)
    assert sum(found) / 50 == pytest.approx(2 * (1 * 1 + 4 * 4), rel=0.02)


def test_the_plane_of_a_path_in_two_known_directions():
    known = torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    coordinates = torch.tensor([[-8, 0], [-4, -3], [-4, -1], [0, 0]], dtype=torch.float64)
    # less the mean (-4, -1): (-4, 1), (0, -2), (0, 0), (4, 1), whose squares add up to 32 and 6, and products to 0
    snapshots = 7 + coordinates @ known
    plane = landscape.trajectory_plane(snapshots)
    assert plane.components.shape == (3, 4)
    # a component's largest coordinate is positive, so both turn round
    assert torch.allclose(plane.components[:2], -known, atol=1e-12)
    assert plane.path[:, :2].tolist() == [pytest.approx(pair, abs=1e-12) for pair in (-coordinates).tolist()]
    assert plane.shares.tolist() == pytest.approx([32 / 38, 6 / 38, 0], abs=1e-12)
    assert plane.path[:, 2].tolist() == pytest.approx([0] * 4, abs=1e-12)


@pytest.fixture
def net(tiny):
    """Return a normalised network whose running statistics are neither the first nor those of a minibatch."""
    model = models.build(tiny(model={"norm": "batch"}).model, 3, seed=0)
    with torch.no_grad():
        model(torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return model


def logits_by_momentum(net, inputs):
    """Evaluate with statistics recomputed in another way: a pass that stores them, then one that reads them."""
    reference = copy.deepcopy(net).train()
    norms = [module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)]
    stored = [norm.register_forward_pre_hook(store_statistics) for norm in norms]
    with torch.no_grad():
        reference(inputs)
        for hook in stored:
            hook.remove()
        return reference.eval()(inputs)


def store_statistics(norm, inputs):
    norm.momentum = 0.0
    norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
    norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3), correction=0))


def test_recomputed_statistics_are_those_of_each_minibatch(net, batches):
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.mul_(1.5)
    found, other = landscape.evaluation(net, batches)([dict(each.named_parameters()) for each in (moved, net)])
    expected = [functional.cross_entropy(logits_by_momentum(moved, x), y).item() for x, y in batches]
    assert found[0] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert found[0] != other[0]


def test_running_statistics_are_those_of_the_snapshot(net, batches):
    weights = [dict(net.named_parameters())]
    found, accuracy = landscape.evaluation(net, batches, running=True)(weights)[0]
    logits = copy.deepcopy(net).eval()(torch.cat([x for x, _ in batches]))
    labels = torch.cat([y for _, y in batches])
    assert found == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert accuracy == (logits.argmax(dim=1) == labels).sum().item() / 10
    assert found != landscape.evaluation(net, batches)(weights)[0, 0]


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("running", [False, True])
def test_weights_and_buffers_stay_as_they_are(net, batches, running, at_once):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    points = [{name: factor * each for name, each in net.named_parameters()} for factor in (2, 3)]
    landscape.evaluation(net, batches, running, at_once)(points)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("shortcuts", [("none", "none"), ("identity", "pool"), ("dense", "none")])
def test_several_points_at_once_have_the_losses_of_single_ones(tiny, batches, norm, shortcuts, running):
    names = dict(zip(("shortcut", "reduction_shortcut"), shortcuts, strict=True))
    model = models.build(tiny(model={"blocks": 1, "norm": norm, "groups": 2} | names).model, 3, seed=0).double()
    wide = [(x.double(), y) for x, y in batches]
    with torch.no_grad():
        model(3 * wide[0][0])  # running statistics other than the first
    centre = {name: weight.detach() for name, weight in model.named_parameters()}
    axis = landscape.random_direction(centre, 1, seed=0)
    steps = [(step,) for step in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    single, several = (
        landscape.sample(landscape.evaluation(model, wide, running, at_once), centre, [axis], steps)
        for at_once in (1, 2)  # two, two, and the last alone
    )
    assert single.loss.nunique() == 5
    assert several.to_numpy() == pytest.approx(single.to_numpy(), rel=1e-12)


@pytest.fixture
def trajectory(tmp_path, tiny, batches):
    """Return a maker of snapshots at the given place of a trajectory of three."""
    run, epochs = tiny(model={"norm": "batch"}), [0, 1, 3]
    for epoch in epochs:
        checkpoints.write(paths.snapshot(tmp_path, epoch), models.build(run.model, 3, seed=epoch).state_dict())

    def snapshot(epoch):
        model = models.build(run.model, 3, seed=epoch)
        return Snapshot(model, epoch, [0, 3], tmp_path, run, batches)

    return snapshot


def test_a_snapshot_in_between_has_cuts_alone(trajectory, settings):
    table = landscape.measure(trajectory(1), settings)
    assert list(table.columns) == list(landscape.COLUMNS)
    which = table.groupby(["kind", "statistics", "direction"], sort=False).size()
    assert which.to_dict() == {("cut", "batch", 1): 5, ("cut", "batch", 2): 5, ("cut", "running", 1): 5}
    assert table.x.tolist() == 3 * [-1, -0.5, 0, 0.5, 1]
    assert table.y.isna().all()


def test_the_initialisation_has_no_running_statistics(trajectory, settings):
    assert set(landscape.measure(trajectory(0), settings).statistics) == {"batch"}


def test_the_last_snapshot_has_a_grid_a_plane_and_the_path(trajectory, settings):
    table = landscape.measure(trajectory(3), settings)
    counts = {"cut": 15, "grid": 9, "plane": 9, "path": 3, "component": 2}
    assert table.groupby("kind", sort=False).size().to_dict() == counts
    cut, grid, plane, path, component = (table[table.kind == kind] for kind in counts)
    last = trajectory(3)
    centre = landscape.evaluation(last.model, last.batches)([dict(last.model.named_parameters())])[0]
    assert cut[(cut.x == 0) & (cut.statistics == "batch")].loss.tolist() == pytest.approx(2 * [centre[0]], rel=1e-6)
    # where a grid's axis meets a cut, they agree
    first = cut[(cut.direction == 1) & (cut.statistics == "batch") & cut.x.isin([-1, 0, 1])]
    assert grid[grid.y == 0].loss.tolist() == first.loss.tolist()
    assert path["at"].tolist() == [0, 1, 3]
    assert path.iloc[-1][["x", "y"]].tolist() == [0, 0]
    assert path.iloc[-1][["loss", "accuracy"]].tolist() == pytest.approx(centre, rel=1e-6)
    assert component.share.sum() == pytest.approx(1)
    for axis in ("x", "y"):
        low, high = path[axis].min(), path[axis].max()
        ends = [low - 0.2 * (high - low), high + 0.2 * (high - low)]
        assert [plane[axis].min(), plane[axis].max()] == pytest.approx(ends)


def test_a_device_that_evaluates_points_at_once_has_the_same_table(trajectory, settings, monkeypatch):
    """To 1e-5, as the passes are in single precision."""
    alone = landscape.measure(trajectory(3), settings)
    passes, logits = [], landscape._logits
    monkeypatch.setitem(landscape.POINTS, "cpu", landscape.POINTS["cuda"])
    monkeypatch.setattr(landscape, "_logits", lambda *given: passes.append(len(given[1])) or logits(*given))
    at_once = landscape.measure(trajectory(3), settings)
    # cuts of 5 along two directions, and with running statistics; grid, plane and path; two minibatches each
    assert passes == [each for points in (5, 5, 5, 9, 9, 3) for each in 2 * [points]]
    pd.testing.assert_frame_equal(at_once, alone, rtol=1e-5)


def test_two_snapshots_span_no_plane(trajectory, settings, tmp_path):
    paths.snapshot(tmp_path, 1).unlink()
    assert set(landscape.measure(trajectory(3), settings).kind) == {"cut", "grid"}


def test_the_same_table_twice(trajectory, settings):
    pd.testing.assert_frame_equal(*(landscape.measure(trajectory(3), settings) for _ in range(2)), check_exact=True)


GUESS = math.log(10)


def cut(loss, direction, epoch=2, statistics="batch"):
    x = [-0.5, -0.25, 0, 0.25, 0.5]
    rows = pd.DataFrame({"x": x, "loss": [loss(each) for each in x], "accuracy": 0.1})
    return rows.assign(kind="cut", statistics=statistics, direction=direction, epoch=epoch)


def lattice(kind, loss):
    points = [(x, y, loss(x, y)) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    return pd.DataFrame(points, columns=["x", "y", "loss"]).assign(kind=kind, statistics="batch", epoch=2)


@pytest.fixture
def table():
    """Rows of a run: 2 + 8 x^2 along one direction, 2 - |x| along the other, and a start that is flat."""
    path = pd.DataFrame({"kind": "path", "at": [0, 1, 2], "x": [4.0, 2, 0], "y": [0.0, 1, 0], "loss": 2.0, "epoch": 2})
    share = pd.DataFrame({"kind": "component", "direction": [1, 2], "share": [0.8, 0.2], "epoch": 2})
    parts = [
        *(cut(lambda x: GUESS, direction, epoch=0) for direction in (1, 2)),
        cut(lambda x: 2 + 8 * x * x, 1),
        cut(lambda x: 2 - abs(x), 2),
        cut(lambda x: 3 + 4 * abs(x), 1, statistics="running"),
        lattice("grid", lambda x, y: 2 + x + y),
        lattice("plane", lambda x, y: 2 + x * x + y),
        path,
        share,
    ]
    return pd.concat(parts, ignore_index=True).assign(run="vgg08", seed=0)


@pytest.fixture
def data(table):
    return Measured(table, ["vgg08"], {"vgg08": ((0.0, 0.4, 0.7), "-")}, examples.study())


def test_cuts_are_summarised_by_hand(table):
    found = presented.summarise(table[table.epoch == 2], GUESS)
    assert (found["loss"], found["running_loss"], found["running_half_width"]) == (2, 3, 0.25)
    assert found["half_width_first"] == pytest.approx(1 / 3)  # of the first alone
    assert found["noise"] == pytest.approx(1.6e-4)  # 1e-5 / 0.25^2
    assert found["curvatures"] == [16, -8]  # (0.5 + 0.5) / 0.25^2, and (-0.25 - 0.25) / 0.25^2
    # the first rises by 0.5 at 0.25 and by 2 at 0.5, so by 1 a third of the way between; the second never
    assert found["half_widths"] == [pytest.approx(1 / 3), pytest.approx(1 / 3), math.inf, math.inf]
    assert found["concave"] == 1 / 6  # second differences: 1, 1, 1 and 0, -0.5, 0
    assert found["range"] == 4 - 1.5
    assert found["no_better"] == 3 / 9  # 2 + x + y is above ln 10 - 0.1 = 2.20 where x + y is 1 or 2


def test_a_flat_landscape_has_neither_width_nor_curvature(table):
    found = presented.summarise(table[table.epoch == 0], GUESS)
    assert (found["curvatures"], found["concave"], found["range"]) == ([0, 0], 0, 0)
    assert found["half_widths"] == 4 * [math.inf]
    assert math.isnan(found["no_better"])
    assert math.isnan(found["running_loss"])
    assert math.isnan(found["running_half_width"])


@pytest.mark.parametrize(("bends", "bound"), [((5e-6, -4e-6), True), ((2e-5, -1e-5), False), ((2e-5, 2e-5), False)])
def test_a_curvature_within_rounding_is_a_bound(data, bends, bound):
    """Second differences in nats; where their mean is within 1e-5 and their deviation is not, both are given."""
    parts = [cut(lambda x, bend=bend: 2 + bend / 2 * (x != 0), at) for at, bend in enumerate(bends, 1)]
    rows = pd.concat(parts).assign(run="vgg08", seed=0)
    found = {key: text for key, _, text in presented.numbers(Measured(rows, data.runs, data.looks, data.settings))}
    assert (found["vgg08/end/curvature"] == "$<$$1.6 \\times 10^{-4}$") == bound
    assert ("pm" in found["vgg08/end/curvature"]) != bound


def test_rounding_is_no_concavity(table):
    flat = cut(lambda x: GUESS - 4e-6 * (x == 0.25), 1).assign(seed=0)
    assert presented.summarise(flat, GUESS)["concave"] == 0


def test_a_flat_grid_is_nowhere_better_than_a_guess(table):
    flat = pd.concat([table, lattice("grid", lambda x, y: GUESS - 0.05 * x).assign(seed=0, epoch=0)])
    assert presented.summarise(flat[flat.epoch == 0], GUESS)["no_better"] == 1


def test_the_shares_of_a_random_walk_by_hand():
    # points 0, a, a + b with a and b orthonormal: their scatter [[2, 1], [1, 2]] / 3 has the eigenvalues 1 and 1/3
    assert presented.walk_shares([0, 1, 2]) == pytest.approx([0.75, 0.25, 0], abs=1e-12)
    # and in the limit 6 / (pi k)^2
    assert presented.walk_shares(range(400))[:2] == pytest.approx([6 / np.pi**2, 6 / (2 * np.pi) ** 2], rel=0.01)


def test_numbers_of_the_text(data):
    found = {key: (value, text) for key, value, text in presented.numbers(data)}
    assert found["vgg08/end/epoch"] == (2, "2")
    assert found["vgg08/end/loss"] == (2, "2.00")
    assert found["vgg08/end/half_width"] == (math.inf, "$>$0.5 (0.333 to $>$0.5)")
    assert found["vgg08/end/curvature"] == (4, "4 $\\pm$ 17")
    assert found["vgg08/start/curvature"] == (0, "$<$$1.6 \\times 10^{-4}$")
    assert found["vgg08/end/half_width_first"] == (pytest.approx(1 / 3), "0.333")
    assert found["vgg08/end/running_loss"] == (3, "3.00")
    assert found["vgg08/end/running_half_width"] == (0.25, "0.25")
    assert found["vgg08/start/half_width"] == (math.inf, "$>$0.5")
    assert found["vgg08/share"] == (100, "100")
    assert found["vgg08/walk"] == (pytest.approx(100), "100")
    assert "vgg08/start/no_better" not in found
    assert "vgg08/start/running_loss" not in found


def test_figures_show_the_networks_and_numbers_are_of_all_runs(table):
    runs = ["vgg38_short", "vgg08_short", "vgg08_start"]
    rows = pd.concat([table.assign(run=run) for run in runs])
    settings = examples.study(runs=[*runs, "vgg08"])
    blue, grey = (0.0, 0.4, 0.7), (0.5, 0.5, 0.5)
    data = Measured(rows, runs, dict.fromkeys(runs, (grey, "-")) | {"vgg08": (blue, "-")}, settings)
    panels = {axis.get_title(): axis for axis in presented.draw(data)["cuts"].axes}
    assert list(panels) == ["vgg38_short", "vgg08_short"]
    # lines at the initialisation, along two directions, are grey; then come those of the last snapshot
    assert [panel.lines[2].get_color() for panel in panels.values()] == [grey, blue]
    names = {key.split("/")[0] for key, *_ in presented.numbers(data) if "/" in key}
    assert names == {"vgg38", "vgg08", *runs}


def test_figures_are_those_of_the_captions(data):
    drawn, tables = presented.draw(data), presented.tables(data)
    assert {*drawn, *tables} == set(presented.CAPTIONS)
    assert [axis.get_title() for axis in drawn["plane"].axes] == ["vgg08", ""]
    assert drawn["plane"].axes[0].get_xlabel() == "component 1 (80 %)"
    lines = tables["summary"].splitlines()
    assert r"\texttt{vgg08} & 2 & 2.00 & 4 $\pm$ 17 & $>$0.5 (0.333 to $>$0.5) & 17 & 33 \\" in lines


def test_axes_end_at_twice_a_uniform_guess_where_chance_is_less(data):
    own = data.settings.model_copy(update={"data": examples.own(data.settings.data, train=[100, 100, 800])})
    unequal = dataclasses.replace(data, settings=own)
    (panel,) = presented.draw(unequal)["cuts"].axes
    assert panel.get_ylim() == (0, 2 * math.log(3))
    assert panel.lines[-1].get_ydata()[0] == pytest.approx(0.639, abs=5e-4)
    assert {key: value for key, value, _ in presented.numbers(unequal)}["guess"] == pytest.approx(0.639, abs=5e-4)


def test_without_a_plane_the_figure_says_so(data):
    lines = Measured(data.table[data.table.kind.isin(["cut", "grid"])], data.runs, data.looks, data.settings)
    figure = presented.draw(lines)["plane"]
    assert figure.texts[0].get_text() == "no trajectory has three snapshots"
    assert not any(key.endswith("/share") for key, *_ in presented.numbers(lines))
