"""Settings on a command line over those of params.yaml: `vanishing --set`, and Snakemake's `--config`."""

import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from snakemake.cli import parse_config
from snakemake_interface_executor_plugins.utils import format_cli_arg

import examples
from vanishing import cli, config, stages
from vanishing.config import ParameterError
from vanishing.engines import graph

RATE = {"runs": {"vgg38_bn": {"train": {"learning_rate": 0.003}}}}

VALUES = [
    0.003, 1e-05, 7, -1, True, None, [], [0, 1], ["vgg08", "no"], [["vgg08", "vgg38"]], "fp32", "no", "0.003", "~", "",
    "a b", "it's", 'a "b"', "$(touch x) `touch x`", "é ü", "{c}", "a: b # c", " a ", "\\n", "a\nb", "x" * 300,
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the project's parameters."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((examples.ROOT / "params.yaml").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ([], {}),
        (["runs.vgg38_bn.train.learning_rate=0.003"], RATE),
        (["runs.vgg38_bn={train: {learning_rate: 3.0e-3}}"], RATE),
        (["train.epochs=5", "train.epochs=6", "seeds=[0, 1]"], {"train": {"epochs": 6}, "seeds": [0, 1]}),
        (["train.learning_rate=3e-3", "train.l1=1"], {"train": {"learning_rate": 0.003, "l1": 1}}),
        (["studies.core.title='3'", "studies.core.seeds="], {"studies": {"core": {"title": "3", "seeds": None}}}),
        (["studies.core.title=a=b"], {"studies": {"core": {"title": "a=b"}}}),
    ],
)
def test_a_setting_is_a_key_with_dots_and_a_value_as_in_the_file(typed, values):
    assert config.read_settings(typed) == values


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_setting_that_is_written_is_read_as_it_was_whatever_shell_is_between(value, tmp_path):
    overrides = {"studies": {"core": {"title": value}}, "seeds": [1]}
    first, second = config.write_settings(overrides)
    assert config.read_settings([first, second]) == overrides
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {graph.program(overrides)}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    assert printed == ["vanishing", "--set", first, "--set", second]
    assert not (tmp_path / "x").exists()


