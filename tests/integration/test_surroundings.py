"""What a user's environment may not do: change bytes, run another checkout's code, or end in a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import users
import yaml
from engines import lay_out, run

import examples
from vanishing import project

BARE = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}  # noqa: S108 - nothing is written there
PROGRAMS = Path(sys.executable).parent
SWITCHES = {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "OMP_DYNAMIC": "true", "OMP_THREAD_LIMIT": "1"}


@pytest.fixture
def folder(tmp_path):
    """A tiny study that nothing has been built of."""
    lay_out(tmp_path / "study", {}, train={"epochs": 1})
    return tmp_path / "study"


def ended(folder, *command, **variables):
    """Run a command among these variables alone; return its exit code and what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=BARE | variables, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def refused(folder, *command, **variables):
    """Run a command that must end in one line, without a traceback; return the line."""
    code, printed = ended(folder, *command, **variables)
    assert code in (1, 2), printed
    assert "Traceback" not in printed
    return printed.strip().splitlines()[-1]


def another_checkout(folder):
    """Give a study code of its own, with an edit."""
    (folder / "src").unlink()
    shutil.copytree(project.RUNNING, folder / "src" / "vanishing", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "src" / "vanishing" / "report" / "latex.py").open("a") as handle:
        handle.write("EDITED = True\n")


def test_snakemake_runs_without_an_activated_environment(folder):
    code, printed = ended(folder, PROGRAMS / "snakemake", "--cores", "1", "data")
    assert code == 0, printed
    assert (folder / "data" / "generated.npz").exists()


def test_dvc_without_an_activated_environment_ends_before_anything_made_in_hours_goes(folder):
    run(folder, "dvc", "repro", "train@vgg08-0")
    before = (folder / "results/runs/vgg08/seed0/summary.json").read_bytes()
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["train"]["epochs"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    code, printed = ended(folder, PROGRAMS / "dvc", "repro")
    assert code != 0
    assert "vanishing: not found" in printed
    assert (folder / "results/runs/vgg08/seed0/summary.json").read_bytes() == before
    assert list((folder / "checkpoints/vgg08/seed0").glob("*.safetensors"))


@pytest.mark.parametrize("options", [[], ["--workflow-profile", "none"]])
def test_one_training_a_gpu_whatever_becomes_of_the_profile(folder, options):
    code, printed = ended(folder, PROGRAMS / "snakemake", "--cores", "4", *options, "data")
    assert code == 0, printed
    assert "Provided resources: gpu=" in printed
    chosen = next(line for line in printed.splitlines() if line.startswith("Provided resources"))
    assert chosen.endswith(("gpu=1", 'gpu=Resource("gpu", 1)'))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("train", "'train': runs for each run and seed, by `vanishing train RUN --seed SEED`; allowed: a study"),
        ("figures", "'figures': runs for each study, by `vanishing figures STUDY`; allowed: a study"),
        ("depht", "'depht': not a target; allowed: a stage, a study, or a file that a stage makes; stages: all, data,"),
        ("results/tables/nosuch.csv", "not a target; allowed"),
        ("results/runs/vgg08/seed7/summary.json", "not a target; allowed"),
        ("results/runs/vgg08/seed00/summary.json", "not a target; allowed"),
        ("{folder}/results/tables/core.csv", "not a target; allowed"),
        ("data/cifar100.npz", "not a target; allowed"),
    ],
)
def test_a_target_that_is_none_is_answered_by_those_there_are(folder, target, words):
    line = refused(folder, PROGRAMS / "snakemake", "-n", target.format(folder=folder))
    assert line.startswith("snakemake: ")
    assert words in line
    assert line.endswith("studies: core")


@pytest.mark.parametrize(
    "target",
    [
        "core",
        "all",
        "report",
        "results/tables/core.csv",
        "../study/./results/tables/core.csv",
        "checkpoints/vgg08/seed0",
    ],
)
def test_a_target_that_is_one_is_taken(folder, target):
    code, printed = ended(folder, PROGRAMS / "snakemake", "-n", target)
    assert code == 0, printed


SCRIPT = """
import argparse, pathlib
from snakemake.api import SnakemakeApi
from snakemake.settings.types import DAGSettings, ResourceSettings
parser = argparse.ArgumentParser()
parser.add_argument("--mine", required=True)
parser.parse_args()
with SnakemakeApi() as api:
    flow = api.workflow(resource_settings=ResourceSettings(cores=1), snakefile=pathlib.Path("Snakefile"))
    flow.dag(dag_settings=DAGSettings(targets={"data"})).execute_workflow()
"""


def test_a_script_that_calls_snakemake_as_a_library_keeps_its_options(folder):
    (folder / "mine.py").write_text(SCRIPT)
    code, printed = ended(folder, sys.executable, "mine.py", "--mine", "x", PATH=f"{PROGRAMS}:/usr/bin:/bin")
    assert code == 0, printed
    assert (folder / "data" / "generated.npz").exists()


