"""What `vanishing weights` packs: the bytes that trainings left, their hashes, and nothing that does not match."""

import hashlib
import json
import re
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import yaml

import examples
from vanishing import build_model, cli, files, load_parameters, paths
from vanishing.training import checkpoints

OVERLAY = {"seeds": [0, 1], "model": {"stages": 2, "filters": 4}}
JOBS = [("vgg08", 0), ("vgg08", 1), ("vgg38", 0)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A small study of two runs and seeds: three trainings with weights, and one that diverged without any."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vanishing.weights.version", lambda _: "1.2.3")
    Path("params.yaml").write_text(yaml.safe_dump(examples.content(OVERLAY)))
    for name, seed in JOBS:
        examples.result(study(), name, seed)
        checkpoints.write(best(name, seed), build_model(study().run(name), seed).state_dict())
        enter(name, seed, files.sha256(best(name, seed)))
    examples.result(study(), "vgg38", 1, train=(float("nan"), 0.1))
    return tmp_path


def study():
    return examples.study(OVERLAY)


def best(name, seed):
    return Path(f"checkpoints/{name}/seed{seed}/best.safetensors")


def enter(name, seed, digest):
    """Enter the hash of the best weights in a summary."""
    path = paths.results(name, seed) / "summary.json"
    summary = json.loads(path.read_text())
    summary["files"]["best.safetensors"] = digest
    path.write_text(json.dumps(summary))


def packed(path="build/weights/vanishing-weights-1.2.3.zip"):
    """Return the content of each file in the archive."""
    with ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def refused(capsys, *words):
    """Return why these trainings are not packed; there is no file then."""
    assert cli.main(["weights", *words]) == 1
    assert [path for path in Path("build").rglob("*") if path.is_file()] == []
    return capsys.readouterr().err.rstrip("\n")


def test_all_finished_trainings_are_packed_and_those_without_weights_are_named(capsys):
    assert cli.main(["weights"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "vgg38:1: left out: diverged without a best epoch\n"
    assert printed.out.startswith("build/weights/vanishing-weights-1.2.3.zip: weights of 3 trainings, 0.")
    top, content = "vanishing-weights-1.2.3", packed()
    wanted = [f"{name}/seed{seed}/{file}" for name, seed in JOBS for file in ("summary.json", "best.safetensors")]
    assert list(content) == [f"{top}/{name}" for name in ("README.md", "LICENSE", "params.yaml", *wanted, "SHA256SUMS")]
    for name, seed in JOBS:
        assert content[f"{top}/{name}/seed{seed}/best.safetensors"] == best(name, seed).read_bytes()
        summary = Path(f"results/runs/{name}/seed{seed}/summary.json").read_bytes()
        assert content[f"{top}/{name}/seed{seed}/summary.json"] == summary
    assert content[f"{top}/params.yaml"] == Path("params.yaml").read_bytes()
    assert content[f"{top}/LICENSE"] == (examples.ROOT / "LICENSE").read_bytes()


def test_the_checksums_are_of_every_other_file():
    assert cli.main(["weights"]) == 0
    content = packed()
    sums = content.pop("vanishing-weights-1.2.3/SHA256SUMS").decode()
    wanted = [
        f"{hashlib.sha256(each).hexdigest()}  {name.removeprefix('vanishing-weights-1.2.3/')}\n"
        for name, each in content.items()
    ]
    assert sums == "".join(wanted)


def test_named_trainings_alone_are_packed_and_twice_the_same_bytes(capsys):
    for name in ("a.zip", "b.zip"):
        assert cli.main(["weights", "vgg38:0", "vgg08", "--output", name]) == 0
        Path("params.yaml").touch()
    assert Path("a.zip").read_bytes() == Path("b.zip").read_bytes()
    found = [re.search(r"(\w+)/seed(\d)/best", name) for name in packed("a.zip")]
    assert [(each[1], int(each[2])) for each in found if each] == [("vgg38", 0), ("vgg08", 0), ("vgg08", 1)]
    assert cli.main(["weights", "vgg38:0", "--output", "c.zip"]) == 0
    assert "c.zip: weights of 1 training, " in capsys.readouterr().out


def test_the_packed_readme_lists_the_trainings_and_its_code_loads_their_weights(tmp_path, monkeypatch):
    assert cli.main(["weights", "vgg38:0", "vgg08:1"]) == 0
    with ZipFile("build/weights/vanishing-weights-1.2.3.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    text = packed()["vanishing-weights-1.2.3/README.md"].decode()
    digest = files.sha256(best("vgg38", 0))
    assert f"| vgg38 | 0 | completed | 2 | 2 | 0.4000 | 0.3000 | {digest} |\n" in text
    assert text.startswith("# Weights of vanishing 1.2.3\n\nThe weights of 2 trainings")
    trained = build_model(study().run("vgg38"), 0).eval()
    monkeypatch.chdir(tmp_path / "elsewhere" / "vanishing-weights-1.2.3")
    code, names = (
        re.search(r"```python\n(.*?)```", text, re.DOTALL)[1],
        {"images": torch.full((2, 3, 32, 32), 7).byte()},
    )
    exec(code, names)  # noqa: S102 - as its reader does
    from vanishing.training.augmentation import normalise

    scaling = load_parameters().run("vgg38").data.scaling
    assert torch.equal(names["logits"], trained(normalise(names["images"], scaling)))


def test_weights_that_the_summary_does_not_name_are_refused(capsys):
    content = bytearray(best("vgg08", 1).read_bytes())
    content[-1] ^= 1
    right = files.sha256(best("vgg08", 1))
    best("vgg08", 1).write_bytes(content)
    path = "checkpoints/vgg08/seed1/best.safetensors"
    assert refused(capsys, "vgg08") == (
        f"vanishing weights: {path}: not what results/runs/vgg08/seed1/summary.json says, SHA-256 {right}; "
        f"`rm -f {path} && dvc checkout --force {path}` brings it back if it was recorded, "
        "`vanishing train vgg08 --seed 1` makes it again"
    )


def test_weights_that_are_not_here_are_named_with_what_brings_them(capsys):
    best("vgg08", 1).unlink()
    assert refused(capsys, "vgg08").startswith(
        "vanishing weights: checkpoints/vgg08/seed1/best.safetensors: missing; `rm -f "
    )
    best("vgg38", 0).unlink()
    assert refused(capsys).endswith(
        "weights of 2 of 3 trainings are not here: vgg08:1, vgg38:0; `vanishing restore` brings them if they were "
        "shared, `vanishing train RUN:SEED` makes them again; or name trainings to pack"
    )


def test_trainings_that_are_not_finished_diverged_at_once_or_are_of_another_configuration_are_refused(capsys):
    (paths.results("vgg08", 0) / "summary.json").unlink()
    assert refused(capsys, "vgg08:0").endswith("vgg08:0: not trained yet; `vanishing train vgg08 --seed 0` trains it")
    assert refused(capsys, "vgg38:1").endswith("vgg38:1: diverged without a best epoch, and has no weights of one")
    Path("params.yaml").write_text(yaml.safe_dump(examples.content(OVERLAY | {"train": {"weight_decay": 0.5}})))
    assert "trained with train.weight_decay = 0.0, and the parameters say 0.5" in refused(capsys, "vgg38:0")
    assert "no finished training; `vanishing train RUN` makes one" in refused(capsys)


def test_a_training_is_named_once(capsys):
    assert cli.main(["weights", "vgg08", "vgg08:1"]) == 2
    assert capsys.readouterr().err == "vanishing weights: 'vgg08:1' is named twice\n"
