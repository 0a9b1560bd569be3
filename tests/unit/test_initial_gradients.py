"""Predictions of gradients at initialisation, by hand and by simulation, and what is held against them."""

import math
from pathlib import Path

import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from torch.nn import functional

import examples
from vanishing import config, paths
from vanishing.report import comparison_tables, macros
from vanishing.results import aggregate, checks, initial_gradients

REAL = config.load(examples.ROOT / "params.yaml")
TABLE = paths.COMPARISON / "initialisation.csv"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model(run):
    return REAL.run(run).model


def read(settings):
    return aggregate.read_results(settings, settings.runs)


def test_the_error_kept_at_the_borders_is_the_leading_eigenvalue():
    for pixels in (32, 16, 8):
        taps = sum(np.eye(pixels, k=offset) for offset in (-1, 0, 1)) / 3
        assert initial_gradients.kept(pixels) == pytest.approx(np.linalg.eigvalsh(taps)[-1], rel=1e-12)


def test_factors_a_layer_are_those_of_the_text():
    assert initial_gradients.plain_factor(model("vgg38")) == pytest.approx(0.401, abs=5e-4)
    assert initial_gradients.explosion() == pytest.approx(1.211, abs=5e-4)
    assert initial_gradients.normalised_factor(model("vgg38_bn")) == pytest.approx(1.186, abs=5e-4)
    assert initial_gradients.shortcut_factor(model("vgg38_rc")) == 1
    assert initial_gradients.both_factor(model("vgg38_bn_rc")) == pytest.approx(1.075, abs=5e-4)


@pytest.mark.parametrize(("pixels", "factor"), [(32, 1.20), (16, 1.19), (8, 1.17)])
def test_the_borders_under_normalisation_are_those_of_the_text(pixels, factor, monkeypatch):
    """sigma^2 of a convolution of half normal activations, and the factor of a network with maps of this size alone."""
    g, h = (3 * pixels - 2) / (3 * pixels), (1 + 2 * (1 - 1 / pixels) ** 2) / 3
    assert math.sqrt(math.pi * g**2 / (math.pi * g**2 - h**2)) == pytest.approx(factor, abs=5e-3)
    monkeypatch.setattr(config, "IMAGE_SIZE", pixels)
    single = model("vgg38_bn").model_copy(update={"stages": 1})
    assert initial_gradients.normalised_factor(single) == pytest.approx(factor, abs=5e-3)
    generator = torch.Generator().manual_seed(pixels)
    activations = torch.randn(20, 32, pixels, pixels, generator=generator).relu()
    weights = (2 * torch.rand(512, 32, 3, 3, generator=generator) - 1) / math.sqrt(9 * 32)
    outputs = functional.conv2d(activations, weights, padding=1)
    assert outputs.var(dim=(0, 2, 3)).mean().item() == pytest.approx((g**2 / 2 - h**2 / (2 * math.pi)) / 3, rel=0.02)


def test_no_network_is_as_predicted_with_the_factor_of_another():
    """Single networks that were measured with five seeds each are, at either end."""
    spread = {
        "vgg38": (0.371, 0.393),
        "vgg38_bn": (1.145, 1.160),
        "vgg38_rc": (0.986, 1.013),
        "vgg38_bn_rc": (1.047, 1.055),
    }
    for network, (_, predict, tolerance) in initial_gradients.NETWORKS.items():
        predicted = predict(model(network))
        for other, ends in spread.items():
            met = [predicted / tolerance <= end <= predicted * tolerance for end in ends]
            assert met == [other == network] * 2


def test_the_walk_of_a_residual_stage_is_that_of_a_simulation():
    x, draws = np.zeros(400_000), np.random.default_rng(0)
    for steps in range(1, 7):
        x = np.maximum(0, x + draws.standard_normal(x.size))
        assert initial_gradients.walk_variance(steps) == pytest.approx(x.var(), rel=0.01)
        assert initial_gradients.walk_positive(steps) == pytest.approx((x > 0).mean(), abs=0.003)


def test_one_block_with_both_by_hand():
    # Var x_1 = 1/2 - 1/(2 pi) and Var x_2 = 1 + 1/(2 pi) - (1 + 1/sqrt 2)^2 / (2 pi); x_2 > 0 with 5/8
    first, second = 0.5 - 1 / (2 * math.pi), 1 + (1 - (1 + math.sqrt(0.5)) ** 2) / (2 * math.pi)
    expected = (first / second * 5 / 8 * (1 + 0.5 / first**2)) ** (1 / 4)
    assert initial_gradients.both_factor(model("vgg38_bn_rc").model_copy(update={"blocks": 1})) == pytest.approx(
        expected
    )


def test_the_ratio_of_the_shallow_network_lies_in_a_bracket_as_wide_as_its_positions_are_many():
    low, high = initial_gradients.shallow_ratio(model("vgg08"), 100)
    assert (low, high) == (pytest.approx(0.0068, abs=5e-5), pytest.approx(0.218, abs=5e-4))
    assert high / low == pytest.approx(32)


def started():
    """Return a study of CIFAR-100 whose shallow network has a training of one epoch too; no others are configured."""
    content = config.with_runs(examples.PROJECT, ["vgg08", "vgg38"])
    content["runs"]["vgg08_start"] = content["runs"]["vgg08"] | {"train": {"epochs": 1}}
    content["studies"] = {"core": {"title": "Depth", "runs": ["vgg08_start", "vgg08", "vgg38"]}}
    return config.check(content)