@pytest.mark.parametrize("character", ["{", "}"])
def test_a_path_in_which_dvc_fails_is_refused_by_name(folder, character):
    other = folder.rename(folder.with_name(f"x{character}y"))
    said = f"{other}: DVC does not work in a path with '{character}'; use another folder"
    assert refused(other, PROGRAMS / "vanishing", "sync") == f"vanishing sync: {said}"
    line = refused(examples.ROOT, PROGRAMS / "vanishing", "workspace", other)
    assert line == f"vanishing workspace: {said}"


@pytest.mark.parametrize(
    "command",
    [["snakemake", "--cores", "1", "data"], ["vanishing", "data"], ["vanishing", "verify"], ["vanishing", "manifest"]],
)
def test_another_checkouts_environment_is_refused(folder, command):
    another_checkout(folder)
    line = refused(folder, PROGRAMS / command[0], *command[1:])
    assert ": src/vanishing: differs from the code that runs, " in line
    assert not (folder / "data").exists()


def test_dvc_refuses_another_checkouts_environment_too(folder):
    another_checkout(folder)
    code, printed = ended(folder, PROGRAMS / "dvc", "repro", "data", PATH=f"{PROGRAMS}:/usr/bin:/bin")
    assert code != 0
    assert "vanishing configure: src/vanishing: differs from the code that runs" in printed


def test_the_manifest_names_the_code_that_ran_by_its_hash(folder):
    _, printed = ended(folder, PROGRAMS / "vanishing", "manifest")
    assert json.loads(printed)["repeats"]["code"] == project.code_hash(examples.ROOT / project.SOURCE)


def test_switches_of_the_arithmetic_change_no_weights_and_are_in_no_summary(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other, symlinks=True)
    for place, variables in ((folder, {}), (other, SWITCHES)):
        for command in (["data"], ["train", "vgg14_bn"], ["gradients", "vgg14_bn", "--seed", "0"]):
            code, printed = ended(place, PROGRAMS / "vanishing", *command, **variables)
            assert code == 0, printed
    made = [path.relative_to(folder) for path in folder.rglob("*seed0/*") if path.is_file()]
    assert len(made) >= 5
    assert [path for path in made if (folder / path).read_bytes() != (other / path).read_bytes()] == []


def test_a_training_in_a_process_with_switches_records_them(folder):
    code = (
        "import vanishing; p = vanishing.load_parameters(); r = p.run('vgg08')\n"
        "from vanishing.training import devices\n"
        "print(devices.environment(r.train, devices.configure(r.train)).get('switches'))"
    )
    for variables, wanted in (({}, "None"), ({"MKL_CBWR": "COMPATIBLE"}, "MKL_CBWR=COMPATIBLE")):
        assert ended(folder, sys.executable, "-c", code, **variables) == (0, f"{wanted}\n")


def test_output_that_is_closed_or_cannot_print_a_character_is_no_error(folder):
    vanishing = PROGRAMS / "vanishing"
    assert ended(folder, "/bin/sh", "-c", f"{vanishing} models >&-") == (0, "")
    assert ended(folder, "/bin/sh", "-c", f"{vanishing} models | true") == (0, "")
    assert ended(folder, "/bin/sh", "-c", f"{vanishing} train nothing 2>&-") == (2, "")
    code, printed = ended(folder, vanishing, "train", "\u00e9", PYTHONIOENCODING="ascii")
    assert code == 2
    assert "'\\xe9'" in printed
    assert "Traceback" not in printed


def test_a_user_without_a_name_or_a_home_builds_synchronises_and_verifies(folder):
    nameless = users.nameless()
    for path in [folder.parent, *folder.parent.rglob("*")]:
        os.chown(path, users.NOBODY, users.NOBODY, follow_symlinks=False)
    for command in (["data"], ["sync"], ["verify"], ["manifest"]):
        done = subprocess.run(
            [*nameless, "env", "-i", f"PATH={PROGRAMS}:/usr/bin:/bin", "vanishing", *command],
            cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.parametrize("engine", [["snakemake", "--cores", "1", "data"], ["dvc", "repro", "data"]])
def test_a_user_without_a_name_runs_the_engines_with_what_the_commands_page_says(folder, engine):
    nameless = users.nameless()
    page = (examples.ROOT / "docs" / "commands.md").read_text()
    export = next(line for line in page.splitlines() if "`export HOME=" in line).split("`")[1]
    for path in [folder.parent, *folder.parent.rglob("*")]:
        os.chown(path, 54321, 54321, follow_symlinks=False)
    done = subprocess.run(
        [*nameless, "env", "-i", f"PATH={PROGRAMS}:/usr/bin:/bin", "sh", "-c", f"{export}; {' '.join(engine)}"],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "data" / "generated.npz").exists()
