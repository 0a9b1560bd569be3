"""What a study asks for before it runs: hand-worked amounts, and what is left of it."""

import importlib
from pathlib import Path

import pytest
import yaml

import examples
from vanishing import cli, config, files, paths, stages
from vanishing.analysis import effective_depth
from vanishing.config import ParameterError
from vanishing.console import duration
from vanishing.engines import remaining
from vanishing.training import checkpoints, cost, models, step


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)


def study(overlay=None):
    return examples.study({"seeds": [0, 1], **(overlay or {})})


def never(run, precision=""):
    raise AssertionError(f"{run} is measured")


def fast(run, precision):
    return 1e-3, "a chip"


def analysed(settings, listed):
    """Leave what an analysis would write, and list the runs again."""
    for entry in listed:
        for analysis in entry.analyses:
            for seed in analysis.seeds:
                files.write(paths.analysis(analysis.name, entry.name, seed), "")
    return remaining.entries(settings)


def test_the_arithmetic_of_a_training_is_that_of_its_images():
    """150 training, 50 validation and 1000 test images of 10 classes; 2 epochs, 3 passes for a training image."""
    entry = remaining.entries(study())[0]
    data = entry.run.data
    assert (data.train_counts[0], data.sizes[1:]) == (15, (5 * data.classes, 30 * data.classes))
    assert entry.macs == entry.size.macs * (2 * (3 * 150 + 50) + 300)
    assert entry.steps == pytest.approx(2 * (15 + 50 / 30) + 300 / 30)
    assert entry.work == pytest.approx(entry.size.macs * 10 / 1e9)


