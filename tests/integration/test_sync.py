import json
import re
import subprocess
from pathlib import Path

import pytest

import examples
from vanishing import files, paths
from vanishing.engines import sync
from vanishing.engines.sync import Decision, Stage
from vanishing.errors import UserError


def chain(*names):
    """Make stages that each stand on all before them; the output of `a` is `a.out`."""
    return [Stage(name, frozenset({f"{name}.out"}), frozenset(names[:at])) for at, name in enumerate(names)]


def plan(stale="", pending="", stages="abc"):
    """Compare records in which the stages named by letters are behind."""
    return sync.compare(chain(*stages), set(stale), {f"{name}.out" for name in pending})


def test_nothing_is_done_where_both_records_are_up_to_date():
    assert plan() == Decision(commit=[], touch=[], build=[])


def test_what_snakemake_alone_has_built_is_entered_in_dvcs_record():
    assert plan(stale="abc") == Decision(commit=["a", "b", "c"], touch=[], build=[])


def test_what_dvc_alone_has_built_is_entered_in_snakemakes_record():
    assert plan(pending="abc") == Decision(commit=[], touch=["a", "b", "c"], build=[])


def test_what_neither_has_built_is_left_for_an_engine():
    assert plan(stale="abc", pending="abc") == Decision(commit=[], touch=[], build=["a", "b", "c"])


def test_each_engine_may_have_built_another_stage():
    assert plan(stale="a", pending="b") == Decision(commit=["a"], touch=["b"], build=[])


def test_what_stands_on_a_stage_that_neither_has_built_waits():
    assert plan(stale="bc", pending="b") == Decision(commit=[], touch=[], build=["b", "c"])
    assert plan(stale="b", pending="bc") == Decision(commit=[], touch=[], build=["b", "c"])


def test_what_stands_on_such_a_stage_and_is_up_to_date_in_both_is_not_named():
    assert plan(stale="a", pending="a") == Decision(commit=[], touch=[], build=["a"])


def test_what_is_certain_is_entered_in_each_record_that_lacks_it():
    def entered(stale, pending):
        return sync.compare(chain(*"ab"), set(stale), {f"{name}.out" for name in pending}, certain={"a"})

    assert entered("ab", "ab") == Decision(commit=["a"], touch=["a"], build=["b"])
    assert entered("a", "") == Decision(commit=["a"], touch=[], build=[])
    assert entered("", "a") == Decision(commit=[], touch=["a"], build=[])
    assert entered("", "") == Decision(commit=[], touch=[], build=[])


def test_few_stages_are_named_and_many_counted():
    assert sync.listed([]) == "0"
    assert sync.listed(["train@b-0", "data"]) == "2 (data, train@b-0)"
    many = ["data", *(f"train@a-{seed}" for seed in range(5)), *(f"gradients@a-{seed}" for seed in range(3))]
    assert sync.listed(many) == "9 (1 data, 3 gradients, 5 train)"


def test_what_stands_beside_such_a_stage_does_not_wait():
    beside = Stage("d", frozenset({"d.out"}), frozenset())
    assert sync.compare([*chain("a"), beside], {"a", "d"}, {"a.out"}) == Decision(commit=["d"], touch=[], build=["a"])


def test_one_pending_output_of_several_makes_the_stage_pending():
    stage = Stage("a", frozenset({"one", "two"}), frozenset())
    assert sync.compare([stage], set(), {"two"}) == Decision(commit=[], touch=["a"], build=[])


