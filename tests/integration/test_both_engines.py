"""A tiny study through both engines: what each records, runs again, and says."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from engines import BUILDS, COMMANDS, HUNG, content, lay_out, planned, run, start

from vanishing import cli

OTHER_RATE = {"vgg08": {"train": {"learning_rate": 0.002}}}

ALL_OF_VGG08 = {("train", "vgg08"), ("gradients", "vgg08")} | {
    (rule, "") for rule in ("tables", "figures", "published", "numbers", "html", "check", "report")
}


@pytest.fixture(scope="session")
def built(build):
    """Return a function of an engine's name: the study as it has built it, for nobody to change."""
    return build


@pytest.fixture(scope="session")
def synced(built, once):
    """The same after `vanishing sync`."""

    def sync(engine):
        def make(folder):
            shutil.copytree(built(engine), folder)
            run(folder, "vanishing", "sync")

        return once(f"synced-{engine}", make)

    return sync


@pytest.fixture(scope="session")
def changed(synced, once):
    """The same with another learning rate of one run, built again; `output.txt` is what that printed."""

    def build_again(engine):
        def make(folder):
            shutil.copytree(synced(engine), folder)
            lay_out(folder, OTHER_RATE)
            printed, _ = (process := start(COMMANDS[engine], folder)).communicate(timeout=HUNG)
            assert process.returncode == 0, printed
            (folder / "output.txt").write_text(printed)

        return once(f"changed-{engine}", make)

    return build_again