def test_a_training_step_costs_three_forward_passes():
    """Counted by PyTorch over forward and backward pass; the entry convolution's inputs need no gradient."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    run = study().run("vgg38")
    with FlopCounterMode(display=False) as counter:
        models.build(run.model, 10, 0)(torch.zeros(1, 3, 32, 32)).sum().backward()
    assert counter.get_total_flops() / 2 == pytest.approx(cost.STEP * models.measure(run.model, 10).macs, rel=0.01)


def test_the_disk_is_that_of_the_files(tmp_path):
    """Snapshots 0, 1 and 2, and the best weights."""
    entry = remaining.entries(study())[1]
    checkpoints.write(tmp_path / "weights", models.build(entry.run.model, 10, 0).state_dict())
    assert entry.run.train.snapshot_epochs == (0, 1, 2)
    assert entry.kept == pytest.approx(4 * (tmp_path / "weights").stat().st_size, rel=0.05)
    assert entry.scratch == entry.kept * 2, "as many copies again as there are in the state"


def test_what_is_there_already_is_not_to_be_trained():
    settings = study()
    examples.result(settings, "vgg08", seed=1)
    examples.result(settings, "vgg38", seed=0)
    (paths.results("vgg38", 0) / "gradients.csv").unlink()
    files.write(paths.snapshot(paths.checkpoints("vgg38", 0), 0), "weights")
    shallow, deep = remaining.entries(settings)
    assert (shallow.done, shallow.to_measure, shallow.to_train) == ([1], [], [0])
    assert (deep.done, deep.to_measure, deep.to_train) == ([], [0], [1])


def test_without_its_trajectory_an_unmeasured_training_runs_again():
    settings = study()
    examples.result(settings, "vgg38", seed=0)
    (paths.results("vgg38", 0) / "gradients.csv").unlink()
    assert remaining.entries(settings)[1].to_train == [0, 1]


def test_a_changed_run_is_to_be_trained_again():
    examples.result(study(), "vgg08", seed=0)
    changed = study({"runs": {"vgg08": {"train": {"learning_rate": 0.002}}}})
    assert remaining.entries(study())[0].to_train == [1]
    assert remaining.entries(changed)[0].to_train == [0, 1]


def test_only_the_studies_named_are_listed():
    settings = study({"studies": {"deep": {"title": "Deep", "runs": ["vgg38"]}}})
    assert [entry.name for entry in remaining.entries(settings)] == ["vgg08", "vgg38"]
    assert [entry.name for entry in remaining.entries(settings, ["deep"])] == ["vgg38"]
    assert [entry.name for entry in remaining.entries(settings, ["deep", "core"])] == ["vgg08", "vgg38"]
    with pytest.raises(ParameterError, match=r"^study 'wide' is not configured; allowed: core, deep$"):
        remaining.entries(settings, ["deep", "wide"])


@pytest.mark.parametrize(
    ("samples", "a", "b"),
    [
        ([(8, 1.0, 10.0), (38, 5.0, 48.0)], 1.0, 2.0),
        ([(8, 1.0, 3.0), (38, 5.0, 15.0)], 0.0, 3.0),
        ([(8, 2.0, 4.0), (38, 5.0, 19.0)], 0.5, 0.0),
    ],
)
def test_the_fit_goes_through_two_measurements(samples, a, b):
    assert cost.fit(samples) == pytest.approx((a, b), abs=1e-9)


@pytest.mark.parametrize("samples", [[(8, 1.0, 1.0), (38, 5.0, 9.0)], [(8, 1.0, 1.0), (38, 5.0, 2.0)]])
def test_no_cost_is_ever_negative(samples):
    """More than the arithmetic grows, and less than the layers: the nearer of the two alone is taken."""
    a, b = cost.fit(samples)
    assert min(a, b) == 0
    assert max(a, b) > 0


def test_a_clamped_fit_errs_alike_on_both_sides():
    """Work alone: ratios 1/1 and 5/9, whose best multiple is (1 + 5/9) / (1 + 25/81) = 126/106."""
    assert cost.fit([(8, 1.0, 1.0), (38, 5.0, 9.0)]) == pytest.approx((0, 126 / 106))


def test_every_run_is_estimated_from_the_shallowest_and_the_deepest():
    settings = examples.study({}, runs=["vgg38_bn", "vgg38", "vgg08"])
    listed, measured = remaining.entries(settings), []

    def step(run):
        entry = next(entry for entry in listed if entry.run == run)
        measured.append(entry.name)
        return 0.001 * entry.size.layers + 0.5 * entry.work, "a chip"

    made = cost.estimate(listed, step, pass_seconds=fast)
    assert measured == ["vgg08", "vgg38_bn"], "of the two deepest that with more weights"
    for entry in listed:
        assert made.seconds[entry.name] == pytest.approx(
            entry.steps * (0.001 * entry.size.layers + 0.5 * entry.work), rel=1e-6
        )
    assert made.measurements[0].startswith("vgg08: ")
    assert made.measurements[0].endswith(" ms a step in fp32 on a chip")


def test_precisions_are_measured_apart():
    settings = study({"runs": {"vgg38": {"train": {"precision": "bf16"}}}})
    made = cost.estimate(
        remaining.entries(settings),
        lambda run: ({"fp32": 1.0, "bf16": 2.0}[run.train.precision], "a chip"),
        pass_seconds=fast,
    )
    shallow, deep = remaining.entries(settings)
    assert made.seconds == pytest.approx({"vgg08": shallow.steps, "vgg38": 2 * deep.steps})


def test_where_nothing_is_left_nothing_is_measured():
    settings = study()
    for run, seed in settings.jobs():
        examples.result(settings, run, seed=seed)
    listed = analysed(settings, remaining.entries(settings))
    made = cost.estimate(listed, never, pass_seconds=never)
    assert (made.seconds, made.analyses, made.measurements) == ({}, {}, [])
    assert remaining.text(listed, made).endswith("\nleft to train: nothing")


def test_a_finished_run_is_no_reference():
    settings = study()
    for seed in (0, 1):
        examples.result(settings, "vgg08", seed=seed)
    made = cost.estimate(
        remaining.entries(settings), lambda run: (float(run.model.blocks), "a chip"), pass_seconds=fast
    )
    assert list(made.seconds) == ["vgg38"]


def test_the_text_says_amounts_totals_and_that_it_is_an_estimate():
    settings = study()
    examples.result(settings, "vgg08", seed=0)
    examples.result(settings, "vgg38", seed=0)
    (paths.results("vgg38", 0) / "gradients.csv").unlink()
    files.write(paths.snapshot(paths.checkpoints("vgg38", 0), 0), "weights")
    listed = remaining.entries(settings)
    ours = {("vgg08", "effective_depth"): 20.0, ("vgg38", "effective_depth"): 590.0}
    others = ("signal", "smoothness", "landscape", "curvature")
    ours |= {(run, name): 2.5 for run in ("vgg08", "vgg38") for name in others}
    lines = ["vgg08: 1 ms a step in fp32 on a chip"]
    made = cost.Estimate({"vgg08": 60.0, "vgg38": 5000.0}, lines, analyses=ours)
    head, shallow, deep, blank, *rest = remaining.text(listed, made).splitlines()
    assert head.split("  ")[0] == "run"
    assert shallow.split()[3:7] == deep.split()[3:7] == ["seed", "0", "seed", "1"]
    assert (shallow.split()[-4:], deep.split()[-4:]) == (["60", "s", "30", "s"], ["83", "min", "10", "min"])
    assert blank == ""
    assert rest[0].startswith("in all: 4 trainings, ")
    assert rest[1] == "left to measure: the gradient flow of 1 training"
    assert rest[2] == "left to analyse: effective_depth of 2 trainings, 10 min one after another"
    assert rest[3] == "left to analyse: signal of 2 trainings, 5 s one after another"
    assert rest[4] == "left to analyse: smoothness of 4 trainings, 10 s one after another"
    assert [line.split()[3] for line in rest[5:7]] == ["landscape", "curvature"]
    assert rest[7].startswith("left to train: 2 trainings, ")
    assert rest[8].startswith("  84 min one after another, and ")
    assert "estimate" in rest[9]
    assert rest[10:] == ["  vgg08: 1 ms a step in fp32 on a chip"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7 B"), (999, "1 kB"), (1000, "1 kB"), (184e6, "180 MB"), (3.44e15, "3.4 PB"), (2e22, "20000 EB")],
)
def test_amounts_have_two_digits_and_a_prefix(value, text):
    assert remaining._si(value, "B") == text


def test_the_step_is_measured_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(cost, "MEASURED_FOR", 0.05)
    seconds, device = cost.time_step(study().run("vgg08"))
    assert 1e-5 < seconds < 5
    assert device.endswith(", 1 threads")
    assert list(Path().iterdir()) == []


def test_trainings_at_once_share_the_time(monkeypatch, capsys):
    monkeypatch.setattr(cost, "MEASURED_FOR", 0.05)
    settings, asked = study(), []
    listed = remaining.entries(settings)

    def step(run, at_once):
        asked.append(at_once)
        return 0.1, "a chip"

    monkeypatch.setattr(cost, "time_step", step)
    made = cost.estimate(listed, at_once=4, pass_seconds=fast)
    assert set(asked) == {4}
    steps = {line.split(": ")[1] for line in made.measurements if " pass " not in line}
    assert steps == {"100 ms a step beside 3 others in fp32 on a chip"}
    alone = sum(len(entry.to_train) * made.seconds[entry.name] for entry in listed)
    assert f"\n  {duration(alone / 4)} 4 at once, and " in remaining.text(listed, made)


def test_beside_others_each_takes_a_step(monkeypatch):
    monkeypatch.setattr(cost, "MEASURED_FOR", 0.05)
    stepped, original = [], step.Learner.step

    def noted(self, *rest):
        stepped.append(id(self))
        original(self, *rest)

    monkeypatch.setattr(step.Learner, "step", noted)
    cost.time_step(study().run("vgg08"), at_once=3)
    assert len(set(stepped)) == 3
    assert stepped == stepped[:3] * (len(stepped) // 3)


def test_the_command_plans_a_study_and_then_what_is_left_of_it(monkeypatch, capsys):
    monkeypatch.setattr(cost, "MEASURED_FOR", 0.05)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content({"model": {"filters": 4}}, runs=["vgg08"])))
    assert cli.main(["plan"]) == 0
    found = capsys.readouterr().out
    assert "left to train: 1 training, " in found
    assert "left to sweep: trainable_depth of 1 training, " in found
    settings = config.load()
    stages.data(settings)
    stages.train(settings, [("vgg08", 0)])
    stages.gradients(settings, "vgg08", 0)
    for analysis, _ in settings.analyses:
        getattr(stages, analysis)(settings, "vgg08", 0)
    assert cli.main(["plan", "core"]) == 0
    assert capsys.readouterr().out.endswith("left to train: nothing\n")
    files.write(paths.TRAINABLE_DEPTH, "")
    assert cli.main(["plan"]) == 0
    assert capsys.readouterr().out.endswith("left to train: nothing\n")


def test_an_analysis_takes_the_passes_that_it_states_at_every_snapshot():
    """Snapshots 0, 1 and 2 of seed 0; the other seed of the study is not analysed."""
    settings = study({"analyses": {"effective_depth": {"snapshots": [0, 1, 7]}}})
    listed = remaining.entries(settings)
    for entry in listed:
        analysis = entry.analyses[-1]
        each = effective_depth.passes(settings.analyses.effective_depth, entry.run.model, 1)
        assert (analysis.name, analysis.seeds, analysis.images) == ("effective_depth", [0], pytest.approx(3 * each))

    def each_pass(run, precision):
        return 0.01 * models.measure(run.model, 10).layers, f"a chip for {precision}"

    made = cost.estimate(listed, lambda run: (1.0, ""), pass_seconds=each_pass)
    for entry in listed:
        seconds = entry.analyses[-1].images / 10 * 0.01 * entry.size.layers  # in minibatches of 10
        assert made.analyses[entry.name, "effective_depth"] == pytest.approx(seconds)
    assert [line for line in made.measurements if "pass" in line] == [
        f"{run}: {seconds} ms a pass in {precision} on a chip for {precision}"
        for precision in ("fp32", "fp64")
        for run, seconds in (("vgg08", 80), ("vgg38", 380))
    ]


def swept(precisions=("fp32",), **block):
    """Plain networks of 8 and 10 layers, on 20 images of 10 classes in minibatches of 5, judged on 10, for 2 epochs."""
    sweeps = [
        {"initialisation": "default", "precision": precision, "layers": [8, 10], "seeds": [0, 3]}
        for precision in precisions
    ]
    return study({"trainable_depth": {"sweeps": sweeps, **block}, "train": {"threads": 2}})


def test_the_sweep_trains_every_network_on_its_own_images():
    """The entry convolution, one of 32 x 32 pixels, two of 16 x 16, two of 8 x 8, one of 4 x 4 and 10 classes; with 10
    layers two more of 32 x 32. Each image costs 3 forward passes in both epochs, a validation image one.
    """
    pixel = 9 * 32 * 32
    shallow = 9 * 3 * 32 * 1024 + pixel * (1024 + 2 * 256 + 2 * 64 + 16) + 320
    listed = remaining.sweep(swept())
    assert [entry.name for entry in listed] == [
        f"{layers} layers, default, fp32, seed {seed}" for layers in (8, 10) for seed in (0, 3)
    ]
    forward = [shallow, shallow, shallow + 2 * 1024 * pixel, shallow + 2 * 1024 * pixel]
    assert [entry.macs for entry in listed] == [each * 2 * (3 * 20 + 10) for each in forward]
    assert [entry.work for entry in listed] == pytest.approx([each * 5 / 1e9 for each in forward])
    assert [entry.steps for entry in listed] == pytest.approx([2 * 4 + 2 * 10 / 15] * 4)


def test_the_time_of_the_sweep_is_that_of_all_its_steps_with_its_own_threads():
    measured = []

    def step(run):
        measured.append((run.train.precision, run.train.threads, models.measure(run.model, 10).layers))
        return 0.01 * measured[-1][-1] * (2 if run.train.precision == "bf16" else 1), "a chip"

    listed = remaining.sweep(swept(("fp32", "bf16")))
    made = cost.estimate(listed, step, pass_seconds=never)
    assert measured == [("fp32", 1, 8), ("fp32", 1, 10), ("bf16", 1, 8), ("bf16", 1, 10)]
    steps = 2 * 4 + 2 * 10 / 15
    assert sum(made.seconds.values()) == pytest.approx(steps * (0.08 + 0.08 + 0.1 + 0.1) * 3)
    head, *rest = remaining.sweep_text(listed, made).splitlines()
    # 140 passes of each image's 16.4 and 35.2 million, four times each; 9.33 steps of 1.08 s in all
    assert head == "left to sweep: trainable_depth of 8 trainings, 29 GMAC, at most 10 s one after another"
    assert rest[0] == "  8 layers, default, fp32, seed 0: 80 ms a step in fp32 on a chip"
    assert len(rest) == 4


def test_a_sweep_whose_table_is_there_is_done():
    files.write(paths.TRAINABLE_DEPTH, "")
    assert remaining.sweep(swept()) == []


@pytest.mark.parametrize("name", ["signal", "landscape", "curvature"])
def test_an_analysis_states_the_arithmetic_that_pytorch_counts(name):
    """Of the initialisation and the last snapshot of a trajectory of three, on a network with both cures."""
    import torch
    from flops import Flops

    from vanishing.analysis.snapshots import Snapshot

    settings = examples.study(runs=["vgg38_bn_rc"])
    run = settings.run("vgg38_bn_rc")
    run = run.model_copy(update={"model": run.model.model_copy(update={"blocks": 1, "filters": 8})})
    block, module = settings.analyses[name], importlib.import_module(f"vanishing.analysis.{name}")
    for epoch in (0, 1, 2):
        checkpoints.write(paths.snapshot(Path(), epoch), models.build(run.model, 10, epoch).state_dict())
    generator = torch.Generator().manual_seed(0)
    count = block.batch_size
    batches = [
        (torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count).remainder(10))
        for _ in range(block.batches)
    ]
    with Flops() as counter:
        for epoch in (0, 2):
            module.measure(Snapshot(models.build(run.model, 10, 0), epoch, [0, 2], Path(), run, batches), block)
    stated = models.measure(run.model, 10).macs * module.passes(block, run.model, 2)
    assert counter.total / 2 == pytest.approx(stated, rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_pass_is_measured(monkeypatch, precision):
    monkeypatch.setattr(cost, "MEASURED_FOR", 0.05)
    seconds, device = cost.time_pass(study().run("vgg08"), precision)
    assert 1e-5 < seconds < 5
    assert device.endswith(", 1 threads")