def results(run, first, seed=0, layers=8):
    """Write results whose G_1 is `first` and whose G_L is 1, on plain images at epoch 0; all others are 7."""
    values = {(0, 1): first, (0, layers): 1.0}
    examples.result(REAL, run, seed, layers=layers, gradient=lambda epoch, layer: values.get((epoch, layer), 7.0))


def found():
    comparison_tables.write_comparison(REAL)
    assert oracle.compare_published(REAL) == []
    return pd.read_csv(TABLE).set_index("network")


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.41, "as predicted"), (0.44, "as predicted"), (0.45, "not as predicted")]
)
def test_a_factor_is_that_of_one_of_the_additional_layers(factor, verdict):
    results("vgg08", 0.08)
    results("vgg38", 0.08 * factor**30, layers=38)
    row = found().loc["vgg38"]
    assert (row.against, row.n, row.verdict) == ("vgg08", 1, verdict)
    assert row.measured == pytest.approx(factor)


@pytest.mark.parametrize(
    ("run", "factor", "predicted", "verdict"),
    [
        ("vgg38_bn", 1.14, 1.186, "as predicted"),
        ("vgg38_bn", 1.06, 1.186, "not as predicted"),
        ("vgg38_bn_rc", 1.05, 1.075, "as predicted"),
        ("vgg38_bn_rc", 1.0, 1.075, "not as predicted"),
        ("vgg38_rc", 1.02, 1.0, "as predicted"),
        ("vgg38_rc", 1.05, 1.0, "not as predicted"),
    ],
)
def test_each_network_has_a_tolerance(run, factor, predicted, verdict):
    results(initial_gradients.NETWORKS[run][0], 0.5)
    results(run, 0.5 * factor**30, layers=38)
    row = found().loc[run]
    assert (row.measured, row.predicted) == (pytest.approx(factor), pytest.approx(predicted, abs=5e-4))
    assert row.verdict == verdict


def test_means_over_seeds_are_geometric_and_a_short_training_serves():
    results("vgg08_fp32", 0.08)
    for seed, ratio in enumerate((0.02, 0.08, 0.32)):
        results("vgg08", ratio, seed)
    results("vgg38_rc_short", 0.08 * 1.02**30, layers=38)
    table = found()
    assert table.index.tolist() == ["vgg08", "vgg38_rc_short"]
    assert table.loc["vgg08"][["measured", "smallest", "largest", "n"]].tolist() == pytest.approx([0.08, 0.02, 0.32, 3])
    assert table.loc["vgg38_rc_short"].measured == pytest.approx(1.02)
    assert table.verdict.tolist() == ["as predicted"] * 2


def test_a_training_of_one_epoch_comes_first():
    settings = started()
    for ending, ratio in (("", 0.08), ("_start", 0.02)):
        examples.result(
            settings, f"vgg08{ending}", layers=8, gradient=lambda _, layer, ratio=ratio: {1: ratio}.get(layer, 1)
        )
    (row,) = initial_gradients.factors(settings, read(settings))
    assert (row.network, row.measured) == ("vgg08_start", pytest.approx(0.02))
    comparison_tables.write_comparison(settings)
    assert oracle.compare_published(settings) == []
    macros.write_numbers(settings)
    assert r"\defineresult{initialisation/vgg08/measured}{0.02}" in (paths.REPORT / "numbers.tex").read_text()


def test_what_is_missing_waits_for_the_shortest_training_that_gives_it():
    settings = started()
    assert dict(initial_gradients.awaited(settings, read(settings))) == {"vgg38": ["vgg08_start", "vgg38"]}
    examples.result(settings, "vgg08", layers=8)
    assert dict(initial_gradients.awaited(settings, read(settings))) == {"vgg38": ["vgg38"]}
    macros.write_numbers(settings)
    text = (paths.REPORT / "numbers.tex").read_text()
    assert r"\defineresult{initialisation/awaited}{1}{\texttt{vgg38} for \texttt{vgg38}}" in text
    examples.result(settings, "vgg38", layers=38)
    assert not dict(initial_gradients.awaited(settings, read(settings)))


@pytest.mark.parametrize("run", ["vgg38_bn", "vgg38_bn_short", "vgg38_bn_start", "vgg38_bn_fp32"])
def test_trainings_of_a_network_are_named_after_it(run):
    assert initial_gradients.network_of(run) == "vgg38_bn"
    assert initial_gradients.network_of(f"{run}_lr2") == f"{run}_lr2"


def test_a_gradient_of_exactly_zero_is_no_ratio():
    results("vgg08", 0.08)
    results("vgg38", 0.0, layers=38)
    assert found().index.tolist() == ["vgg08"]


def test_other_images_are_measured_and_not_judged():
    study = examples.study()
    for run in ("vgg08", "vgg38"):
        examples.result(study, run)
    comparison_tables.write_comparison(study)
    assert set(pd.read_csv(TABLE).verdict) == {"other data"}
    assert not list(checks._initialisation(study, read(study)))


def test_the_check_names_the_network_that_is_not_as_predicted():
    results("vgg08", 0.08)
    results("vgg38", 0.08, layers=38)
    verdicts = [f"{verdict}" for verdict in checks._initialisation(REAL, read(REAL)) if not verdict.sound]
    assert verdicts == ["initialisation of vgg38: found 1, expected factor a layer 0.4008, within a factor of 1.1"]


def test_both_tables_are_there_without_results():
    comparison_tables.write_comparison(REAL)
    assert oracle.compare_published(REAL) == []
    assert Path("report/comparison/initialisation.tex").exists()
