import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from vanishing import models, parameters

PLAIN = {"norm": "none", "shortcut": "none", "reduction_shortcut": "none"}
RESNET = {"norm": "batch", "shortcut": "identity", "reduction_shortcut": "pool"}

# stages, blocks, what differs from the plain model, layers, parameters; 100 classes, 32 filters
TABLE = {
    "vgg08": (3, 0, {}, 8, 59_716),
    "vgg38": (3, 5, {}, 38, 336_196),
    "vgg38_bn": (3, 5, {"norm": "batch"}, 38, 338_500),
    "vgg38_rc": (3, 5, {"shortcut": "identity"}, 38, 336_196),
    "vgg38_bn_rc": (3, 5, {"norm": "batch", "shortcut": "identity"}, 38, 338_500),
    "vgg38_resnet": (3, 5, RESNET, 38, 338_500),
    "vgg68_resnet": (3, 10, RESNET, 68, 616_900),
    "vgg72_resnet": (5, 6, RESNET, 72, 654_148),
    "vgg106_resnet": (4, 12, RESNET, 106, 969_604),
    "vgg132_resnet": (5, 12, RESNET, 132, 1_210_948),
}

# runs of params.yaml
RUNS = {name: TABLE[name][3:] for name in ("vgg08", "vgg38", "vgg38_bn", "vgg38_rc", "vgg38_bn_rc")} | {
    "vgg38_bn_lr2": (38, 338_500),
    "vgg38_bn_rc_lr2": (38, 338_500),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def configured(study):
    def make(**differences):
        return parameters.Model.model_validate(study.model.model_dump() | PLAIN | differences)

    return make


@pytest.mark.parametrize(("stages", "blocks", "differences", "layers", "count"), TABLE.values(), ids=TABLE)
def test_every_model_has_its_exact_size(configured, stages, blocks, differences, layers, count):
    size = models.measure(configured(stages=stages, blocks=blocks, **differences), classes=100)
    assert (size.layers, size.parameters) == (layers, count)


def test_every_run_of_the_study_has_its_exact_size(study):
    sizes = {name: models.measure(study.run(name).model, classes=100) for name in study.runs}
    assert {name: (size.layers, size.parameters) for name, size in sizes.items()} == RUNS


def test_the_size_is_that_of_the_built_model(configured):
    model = configured(stages=2, blocks=1, norm="batch")
    network = models.build(model, classes=7, seed=0)
    assert models.measure(model, classes=7).parameters == sum(weight.numel() for weight in network.parameters())


def test_the_multiply_accumulates_of_vgg08_by_hand(configured):
    entry = 32 * 32 * 32 * 3 * 9
    filters = 32 * 32 * 9
    reductions = sum(filters * (size**2 + (size // 2) ** 2) for size in (32, 16, 8))
    classifier = 32 * 100
    assert models.measure(configured(blocks=0), classes=100).macs == entry + reductions + classifier == 16_370_816


def test_a_processing_block_adds_two_convolutions_of_multiply_accumulates(configured):
    shallow, deep = (models.measure(configured(stages=1, blocks=blocks), classes=100) for blocks in (0, 1))
    assert deep.macs - shallow.macs == 2 * 32 * 32 * 32 * 32 * 9


def test_measuring_leaves_the_global_generator_alone(configured):
    before = torch.get_rng_state()
    models.measure(configured(), classes=100)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_biases_are_in_reduction_blocks_and_in_the_classifier_only(configured, norm):
    network = models.build(configured(stages=2, blocks=2, norm=norm), classes=10, seed=0)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert len(layers) == 1 + 2 * 3 * 2 + 1
    for name, layer in layers.items():
        assert (layer.bias is not None) == ("reduction" in name or name == "classifier"), name


@pytest.mark.parametrize(
    ("norm", "at_entry", "elsewhere"),
    [
        ("none", nn.BatchNorm2d, nn.Identity),
        ("batch", nn.BatchNorm2d, nn.BatchNorm2d),
        ("group", nn.GroupNorm, nn.GroupNorm),
    ],
)
def test_the_entry_is_normalised_always_and_the_rest_as_asked(configured, norm, at_entry, elsewhere):
    network = models.build(configured(stages=2, blocks=1, norm=norm), classes=10, seed=0)
    assert type(network.entry.norm) is at_entry
    norms = [module for name, module in network.named_modules() if name.endswith(("norm1", "norm2"))]
    assert [type(module) for module in norms] == [elsewhere] * 8


def test_group_normalisation_has_the_configured_groups(configured):
    network = models.build(configured(stages=1, blocks=0, norm="group", groups=4), classes=10, seed=0)
    assert {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)} == {4}


def test_the_convolutions_are_3_by_3_with_padding_1(configured):
    network = models.build(configured(stages=2, blocks=1, filters=4), classes=10, seed=0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.padding, layer.stride, layer.out_channels) == ((3, 3), (1, 1), (1, 1), 4)


def block_of(configured, name, **differences):
    model = configured(stages=1, blocks=1, filters=4, groups=2, **differences)
    network = models.build(model, classes=3, seed=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return getattr(network.stage1, name)


def batch_norm(x, norm):
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    scaled = (x - mean) / (variance + 1e-5).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def leaky(x):
    return torch.where(x > 0, x, 0.01 * x)


@pytest.fixture
def features():
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_processing_block_by_hand(configured, features):
    block = block_of(configured, "block1", norm="batch", shortcut="identity")
    first = leaky(batch_norm(functional.conv2d(features, block.conv1.weight, padding=1), block.norm1))
    second = batch_norm(functional.conv2d(first, block.conv2.weight, padding=1), block.norm2)
    torch.testing.assert_close(block(features), leaky(second + features), rtol=1e-4, atol=1e-5)


def test_a_plain_processing_block_by_hand(configured, features):
    block = block_of(configured, "block1")
    first = leaky(functional.conv2d(features, block.conv1.weight, padding=1))
    torch.testing.assert_close(block(features), leaky(functional.conv2d(first, block.conv2.weight, padding=1)))


@pytest.mark.parametrize("shortcut", ["none", "pool"])
def test_a_reduction_block_by_hand(configured, features, shortcut):
    block = block_of(configured, "reduction", norm="batch", shortcut="identity", reduction_shortcut=shortcut)
    conv1 = functional.conv2d(features, block.conv1.weight, block.conv1.bias, padding=1)
    pooled = functional.avg_pool2d(leaky(batch_norm(conv1, block.norm1)), 2)
    conv2 = functional.conv2d(pooled, block.conv2.weight, block.conv2.bias, padding=1)
    carried = functional.avg_pool2d(features, 2) if shortcut == "pool" else 0
    expected = leaky(batch_norm(conv2, block.norm2) + carried)
    assert expected.shape == (5, 4, 4, 4)
    torch.testing.assert_close(block(features), expected, rtol=1e-4, atol=1e-5)


def test_the_ends_of_a_model_by_hand(configured):
    network = models.build(configured(stages=1, blocks=0, filters=4), classes=3, seed=1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    convolved = functional.conv2d(images, network.entry.conv.weight, padding=1)
    reduced = network.stage1(leaky(batch_norm(convolved, network.entry.norm)))
    logits = reduced.mean(dim=(2, 3)) @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("relu", torch.relu), ("sigmoid", torch.sigmoid), ("tanh", torch.tanh)])
def test_the_activation_is_the_configured_one(configured, features, name, kind):
    block = block_of(configured, "block1", activation=name)
    first = kind(functional.conv2d(features, block.conv1.weight, padding=1))
    torch.testing.assert_close(block(features), kind(functional.conv2d(first, block.conv2.weight, padding=1)))


CHOICES = list(
    itertools.product(
        ["leaky_relu", "relu", "sigmoid", "tanh"],
        ["none", "batch", "group"],
        ["none", "identity"],
        ["none", "pool"],
    )
)


@pytest.mark.parametrize(("activation", "norm", "shortcut", "reduction_shortcut"), CHOICES)
def test_every_choice_maps_images_to_logits(configured, activation, norm, shortcut, reduction_shortcut):
    model = configured(
        stages=2,
        blocks=1,
        filters=4,
        groups=2,
        activation=activation,
        norm=norm,
        shortcut=shortcut,
        reduction_shortcut=reduction_shortcut,
    )
    logits = models.build(model, classes=7, seed=0)(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_each_stage_halves_height_and_width(configured, stages):
    network = models.build(configured(stages=stages, blocks=0, filters=4), classes=7, seed=0)
    features = nn.Sequential(*list(network)[: stages + 1])(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, 4, 32 >> stages, 32 >> stages)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_the_weights_hang_on_the_seed_alone(configured):
    model = configured(stages=1, blocks=1, filters=4)
    first = models.build(model, classes=3, seed=4).state_dict()
    torch.rand(5)
    again, other = (models.build(model, classes=3, seed=seed).state_dict() for seed in (4, 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_building_leaves_the_global_generator_alone(configured):
    before = torch.get_rng_state()
    models.build(configured(stages=1, blocks=0), classes=3, seed=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_initialisation_is_pytorchs_default(configured):
    network = models.build(configured(stages=1, blocks=0, filters=4), classes=3, seed=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        entry = nn.Conv2d(3, 4, 3, bias=False)
        first, second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        classifier = nn.Linear(4, 3)
    reduction = network.stage1.reduction
    for ours, theirs in (
        (network.entry.conv, entry),
        (reduction.conv1, first),
        (reduction.conv2, second),
        (network.classifier, classifier),
    ):
        assert torch.equal(ours.weight, theirs.weight)
        assert ours.bias is theirs.bias is None or torch.equal(ours.bias, theirs.bias)
