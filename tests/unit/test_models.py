import functools
import itertools
import typing

import pytest
import torch
from torch import nn
from torch.nn import functional

from vanishing import config
from vanishing.analysis import gradient_flow as flow
from vanishing.training import augmentation, models
from vanishing.training.step import Learner

PLAIN = {"norm": "none", "shortcut": "none", "reduction": "plain", "reduction_shortcut": "none"}
THREE = {"norm": "batch", "shortcut": "identity", "reduction_shortcut": "convolution", "convolutions": 3}
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
    # entry 928, stages of a processing block 3 (9,216 + 64), a reduction block 3 (9,216 + 32 + 64) and its shortcut
    # 1,024 + 64, classifier 3,300: 928 + 2 (27,840 + 27,936 + 1,088) + 3,300
    "vgg16_three": (2, 1, THREE, 16, 117_956),
    "vgg50_three": (3, 4, THREE, 50, 425_380),
    "vgg150_three": (4, 11, THREE, 150, 1_345_284),
    # a processing block is 2 x 9,216 weights, wherever it stands
    "vgg10": (3, [1, 0, 0], {}, 10, 78_148),
    "vgg12": (3, [1, 1, 0], {}, 12, 96_580),
    "vgg14 with BN": (3, [1, 1, 1], {"norm": "batch"}, 14, 59_716 + 3 * 18_432 + (6 + 6) * 64),
    "vgg22": (3, [3, 2, 2], {}, 22, 188_740),
    "vgg38 by stages": (3, [5, 5, 5], {}, 38, 336_196),
    # three shortcuts of 1,024 + 64 on top of vgg38_bn_rc: 338,500 + 3 x 1,088
    "vgg38_bn_rc_convolution": (3, 5, RESNET | {"reduction_shortcut": "convolution"}, 41, 341_764),
    "vgg38_bn_rc_subsample": (3, 5, RESNET | {"reduction_shortcut": "subsample"}, 38, 338_500),
    # block b reads 32 b channels, 9,216 (b + 1) weights; the reduction block 192, 9,216 x 7 + 64:
    # 928 + 3 (9,216 (2 + 3 + 4 + 5 + 6) + 64,576) + 3,300
    "vgg38_dense": (3, 5, {"shortcut": "dense"}, 38, 750_916),
}

