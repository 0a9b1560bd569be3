import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import examples
from vanishing import cli, config, files, paths, stages
from vanishing.engines import catalogue
from vanishing.errors import UserError

COMMANDS = [
    "configure", *(stage.name for stage in catalogue.STAGES),
    "models", "plan", "rates", "status", "show", "compare", "readme", "sync", "verify", "manifest", "diagnose",
    "weights", "workspace",
]  # fmt: skip

ROOM = "; make room, then run the same command to resume"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the parameters of a small study."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content()))
    return tmp_path


def call(capsys, *arguments):
    """Run a command in this process: exit code, and the lines on stderr."""
    code = cli.main(arguments)
    return code, capsys.readouterr().err.splitlines()


def test_help_is_quick_and_names_every_command():
    code = (
        "import atexit, json, sys; from vanishing import cli\n"
        "atexit.register(lambda: print(json.dumps(sorted({name.split('.')[0] for name in sys.modules}))))\n"
        "cli.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    text, modules = done.stdout.rstrip("\n").rsplit("\n", 1)
    assert not {"torch", "pandas", "numpy", "matplotlib", "pydantic", "snakemake", "dvc"} & set(json.loads(modules))
    for command in COMMANDS:
        assert re.search(rf"^ +{command}\s+\w+ \w+", text, re.MULTILINE), f"{command} is not explained"


@pytest.mark.parametrize("stage", catalogue.STAGES, ids=lambda stage: stage.name)
def test_every_stage_calls_its_function_with_what_is_chosen(stage, capsys, monkeypatch):
    called = []
    monkeypatch.setattr(stages, stage.name, lambda *arguments: called.append(arguments))
    words = {"": [], "job": ["vgg08:0"], "study": ["core"]}[stage.each]
    assert call(capsys, stage.name, *words) == (0, [])
    settings, *rest = called[0]
    assert list(settings.studies) == ["core"]
    wanted = {"data": [None], "train": [[("vgg08", 0)], 1, None, "", False]}
    assert rest == wanted.get(stage.name, {"": [], "job": ["vgg08", 0], "study": [["core"]]}[stage.each])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_of_its_own(command, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main([command, "--help"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: vanishing {command}")


def test_the_package_runs_as_a_module_under_the_name_of_the_command():
    for argument, code, printed in (("--help", 0, "stdout"), ("trian", 2, "stderr")):
        command = [sys.executable, "-m", "vanishing", argument]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code
        assert getattr(done, printed).startswith("usage: vanishing [-h] [--set KEY=VALUE] COMMAND")


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word():
    command = f"{sys.executable} -m vanishing models | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("arguments", [[], ["trian"], ["workspace"], ["train", "vgg08", "--seed", "x"]])
def test_a_mistyped_call_ends_with_2_and_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("usage: vanishing")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["train", "vgg09", "--seed", "0"], 2, "train: run 'vgg09' is not configured; allowed: vgg08, vgg38"),
        (["train", "vgg08", "--seed", "5"], 2, "train: seed 5 of run 'vgg08' is not configured; allowed: 0"),
        (["gradients", "vgg09", "--seed", "0"], 2, "gradients: run 'vgg09' is not configured; allowed: vgg08, vgg38"),
        (["gradients", "vgg08", "--seed", "5"], 2, "gradients: seed 5 of run 'vgg08' is not configured; allowed: 0"),
        (["figures", "cor"], 2, "figures: study 'cor' is not configured; allowed: core"),
        (["plan", "core", "cor"], 2, "plan: study 'cor' is not configured; allowed: core"),
        (["rates", "cor"], 2, "rates: study 'cor' is not configured; allowed: core"),
        (
            ["gradients", "vgg08", "--seed", "0"],
            1,
            "gradients: checkpoints/vgg08/seed0: no trajectory; `dvc pull checkpoints/vgg08/seed0` brings it if it was "
            "pushed, `vanishing train vgg08 --seed 0` makes it",
        ),
        (["workspace", "elsewhere"], 1, "no Snakefile here; run this in the project's folder"),
    ],
)
def test_a_mistake_is_one_line_that_names_what_is_allowed_or_the_next_step(arguments, code, line, capsys):
    ended, lines = call(capsys, *arguments)
    assert (ended, len(lines)) == (code, 1)
    assert lines[0].endswith(line)
    assert lines[0].startswith(f"vanishing {arguments[0]}: ")


@pytest.mark.parametrize("command", ["train", "gradients"])
def test_without_the_images_the_next_step_is_named(command, capsys):
    files.write(paths.snapshot(paths.checkpoints("vgg08", 0), 0), "weights")
    code, lines = call(capsys, command, "vgg08", "--seed", "0")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"vanishing {command}: data/generated.npz: ")
    assert "`vanishing data`" in lines[0]


@pytest.mark.parametrize("text", [None, "data: [", "epocs: 3"])
def test_bad_parameters_end_every_command_with_2_and_one_line(text, capsys):
    if text is None:
        Path("params.yaml").unlink()
    else:
        Path("params.yaml").write_text(text)
    code, lines = call(capsys, "models")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("vanishing models: params.yaml")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x.npz"),
            1,
            "data/x.npz: No space left on device" + ROOM,
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "system: No space left on device" + ROOM),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "a"), 1, "a: Disk quota exceeded" + ROOM),
        (
            OSError(errno.ESTALE, os.strerror(errno.ESTALE), "data/x.npz"),
            1,
            "data/x.npz: Stale file handle; run the same command to resume",
        ),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "results"), 1, "results: Permission denied"),
        (OSError("cannot send"), 1, "system: cannot send"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (UserError("no such thing"), 1, "no such thing"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, code, line, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(stages, "tables", fail)
    assert call(capsys, "tables") == (code, [f"vanishing tables: {line}"])


def test_a_full_disk_leaves_the_file_before_and_no_other(monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    examples.result(examples.study(), "vgg08")
    assert cli.main(["tables"]) == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", full)
    code, lines = call(capsys, "tables")
    assert (code, lines) == (1, ["vanishing tables: results/tables/core.csv: No space left on device" + ROOM])
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_models_prints_the_counts_of_the_design(capsys):
    runs = ["vgg08", "vgg38", "vgg38_bn", "vgg38_rc", "vgg38_bn_rc"]
    content = config.with_runs(examples.PROJECT, runs) | {"studies": {"core": {"title": "Depth", "runs": runs}}}
    Path("params.yaml").write_text(config.text(content))
    assert cli.main(["models"]) == 0
    head, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head[:3] == ["run", "layers", "parameters"]
    counts = {row[0]: (row[1], row[2]) for row in rows}
    assert counts["vgg08"] == ("8", "59,716")
    assert counts["vgg38"] == counts["vgg38_rc"] == ("38", "336,196")
    assert counts["vgg38_bn"] == counts["vgg38_bn_rc"] == ("38", "338,500")
    assert list(counts) == runs


def test_show_prints_the_tables_or_says_that_there_are_none(capsys):
    assert cli.main(["show"]) == 0
    assert capsys.readouterr().err == "no results yet\n"
    examples.result(examples.study(), "vgg08")
    cli.main(["show"])
    title, head, _, missing, *_ = capsys.readouterr().out.splitlines()
    assert title == "Depth (losses in nats, accuracies in %)"
    assert head.split()[:2] == ["run", "layers"]
    assert missing == "no results yet: vgg38"
