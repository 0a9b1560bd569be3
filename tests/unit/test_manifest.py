import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

import examples
from vanishing import cli, files, paths
from vanishing.training import devices
from vanishing.verify import manifest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the parameters and the results of a small study of two seeds."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content({"seeds": [0, 1]})))
    for seed in (0, 1):
        examples.result(study(), "vgg08", seed)
        set_environment(seed, "AVX2")
    examples.result(study(), "vgg38", 0, train=(float("nan"), 0.1))
    return tmp_path


def study():
    return examples.study({"seeds": [0, 1]})


def set_environment(seed, kind):
    path = paths.results("vgg08", seed) / "summary.json"
    environment = {"device": "cpu", "kind": kind, "torch": "9.9", "precision": "fp32", "threads": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"environment": environment}))


def commit(folder="."):
    """Make a folder a repository of its own, with what is there committed."""
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        own = ["-C", folder, "-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *own, *arguments], check=True)


def test_the_part_that_repeats_names_what_bytes_hang_on(capsys):
    files.write(Path("data/generated.npz"), "images")
    assert cli.main(["manifest"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"repeats", "varies"}
    repeats = content["repeats"]
    assert repeats["seeds"] == [0, 1]
    assert repeats["data"] == {"data/generated.npz": files.sha256(Path("data/generated.npz"))}
    assert repeats["configuration"]["train"]["epochs"] == 2
    assert repeats["versions"]["torch"] == torch.__version__
    decide = {"python", "numpy", "pandas", "matplotlib", "snakemake", "dvc", "vl-convert-python", "jinja2", "pillow"}
    assert decide <= set(repeats["versions"])
    assert repeats["numerics"]["vgg08"] == {
        "precision": "fp32",
        "threads": 1,
        "deterministic_algorithms": True,
        "cudnn_benchmark": False,
        "cudnn_allow_tf32": False,
        "matmul_allow_tf32": False,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    path = paths.results("vgg08", 1) / "history.csv"
    assert repeats["outputs"][str(path)] == files.sha256(path)
    assert repeats["trained"]["vgg08/seed0"]["kind"] == "AVX2"
    assert repeats["trained"]["vgg38/seed0"]["torch"] == "2.13.0"


def test_a_manifest_leaves_the_settings_of_pytorch_as_they_are():
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        manifest.collect(study())
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_the_part_that_repeats_is_the_same_in_another_folder(folder, tmp_path_factory, monkeypatch):
    first = manifest.as_text({"repeats": manifest.collect(study())["repeats"]})
    elsewhere = shutil.copytree(folder, tmp_path_factory.mktemp("other") / "study")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert manifest.as_text({"repeats": manifest.collect(study())["repeats"]}) == first
    assert not re.search(r"20\d\d-\d\d-\d\d", first)
    assert str(folder) not in first


def test_curves_for_tensorboard_are_no_difference():
    with_curves = manifest.collect(examples.study({"seeds": [0, 1], "tensorboard": True}))["repeats"]
    assert with_curves == manifest.collect(study())["repeats"]


def test_the_part_that_varies_tells_the_revision_and_whether_the_tree_is_clean():
    found = manifest.collect(study())["varies"]["git"]
    assert (found["revision"], found["clean"]) == (None, None)
    assert found["obstacle"].startswith("fatal: not a git repository")
    commit()
    found = manifest.collect(study())["varies"]
    assert re.fullmatch("[0-9a-f]{40}", found["git"]["revision"])
    assert found["git"]["clean"] is True
    assert found["git"]["obstacle"] is None
    assert found["hardware"]["cores"] >= 1
    Path("new").touch()
    assert manifest.collect(study())["varies"]["git"]["clean"] is False


def test_a_repository_of_another_owner_is_told_in_gits_words(folder, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("only root can give a repository to another owner")
    commit()
    monkeypatch.setenv("HOME", str(folder))  # whose git trusts no folder
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 54321, 54321)
    found = manifest.collect(study())["varies"]["git"]
    assert (found["revision"], found["clean"]) == (None, None)
    assert found["obstacle"].startswith(f"fatal: detected dubious ownership in repository at '{folder}'")


def test_the_repository_of_a_hook_that_calls_is_not_taken_for_this_one(tmp_path_factory, monkeypatch):
    commit()
    wanted = manifest.collect(study())["varies"]["git"]
    other = tmp_path_factory.mktemp("other")
    (other / "file").touch()
    commit(other)
    for name, value in {"GIT_DIR": ".git", "GIT_WORK_TREE": "", "GIT_INDEX_FILE": ".git/index"}.items():
        monkeypatch.setenv(name, str(other / value))
    assert manifest.collect(study())["varies"]["git"] == wanted
    assert wanted["clean"] is True


def test_the_part_that_varies_tells_the_hardware_and_the_driver(monkeypatch):
    files = {"/proc/driver/nvidia/version": ["NVRM version: 580.65"], "/proc/cpuinfo": ["model name\t: EPYC"]}
    monkeypatch.setattr(devices, "_lines", lambda name: files[name])
    varies = manifest.collect(study())["varies"]
    assert varies["driver"] == "NVRM version: 580.65"
    assert varies["hardware"]["processor"] == "EPYC"
    assert set(varies["hardware"]) >= {"capability", "cores", "memory_bytes", "gpus", "cuda", "cudnn"}


def test_a_manifest_can_be_a_file(capsys):
    assert cli.main(["manifest", "--output", "logs/manifest.json"]) == 0
    assert capsys.readouterr().out == ""
    assert set(json.loads(Path("logs/manifest.json").read_text())) == {"repeats", "varies"}
