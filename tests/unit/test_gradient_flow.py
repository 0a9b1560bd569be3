import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from vanishing import config, paths
from vanishing.analysis.gradient_flow import fixed_batches, gradient_flow, measure_trajectory
from vanishing.data.records import Split
from vanishing.training import augmentation, checkpoints, models

COLUMNS = [
    "layer",
    "kind",
    "name",
    "mean_abs_gradient",
    "std_abs_gradient",
    "max_abs_gradient",
    "gradient_norm",
    "weight_norm",
    "gradient_weight_ratio",
    "zero_share",
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def total(outputs, _):
    return outputs.sum()


def weights(flow):
    return flow[flow.kind != "normalisation"]["name"].tolist()


def half_square(outputs, targets):
    return ((outputs - targets) ** 2).sum() / 2


def linear(weight):
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


def test_a_linear_layer_by_hand():
    layer = linear([[1.0, 2.0], [-1.0, 0.0]])
    # outputs (5, -1), less the targets (1, -1): residuals (4, 0); dL/dW is their outer product with (1, 2)
    flow = gradient_flow(layer, [(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0]]))], half_square)
    assert list(flow.columns) == COLUMNS
    row = flow.iloc[0]
    assert (row.layer, row.kind, row["name"]) == (1, "linear", "")
    assert row.mean_abs_gradient == (4 + 8 + 0 + 0) / 4
    assert row.max_abs_gradient == 8
    assert row.gradient_norm == pytest.approx(math.sqrt(16 + 64))
    assert row.weight_norm == pytest.approx(math.sqrt(1 + 4 + 1))
    assert row.gradient_weight_ratio == pytest.approx(math.sqrt(80 / 6))
    assert row.zero_share == 0.5
    assert math.isnan(row.std_abs_gradient)


def test_means_are_over_minibatches_and_the_deviation_divides_by_n_less_1():
    batches = [(torch.tensor([[value]]), torch.tensor([[0.0]])) for value in (1.0, -2.0, 6.0)]
    row = gradient_flow(linear([[5.0]]), batches, total).iloc[0]
    assert row.mean_abs_gradient == 3.0
    assert row.std_abs_gradient == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert row.max_abs_gradient == 6.0
    assert row.gradient_norm == 3.0
    assert row.gradient_weight_ratio == pytest.approx(3 / 5)


def test_two_layers_by_hand():
    net = nn.Sequential(linear([[2.0], [3.0]]), linear([[5.0, -7.0]]))
    # hidden (4, 6), output 20 - 42 = -22, residual -22
    flow = gradient_flow(net, [(torch.tensor([[2.0]]), torch.tensor([[0.0]]))], half_square)
    assert flow["name"].tolist() == ["0", "1"]
    assert flow.mean_abs_gradient.tolist() == [22 * 2 * (5 + 7) / 2, 22 * (4 + 6) / 2]
    assert flow.max_abs_gradient.tolist() == [22 * 2 * 7, 22 * 6]


def test_a_1_by_1_convolution_by_hand():
    net = nn.Conv2d(1, 2, kernel_size=1, bias=False)
    image = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]]])
    # the sum of the outputs gives each of the two weights the sum of the pixels
    row = gradient_flow(net, [(image, image)], total).iloc[0]
    assert (row.mean_abs_gradient, row.max_abs_gradient) == (6.0, 6.0)
    assert row.gradient_norm == pytest.approx(6 * math.sqrt(2))


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 5, 3, bias=False),
            nn.Flatten(),
            nn.Linear(80, 3),
        )


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 3, 8, 8, generator=generator), torch.randint(3, (6,), generator=generator)) for _ in range(3)
    ]


