"""What jobs ask a scheduler for."""

from types import SimpleNamespace

import pytest

import examples
from vanishing import config
from vanishing.config import ParameterError
from vanishing.engines import resources
from vanishing.training import models


@pytest.fixture(scope="module")
def project():
    return config.load(examples.ROOT / "params.yaml")


def asked(found, run="vgg38"):
    return {name: function(SimpleNamespace(run=run, seed="0")) for name, function in found.items()}


def test_layers_of_a_configuration_are_those_of_its_network(project):
    for name in project.runs:
        run = project.run(name)
        assert run.model.layers == models.measure(run.model, run.data.classes).layers, name


def test_a_training_asks_for_a_gpu_memory_and_the_time_of_a_slow_gpu(project):
    # 100 epochs of 475 steps, 38 layers, 6.5 ms each: 195.5 minutes, and ten
    signal = {"slurm_extra": "--signal=TERM@180"}  # by which it is stopped in time
    assert asked(resources.training(project, {})) == {"gpu": 1, "mem_mb": 8000, "runtime": 206} | signal


def test_a_wider_network_gets_more_time(project):
    # 64 filters: four times the 195.5 minutes of 32, and ten
    assert resources.minutes(project.run("vgg38_bn_rc_wide")) == 793


def test_a_run_on_the_cpu_asks_for_no_gpu_and_more_time():
    settings = examples.study({"train": {"device": "cpu", "epochs": 3, "batch_size": 100}})
    run = settings.run(next(iter(settings.runs)))
    steps = 3 * -(-run.data.sizes[0] // 100)
    expected = 10 + -(-steps * run.model.layers * 40 // 60000)
    found = asked(resources.training(settings, {}), next(iter(settings.runs)))
    assert (found["gpu"], found["mem_mb"], found["runtime"]) == (0, 8000, expected)


def test_gres_takes_the_place_of_gpus(project):
    found = asked(resources.training(project, {"gres": "gpu:a100:1"}))
    assert found["gres"] == "gpu:a100:1"
    assert "gpu" not in found
    on_cpu = examples.study({"train": {"device": "cpu"}})
    assert asked(resources.measuring(on_cpu, {"gres": "gpu:1"}), next(iter(on_cpu.runs)))["gres"] == ""


@pytest.mark.parametrize("gres", ["--gres=gpu:1", "gpu:1 --exclusive", "gpu:", "1", "$(x)"])
def test_what_no_gres_can_be_is_refused(project, gres):
    with pytest.raises(ParameterError, match=r"--config gres = .*allowed: .* such as gpu:1"):
        resources.training(project, {"gres": gres})


def test_the_sweep_over_depths_asks_for_all_of_its_networks(project):
    block = project.trainable_depth
    steps = block.epochs * -(-block.images * 100 // block.batch_size)
    layers = sum(layers for sweep in block.sweeps for layers in sweep.layers for _ in sweep.seeds)
    runtime = asked(resources.sweeping(project, {}))["runtime"]
    assert runtime == pytest.approx(10 + steps * layers * 0.0065 / 60, abs=1)
