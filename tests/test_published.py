"""What the reports printed: every row has its run, and the rule by which a figure holds."""

import csv
import math
from collections import Counter

import faked
import pytest

from vanishing import comparison, models, parameters, published
from vanishing.aggregate import Cell
from vanishing.published import Claim


@pytest.fixture(scope="module")
def real():
    return parameters.load(faked.ROOT / "params.yaml")


def source(**changes):
    """Return a row of print: 100 epochs at 1e-3 in minibatches of 100."""
    row = {
        "report": "r1", "table": "Table 1", "model": "vgg38_bn", "runs": ("vgg38_bn", "vgg38_bn_it"),
        "learning_rate": 1e-3, "epochs": 100, "batch_size": 100, "weight_decay": 0.0, "average": 1,
        "figures": {"val_accuracy": "47.04"}, "note": "",
    }  # fmt: skip
    return published.Published(**(row | changes))


def claim(
    printed, mean, *, std=math.nan, n=1, diverged=0, metric="val_accuracy", comparable=True,
    schedule="cosine_per_epoch", of=None,
):  # fmt: skip
    of = of or source(figures={metric: printed})
    return Claim(of, "vgg38_bn", schedule, metric, Cell(mean, std), n, diverged, comparable)


def test_every_published_row_is_there():
    assert len(published.load()) == 43
    assert Counter(row.report for row in published.load()) == {"r1": 7, "r2": 12, "r3": 5, "r4": 17, "r5": 2}


def test_every_published_row_is_repeated_by_runs_of_its_settings(real):
    for row in published.load():
        assert row.runs
        schedules = [real.run(name).train.schedule for name in row.runs]
        assert schedules == ["cosine_per_epoch", "cosine_per_iteration"][: len(row.runs)]
        assert all(row.describes(real.run(name)) for name in row.runs), row
        assert len({real.run(name).model for name in row.runs}) == 1
        assert all(any(name in study.runs for study in real.studies.values()) for name in row.runs)


NETWORKS = {
    "vgg08": {"blocks": 0},
    "vgg38": {},
    "vgg38_bn": {"norm": "batch"},
    "vgg38_rc": {"shortcut": "identity"},
    "vgg38_bn_rc": {"norm": "batch", "shortcut": "identity"},
    "vgg38_resnet": {"norm": "batch", "shortcut": "identity", "reduction_shortcut": "pool"},
}
THREE = {"norm": "batch", "shortcut": "identity", "reduction_shortcut": "convolution", "convolutions": 3}
NETWORKS |= {
    "vgg38_resnet_sigmoid": NETWORKS["vgg38_resnet"] | {"activation": "sigmoid"},
    "vgg68_resnet": NETWORKS["vgg38_resnet"] | {"blocks": 10},
    "vgg72_resnet": NETWORKS["vgg38_resnet"] | {"stages": 5, "blocks": 6},
    "vgg106_resnet": NETWORKS["vgg38_resnet"] | {"stages": 5, "blocks": 12},  # called so in print
    "vgg16_bn_rc": THREE | {"stages": 2, "blocks": 1},
    "vgg50_bn_rc": THREE | {"stages": 3, "blocks": 4},
    "vgg150_bn_rc": THREE | {"stages": 4, "blocks": 11},
}


def test_every_published_row_is_of_the_network_of_its_run(real):
    """Three of the networks have as many parameters as one another, so that a count would not tell them apart."""
    for row in published.load():
        for name in row.runs:
            run = real.run(name)
            assert run.model == parameters.Model(**(real.model.model_dump() | NETWORKS[row.model])), row
            assert (run.train.precision, run.train.l1, run.train.patience) == ("bf16", 0, 0)