def test_a_convolutional_net_has_the_gradients_of_plain_autograd(net, batches):
    flow = gradient_flow(net, batches).set_index("name")
    assert flow.index.tolist() == ["0", "1", "3", "5"]
    assert flow.kind.tolist() == ["convolution", "normalisation", "convolution", "linear"]
    assert flow.layer.tolist() == [1, 1, 2, 3]
    for name in flow.index:
        weight = net.train().get_submodule(name).weight
        found = [torch.autograd.grad(functional.cross_entropy(net(x), y), weight)[0].numpy() for x, y in batches]
        means = [np.abs(gradient).mean() for gradient in found]
        row = flow.loc[name]
        assert row.mean_abs_gradient == pytest.approx(np.mean(means), rel=1e-5)
        assert row.std_abs_gradient == pytest.approx(np.std(means, ddof=1), rel=1e-4)
        assert row.max_abs_gradient == pytest.approx(np.abs(found).max(), rel=1e-5)
        assert row.gradient_norm == pytest.approx(np.mean([np.linalg.norm(g) for g in found]), rel=1e-5)
        assert row.weight_norm == pytest.approx(np.linalg.norm(weight.detach().numpy()), rel=1e-6)
        assert row.gradient_weight_ratio == pytest.approx(row.gradient_norm / row.weight_norm)
        assert row.zero_share == np.mean([(g == 0).mean() for g in found])


@pytest.mark.parametrize("size", [1e-20, 1e-25, 1e-30])
def test_a_tiny_gradient_is_not_0(size):
    batch = (torch.full((1, 4), size), torch.zeros(1, 1))
    row = gradient_flow(nn.Linear(4, 1, bias=False), [batch], total).iloc[0]
    assert row.mean_abs_gradient == pytest.approx(size, rel=1e-6, abs=0)
    assert row.gradient_norm == pytest.approx(2 * size, rel=1e-6, abs=0)
    assert row.zero_share == 0


def test_exact_zeros_are_counted():
    batch = (torch.tensor([[0.0, 1e-38, 0.0, 2.0]]), torch.zeros(1, 1))
    assert gradient_flow(nn.Linear(4, 1), [batch], total).zero_share.tolist() == [0.5]


def test_weights_of_0_have_no_ratio():
    row = gradient_flow(linear([[0.0]]), [(torch.ones(1, 1), torch.ones(1, 1))], total).iloc[0]
    assert (row.weight_norm, row.gradient_norm) == (0, 1)
    assert math.isnan(row.gradient_weight_ratio)


class Backwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.first = nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.first(self.norm(x)))


def test_layers_are_in_the_order_of_the_forward_pass(batches):
    flow = gradient_flow(Backwards(), [(torch.rand(2, 2), torch.tensor([0, 1]))])
    assert flow["name"].tolist() == ["norm", "first", "last"]
    assert flow.layer.tolist() == [0, 1, 2]
    assert flow.kind.tolist() == ["normalisation", "linear", "linear"]


def test_the_scale_of_a_normalisation_by_hand():
    net = nn.Sequential(nn.LayerNorm(2, eps=0), linear([[1.0, 3.0]]))
    # normalised (-1, 1), output 2, residual 2; the gradient of the scales is 2 (1, 3) (-1, 1)
    flow = gradient_flow(net, [(torch.tensor([[4.0, 6.0]]), torch.tensor([[0.0]]))], half_square)
    assert flow.mean_abs_gradient.tolist() == [4, 2]
    assert flow.weight_norm.tolist() == pytest.approx([math.sqrt(2), math.sqrt(10)])


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        (nn.ConvTranspose1d(2, 2, 1), ["convolution"]),
        (nn.GroupNorm(1, 2), ["normalisation"]),
        (nn.RMSNorm((2, 3)), ["normalisation"]),
        (nn.InstanceNorm1d(2, affine=True), ["normalisation"]),
        (nn.BatchNorm1d(2, affine=False), []),
        (nn.PReLU(2), []),
    ],
)
def test_kinds_are_those_of_the_modules(module, kinds):
    flow = gradient_flow(nn.Sequential(nn.Linear(3, 3), module), [(torch.rand(4, 2, 3), torch.zeros(4))], total)
    assert flow.kind.tolist() == ["linear", *kinds]


def test_the_convolution_on_a_shortcut_comes_where_it_is_used(tiny, batches):
    model = tiny(model={"stages": 1, "convolutions": 3, "reduction_shortcut": "convolution"}).model
    flow = gradient_flow(models.build(model, 3, seed=0), batches)
    reduction = [f"stage1.reduction.{name}" for name in ("conv1", "conv2", "conv3", "shortcut.conv")]
    assert weights(flow) == ["entry.conv", *reduction, "classifier"]