# runs of params.yaml: layers and parameters
RUNS = {
    "vgg08": (8, 59_716),
    "vgg38": (38, 336_196),
    "vgg38_bn": (38, 338_500),
    "vgg38_rc": (38, 336_196),
    "vgg38_bn_rc": (38, 338_500),
    "vgg38_bn_lr2": (38, 338_500),
    "vgg38_bn_rc_lr2": (38, 338_500),
    "vgg08_it": (8, 59_716),
    "vgg38_it": (38, 336_196),
    "vgg38_bn_it": (38, 338_500),
    "vgg38_rc_it": (38, 336_196),
    "vgg38_bn_rc_it": (38, 338_500),
    "vgg38_bn_lr2_it": (38, 338_500),
    "vgg38_bn_rc_lr2_it": (38, 338_500),
    "vgg38_bn_long": (38, 338_500),
    "vgg38_bn_rc_lr2_long": (38, 338_500),
    "vgg38_bn_long_it": (38, 338_500),
    "vgg38_bn_rc_lr2_long_it": (38, 338_500),
    "vgg38_bn_lr0_0001": (38, 338_500),
    "vgg38_bn_lr0_0005": (38, 338_500),
    "vgg38_bn_lr0_005": (38, 338_500),
    "vgg38_bn_lr0_05": (38, 338_500),
    "vgg38_bn_lr0_05_b50": (38, 338_500),
    "vgg38_bn_lr0_05_b150": (38, 338_500),
    "vgg38_bn_lr0_05_b200": (38, 338_500),
    "vgg38_bn_lr0_05_b400": (38, 338_500),
    "vgg38_bn_lr0_05_b800": (38, 338_500),
    "vgg38_resnet": (38, 338_500),
    "vgg38_resnet_sigmoid": (38, 338_500),
    "vgg38_resnet_wd4": (38, 338_500),
    "vgg38_resnet_wd3": (38, 338_500),
    "vgg38_resnet_wd2": (38, 338_500),
    "vgg38_resnet_wd3_x5": (38, 338_500),
    "vgg38_resnet_wd3_x10": (38, 338_500),
    "vgg38_resnet_wd3_x30": (38, 338_500),
    "vgg38_resnet_wd3_x100": (38, 338_500),
    "vgg38_resnet_wd3_b256": (38, 338_500),
    "vgg38_resnet_wd3_b512": (38, 338_500),
    "vgg68_resnet_wd3": (68, 616_900),
    "vgg72_resnet_wd3": (72, 654_148),
    "vgg106_resnet_wd3": (106, 969_604),
    "vgg132_resnet_wd3": (132, 1_210_948),
    "vgg16_three": (16, 117_956),
    "vgg50_three": (50, 425_380),
    "vgg150_three": (150, 1_345_284),
    "vgg16_three_it": (16, 117_956),
    "vgg50_three_it": (50, 425_380),
    "vgg150_three_it": (150, 1_345_284),
    "vgg38_bn_rc_convolution": (41, 341_764),
    "vgg38_bn_rc_subsample": (38, 338_500),
    # entry 928, stages of 16 (18,432 + 128) and 18,624, or without the norms 16 x 18,432 and 18,496, classifier 3,300
    "vgg70_bn": (70, 635_396),
    "vgg70_rc": (70, 631_044),
    "vgg38_gn": (38, 338_500),
    "vgg38_gn_b10": (38, 338_500),
    "vgg38_bn_b10": (38, 338_500),
    "vgg38_he": (38, 336_196),
    "vgg38_orthogonal": (38, 336_196),
    "vgg38_dense": (38, 750_916),
    "vgg38_amplified": (38, 336_196),
    "vgg38_bn_rc_patience": (38, 338_500),
    "vgg38_bn_rc_l1": (38, 338_500),
    # 64 filters: entry 27 x 64 + 128, stages of 5 x 2 (36,864 + 128) and 2 (36,864 + 64 + 128), classifier 6,500
    "vgg38_bn_rc_wide": (38, 1_340_452),
    # 3 stages of two norms of 32 channels on top of vgg08: 59,716 + 3 x 2 x 64
    "vgg08_bn": (8, 60_100),
    "vgg08_lr2": (8, 59_716),
    "vgg38_lr2": (38, 336_196),
    "vgg38_rc_lr2": (38, 336_196),
    "vgg08_lr4": (8, 59_716),
    "vgg38_lr4": (38, 336_196),
    "vgg38_rc_lr4": (38, 336_196),
    "vgg38_bn_rc_lr4": (38, 338_500),
    "vgg08_bn_it": (8, 60_100),
    "vgg08_lr2_it": (8, 59_716),
    "vgg38_lr2_it": (38, 336_196),
    "vgg38_rc_lr2_it": (38, 336_196),
    "vgg08_lr4_it": (8, 59_716),
    "vgg38_lr4_it": (38, 336_196),
    "vgg38_rc_lr4_it": (38, 336_196),
    "vgg38_bn_rc_lr4_it": (38, 338_500),
    "vgg38_bn_lr0_0001_it": (38, 338_500),
    "vgg08_constant": (8, 59_716),
    "vgg38_bn_constant": (38, 338_500),
    "vgg38_rc_constant": (38, 336_196),
    "vgg38_bn_rc_constant": (38, 338_500),
    "vgg38_bn_lr2_constant": (38, 338_500),
    "vgg38_bn_rc_lr2_constant": (38, 338_500),
    "vgg08_split1": (8, 59_716),
    "vgg08_split2": (8, 59_716),
    "vgg08_fp32": (8, 59_716),
    "vgg08_it_fp32": (8, 59_716),
    "vgg38_fp32": (38, 336_196),
    "vgg38_bn_rc_fp32": (38, 338_500),
    "vgg38_bn_rc_long": (38, 338_500),
    "vgg38_bn_rc_long_it": (38, 338_500),
    "vgg08_short": (8, 59_716),
    "vgg38_short": (38, 336_196),
    "vgg38_bn_short": (38, 338_500),
    "vgg38_rc_short": (38, 336_196),
    "vgg38_bn_rc_short": (38, 338_500),
    "vgg38_bn_lr2_short": (38, 338_500),
    "vgg38_bn_rc_lr2_short": (38, 338_500),
    "vgg38_bn_rc_lr2_l1": (38, 338_500),
    "vgg38_bn_rc_lr2_wd3": (38, 338_500),
    "vgg38_gn_rc": (38, 338_500),
    # norms of 12 x 64 in each stage on top of vgg38_dense: 750,916 + 3 x 768
    "vgg38_bn_dense": (38, 753_220),
    "vgg38_bn_amplified": (38, 338_500),
    "vgg38_bn_rc_patience_long": (38, 338_500),
    "vgg38_bn_lr0_05_b1600": (38, 338_500),
    # entry 75 x 32 + 64, stages of 5 x 2 (25,600 + 64) and 2 (25,600 + 32 + 64), classifier 3,300
    "vgg38_resnet_wd3_k5": (38, 929_860),
    # convolutions of 32 x 8 + 8, 9 x 8 x 8 + 8 and 8 x 32 + 32 and norms of 16, 16 and 64 for the 18,496 + 128 of each
    # plain reduction block of vgg38_bn_rc: 338,500 - 3 (18,624 - 1,136 - 96)
    "vgg38_bn_rc_bottleneck": (41, 286_324),
    "vgg68_bn_rc": (68, 616_900),
    # 64 filters: entry 27 x 64 + 128, stages of 10 x 2 (36,864 + 128) and 2 (36,864 + 64 + 128), classifier 6,500
    "vgg68_bn_rc_wide": (68, 2_450_212),
    "vgg08_start": (8, 59_716),
    "vgg08_bn_start": (8, 60_100),
    "vgg38_start": (38, 336_196),
    "vgg38_bn_start": (38, 338_500),
    "vgg38_rc_start": (38, 336_196),
    "vgg38_bn_rc_start": (38, 338_500),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def configured(study):
    def make(**differences):
        return config.Model.model_validate(study.model.model_dump() | PLAIN | differences)

    return make


@pytest.mark.parametrize(("stages", "blocks", "differences", "layers", "count"), TABLE.values(), ids=TABLE)
def test_every_model_has_its_exact_size(configured, stages, blocks, differences, layers, count):
    size = models.measure(configured(stages=stages, blocks=blocks, **differences), classes=100)
    assert (size.layers, size.parameters) == (layers, count)


def test_every_run_of_the_study_has_its_exact_size(study):
    measure = functools.cache(lambda model: models.measure(model, classes=100))  # many runs are of one model
    sizes = {name: measure(study.run(name).model) for name in study.runs}
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


def test_the_multiply_accumulates_of_convolutions_on_shortcuts(configured):
    plain, more = (models.measure(configured(reduction_shortcut=kind), classes=100) for kind in ("none", "convolution"))
    assert more.macs - plain.macs == 32 * 32 * (16**2 + 8**2 + 4**2)


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
        ("none", models.BatchNorm, nn.Identity),
        ("batch", models.BatchNorm, models.BatchNorm),
        ("group", nn.GroupNorm, nn.GroupNorm),
    ],
)
def test_the_entry_is_normalised_always_and_the_rest_as_asked(configured, norm, at_entry, elsewhere):
    network = models.build(configured(stages=2, blocks=1, norm=norm), classes=10, seed=0)
    assert type(network.entry.norm) is at_entry
    norms = [module for name, module in network.named_modules() if name.endswith(("norm1", "norm2"))]
    assert [type(module) for module in norms] == [elsewhere] * 8


