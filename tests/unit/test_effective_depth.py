import copy
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from flops import Flops
from torch import nn
from torch.nn import functional

import examples
from vanishing import config
from vanishing.analysis import effective_depth
from vanishing.analysis.snapshots import Snapshot
from vanishing.errors import UserError
from vanishing.report import figures
from vanishing.report.why import effective_depth as why
from vanishing.report.why.measured import Measured
from vanishing.training import models


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 3, 32, 32, generator=generator), torch.randint(3, (6,), generator=generator)) for _ in range(2)
    ]


@pytest.fixture
def settings(study):
    return study.analyses.effective_depth


@pytest.fixture
def build(tiny):
    def built(seed=0, **model):
        return models.build(tiny(model={"stages": 1, **model}).model, 3, seed)

    return built


@pytest.fixture
def measured(tiny, batches, settings):
    def measure(network):
        snapshot = Snapshot(network, 0, [0], Path(), tiny(), batches)
        return effective_depth.measure(snapshot, settings)

    return measure


@pytest.fixture
def block(tiny):
    """Make a block of one channel that multiplies by two numbers, each before an activation."""

    def made(first, second, shortcut=True):
        model = tiny(model={"filters": 1, "groups": 1}).model
        found = models.Block(model, 1, nn.Identity() if shortcut else None)
        for name, factor in (("conv1", first), ("conv2", second)):
            weight = found.get_submodule(name).weight.data
            weight.zero_()
            weight[0, 0, 1, 1] = factor
        return found.requires_grad_(requires_grad=False)

    return made


def along(chain, error, path):
    """Follow one path back: the branches of the blocks in `path`, the shortcuts of the others."""
    for at, each in reversed(list(enumerate(chain))):
        error = each.back(error, each.branch if at in path else each.shortcut)
    return error


def recorded(blocks, value):
    found, x = [], torch.full((1, 1, 1, 1), value)
    for each in blocks:
        found.append(effective_depth.record(each, x))
        x = found[-1].outputs
    return found


ONE = torch.ones(1, 1, 1, 1)


def test_a_linear_chain_has_binomial_paths(block):
    # x (1 + a)^n with a = 0.5 and n = 6; all is positive, where the activation is the identity
    chain = recorded([block(0.25, 2.0) for _ in range(6)], 3.0)
    assert chain[-1].outputs.item() == 3 * 1.5**6
    gradients = effective_depth.by_length(chain, ONE, [1] * len(chain))
    assert [each.item() for each in gradients] == [math.comb(6, k) * 0.5**k for k in range(7)]
    assert sum(gradients).item() == 1.5**6
    assert along(chain, ONE, (1, 4, 5)).item() == 0.5**3


def test_two_blocks_by_hand(block):
    chain = recorded([block(1.0, 3.0), block(1.0, 5.0)], 2.0)
    assert [each.item() for each in effective_depth.by_length(chain, ONE, [1] * len(chain))] == [1, 3 + 5, 15]
    ways = {path: along(chain, ONE, path).item() for path in ((), (0,), (1,), (0, 1))}
    assert ways == {(): 1, (0,): 3, (1,): 5, (0, 1): 15}


def test_the_slopes_of_the_activations_count_by_hand(block):
    # -2 times 3 is -6, activated -0.06, times 5 is -0.3; -2.3 is activated at the end
    (one,) = recorded([block(3.0, 5.0)], -2.0)
    assert one.branch.item() == pytest.approx(-0.3)
    assert one.outputs.item() == pytest.approx(-0.023)
    skipped, through = effective_depth.by_length([one], ONE, [1])
    assert skipped.item() == pytest.approx(0.01)
    assert through.item() == pytest.approx(0.01 * 5 * 0.01 * 3)


