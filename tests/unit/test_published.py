"""What the reports printed: every row has its run, and the rule by which a value holds."""

import csv
import functools
import json
import math
from collections import Counter
from dataclasses import replace

import pytest

import examples
from vanishing import config
from vanishing.report import comparison_tables
from vanishing.results import aggregate, published, published_schedules, statistics
from vanishing.results.published import Claim
from vanishing.results.published_schedules import Scatter
from vanishing.results.statistics import Spread
from vanishing.training import models


@pytest.fixture(scope="module")
def real():
    return config.load(examples.ROOT / "params.yaml")


def source(**changes):
    """Return a row of print: VGG38 with BN, 100 epochs at 1e-3 in minibatches of 100."""
    found = next(row for row in published.load() if (row.report, row.model) == ("r1", "vgg38_bn"))
    return replace(found, **({"printed": {"val_accuracy": "47.04"}} | changes))


def claim(printed, values, *, sampling=0.0, lent=None, metric="val_accuracy", **changes):
    """Return a printed value beside ours, a value each seed."""
    fields = {
        "source": source(printed={metric: printed}), "run": "vgg38_bn", "schedule": "cosine_per_epoch",
        "metric": metric, "values": tuple(values), "diverged": 0, "comparable": True,
        "prediction": statistics.predict(values, lent, sampling),
    }  # fmt: skip
    return Claim(**(fields | changes))


def claims_of(settings):
    return published.value_claims(settings, aggregate.collect(settings))


def test_every_published_row_is_there():
    assert len(published.load()) == 43
    assert Counter(row.report for row in published.load()) == {"r1": 7, "r2": 12, "r3": 5, "r4": 17, "r5": 2}


def test_who_trained_what():
    """Five of the seven rows that r1, r3 and r5 share, and r4's plain networks, stand in the course's template."""
    handout = [
        (row.report, row.model, row.train["learning_rate"]) for row in published.load() if row.origin == "handout"
    ]
    assert handout == [
        ("r1", "vgg08", 1e-3), ("r1", "vgg38", 1e-3), ("r1", "vgg38_rc", 1e-3), ("r1", "vgg38_bn_rc", 1e-3),
        ("r1", "vgg38_bn", 1e-2), ("r4", "vgg08", 1e-3), ("r4", "vgg38", 1e-3),
    ]  # fmt: skip
    assert {row.origin for row in published.load()} == {"handout", "report"}


def test_every_published_row_is_repeated_by_runs_of_its_settings(real):
    for row in published.load():
        assert row.runs
        schedules = [real.run(name).train.schedule for name in row.runs]
        assert schedules == list(published.SCHEDULES)[: len(row.runs)]
        assert all(row.describes(real.run(name)) for name in row.runs), row
        assert len({real.run(name).model for name in row.runs}) == 1
        assert all(any(name in study.runs for study in real.studies.values()) for name in row.runs)


CHANGES = {
    "model": {
        "stages": 2, "blocks": 4, "filters": 16, "kernel_size": 5, "activation": "relu", "norm": "none",
        "convolutions": 3, "shortcut": "identity", "reduction": "bottleneck", "reduction_shortcut": "pool",
        "initialisation": "he", "gradient_amplification": 2.0,
    },
    "train": {
        "recipe": 2, "epochs": 101, "batch_size": 50, "learning_rate": 2e-3, "final_learning_rate": 1e-5,
        "weight_decay": 1e-6, "l1": 1e-5, "patience": 5,
    },
    "data": {"set": "generated", "validation_per_class": 20},
}  # fmt: skip
"""Another value of every key that a matched row fixes."""

OPEN = {
    "model": {"groups"},  # of group normalisation alone
    "train": {"schedule", "precision", "device", "kernels", "threads", "snapshots"},
    "data": {"recipe", "sources", "seed", "generated", "folder"},
}
"""Keys that it does not."""


@pytest.mark.parametrize(("block", "key"), [(block, key) for block, keys in CHANGES.items() for key in keys])
def test_a_row_and_a_run_match_only_if_every_field_is_equal(real, block, key):
    run = real.run("vgg38_bn")
    assert source().describes(run)
    other = getattr(run, block).model_copy(update={key: CHANGES[block][key]})
    assert getattr(run, block).model_dump()[key] != CHANGES[block][key]
    assert not source().describes(run.model_copy(update={block: other}))


def test_every_field_of_the_configuration_is_matched_or_left_open(real):
    for block, keys in CHANGES.items():
        assert set(keys) | OPEN[block] == set(getattr(real.run("vgg38_bn"), block).model_dump())


