"""Batch normalisation, shortcut and activation as one operation: the reference, the kernels, and networks of it."""

import subprocess

import interpret
import pytest
import torch
from torch import nn

from vanishing.training import augmentation, fused_reference, models
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


def drawn(shape, seed=0, dtype=torch.float64):
    """Draw x, added, the gradient by y, and scales and shifts of channels; the last two never in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    x, added, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    weight, bias = (torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(2))
    of_channels = torch.promote_types(dtype, torch.float32)
    values = [each.to(dtype).contiguous(memory_format=torch.channels_last) for each in (3 * x + 2, added, gradient)]
    return *values, weight.to(of_channels), bias.to(of_channels)


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


# the kernels


def case(shape, activation, dtype, adds=True, programs=128, change=lambda x: x):
    """Return what the interpreter is given: inputs, and what the reference makes of them for the backward pass."""
    x, added, gradient, weight, bias = drawn(shape, dtype=dtype)
    settings = fused_reference.Settings(activation, models.SLOPE, 1e-5, 0.1, adds)
    inputs = {"x": change(x), "added": added if adds else None, "weight": weight, "bias": bias}
    y, statistics = fused_reference.forward(*inputs.values(), (torch.zeros_like(bias), torch.ones_like(bias)), settings)
    known = {"gradient": gradient, "y": y, "statistics": statistics}
    return inputs | known | {"settings": tuple(settings), "programs": programs}


def far(x):
    """Put a channel far from 0, where a variance by sums of squares would be noise, and make one constant."""
    x = x.clone()
    x[:, 0] = 1e4 + x[:, 0] / 100
    x[:, 1] = 1e4 / 3
    return x


def broken(x):
    x = x.clone()
    x[0, 0, 0, 0], x[-1, 1, -1, -1] = torch.inf, torch.nan
    return x


PRECISE, ROUGH = torch.float32, torch.bfloat16
CASES = {
    # two programs of two tiles each, the second not full
    **{f"{name} 32": case((6, 32, 13, 11), name, PRECISE, programs=2) for name in MODULES},
    **{f"{name} 16": case((6, 32, 13, 11), name, ROUGH, programs=2) for name in MODULES},
    **{f"{name} alone": case((2, 32, 13, 11), name, PRECISE, adds=False) for name in MODULES},
    "narrow": case((40, 8, 8, 8), "leaky_relu", ROUGH),
    "odd": case((3, 12, 5, 7), "leaky_relu", PRECISE),
    "wide": case((3, 256, 9, 9), "leaky_relu", ROUGH),
    "wide and odd": case((2, 96, 3, 3), "leaky_relu", PRECISE),
    "pixels": case((5, 32, 1, 1), "leaky_relu", PRECISE),
    "two values": case((2, 3, 1, 1), "leaky_relu", PRECISE),
    "far": case((6, 8, 32, 32), "tanh", PRECISE, programs=3, change=far),
    "broken": case((6, 8, 32, 32), "relu", PRECISE, programs=3, change=broken),
}  # fmt: skip


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Return what the kernels make of each case."""
    pytest.importorskip("triton")
    results = interpret.interpret(list(CASES.values()), tmp_path_factory.mktemp("interpreted"))
    return dict(zip(CASES, results, strict=True))


def expected(case):
    """Compute the case in double precision, from the same y on the way back."""
    settings = fused_reference.Settings(*case["settings"])
    exact = {key: case[key].double() for key in ("x", "weight", "bias", "gradient", "y")}
    added = case["added"].double() if settings.adds else None
    running = torch.zeros_like(exact["bias"]), torch.ones_like(exact["bias"])
    y, statistics = fused_reference.forward(exact["x"], added, exact["weight"], exact["bias"], running, settings)
    gradients = fused_reference.backward(
        exact["gradient"], exact["x"], exact["y"], exact["weight"], statistics, settings
    )
    return dict(zip(interpret.NAMES, (y, statistics, *running, *gradients), strict=True))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("far", "broken")])