def test_a_block_without_a_shortcut_is_on_every_path(block):
    chain = recorded([block(1.0, 3.0), block(1.0, 7.0, shortcut=False), block(1.0, 5.0)], 2.0)
    assert [each.item() for each in effective_depth.by_length(chain, ONE, [1] * len(chain))] == [7, 7 * (3 + 5), 7 * 15]


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("reduction", ["none", "pool", "convolution", "subsample"])
def test_all_paths_together_are_the_gradient_of_back_propagation(build, batches, norm, reduction):
    network = build(blocks=2, shortcut="identity", norm=norm, reduction_shortcut=reduction).double()
    network.requires_grad_(requires_grad=False)
    images, labels = batches[0][0].double(), batches[0][1]
    chain = effective_depth.split(network)
    x = start = chain.entry(images).requires_grad_()
    found = []
    for each in chain.blocks.values():
        found.append(effective_depth.record(each, x.detach()))
        x = each(x)
    logits = chain.head(x)
    loss = functional.cross_entropy(logits, labels)
    error, whole = torch.autograd.grad(loss, [x, start])
    lengths = effective_depth.by_length(found, error, [1] * 3)
    optional = 2 if reduction == "none" else 3
    assert len(lengths) == optional + 1
    torch.testing.assert_close(sum(lengths), whole, rtol=1e-10, atol=1e-14)
    for taken, together in enumerate(lengths):
        paths = itertools.combinations(range(optional), taken)
        fixed = () if optional == 3 else (2,)
        singly = sum(along(found, error, path + fixed) for path in paths)
        torch.testing.assert_close(together, singly, rtol=1e-10, atol=1e-14)


def test_random_signs_give_the_sum_of_squares_of_single_paths(build, batches):
    """Over all choices of signs the terms of two paths cancel exactly."""
    network = build(blocks=3, shortcut="identity", norm="batch", reduction_shortcut="pool").double()
    chain = effective_depth.split(network.requires_grad_(requires_grad=False))
    x, found = chain.entry(batches[0][0].double()), []
    for each in chain.blocks.values():
        found.append(effective_depth.record(each, x))
        x = found[-1].outputs
    error = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    choices = list(itertools.product([1, -1], repeat=4))
    squares = [
        [each.square().sum().item() for each in effective_depth.by_length(found, error, signs)] for signs in choices
    ]
    paths = [itertools.combinations(range(4), taken) for taken in range(5)]
    singly = [sum(along(found, error, path).square().sum().item() for path in chosen) for chosen in paths]
    assert np.mean(squares, axis=0) == pytest.approx(singly, rel=1e-10)
    assert np.std(squares, axis=0)[1:-1].min() > 0


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_block_that_does_nothing_loses_nothing_when_it_is_cut_out(build, measured, norm):
    network = build(blocks=2, shortcut="identity", norm=norm)
    network.stage1.block2.conv2.weight.data.zero_()
    rows = measured(network).set_index("name")
    columns = ["loss", "accuracy", "running_loss", "running_accuracy"]
    assert rows.loc["stage1.block2", columns].tolist() == rows[rows.kind == "network"].iloc[0][columns].tolist()
    assert rows.loc["stage1.block2", "branch_variance"] == 0
    assert rows.loc["stage1.block1", "loss"] != rows.loc["stage1.block2", "loss"]


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("shortcut", ["none", "identity"])
@pytest.mark.parametrize("name", ["block1", "reduction"])
def test_a_cut_network_is_the_one_with_the_rest_in_its_place(build, measured, batches, norm, shortcut, name):
    network = build(blocks=2, shortcut=shortcut, norm=norm, reduction_shortcut="none")
    rest = {"block1": {"none": nn.Identity(), "identity": nn.LeakyReLU(0.01)}}.get(name, {})
    cut = copy.deepcopy(network)
    setattr(cut.stage1, name, rest.get(shortcut, nn.AvgPool2d(2)))
    with torch.no_grad():
        logits = [cut.eval()(images) for images, _ in batches] + [cut.train()(images) for images, _ in batches]
    losses = [functional.cross_entropy(z, y).item() for z, (_, y) in zip(logits, 2 * batches, strict=True)]
    right = [(z.argmax(1) == y).float().mean().item() for z, (_, y) in zip(logits, 2 * batches, strict=True)]
    row = measured(network).set_index("name").loc[f"stage1.{name}"]
    assert row.running_loss == pytest.approx(np.mean(losses[:2]), rel=1e-6)
    assert row.loss == pytest.approx(np.mean(losses[2:]), rel=1e-6)
    assert row.running_accuracy == pytest.approx(np.mean(right[:2]))
    assert row.accuracy == pytest.approx(np.mean(right[2:]))


