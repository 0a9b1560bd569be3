"""What a stage refuses to read, and what it leaves when it is killed."""

import json
from types import SimpleNamespace

import oracle
import pytest
import torch

import examples
from vanishing import config, files, paths, stages
from vanishing.analysis import gradient_flow
from vanishing.data import dataset, records, synthetic
from vanishing.engines import graph, trainer
from vanishing.errors import UserError
from vanishing.results import checks, store
from vanishing.training import devices, loop, step
from vanishing.verify import remeasure
from vanishing.verify.mismatch import Scope


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained():
    """Train a tiny run."""
    study = tiny()
    stages.data(study)
    stages.train(study, [("vgg08", 0)])
    return study


def tiny(**overlay):
    small = {
        "data": {"validation_per_class": 4, "generated": {"classes": 3, "train_per_class": 12, "test_per_class": 4}},
        "model": {"filters": 4},
        "train": {"epochs": 1, "batch_size": 8},
        "gradients": {"batches": 2, "batch_size": 8},
    }
    return examples.study(config.merge(small, overlay), runs=["vgg08"])


def test_images_held_out_in_another_number_are_refused(trained):
    with pytest.raises(UserError, match=r"found \(3, 24, 12, 12\), and the parameters say \(3, 27, 9, 12\); run `van"):
        stages.train(tiny(data={"validation_per_class": 3}), [("vgg08", 0)])


def test_a_run_with_another_seed_of_the_split_trains_on_it_and_is_measured_on_it(monkeypatch):
    study = tiny(runs={"vgg08": {"data": {"seed": 7}}})
    stages.data(study)
    before = study.data.path.read_bytes()
    read = []
    load = dataset.load_split
    monkeypatch.setattr(dataset, "load_split", lambda *arguments: read.append(load(*arguments)) or read[-1])
    stages.train(study, [("vgg08", 0)])
    stages.gradients(study, "vgg08", 0)
    scope = Scope(study, every=True)
    assert list(remeasure.gradient_flow(scope)) == []
    assert scope.tested == 1
    made = dataset.load(study.data.path)
    train, val = records.hold_out(records.joined(made.train, made.val), 4, 7)
    for each in read:
        assert (each.train.images == train.images).all()
        assert (each.val.images == val.images).all()
    assert len(read) == 3
    assert (made.val.images != val.images).any()
    assert study.data.path.read_bytes() == before


def test_the_gradient_flow_of_a_run_in_tf32_is_measured_in_fp32(monkeypatch):
    seen = []

    def measure(*arguments):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return measured(*arguments)

    measured = gradient_flow.gradient_flow
    monkeypatch.setattr(gradient_flow, "gradient_flow", measure)
    study = tiny(train={"precision": "tf32"})
    stages.data(study)
    stages.train(study, [("vgg08", 0)])
    assert torch.backends.cudnn.allow_tf32
    stages.gradients(study, "vgg08", 0)
    once = len(seen)
    devices.configure(study.run("vgg08").train)
    assert list(remeasure.gradient_flow(Scope(study, every=True))) == []
    assert len(seen) == 2 * once > 0
    assert set(seen) == {(False, False)}


def test_a_trajectory_from_before_a_key_was_added_is_measured(trained):
    path = paths.results("vgg08", 0) / "summary.json"
    summary = json.loads(path.read_text())
    del summary["configuration"]["model"]["kernel_size"]
    path.write_text(json.dumps(summary))
    stages.gradients(trained, "vgg08", 0)
    assert store.is_available(trained, "vgg08", 0)
    assert [name for name, _ in store.trainings(trained)] == ["vgg08/seed0"]
    assert [record.seed for record in Scope(trained).current] == [0]
    assert [raw.seed for raw in oracle.of_run(trained, "vgg08")] == [0]
    assert next(checks.verdicts(trained)).sound


def test_a_trajectory_of_another_configuration_is_not_measured(trained):
    told = (
        r"trained with model.activation = 'leaky_relu', and the parameters say 'tanh'; set that back, or `vanishing tr"
    )
    with pytest.raises(UserError, match=told):
        stages.gradients(tiny(model={"activation": "tanh"}), "vgg08", 0)


def test_a_kill_while_the_state_is_cleared_away_costs_nothing(trained, monkeypatch):
    """The state goes before the snapshots that it stands on; what is left of them is no obstacle."""
    done = published()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "shutil", SimpleNamespace(rmtree=lambda _: kill()))
        stages.train(trained, [("vgg08", 0)])
    assert not list(paths.SCRATCH.rglob(loop.STATE))
    next(paths.SCRATCH.rglob("epoch0000.safetensors")).unlink()
    stages.train(trained, [("vgg08", 0)])
    assert published() == done


def test_an_unfinished_training_of_another_configuration_is_not_gone_on_from(monkeypatch):
    before, after = tiny(), tiny(train={"learning_rate": 0.002})
    stages.data(before)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(step.Learner, "metrics", lambda *_: kill())
        stages.train(before, [("vgg08", 0)])
    assert list(paths.SCRATCH.rglob(loop.STATE))
    stages.train(after, [("vgg08", 0)])
    made = published()
    stages.train(after, [("vgg08", 0)])  # from the start: the state of the one before is gone
    assert published() == made


def test_gradient_flow_is_measured_with_the_threads_of_the_configuration_and_deterministically(trained):
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    stages.gradients(trained, "vgg08", 0)
    assert torch.get_num_threads() == trained.run("vgg08").train.threads == 1
    assert torch.are_deterministic_algorithms_enabled()


def test_nothing_is_replaced_before_all_of_the_new_is_there(trained, monkeypatch):
    done = published()
    monkeypatch.setattr(store.paths, "best", lambda folder: folder / "lost.safetensors")
    monkeypatch.setattr(loop.Training, "_keep", lambda *_: None)
    with pytest.raises(FileNotFoundError):
        stages.train(trained, [("vgg08", 0)])
    assert published() == done


def test_configure_writes_only_what_has_changed(tmp_path):
    graph.configure(tiny())
    before = {path: path.stat().st_mtime_ns for path in paths.CONFIGURATION.rglob("*.json")}
    graph.configure(tiny(runs={"vgg08": {"train": {"learning_rate": 0.002}}}))
    changed = {
        str(path.relative_to(paths.CONFIGURATION)) for path, time in before.items() if path.stat().st_mtime_ns != time
    }
    of_all = {"check.json", "published.json", "html.json", "numbers.json"}
    assert changed == {"train/vgg08.json", "tables/core.json", *of_all}
    assert json.loads((paths.CONFIGURATION / "train/vgg08.json").read_text())["train"]["learning_rate"] == 0.002


def test_configure_removes_what_is_no_longer_configured():
    files.write(paths.CONFIGURATION / "runs" / "gone.json", "{}")
    graph.configure(tiny())
    assert not (paths.CONFIGURATION / "runs" / "gone.json").exists()


def test_the_generated_set_is_what_the_parameters_say():
    stages.data(tiny())
    made = dataset.load(tiny().data.path)
    assert (len(made.train.labels), len(made.val.labels), len(made.test.labels)) == (24, 12, 12)
    train, _, _ = synthetic.generate(3, 12, 4, seed=0)
    assert {image.tobytes() for image in made.val.images} <= {image.tobytes() for image in train.images}


def published():
    folders = (paths.checkpoints("vgg08", 0), paths.results("vgg08", 0))
    return {path: path.read_bytes() for folder in folders for path in folder.iterdir()}


def kill():
    raise KeyboardInterrupt