def test_r4_stressed_the_ending_rate_too(real):
    stressed = {row.runs[0]: row.train["final_learning_rate"] for row in published.load() if "_x" in row.runs[0]}
    assert stressed == {"vgg38_resnet_wd3_x5": 1e-4, "vgg38_resnet_wd3_x30": 6e-4, "vgg38_resnet_wd3_x100": 2e-3}
    for factor, final in ((5, 1e-4), (10, 2e-4), (30, 6e-4), (100, 2e-3)):
        train = real.run(f"vgg38_resnet_wd3_x{factor}").train
        assert (train.learning_rate, train.final_learning_rate) == (pytest.approx(factor * 1e-3), final)


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
            assert run.model == config.Model(**(real.model.model_dump() | NETWORKS[row.model])), row
            assert (run.train.precision, run.train.l1, run.train.patience) == ("bf16", 0, 0)


def test_every_published_parameter_count_is_that_of_its_run(real):
    with (examples.ROOT / "src/vanishing/results/published.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["parameters"]]
    assert len(rows) > 20
    measure = functools.cache(lambda model: models.measure(model, classes=100))  # many rows are of one model
    for row in rows:
        count = measure(real.run(row["runs"].split()[0]).model).parameters
        assert row["parameters"] in (str(count), f"{count / 1000:.0f}K", f"{math.ceil(count / 1000)}K"), row


@pytest.mark.parametrize(
    ("text", "number", "uncertainty"),
    [("45.5(2)", 45.5, 0.2), ("4.61", 4.61, 0.005), ("1.815(3)", 1.815, 0.003), ("1.0", 1.0, 0.05), ("49(12)", 49, 12)],
)
def test_a_bracket_is_the_uncertainty_and_the_last_digit_is_rounded(text, number, uncertainty):
    assert published.value(text) == number
    assert published.uncertainty(text) == pytest.approx(uncertainty)


LENT = Spread(0.5, 30)
"""Student's t for 30 degrees of freedom is 2.0423: with one seed 1.4441, with two 1.2506."""


@pytest.mark.parametrize(
    ("item", "verdict"),
    [
        (claim("47.0", [48.49], lent=LENT), "holds"),  # 1.4441 points, and half a tenth
        (claim("47.0", [48.50], lent=LENT), "does not hold"),
        (claim("47.0(2)", [48.64], lent=LENT), "holds"),
        (claim("1.95", [1.952, 1.956], lent=Spread(0.0, 5), metric="train_loss"), "holds"),  # half a hundredth
        (claim("1.95", [1.956, 1.956], lent=Spread(0.0, 5), metric="train_loss"), "does not hold"),
        (claim("47.0", [48.2, 48.4], lent=LENT), "holds"),  # their own spread is not asked
        (claim("47.0", [48.2, 48.5], lent=LENT), "does not hold"),
        (claim("47.0", [48.2, 48.5]), "no spread"),
        # 2.0423^2 * 0.5 and, for two sets of images, 1.9600^2 * 2 points^2: a root of 3.1255
        (claim("47.0", [50.17], lent=LENT, sampling=2.0), "holds"),
        (claim("47.0", [50.18], lent=LENT, sampling=2.0), "does not hold"),
        # Student's t for 2 degrees of freedom is 4.3027, times sqrt(4/3): 4.9683 deviations, and half a tenth
        (claim("47.0", [47.81, 48.0, 48.19], lent=LENT), "does not hold"),
        (claim("47.0", [47.808, 48.0, 48.192], lent=LENT), "holds"),
        (claim("1.0", [1.0, 1.0, 1.0]), "holds"),
        (claim("47.0", [47.0], comparable=False), "other settings"),
        (claim("47.0", []), "not run"),
        (claim("3.16", [], diverged=1, metric="train_loss"), "diverged"),
        (claim("3.16", [], diverged=1, metric="train_loss", comparable=False), "other settings"),
        (claim("47.0", [47.0], diverged=1, lent=LENT), "holds"),
    ],
)
def test_a_value_holds_by_the_rule(item, verdict):
    assert item.verdict == verdict


@pytest.mark.parametrize("comparable", [True, False])
def test_a_diverged_training_is_told_in_the_table_whatever_its_settings(comparable):
    text = comparison_tables.values_table([claim("3.16", [], diverged=1, metric="train_loss", comparable=comparable)])
    assert r"3.16\,n & diverged &  &" in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("probabilities", "verdict"),
    [
        ((0.20, 0.04, 0.001), "per epoch"),
        ((0.049, 0.051, 0.0), "per iteration"),
        ((0.01, 0.02, 0.70), "constant rate"),
        ((0.06, 0.06, 0.00), "per epoch or per iteration"),
        ((0.04, 0.04, 0.04), "none of these"),
        ((0.04, 0.04, None), "not tested"),
        ((0.90, 0.04, None), "per epoch or not tested"),
        ((None, 0.90, None), "per iteration or not tested"),
        ((None, None, None), "not tested"),
    ],
)
def test_a_schedule_is_possible_unless_the_row_rejects_it(probabilities, verdict):
    assert published_schedules.judge(dict(zip(published.SCHEDULES, probabilities, strict=True))) == verdict