@pytest.mark.parametrize(("norm", "count"), [("none", 1), ("batch", 1 + 2 * 2 * 2), ("group", 0)])
def test_the_counters_of_minibatches_are_left_to_the_training_step(configured, norm, count):
    network = models.build(configured(stages=2, blocks=1, norm=norm), classes=10, seed=0)
    network(torch.rand(2, 3, 32, 32))
    counters = models.counters(network)
    for counter in counters:
        counter.add_(1)
    named = {key: each for key, each in network.state_dict().items() if key.endswith("num_batches_tracked")}
    assert [each.item() for each in named.values()] == [each.item() for each in counters] == [1] * count


def test_group_normalisation_has_the_configured_groups(configured):
    network = models.build(configured(stages=1, blocks=0, norm="group", groups=4), classes=10, seed=0)
    assert {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)} == {4}


@pytest.mark.parametrize(("size", "padding"), [(3, 1), (5, 2)])
def test_the_convolutions_are_of_the_configured_size_and_keep_that_of_their_input(configured, size, padding):
    network = models.build(configured(stages=2, blocks=1, filters=4, kernel_size=size), classes=10, seed=0)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 1 + 2 * 4
    for layer in layers:
        assert (layer.kernel_size, layer.padding) == ((size, size), (padding, padding))
        assert (layer.stride, layer.out_channels) == ((1, 1), 4)


