"""What holds on a GPU; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from vanishing import augmentation, checkpoints, devices, fused, models, parameters, training
from vanishing.learner import CapturedStep, Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

STEPS = 50


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (1000, 3, 32, 32), dtype=torch.uint8, generator=generator).cuda()


@pytest.fixture(scope="module")
def labels():
    return torch.randint(100, (1000,), generator=torch.Generator().manual_seed(1)).cuda()


PYTORCH = [
    "vgg08", "vgg38", "vgg38_bn_rc", "vgg38_resnet", "vgg38_bn_rc_subsample", "vgg16_three", "vgg38_dense", "vgg38_gn",
    "vgg38_amplified", "vgg38_bn_rc_l1",
]  # fmt: skip
FUSED = ["vgg38_bn_rc", "vgg38_resnet_sigmoid", "vgg38_bn_rc_bottleneck", "vgg38_bn_dense", "vgg38_bn_amplified"]


@pytest.mark.parametrize(
    ("kernels", "precision", "name"),
    [("pytorch", precision, name) for precision in ("fp32", "tf32", "bf16") for name in PYTORCH]
    + [("fused", precision, name) for precision in ("fp32", "bf16") for name in FUSED],
)
def test_a_captured_step_is_the_eager_step_bit_for_bit(name, precision, kernels, images, labels):
    run = configured(name, precision, kernels)
    eager, recorded = (learner(run) for _ in range(2))
    captured = CapturedStep(recorded, images, labels, 100)
    for iteration in range(STEPS):
        plan = augmentation.draw(len(images), 0, iteration).to(eager.device).batch(0, 100)
        for one in (eager, recorded):
            one.rate.fill_(training.learning_rate(run.train, 1 + iteration, 0, 1))
        eager.step(images, labels, plan)
        captured(plan)
    assert differing(eager, recorded) == []


def test_a_capture_leaves_the_learner_as_it_was(images, labels):
    run = configured("vgg38_bn_rc", "fp32")
    untouched, recorded = (learner(run) for _ in range(2))
    CapturedStep(recorded, images, labels, 100)
    assert differing(untouched, recorded) == []


def test_a_minibatch_of_another_size_takes_an_eager_step_between_captured_ones(images, labels):
    run = configured("vgg38_bn_rc", "fp32")
    eager, recorded = (learner(run) for _ in range(2))
    captured = CapturedStep(recorded, images, labels, 100)
    for iteration, size in enumerate([100, 100, 30, 100, 30, 100]):
        plan = augmentation.draw(len(images), 0, iteration).to(eager.device).batch(0, size)
        eager.step(images, labels, plan)
        captured(plan)
    assert differing(eager, recorded) == []


def test_a_checkpoint_has_the_weights_of_its_moment_while_steps_go_on(images, labels, tmp_path):
    run = configured("vgg38_bn_rc", "fp32")
    trained = learner(run)
    step = CapturedStep(trained, images, labels, 100)
    plan = augmentation.draw(len(images), 0, 1).to(trained.device).batch(0, 100)
    expected = []
    with checkpoints.Writer(trained.device) as writer:
        for number in range(20):
            step(plan)
            writer.write(tmp_path / f"{number}.safetensors", trained.tensors())
            expected.append({name: tensor.clone() for name, tensor in trained.tensors().items()})
    for number, tensors in enumerate(expected):
        written, _ = checkpoints.read(tmp_path / f"{number}.safetensors")
        assert [
            name for name, tensor in tensors.items() if not torch.equal(bits(tensor.cpu()), bits(written[name]))
        ] == []


@pytest.mark.parametrize("kernels", ["pytorch", "fused"])
def test_a_gpu_gives_the_loss_of_a_cpu_up_to_rounding(images, labels, kernels):
    run = configured("vgg38_bn_rc", "fp32", kernels)
    gpu, cpu = learner(run), Learner(run, 0, torch.device("cpu"))
    plan = augmentation.draw(len(images), 0, 1).batch(0, 100)
    gpu.step(images, labels, plan.to(gpu.device))
    cpu.step(images.cpu(), labels.cpu(), plan)
    loss, _ = gpu.figures(1)
    assert loss == pytest.approx(cpu.figures(1).loss, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("shape", [(100, 32, 32, 32), (100, 8, 16, 16), (30, 32, 4, 4), (3, 96, 5, 7), (30, 256, 1, 1)])
def test_the_fused_kernels_give_what_the_reference_gives_and_the_same_bytes_twice(shape, activation, dtype):
    """To 5e-6 of the largest value, or of 1; in bfloat16 to half of the last place too, as it is rounded once."""
    from vanishing import fused_triton

    generator = torch.Generator("cuda").manual_seed(0)
    x, added, gradient = (
        torch.randn(shape, device="cuda", generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    )
    weight, bias = torch.randn(2, shape[1], device="cuda", generator=generator)
    settings = fused.Settings(activation, 0.01, 1e-5, 0.1, adds=True)
    exact = [each.double() for each in (x, added, weight, bias)]
    running = [torch.zeros_like(exact[3]), torch.ones_like(exact[3])]
    y, statistics = fused.forward(*exact, running, settings)
    known = y.to(dtype), weight, statistics.float()
    expected = [y, statistics, *running]
    expected += fused.backward(gradient.double(), exact[0], known[0].double(), exact[2], statistics, settings)

    def once():
        running = torch.zeros_like(bias), torch.ones_like(bias)
        first = fused_triton.forward(x, added, weight, bias, running, settings)
        return [*first, *running, *fused_triton.backward(gradient, x, *known, settings)]

    for ours, again, theirs in zip(once(), once(), expected, strict=True):
        assert torch.equal(bits(ours), bits(again))
        last_place = 2**-8 if ours.dtype == torch.bfloat16 else 0
        largest = max(1, theirs.abs().max().item())
        torch.testing.assert_close(ours.double(), theirs, rtol=last_place, atol=5e-6 * largest)


def test_the_operation_takes_the_kernels_and_any_strides():
    """From channels first, and for the gradient of a mean, which repeats one number."""
    x = torch.randn(6, 32, 8, 8, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    gradients = []
    for lies in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=lies).requires_grad_()
        y = models.BatchNorm(32).cuda()(leaf, "tanh", leaf)
        assert y.is_contiguous(memory_format=torch.channels_last)
        y.mean(dim=(2, 3)).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def configured(name, precision, kernels="pytorch"):
    content = parameters.read(Path(__file__).parents[1] / "params.yaml")
    content["train"] |= {"precision": precision, "kernels": kernels, "device": "cuda"}
    return parameters.check(content).run(name)


def learner(run):
    return Learner(run, 0, devices.configure(run.train))


def differing(one, other):
    """Name the weights, statistics, optimiser states and sums that are not equal, bit for bit: a NaN is itself."""
    theirs = other.tensors()
    return [name for name, tensor in one.tensors().items() if not torch.equal(bits(tensor), bits(theirs[name]))]


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)
