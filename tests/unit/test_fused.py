"""Batch normalisation, shortcut and activation as one operation: the reference, and networks of it."""

import pytest
import torch
from interpret import drawn
from torch import nn

from vanishing.training import augmentation, models
from vanishing.training.step import Learner

MODULES = {"leaky_relu": nn.LeakyReLU(models.SLOPE), "relu": nn.ReLU(), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh()}
SHAPES = [(4, 3, 5, 7), (6, 2, 1, 1), (2, 8, 8, 8), (1, 5, 1, 2)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These tensors are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


by_activation = pytest.mark.parametrize("activation", MODULES)


def norm_of(weight, bias, kind=models.BatchNorm):
    norm = kind(len(weight)).to(weight.dtype)
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    return norm


def composed(norm, x, activation, added):
    """Give what PyTorch's own modules give, one after the other."""
    out = norm(x)
    return MODULES[activation](out if added is None else out + added)


def passes(operation, norm, x, added, gradient, activation):
    """Return the result, the running statistics and every gradient."""
    leaves = [None if each is None else each.clone().requires_grad_() for each in (x, added)]
    y = operation(norm, leaves[0], activation, leaves[1])
    y.backward(gradient)
    gradients = [each.grad for each in (*leaves, norm.weight, norm.bias) if each is not None]
    return [y.detach(), norm.running_mean, norm.running_var, *gradients]


def both(x, added, gradient, weight, bias, activation):
    """Return what the operation gives, and what PyTorch's modules give."""
    ours = passes(models.BatchNorm.__call__, norm_of(weight, bias), x, added, gradient, activation)
    theirs = passes(composed, norm_of(weight, bias, nn.BatchNorm2d), x, added, gradient, activation)
    assert len(ours) == len(theirs) == (5 if added is None else 6) + 1
    return ours, theirs


# the reference


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adds", [False, True])
@by_activation
def test_the_operation_is_that_of_pytorchs_modules(activation, adds, shape):
    x, added, gradient, weight, bias = drawn(shape)
    ours, theirs = both(x, added if adds else None, gradient, weight, bias, activation)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adds", [False, True])
@by_activation
def test_the_gradients_are_those_of_finite_differences(activation, adds):
    x, added, _, weight, bias = drawn((3, 2, 2, 3))

    def operation(x, weight, bias, *added):
        norm = models.BatchNorm(2).double()
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x, activation, *added))

    inputs = [each.requires_grad_() for each in (x, weight, bias, *([added] if adds else []))]
    assert torch.autograd.gradcheck(operation, inputs)


@by_activation
def test_a_result_in_bfloat16_is_rounded_once(activation):
    x, added, _, weight, bias = drawn((4, 3, 5, 7), dtype=torch.bfloat16)
    y = norm_of(weight, bias)(x, activation, added)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, norm_of(weight, bias)(x.float(), activation, added.float()).bfloat16())


@by_activation
def test_what_is_not_finite_spreads_as_in_pytorch(activation):
    x, added, gradient, weight, bias = drawn((4, 5, 3, 3), dtype=torch.float32)
    x[1, 1, 0, 0], x[2, 2, 1, 1], added[0, 3, 0, 0], added[0, 4, 0, 0] = torch.inf, torch.nan, -torch.inf, torch.nan
    ours, theirs = both(x, added, gradient, weight, bias, activation)
    assert ours[0][:, 1:3].isnan().all()
    for one, other in zip(ours[1:3], theirs[1:3], strict=True):  # the mean of infinities is inf or NaN there, by device
        assert one.isfinite().tolist() == other.isfinite().tolist() == [True, False, False, True, True]
    torch.testing.assert_close([ours[0], *ours[3:]], [theirs[0], *theirs[3:]], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_the_running_variance_is_unbiased_and_the_counter_left_alone():
    norm = models.BatchNorm(1)
    norm(torch.tensor([1.0, 2.0, 3.0, 6.0]).view(4, 1, 1, 1), "relu")
    assert norm.running_mean.item() == pytest.approx(0.1 * 3)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 14 / 3)
    assert norm.num_batches_tracked == 0


def test_one_value_a_channel_is_an_error_in_pytorchs_words():
    x = torch.zeros(1, 3, 1, 1)
    with pytest.raises(ValueError) as theirs:
        nn.BatchNorm2d(3)(x)
    with pytest.raises(ValueError) as ours:
        models.BatchNorm(3)(x, "relu")
    assert str(ours.value) == str(theirs.value)