def test_a_dense_stage_has_its_layers_in_order(tiny, batches):
    model = tiny(model={"stages": 1, "blocks": 2, "shortcut": "dense"}).model
    flow = gradient_flow(models.build(model, 3, seed=0), batches)
    stage = [f"stage1.{block}.{conv}" for block in ("block1", "block2", "reduction") for conv in ("conv1", "conv2")]
    assert weights(flow) == ["entry.conv", *stage, "classifier"]
    assert (flow.mean_abs_gradient > 0).all()


def test_amplification_reaches_every_layer_before_an_activation(tiny, batches):
    plain, amplified = (
        gradient_flow(models.build(tiny(model={"gradient_amplification": f}).model, 3, seed=0), batches)
        for f in (1.0, 2.0)
    )
    # two stages of two activations each, all of them behind the entry and its normalisation
    assert (amplified.mean_abs_gradient / plain.mean_abs_gradient).tolist() == [16, 16, 16, 8, 4, 2, 1]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.same = self.layer

    def forward(self, x):
        return self.same(self.layer(x))


def test_a_shared_layer_is_one_layer():
    assert gradient_flow(Shared(), [(torch.rand(2, 2), torch.tensor([0, 1]))])["name"].tolist() == ["layer"]


def test_a_frozen_layer_is_no_layer(net, batches):
    net[3].weight.requires_grad_(False)
    assert gradient_flow(net, batches)["name"].tolist() == ["0", "1", "5"]