def stage_of(configured, **differences):
    network = models.build(configured(stages=1, filters=4, groups=2, **differences), classes=3, seed=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.stage1


def block_of(configured, name, **differences):
    return getattr(stage_of(configured, blocks=1, **differences), name)


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


def test_a_processing_block_of_three_convolutions_by_hand(configured, features):
    block = block_of(configured, "block1", norm="batch", shortcut="identity", convolutions=3)
    first = leaky(batch_norm(functional.conv2d(features, block.conv1.weight, padding=1), block.norm1))
    second = leaky(batch_norm(functional.conv2d(first, block.conv2.weight, padding=1), block.norm2))
    third = batch_norm(functional.conv2d(second, block.conv3.weight, padding=1), block.norm3)
    torch.testing.assert_close(block(features), leaky(third + features), rtol=1e-4, atol=1e-5)


def carried(block, features, shortcut):
    match shortcut:
        case "none":
            return torch.zeros(())
        case "pool":
            return functional.avg_pool2d(features, 2)
        case "subsample":
            return features.unflatten(2, (4, 2)).unflatten(4, (4, 2))[:, :, :, 0, :, 0]
        case "convolution":
            weight = block.shortcut.conv.weight
            assert weight.shape == (4, 4, 1, 1)
            mixed = torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], features)
            return batch_norm(carried(block, mixed, "subsample"), block.shortcut.norm)