def test_a_shortcut_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"^added has the shape \(2, 3, 1, 1\), allowed: that of x, \(2, 3, 4, 4\)$"):
        models.BatchNorm(3)(torch.zeros(2, 3, 4, 4), "relu", torch.zeros(2, 3, 1, 1))


def test_the_backward_pass_keeps_the_input_the_result_and_statistics_of_channels():
    x, added, _, weight, bias = drawn((4, 3, 5, 7))
    norm, kept = norm_of(weight, bias), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        y = norm(x.requires_grad_(), "tanh", added.requires_grad_())
    large = {each.data_ptr() for each in kept if each.numel() > 2 * 3}
    assert large == {x.data_ptr(), y.data_ptr()}


# networks


NETWORKS = {
    "residual": {"shortcut": "identity"},
    "pooled": {"shortcut": "identity", "reduction_shortcut": "pool", "activation": "sigmoid"},
    "convolution": {"shortcut": "identity", "reduction_shortcut": "convolution", "activation": "relu"},
    "subsample": {"shortcut": "identity", "reduction_shortcut": "subsample", "activation": "tanh"},
    "bottleneck": {"shortcut": "identity", "reduction": "bottleneck"},
    "dense": {"shortcut": "dense"},
    "amplified": {"gradient_amplification": 2.0},
    "three": {"convolutions": 3},
    "group": {"norm": "group", "shortcut": "identity"},
    "plain": {"norm": "none", "shortcut": "identity"},
}

OPERATIONS = dict.fromkeys(NETWORKS, 1 + 2 * 2 * 2) | {"bottleneck": 11, "three": 13, "group": 0, "plain": 1}
"""In two stages of a block and a reduction block each, and at the entry."""


def built(tiny, name, kernels, **differences):
    model = {"stages": 2, "blocks": 1, "filters": 8, "groups": 2, "norm": "batch"} | NETWORKS[name] | differences
    return models.build(tiny(model=model).model, 3, 0, kernels).to(memory_format=torch.channels_last)


def operations(result):
    """Count the operations in the graph that a result came from."""
    found, ahead = set(), [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found.add(node)
            ahead += [each for each, _ in node.next_functions]
    return sum(type(node).__name__ == "_FusedBackward" for node in found)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "differences"), [(torch.float64, 1e-13, {}), (torch.float32, 1e-5, {"activation": "tanh"})]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_gradients_of_pytorchs_kernels_up_to_rounding(tiny, name, dtype, tolerance, differences):
    """Up to `tolerance` of the largest gradient: that of a bias before batch normalisation is rounding alone.

    With a rectifier, single precision can take an input next to 0 for one on its other side, and so give another slope.
    """
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    theirs, ours = (built(tiny, name, kernels, **differences).to(dtype) for kernels in ("pytorch", "fused"))
    assert list(theirs.state_dict()) == list(ours.state_dict())
    results = [network(images) for network in (theirs, ours)]
    assert list(map(operations, results)) == [0, OPERATIONS[name]]
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)
    for result in results:
        nn.functional.cross_entropy(result, torch.arange(6) % 3).backward()
    largest = max(weight.grad.abs().max().item() for weight in theirs.parameters())
    for key, weight in theirs.named_parameters():
        gradient = ours.get_parameter(key).grad
        torch.testing.assert_close(gradient, weight.grad, rtol=0, atol=tolerance * largest, msg=key)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=tolerance, atol=tolerance)


def test_evaluation_goes_through_pytorchs_kernels(tiny):
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs, ours = (built(tiny, "residual", kernels).eval()(images) for kernels in ("pytorch", "fused"))
    assert operations(ours) == 0
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.02)])
def test_steps_of_training_give_the_losses_of_pytorchs_kernels(tiny, dataset, precision, tolerance):
    images, labels = torch.from_numpy(dataset.train.images), torch.from_numpy(dataset.train.labels).long()
    losses = []
    for kernels in ("pytorch", "fused"):
        model = {"blocks": 1, "filters": 8, "norm": "batch", "shortcut": "identity"}
        run = tiny(model=model, train={"precision": precision, "kernels": kernels})
        learner = Learner(run, 0, torch.device("cpu"))
        for iteration in range(3):
            learner.step(images, labels, augmentation.draw(len(images), 0, iteration).batch(0, 16))
        losses.append(learner.metrics(3).loss)
        assert learner.model.entry.epilogue.fused == (kernels == "fused")
        assert [int(counter) for counter in models.counters(learner.model)] == [3] * 9
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
