"""The tables recomputed: equal to those of `vanishing tables`, and whatever is changed in one is found."""

import csv
import functools
import math
import re
import shutil
from pathlib import Path

import faked
import pytest

from vanishing import config, paths
from vanishing.errors import UserError
from vanishing.report import tables
from vanishing.results import aggregate, schedules
from vanishing.verify import recomputed, recomputed_statistics
from vanishing.verify.mismatch import Scope

REAL = config.load(faked.ROOT / "params.yaml")
CORE, DIFFERENCES = (recomputed.path_of("core", kind) for kind in ("", "differences"))
EVERY, SCHEDULES, SCATTER, BRACKETS = (
    paths.COMPARISON / f"{name}.csv" for name in ("published", "schedules", "scatter", "brackets")
)

RUNS = ["vgg08", "vgg38", "vgg38_bn", "vgg38_bn_it", "vgg38_rc_it", "vgg38_bn_lr2_it"]


remembered = functools.cache(recomputed_statistics.beta)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recomputed_statistics, "beta", remembered)  # the same integrals in nearly every test


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three seeds of some runs of the real study `core`, with its tables: one seed diverged, and all of one run."""
    study = REAL.model_copy(update={"studies": {"core": REAL.studies["core"]}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        for at, (run, seed) in enumerate((run, seed) for run in RUNS for seed in range(3)):
            diverged = run == "vgg38_bn_lr2_it" or (run == "vgg38_rc_it" and seed == 1)
            train = (math.nan, 0.1) if diverged else (1.5 + 0.01 * at, 0.5 + 0.01 * seed)
            val, test = (1.6 + at / 7, 0.46 + at / 300 + seed**2 / 900), (1.7 + at / 11, 0.3 + (3 * at) ** 0.5 / 70)
            faked.result(study, run, seed, train, val, test, epochs=4 + seed, layers=2)
            if not diverged:
                risen = [4.6, 4.6, 4.8 + at / 70, *[4.5] * seed, train[0]]
                wandering = [0.1, *(val[1] + 0.01 * epoch * at / 3 for epoch in reversed(range(3 + seed)))]
                faked.rewrite(run, seed, train_loss=risen if at % 4 else [4.6] * len(risen), val_accuracy=wandering)
        tables.make(study)
        schedules.make(study)
        return study, Path.cwd()


@pytest.fixture
def core(made, tmp_path, monkeypatch):
    """A copy of them to damage."""
    study, folder = made
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "core"))
    return study


def found(study, key="core"):
    return [f"{finding}" for finding in recomputed.compare(study, key)]


def rows(path):
    return recomputed.table(path)


def change(path, old, new):
    """Replace the one place where `old` stands."""
    text = path.read_text()
    assert text.count(old) == 1, text.count(old)
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("freedom", "known"),
    [(1, 12.7062047362), (2, 4.30265272975), (4, 2.77644510520), (9, 2.26215716280)],
)
def test_the_quantile_is_that_of_printed_tables(freedom, known):
    assert recomputed.quantile(freedom) == pytest.approx(known, rel=1e-11)


def test_three_seeds_of_the_real_study_agree(core):
    assert found(core) == []
    assert {row["verdict"] for row in rows(DIFFERENCES)} == {"higher", "lower", "cannot tell"}
    assert {row["diverged"] for row in rows(CORE)} == {"0", "1", "3"}
    assert {row["schedule"] for row in rows(CORE)} == {"cosine_per_epoch", "cosine_per_iteration"}


def test_one_seed_and_averaged_epochs_agree():
    for run in REAL.studies["learning_rate"].runs:
        faked.result(REAL, run, 0, epochs=7, layers=2)
        path = paths.results(run, 0) / "history.csv"
        lines = [f"{epoch},0.001,{1 / epoch},{epoch / 9},{2 / epoch},{epoch / 13}" for epoch in range(1, 8)]
        path.write_text("\n".join([path.read_text().splitlines()[0], *lines, ""]))
        faked.sign(run)
    tables.make(REAL, ["learning_rate"])
    assert found(REAL, "learning_rate") == []
    row = rows(recomputed.path_of("learning_rate"))[0]
    assert (row["averaged_epochs"], row["n"], row["val_loss_std"]) == ("5", "1", "nan")
    assert float(row["val_loss_mean"]) == pytest.approx(2 * (1 / 3 + 1 / 4 + 1 / 5 + 1 / 6 + 1 / 7) / 5)


def test_what_stopped_early_other_settings_and_missing_runs_agree():
    study = faked.study({"seeds": [0, 1], "train": {"epochs": 9}}, runs=["vgg08", "vgg38", "vgg38_bn"])
    for seed in (0, 1):
        faked.result(study, "vgg08", seed, epochs=3 + seed, status="stopped early", test=(1.7, 0.3 + seed / 10))
    faked.result(study, "vgg38_bn", 1, val=(1.2, 1 / 3))
    faked.result(faked.study(), "vgg38", 0)  # of another configuration
    tables.make(study)
    assert found(study) == []
    schedules.make(study)
    assert compared(study) == []
    assert {row["verdict"] for row in rows(EVERY)} == {"other settings", "not run"}
    assert [row["run"] for row in rows(CORE)] == ["vgg08", "vgg38_bn"]


def test_two_seeds_have_the_interval_worked_out_by_hand():
    study = faked.study({"seeds": [0, 1]})
    for seed, accuracy in ((0, 0.4), (1, 0.5)):
        faked.result(study, "vgg08", seed, val=(1.6, 0.2))
        faked.result(study, "vgg38", seed, val=(1.6, accuracy))
    tables.make(study)
    assert found(study) == []
    text = DIFFERENCES.read_text()
    margin = 12.7062047362 * 0.05  # t s / sqrt(n), s = 0.1 / sqrt(2)
    line = re.search(r"vgg38,vgg08,val_accuracy,2,0\.25,([\d.]+),cannot tell", text)
    assert float(line[1]) == pytest.approx(margin)


def compared(study):
    return [f"{finding}" for finding in recomputed.compare_published(study)]


def test_the_comparison_of_the_real_study_agrees(core):
    assert compared(core) == []
    assert {row["verdict"] for row in rows(EVERY)} == {"does not hold", "holds", "diverged", "not run"}
    assert {row["run"] for row in rows(SCHEDULES)} == {"vgg08", "vgg38", "vgg38_bn", "vgg38_rc", "vgg38_bn_lr2"}


def test_a_comparison_of_nothing_agrees():
    schedules.make(REAL)
    assert compared(REAL) == []
    assert {row["verdict"] for row in rows(EVERY)} == {"not run"}
    assert rows(SCHEDULES) == []


def attributed(**accuracies):
    """Fake BN under some schedules, two seeds of a training accuracy each; return how r1's 55.17 is judged."""
    for run, pair in accuracies.items():
        for seed, accuracy in enumerate(pair):
            faked.result(REAL, run, seed, train=(1.59, accuracy), val=(1.95, 0.4704))
    schedules.make(REAL)
    assert compared(REAL) == []
    return next(row for row in rows(SCHEDULES) if (row["report"], row["run"]) == ("r1", "vgg38_bn"))