def test_outputs_that_belong_to_no_stage_are_ignored():
    assert sync.compare(chain("a"), set(), {"elsewhere"}) == Decision(commit=[], touch=[], build=[])


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study with one finished run, its trajectory included."""
    monkeypatch.chdir(tmp_path)
    configured = examples.study()
    examples.result(configured, "vgg08")
    summary = paths.results("vgg08", 0) / "summary.json"
    content = json.loads(summary.read_text())
    snapshot = paths.snapshot(paths.checkpoints("vgg08", 0), 0)
    files.write(snapshot, "weights")
    content["files"][snapshot.name] = files.sha256(snapshot)
    files.write(summary, json.dumps(content))
    return configured


def test_results_that_are_what_their_summary_says_pass(study):
    sync._check_results(study)


def test_a_training_of_todays_configuration_is_certain_and_its_images_are(study):
    assert sync._certain(study) == {"train@vgg08-0"}
    files.write(study.data.path, "images")
    assert sync._certain(study) == {"train@vgg08-0", "data"}
    assert sync._certain(examples.study({"train": {"epochs": 3}})) == set()
    another = examples.study({"data": {"seed": 5}, "runs": {"vgg08": {"data": {"seed": 0}}}})
    assert sync._certain(another) == {"train@vgg08-0"}, (
        "its own split says nothing of the one that the file should have"
    )
    paths.snapshot(paths.checkpoints("vgg08", 0), 0).unlink()
    assert sync._certain(study) == set()


@pytest.mark.parametrize(
    "path",
    [
        paths.results("vgg08", 0) / "history.csv",
        paths.snapshot(paths.checkpoints("vgg08", 0), 0),
    ],
    ids=["history", "snapshot"],
)
@pytest.mark.parametrize("change", ["edited", "removed"])
def test_an_edited_or_missing_result_is_refused_by_name_with_the_command_to_run(study, path, change):
    if change == "edited":
        with path.open("a") as handle:
            handle.write("1")
    else:
        path.unlink()
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: not what results/.*summary.json says") as raised:
        sync._check_results(study)
    assert str(raised.value).endswith("`vanishing train vgg08 --seed 0` makes it again")


def test_converted_line_ends_are_refused_since_dvc_would_record_them(study):
    sync._check_line_ends()
    path = paths.results("vgg08", 0) / "history.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    sync._check_results(study)  # the content is what the summary says
    with pytest.raises(UserError, match=rf"^{path}: has the line ends of Windows; .* `git checkout HEAD -- results`$"):
        sync._check_line_ends()


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"files": 3}'])
def test_a_damaged_summary_is_refused_by_name(study, damage):
    (paths.results("vgg08", 0) / "summary.json").write_text(damage)
    with pytest.raises(UserError, match=r"^results/runs/vgg08/seed0/summary.json: "):
        sync._check_results(study)


def trained_on(digest):
    summary = paths.results("vgg08", 0) / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"data": {"sha256": digest}}))


@pytest.fixture
def entered(monkeypatch):
    """Have DVC lack `a`, and Snakemake `b`; return the commands that are called to enter them."""
    called = []
    monkeypatch.setattr(sync, "_stages", lambda: chain("a", "b"))
    files.write(Path("dvc.lock"), "schema: '2.0'\nstages:\n  gone:\n    cmd: x\n")
    monkeypatch.setattr(sync, "_set_aside", lambda: None)
    monkeypatch.setattr(sync, "_stale", lambda: {"a"})
    monkeypatch.setattr(sync, "_pending", lambda: set() if called[1:] else {"b.out"})
    monkeypatch.setattr(sync, "engine", lambda *arguments: called.append(" ".join(arguments)))
    return called


def test_what_is_there_is_entered_with_parameters_and_without_new_times(study, entered):
    sync.bring_together(study)
    assert entered == ["dvc commit --force --no-relink a", "snakemake --cores 1 --touch --force b.out"]
    assert Path("dvc.lock").read_text() == "schema: '2.0'\nstages: {}\n"


PENDING = {
    "what stands on another one by ancient files alone": ([{"c.out"}, set()], ["b.out c.out", "c.out"]),
    "what another one's new time makes old": ([{"d.out"}, set()], ["b.out c.out", "d.out"]),
    "nothing that waits for a stage to be built": ([{"e.out"}], ["b.out c.out"]),
}


@pytest.mark.parametrize(("answers", "touched"), PENDING.values(), ids=PENDING)
def test_snakemake_is_told_until_it_would_make_nothing_again(monkeypatch, answers, touched):
    """One command may leave some out; a clone that had its report and DVC's outputs needed a second sync."""
    called, later = [], iter(answers)
    monkeypatch.setattr(sync, "engine", lambda *arguments: called.append(" ".join(arguments[5:])))
    monkeypatch.setattr(sync, "_pending", lambda: next(later))
    unbuilt = [Stage("x", frozenset({"x.out"}), frozenset()), Stage("e", frozenset({"e.out"}), frozenset("x"))]
    sync._touch([*chain("b", "c", "d"), *unbuilt], {"b", "c"}, {"x"})
    assert called == touched


def test_what_snakemake_does_not_enter_is_named_and_not_tried_for_ever(monkeypatch):
    monkeypatch.setattr(sync, "engine", lambda *_: None)
    monkeypatch.setattr(sync, "_pending", lambda: {"b.out"})
    with pytest.raises(UserError, match=r"^snakemake: does not enter 1 \(b\); `snakemake -n` says why$"):
        sync._touch(chain("b"), {"b"}, set())


@pytest.mark.parametrize("damaged", ["results", "images"])
def test_nothing_is_entered_before_results_and_images_are_checked(study, entered, damaged):
    """DVC's commit would bless whatever is there."""
    files.write(study.data.path, "images")
    trained_on(files.sha256(study.data.path))
    sync.bring_together(study)
    assert len(entered) == 2
    path = study.data.path if damaged == "images" else paths.results("vgg08", 0) / "history.csv"
    files.write(path, "others")
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: not what "):
        sync.bring_together(study)
    assert len(entered) == 2


