"""What holds on a GPU; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from vanishing import augmentation, checkpoints, devices, parameters, training
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


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(
    "name",
    [
        "vgg08",
        "vgg38",
        "vgg38_bn_rc",
        "vgg38_resnet",
        "vgg38_bn_rc_subsample",
        "vgg16_three",
        "vgg38_dense",
        "vgg38_gn",
        "vgg38_amplified",
        "vgg38_bn_rc_l1",
    ],
)
def test_a_captured_step_is_the_eager_step_bit_for_bit(name, precision, images, labels):
    run = configured(name, precision)
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


def test_a_gpu_gives_the_loss_of_a_cpu_up_to_rounding(images, labels):
    run = configured("vgg38_bn_rc", "fp32")
    gpu, cpu = learner(run), Learner(run, 0, torch.device("cpu"))
    plan = augmentation.draw(len(images), 0, 1).batch(0, 100)
    gpu.step(images, labels, plan.to(gpu.device))
    cpu.step(images.cpu(), labels.cpu(), plan)
    loss, _ = gpu.figures(1)
    assert loss == pytest.approx(cpu.figures(1).loss, rel=1e-5)


def configured(name, precision):
    content = parameters.read(Path(__file__).parents[1] / "params.yaml")
    content["train"] |= {"precision": precision, "device": "cuda"}
    return parameters.check(content).run(name)


def learner(run):
    return Learner(run, 0, devices.configure(run.train))


def differing(one, other):
    """Name the weights, statistics, optimiser states and sums that are not equal, bit for bit: a NaN is itself."""
    theirs = other.tensors()
    return [name for name, tensor in one.tensors().items() if not torch.equal(bits(tensor), bits(theirs[name]))]


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)