def test_a_schedule_is_named_by_probabilities_worked_out_by_hand():
    # per epoch 0.995 points off, less 0.005 of rounding: a scale of sqrt(0.5 * 1.5), one degree of freedom, hence a
    # probability of 1 - 2 / pi atan(1.1432) = 0.457, four times which is 1; per iteration the spread is 0.0707 points
    row = attributed(vgg38_bn=(0.55665, 0.56665), vgg38_bn_it=(0.7402, 0.7403))
    assert (row["cosine_per_epoch"], row["verdict"]) == ("1", "per epoch or not tested")
    p = 4 * (1 - 2 / math.pi * math.atan((18.855 - 0.005) / (0.01 / math.sqrt(2) * math.sqrt(1.5))))
    assert float(row["cosine_per_iteration"]) == pytest.approx(p, rel=1e-6)
    assert row["constant"] == "nan"


FAR, NEAR = (0.7402, 0.7403), (0.5516, 0.5518)


@pytest.mark.parametrize(
    ("epoch", "iteration", "constant", "verdict"),
    [
        (FAR, FAR, FAR, "none of these"),
        (NEAR, FAR, FAR, "per epoch"),
        (FAR, FAR, NEAR[:1], "constant rate"),
        (NEAR, NEAR, FAR, "per epoch or per iteration"),
    ],
)
def test_a_row_is_left_with_what_it_does_not_reject(epoch, iteration, constant, verdict):
    found = attributed(vgg38_bn=epoch, vgg38_bn_it=iteration, vgg38_bn_constant=constant[:1])
    assert found["verdict"] == verdict