def test_the_model_is_left_untouched(net, batches):
    net.eval()
    net[0].weight.grad = torch.full_like(net[0].weight, 7.0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradient_flow(net, batches)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == [False] * 7
    assert net[0].weight.grad.unique().tolist() == [7.0]
    assert net[3].weight.grad is net[5].weight.grad is None
    assert not any(module._forward_hooks for module in net.modules())


def test_batch_statistics_are_used_whatever_the_mode(net, batches):
    pd.testing.assert_frame_equal(gradient_flow(net.eval(), batches), gradient_flow(net.train(), batches))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(2, 2)
        self.spare = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_the_forward_pass_does_not_use_is_named():
    with pytest.raises(ValueError, match=r"^layer 'spare' has no gradient: the forward pass does not use it$"):
        gradient_flow(Unused(), [(torch.rand(2, 2), torch.tensor([0, 1]))])


def test_a_layer_that_the_loss_does_not_depend_on_has_zeros_only():
    net = nn.Sequential(linear([[1.0]]), linear([[2.0]]))
    outer = {}
    net[0].register_forward_hook(lambda module, inputs, output: outer.update(hidden=output))
    flow = gradient_flow(net, [(torch.ones(1, 1), torch.ones(1, 1))], lambda outputs, _: outer["hidden"].sum())
    assert flow.mean_abs_gradient.tolist() == [1, 0]
    assert flow.zero_share.tolist() == [0, 1]


def test_nothing_to_measure_is_an_error(batches):
    with pytest.raises(ValueError, match=r"^gradient flow needs at least one minibatch$"):
        gradient_flow(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match=r"^gradient flow needs at least one layer with a weight$"):
        gradient_flow(nn.PReLU(3), [batches[0]], total)


def test_a_trajectory_of_another_model_is_refused_in_one_line(tmp_path, tiny, dataset, sizes):
    snapshot = paths.snapshot(tmp_path, 0)
    checkpoints.write(snapshot, models.build(tiny(model={"filters": 6}).model, 3, seed=0).state_dict())
    with pytest.raises(checkpoints.CheckpointError) as caught:
        measure_trajectory(tiny(), sizes, dataset.train, tmp_path, torch.device("cpu"))
    changed = "the parameters have changed since: set them back, or `vanishing train` trains anew"
    assert str(caught.value) == f"{snapshot}: weights of another model; {changed}"


@pytest.fixture
def sizes():
    return config.Gradients(recipe=2, batches=3, batch_size=5, seed=2)


@pytest.fixture
def numbered():
    images = np.zeros((20, 3, 32, 32), np.uint8)
    images[:, 0, 0, 0] = np.arange(20)
    return Split(images, np.arange(20, dtype=np.uint8))


def test_fixed_batches_are_the_same_each_time_without_repetition(sizes, numbered):
    first, again = (fixed_batches(sizes, numbered, torch.device("cpu")) for _ in range(2))
    assert [(tuple(x.shape), tuple(y.shape), y.dtype) for x, y in first] == [((5, 3, 32, 32), (5,), torch.int64)] * 3
    for (x, y), (other_x, other_y) in zip(first, again, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
    chosen = [label for _, labels in first for label in labels.tolist()]
    assert len(set(chosen)) == 15
    assert chosen != sorted(chosen)


def test_fixed_batches_hold_the_images_of_their_labels_normalised(sizes, numbered):
    for x, y in fixed_batches(sizes, numbered, torch.device("cpu")):
        assert torch.equal(x, augmentation.normalise(torch.from_numpy(numbered.images)[y]))


def test_augmented_batches_are_the_same_images_cropped_and_flipped_the_same_each_time(sizes, dataset):
    cpu = torch.device("cpu")
    first, again = (fixed_batches(sizes, dataset.train, cpu, augmented=True) for _ in range(2))
    plan, moved = augmentation.draw(15, sizes.seed, 0), 0
    for at, ((x, y), (other, _), (plain, labels)) in enumerate(
        zip(first, again, fixed_batches(sizes, dataset.train, cpu), strict=True)
    ):
        assert torch.equal(y, labels)
        assert torch.equal(x, other)
        for place, (image, source) in enumerate(zip(x, plain, strict=True), start=5 * at):
            row, column = (plan.offsets[place] - augmentation.PADDING).tolist()
            rows, columns = (slice(max(0, -by), 32 - max(0, by)) for by in (row, column))
            seen = image.flip(-1) if plan.flips[place] else image
            shifted = source.roll((-row, -column), (1, 2))  # what was rolled around is black in the crop
            assert torch.equal(seen[:, rows, columns], shifted[:, rows, columns])
            moved += not torch.equal(image, source)
    assert moved > 10


def test_another_seed_chooses_other_images(sizes, numbered):
    other = sizes.model_copy(update={"seed": 3})
    chosen = [fixed_batches(each, numbered, torch.device("cpu"))[0][1].tolist() for each in (sizes, other)]
    assert chosen[0] != chosen[1]


def test_what_training_amplifies_is_measured_as_it_is(tmp_path, tiny, dataset, sizes):
    plain, amplified = (tiny(model={"gradient_amplification": factor}) for factor in (1.0, 2.0))
    checkpoints.write(paths.snapshot(tmp_path, 0), models.build(plain.model, 3, 0).state_dict())
    first, second = (
        measure_trajectory(run, sizes, dataset.train, tmp_path, torch.device("cpu")) for run in (plain, amplified)
    )
    pd.testing.assert_frame_equal(first, second)


def test_a_trajectory_is_measured_snapshot_by_snapshot(tmp_path, tiny, dataset, sizes):
    run = tiny(model={"norm": "batch"})
    for epoch, seed in ((10, 1), (2, 0)):
        checkpoints.write(paths.snapshot(tmp_path, epoch), models.build(run.model, 3, seed).state_dict())
    checkpoints.write(paths.best(tmp_path), {})
    table = measure_trajectory(run, sizes, dataset.train, tmp_path, torch.device("cpu"))
    assert list(table.columns) == ["epoch", "images", *COLUMNS]
    assert table.epoch.tolist() == [2] * 22 + [10] * 22
    assert table["images"].tolist() == 2 * (["plain"] * 11 + ["augmented"] * 11)
    assert table["name"].tolist()[:3] == ["entry.conv", "entry.norm", "stage1.reduction.conv1"]
    assert table["name"].iloc[10] == "classifier"
    model = models.build(run.model, 3, seed=1)
    for images in ("plain", "augmented"):
        batches = fixed_batches(sizes, dataset.train, torch.device("cpu"), images == "augmented")
        later = table[(table.epoch == 10) & (table["images"] == images)]
        found = later.drop(columns=["epoch", "images"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(found, gradient_flow(model, batches))