def test_other_images_are_refused_by_name_with_the_command_to_run(study):
    files.write(study.data.path, "other images")
    trained_on(files.sha256(study.data.path))
    sync._check_images(study)
    trained_on("0" * 64)
    told = (
        f"data/generated.npz: not what vgg08/seed0 was trained on, SHA-256 {'0' * 64}; `vanishing data` makes it again"
    )
    with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
        sync._check_images(study)
    study.data.path.unlink()
    sync._check_images(study)


def test_an_engine_that_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^snakemake --detailed-summary failed: .+") as raised:
        sync._pending()
    assert "\n" not in str(raised.value)


def test_a_failed_job_of_an_engine_is_told_by_its_own_complaint(tmp_path):
    """Snakemake's own last line names its log alone."""
    complaint = "vanishing report: report/report.tex: LaTeX failed: ! Undefined control sequence."
    (tmp_path / "Snakefile").write_text(f"rule:\n    shell: 'echo \"{complaint}\"; echo later >&2; exit 1'\n")
    with pytest.raises(UserError) as raised:
        sync.engine("snakemake", "--cores", "1", folder=tmp_path)
    assert str(raised.value) == f"snakemake --cores failed: {complaint}"


SILENT = {
    "exit(3)": "exit code 3",
    "print('first\\nlast'); exit(1)": "last",
    "os.kill(os.getpid(), 9)": "ended by signal 9",
    "exit('ERROR: no room\\n\\nHaving any troubles? Hit us up')": "no room",
    "exit('ERROR: x\\nvanishing data: no source')": "vanishing data: no source",
}


@pytest.mark.parametrize(("code", "told"), SILENT.items())
def test_an_engine_that_fails_always_has_a_reason(tmp_path, monkeypatch, code, told):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "program.py").write_text(f"import os\n{code}\n")
    with pytest.raises(UserError) as raised:
        sync.engine("program", "commit", folder=tmp_path)
    assert str(raised.value) == f"program commit failed: {told}"


def test_no_module_of_the_folder_takes_the_place_of_an_engine(tmp_path):
    (tmp_path / "program.py").write_text("")
    with pytest.raises(UserError, match="No module named program"):
        sync.engine("program", "x", folder=tmp_path)


def test_a_users_variables_do_not_steer_an_engine(tmp_path, monkeypatch):
    """Except for those by which DVC finds the user's settings: the cache may be named there."""
    (tmp_path / "program.py").write_text("import json, os\nprint(json.dumps(dict(os.environ)))\n")
    (tmp_path / "dvc.py").write_text("import json, os\nprint(json.dumps(dict(os.environ)))\n")
    steering = {"SNAKEMAKE_PROFILE": "/none", "DVC_SHOW_TRACEBACK": "1", "GIT_DIR": "/none", "PYTHONSTARTUP": "/none"}
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, value in (steering | {"DVC_GLOBAL_CONFIG_DIR": "/settings", "HOME": "/me"}).items():
        monkeypatch.setenv(name, value)
    program, dvc = (json.loads(sync.engine(name, "x", folder=tmp_path)) for name in ("program", "dvc"))
    assert not steering.keys() & (program | dvc).keys()
    assert (program["HOME"], dvc["DVC_GLOBAL_CONFIG_DIR"]) == ("/me", "/settings")
    assert "DVC_GLOBAL_CONFIG_DIR" not in program


def test_a_users_profile_of_snakemake_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "/none")
    (tmp_path / "Snakefile").write_text("rule:\n    output: 'made'\n    shell: 'touch {output}'\n")
    sync.engine("snakemake", "--cores", "1", folder=tmp_path)
    assert (tmp_path / "made").exists()


def test_a_folder_that_dvc_does_not_know_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^dvc: ") as raised:
        sync._stages()
    assert "\n" not in str(raised.value)


CONFLICT = "schema: '2.0'\nstages:\n<<<<<<< HEAD\n  a: {cmd: x}\n=======\n  b: {cmd: x}\n>>>>>>> theirs\n"


@pytest.mark.parametrize(
    "left", ["", CONFLICT, "schema: '", "schema: '2.0'\nstages:\n  data:\n    cmd: vani\n    outs:\n    - path"]
)
def test_a_record_that_a_killed_dvc_has_left_half_written_is_set_aside(tmp_path, monkeypatch, left, capsys):
    monkeypatch.chdir(tmp_path)
    files.write(Path(".dvc/config"), "[core]\n    no_scm = true\n")
    files.write(Path("dvc.lock"), left)
    sync.DAMAGED.parent.mkdir()
    sync._set_aside()
    assert sync.DAMAGED.read_text() == left
    assert not Path("dvc.lock").exists()
    assert capsys.readouterr().err.startswith("dvc.lock: cannot be read; is now .vanishing/dvc.lock.damaged, ")
    sync._set_aside()


