"""Loss and gradient along a path, by hand and in closed form; what the size of a minibatch changes."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from flops import Flops
from torch import nn

from vanishing import config
from vanishing.analysis import gradient_flow, smoothness
from vanishing.analysis.smoothness import Landscape, path
from vanishing.analysis.snapshots import Snapshot
from vanishing.report import figures
from vanishing.report.why import smoothness as why
from vanishing.report.why.measured import Measured
from vanishing.training import models

NOTHING = [(torch.zeros(1), torch.zeros(1))]


class Quadratic(nn.Module):
    """Half of sum h w^2, whose Hessian has the spectrum h."""

    def __init__(self, spectrum, weights):
        super().__init__()
        self.spectrum = torch.tensor(spectrum, dtype=torch.float64)
        self.weight = nn.Parameter(torch.tensor([weights], dtype=torch.float64))

    def forward(self, inputs):
        return (self.spectrum * self.weight**2).sum() / 2


def quadratic(spectrum, weights):
    return Landscape(Quadratic(spectrum, weights), NOTHING, lambda output, target: output)


def walk(landscape, steps, reference=None):
    return pd.DataFrame(path(landscape, landscape.at(landscape.weights), steps, reference))


def test_a_quadratic_of_known_spectrum_by_hand():
    # gradient (3, 4); after t along its negative (3, 4) - t (0.6, 3.2), and the loss is 6.5 - 5 t + 1.46 t^2
    norm = math.sqrt(10)
    walked = walk(quadratic([1.0, 4.0], [3.0, 1.0]), [("gradient", t / norm) for t in (1.0, 2.0, 4.0)])
    assert walked.distance.tolist() == pytest.approx([1, 2, 4])
    assert walked.relative_distance.tolist() == pytest.approx([1 / norm, 2 / norm, 4 / norm])
    assert walked.gradient_norm.tolist() == pytest.approx([5, 5, 5])
    assert walked.start_loss.tolist() == pytest.approx([6.5, 6.5, 6.5])
    assert walked.loss.tolist() == pytest.approx([2.96, 2.34, 9.86])
    assert walked.loss_range.tolist() == pytest.approx([3.54, 4.16, 7.52])
    beta = math.sqrt(265) / 5  # the length of H g over that of g, between the eigenvalues 1 and 4
    assert walked.beta.tolist() == pytest.approx([beta, beta, beta])
    assert walked.gradient_change.tolist() == pytest.approx([beta, 2 * beta, 4 * beta])
    assert walked.relative_change.tolist() == pytest.approx([beta / 5, 2 * beta / 5, 4 * beta / 5])
    assert walked.cosine[0] == pytest.approx(10.4 / (5 * math.hypot(2.4, 0.8)))


@pytest.mark.parametrize("eigenvalue", [0.25, 3.0])
def test_along_an_eigenvector_beta_is_the_eigenvalue(eigenvalue):
    walked = walk(quadratic([eigenvalue, 7.0], [2.0, 0.0]), [("gradient", 0.1), ("gradient", 0.2)])
    assert walked.beta.tolist() == pytest.approx([eigenvalue, eigenvalue])
    assert walked.relative_change.tolist() == pytest.approx([0.1, 0.2])


def test_the_first_step_of_adam_by_hand():
    landscape = quadratic([1.0, 1.0], [3.0, 1e-8])
    walked = walk(landscape, [("adam", 0.5)])
    assert walked.distance.tolist() == pytest.approx([math.hypot(0.5, 0.25)])  # the small one is as large as epsilon
    weight = nn.Parameter(torch.tensor([3.0, 1e-8], dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.5)
    (weight**2 / 2).sum().backward()
    optimizer.step()
    assert walked.loss.tolist() == pytest.approx([(weight.detach() ** 2 / 2).sum().item()])


def test_each_direction_is_a_path_of_its_own():
    both = walk(quadratic([1.0, 4.0], [3.0, 1.0]), [("gradient", 1.0), ("adam", 1e-3)])
    alone = walk(quadratic([1.0, 4.0], [3.0, 1.0]), [("adam", 1e-3)])
    assert both.loss_range[1] == alone.loss_range[0]
    assert both.beta[1] == alone.beta[0]


def chain(*weights):
    layers = [nn.Linear(1, 1, bias=False) for _ in weights]
    for layer, weight in zip(layers, weights, strict=True):
        nn.init.constant_(layer.weight, weight)
    return nn.Sequential(*layers).double()


def half_square(outputs, targets):
    return ((outputs - targets) ** 2).sum() / 2


POINT = [(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))]


def test_two_linear_layers_by_hand():
    # output 6, gradient (18, 12); a step s leads to the weights (2 - 3 s, 3 - 2 s)
    walked = walk(Landscape(chain(2.0, 3.0), POINT, half_square), [("gradient", 0.1), ("gradient", 1.0)])
    assert walked.distance.tolist() == pytest.approx([0.1 * math.sqrt(13), math.sqrt(13)])
    assert walked.loss.tolist() == pytest.approx([4.76**2 / 2, 0.5])
    change = [math.hypot(18 - 13.328, 12 - 8.092), math.hypot(18 + 1, 12 - 1)]
    assert walked.gradient_change.tolist() == pytest.approx(change)
    assert walked.beta.tolist() == pytest.approx([change[0] / (0.1 * math.sqrt(13))] * 2)  # the second is smaller
    assert walked.layer_cosine.tolist() == pytest.approx([1, 0])  # at the end the first layer's gradient has turned
    assert walked.classifier_share.tolist() == pytest.approx([144 / 468] * 2)


def test_a_linear_chain_of_known_factors():
    # all gradients are 2^10 2^9, and along them all weights stay equal: 2 - 2 s
    walked = walk(Landscape(chain(*[2.0] * 10), POINT, half_square), [("gradient", 0.01)])
    before, after = 2.0**19, 1.98**19
    assert walked.gradient_norm[0] == pytest.approx(math.sqrt(10) * before)
    assert walked.relative_change[0] == pytest.approx(1 - after / before)
    assert walked.loss[0] == pytest.approx(1.98**20 / 2)


def test_gradients_whose_squares_vanish_in_single_precision():
    tiny = Quadratic([1.0, 1.0], [3.0, 4.0]).float()
    landscape = Landscape(tiny, NOTHING, lambda output, target: output.float() * 1e-30)
    walked = walk(landscape, [("gradient", 0.1)], landscape.at(landscape.weights).gradient)
    assert walked.gradient_norm[0] == pytest.approx(5e-30)
    assert walked.cosine[0] == pytest.approx(1)
    assert walked.agreement[0] == pytest.approx(1)
    assert walked.relative_change[0] == pytest.approx(0.1)


def test_the_gains_of_a_normalisation_are_no_part_of_the_scale():
    landscape = Landscape(nn.Sequential(nn.BatchNorm1d(4), chain(3.0)), [])
    assert landscape.scale() == 3
    assert landscape.weights.norm() > 3


def halves(images, labels, parts):
    return list(zip(images.chunk(parts), labels.chunk(parts), strict=True))


def test_without_batch_statistics_the_landscape_is_the_same_for_every_size():
    torch.manual_seed(0)
    model, images, labels = nn.Linear(3, 4).double(), torch.rand(8, 3, dtype=torch.float64), torch.arange(8) % 4
    points = [(each := Landscape(model, halves(images, labels, parts))).at(each.weights) for parts in (1, 2, 4)]
    for point in points[1:]:
        assert point.loss == pytest.approx(points[0].loss, rel=1e-12)
        torch.testing.assert_close(point.gradient, points[0].gradient)


def test_batch_statistics_make_the_landscape_depend_on_the_size():
    # of pairs every image is normalised to -1 or 1; of all four to -3, -1, 1 and 3 over the root of 5
    model = nn.Sequential(nn.BatchNorm1d(1, eps=1e-12, affine=False), nn.Linear(1, 1, bias=False)).double()
    nn.init.ones_(model[1].weight)
    images, targets = torch.tensor([[0.0], [2.0], [4.0], [6.0]], dtype=torch.float64), torch.ones(4, 1).double()
    found = []
    for parts in (2, 1):
        landscape = Landscape(model, halves(images, targets, parts), nn.functional.l1_loss)
        found.append(landscape.at(landscape.weights).loss)
    assert found[0] == pytest.approx(1.0)  # 2, 0, 2, 0
    third = 3 / math.sqrt(5)
    assert found[1] == pytest.approx((1 + third + 1 + 1 / math.sqrt(5) + 1 - 1 / math.sqrt(5) + third - 1) / 4)


@pytest.fixture
def settings():
    return config.Smoothness(
        recipe=1, runs=["vgg38_bn"], seeds=[0], snapshots=[0], batches=2, batch_size=8, seed=1, minibatch=4,
        distances=[1e-3, 1e-2], rates=[1e-3], sizes=[2, 4, 16], size_distance=1e-2,
    )  # fmt: skip


@pytest.fixture
def snapshot(tiny, dataset, settings, tmp_path):
    def make(**model):
        run = tiny(model=model)
        batches = gradient_flow.fixed_batches(settings, dataset.train, torch.device("cpu"))
        return Snapshot(models.build(run.model, 3, seed=0), 0, [0], tmp_path, run, batches)

    return make


def test_a_snapshot_has_documented_columns_and_every_path_on_every_group(snapshot, settings):
    table = smoothness.measure(snapshot(), settings)
    assert list(table.columns) == list(smoothness.COLUMNS)
    assert table[["group", "kind", "size", "direction", "step"]].to_numpy().tolist() == [
        [group, "minibatch", 4, direction, step]
        for group in (0, 1)
        for direction, step in (("gradient", 1e-3), ("gradient", 1e-2), ("adam", 1e-3))
    ]
    assert table.drop(columns=["group", "kind", "size", "direction", "agreement"]).notna().all(axis=None)


def test_a_network_with_batch_normalisation_alone_is_measured_at_every_size(snapshot, settings):
    table = smoothness.measure(snapshot(norm="batch"), settings)
    sizes = table[table.agreement.notna()]
    found = sizes[sizes.group == 1][["kind", "size", "step"]].to_numpy().tolist()
    assert found == [["landscape", 8, 0.01]] + [
        [kind, size, 0.01] for size in (4, 2) for kind in ("landscape", "minibatch")
    ]
    assert sizes[sizes["size"] == 8].agreement.tolist() == pytest.approx([1, 1])
    assert sizes[sizes["size"] < 8].agreement.between(-1, 0.9999).all()


def test_the_same_minibatch_is_measured_alike_with_and_without_sizes(snapshot, settings):
    table = smoothness.measure(snapshot(norm="batch"), settings)
    alone = table[(table.kind == "minibatch") & (table["size"] == 4) & (table.step == 0.01)]
    assert len(alone) == 4
    assert (
        len(alone[["group", "distance", "start_loss", "loss", "gradient_change", "layer_cosine"]].drop_duplicates())
        == 2
    )


def test_two_measurements_have_equal_bytes_and_the_model_stays_as_it_is(snapshot, settings):
    given = snapshot(norm="batch")
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    first, second = (smoothness.measure(given, settings).to_csv() for _ in range(2))
    assert first == second
    assert all(torch.equal(before[name], tensor) for name, tensor in given.model.state_dict().items())
    assert all(parameter.grad is None for parameter in given.model.parameters())


@pytest.mark.parametrize("model", [{}, {"norm": "batch"}])
def test_single_precision_is_enough_for_a_network_of_38_layers(snapshot, settings, model):
    given = snapshot(stages=3, blocks=5, **model)
    images, labels = given.batches[0]
    steps = [("gradient", 1e-4), ("gradient", 1e-3)]
    single, double = (
        walk(Landscape(given.model.to(precision), [(images.to(precision), labels)]), steps)
        for precision in (torch.float32, torch.float64)
    )
    numbers = ["gradient_norm", "loss_range", "gradient_change", "cosine", "layer_cosine", "beta"]
    pd.testing.assert_frame_equal(single[numbers], double[numbers], rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [3]}, r"sizes.*\[3\].*divisors of batch_size = 8"),
        ({"distances": [0.1, 0.1]}, r"distances.*each once, the smallest first"),
        ({"rates": [0.1, 0.01]}, r"rates.*each once, the smallest first"),
    ],
)
def test_mistakes_in_the_block_name_key_and_allowed_values(settings, change, message):
    with pytest.raises(ValueError, match=message):
        config.Smoothness.model_validate(settings.model_dump() | change)


def measured(study, rows):
    """Return what was measured at the distance of the comparison, with 1 for what `rows` do not name."""
    block = study.analyses.smoothness
    base = dict.fromkeys(smoothness.COLUMNS, 1.0) | {"seed": 0, "epoch": 0, "kind": "minibatch", "agreement": math.nan}
    base |= {"size": block.minibatch, "group": 0, "direction": "gradient", "step": block.size_distance}
    table = pd.DataFrame([base | row for row in rows])
    return Measured(table, list(dict.fromkeys(table.run)), figures.looks(study), study)


def values(data):
    return {key: value for key, value, _ in why.numbers(data)}


def test_networks_are_compared_by_paired_ratios(study):
    rows = [{"run": "vgg38_start", "group": group, "beta": beta} for group, beta in ((0, 1.0), (1, 10.0))]
    rows += [{"run": "vgg38_bn_short", "group": group, "beta": beta} for group, beta in ((0, 2.0), (1, 80.0))]
    found = values(measured(study, rows))
    assert found["vgg38_bn-vgg38/0/beta"] == pytest.approx(4)  # the geometric mean of 2 and 8
    half = 12.7062 * math.log(2)  # Student's quantile for one degree; the deviation is ln(2) sqrt(2), over sqrt(2)
    assert found["vgg38_bn-vgg38/0/beta/low"] == pytest.approx(4 * math.exp(-half), rel=1e-4)
    assert found["vgg38_bn-vgg38/0/beta/high"] == pytest.approx(4 * math.exp(half), rel=1e-4)
    assert found["vgg38_bn-vgg38/0/loss_range"] == 1


def test_trainings_of_several_lengths_share_their_first_snapshots(study):
    rows = [{"run": run, "epoch": epoch} for run in ("vgg38_short", "vgg38_start") for epoch in (0, 1)]
    assert len(why.networks(measured(study, rows).table)) == 2


def test_later_snapshots_of_a_shorter_training_are_of_their_own(study):
    rows = [{"run": run, "epoch": 15} for run in ("vgg38", "vgg38_bn", "vgg38_short", "vgg38_bn_short")]
    data = measured(study, rows)
    assert sorted(why.networks(data.table).network) == ["vgg38", "vgg38_bn", "vgg38_bn_short", "vgg38_short"]
    pairs = [found[:3] for found in why.compare(data)]
    assert pairs == [("vgg38_bn", "vgg38", 15), ("vgg38_bn_short", "vgg38_short", 15)]


def test_the_last_epoch_that_two_networks_have_is_their_end(study):
    betas = {
        ("vgg38_short", 0): 1.0, ("vgg38_bn_short", 0): 2.0,
        ("vgg38_short", 15): 1.0, ("vgg38_bn_short", 15): 5.0,
        ("vgg38", 60): 3.0, ("vgg38_bn", 60): 12.0, ("vgg38_bn", 90): 1.0,
    }  # fmt: skip
    rows = [{"run": run, "epoch": epoch, "beta": beta} for (run, epoch), beta in betas.items()]
    ends = []
    for count in (2, 4, 7):
        found = values(measured(study, rows[:count]))
        assert found["vgg38_bn-vgg38/0/beta"] == pytest.approx(2)
        ends.append([found.get(f"vgg38_bn-vgg38/end/{name}") for name in ("epoch", "beta")])
    assert ends == [[None, None], [15, pytest.approx(5)], [60, pytest.approx(4)]]


def test_the_seeds_of_a_group_are_averaged_since_they_share_their_images(study):
    betas = {(0, 0): 1.0, (1, 0): 4.0, (0, 1): 16.0, (1, 1): 4.0}  # by seed and group: geometric means 2 and 8
    rows = [{"run": "vgg38", "seed": seed, "group": group, "beta": beta} for (seed, group), beta in betas.items()]
    found = values(measured(study, rows))
    key = f"vgg38/0/gradient/{study.analyses.smoothness.size_distance:g}/beta"
    assert found[key] == pytest.approx(4)
    assert found[f"{key}/low"] == pytest.approx(4 * math.exp(-12.7062 * math.log(2)), rel=1e-4)  # two groups, as above


def test_sizes_are_compared_with_the_whole_group(study):
    whole = {"run": "vgg38_bn", "size": study.analyses.smoothness.batch_size, "kind": "landscape"}
    whole |= {"agreement": 1 - 1e-9}  # as rounding may have it
    rows = [whole | {"group": group, "gradient_norm": norm} for group, norm in ((0, 1.0), (1, 5.0))]
    small = {"run": "vgg38_bn", "size": 50, "kind": "landscape", "agreement": 0.5}
    rows += [small | {"group": group, "gradient_norm": norm} for group, norm in ((0, 3.0), (1, 15.0))]
    data = measured(study, rows)
    found = values(data)
    assert found["vgg38_bn/0/landscape/50/gradient_norm"] == pytest.approx(3)
    assert found["vgg38_bn/0/landscape/50/gradient_norm/low"] == pytest.approx(3)
    assert found["vgg38_bn/0/landscape/50/agreement"] == 0.5
    assert why.tables(data)["size_ratios"].count("vgg38") == 1  # not the whole group against itself


def test_a_single_group_has_means_without_intervals(study):
    rows = [{"run": "vgg38_bn", "beta": 8.0}, {"run": "vgg38", "beta": 2.0}]
    table = why.tables(measured(study, rows))["ratios"].splitlines()
    assert r"\texttt{vgg38\_bn} & \texttt{vgg38} & 0 & 1 & 1 & 4 & 1 \\" in table


def test_networks_without_a_gradient_at_the_start_are_still_reported(study):
    """As where it has underflowed: the cosine with it is not defined for any group."""
    whole = {"run": "vgg38_bn", "size": study.analyses.smoothness.batch_size, "kind": "landscape", "agreement": 1.0}
    rows = [whole | {"group": group} for group in (0, 1)]
    rows += [{"run": "vgg38_bn", "size": 50, "group": group, "gradient_norm": 0.0} for group in (0, 1)]
    found = {key: text for key, _, text in why.numbers(measured(study, rows))}
    assert found["vgg38_bn/0/minibatch/50/agreement"] == "--"
    assert found["vgg38_bn/0/minibatch/50/gradient_norm"] == "--"
    assert found["vgg38_bn/0/minibatch/50/start_loss"] == "1 [1, 1]"


def test_rows_are_told_apart_by_kind_and_size(study):
    """One minibatch of `sizes` whose gradient is zero has no agreement; one may be of the size of all networks."""
    block = study.analyses.smoothness
    block = block.model_copy(update={"sizes": [50, block.minibatch]})
    study = study.model_copy(update={"analyses": study.analyses.model_copy(update={"smoothness": block})})
    alone = {"run": "vgg38_bn", "beta": 2.0}
    whole = {"run": "vgg38_bn", "kind": "landscape", "size": block.batch_size, "agreement": 1.0}
    again, small = alone | {"agreement": 0.5}, {"run": "vgg38_bn", "size": 50, "beta": 7.0}
    data = measured(study, [alone, whole, again, small])
    found = values(data)
    assert found[f"vgg38_bn/0/gradient/{block.size_distance:g}/beta"] == pytest.approx(2)
    assert found[f"vgg38_bn/0/minibatch/{block.minibatch}/agreement"] == 0.5
    assert math.isnan(found["vgg38_bn/0/minibatch/50/agreement"])


@pytest.mark.parametrize(
    ("alone", "averaged", "share", "signal"),
    [
        ((2.0, 2.0), (2.0, 2.0), 1.0, 1.0),  # equal gradients
        ((2.0, 2.0), (0.5, 0.5), 0.0, 0.0),  # of 16 gradients of length 2, the mean of noise has 2 over the root of 16
        ((1.0, 2.0), (0.5, 0.5), 0.04, 0.4),  # (16 / 4 - 1) / 15 and (16 / 4 - 4) / 15, over 1 + 4 and 1 / 4 + 1 / 4
    ],
)
def test_gradients_that_are_noise_have_nothing_in_common(study, alone, averaged, share, signal):
    base = {"run": "vgg38_bn", "size": study.analyses.smoothness.batch_size // 16, "agreement": 0.5}
    kinds = {"minibatch": alone, "landscape": averaged}
    rows = [
        base | {"kind": kind, "group": at, "gradient_norm": norm}
        for kind, norms in kinds.items()
        for at, norm in enumerate(norms)
    ]
    [(_, _, _, found)] = why.common(measured(study, rows))
    assert found["common"].mean == pytest.approx(share)
    assert found["signal"].mean == pytest.approx(signal)


def test_every_caption_has_a_figure_or_a_table_whatever_was_measured(study):
    data = measured(study, [{"run": "vgg38_bn_rc"}])
    assert sorted(why.CAPTIONS) == sorted([*why.draw(data), *why.tables(data)])


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_cost_is_that_of_the_arithmetic(tiny, study, norm):
    """Counted by PyTorch, but for the input's gradient, which the entry convolution does not need."""
    run = tiny(model={"filters": 24, "blocks": 2, "norm": norm})
    settings = study.analyses.smoothness.model_copy(
        update={"batches": 2, "batch_size": 4, "minibatch": 3, "sizes": [2]}
    )
    generator = torch.Generator().manual_seed(0)
    groups = [(torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
    with Flops() as counter:
        smoothness.measure(Snapshot(models.build(run.model, 3, 0), 0, [0], Path(), run, groups), settings)
    macs = models.measure(run.model, 3).macs * smoothness.passes(settings, run.model, 1)
    assert counter.total / 2 == pytest.approx(macs, rel=0.05)
