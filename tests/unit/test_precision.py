"""Computing in bfloat16 with and without PyTorch's own convolutions in it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vanishing.training import augmentation, devices, precision
from vanishing.training.step import Learner, cross_entropy

CPU = torch.device("cpu")


@pytest.fixture
def fast(monkeypatch):
    """Return a function that says whether PyTorch has fast convolutions in bfloat16; it has none to begin with."""

    def set_(value: bool) -> None:
        monkeypatch.setattr(precision, "fast", lambda: value)

    set_(False)
    return set_


class Products(TorchDispatchMode):
    """Notes the types of the operands of every convolution and matrix product, forward and backward."""

    NAMES = ("convolution", "convolution_backward", "mm", "addmm")

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.NAMES:
            operands = {each.dtype for each in args if isinstance(each, torch.Tensor)}
            self.seen.add((func.overloadpacket.__name__, *operands))
        return func(*args, **(kwargs or {}))


def stepped(run):
    """Return a learner after a step on a minibatch of random images."""
    images = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    learner = Learner(run, 0, CPU)
    draws = augmentation.draw(100, seed=0, epoch=0).batch(0, 100)
    learner.step(images, torch.arange(100) % run.data.classes, draws)
    return learner


# bfloat16 has 8 significant bits: its numbers from 1 to 2 are 1/128 apart, those from 256 to 512 are 2 apart


def test_both_operands_are_rounded(fast):
    one, other = torch.tensor([[1 + 3 / 512, 1.0]]), torch.tensor([[128.0, -128.0]])
    with precision.autocast("cpu", bf16=True):
        for operands in ((one, other), (other, one)):
            assert functional.linear(*operands).item() == 1  # (1 + 1/128) x 128 - 128; without rounding, 0.75


def test_results_are_rounded_and_sums_are_not(fast):
    x, weight = torch.tensor([[256.0, 1.0, 1.0, 0.5]]), torch.ones(1, 4, requires_grad=True)
    with precision.autocast("cpu", bf16=True):
        image = functional.conv2d(x[:, :, None, None], weight=weight[:, :, None, None])
        vector = functional.linear(x, weight)
    for found in (image, vector):
        weight.grad = None
        found.backward(torch.full_like(found, 3.0))
        assert found.dtype is torch.bfloat16
        assert found.item() == 258  # of 258.5; in bfloat16, 256 + 1 would have stayed 256 twice
        assert weight.grad.tolist() == [[768, 3, 3, 1.5]]


def test_gradients_are_rounded_too(fast):
    x, weight = torch.tensor([[1.0], [1 / 256]]), torch.tensor([[1.0]], requires_grad=True)
    with precision.autocast("cpu", bf16=True):
        functional.linear(x, weight).sum().backward()
    assert weight.grad.item() == 1  # of 1 + 1/256, half-way to 1 + 1/128


@pytest.mark.parametrize("whole", [True, False], ids=["in all", "in a part"])
def test_without_autocast_nothing_is_rounded(fast, whole):
    with precision.autocast("cpu", bf16=not whole), torch.autocast("cpu", enabled=False):
        assert functional.linear(torch.tensor([[256.0, 1.0]]), torch.tensor([[1.0, 0.5]])).item() == 256.5


@pytest.mark.parametrize(("has", "computes"), [(False, torch.float32), (True, torch.bfloat16)])
def test_every_product_of_a_training_step_is_in_the_type_that_is_fast(tiny, fast, has, computes):
    fast(has)
    with Products() as products:
        stepped(tiny(model={"norm": "batch"}, train={"precision": "bf16"}))
    assert {name for name, *_ in products.seen} == set(Products.NAMES)
    assert {kind for _, *kinds in products.seen for kind in kinds} == {computes}


@pytest.mark.parametrize("model", [{}, {"norm": "batch", "shortcut": "identity"}], ids=["plain", "with both cures"])
def test_a_training_step_is_as_near_to_fp32_as_with_pytorchs_own_bfloat16(tiny, fast, model):
    def gradients(kind: str, has: bool) -> list[torch.Tensor]:
        fast(has)
        return [weight.grad for weight in stepped(tiny(model=model, train={"precision": kind})).weights]

    for exact, own, found in zip(
        gradients("fp32", True), gradients("bf16", True), gradients("bf16", False), strict=True
    ):
        assert 0 < (found - exact).norm() < 1.25 * (own - exact).norm() < 0.5 * exact.norm()


@pytest.mark.parametrize(
    ("onednn", "supported", "expected"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_bf16_is_fast_where_onednn_has_it(monkeypatch, onednn, supported, expected):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert precision.fast.__wrapped__() is expected


@pytest.mark.parametrize(
    ("kind", "has", "named"), [("bf16", False, True), ("bf16", True, False), ("fp32", False, False)]
)
def test_a_summary_says_where_bf16_is_computed_in_fp32(tiny, fast, kind, has, named):
    fast(has)
    found = devices.environment(tiny(train={"precision": kind}).train, CPU)
    assert found.get("bf16") == ("in fp32" if named else None)


def test_the_loss_is_taken_in_fp32_under_cudas_autocast_too():
    """It would leave the logarithms of the probabilities in bfloat16; fake tensors need no GPU to show it."""
    taken = Products()
    taken.NAMES = ("_log_softmax",)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        with FakeTensorMode(), taken:
            logits = torch.empty(4, 100, device="cuda", dtype=torch.bfloat16)
            loss = cross_entropy(logits, torch.empty(4, device="cuda", dtype=torch.long), "sum")
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert (taken.seen, loss.dtype) == ({("_log_softmax", torch.float32)}, torch.float32)


def test_a_summary_says_where_the_loss_of_bf16_is_in_fp32_on_a_gpu(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    found = [
        devices.environment(tiny(train={"precision": kind}).train, device).get("loss")
        for kind, device in (("bf16", torch.device("cuda")), ("fp32", torch.device("cuda")), ("bf16", CPU))
    ]
    assert found == ["in fp32", None, None]
