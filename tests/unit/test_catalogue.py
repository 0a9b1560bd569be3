"""The catalogue of stages: what is read out of a row."""

import json
from pathlib import Path

import pytest

import examples
from vanishing import config
from vanishing.config import ParameterError
from vanishing.engines import catalogue, graph


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("data", "vanishing data"),
        ("train@vgg38_bn-12", "vanishing train vgg38_bn --seed 12"),
        ("gradients@vgg08-0", "vanishing gradients vgg08 --seed 0"),
        ("tables@core", "vanishing tables core"),
        ("configure", "vanishing configure"),
        ("train@x; rm -rf-0", "dvc repro"),
        ("elsewhere", "dvc repro"),
    ],
)
def test_a_stage_of_dvc_is_run_by_its_command(name, command):
    assert catalogue.command_of(name) == command


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("data/cifar100.npz", "vanishing data"),
        ("checkpoints/vgg08/seed1/epoch0000.safetensors", "vanishing train vgg08 --seed 1"),
        ("results/runs/vgg08/seed1/gradients.csv", "vanishing gradients vgg08 --seed 1"),
        ("results/tables/core-differences.csv", "vanishing tables core"),
        ("report/tables/learning_rate.tex", "vanishing tables learning_rate"),
        ("report/figures/core/loss.pdf", "vanishing figures core"),
        ("results/comparison/scatter.csv", "vanishing published"),
        ("report/report.pdf", "vanishing report"),
        ("report/report.tex", None),
        ("results/tables/core.csv.bak", None),
    ],
)
def test_a_file_is_made_by_the_command_of_its_stage(path, command):
    assert catalogue.maker_of(Path(path)) == command


def test_patterns_find_the_files_that_templates_name(tmp_path):
    made = ["checkpoints/a/seed0/best.safetensors", "report/figures/core/loss.pdf", "results/runs/a/seed0/summary.json"]
    others = ["checkpoints/a/seed0/.snakemake_timestamp", "report/report.tex", "data/cifar100.npz"]
    for name in made + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {path for pattern in catalogue.patterns() for path in tmp_path.glob(pattern) if path.is_file()}
    assert {path.relative_to(tmp_path).as_posix() for path in found} == set(made)


def test_no_two_stages_make_the_same_file():
    made = [output for stage in catalogue.STAGES for output in stage.outputs]
    assert len(made) == len(set(made))


def test_what_a_stage_reads_comes_before_it():
    made: set[str] = set()
    for stage in catalogue.STAGES:
        for path in stage.inputs:
            assert path.startswith("notebooks/") or any(output.startswith(path) for output in made), (stage.name, path)
        made |= set(stage.outputs)


def test_a_slice_of_the_configuration_is_that_of_its_run_or_study():
    settings = examples.study()
    stage = catalogue.stage("train")
    assert stage.configuration_path("vgg08") == Path("configuration/train/vgg08.json")
    assert json.loads(stage.configuration_text(settings, "vgg08")) == settings.run("vgg08").configuration()
    assert [path.as_posix() for path, _ in catalogue.stage("tables").configurations(settings)] == [
        "configuration/tables/core.json"
    ]
    assert list(catalogue.stage("report").configurations(settings)) == []


@pytest.mark.parametrize("name", ["all", "configure", "train", "report"])
def test_a_study_cannot_be_called_after_a_target_of_snakemake(tmp_path, name):
    content = examples.content()
    content["studies"] = {name: content["studies"]["core"]}
    path = tmp_path / "params.yaml"
    path.write_text(config.text(content))
    with pytest.raises(ParameterError) as caught:
        graph.load(path=path)
    assert f"{caught.value}" == f"{path}: studies.{name}: allowed: another name; `snakemake {name}` is a stage"
