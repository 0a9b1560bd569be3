"""Triton's kernels of batch normalisation with shortcut and activation: interpreted on the CPU, and compiled."""

import subprocess

import interpret
import pytest
import torch
from interpret import drawn

from vanishing.training import fused_reference, models

ACTIVATIONS = ("leaky_relu", "relu", "sigmoid", "tanh")


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
    **{f"{name} 32": case((6, 32, 13, 11), name, PRECISE, programs=2) for name in ACTIVATIONS},
    **{f"{name} 16": case((6, 32, 13, 11), name, ROUGH, programs=2) for name in ACTIVATIONS},
    **{f"{name} alone": case((2, 32, 13, 11), name, PRECISE, adds=False) for name in ACTIVATIONS},
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