def test_without_overrides_the_program_is_called_by_its_name_alone():
    assert graph.program({}) == graph.program(graph.laid_over({"from_results": True})) == "vanishing"
    assert graph.program(RATE) == "vanishing --set runs.vgg38_bn.train.learning_rate=0.003"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("epochs", "--set 'epochs': allowed: KEY=VALUE, such as train.epochs=50"),
        ("train..epochs=3", "--set 'train..epochs=3': allowed: KEY=VALUE, such as train.epochs=50"),
        ("=3", "--set '=3': allowed: KEY=VALUE, such as train.epochs=50"),
        ("train.epochs=[", "--set train.epochs, line 1: expected the node content, but found '<stream end>'"),
        ("train.epochs=&a 3", "--set train.epochs, line 1: anchors, aliases and tags are not allowed, found 'a'"),
        ("train.epochs=0", "--set over params.yaml: train.epochs = 0: allowed: greater than or equal to 1"),
        ("train.epochs='3'", "--set over params.yaml: train.epochs = '3': allowed: an integer"),
        ("train=3", "--set over params.yaml: train = 3: allowed: a mapping"),
        ("epochs=3", "--set over params.yaml: epochs = 3: unknown key; allowed: data, model, train, gradients, "),
        ("train.epocs=3", "--set over params.yaml: train.epocs = 3: unknown key; allowed: recipe, epochs, "),
        ("runs.vgg38.epochs=3", "--set over params.yaml: runs.vgg38.epochs = 3: unknown key; allowed: data, model"),
        ("runs.vgg38bn.train.l1=0.1", "--set over params.yaml: runs.vgg38bn: no such run; allowed: vgg08, vgg38, "),
        ("studies.cor.seeds=[0]", "--set over params.yaml: studies.cor: no such study; allowed: core, longer, "),
        ("studies.core.runs=[vgg9]", "--set over params.yaml: studies.core.runs = 'vgg9': no such run; allowed: "),
        ("seeds=[1, 1]", "--set over params.yaml: seeds = 1: allowed: each once"),
        ("params.yaml:train.l1=1", "--set over params.yaml: params = {'yaml:train': {'l1': 1}}: unknown key; "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(typed, told, capsys):
    assert cli.main(["--set", typed, "models"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"vanishing models: {told}")


@pytest.mark.parametrize(
    "command", [[name] for name in cli.UNSET[:-2]] + [["workspace", "x"], ["diagnose", "m:f"]], ids=" ".join
)
def test_a_command_that_goes_by_the_file_alone_takes_no_setting(command, folder, capsys):
    assert cli.main(["--set", "train.epochs=3", *command]) == 2
    told = "--set: not for this command, which goes by params.yaml alone"
    assert capsys.readouterr().err.splitlines() == [f"vanishing {command[0]}: {told}"]
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


def test_a_command_goes_by_its_settings_and_leaves_the_file(capsys):
    before = Path("params.yaml").read_bytes()
    assert cli.main(["--set", "runs.vgg38.model.blocks=0", "models", "--set", "studies.splits.runs=[vgg38]"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["vgg38"][1:3] == rows["vgg08"][1:3] == ["8", "59,716"]
    assert rows["vgg38_bn"][1:3] == ["38", "338,500"]
    assert ["splits" in " ".join(rows[run]) for run in ("vgg38", "vgg08_split1")] == [True, False]
    assert Path("params.yaml").read_bytes() == before


def test_a_setting_is_as_good_as_an_edit_of_the_file():
    content = config.merge(config.read(Path("params.yaml")), RATE)
    assert config.load(overrides=RATE) == graph.load(RATE) == config.check(content)
    assert config.load(overrides=RATE).run("vgg38_bn").train.learning_rate == 0.003
    assert config.load(overrides=RATE).run("vgg38_bn").model.norm == "batch"
    assert config.load().run("vgg38_bn").train.learning_rate == 0.001


ENTRIES = [
    ["runs={vgg38_bn: {train: {learning_rate: 0.003}}}"],
    ["runs={'vgg38_bn': {'train': {'learning_rate': 3e-3}}}"],
    ["seeds=[0,1]", "train={epochs: 50, precision: fp32}"],
    ['studies={core: {title: a é "b" $(touch x) `touch x`, seeds: ~}}'],
    ["studies={core: {title: it's}}"],
    ["model={blocks: [1, 2, 3]}", "studies={core: {runs: [vgg08, vgg38], compare: [[vgg08, vgg38]]}}"],
]


@pytest.mark.parametrize("entries", ENTRIES, ids=str)
def test_snakemakes_configuration_is_read_as_the_file_would_be(entries):
    """What Snakemake itself makes of `--config` has text for every number."""
    wanted = {key: yaml.safe_load(value) for key, value in (entry.split("=", 1) for entry in entries)}
    if "3e-3" in entries[0]:  # which PyYAML takes for text
        wanted = RATE
    assert graph.laid_over(parse_config(entries)) == wanted


@pytest.mark.parametrize("entries", ENTRIES, ids=str)
def test_what_is_allowed_reaches_a_job_with_a_process_of_its_own_as_it_is(entries, tmp_path):
    graph.check_typed(entries)
    assert handed_on(entries) == entries
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("value", ["'$HOME'", "'`ls`'", "'\"'", "\\a", "a\nb", "\u200b"], ids=repr)
def test_what_would_not_is_refused(value):
    entries = [f"studies={{core: {{title: {value}}}}}"]
    assert handed_on(entries) != entries
    with pytest.raises(ParameterError, match=r"^--config .*: Snakemake would change it on the way to a job; [^\n]+$"):
        graph.check_typed(entries)


def handed_on(entries):
    """Return the entries as the command of a job gets them, by Snakemake's own quoting and a shell."""
    command = format_cli_arg("--config", entries)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=False)
    return done.stdout.split("\0")[1:-1]  # nothing where the shell finds no end of a quote


def test_the_kernel_of_a_notebook_reads_the_file_that_its_command_names(tmp_path, monkeypatch):
    settings = config.load(overrides=RATE)
    (tmp_path / "other.yaml").write_text(settings.model_dump_json())
    monkeypatch.setenv(config.VARIABLE, "other.yaml")
    assert config.load() == settings
    assert graph.load() == config.load(Path("params.yaml")) != settings  # a command is told by its own options alone


@pytest.mark.parametrize(
    ("typed", "dvcs"),
    [
        ("runs.vgg38_bn.train.learning_rate=0.003", "runs.vgg38_bn.train.learning_rate=0.003"),
        ("runs.vgg38_rc.train.learning_rate=0.003", "++runs.vgg38_rc.train.learning_rate=0.003"),
        ("train.schedule=constant", "train.schedule=constant"),
        ("seeds=[0, 1]", "seeds=[0,1]"),
    ],
)
def test_a_setting_does_what_dvc_does_with_it(typed, dvcs, folder):
    """DVC wants plus signs before a key that the file has not."""
    overridden = config.load(overrides=config.read_settings([typed]))
    apply_overrides(folder / "params.yaml", [dvcs])
    assert config.load() == overridden


def test_an_interrupted_training_goes_on_by_a_command_with_its_settings(monkeypatch):
    called = []
    monkeypatch.setattr(stages, "train", lambda *arguments: called.append(arguments))
    assert cli.main(["--set", "train.epochs=3", "train", "vgg08:0"]) == 0
    assert cli.main(["train", "vgg08:0"]) == 0
    assert [settings.train.epochs for settings, *_ in called] == [3, 100]
    assert [again for *_, again, _ in called] == ["`vanishing --set train.epochs=3 train vgg08:0`", ""]
