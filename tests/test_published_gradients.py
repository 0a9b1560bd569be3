"""Published bounds on gradients, held against made-up gradient flow."""

import math
import re

import faked
import pandas as pd
import pytest

from vanishing import comparison, parameters, paths, published_gradients, recomputed

REAL = parameters.load(faked.ROOT / "params.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def row(run, layers, study=REAL):
    comparison.make(study)
    assert not list(recomputed.compare_published(study))
    table = pd.read_csv(paths.COMPARISON / "gradients.csv", dtype={"layers": str})
    (found,) = [each for each in table.itertuples() if (each.run, each.layers) == (run, layers)]
    return found


def test_every_bound_names_runs_of_the_study_and_has_an_end():
    for bound in published_gradients.load():
        assert {*bound.runs} <= {*REAL.runs}
        assert not (math.isnan(bound.low) and math.isnan(bound.high))
        assert re.fullmatch(r"all|\d+(-\d+)?", bound.layers)
        assert bound.origin in {"handout", "report"}
        assert bound.statistic in {"min", "max"}


@pytest.mark.parametrize(("sizes", "verdict"), [((0.01, 0.02, 0.03), "holds"), ((0.01, 0.03, 0.04), "does not hold")])
def test_the_median_over_the_snapshots_from_epoch_1_decides(sizes, verdict):
    by_epoch = dict(zip((1, 2, 5), sizes, strict=True)) | {0: 9.0}
    # faked gradients on augmented images are twice these; layer 1, its scale and the classifier are none of 2-7
    faked.result(
        REAL, "vgg08", layers=8, snapshots=(0, 1, 2, 5),
        gradient=lambda epoch, layer: by_epoch[epoch] / 2 if layer == 5 else 1e-4 if 1 < layer < 8 else 8.0,
    )  # fmt: skip
    found = row("vgg08", "2-7")
    assert (found.smallest, found.median, found.largest) == pytest.approx(sizes)
    assert (found.n, found.verdict) == (1, verdict)


def test_the_table_of_the_report_names_a_statistic_where_there_are_several_layers():
    faked.result(REAL, "vgg08", layers=8)
    lines = published_gradients.tabular(list(published_gradients.everything(REAL))).splitlines()
    found = [line for line in lines if "vgg08" in line]
    assert [line.split(" & ")[2:4] for line in found] == [["2--7", "largest"], ["1", ""]]


def test_seeds_count_together_and_those_that_diverged_do_not():
    for seed, size in enumerate((0.04, 0.08)):
        faked.result(REAL, "vgg08", seed, layers=8, snapshots=(0, 1), gradient=lambda epoch, layer, size=size: size / 2)
    faked.result(REAL, "vgg08", 2, (math.nan, 0.1), layers=8, snapshots=(0, 1))
    found = row("vgg08", "1")
    assert (found.smallest, found.median, found.largest, found.n) == (pytest.approx(0.04), pytest.approx(0.06), 0.08, 2)
    assert found.verdict == "holds"


def test_the_smallest_of_all_layers_counts_scales():
    faked.result(REAL, "vgg38_bn", layers=38, gradient=lambda epoch, layer: 1e-3 if layer > 1 else 1e-5)
    comparison.make(REAL)
    table = pd.read_csv(paths.COMPARISON / "gradients.csv")
    found = table[(table.run == "vgg38_bn") & (table.statistic == "min")].iloc[0]
    assert (found["median"], found.verdict) == (pytest.approx(2e-5), "does not hold")


def test_plain_images_alone_are_not_what_was_published():
    faked.result(REAL, "vgg08", layers=8)
    path = paths.results("vgg08", 0) / "gradients.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "augmented" not in line))
    assert (row("vgg08", "1").n, row("vgg08", "1").verdict) == (0, "not run")


def test_gradients_of_generated_images_are_not_judged():
    study = faked.study()
    faked.result(study, "vgg08", layers=8)
    assert row("vgg08", "1", study).verdict == "other settings"
