"""What holds on a GPU; skipped where there is none."""

import gc
from pathlib import Path

import pandas as pd
import pytest
import torch

from vanishing import config, paths
from vanishing.analysis import landscape
from vanishing.analysis.gradient_flow import fixed_batches
from vanishing.analysis.snapshots import Snapshot
from vanishing.training import augmentation, checkpoints, devices, fused_reference, loop, models, round_robin, step
from vanishing.training.step import Evaluation, Learner, Step
from vanishing.training.streams import Slot

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

STEPS = 50
DEVICE = torch.device("cuda")


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
    eager, recorded = (made(run) for _ in range(2))
    captured = capture(recorded, images, labels, 100)
    for iteration in range(STEPS):
        draws = augmentation.draw(len(images), 0, iteration).to(eager.device).batch(0, 100)
        for one in (eager, recorded):
            one.rate.fill_(loop.learning_rate(run.train, 1 + iteration, 0, 1))
        eager.step(images, labels, draws)
        captured(draws)
    assert differing(eager, recorded) == []


def test_a_capture_leaves_the_learner_as_it_was(images, labels):
    run = configured("vgg38_bn_rc", "fp32")
    untouched, recorded = (made(run) for _ in range(2))
    capture(recorded, images, labels, 100)
    assert differing(untouched, recorded) == []


def test_a_captured_step_keeps_what_it_reads_and_writes(images, labels):
    run = configured("vgg38_bn_rc", "bf16")
    draws = augmentation.draw(len(images), 0, 1).to(DEVICE).batch(0, 100)
    trained, eager = (made(run) for _ in range(2))
    weights = trained.model.state_dict()
    captured = capture(trained, images.clone(), labels.clone(), 100)
    del trained
    gc.collect()
    torch.cuda.empty_cache()
    capture(made(run), images, labels, 100)  # takes what memory is free
    captured(draws)
    eager.step(images, labels, draws)
    assert all(torch.equal(weights[name], tensor) for name, tensor in eager.model.state_dict().items())


def test_minibatches_of_two_sizes_are_captured_each(images, labels):
    run = configured("vgg38_bn_rc", "fp32")
    eager, recorded = (made(run) for _ in range(2))
    captured = capture(recorded, images, labels, 100, 30)
    for iteration, size in enumerate([100, 100, 30, 100, 30, 100]):
        draws = augmentation.draw(len(images), 0, iteration).to(eager.device).batch(0, size)
        eager.step(images, labels, draws)
        captured(draws)
    assert differing(eager, recorded) == []


def test_a_checkpoint_has_the_weights_of_its_moment_while_steps_go_on(images, labels, tmp_path):
    run = configured("vgg38_bn_rc", "fp32")
    trained, stream = made(run), Slot().on(DEVICE)
    step = Step(trained, images, labels, [100], stream, stream.pool())
    draws = augmentation.draw(len(images), 0, 1).to(trained.device).batch(0, 100)
    expected = []
    torch.cuda.synchronize()
    with stream, checkpoints.Writer(stream) as writer:
        for number in range(20):
            step(draws)
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
    gpu, cpu = made(run), Learner(run, 0, torch.device("cpu"))
    draws = augmentation.draw(len(images), 0, 1).batch(0, 100)
    gpu.step(images, labels, draws.to(gpu.device))
    cpu.step(images.cpu(), labels.cpu(), draws)
    loss, _ = gpu.metrics(1)
    assert loss == pytest.approx(cpu.metrics(1).loss, rel=1e-5)


def test_a_captured_evaluation_is_the_eager_one(images, labels):
    trained, stream = made(configured("vgg38_bn_rc", "bf16")), Slot().on(DEVICE)
    torch.cuda.synchronize()
    with stream:
        evaluation = Evaluation(trained.model, images, labels, True, stream, stream.pool())
        evaluation.launch()
        assert evaluation.metrics() == step.evaluate(trained.model, images, labels, bf16=True)


SIDE = [
    ("vgg38_bn_rc", 0),
    ("vgg08", 0),
    ("vgg38", 0),
    ("vgg38_bn_rc", 1),
    ("vgg38_gn", 0),
    ("vgg38_resnet_wd3_b256", 0),
]
"""Runs and seeds that are trained at once: shallow beside deep, and with a short last minibatch."""