def test_every_published_parameter_count_is_that_of_its_run(real):
    with (faked.ROOT / "src/vanishing/published.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["parameters"]]
    assert len(rows) > 20
    for row in rows:
        count = models.measure(real.run(row["runs"].split()[0]).model, 100).parameters
        assert row["parameters"] in (str(count), f"{count / 1000:.0f}K", f"{math.ceil(count / 1000)}K"), row


@pytest.mark.parametrize(
    ("text", "number", "uncertainty"),
    [("45.5(2)", 45.5, 0.2), ("4.61", 4.61, 0.005), ("1.815(3)", 1.815, 0.003), ("1.0", 1.0, 0.05), ("49(12)", 49, 12)],
)
def test_a_bracket_is_the_uncertainty_and_the_last_digit_is_rounded(text, number, uncertainty):
    assert published.value(text) == number
    assert published.uncertainty(text) == pytest.approx(uncertainty)


@pytest.mark.parametrize(
    ("item", "verdict"),
    [
        (claim("47.0", 48.54), "holds"),  # 1.5 points, and half a tenth
        (claim("47.0", 48.56), "does not hold"),
        (claim("47.0(2)", 48.69), "holds"),
        (claim("1.95", 2.054, metric="val_loss"), "holds"),  # 0.1 nats, and half a hundredth
        (claim("1.95", 2.056, metric="val_loss"), "does not hold"),
        (claim("47.0", 40.0, std=5.0, n=2), "does not hold"),  # two seeds' spread decides nothing
        # Student's t for 2 degrees of freedom is 4.303, times sqrt(4/3): 4.968 deviations, and half a tenth
        (claim("47.0", 48.0, std=0.190, n=3), "does not hold"),
        (claim("47.0", 48.0, std=0.192, n=3), "holds"),
        (claim("1.0", 1.0, std=0.0, n=3), "holds"),
        (claim("47.0", 47.0, comparable=False), "other settings"),
        (claim("47.0", math.nan, n=0), "not run"),
        (claim("3.16", math.nan, n=0, diverged=1, metric="train_loss"), "diverged"),
        (claim("47.0", 47.0, n=1, diverged=1), "holds"),
    ],
)
def test_a_figure_holds_by_the_rule(item, verdict):
    assert item.verdict == verdict


def test_the_settings_of_a_row_are_compared_with_those_of_the_run(real):
    run = real.run("vgg38_bn")
    assert source().describes(run)
    assert source().describes(real.run("vgg38_bn_it"))
    assert not source(epochs=250).describes(run)
    assert not source(learning_rate=1e-2).describes(run)
    generated = run.model_copy(update={"data": run.data.model_copy(update={"set": "generated"})})
    assert not source().describes(generated)


def attributed(per_epoch, per_iteration, comparable=True):
    of = source(figures={"train_accuracy": "81.39", "val_accuracy": "59.68"})
    claims = [
        claim("", mean, metric=metric, schedule=schedule, of=of, comparable=comparable)
        for schedule, means in (("cosine_per_epoch", per_epoch), ("cosine_per_iteration", per_iteration))
        for metric, mean in zip(("train_accuracy", "val_accuracy"), means, strict=True)
    ]
    return list(comparison.attribute(claims))


def test_a_row_came_from_the_schedule_that_is_clearly_nearer():
    (item,) = attributed((80.39, 60.68), (71.39, 60.68))
    assert item.distances == pytest.approx({"cosine_per_epoch": 1.0, "cosine_per_iteration": 5.5})
    assert item.verdict == "per epoch"
    assert attributed((71.39, 60.68), (80.39, 60.68))[0].verdict == "per iteration"


def test_a_schedule_that_is_not_clearly_nearer_cannot_be_told():
    assert attributed((80.39, 60.68), (79.60, 60.68))[0].verdict == "cannot tell"  # 1 against 1.4 points
    assert attributed((80.39, 60.68), (71.39, 60.68), comparable=False)[0].verdict == "other settings"
    assert attributed((81.38, 59.69), (81.30, 59.60))[0].verdict == "cannot tell"  # 0.01 and 0.085 points: both fit
    assert attributed((81.39, 59.68), (79.89, 58.17))[0].verdict == "per epoch"  # 1.505 points
    assert attributed((81.39, 59.68), (79.90, 58.18))[0].verdict == "cannot tell"  # 1.495 points


def test_a_row_under_one_schedule_is_not_attributed():
    assert list(comparison.attribute([claim("47.0", 47.0)])) == []


def test_what_is_not_run_is_listed_as_such(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    faked.result(real, "vgg08", val=(1.95, 0.4684))
    table = published.table(published.everything(real))
    figures = {(row.report, row.table, metric) for row in published.load() for metric in row.figures}
    assert {(row.report, row.table, row.metric) for row in table.itertuples()} == figures
    assert set(table.run[table.verdict != "not run"]) == {"vgg08"}
    r1 = table[(table.report == "r1") & (table.run == "vgg08")].set_index("metric")
    assert (r1.reproduced.val_accuracy, r1.verdict.val_accuracy) == (pytest.approx(46.84), "holds")


def test_final_epochs_are_averaged_where_the_print_says_so(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    faked.result(real, "vgg38_bn", epochs=6)
    path = tmp_path / "results/runs/vgg38_bn/seed0/history.csv"
    lines = path.read_text().splitlines()
    lines[1:] = [f"{epoch},0.001,1.5,0.5,1.6,{0.1 * epoch:.1f}" for epoch in range(1, 7)]
    path.write_text("\n".join(lines) + "\n")
    faked.sign("vgg38_bn")
    table = published.table(published.everything(real)).set_index(["report", "table", "run", "metric"])
    assert table.reproduced["r2", "Table 1", "vgg38_bn", "val_accuracy"] == pytest.approx(40.0)  # of 20 to 60
    assert table.reproduced["r1", "Table 1", "vgg38_bn", "val_accuracy"] == pytest.approx(60.0)