def test_other_settings_name_no_schedule():
    content = config.read(faked.ROOT / "params.yaml")
    study = config.check(config.merge(content, {"train": {"epochs": 7}}))
    for run in ("vgg38_bn", "vgg38_bn_it"):
        faked.result(study, run, 0)
    schedules.make(study)
    assert compared(study) == []
    assert {row["verdict"] for row in rows(SCHEDULES)} == {"other settings"}


@pytest.mark.parametrize(
    ("path", "column"),
    [(EVERY, column) for column in recomputed.COLUMNS["published"]]
    + [(SCHEDULES, column) for column in recomputed.COLUMNS["schedules"]]
    + [(SCATTER, column) for column in recomputed.COLUMNS["scatter"]]
    + [(BRACKETS, column) for column in recomputed.COLUMNS["brackets"]],
)
def test_a_changed_cell_of_the_comparison_is_found(core, path, column):
    with path.open(newline="") as handle:
        header, *lines = csv.reader(handle)
    cell = lines[0][header.index(column)]
    lines[0][header.index(column)] = f"1{cell}"
    with path.open("w", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([header, *lines])
    told = compared(core)
    assert len(told) == (2 if column in recomputed.KEYS[path.stem] else 1)
    assert all(line.startswith(f"{path}: found ") and line.endswith("; next: `vanishing compare`") for line in told)
    assert [f"{finding}" for finding in recomputed.check(Scope(core))] == told


@pytest.mark.parametrize(
    ("path", "column"),
    [(CORE, column) for column in recomputed.COLUMNS[""]]
    + [(DIFFERENCES, column) for column in ("n", "mean", "margin", "verdict")],
)
def test_a_changed_cell_is_named_by_row_and_column(core, path, column):
    with path.open(newline="") as handle:
        header, *lines = csv.reader(handle)
    line = next(line for line in lines if not re.search("nan|e-", line[header.index(column)]))  # nothing but rounding
    cell = line[header.index(column)]
    # a digit of those that count, or the verdict, or a name
    changed = f"{float(cell) * (1 + 2e-8):.10g}" if re.fullmatch(r"-?\d\.\d{8,}", cell) else f"{cell}1"
    line[header.index(column)] = changed
    with path.open("w", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([header, *lines])
    kind = {CORE: "", DIFFERENCES: "differences"}[path]
    told = found(core)
    if column in recomputed.KEYS[kind]:
        assert len(told) == 2
        assert all(text.startswith(f"{path}: found ") and " a row " in text for text in told)
    else:
        key = " ".join(line[header.index(name)] for name in recomputed.KEYS[kind])
        expected = rf"{path}: found {re.escape(changed)}, expected {re.escape(cell)} for {column} of {re.escape(key)}"
        assert len(told) == 1
        assert re.match(expected + r"( \(2\))? \(recomputed\); next: `vanishing tables core`$", told[0]), told


def test_a_lost_an_added_and_a_moved_row_are_named(core):
    whole = CORE.read_text().splitlines()
    next_step = "(recomputed); next: `vanishing tables core`"
    CORE.write_text("\n".join([*whole[:2], *whole[3:], ""]))
    assert found(core) == [f"{CORE}: found none, expected a row vgg38 {next_step}"]
    CORE.write_text("\n".join([*whole, whole[1].replace("vgg08", "vgg09"), ""]))
    assert found(core) == [f"{CORE}: found a row vgg09, expected no such row {next_step}"]
    CORE.write_text("\n".join([*whole, whole[1], ""]))
    assert found(core) == [f"{CORE}: found a row vgg08 (2), expected no such row {next_step}"]
    CORE.write_text("\n".join([whole[0], whole[2], whole[1], *whole[3:], ""]))
    assert found(core)[0].startswith(f"{CORE}: found another order, expected the rows vgg08, vgg38, ")


def test_a_lost_and_an_added_column_and_a_torn_row_are_named(core):
    change(DIFFERENCES, "margin", "width")
    (told,) = found(core)
    assert told.startswith(
        f"{DIFFERENCES}: found first, second, metric, n, mean, width, verdict, expected the columns "
    )
    change(DIFFERENCES, "width", "margin")
    DIFFERENCES.write_text(DIFFERENCES.read_text() + "vgg08,vgg38\n")
    (told,) = found(core)
    assert re.search(r"found 2, expected 7 cells in row \d+ ", told)


@pytest.mark.parametrize("content", ["", "a" * 200_000, "\0", '"'])
def test_what_is_no_table_is_named(core, content):
    CORE.write_text(content)
    (told,) = found(core)
    assert told.startswith(f"{CORE}: found ")


def test_a_changed_result_is_found_in_every_table_that_it_is_in(core):
    path = paths.results("vgg08", 2) / "history.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], re.sub(r",0\.\d+$", ",0.9", lines[-1]), ""]))
    assert {finding.path for finding in recomputed.compare(core, "core")} == {CORE, DIFFERENCES}
    assert {finding.path for finding in recomputed.compare_published(core)} >= {EVERY, SCATTER}


def test_missing_tables_and_those_of_no_results_are_named(core):
    CORE.unlink()
    assert found(core) == [f"{CORE}: found nothing, expected 6 rows (recomputed); next: `vanishing tables core`"]
    for path in Path("results/runs").rglob("summary.json"):
        path.unlink()
    expected = "found one, expected no such file (no results of core)"
    assert found(core) == [f"{DIFFERENCES}: {expected}; next: `rm {DIFFERENCES}`"]


@pytest.mark.parametrize(
    "content", ["", "epoch\n1\n", "epoch,train_loss,train_accuracy,val_loss,val_accuracy\nx,1,1,1,1\n"]
)
def test_a_damaged_result_is_one_line(core, content):
    (paths.results("vgg08", 0) / "history.csv").write_text(content)
    with pytest.raises(UserError, match=r"^results/runs/vgg08/seed0: cannot be read \(.*\); build it again$"):
        found(core)


def test_verify_recomputes_what_is_here_of_studies_whose_results_are_whole(core):
    DIFFERENCES.unlink()
    assert list(recomputed.check(Scope(core))) == []
    change(CORE, "vgg38,2,", "vgg38,3,")
    (finding,) = recomputed.check(Scope(core))
    assert (finding.path, finding.command) == (CORE, "vanishing tables core")
    scope = Scope(core, off={paths.results("vgg08", 2) / "history.csv"})
    assert list(recomputed.check(scope)) == []
    why = "not recomputed, since results that it is made of are off"
    assert scope.notes == [f"{CORE}: {why}", f"{paths.COMPARISON}: {why}"]


def test_the_committed_tables_are_what_the_committed_results_give(monkeypatch):
    monkeypatch.chdir(faked.ROOT)
    assert compared(REAL) == []
    for key in REAL.studies:
        if recomputed.path_of(key).exists():
            assert found(REAL, key) == []


def test_no_code_of_the_tables_is_shared():
    text = Path(recomputed.__file__).read_text()
    taken = set(re.findall(r"^(?:from|import) ([\w.]+)", text, re.MULTILINE))
    assert not {name for name in taken if name.startswith("vanishing.")} - {
        "vanishing.errors",
        "vanishing.findings",
        "vanishing.recomputed_statistics",
    }
    assert re.findall(r"^from vanishing import (.*)$", text, re.MULTILINE) == ["files, parameters, paths"]
    assert {*aggregate.METRICS} == {*recomputed.HISTORY, *recomputed.SUMMARY}
    assert {*aggregate.DYNAMICS} == {*recomputed.DYNAMICS}