@pytest.mark.parametrize(("precision", "kernels"), [("fp32", "pytorch"), ("bf16", "pytorch"), ("bf16", "fused")])
def test_trainings_at_once_end_in_the_bytes_that_each_gives_alone(precision, kernels, images, labels, tmp_path):
    parts = (images, labels), (images[:100], labels[:100]), (images[:50], labels[:50])
    torch.cuda.synchronize()

    def trained(folder, at_once):
        runs = [(configured(name, precision, kernels), seed) for name, seed in SIDE]
        tasks = [
            loop.Training(short(run), seed, loop.Images(*parts), tmp_path / folder / f"{at}", f"{at}")
            for at, (run, seed) in enumerate(runs)
        ]
        waiting = list(tasks)
        round_robin.run(lambda _: waiting.pop(0) if waiting else None, at_once)
        kept = ((task.folder.name, path) for task in tasks for path in task.folder.iterdir())
        return {(name, path.name): path.read_bytes() for name, path in kept if path.name != loop.STATE}

    alone = trained("alone", 1)
    assert len(alone) == len(SIDE) * 5, "epochs 0, 1, 2 and 4, and the best"
    for at_once in (2, len(SIDE)):
        assert trained(f"{at_once}", at_once) == alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("shape", [(100, 32, 32, 32), (100, 8, 16, 16), (30, 32, 4, 4), (3, 96, 5, 7), (30, 256, 1, 1)])
def test_the_fused_kernels_give_what_the_reference_gives_and_the_same_bytes_twice(shape, activation, dtype):
    """To 5e-6 of the largest value, or of 1; in bfloat16 to half of the last place too, as it is rounded once."""
    from vanishing.training import fused_triton

    generator = torch.Generator("cuda").manual_seed(0)
    x, added, gradient = (
        torch.randn(shape, device="cuda", generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    )
    weight, bias = torch.randn(2, shape[1], device="cuda", generator=generator)
    settings = fused_reference.Settings(activation, 0.01, 1e-5, 0.1, adds=True)
    exact = [each.double() for each in (x, added, weight, bias)]
    running = [torch.zeros_like(exact[3]), torch.ones_like(exact[3])]
    y, statistics = fused_reference.forward(*exact, running, settings)
    known = y.to(dtype), weight, statistics.float()
    expected = [y, statistics, *running]
    expected += fused_reference.backward(gradient.double(), exact[0], known[0].double(), exact[2], statistics, settings)

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


def test_the_landscape_is_that_of_a_cpu_up_to_rounding(tiny, dataset, tmp_path):
    """To 1e-4 of every loss, although the GPU evaluates several points at once; steps and accuracies are equal."""
    run = tiny(model={"norm": "batch"})
    settings = config.Landscape(
        recipe=1, runs=[], seeds=[0], snapshots=[0], batches=2, batch_size=5, seed=3,
        directions=2, reach=1.0, cut_steps=2, grid_steps=1,
    )  # fmt: skip
    for epoch in (0, 1, 3):
        checkpoints.write(paths.snapshot(tmp_path, epoch), models.build(run.model, 3, seed=epoch).state_dict())
    devices.configure(run.train)

    def measured(device):
        batches = fixed_batches(settings, dataset.train, device)
        model = models.build(run.model, 3, seed=3).to(device)
        return landscape.measure(Snapshot(model, 3, [0, 3], tmp_path, run, batches), settings)

    gpu, cpu = measured(DEVICE), measured(torch.device("cpu"))
    assert gpu.loss.nunique() > 20
    pd.testing.assert_frame_equal(gpu.drop(columns="loss"), cpu.drop(columns="loss"), check_exact=True)
    pd.testing.assert_series_equal(gpu.loss, cpu.loss, rtol=1e-4)


def short(run):
    """Return a run of four epochs."""
    return run.model_copy(update={"train": run.train.model_copy(update={"epochs": 4, "snapshots": [1, 2]})})


def capture(trained, images, labels, *sizes):
    """Return a step that is captured for minibatches of these sizes, and the streams in order with the default one."""
    stream = Slot().on(DEVICE)
    torch.cuda.synchronize()
    step = Step(trained, images, labels, sizes, stream, stream.pool())

    def taken(draws):
        torch.cuda.synchronize()
        with stream:
            step(draws)
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return taken


def configured(name, precision, kernels="pytorch"):
    content = config.read(Path(__file__).parents[2] / "params.yaml")
    content["train"] |= {"precision": precision, "kernels": kernels, "device": "cuda"}
    return config.check(content).run(name)


def made(run):
    return Learner(run, 0, devices.configure(run.train))


def differing(one, other):
    """Name the weights, statistics, optimiser states and sums that are not equal, bit for bit: a NaN is itself."""
    theirs = other.tensors()
    return [name for name, tensor in one.tensors().items() if not torch.equal(bits(tensor), bits(theirs[name]))]


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)