def test_the_least_probable_of_several_values_is_corrected_for_their_number():
    assert published_schedules.bonferroni([0.02, 0.5, 0.9]) == pytest.approx(0.06)
    assert published_schedules.bonferroni([0.5, 0.9]) == 1
    assert published_schedules.bonferroni([]) is None


def attributed(**by_schedule):
    """Attribute r1's 81.39 and 59.68 %: ours are (training, validation) accuracies of one seed each, by schedule."""
    of = source(printed={"train_accuracy": "81.39", "val_accuracy": "59.68"})
    claims = [
        claim("", [value], lent=Spread(1.0, 30), metric=metric, schedule=schedule, source=of)
        for schedule, values in by_schedule.items()
        for metric, value in zip(of.printed, values, strict=True)
    ]
    (found,) = published_schedules.attribute(claims)
    return found


def test_a_row_has_a_probability_under_each_schedule():
    # each value has a deviation of sqrt(2) = 1.41421 points: training is 1.4 off, 0.005 of it rounding, or 0.986 of
    # them, which |t| with 30 degrees of freedom exceeds with a probability of 0.332; validation is nearer
    found = attributed(cosine_per_epoch=(82.79, 60.0), cosine_per_iteration=(71.39, 60.0))
    assert found.probabilities["cosine_per_epoch"] == pytest.approx(2 * 0.3318, abs=1e-3)
    assert found.probabilities["cosine_per_iteration"] < 1e-6
    assert found.probabilities["constant"] is None
    assert found.verdict == "per epoch or not tested"


def test_a_row_six_points_from_everything_is_none_of_these():
    far = (87.39, 65.68)
    assert attributed(cosine_per_epoch=far, cosine_per_iteration=far, constant=far).verdict == "none of these"
    assert attributed(cosine_per_epoch=far, cosine_per_iteration=far).verdict == "not tested"


def test_a_row_that_one_of_its_values_rejects_is_rejected():
    assert attributed(cosine_per_epoch=(81.39, 65.68)).verdict == "not tested"


def test_other_settings_name_no_schedule_and_a_training_that_diverged_is_rejected():
    of = source()
    other = claim("47.04", [47.0], lent=LENT, source=of, comparable=False)
    assert [item.verdict for item in published_schedules.attribute([other])] == ["other settings"]
    diverged = claim("47.04", [], source=of, diverged=1)
    assert [item.verdict for item in published_schedules.attribute([diverged])] == ["not tested"]


def test_a_row_without_results_is_not_attributed():
    assert list(published_schedules.attribute([claim("47.0", []), claim("47.0", [47.0])])) == []


def test_brackets_stand_for_a_deviation_in_two_readings():
    """40.2(1) is 0.05 to 0.15 points, or sqrt(5) times as much; ours scatter by 0.1 and by 1.5 points."""
    ours = [Scatter("a", 0, "cosine_per_epoch", 100, 100, 0.1), Scatter("b", 0, "cosine_per_iteration", 100, 100, 1.5)]
    ours += [Scatter("c", 0, "cosine_per_epoch", 15, 100, 0.9), Scatter("d", 0, "cosine_per_epoch", 100, 800, 0.9)]
    brackets = list(published_schedules.read_brackets(ours))
    assert len(brackets) == 2 * 12
    plain, error = brackets[:2]
    assert (plain.low, plain.high) == pytest.approx((0.05, 0.15))
    assert (error.low, error.high) == pytest.approx((0.05 * math.sqrt(5), 0.15 * math.sqrt(5)))
    assert plain.probabilities["cosine_per_epoch"] == 1  # 0.1 lies within
    # with 4 and 4 degrees of freedom P(F <= x) = x^2 (3 + x) / (1 + x)^3, of the nearest, 0.15 to 1.5: x = 0.01
    assert plain.probabilities["cosine_per_iteration"] == pytest.approx(2 * 1e-4 * 3.01 / 1.01**3)
    assert plain.probabilities["constant"] is None