def test_the_columns_and_rows_are_those_that_are_described(build, measured):
    rows = measured(build(blocks=2, shortcut="identity"))
    assert list(rows.columns) == list(effective_depth.COLUMNS)
    assert rows.kind.tolist() == ["network"] + ["block"] * 3 + ["path"] * 3
    assert rows["name"].tolist() == ["", "stage1.block1", "stage1.block2", "stage1.reduction", "", "", ""]
    assert rows.number.tolist() == [0, 1, 2, 3, 1, 2, 3]
    assert rows.paths.tolist()[4:] == [1, 2, 1]
    filled = rows.set_index("kind").notna()
    assert filled.loc["block", "branch_variance"].all()
    assert filled.loc["block", "shortcut_variance"].tolist() == [True, True, False]
    assert not filled.loc["path", ["loss", "accuracy"]].any(axis=None)
    assert filled.loc["path", ["path_gradient", "gradient"]].all(axis=None)


def test_a_plain_network_has_one_path_and_no_shortcut(build, measured, batches):
    network = build(blocks=2)
    rows = measured(network)
    path = rows[rows.kind == "path"].iloc[0]
    assert len(rows) == 1 + 3 + 1
    assert (path.number, path.paths) == (3, 1)
    norms = []
    for images, labels in batches:
        start = network.entry(images).requires_grad_()
        loss = functional.cross_entropy(network.classifier(network.pool(network.stage1(start))), labels)
        norms.append(torch.autograd.grad(loss, start)[0].norm().item())
    assert path.path_gradient == path.gradient == pytest.approx(np.sqrt(np.mean(np.square(norms))), rel=1e-5)
    assert rows.shortcut_variance.isna().all()


def test_the_variance_of_a_normalised_branch_is_that_of_its_scale(build, measured):
    network = build(blocks=2, shortcut="identity", norm="batch")
    network.stage1.block2.norm2.weight.data.fill_(3.0)
    rows = measured(network).set_index("name")
    assert rows.loc["stage1.block1", "branch_variance"] == pytest.approx(1, rel=1e-3)
    assert rows.loc["stage1.block2", "branch_variance"] == pytest.approx(9, rel=1e-3)


def test_the_variance_of_a_shortcut_is_over_images_and_positions_of_a_channel(build, batches):
    chain = effective_depth.split(build(blocks=1, shortcut="identity"))
    variances, _ = effective_depth.decompose(chain, batches, 0)
    with torch.no_grad():
        x = [chain.entry(images).numpy() for images, _ in batches]
    by_hand = np.mean([[each[:, channel].var() for channel in range(4)] for each in x])
    assert variances[0, 1] == pytest.approx(by_hand, rel=1e-5)


