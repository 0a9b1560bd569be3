"""Prediction intervals and their distributions: by hand, by printed tables, by simulation, and a second time."""

import math

import numpy as np
import oracle_statistics
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vanishing.results import statistics
from vanishing.results.statistics import Spread

SEEDS = 2.5
"""Points by which the seeds of a simulated network spread."""

SAMPLING = 2 * 0.5 * 0.5 / 2500 * 100**2
"""Squared points between two sets of 2,500 images at an accuracy of one half: 2."""


@pytest.mark.parametrize(
    ("freedom", "known"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (10, 2.2281), (math.inf, 1.95996)]
)
def test_quantiles_are_those_of_printed_tables(freedom, known):
    assert statistics.quantile(freedom) == pytest.approx(known, abs=5e-5)


def test_students_probability_has_a_closed_form_for_one_and_two_degrees_of_freedom():
    assert statistics.student(1, 1) == pytest.approx(0.5)  # Cauchy: 1 - 2 atan(t) / pi
    assert statistics.student(math.sqrt(2), 2) == pytest.approx(1 - math.sqrt(2) / 2)  # 1 - t / sqrt(2 + t^2)
    assert statistics.student(1.959964, math.inf) == pytest.approx(0.05, abs=1e-7)


def test_the_probability_of_a_ratio_of_variances_by_hand_and_by_a_printed_table():
    assert statistics.variance_ratio(1, 4, 4) == 1
    assert statistics.variance_ratio(9, 2, 2) == pytest.approx(
        0.2
    )  # with 2 and 2 degrees of freedom P(F > x) is 1 / (1 + x)
    assert statistics.variance_ratio(9.6045, 4, 4) == pytest.approx(0.05, abs=1e-5)  # the 97.5 % point
    assert statistics.variance_ratio(1 / 9.6045, 4, 4) == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize(("few", "n", "many", "m"), [(0, 3, 3, 3), (1, 3, 3, 3), (0, 1, 2, 3), (2, 5, 4, 4)])
def test_fishers_exact_test_is_that_of_scipy(few, n, many, m):
    expected = scipy.stats.fisher_exact([[few, n - few], [many, m - many]], alternative="less").pvalue
    assert statistics.fisher_exact(few, n, many, m) == pytest.approx(expected)


@given(st.floats(1e-3, 20), st.floats(1, 1e5), st.sampled_from([4, 8, 40]), st.sampled_from([4, 12, 400]))
def test_both_computations_of_the_distributions_agree(t, freedom, first, second):
    assert oracle_statistics.student(t, freedom) == pytest.approx(statistics.student(t, freedom), rel=1e-8, abs=1e-13)
    assert oracle_statistics.variance_ratio(t, first, second) == pytest.approx(
        statistics.variance_ratio(t, first, second), rel=1e-8, abs=1e-13
    )


@pytest.mark.parametrize("freedom", [1, 2, 7, 1e4, math.inf])
def test_both_quantiles_agree(freedom):
    assert oracle_statistics.quantile(freedom) == pytest.approx(statistics.quantile(freedom), rel=1e-8)


def test_a_pool_weights_each_group_by_its_degrees_of_freedom():
    # squares about the means: 2 for one degree of freedom, 8 for two, and a lone value has none
    assert statistics.pool([[1.0, 3.0], [1.0, 3.0, 5.0], [7.0]]) == Spread(pytest.approx(math.sqrt(10 / 3)), 3)
    assert statistics.pool([[1.0], []]) is None


def grouped(*groups):
    return pd.Series(
        [value for group in groups for value in group], [at for at, group in enumerate(groups) for _ in group]
    )


def test_an_interval_is_students_over_the_means_of_the_groups():
    found = statistics.interval(grouped([1.0, 3.0], [5.0], [6.0, 6.0, 9.0]))  # means 2, 5 and 7
    known = scipy.stats.ttest_1samp([2.0, 5.0, 7.0], 0).confidence_interval(0.95)
    assert (found.mean, found.count) == (pytest.approx(14 / 3), 3)
    assert (found.low, found.high) == pytest.approx(tuple(known))


@pytest.mark.parametrize(("groups", "mean"), [([[1.0, 3.0]], 2.0), ([[math.nan], [1.0]], math.nan), ([], math.nan)])
def test_a_single_group_or_an_undefined_one_has_no_interval(groups, mean):
    found = statistics.interval(grouped(*groups))
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert (math.isnan(found.low), math.isnan(found.high), found.count) == (True, True, len(groups))