def test_the_kernels_give_what_the_reference_gives_in_double_precision(interpreted, name):
    """To 2e-6 of the largest value, or of 1; in bfloat16 to the last place too, which the interpreter cuts off."""
    for key, exact in expected(CASES[name]).items():
        ours = interpreted[name][key]
        if exact is None:
            assert ours is None, key
            continue
        last_place = 2**-7 if ours.dtype == torch.bfloat16 else 0
        largest = max(1, exact.abs().max().item())
        torch.testing.assert_close(ours.double(), exact, rtol=last_place, atol=2e-6 * largest, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_give_the_same_bytes_twice(interpreted, name):
    for key, again in interpreted[name]["again"].items():
        first = interpreted[name][key]
        assert first is again is None or torch.equal(bits(first), bits(again)), key


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def test_a_channel_far_from_zero_is_normalised_as_well_as_its_numbers_allow(interpreted):
    """Beside 1e4, numbers are 2^-10 apart, a thirtieth of this deviation, and the mean is right to half of that."""
    ours, exact = interpreted["far"], expected(CASES["far"])
    mean, inverse = ours["statistics"].double()
    assert (mean - exact["statistics"][0]).abs().tolist() <= [2**-11, 2**-13, *[1e-6] * 6]
    torch.testing.assert_close(inverse, exact["statistics"][1], rtol=1e-3, atol=0)
    assert inverse[1].item() == pytest.approx(1e-5**-0.5)
    shift = (2**-11 * inverse[0].item() + 5 * 1e-3) * CASES["far"]["weight"][0].abs().item()
    torch.testing.assert_close(ours["y"][:, 0].double(), exact["y"][:, 0], rtol=0, atol=shift)
    torch.testing.assert_close(ours["y"][:, 1:].double(), exact["y"][:, 1:], rtol=0, atol=1e-5)


def test_what_is_not_finite_takes_its_channel_and_no_other(interpreted):
    ours, exact = interpreted["broken"], expected(CASES["broken"])
    for key in ("y", "by_x"):
        assert ours[key][:, :2].isnan().all()
        torch.testing.assert_close(ours[key][:, 2:].double(), exact[key][:, 2:], rtol=1e-5, atol=1e-5)
    for key in ("running_mean", "running_var", "by_weight"):
        assert ours[key].isfinite().tolist() == [False, False, *[True] * 6], key
    torch.testing.assert_close(ours["by_bias"].double(), exact["by_bias"], rtol=1e-5, atol=1e-5)


KERNELS = {
    "measure": ["x"],
    "normalise": ["x", "added", "y"],
    "gather": ["gradient", "x", "y"],
    "differentiate": ["gradient", "x", "y", "by_x", "by_added"],
}
"""And which of their pointers are to activations; the others are to float32."""

SCALARS = {"rows": "i32", "chunk": "i32", "eps": "fp32", "momentum": "fp32"}


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiled_kernels_keep_to_registers_and_use_no_atomics(name, dtype, architecture, monkeypatch, tmp_path):
    """Compiled for an A100 and an H100, for a minibatch of the study; no device is needed."""
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", f"{tmp_path}")
    kernel = compiled(name, dtype, architecture, (100, 32, 32, 32))
    assert not [line for line in kernel.asm["ptx"].splitlines() if line.strip().startswith(("atom.", "red."))]
    (tmp_path / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", tmp_path / "kernel.cubin"]
    usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert {"STACK:0", "LOCAL:0"} <= set(usage), "registers spilled"


def compiled(name, dtype, architecture, shape):
    import triton
    from triton.backends.compiler import GPUTarget

    from vanishing.training import fused_triton

    kernel, division = getattr(fused_triton, name), fused_triton.divide(torch.Size(shape))
    known = {"ACTIVATION": "leaky_relu", "SLOPE": models.SLOPE, "ADDS": True, "PARTIALS": division.partials}
    constants = {key: value for key, value in (known | division.tile).items() if key in kernel.arg_names}
    pointers = {key: f"*{dtype if key in KERNELS[name] else 'fp32'}" for key in kernel.arg_names}
    signature = pointers | SCALARS | dict.fromkeys(constants, "constexpr")
    signature = {key: signature[key] for key in kernel.arg_names}
    places = [at for at, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = triton.compiler.ASTSource(
        kernel, signature, constants, {(at,): [["tt.divisibility", 16]] for at in places}
    )
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=fused_triton.OPTIONS)


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