def test_scatter_is_of_the_final_five_epochs_of_trainings_that_learn(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    examples.result(real, "vgg08", epochs=7)
    examples.result(real, "vgg38_bn", epochs=4)
    examples.result(real, "vgg38", epochs=7, train=(math.log(100), 0.01), val=(4.6, 0.01))
    path = tmp_path / "results/runs/vgg08/seed0/history.csv"
    accuracies = (0.9, 0.9, 0.50, 0.51, 0.49, 0.52, 0.48)
    lines = [f"{epoch},0.001,1.5,0.5,1.6,{accuracy}" for epoch, accuracy in enumerate(accuracies, start=1)]
    path.write_text("\n".join([path.read_text().splitlines()[0], *lines]) + "\n")
    examples.sign("vgg08")
    # about 50 the final five are 0, 1, -1, 2 and -2 points off: squares of 10, over 4
    assert list(published_schedules.final_scatter(aggregate.collect(real))) == [
        Scatter("vgg08", 0, "cosine_per_epoch", 100, 100, pytest.approx(math.sqrt(2.5)))
    ]


def lend(real, run, *values, **fields):
    """Fake a run of the core study, a seed for each training accuracy; two seeds validate with 1.6 nats and 40 %."""
    for seed, value in enumerate(values):
        validation = {"val": (1.5 + 0.2 * seed, 0.39 + 0.02 * seed)}
        examples.result(real, run, seed=seed, train=(1.5, value), **(validation | fields))


def test_the_spread_is_borrowed_from_the_core_study_by_schedule(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    lend(real, "vgg08", 0.50, 0.52)  # squares about the mean: 2 points^2, one degree of freedom
    lend(real, "vgg38_bn", 0.50, 0.54)  # 8
    lend(real, "vgg38_bn_rc_it", 0.50, 0.60)  # 50, under the other schedule
    examples.result(real, "vgg38_rc", train=(1.5, 0.6))
    found = {(claim.run, claim.metric): claim for claim in claims_of(real) if claim.prediction}
    prediction = found["vgg38_rc", "train_accuracy"].prediction
    assert (prediction.std, prediction.freedom) == (pytest.approx(math.sqrt(5 * 2)), 2)
    other = found["vgg38_bn_rc_it", "train_accuracy"].prediction
    assert (other.std, other.freedom) == (pytest.approx(math.sqrt(50 * 1.5)), 1)


def test_trainings_that_end_alike_lend_no_spread_unless_they_are_at_chance(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    lend(real, "vgg08", 0.50, 0.52, test=(1.7, 0.4961))
    for seed in (0, 1):
        examples.result(real, "vgg38", seed=seed, train=(math.log(100), 0.01), val=(math.log(100), 0.01))
    found = {(claim.run, claim.metric): claim.verdict for claim in claims_of(real) if claim.values}
    assert found["vgg08", "train_accuracy"] in published.JUDGED
    assert found["vgg38", "val_accuracy"] == "holds", "1 % each time is what chance is"
    examples.result(real, "vgg38_bn_rc_lr2", train=(0.6, 0.8), test=(1.7, 0.6))
    found = {
        claim.metric: claim
        for claim in claims_of(real)
        if claim.source.report == "r5" and claim.run == "vgg38_bn_rc_lr2"
    }
    assert found["test_accuracy"].verdict == "no spread"
    assert found["train_accuracy"].verdict in published.JUDGED


def test_validation_adds_the_variance_of_two_sets_of_images(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    lend(real, "vgg08", 0.50, 0.52)
    found = {claim.metric: claim.prediction for claim in claims_of(real) if claim.values}
    assert found["val_accuracy"].sampling == pytest.approx(2 * 40 * 60 / 2500)
    assert found["val_loss"].sampling == pytest.approx(2 * 4 / 2500)


def test_a_short_last_minibatch_of_theirs_makes_their_validation_less_sure(tmp_path, monkeypatch, real):
    """2,500 images are three minibatches of 800 and one of 100, a quarter of the weight each."""
    monkeypatch.chdir(tmp_path)
    lend(real, "vgg08", 0.50, 0.52)
    examples.result(real, "vgg38_bn_lr0_05_b800", epochs=5, val=(1.6, 0.4))
    (found,) = [each for each in claims_of(real) if each.run == "vgg38_bn_lr0_05_b800"]
    assert found.prediction.sampling == pytest.approx(40 * 60 * (1 / 2500 + (3 / 800 + 1 / 100) / 16))


def test_without_a_spread_over_images_no_validation_loss_is_judged_and_one_training_lends_it(
    tmp_path, monkeypatch, real
):
    monkeypatch.chdir(tmp_path)
    lend(real, "vgg08", 0.50, 0.52)
    for seed in (0, 1):
        _say_spread(tmp_path / f"results/runs/vgg08/seed{seed}/summary.json", None)
    found = {claim.metric: claim for claim in claims_of(real) if claim.values}
    assert found["val_loss"].verdict == "no spread"
    _say_spread(tmp_path / "results/runs/vgg08/seed0/summary.json", 3.0)
    found = {claim.metric: claim for claim in claims_of(real) if claim.values}
    assert found["val_loss"].prediction.sampling == pytest.approx(2 * 9 / 2500)


def _say_spread(path, std):
    summary = json.loads(path.read_text())
    summary["validation"]["loss_std"] = std
    path.write_text(json.dumps(summary))


CHANCE = {"val": (4.605, 0.01)}


def test_a_network_at_chance_borrows_from_those_at_chance_alone_and_lends_to_no_other(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    examples.result(real, "vgg38", train=(math.log(100), 0.010), **CHANCE)
    lend(real, "vgg08", 0.50, 0.54)
    found = {(claim.run, claim.metric): claim for claim in claims_of(real)}
    assert found["vgg38", "train_accuracy"].verdict == "no spread", "that of the learners would let anything hold"
    examples.result(real, "vgg38", seed=1, train=(math.log(100), 0.012), **CHANCE)
    found = {(claim.run, claim.metric): claim for claim in claims_of(real)}
    assert found["vgg38", "train_accuracy"].prediction.std == pytest.approx(math.sqrt(0.02 * 1.5))
    assert found["vgg08", "train_accuracy"].prediction.std == pytest.approx(math.sqrt(8 * 1.5))


def numbers_of(claims):
    return {key.removeprefix("published/"): count for key, count in published.verdicts(claims).items()}


def test_values_and_comparisons_are_counted_each_once():
    """Two handout's values, under two schedules; an author's, printed twice; one not run, one of other settings."""
    handout = source(origin="handout", printed={"val_accuracy": "47.0", "train_accuracy": "50.0"})
    twice = [source(table=name, printed={"val_accuracy": "60.0"}) for name in ("Table 1", "Table 2")]
    claims = [
        claim("", [47.1], lent=LENT, source=handout),
        claim("", [57.1], lent=LENT, source=handout, run="vgg38_bn_it"),
        claim("", [57.1], lent=LENT, source=handout, metric="train_accuracy"),
        claim("", [], diverged=1, source=handout, metric="train_accuracy", run="vgg38_bn_it"),
        *(claim("", [60.1, 60.2, 60.3], source=each) for each in twice),
        claim("", [], source=source(printed={"test_accuracy": "1.0"}), metric="test_accuracy"),
        claim("", [5.0], source=source(printed={"test_loss": "2.0"}), metric="test_loss", comparable=False),
    ]
    assert numbers_of(claims) == {
        "figures": 5, "judged": 5, "fail": 3, "borrowed": 3, "compared": 3, "holds": 2,
        "handout/compared": 2, "handout/holds": 1, "report/compared": 1, "report/holds": 1,
    }  # fmt: skip


def test_what_is_not_run_is_listed_as_such(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    examples.result(real, "vgg08", val=(1.95, 0.4684))
    table = published.values_frame(claims_of(real))
    values = {(row.report, row.table, metric) for row in published.load() for metric in row.printed}
    assert {(row.report, row.table, row.metric) for row in table.itertuples()} == values
    assert set(table.run[table.verdict != "not run"]) == {"vgg08"}
    r1 = table[(table.report == "r1") & (table.run == "vgg08")].set_index("metric")
    assert (r1.reproduced.val_accuracy, r1.verdict.val_accuracy) == (pytest.approx(46.84), "no spread")


def test_final_epochs_are_averaged_where_the_print_says_so(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    examples.result(real, "vgg38_bn", epochs=6)
    path = tmp_path / "results/runs/vgg38_bn/seed0/history.csv"
    lines = path.read_text().splitlines()
    lines[1:] = [f"{epoch},0.001,1.5,0.5,1.6,{0.1 * epoch:.1f}" for epoch in range(1, 7)]
    path.write_text("\n".join(lines) + "\n")
    examples.sign("vgg38_bn")
    table = published.values_frame(claims_of(real)).set_index(["report", "table", "run", "metric"])
    assert table.reproduced["r2", "Table 1", "vgg38_bn", "val_accuracy"] == pytest.approx(40.0)  # of 20 to 60
    assert table.reproduced["r1", "Table 1", "vgg38_bn", "val_accuracy"] == pytest.approx(60.0)
