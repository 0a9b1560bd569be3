"""Published bounds on gradients, held against made-up gradient flow."""

import dataclasses
import math
import re

import oracle
import pandas as pd
import pytest

import examples
from vanishing import config, paths
from vanishing.report import comparison_tables, macros
from vanishing.results import aggregate, published_gradients

REAL = config.load(examples.ROOT / "params.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(settings):
    return aggregate.read_results(settings, settings.runs)


def row(run, layers, study=REAL):
    comparison_tables.write_comparison(study)
    assert oracle.compare_published(study) == []
    table = pd.read_csv(paths.COMPARISON / "gradients.csv", dtype={"layers": str})
    (found,) = [each for each in table.itertuples() if (each.run, each.layers) == (run, layers)]
    return found


def test_every_bound_names_runs_of_the_study_and_has_an_end():
    for bound in published_gradients.published_bounds():
        assert {*bound.runs} <= {*REAL.runs}
        assert not (math.isnan(bound.low) and math.isnan(bound.high))
        assert re.fullmatch(r"all|\d+(-\d+)?", bound.layers)
        assert bound.origin in {"handout", "report"}
        assert bound.statistic in {"min", "max"}


@pytest.mark.parametrize(("sizes", "verdict"), [((0.01, 0.02, 0.03), "holds"), ((0.01, 0.03, 0.04), "does not hold")])
def test_the_median_over_the_snapshots_from_epoch_1_decides(sizes, verdict):
    by_epoch = dict(zip((1, 2, 5), sizes, strict=True)) | {0: 9.0}
    # examples gradients on augmented images are twice these; layer 1, its scale and the classifier are none of 2-7
    examples.result(
        REAL, "vgg08", layers=8, snapshots=(0, 1, 2, 5),
        gradient=lambda epoch, layer: by_epoch[epoch] / 2 if layer == 5 else 1e-4 if 1 < layer < 8 else 8.0,
    )  # fmt: skip
    found = row("vgg08", "2-7")
    assert (found.smallest, found.median, found.largest) == pytest.approx(sizes)
    assert (found.n, found.verdict) == (1, verdict)


def test_a_snapshot_weighs_as_much_as_the_epochs_nearest_to_it():
    # epochs 1, 2-3, 4-7 and 8-10: 1 + 2 of 10 have at least 0.04 on augmented images, and 7 have 0.01 or 0.02
    by_epoch = {0: 9.0, 1: 0.05, 2: 0.04, 5: 0.01, 10: 0.02}
    examples.result(
        REAL, "vgg08", layers=8, epochs=10, snapshots=tuple(by_epoch), gradient=lambda epoch, _: by_epoch[epoch] / 2
    )
    found = row("vgg08", "1")
    assert (found.median, found.plain_median) == pytest.approx((0.02, 0.01)), "not 0.03 and 0.015, as by snapshot"
    assert (found.smallest, found.largest, found.verdict) == (0.01, 0.05, "does not hold")


def test_an_epoch_as_near_to_two_snapshots_is_half_of_each():
    # of 5 epochs, 1, 2 and half of 3 are nearest to snapshot 1: the median lies between the two
    examples.result(
        REAL, "vgg08", layers=8, epochs=5, snapshots=(0, 1, 5), gradient=lambda epoch, _: 0.04 if epoch == 5 else 0.02
    )
    assert row("vgg08", "1").median == pytest.approx(0.06)


def test_the_weighted_median_by_hand():
    assert published_gradients.median([(3.0, 1.0), (1.0, 0.5), (2.0, 1.0)]) == 2
    assert published_gradients.median([(3.0, 2.0), (1.0, 1.0), (2.0, 1.0)]) == 2.5
    assert published_gradients.median([(5.0, 1.5)]) == 5


def test_what_plain_images_do_to_a_bound_stands_in_the_numbers():
    # twice as much on augmented images: 0.08 and 0.03 there respect and break r4's bounds, 0.04 and 0.015 reverse both
    examples.result(REAL, "vgg08", layers=8, gradient=lambda _, layer: 0.04 if layer == 1 else 0.015)
    macros.write_numbers(REAL)
    text = (paths.REPORT / "numbers.tex").read_text()
    entry, others = "published/gradients/r4/vgg08/1/min", "published/gradients/r4/vgg08/2-7/max"
    assert f"\\defineresult{{{entry}/augmented}}{{0.08}}{{0.08}}" in text
    assert f"\\defineresult{{{others}/plain}}{{0.015}}{{0.015}}" in text
    held = [f"{stem}/{images}" for stem in (entry, others) for images in ("augmented", "plain")]
    assert [f"\\definefact{{{key}}}" in text for key in held] == [True, False, False, True]


def test_the_entry_scale_is_weighted_too():
    examples.result(
        REAL, "vgg08", layers=8, epochs=10, snapshots=(0, 1, 2, 3, 10), gradient=lambda epoch, _: float(epoch) / 2
    )
    scales = published_gradients.entry_scales(read(REAL)["vgg08"])
    assert scales == [(1.0, 1.0), (2.0, 1.0), (3.0, 4.0), (10.0, 4.0)]
    assert published_gradients.median(scales) == 3


@pytest.mark.parametrize(("size", "respected"), [(0.02, False), (0.03, True), (0.08, False)])
def test_whether_the_entry_scale_respects_the_bounds_on_the_entry(size, respected):
    # on augmented images it is 0.04, 0.06 or 0.16, and the bounds are 0.05 and 0.15
    examples.result(REAL, "vgg08", layers=8, gradient=lambda *_: size)
    macros.write_numbers(REAL)
    fact = r"\definefact{published/entry_scale/respects}"
    assert (fact in (paths.REPORT / "numbers.tex").read_text()) == respected


def test_the_handout_stands_apart_and_first():
    examples.result(REAL, "vgg08", layers=8)
    (authors, *_) = claims = [claim for claim in published_gradients.bound_claims(REAL, read(REAL)) if claim.values]
    course = dataclasses.replace(authors, bound=dataclasses.replace(authors.bound, origin="handout"))
    text = comparison_tables.bounds_table([*claims, course])
    assert [line.partition(" &")[0] for line in text.splitlines() if "vgg08" in line] == [
        "handout, in r4, Section 2", "r4, Section 2", "r4, Section 2",
    ]  # fmt: skip
    assert text.count(r"\midrule") == 2


def test_the_table_of_the_report_names_a_statistic_where_there_are_several_layers():
    examples.result(REAL, "vgg08", layers=8)
    lines = comparison_tables.bounds_table(list(published_gradients.bound_claims(REAL, read(REAL)))).splitlines()
    found = [line for line in lines if "vgg08" in line]
    assert [line.split(" & ")[2:4] for line in found] == [["2--7", "largest"], ["1", ""]]


def test_seeds_count_together_and_those_that_diverged_do_not():
    for seed, size in enumerate((0.04, 0.08)):
        examples.result(
            REAL, "vgg08", seed, layers=8, snapshots=(0, 1), gradient=lambda epoch, layer, size=size: size / 2
        )
    examples.result(REAL, "vgg08", 2, (math.nan, 0.1), layers=8, snapshots=(0, 1))
    found = row("vgg08", "1")
    assert (found.smallest, found.median, found.largest, found.n) == (pytest.approx(0.04), pytest.approx(0.06), 0.08, 2)
    assert found.verdict == "holds"


def test_the_smallest_of_all_layers_counts_scales():
    examples.result(REAL, "vgg38_bn", layers=38, gradient=lambda epoch, layer: 1e-3 if layer > 1 else 1e-5)
    comparison_tables.write_comparison(REAL)
    table = pd.read_csv(paths.COMPARISON / "gradients.csv")
    found = table[(table.run == "vgg38_bn") & (table.statistic == "min")].iloc[0]
    assert (found["median"], found.verdict) == (pytest.approx(2e-5), "does not hold")


def test_plain_images_alone_are_not_what_was_published():
    examples.result(REAL, "vgg08", layers=8)
    path = paths.results("vgg08", 0) / "gradients.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "augmented" not in line))
    assert (row("vgg08", "1").n, row("vgg08", "1").verdict) == (0, "not run")


def test_gradients_of_generated_images_are_not_judged():
    study = examples.study()
    examples.result(study, "vgg08", layers=8)
    assert row("vgg08", "1", study).verdict == "other settings"


def test_a_gradient_that_overflowed_is_written_as_infinite():
    examples.result(REAL, "vgg08", layers=8, gradient=lambda _, layer: math.inf if layer == 1 else 0.01)
    found = row("vgg08", "1")
    assert (found.smallest, found.verdict) == (math.inf, "does not hold")
    text = (paths.REPORT / "comparison" / "gradients.tex").read_text()
    assert r"& 1 &  & 0.05 & 0.15 & $\infty$ & $\infty$ & $\infty$ & $\infty$ & does not hold \\" in text
