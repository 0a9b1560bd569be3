"""Every command in the documents is run: here, in another test, or it is listed with the reason why not."""

import re
import shlex
import shutil
from pathlib import Path

import clones
import engines
import pages
import pytest
from PIL import Image

import examples
from vanishing import cli

LISTED = {
    heading: [tuple(line.partition("  =>  ")[::2]) for line in commands.splitlines() if line]
    for heading, commands in re.findall(
        r"^\[([^\n]+)\]\n(.*?)(?=^\[|\Z)",
        (examples.ROOT / "tests" / "support" / "documented_commands.txt").read_text(),
        re.MULTILINE | re.DOTALL,
    )
}
"""By where they are run, or why not: commands as they are shown, each with what is typed instead, or nothing."""

TINY = {
    "vgg38_bn": "vgg14_bn", "vgg38_rc": "vgg08", "vgg08_short": "vgg08", "vgg38_short": "vgg14_bn",
    "depth": "core", "saturation": "core",
}  # fmt: skip
"""What the tiny study has in place of the runs and studies that are named."""

MODEL = """
import torch

def build():
    return alone(), [(torch.randn(32, 8), torch.randint(4, (32,)))]

def alone():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
"""
FEW = "import torch\n\ndef few():\n    return [(torch.randn(32, 8), torch.randint(4, (32,)))]\n"


@pytest.fixture
def study(build, tmp_path):
    """A finished tiny study under git, with what the commands name."""
    folder = Path(shutil.copytree(build("snakemake"), tmp_path / "study", symlinks=True))
    (folder / "src").unlink()
    (folder / "src").symlink_to(examples.ROOT / "src")
    (folder / "overlay.yaml").write_text("train: {epochs: 3}\n")
    (folder / "model.py").write_text(MODEL)
    (folder / "data.py").write_text(FEW)
    for at in range(60):
        path = folder / "photos" / f"class{at % 3}" / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(6 * at).save(path)
    clones.under_git(folder)
    for key, value in (("name", "A"), ("email", "a@example.org")):
        clones.git(folder, "config", f"user.{key}", value)
    clones.git(folder, "add", "--all")
    clones.git(folder, "commit", "--quiet", "--message", "A study")
    return folder


def typed(command):
    """Return a command with the names of the tiny study."""
    return re.sub(rf"\b({'|'.join(TINY)})\b", lambda name: TINY[name[0]], command)


def run(folder, command):
    """Run a command; those of this project in this process, which has PyTorch already."""
    program, *arguments = shlex.split(command)
    if program != "vanishing" or "$" in command:
        engines.run(folder, "bash", "-c", command)
        return 0
    try:
        return cli.main(arguments)
    except SystemExit as ended:  # of --help
        return ended.code


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of DVC's libraries, which are loaded into this process
def test_commands_that_need_nothing_special_succeed_in_a_finished_study(study, monkeypatch, capsys):
    monkeypatch.chdir(study)
    for shown, instead in LISTED["here"]:
        command = typed(instead or shown)
        code = run(study, command)
        assert code == 0, f"{command}: {capsys.readouterr().err}"


def test_every_command_is_run_or_listed():
    found = [pages.commands(page.read_text()) for page in pages.PAGES]
    lines, within = ({command for kinds in found for command in kinds[at]} for at in (0, 1))
    listed = [shown for commands in LISTED.values() for shown, _ in commands]
    assert len(listed) == len(set(listed))
    begun = {command for command in within if any(each.startswith(f"{command} ") for each in listed)}
    assert sorted((lines | within) - set(listed) - begun) == []
    assert sorted(set(listed) - lines - within) == []


@pytest.mark.parametrize("name", [name for name in LISTED if "::" in name])
def test_what_is_run_elsewhere_has_a_test_there(name):
    path, _, function = name.partition("::")
    assert re.search(rf"^def {function}\(", (examples.ROOT / path).read_text(), re.MULTILINE)
