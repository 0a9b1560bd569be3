"""Differences by seed: what may be said of two runs."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

import examples
from vanishing import config
from vanishing.report import tables
from vanishing.results import aggregate, differences, statistics
from vanishing.results.lending import Pool


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(**by_run):
    """Return the rows of runs whose validation accuracy is given by seed; None for a seed that diverged."""
    seeds = sorted({seed for accuracies in by_run.values() for seed in accuracies})
    study = examples.study({"seeds": seeds}, runs=list(by_run))
    for run, accuracies in by_run.items():
        for seed, accuracy in accuracies.items():
            train = (1.0, 0.5) if accuracy is not None else (math.nan, 0.1)
            examples.result(study, run, seed, train=train, val=(1.0, accuracy or 0.1))
    return {row.run: row for row in aggregate.collect(study)["core"]}


@dataclass(frozen=True)
class Drawn(aggregate.Row):
    """A row whose metrics are drawn."""

    drawn: dict = field(default_factory=dict)

    def values(self, metric):
        return {result.seed: self.drawn[self.run, result.seed] for result in self.results}


def found(first, second):
    """Return the difference in validation accuracy of two runs, given by seed, with nothing lent."""
    of = rows(vgg38=first, vgg08=second)
    return differences.between(of["vgg38"], of["vgg08"], "val_accuracy")


def lent(first, second, **others):
    """Return the same beside other runs, which lend their spread."""
    of = rows(vgg38=first, vgg08=second, **others)
    return differences.between(of["vgg38"], of["vgg08"], "val_accuracy", Pool(tuple(of.values())))


def test_three_seeds_have_the_interval_worked_out_by_hand():
    item = found({0: 0.50, 1: 0.53, 2: 0.56}, {0: 0.40, 1: 0.42, 2: 0.44})
    assert (item.first, item.second, item.metric) == ("vgg38", "vgg08", "val_accuracy")
    assert (item.counts, item.borrowed) == ((3, 3), False)
    assert item.mean == pytest.approx(0.11)
    assert item.margin == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)  # Student, 2 degrees of freedom
    assert item.verdict == "higher"
    assert found({0: 0.40, 1: 0.42, 2: 0.44}, {0: 0.50, 1: 0.53, 2: 0.56}).verdict == "lower"


def test_three_seeds_borrow_nothing():
    first, second = {0: 0.50, 1: 0.53, 2: 0.56}, {0: 0.40, 1: 0.42, 2: 0.44}
    assert lent(first, second, vgg38_bn={0: 0.5, 1: 0.51}) == found(first, second)


def test_an_interval_that_contains_zero_cannot_tell():
    item = found({0: 0.50, 1: 0.46}, {0: 0.45, 1: 0.45})
    assert item.mean == pytest.approx(0.03)
    assert item.margin == pytest.approx(12.706205 * math.sqrt(0.0008) / math.sqrt(2), rel=1e-6)
    assert item.verdict == "cannot tell"


def test_one_seed_each_cannot_tell_by_itself():
    item = found({0: 0.9}, {0: 0.1})
    assert math.isnan(item.margin)
    assert item.verdict == "cannot tell"
    assert "1 & $+$80.00 & cannot tell" in tables.differences_table([item])


def test_one_seed_each_borrows_the_spread_of_a_third_run():
    """The third run has 50, 52 and 54 %: s = 2 points, of 2 degrees, so 4.3027 x 2 x sqrt(1 + 1) = 12.17 points."""
    item = lent({0: 0.50}, {1: 0.37}, vgg38_bn={0: 0.50, 1: 0.52, 2: 0.54})
    assert (item.counts, item.borrowed, item.verdict) == ((1, 1), True, "higher")
    assert item.mean == pytest.approx(0.13)
    assert item.margin == pytest.approx(4.302653 * 0.02 * math.sqrt(2), rel=1e-6)
    assert "1 and 1 & $+$13.00 $\\pm$ 12.17\\textsuperscript{b} & higher" in tables.differences_table([item])
    assert lent({0: 0.50}, {1: 0.38}, vgg38_bn={0: 0.50, 1: 0.52, 2: 0.54}).verdict == "cannot tell"


def test_a_run_that_scatters_more_than_the_others_keeps_its_own_spread():
    """For 47 and 53 %, s^2 is 18 points^2, of 1 degree; with 50, 50, 51 and 51 %, the pooled one is 4.75, of 4.

    The variance is 18/2 + 4.75, its degrees of freedom 13.75^2 / (9^2 / 1 + 4.75^2 / 4) = 2.1821.
    """
    item = lent({0: 0.47, 1: 0.53}, {0: 0.40}, vgg38_bn={0: 0.50, 1: 0.50, 2: 0.51, 3: 0.51})
    assert item.counts == (2, 1)
    assert item.margin == pytest.approx(3.9761643 * math.sqrt(0.001375), rel=1e-6)


def test_what_stays_at_chance_borrows_from_what_learns():
    """Two trainings at chance agree to the last digit; that is no spread to judge another by."""
    study = examples.study({"seeds": [0, 1, 2]}, runs=["vgg38", "vgg08"])
    guess = math.log(study.data.classes), 1 / study.data.classes
    for seed in (0, 1):
        examples.result(study, "vgg38", seed, train=guess, val=guess)
    for seed, accuracy in enumerate((0.48, 0.50, 0.52)):
        examples.result(study, "vgg08", seed, train=(1.0, 0.5), val=(1.0, accuracy))
    deep, shallow = sorted(aggregate.collect(study)["core"], key=lambda row: row.run, reverse=True)
    assert deep.at_chance
    item = differences.between(shallow, deep, "val_accuracy", Pool((deep, shallow)))
    assert item.margin == pytest.approx(4.302653 * 0.02 * math.sqrt(1 / 3 + 1 / 2), rel=1e-6)
    assert item.verdict == "higher"


def test_lenders_that_all_agree_lend_nothing():
    item = lent({0: 0.9}, {0: 0.1}, vgg38_bn={0: 0.5, 1: 0.5})
    assert (item.borrowed, math.isnan(item.margin), item.verdict) == (False, True, "cannot tell")


def test_a_run_that_learns_with_some_seeds_only_lends_nothing():
    """Its 2 and 50 % would lend 34 points."""
    study = examples.study({"seeds": [0, 1]}, runs=["vgg38", "vgg08", "vgg38_rc"])
    guess = math.log(study.data.classes), 1 / study.data.classes
    examples.result(study, "vgg38", 0)
    examples.result(study, "vgg08", 0)
    examples.result(study, "vgg38_rc", 0, train=guess, val=guess)
    examples.result(study, "vgg38_rc", 1, train=(1.0, 0.5), val=(1.0, 0.5))
    of = {row.run: row for row in aggregate.collect(study)["core"]}
    assert (of["vgg38_rc"].at_chance, of["vgg38_rc"].learns) == (False, False)
    assert Pool(tuple(of.values())).of_learners(of["vgg38"], "val_accuracy") is None


def test_a_constant_rate_borrows_from_its_own_schedule_first():
    """s is 2 points with a constant rate, and 4 with the schedule per iteration."""
    others = {
        "vgg08_constant": {0: 0.5, 1: 0.5 + 0.02 * math.sqrt(2)},
        "vgg08_it": {0: 0.4, 1: 0.4 + 0.04 * math.sqrt(2)},
    }
    of = rows(vgg38_bn_constant={0: 0.5}, **others)
    alone = Pool((of["vgg38_bn_constant"], of["vgg08_it"]))
    assert Pool(tuple(of.values())).of_learners(of["vgg38_bn_constant"], "val_accuracy").std == pytest.approx(2)
    assert alone.of_learners(of["vgg38_bn_constant"], "val_accuracy").std == pytest.approx(4)


def test_a_run_that_is_the_only_lender_has_one_estimate_with_the_other():
    """s^2 is 18 points^2, of 1 degree, for both: 12.7062 sqrt(18 (1/2 + 1)) points."""
    item = lent({0: 0.47, 1: 0.53}, {0: 0.37})
    assert item.margin == pytest.approx(12.706205 * math.sqrt(0.0018 * 1.5), rel=1e-6)


def test_two_own_spreads_are_two_estimates_even_when_they_are_equal():
    """Each has s^2 / n = 18 / 2, of 1 degree: 18^2 / (9^2 + 9^2) = 2 degrees, and 4.3027 sqrt(18) points."""
    item = lent({0: 0.47, 1: 0.53}, {0: 0.37, 1: 0.43}, vgg38_bn=dict.fromkeys(range(9), 0.5))
    assert item.margin == pytest.approx(4.302653 * math.sqrt(0.0018), rel=1e-6)


def test_each_schedule_lends_its_own_spread():
    """s is 2 points under one schedule, of 2 degrees, and 4 under the other, of 1: 20^2 / (4^2 / 2 + 16^2) = 1.5152."""
    of = rows(
        vgg08={0: 0.48, 1: 0.50, 2: 0.52},
        vgg08_it={0: 0.40, 1: 0.40 + 0.04 * math.sqrt(2)},
        vgg38={0: 0.7},
        vgg38_it={0: 0.2},
    )
    item = differences.between(of["vgg38"], of["vgg38_it"], "val_accuracy", Pool(tuple(of.values())))
    assert item.margin == pytest.approx(5.9331180 * math.hypot(0.02, 0.04), rel=1e-6)


def test_intervals_with_a_borrowed_spread_cover_what_they_promise():
    """Of 2,000 studies whose networks scatter alike, without a difference; one that promised 90 % would fail."""
    drawn = np.random.default_rng(0).normal(0.5, 0.01, (2000, 7))
    of = rows(vgg38={0: 0.5}, vgg08={0: 0.5, 1: 0.5}, vgg38_bn={0: 0.5, 1: 0.5}, vgg38_rc={0: 0.5, 1: 0.5})
    places = [(row.run, seed) for row in of.values() for seed in row.values("val_accuracy")]
    outside = 0
    for draw in drawn:
        at = dict(zip(places, draw, strict=True))
        made = {run: Drawn(run, row.configuration, row.results, drawn=at) for run, row in of.items()}
        item = differences.between(made["vgg38"], made["vgg08"], "val_accuracy", Pool(tuple(made.values())))
        outside += item.verdict != "cannot tell"
    assert 0.02 < outside / len(drawn) < 0.06


def test_only_seeds_that_both_completed_are_paired():
    item = found({0: 0.5, 1: 0.6, 3: None}, {1: 0.4, 2: 0.1, 3: 0.2})
    assert (item.counts, item.mean) == ((1, 1), pytest.approx(0.2))


def test_a_test_loss_that_overflowed_has_no_difference():
    study = examples.study({"seeds": [0]})
    examples.result(study, "vgg38", test=(None, 0.3))  # as a summary has it
    examples.result(study, "vgg08")
    by_run = {row.run: row for row in aggregate.collect(study)["core"]}
    assert math.isnan(by_run["vgg38"].values("test_loss")[0])
    assert math.isnan(differences.between(by_run["vgg38"], by_run["vgg08"], "test_loss").mean)


def test_no_common_seed_is_a_dash():
    item = found({0: 0.5}, {1: 0.4})
    assert (item.counts, item.verdict) == ((0, 0), "cannot tell")
    assert "0 & -- & --" in tables.differences_table([item])


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)]
)
def test_quantiles_are_those_of_printed_tables(freedom, value):
    assert statistics.quantile(freedom) == pytest.approx(value, abs=5e-5)


def test_pairs_are_those_named_or_each_run_against_the_first():
    block = {"title": "Title", "runs": ["a", "b", "c"]}
    assert config.Study(**block).pairs == [("b", "a"), ("c", "a")]
    assert config.Study(**block, compare=[["c", "b"]]).pairs == [("c", "b")]