def test_infinite_values_have_an_infinite_mean_without_an_interval():
    found = statistics.interval(grouped([math.inf], [1.0]))
    assert found.mean == math.inf
    assert math.isnan(found.low)


def test_an_interval_of_ratios_is_that_of_their_logarithms():
    # means of the logarithms ln 2 and ln 8; Student's quantile for one degree is 12.7062, times ln(2) sqrt(2) / sqrt(2)
    found = statistics.ratio(grouped([3.0, 12.0], [16.0]), grouped([3.0, 3.0], [2.0]))
    half = 12.7062 * math.log(2)
    assert (found.mean, found.count) == (pytest.approx(4), 2)
    assert (found.low, found.high) == pytest.approx((4 * math.exp(-half), 4 * math.exp(half)), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_ratio_that_is_not_positive_leaves_no_geometric_mean(value):
    found = statistics.ratio(grouped([value], [1.0]))
    assert all(math.isnan(each) for each in (found.mean, found.low, found.high))


def test_an_interval_of_cosines_ends_at_1_on_either_side():
    found = statistics.cosine(grouped([-1.0], [1.0]))
    assert (found.mean, found.low, found.high) == (0, -1, 1)
    inside = statistics.cosine(grouped([0.1], [0.1]))
    assert (inside.low, inside.high) == pytest.approx((0.1, 0.1))
    assert math.isnan(statistics.cosine(grouped([0.1])).low)


def test_a_geometric_mean_leaves_out_what_is_not_defined():
    assert statistics.geometric_mean([2.0, math.nan, 8.0]) == pytest.approx(4)
    assert statistics.geometric_mean([0.0, 8.0]) == 0
    assert math.isnan(statistics.geometric_mean([math.nan]))


def test_three_values_stand_on_their_own_spread():
    found = statistics.predict([46.0, 47.0, 48.0], Spread(9.0, 50))
    assert (found.mean, found.freedom, found.borrowed) == (47, 2, False)
    assert found.std == pytest.approx(math.sqrt(4 / 3))
    assert found.half_width == pytest.approx(4.30265 * math.sqrt(4 / 3), rel=1e-5)


def test_fewer_borrow_it_and_say_so():
    found = statistics.predict([46.0, 48.0], Spread(2.0, 10))
    assert (found.mean, found.freedom, found.borrowed) == (47, 10, True)
    assert found.std == pytest.approx(2 * math.sqrt(1.5))
    assert statistics.predict([46.0, 48.0], None) is None
    assert statistics.predict([], Spread(2.0, 10)) is None


def test_the_images_add_a_variance_that_is_known():
    # s^2 (1 + 1/1) = 2, with Student's 3.18245 for 3 degrees of freedom, and 6 from the images, with the normal 1.95996
    found = statistics.predict([47.0], Spread(1.0, 3), sampling=6.0)
    assert found.half_width == pytest.approx(math.sqrt(3.18245**2 * 2 + 1.95996**2 * 6), rel=1e-4)
    alone = statistics.predict([47.0], Spread(0.0, 3), sampling=6.0)
    assert alone.half_width == pytest.approx(1.95996 * math.sqrt(6), rel=1e-4)


@pytest.mark.parametrize("sampling", [0.0, 0.5, 6.0])
def test_a_probability_is_that_of_the_interval_that_ends_there_less_the_rounding(sampling):
    found = statistics.predict([46.0, 47.0, 48.0], None, sampling)
    edge = found.half_width
    assert found.probability(47 + edge) == pytest.approx(0.05)
    assert found.probability(47 - edge - 0.05, 0.05) == pytest.approx(0.05)
    assert found.probability(47.02, 0.05) == 1
    assert found.probability(47 + 2 * edge) < 0.05 < found.probability(47 + edge / 2)


def test_a_probability_by_images_alone_is_the_normal_one():
    found = statistics.predict([47.0], Spread(0.0, 3), sampling=4.0)
    assert found.probability(47 + 2 * 1.6448536) == pytest.approx(0.1)


def test_without_any_spread_the_value_itself_holds_and_no_other():
    found = statistics.predict([1.0, 1.0, 1.0], None)
    assert (found.half_width, found.probability(1.0), found.probability(1.1)) == (0, 1, 0)
    assert found.probability(1.04, 0.05) == 1


@given(
    st.lists(st.floats(40, 60), min_size=1, max_size=4), st.floats(1e-3, 5), st.sampled_from([1, 2, 7, 30]),
    st.sampled_from([0.0, 0.1, 2.0]), st.floats(0, 40),
)  # fmt: skip
def test_both_predictions_agree(values, std, freedom, sampling, distance):
    ours = statistics.predict(values, Spread(std, freedom), sampling)
    other = oracle_statistics.predicted(values, (std, freedom), sampling)
    assert oracle_statistics.half_width(other) == pytest.approx(ours.half_width, rel=1e-8, abs=1e-12)
    again = oracle_statistics.probability(other, abs(ours.mean + distance - other.mean))
    assert again == pytest.approx(ours.probability(ours.mean + distance), rel=1e-6, abs=1e-12)


def coverage(n, borrowed, cases=4000):
    """Return how often a replicate on other images lies in the interval, in per cent."""
    draw = np.random.default_rng(n)
    ours = 50 + draw.normal(0, math.sqrt(SAMPLING / 2), (cases, 1)) + draw.normal(0, SEEDS, (cases, n))
    theirs = 50 + draw.normal(0, math.sqrt(SAMPLING / 2), cases) + draw.normal(0, SEEDS, cases)
    predictions = [statistics.predict(values, borrowed, SAMPLING) for values in ours.tolist()]
    inside = [abs(each.mean - value) <= each.half_width for each, value in zip(predictions, theirs, strict=True)]
    return 100 * float(np.mean(inside))


@pytest.mark.parametrize("n", [1, 2])
def test_a_replicate_holds_in_19_of_20_cases_with_a_borrowed_spread_that_is_its_own(n):
    assert 94 <= coverage(n, Spread(SEEDS, 1000)) <= 96


def test_a_replicate_holds_in_about_19_of_20_cases_with_the_spread_of_its_three_seeds():
    assert 92 <= coverage(3, None) <= 97


def test_a_borrowed_spread_that_is_half_the_true_one_is_too_narrow_by_so_much():
    # at n = 1, deviations of 2.27 for 3.81 points: 1.96 of one are 1.17 of the other, which 75.7 % stay below
    assert coverage(1, Spread(SEEDS / 2, 1000)) == pytest.approx(75.7, abs=1.5)


@pytest.mark.parametrize(("n", "freedom"), [(1, 1), (2, 1), (1, 3), (1, 7)])
@pytest.mark.parametrize("seeds", [0.5, SEEDS])
def test_few_degrees_of_freedom_never_cover_less_than_they_promise(n, freedom, seeds):
    """However the spread over seeds compares with the one between images: a small one by luck would mislead."""
    draw = np.random.default_rng(100 * n + freedom)
    held = []
    for _ in range(1500):
        lent = Spread(seeds * math.sqrt(draw.chisquare(freedom) / freedom), freedom)
        prediction = statistics.predict(draw.normal(0, seeds, n).tolist(), lent, SAMPLING)
        value = draw.normal(0, seeds) + draw.normal(0, math.sqrt(SAMPLING))
        held.append(abs(value - prediction.mean) <= prediction.half_width)
    assert 94.5 <= 100 * float(np.mean(held)) <= 99.5


def test_a_ratio_of_sums_by_hand():
    """Without each group in turn it is 5/6, 4/6 and 3/4; their squared deviations from 3/4 sum to 1/72."""
    groups = [0, 0, 1, 2]
    found = statistics.ratio_of_sums(pd.Series([0.5, 0.5, 2, 3], groups), pd.Series([1, 1, 2, 4], groups))
    half = 4.302653 * math.sqrt(2 / 3 / 72)  # Student's quantile for two degrees of freedom
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, 0.75 - half, 0.75 + half))
    assert found.count == 3
    alone = statistics.ratio_of_sums(pd.Series([3.0]), pd.Series([4.0]))
    assert (alone.mean, alone.count) == (0.75, 1)
    assert math.isnan(alone.low)
    assert math.isnan(statistics.ratio_of_sums(pd.Series([0.0, 0.0]), pd.Series([0.0, 0.0])).mean)
