"""What README, docs and the other documents say of the repository is so."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import examples
from vanishing import cli, config
from vanishing.engines import catalogue
from vanishing.report import readme

DOCUMENTS = [
    *(examples.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((examples.ROOT / "docs").glob("*.md")),
]
PROJECT = tomllib.loads((examples.ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (examples.ROOT / "Makefile").read_text()
WORDS_OF_README = 1100
"""Those that people write: the table of results is made."""
BASES = examples.ROOT, examples.ROOT / "src" / "vanishing"
"""Where the names of files begin; SECURITY.md has them within the package."""

every = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def code(path):
    """Return the lines of code blocks, without comments, and the code within sentences."""
    text = path.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", sentences)]


def test_the_readme_is_short_and_begins_with_figure_and_commands():
    text = (examples.ROOT / "README.md").read_text()
    written = re.sub(f"{readme.BEGIN}.*{readme.END}", "", text, flags=re.DOTALL)
    assert len(written.split()) < WORDS_OF_README
    first = text.splitlines()[:20]
    assert any(line.startswith("![") for line in first)
    assert [line.split("#")[0].strip() for line in first if line.startswith("make ")] == ["make demo", "make test"]


@every
def test_every_relative_link_leads_somewhere(path):
    for link in re.findall(r"\]\(([^)#\s]+)\)", path.read_text()):
        assert "://" in link or (path.parent / link).exists(), link


@every
def test_every_file_named_in_code_exists(path):
    folders = "src|tests|workflow|report|docs|examples|notebooks|benchmarks|results/comparison|[.]ci"
    for span in code(path):
        if re.fullmatch(rf"(?:{folders})/[\w./-]+", span) and not re.search(r"[A-Z]{4,}|saturation", span):
            made = catalogue.fields_of(Path(span)) is not None
            assert made or any((base / span).exists() for base in BASES), span


@every
def test_every_make_target_exists(path):
    for span in code(path):
        if target := re.match(r"make ([a-z][a-z-]*)", span):
            assert re.search(rf"^{target[1]}:", MAKEFILE, re.MULTILINE), span


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("html", "snakemake html --cores 2 --config from_results=true"),
        ("report", "snakemake report --cores 2 --config from_results=true"),
        ("docs", "mkdocs build --config-file docs/site/mkdocs.yml"),
    ],
)
def test_make_runs_what_the_pages_say_of_it(target, command):
    make = ["make", "--dry-run", "--old-file", ".venv/.ready", target, "CORES=2"]
    shown = subprocess.run(make, cwd=examples.ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"(^| ){re.escape(command)}$", shown, re.MULTILINE)


@every
def test_every_command_of_vanishing_can_be_parsed(path, capsys):
    """With its options; words in capitals stand for a value."""
    for span in code(path):
        if span.startswith("vanishing ") and not span.startswith("vanishing COMMAND"):
            try:
                cli._parser().parse_args(shlex.split(span)[1:])
            except SystemExit as ended:
                assert ended.code == 0, f"{span}: {capsys.readouterr().err}"


@every
def test_every_target_of_snakemake_exists(path):
    targets = {"report", "STUDY", "saturation", *config.load(examples.ROOT / "params.yaml").studies}
    for span in code(path):
        if target := re.match(r"snakemake --cores \d+ (\w+)", span):
            assert target[1] in targets, span


def test_every_test_that_the_makefile_runs_exists():
    named = re.findall(r"(?:tests|benchmarks)/[\w/]+\.py", MAKEFILE)
    assert len(named) > 5
    assert [name for name in named if not (examples.ROOT / name).exists()] == []


def test_the_citation_is_of_this_version_and_license():
    citation = yaml.safe_load((examples.ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert citation["authors"] == PROJECT["authors"] == [{"name": "The vanishing authors"}]
    assert {"message", "title", "abstract", "type"} <= citation.keys()


def test_zenodo_is_told_what_the_citation_says():
    citation = yaml.safe_load((examples.ROOT / "CITATION.cff").read_text())
    assert json.loads((examples.ROOT / ".zenodo.json").read_text()) == {
        "title": citation["title"],
        "description": citation["abstract"],
        "creators": citation["authors"],
        "upload_type": citation["type"],
        "access_right": "open",
        "license": PROJECT["license"],
        "version": PROJECT["version"],
        "keywords": citation["keywords"],
    }


def test_the_version_has_one_date_and_is_the_tag_of_the_image():
    citation = yaml.safe_load((examples.ROOT / "CITATION.cff").read_text())
    heading = f"## [{PROJECT['version']}] - {citation['date-released'].isoformat()}"
    assert heading in (examples.ROOT / "CHANGELOG.md").read_text().splitlines()
    for path in (examples.ROOT / "docs/kubernetes.md", *(examples.ROOT / "workflow/kubernetes").glob("*.yaml")):
        tags = set(re.findall(r"vanishing:(\d[\w.]*)", path.read_text()))
        assert tags == {PROJECT["version"]}, path.name


def test_the_license_is_the_one_named_and_of_the_authors():
    text = (examples.ROOT / "LICENSE").read_text()
    assert PROJECT["license-files"] == ["LICENSE"]
    assert text.startswith("MIT License\n\nCopyright (c) 2026 The vanishing authors\n")
    assert text.endswith("SOFTWARE.\n")


def test_the_changelog_has_this_version_below_what_is_unreleased():
    versions = re.findall(r"^## \[(.+?)\]", (examples.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[:2] == ["Unreleased", PROJECT["version"]]


def test_ci_runs_what_the_repository_says_it_does():
    workflow = yaml.safe_load((examples.ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert workflow[True]["schedule"]  # YAML reads `on` as true
    assert re.findall(r"'(\.ci/\w+)'", job["steps"][-1]["run"]) == [".ci/weekly", ".ci/run"]
    commands = {name: (examples.ROOT / ".ci" / name).read_text().splitlines() for name in ("run", "weekly")}
    assert {"make test", ".ci/audit"} <= set(commands["run"])
    assert {"make test-stress", ".ci/oldest", ".ci/audit"} <= set(commands["weekly"])
    latex = re.search(r'^latex="(.+)"$', (examples.ROOT / "workflow/setup.sh").read_text(), re.MULTILINE)[1]
    assert f"--no-install-recommends {latex}\n" in (examples.ROOT / "README.md").read_text()


def test_the_hooks_before_a_commit_call_the_locked_tools():
    content = yaml.safe_load((examples.ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in content["repos"]] == ["local"]
    development = {re.match(r"[\w-]+", name)[0] for name in PROJECT["optional-dependencies"]["dev"]}
    hooks = content["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "snakefmt", "mypy"} <= development
    assert {hook["language"] for hook in hooks} == {"system"}