@pytest.mark.parametrize("convolutions", [2, 3])
@pytest.mark.parametrize("shortcut", ["none", "pool", "convolution", "subsample"])
def test_a_reduction_block_by_hand(configured, features, shortcut, convolutions):
    differences = {"norm": "batch", "reduction_shortcut": shortcut, "convolutions": convolutions}
    block = block_of(configured, "reduction", **differences)
    conv1 = functional.conv2d(features, block.conv1.weight, block.conv1.bias, padding=1)
    pooled = functional.avg_pool2d(leaky(batch_norm(conv1, block.norm1)), 2)
    out = batch_norm(functional.conv2d(pooled, block.conv2.weight, block.conv2.bias, padding=1), block.norm2)
    if convolutions == 3:
        out = functional.conv2d(leaky(out), block.conv3.weight, block.conv3.bias, padding=1)
        out = batch_norm(out, block.norm3)
    expected = leaky(out + carried(block, features, shortcut))
    assert expected.shape == (5, 4, 4, 4)
    torch.testing.assert_close(block(features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shortcut", ["none", "pool", "convolution"])
def test_a_bottleneck_by_hand(configured, features, shortcut):
    differences = {"norm": "batch", "reduction": "bottleneck", "reduction_shortcut": shortcut, "kernel_size": 5}
    block = block_of(configured, "reduction", **differences)
    assert [layer.weight.shape for layer in (block.conv1, block.conv2, block.conv3)] == [
        (1, 4, 1, 1), (1, 1, 5, 5), (4, 1, 1, 1),
    ]  # fmt: skip
    narrow = functional.conv2d(features, block.conv1.weight, block.conv1.bias)
    pooled = functional.avg_pool2d(leaky(batch_norm(narrow, block.norm1)), 2)
    deep = functional.conv2d(pooled, block.conv2.weight, block.conv2.bias, padding=2)
    wide = functional.conv2d(leaky(batch_norm(deep, block.norm2)), block.conv3.weight, block.conv3.bias)
    expected = leaky(batch_norm(wide, block.norm3) + carried(block, features, shortcut))
    assert expected.shape == (5, 4, 4, 4)
    torch.testing.assert_close(block(features), expected, rtol=1e-4, atol=1e-5)


def test_a_bottleneck_has_three_convolutions_and_reads_what_a_dense_stage_gives(configured):
    for convolutions in (2, 3):
        dense = {"shortcut": "dense", "reduction": "bottleneck", "convolutions": convolutions}
        stage = stage_of(configured, blocks=2, **dense)
        layers = [layer for layer in stage.reduction.modules() if isinstance(layer, nn.Conv2d)]
        assert [layer.in_channels for layer in layers] == [12, 1, 1]
        assert stage(torch.rand(2, 4, 8, 8)).shape == (2, 4, 4, 4)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_a_bottleneck_is_normalised_as_the_other_blocks_are(configured, norm):
    model = configured(stages=1, blocks=0, filters=8, groups=2, norm=norm, reduction="bottleneck")
    reduction = models.build(model, classes=3, seed=1).stage1.reduction
    norms = [reduction.norm1, reduction.norm2, reduction.norm3]
    expected = [(2, 2), (2, 2), (2, 8)] if norm == "group" else []
    assert [(each.num_groups, each.num_channels) for each in norms if isinstance(each, nn.GroupNorm)] == expected
    assert all(layer.bias is not None for layer in (reduction.conv1, reduction.conv2, reduction.conv3))


def test_the_convolution_on_a_shortcut_is_normalised_as_the_others_are_and_has_no_bias(configured):
    for norm, kind in (("none", nn.Identity), ("batch", models.BatchNorm), ("group", nn.GroupNorm)):
        shortcut = block_of(configured, "reduction", norm=norm, reduction_shortcut="convolution").shortcut
        assert type(shortcut.norm) is kind
        assert shortcut.conv.bias is None


@pytest.mark.parametrize("filters", [1, 2, 3, 4, 7, 8, 12, 15, 16, 32])
def test_the_gradients_of_the_convolution_on_a_shortcut_by_hand(configured, filters):
    # as a strided convolution it crashes the process, hangs or is wrong with few filters in channels last
    model = configured(stages=1, blocks=0, filters=filters, reduction_shortcut="convolution")
    shortcut = models.build(model, classes=3, seed=1).to(memory_format=torch.channels_last).stage1.reduction.shortcut
    generator = torch.Generator().manual_seed(0)
    shape, weight = (8, filters, 16, 16), shortcut.conv.weight
    features = torch.randn(8, filters, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    gradient = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    shortcut(features.requires_grad_()).backward(gradient)
    kept = features.detach().unflatten(2, (16, 2)).unflatten(4, (16, 2))[:, :, :, 0, :, 0]
    of_weight = torch.einsum("bohw,bihw->oi", gradient.double(), kept.double())[:, :, None, None]
    of_features = torch.zeros(features.shape, dtype=torch.double)
    of_features[:, :, ::2, ::2] = torch.einsum("bohw,oi->bihw", gradient.double(), weight[:, :, 0, 0].double())
    torch.testing.assert_close(weight.grad.double(), of_weight, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(features.grad.double(), of_features, rtol=1e-4, atol=1e-5)


def test_a_dense_stage_by_hand(configured, features):
    stage = stage_of(configured, blocks=2, norm="batch", shortcut="dense")

    def block(x, layers):
        first = leaky(batch_norm(functional.conv2d(x, layers.conv1.weight, padding=1), layers.norm1))
        return leaky(batch_norm(functional.conv2d(first, layers.conv2.weight, padding=1), layers.norm2))

    first = block(features, stage.block1)
    second = block(torch.cat([features, first], 1), stage.block2)
    read = torch.cat([features, first, second], 1)
    reduction = stage.reduction
    conv1 = functional.conv2d(read, reduction.conv1.weight, reduction.conv1.bias, padding=1)
    pooled = functional.avg_pool2d(leaky(batch_norm(conv1, reduction.norm1)), 2)
    conv2 = functional.conv2d(pooled, reduction.conv2.weight, reduction.conv2.bias, padding=1)
    assert reduction.conv1.weight.shape == (4, 12, 3, 3)
    torch.testing.assert_close(stage(features), leaky(batch_norm(conv2, reduction.norm2)), rtol=1e-4, atol=1e-5)


def centred(block):
    """Have the convolutions give back each channel as it is."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return block


@pytest.mark.parametrize(
    ("name", "differences", "gradient"),
    [
        ("block1", {}, 3 * 3),
        ("block1", {"convolutions": 3}, 3 * 3 * 3),
        ("block1", {"shortcut": "identity"}, 3 * (3 + 1)),
        ("reduction", {}, 3 * 3 / 4),
        ("reduction", {"reduction_shortcut": "pool"}, 3 * (3 + 1) / 4),
    ],
)
def test_amplification_multiplies_the_gradient_at_each_activation(configured, name, differences, gradient):
    # positive inputs and unit filters: an activation is the identity, pooling shares a gradient among 4 pixels
    block = centred(block_of(configured, name, gradient_amplification=3.0, **differences))
    plain = centred(block_of(configured, name, **differences))
    x = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.equal(block(x), plain(x))
    block(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, gradient))


def test_amplification_doubles_the_gradient_of_a_layer_for_every_activation_of_a_block_behind_it(configured):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, amplified = (
        models.build(configured(stages=2, blocks=2, filters=4, gradient_amplification=factor), classes=3, seed=1)
        for factor in (1.0, 2.0)
    )
    for network in (plain, amplified):
        functional.cross_entropy(network(images), torch.tensor([0, 1, 2, 0])).backward()
    assert torch.equal(plain(images), amplified(images))
    weights = [(name, weight) for name, weight in plain.named_parameters() if weight.dim() > 1]
    assert len(weights) == 1 + 2 * 3 * 2 + 1
    for (name, weight), behind in zip(weights, [12, *range(12, 0, -1), 0], strict=True):
        assert torch.equal(amplified.get_parameter(name).grad, weight.grad * 2**behind), name


def test_amplification_has_no_weights(configured):
    plain, amplified = (models.build(configured(gradient_amplification=f), classes=3, seed=1) for f in (1.0, 2.0))
    assert list(plain.state_dict()) == list(amplified.state_dict())


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
        [("none", "none"), ("none", "pool"), ("identity", "none"), ("identity", "pool"), ("identity", "convolution"),
         ("identity", "subsample"), ("none", "convolution"), ("none", "subsample"), ("dense", "none")],
        [2, 3],
    )
)  # fmt: skip


@pytest.mark.parametrize(("activation", "norm", "shortcuts", "convolutions"), CHOICES)
def test_every_choice_maps_images_to_logits_and_every_weight_has_a_gradient(
    configured, activation, norm, shortcuts, convolutions
):
    model = configured(
        stages=2,
        blocks=1,
        filters=4,
        groups=2,
        activation=activation,
        norm=norm,
        shortcut=shortcuts[0],
        reduction_shortcut=shortcuts[1],
        convolutions=convolutions,
    )
    network = models.build(model, classes=7, seed=0)
    logits = network(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad.isfinite().all(), name


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


def test_a_residual_model_draws_its_weights_in_the_order_of_its_layers(study):
    network = models.build(study.run("vgg38_bn_rc").model, classes=100, seed=0)
    ours = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [nn.Conv2d(3, 32, 3, bias=False)]
        for _ in range(3):
            theirs += [nn.Conv2d(32, 32, 3, bias=False) for _ in range(10)] + [nn.Conv2d(32, 32, 3) for _ in range(2)]
        theirs.append(nn.Linear(32, 100))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert one.bias is other.bias is None or torch.equal(one.bias, other.bias)


def drawn(configured, **differences):
    """Return a wide model's convolutions, the classifier last; its biases are 0."""
    differences = {"reduction_shortcut": "convolution"} | differences
    network = models.build(configured(stages=1, blocks=1, filters=64, **differences), classes=100, seed=3)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 1 + 2 + 3 + 1
    assert not any(layer.bias.any() for layer in layers if layer.bias is not None)
    return layers


GAINS = {"leaky_relu": (2 / (1 + 0.01**2)) ** 0.5, "relu": 2**0.5, "sigmoid": 1, "tanh": 5 / 3}


@pytest.mark.parametrize(("activation", "gain"), GAINS.items())
def test_hes_weights_have_the_variance_of_gain_squared_over_inputs(configured, activation, gain):
    *convolutions, classifier = drawn(configured, initialisation="he", activation=activation)
    for layer, expected in [*((each, gain) for each in convolutions), (classifier, 1)]:
        weight = layer.weight.detach().double()
        inputs = weight[0].numel()  # 27, 64 or 576
        # the standard deviation of n draws has a relative error of 1 / sqrt(2 n)
        error = 4 / (2 * weight.numel()) ** 0.5
        assert weight.std().item() == pytest.approx(expected / inputs**0.5, rel=error)
        assert abs(weight.mean().item()) < 4 * expected / (inputs * weight.numel()) ** 0.5
        beyond = (weight.abs() > 2 * expected / inputs**0.5).double().mean().item()
        assert beyond == pytest.approx(0.0455, abs=0.02)  # normal: a uniform distribution has none


@pytest.mark.parametrize(("activation", "gain"), GAINS.items())
def test_orthogonal_weights_keep_lengths_up_to_the_gain(configured, activation, gain):
    *convolutions, classifier = drawn(configured, initialisation="orthogonal", activation=activation)
    for layer, expected in [*((each, gain) for each in convolutions), (classifier, 1)]:
        weight = layer.weight.detach().flatten(1).double()
        short = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(short, expected**2 * torch.eye(len(short)).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("initialisation", ["he", "orthogonal"])
def test_an_initialisation_hangs_on_the_seed_alone_and_leaves_the_global_generator_alone(configured, initialisation):
    model = configured(stages=1, blocks=0, filters=4, initialisation=initialisation)
    before = torch.get_rng_state()
    first, again, other = (models.build(model, classes=3, seed=seed).classifier.weight for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("initialisation", ["default", "he", "orthogonal"])
def test_the_drawn_weights_do_not_hang_on_the_number_of_threads(configured, initialisation):
    built = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        built.append(models.build(configured(initialisation=initialisation), classes=100, seed=0).state_dict())
    for name, tensor in built[0].items():
        assert all(torch.equal(tensor, other[name]) for other in built[1:]), name


def test_the_choices_of_the_parameters_are_those_of_the_tables():
    fields = config.Model.model_fields
    assert typing.get_args(fields["activation"].annotation) == tuple(models.ACTIVATIONS)
    assert typing.get_args(fields["norm"].annotation) == tuple(models.NORMS)


class Extended(config.Model):
    """The block `model` as somebody has it who adds a norm and an activation."""

    activation: typing.Literal["gelu"]
    norm: typing.Literal["instance"]


def test_a_new_norm_and_activation_take_a_choice_and_an_entry_each(tiny, dataset, monkeypatch):
    """As CONTRIBUTING.md has it, and the measurement of gradient flow knows the norm."""
    monkeypatch.setitem(models.ACTIVATIONS, "gelu", nn.GELU)
    monkeypatch.setitem(models.NORMS, "instance", lambda model, channels: nn.InstanceNorm2d(channels, affine=True))
    run = tiny(model={"blocks": 1})
    model = Extended.model_validate(run.model.model_dump() | {"activation": "gelu", "norm": "instance"})
    learner = Learner(run.model_copy(update={"model": model}), 0, torch.device("cpu"))
    kinds = [type(module) for module in learner.model.modules()]
    # the entry's norm, and two in each of the two blocks of two stages; an activation for the entry and each block
    assert (kinds.count(nn.InstanceNorm2d), kinds.count(nn.GELU)) == (9, 5)
    assert not {models.BatchNorm, nn.GroupNorm, nn.LeakyReLU} & set(kinds)
    images, labels = torch.from_numpy(dataset.train.images), torch.from_numpy(dataset.train.labels).long()
    before = learner.model.entry.conv.weight.clone()
    learner.step(images, labels, augmentation.draw(len(images), seed=0, epoch=1).batch(0, 8))
    assert not torch.equal(learner.model.entry.conv.weight, before)
    table = flow.gradient_flow(learner.model, [(augmentation.normalise(images), labels)])
    assert (table.kind == "normalisation").sum() == 9