@pytest.fixture
def copy(tmp_path):
    """Return a function that copies a folder for the test to change."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "study"))


def test_the_report_is_there_and_every_table_and_figure(built):
    made = content(built("snakemake"))
    assert "results/checks.csv" in made
    assert made["report/report.pdf"].startswith(b"%PDF")
    assert {"results/tables/core.csv", "report/tables/core.tex", "report/figures/core/loss.pdf"} <= set(made)
    assert {"results/notebooks/core.ipynb", "results/comparison/agreement.ipynb"} <= set(made)


def test_snakemakes_own_report_has_figures_tables_and_page_with_captions_by_category(built, copy):
    folder = copy(built("snakemake"))
    run(folder, "snakemake", "--report", "report.zip")
    with zipfile.ZipFile(folder / "report.zip") as archive:
        index = archive.read("report/report.html").decode()
        kept = {name.rpartition("/")[2] for name in archive.namelist()}
    assert {"report.pdf", "core.csv", "published.csv", "checks.csv", "gradient_flow_log.pdf", "report.html"} <= kept
    for category in ("Analyses", "Checks", "Figures", "Published values", "Report", "Tables"):
        assert f'"{category}"' in index
    assert "Figures of the study <em>core</em>" in index


@pytest.mark.parametrize("engine", COMMANDS)
def test_an_earlier_report_stays_where_latex_is_missing(synced, copy, tmp_path, engine):
    """Both engines would delete it before they run what finds that out."""
    folder, programs = copy(synced(engine)), tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "sh", "tee", "env", "which"):  # the last for Snakemake's executor for SLURM
        (programs / name).symlink_to(shutil.which(name))
    before = (folder / "report/report.pdf").read_bytes()
    with (folder / "report/report.tex").open("a") as handle:
        handle.write("% edited\n")
    process = start(COMMANDS[engine], folder, {"PATH": f"{Path(sys.executable).parent}:{programs}"})
    printed, _ = process.communicate(timeout=HUNG)
    assert process.returncode != 0
    assert "vanishing report: LaTeX: bibtex, kpsewhich, latexmk, pdflatex: not installed; on Debian: apt-get" in printed
    assert (folder / "report/report.pdf").read_bytes() == before


def test_both_engines_build_the_same_bytes_among_other_surroundings(built):
    """In folders of other names, at other dates and with other locales, umasks and hash seeds: see `engines.BUILDS`."""
    one, other = (content(built(engine)) for engine in COMMANDS)
    assert BUILDS["snakemake"].variables != BUILDS["dvc"].variables
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []


@pytest.mark.parametrize("engine", COMMANDS)
def test_after_a_sync_neither_engine_has_anything_to_do_and_each_sees_a_changed_parameter(synced, copy, engine):
    """Snakemake notices a changed one only where the sync has entered the parameters, not the times alone."""
    folder = copy(synced(engine))
    again = run(folder, "vanishing", "sync")
    assert "stages entered in DVC's record: 0\nstages entered in Snakemake's record: 0\n" in again
    assert run(folder, "dvc", "status").strip() == "Data and pipelines are up to date."
    before = (folder / "params.yaml").read_bytes()
    lay_out(folder, OTHER_RATE)
    assert planned(folder) == ALL_OF_VGG08
    assert set(json.loads(run(folder, "dvc", "status", "--json"))) == {"configure"}
    run(folder, "vanishing", "configure")
    stale = set(json.loads(run(folder, "dvc", "status", "--json")))
    assert "train@vgg08-0" in stale
    assert "train@vgg14_bn-0" not in stale
    (folder / "params.yaml").write_bytes(before.replace(b"tensorboard: false", b"tensorboard: true"))
    assert b"tensorboard: false" in before
    assert "Nothing to be done" in run(folder, "snakemake", "-n")
    run(folder, "vanishing", "configure")
    assert run(folder, "dvc", "status").strip() == "Data and pipelines are up to date."


def test_a_quiet_snakemake_leaves_what_commands_print_to_their_logs(tmp_path):
    lay_out(tmp_path / "study", {})
    printed = run(tmp_path / "study", *COMMANDS["snakemake"], "--quiet", "host", "rules", "--", "data/generated.npz")
    told = (tmp_path / "study/logs/data.log").read_text()
    assert told.startswith("data/generated.npz: 80 training, 40 validation and 320 test images")
    assert told not in printed
    assert "vanishing data" not in printed
    assert "1 of 1 steps (100%) done" in printed


@pytest.mark.parametrize("engine", COMMANDS)
def test_a_changed_learning_rate_runs_that_run_and_what_stands_on_it(changed, engine):
    commands = {
        "vanishing train vgg08 --seed 0",
        "vanishing gradients vgg08 --seed 0",
        "vanishing tables core",
        "vanishing figures core",
        "vanishing published",
        "vanishing numbers",
        "vanishing html",
        "vanishing check",
        "vanishing report",
    }
    text = (changed(engine) / "output.txt").read_text()
    ran = {" ".join(line) for line in re.findall(r"(vanishing) ((?:(?!2>&1)[^\n])+?)(?: 2>&1.*)?$", text, re.M)}
    assert ran == (commands | {"vanishing configure --same-jobs"} if engine == "dvc" else commands), text


def test_both_engines_make_the_same_of_a_changed_learning_rate_and_leave_the_other_run(built, changed):
    before, *after = (content(folder) for folder in (built("dvc"), changed("snakemake"), changed("dvc")))
    assert after[0] == after[1]
    other = {name for name, bytes_ in after[0].items() if before.get(name) != bytes_}
    assert "results/runs/vgg08/seed0/history.csv" in other
    assert not {name for name in other if "vgg14_bn" in name}


def test_what_was_trained_at_once_outside_the_engines_is_theirs_after_a_sync(built, tmp_path, monkeypatch):
    """And its bytes are those of a job each."""
    lay_out(tmp_path, {})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data"]) == 0
    assert cli.main(["train", "--missing", "core", "--at-once", "2"]) == 0
    made = content(tmp_path)
    assert {name: made[name] for name in made if "/runs/" in name or name.startswith("checkpoints")} == {
        name: data for name, data in content(built("snakemake")).items()
        if name.startswith("checkpoints") or ("/runs/" in name and "gradients" not in name)
    }  # fmt: skip
    run(tmp_path, "vanishing", "sync")
    assert {rule for rule, _ in planned(tmp_path)} & {"data", "train"} == set()
    stale = json.loads(run(tmp_path, "dvc", "status", "--json"))
    assert not [name for name in stale if name == "data" or name.startswith("train@")]
    assert [name for name in stale if name.startswith("gradients@")]


def test_a_merge_conflict_in_dvcs_record_is_gone_after_a_sync(synced, copy):
    record = copy(synced("snakemake")) / "dvc.lock"
    before = record.read_text()
    ours, theirs = before[:500], before[500:]
    record.write_text(f"<<<<<<< HEAD\n{ours}\n=======\n{theirs}>>>>>>> other\n")
    run(record.parent, "vanishing", "sync")
    assert record.read_text() == before


def test_what_is_planned_is_what_snakemake_would_train(built, copy, monkeypatch, capsys):
    """Once both runs are trained, with one of them alone, with that one not yet measured, and before anything ran."""
    folder = copy(built("snakemake"))
    monkeypatch.chdir(folder)
    for made in ("results/tables", "results/comparison", "results/notebooks", "report/report.pdf"):
        shutil.rmtree(made) if Path(made).is_dir() else Path(made).unlink()
    for lost, left in (
        ([], set()),
        (["results/runs/vgg14_bn", "checkpoints/vgg14_bn"], {"vgg14_bn"}),
        (["results/runs/vgg08/seed0/gradients.csv"], {"vgg14_bn"}),
        (["results/runs/vgg08", "checkpoints/vgg08"], {"vgg08", "vgg14_bn"}),
    ):
        for path in map(Path, lost):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert left == {name for rule, name in planned(folder) if rule == "train"}
        assert cli.main(["plan"]) == 0
        table = capsys.readouterr().out.partition("\n\n")[0]
        rows = [re.split(" {2,}", line) for line in table.splitlines()[1:]]
        assert left == {name for name, _, _, done, missing, *_ in rows if (done, missing) == ("-", "seed 0")}
        assert {name for name, *_ in rows} - left == {name for name, _, _, done, *_ in rows if done == "seed 0"}


def test_a_lost_result_of_a_finished_study_is_made_again(built, copy):
    """Left to itself Snakemake would not miss it: everything that stands on it is up to date."""
    folder = copy(built("snakemake"))
    before = content(folder)
    results = folder / "results/runs/vgg08/seed0"
    history = (results / "history.csv").rename(folder / "history.csv")
    assert {name for rule, name in planned(folder) if rule == "train"} == {"vgg08"}
    history.rename(results / "history.csv")
    (results / "gradients.csv").unlink()
    assert {name for rule, name in planned(folder) if rule == "train"} == set()
    run(folder, "snakemake", "--cores", "1", "core")
    assert content(folder) == before


def test_a_mistake_in_the_parameters_costs_dvc_nothing(built, copy):
    folder = copy(built("dvc"))
    before = content(folder)
    lay_out(folder, {"vgg08": {"train": {"epochs": 0}}})
    process = start(COMMANDS["dvc"], folder)
    output, _ = process.communicate(timeout=HUNG)
    assert process.returncode != 0
    assert (
        "vanishing configure: params.yaml: runs.vgg08.train.epochs = 0: allowed: greater than or equal to 1" in output
    )
    assert content(folder) == before


def test_a_changed_default_trains_only_the_runs_that_it_changes(synced, copy):
    folder = copy(synced("dvc"))
    lay_out(folder, {"vgg14_bn": {"train": {"batch_size": 20}}}, train={"batch_size": 10})
    run(folder, "vanishing", "configure")
    stale = {name for name in json.loads(run(folder, "dvc", "status", "--json")) if name.startswith("train@")}
    assert stale == {"train@vgg08-0"}
    assert {name for rule, name in planned(folder) if rule == "train"} == {"vgg08"}


def test_a_longer_list_of_runs_takes_dvc_the_same_command_twice(built, copy):
    """DVC has read the list by the time that it runs anything."""
    folder = copy(built("dvc"))
    lay_out(folder, {"vgg20_bn": {"model": {"blocks": 2, "norm": "batch"}}})
    before = content(folder)
    target = "gradients@vgg08-0"  # which is there before and after
    first, _ = (process := start([*COMMANDS["dvc"], target], folder)).communicate(timeout=HUNG)
    assert process.returncode != 0
    assert "workflow/jobs.json: runs, seeds or studies have changed; run the same command again" in first
    assert content(folder) == before
    run(folder, *COMMANDS["dvc"], target)
    run(folder, *COMMANDS["dvc"], "gradients@vgg20_bn-0")
    assert (folder / "results/runs/vgg20_bn/seed0/gradients.csv").exists()


def test_the_report_is_rebuilt_from_results_and_the_page_of_the_data_set(built, tmp_path):
    folder = tmp_path / "clone"
    lay_out(folder, {})
    for made in ("results/runs", "results/analyses", "report/samples"):
        shutil.copytree(built("snakemake") / made, folder / made)
    run(folder, "snakemake", "report", "--cores", "2", "--config", "from_results=true")
    assert not (folder / "data").exists()
    assert not (folder / "checkpoints").exists()
    assert (folder / "report/report.pdf").read_bytes() == (built("snakemake") / "report/report.pdf").read_bytes()


def test_a_report_without_any_result_says_so(tmp_path):
    lay_out(tmp_path / "empty", {})
    run(tmp_path / "empty", "snakemake", "report", "--cores", "1", "--config", "from_results=true")
    assert r"\begin{study}" not in (tmp_path / "empty/report/studies.tex").read_text()
    assert (tmp_path / "empty/report/report.pdf").read_bytes().startswith(b"%PDF")


def test_a_failing_job_names_its_log_and_shows_its_end(tmp_path):
    lay_out(tmp_path / "broken", {}, data={"set": "cifar100", "sources": ["nowhere"], "validation_per_class": 25})
    process = start(COMMANDS["snakemake"], tmp_path / "broken")
    output, _ = process.communicate(timeout=HUNG)
    assert process.returncode == 1
    assert "logs/data.log" in output
    assert output.count("vanishing data: ") >= 2, "once as it happens, once from the log"
    assert not (tmp_path / "broken/data/cifar100.npz").exists()