def test_a_whole_record_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write(Path(".dvc/config"), "[core]\n    no_scm = true\n")
    files.write(Path("dvc.lock"), "schema: '2.0'\nstages: {}\n")
    sync._set_aside()
    assert Path("dvc.lock").exists()


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Return a maker of stages that DVC has run, by name; `z` and `b` stand on `a`."""
    monkeypatch.chdir(tmp_path)
    files.write(Path(".dvc/config"), "[core]\n    no_scm = true\n    analytics = false\n")

    def run(*names):
        stages = {name: {"cmd": f"echo {name} > {name}", "outs": [name]} for name in names}
        for stage in stages.keys() & {"z", "b"}:
            stages[stage]["deps"] = ["a"]
        files.write(Path("dvc.yaml"), json.dumps({"stages": stages}))
        sync.engine("dvc", "repro")
        return Path("dvc.lock").read_bytes()

    return run


def test_stages_that_are_no_more_are_dropped_from_dvcs_record(recorded, capsys):
    """DVC keeps them; nothing else changes, not a byte, and what is left is up to date for DVC."""
    alone = recorded("a")
    whole = recorded("a", "c")
    sync._arrange(["a", "c"])
    assert Path("dvc.lock").read_bytes() == whole
    assert capsys.readouterr().err == ""
    recorded("a")
    sync._arrange(["a"])
    assert Path("dvc.lock").read_bytes() == alone != whole
    assert capsys.readouterr().err == "stages that are no more, dropped from DVC's record: 1 (c)\n"
    assert json.loads(sync.engine("dvc", "status", "--json")) == {}


@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of DVC
def test_the_record_has_the_bytes_of_dvc_repro_whoever_enters_the_stages(recorded):
    """`dvc commit` would leave them in the order of the call."""
    by_repro = recorded("z", "a", "b")
    Path("dvc.lock").unlink()
    sync.engine("dvc", "commit", "--force", "b", "z", "a")
    assert Path("dvc.lock").read_bytes() != by_repro
    sync._arrange([stage.name for stage in sync._stages()])
    assert Path("dvc.lock").read_bytes() == by_repro
    assert re.findall(rb"^  (\w):", by_repro, re.MULTILINE) == [b"a", b"z", b"b"]


def test_without_a_record_of_dvcs_there_is_nothing_to_arrange(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sync._arrange(["a"])
    assert list(tmp_path.iterdir()) == []


WAY = "; `dvc config --local core.no_scm true` has it work without git (docs/reproducibility.md)"


@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of DVC
def test_without_git_one_line_says_what_to_type_and_that_works(recorded):
    recorded("a")
    Path(".dvc/config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(UserError, match=f"^dvc: .* is not a git repository{re.escape(WAY)}$"):
        sync._stages()
    with pytest.raises(UserError, match=f"^dvc: .* is not a git repository{re.escape(WAY)}$"):
        sync._set_aside()
    with pytest.raises(UserError, match=f"^dvc status failed: .* is not a git repository{re.escape(WAY)}$"):
        sync._stale()
    sync.engine("dvc", "config", "--local", "core.no_scm", "true")
    sync._set_aside()
    assert [stage.name for stage in sync._stages()] == ["a"]
    assert sync._stale() == set()


def test_behind_a_link_to_another_disk_one_line_says_what_to_type_and_that_works(recorded, tmp_path_factory):
    """DVC would write a file for git beside the output, even where git ignores the link already."""
    disk = tmp_path_factory.mktemp("disk")
    Path("data").symlink_to(disk)
    (disk / "images").write_text("images")
    files.write(Path("dvc.yaml"), json.dumps({"stages": {"data": {"cmd": "none", "outs": ["data/images"]}}}))
    Path(".dvc/config").write_text("[core]\n    analytics = false\n")
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".gitignore").write_text("/data\n")
    with pytest.raises(UserError, match=f"^dvc commit failed: .* outside of git repository .*{re.escape(WAY)}$"):
        sync.engine("dvc", "commit", "--force", "--no-relink", "data")
    sync.engine("dvc", "config", "--local", "core.no_scm", "true")
    sync.engine("dvc", "commit", "--force", "--no-relink", "data")
    assert sync._stale() == set()
    assert Path("data").is_symlink()


@pytest.mark.parametrize("folder", ["data", "checkpoints", "configuration", "logs", "build", ".vanishing", ".venv"])
def test_git_ignores_a_folder_that_is_a_link_to_another_disk(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".gitignore").write_bytes((examples.ROOT / ".gitignore").read_bytes())
    Path(folder).symlink_to("/")
    done = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert done.stdout == "?? .gitignore\n"
