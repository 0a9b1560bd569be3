"""Computing in bfloat16 with and without instructions for it."""

import pytest
import torch
from torch.nn import functional

from vanishing.training import augmentation, precision
from vanishing.training.step import Learner

CPU = torch.device("cpu")


@pytest.fixture
def slow(monkeypatch):
    """Compute as a processor does on which PyTorch has no fast convolutions in bfloat16."""
    monkeypatch.setattr(precision, "fast", lambda: False)


def test_operands_and_results_are_rounded_and_sums_are_not(slow):
    # bfloat16 has 8 significant bits: its numbers from 1 to 2 are 1/128 apart, those from 256 to 512 are 2 apart
    x = torch.tensor([[256.0, 1.0, 1.0, 0.5]])
    weight = torch.tensor([[1 + 1 / 512, 1.0, 1.0, 1.0]], requires_grad=True)
    with precision.autocast("cpu", bf16=True):
        image = functional.conv2d(x[:, :, None, None], weight[:, :, None, None])
        (vector := functional.linear(x, weight)).backward(torch.tensor([[3.0]]).bfloat16())
    for found in (image, vector):
        assert found.dtype is torch.bfloat16
        assert found.item() == 258  # of 258.5; in bfloat16, 256 + 1 would have stayed 256 twice
    assert weight.grad.tolist() == [[768, 3, 3, 1.5]]


def test_gradients_are_rounded_too(slow):
    x, weight = torch.tensor([[1.0], [1 / 256]]), torch.tensor([[1.0]], requires_grad=True)
    with precision.autocast("cpu", bf16=True):
        functional.linear(x, weight).sum().backward()
    assert weight.grad.item() == 1  # of 1 + 1/256, half-way to 1 + 1/128


def test_without_bf16_nothing_is_rounded(slow):
    with precision.autocast("cpu", bf16=False):
        assert functional.linear(torch.tensor([[256.0, 1.0]]), torch.tensor([[1.0, 0.5]])).item() == 256.5


@pytest.mark.parametrize("model", [{}, {"norm": "batch", "shortcut": "identity"}], ids=["plain", "with both cures"])
def test_a_training_step_is_as_near_to_fp32_as_with_pytorchs_own_bfloat16(tiny, monkeypatch, model):
    images = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = augmentation.draw(100, seed=0, epoch=0).batch(0, 100)

    def gradients(kind: str, fast: bool) -> list[torch.Tensor]:
        monkeypatch.setattr(precision, "fast", lambda: fast)
        run = tiny(model=model, train={"precision": kind})
        learner = Learner(run, 0, CPU)
        learner.step(images, torch.arange(100) % run.data.classes, draws)
        return [weight.grad for weight in learner.weights]

    ways = gradients("fp32", fast=True), gradients("bf16", fast=True), gradients("bf16", fast=False)
    for exact, own, found in zip(*ways, strict=True):
        assert 0 < (found - exact).norm() < 1.25 * (own - exact).norm() < 0.5 * exact.norm()
