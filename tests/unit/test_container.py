"""The Containerfile and the manifests for Kubernetes name what is there; here neither is built or run."""

import fnmatch
import re

import pytest
import yaml

import examples
from vanishing import cli

INSTRUCTIONS = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "CMD"}
MANIFESTS = sorted((examples.ROOT / "workflow" / "kubernetes").glob("*.yaml"))
GENERATED = [
    "checkpoints/vgg08/seed0/epoch0000.safetensors", "data/cifar100.npz", ".dvc/config.local", ".venv/bin/python",
    "report/report.pdf", "report/report.html", "report/tables/core.tex", "report/why/why.tex", "results/checks.csv",
]  # fmt: skip


def instructions():
    """Return the instructions of the Containerfile, continued lines joined, as pairs of name and rest."""
    lines = (examples.ROOT / "Containerfile").read_text().splitlines()
    joined = re.sub(r" *\\\n *", " ", "\n".join(line for line in lines if not line.startswith("#")))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def said(name):
    return [rest for each, rest in instructions() if each == name]


def ignored(path):
    """Return whether `.dockerignore` leaves a path out: the last line that fits it or a folder of it decides."""
    out = False
    for line in (examples.ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)] + parts * line.startswith("**/")
        if line and not line.startswith("#") and any(fnmatch.fnmatchcase(part, pattern) for part in above):
            out = not line.startswith("!")
    return out


def test_the_image_is_of_a_pinned_version_and_runs_as_a_user_with_a_home():
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    (base,) = said("FROM")
    assert re.fullmatch(r"docker\.io/library/python:3\.1[123]\.\d+-slim-\w+", base)
    assert said("USER") == ["study"]
    assert said("ENV") == ["HOME=/var/lib/study"]
    assert "--require-hashes --requirement /opt/vanishing/requirements.lock" in said("RUN")[1]


def test_latex_comes_from_the_packages_of_the_set_up():
    script = (examples.ROOT / "workflow" / "setup.sh").read_text()
    wanted = re.search(r'^latex="(.+)"$', script, re.MULTILINE)[1]
    assert f" {wanted} " in said("RUN")[0]


def test_what_is_copied_is_committed_and_holds_all_sources_of_the_pipeline():
    committed = examples.committed()
    copied = [source.removeprefix("./") for rest in said("COPY") for source in rest.split()[:-1]]
    within = {source: [path for path in committed if f"{path}/".startswith(f"{source}/")] for source in copied}
    assert all(within.values()), within
    from vanishing.engines import workspace

    taken = {path for paths in within.values() for path in paths}
    for pattern in workspace.SOURCES:
        assert {path for path in committed if fnmatch.fnmatchcase(path, pattern)} <= taken, pattern
    assert not [path for path in taken if ignored(path)]


@pytest.mark.parametrize("path", GENERATED)
def test_data_results_and_the_users_settings_stay_outside(path):
    assert ignored(path)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_job_runs_commands_that_there_are_as_the_user_of_the_image(path):
    job = list(yaml.safe_load_all(path.read_text()))[-1]
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
    assert "--uid 1000" in said("RUN")[-1]
    (container,) = pod["containers"]
    words = container["command"]
    calls = re.findall(r"vanishing ([^&]+)", words[-1]) if words[0] == "sh" else [" ".join(words[1:])]
    for call in calls:
        cli._parser().parse_args(call.split())
    assert calls


def test_a_pod_that_leaves_trainings_to_others_does_not_count_as_failed():
    from vanishing.engines.trainer import Elsewhere

    job = yaml.safe_load((examples.ROOT / "workflow" / "kubernetes" / "train.yaml").read_text())
    first, second = job["spec"]["podFailurePolicy"]["rules"]
    assert first["action"] == second["action"] == "Ignore"
    assert first["onExitCodes"]["values"] == [Elsewhere.exit_code]