def test_the_model_and_its_statistics_are_left_as_they_are(build, measured):
    network = build(blocks=1, shortcut="identity", norm="batch", reduction_shortcut="convolution")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measured(network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_equal_bytes_twice(build, measured):
    first, again = (measured(build(blocks=3, shortcut="identity", norm="batch")) for _ in range(2))
    pd.testing.assert_frame_equal(first, again, check_exact=True)


@pytest.mark.parametrize("shortcut", ["none", "identity"])
def test_the_cost_is_that_of_the_arithmetic(tiny, settings, batches, shortcut):
    """Counted by PyTorch over forward and backward passes; an entry of 3 channels is the part that is left out."""
    model = tiny(model={"filters": 24, "blocks": 3, "shortcut": shortcut}).model
    batches = [(images[:2], labels[:2]) for images, labels in batches]
    chosen = settings.model_copy(update={"batches": 2, "batch_size": 2, "gradient_batches": 1})
    with Flops() as counter:
        effective_depth.measure(Snapshot(models.build(model, 3, 0), 0, [0], Path(), tiny(), batches), chosen)
    macs = models.measure(model, 3).macs * effective_depth.passes(chosen, model, 1)
    assert counter.total / 2 == pytest.approx(macs, rel=0.05)


def test_more_minibatches_for_gradients_than_there_are_is_a_mistake():
    with pytest.raises(config.ParameterError) as caught:
        examples.study({"analyses": {"effective_depth": {"gradient_batches": 3}}})
    assert str(caught.value).endswith("gradient_batches = 3: allowed: at most batches = 2")


def test_a_dense_network_is_refused_in_one_line(build, measured):
    text = "analyses.effective_depth.runs: no block can be cut out of a run with `shortcut: dense`; leave it out"
    with pytest.raises(UserError) as caught:
        measured(build(blocks=1, shortcut="dense"))
    assert str(caught.value) == text


def snapshot(epoch, accuracies, variances, lengths, run="vgg38_short", seed=0):
    """Make rows as `measure` returns them: of two processing blocks and a reduction block."""
    names = ["", "stage1.block1", "stage1.block2", "stage1.reduction"]
    rows = [
        {"kind": "block" if name else "network", "name": name, "number": at, "accuracy": accuracy}
        for at, (name, accuracy) in enumerate(zip(names, accuracies, strict=True))
    ]
    for at, (branch, shortcut) in enumerate(variances, start=1):
        rows[at] |= {"branch_variance": branch, "shortcut_variance": shortcut}
    rows += [
        {"kind": "path", "name": np.nan, "number": number, "paths": paths, "path_gradient": each, "gradient": together}
        for number, paths, each, together in lengths
    ]
    table = pd.DataFrame(rows).reindex(columns=list(effective_depth.COLUMNS))
    table["running_accuracy"] = table.accuracy / 2
    return table.assign(run=run, seed=seed, epoch=epoch)


@pytest.fixture
def data(study):
    def make(*tables):
        table = pd.concat(tables, ignore_index=True)
        return Measured(table, list(dict.fromkeys(table.run)), figures.looks(study), study)

    return make


@pytest.fixture
def residual():
    return [
        snapshot(0, (0.1, 0.1, 0.1, 0.1), [(1, 1), (1, 3)], [(1, 1, 1.0, 1.0), (2, 2, 1.0, 1.0), (3, 1, 1.0, 1.0)]),
        snapshot(15, (0.4, 0.2, 0.3, 0.1), [(1, 4), (1, 9)], [(1, 1, 4.0, 6.0), (2, 2, 1.0, 0.0), (3, 1, 2.0, 2.0)]),
    ]


def test_what_the_report_says_of_a_network_by_hand(data, residual):
    found = {key: value for key, value, _ in why.numbers(data(*residual))}
    end = {key.removeprefix("vgg38/end/"): value for key, value in found.items() if key.startswith("vgg38/end/")}
    assert (found["images"], found["draws"], found["vgg38/seeds"]) == (500, 2, 1)
    assert (end["epoch"], end["accuracy"]) == (15, 40)
    assert (end["without"], end["without_lowest"], end["without_reduction"]) == pytest.approx((25, 20, 10))
    assert end["without_running"] == pytest.approx(12.5)
    # each: (1 * 4 + 2 * 2 * 1 + 3 * 2) / (4 + 2 + 2); together: (1 * 6 + 3 * 2) / 8
    assert (end["length"], end["length_together"]) == (1.75, 1.5)
    assert (end["branch"], end["branch_first"], end["branch_least"]) == pytest.approx((0.15, 0.2, 0.1))
    assert (end["shortest"], end["longest"], end["length_even"], end["gradient_of_longest"]) == (1, 3, 2, 0.5)
    assert found["vgg38/start/length"] == 2


def test_gradients_that_have_all_underflowed_have_no_length(data, residual):
    for rows in residual:
        rows.loc[rows.kind == "path", ["path_gradient", "gradient"]] = 0.0
    found = data(*residual)
    keys = {key for key, _, _ in why.numbers(found)}
    assert "vgg38/end/length_even" in keys
    assert not {"vgg38/end/length", "vgg38/end/length_together", "vgg38/end/gradient_of_longest"} & keys
    assert why.tables(found)["summary"].count("--") == 4
    for figure in why.draw(found).values():
        figure.canvas.draw()


def test_the_shares_are_held_against_the_random_walk(data, residual):
    """E of max(0, N): v_1 = 1/2 - 1/(2 pi); after two steps v_2 = 1 + 1/(2 pi) - (1 + 1/sqrt 2)^2 / (2 pi)."""
    first = 1 / 2 - 1 / (2 * math.pi)
    second = 1 + 1 / (2 * math.pi) - (1 + math.sqrt(0.5)) ** 2 / (2 * math.pi)
    moments = why.ends(data(*residual), "vgg38_short")
    assert why.predicted(moments["start"]).tolist() == pytest.approx([1 / (1 + first), 1 / (1 + second)])
    ratio = {key: value for key, value, _ in why.numbers(data(*residual))}["vgg38/start/branch_ratio"]
    assert ratio == pytest.approx(math.sqrt((1 / 2) * (1 + first) * (1 / 4) * (1 + second)))


def test_a_network_is_shown_with_the_mean_of_its_seeds(data, residual):
    again = [rows.assign(seed=1, accuracy=rows.accuracy / 2) for rows in residual]
    moments = why.ends(data(*residual, *again), "vgg38_short")
    assert [rows.epoch.unique().tolist() for rows in moments.values()] == [[0], [15]]
    assert moments["end"].accuracy.iloc[0] == pytest.approx(0.3)
    assert len(moments["end"]) == len(residual[1])


@pytest.fixture
def plain():
    rows = snapshot(1, (0.1, 0.1, 0.1, 0.1), [(1, np.nan)] * 2, [(3, 1, 1.0, 1.0)], run="vgg38_bn_start")
    return [rows, rows.assign(epoch=0)]


def test_table_and_figures_are_those_of_the_captions_with_residual_networks_and_without(data, residual, plain):
    shallow = [rows[rows["name"].isin(["", "stage1.reduction"]) | (rows.kind == "path")] for rows in plain]
    shallow = [rows.assign(run="vgg08") for rows in shallow]
    for tables in ([*residual, *plain, *shallow], plain, shallow):
        found = data(*tables)
        drawn, written = why.draw(found), why.tables(found)
        assert [*written, *drawn] == list(why.CAPTIONS)
        assert written["summary"].count(r"\texttt") == 2 * len(found.runs)
        for figure in drawn.values():
            assert figure.get_figwidth() <= 6.3
            figure.canvas.draw()
        assert all(math.isfinite(value) for _, value, _ in why.numbers(found))
    assert not any("branch" in key for key, _, _ in why.numbers(data(*plain)))


def test_chance_is_the_share_of_the_largest_class(data, residual):
    found = data(*residual)
    own = found.settings.model_copy(update={"data": examples.own(found.settings.data, train=[100, 100, 800])})
    (cuts,) = why.draw(dataclasses.replace(found, settings=own))["cuts"].axes
    assert [line.get_ydata()[0] for line in cuts.lines if line.get_linestyle() == ":"] == [0.8]


def test_the_figures_show_what_was_measured(data, residual):
    drawn = why.draw(data(*residual))
    cuts, paths, branches = (figure.axes[-1] for figure in drawn.values())
    filled = next(line for line in cuts.lines if line.get_markerfacecolor() != "white" and len(line.get_xdata()) == 2
                  and line.get_marker() == "o")  # fmt: skip
    assert list(filled.get_ydata()) == [0.2, 0.3]
    assert [line.get_ydata()[0] for line in cuts.lines if line.get_linestyle() == ":"] == [0.01]
    shares = next(line for line in paths.lines if line.get_label() == "vgg38_short")
    assert list(shares.get_ydata()) == [0.5, 0.25, 0.25]
    branch = next(line for line in branches.lines if line.get_label() == "vgg38_short")
    assert list(branch.get_ydata()) == pytest.approx([0.2, 0.1])
