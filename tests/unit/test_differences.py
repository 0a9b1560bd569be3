"""Differences by seed: what may be said of two runs."""

import math

import pytest

import examples
from vanishing import config
from vanishing.report import tables
from vanishing.results import aggregate, differences, statistics


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def found(first, second):
    """Return the difference in validation accuracy of two runs, given by seed; None for a seed that diverged."""
    seeds = sorted({*first, *second})
    study = examples.study({"seeds": seeds})
    for run, accuracies in (("vgg38", first), ("vgg08", second)):
        for seed, accuracy in accuracies.items():
            train = (1.0, 0.5) if accuracy is not None else (math.nan, 0.1)
            examples.result(study, run, seed, train=train, val=(1.0, accuracy or 0.1))
    rows = aggregate.collect(study)["core"]
    return next(differences.paired_differences(study.studies["core"], rows))


def test_three_seeds_have_the_interval_worked_out_by_hand():
    item = found({0: 0.50, 1: 0.53, 2: 0.56}, {0: 0.40, 1: 0.42, 2: 0.44})
    assert (item.first, item.second, item.metric) == ("vgg38", "vgg08", "val_accuracy")
    assert item.values == pytest.approx([0.10, 0.11, 0.12])
    assert item.mean == pytest.approx(0.11)
    assert item.margin == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)  # Student, 2 degrees of freedom
    assert item.verdict == "higher"
    assert found({0: 0.40, 1: 0.42, 2: 0.44}, {0: 0.50, 1: 0.53, 2: 0.56}).verdict == "lower"


def test_an_interval_that_contains_zero_cannot_tell():
    item = found({0: 0.50, 1: 0.46}, {0: 0.45, 1: 0.45})
    assert item.mean == pytest.approx(0.03)
    assert item.margin == pytest.approx(12.706205 * math.sqrt(0.0008) / math.sqrt(2), rel=1e-6)
    assert item.verdict == "cannot tell"


def test_one_seed_cannot_tell_however_large_the_difference():
    item = found({0: 0.9}, {0: 0.1})
    assert math.isnan(item.margin)
    assert item.verdict == "cannot tell"
    assert "1 & $+$80.00 & cannot tell" in tables.differences_table([item])


def test_only_seeds_that_both_completed_are_paired():
    item = found({0: 0.5, 1: 0.6, 3: None}, {1: 0.4, 2: 0.1, 3: 0.2})
    assert item.values == pytest.approx([0.2])


def test_a_test_loss_that_overflowed_has_no_difference():
    study = examples.study({"seeds": [0]})
    examples.result(study, "vgg38", test=(None, 0.3))  # as a summary has it
    examples.result(study, "vgg08")
    by_run = {row.run: row for row in aggregate.collect(study)["core"]}
    assert math.isnan(by_run["vgg38"].values("test_loss")[0])
    assert math.isnan(differences.between(by_run["vgg38"], by_run["vgg08"], "test_loss").mean)


def test_no_common_seed_is_a_dash():
    item = found({0: 0.5}, {1: 0.4})
    assert (item.values, item.verdict) == ([], "cannot tell")
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
