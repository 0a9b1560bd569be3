import json
import math
import re
from pathlib import Path

import pages
import pandas as pd
import pytest
import yaml

import examples
from vanishing import config, paths
from vanishing.errors import UserError
from vanishing.report import latex, macros, readme, tables
from vanishing.results import aggregate, checks, columns, differences

SEEDS = {"seeds": [0, 1, 2]}
FACTS = ("chance", "diverged")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(key="core"):
    return pd.read_csv(paths.TABLES / f"{key}.csv", index_col="run")


def dynamics():
    return Path("report/tables/core-dynamics.tex").read_text()


def make(study):
    """Make what the engines make of a study's results, figures and report aside."""
    tables.write_tables(study)
    macros.write_numbers(study)


def defined():
    """Read numbers.tex as a mapping of key to (RAW, TEXT)."""
    lines = Path("report/numbers.tex").read_text().splitlines()
    found = [re.fullmatch(r"\\defineresult\{(.+?)\}\{(.*?)\}\{(.*)\}", line) for line in lines]
    return {match[1]: (match[2], match[3]) for match in found if match}


def facts():
    return set(re.findall(r"\\definefact\{(.+)\}", Path("report/numbers.tex").read_text()))


def test_mean_and_deviation_of_three_seeds_are_those_worked_out_by_hand():
    study = examples.study(SEEDS, runs=["vgg08"])
    for seed, accuracy in enumerate((0.1, 0.2, 0.6)):
        examples.result(study, "vgg08", seed, val=(1.0 + seed, accuracy))
    make(study)
    row = table().loc["vgg08"]
    assert row.n == 3
    assert row.val_loss_mean == pytest.approx(2.0)
    assert row.val_loss_std == pytest.approx(1.0)
    assert row.val_accuracy_mean == pytest.approx(0.3)
    assert row.val_accuracy_std == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert defined()["core/vgg08/val_accuracy"] == ("30", r"30.00 $\pm$ 26.46")
    assert defined()["core/vgg08/val_loss"] == ("2", r"2.000 $\pm$ 1.000")
    assert r"2.000 $\pm$ 1.000 & 30.00 $\pm$ 26.46" in Path("report/tables/core.tex").read_text()


def test_one_seed_has_no_spread():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08", val=(1.5, 0.25))
    make(study)
    assert math.isnan(table().loc["vgg08"].val_loss_std)
    assert r"\pm" not in Path("report/tables/core.tex").read_text()
    assert "core/one" in facts()


def test_a_diverged_seed_is_shown_and_left_out_of_the_means():
    study = examples.study(SEEDS, runs=["vgg08"])
    examples.result(study, "vgg08", 0, val=(1.0, 0.2))
    examples.result(study, "vgg08", 1, val=(3.0, 0.4))
    examples.result(study, "vgg08", 2, train=(math.nan, 0.1), val=(math.inf, 0.1), epochs=1)
    make(study)
    row = table().loc["vgg08"]
    assert (row.n, row.diverged) == (3, 1)
    assert row.val_loss_mean == pytest.approx(2.0)
    assert row.val_accuracy_mean == pytest.approx(0.3)
    assert "2 + 1 diverged (epoch 1)" in Path("report/tables/core.tex").read_text()
    assert "core/vgg08/diverged" in facts()
    assert "1 diverged" in tables.study_text("Depth", aggregate.collect(study)["core"])


def test_a_training_that_stopped_early_is_shown_with_its_epoch():
    study = examples.study(SEEDS, runs=["vgg08"])
    for seed in range(3):
        examples.result(study, "vgg08", seed, epochs=7 + seed, status="stopped early" if seed else None)
    make(study)
    assert table().loc["vgg08"].n == 3
    assert "3, 2 stopped early (epoch 8, 9) \\\\" in Path("report/tables/core.tex").read_text()
    assert "2 stopped early (epoch 8, 9)" in tables.study_text("Depth", aggregate.collect(study)["core"])


def test_the_documented_study_has_its_tables_and_its_section():
    blocks = pages.blocks((examples.ROOT / "docs" / "tutorial.md").read_text())
    runs, studies = (block.text for block in blocks if block.language == "yaml")
    added = yaml.safe_load(f"runs:\n{runs}studies:\n{studies}")
    added["studies"]["saturation"] |= SEEDS
    study = config.check(config.merge(config.read(examples.ROOT / "params.yaml"), added))
    for name, seed in study.jobs():
        if name in added["runs"]:
            examples.result(study, name, seed, val=(1.5, 0.3 + 0.1 * (name == "vgg08_bn_sigmoid") + 0.01 * seed))
    make(study)
    assert table("saturation").index.tolist() == ["vgg08_sigmoid", "vgg08_bn_sigmoid"]
    assert table("saturation").n.tolist() == [3, 3]
    pairs = pd.read_csv(paths.TABLES / "saturation-differences.csv").set_index("metric")
    assert pairs.loc["val_accuracy", "verdict"] == "higher"
    assert pairs.loc["val_accuracy", "mean"] == pytest.approx(0.1)
    section = Path("report/studies.tex").read_text()
    assert r"\begin{study}{saturation}{Batch normalisation and a saturating activation}" in section
    assert section.count(r"\studyfigure{saturation}") == 1


def test_a_run_whose_seeds_all_diverged_has_dashes_and_no_numbers():
    study = examples.study(SEEDS, runs=["vgg08"])
    for seed in range(3):
        examples.result(study, "vgg08", seed, train=(math.nan, 0.1), val=(math.nan, 0.1), epochs=1 + seed)
    make(study)
    assert table().loc["vgg08"].filter(like="_mean").isna().all()
    assert "-- & -- & -- & -- & -- & 0 + 3 diverged (epoch 1, 2, 3)" in Path("report/tables/core.tex").read_text()
    assert "core/vgg08/val_loss" not in defined()
    assert defined()["core/vgg08/n"] == ("3", "3")
    assert "core/vgg08/chance" not in facts()


def test_a_run_without_results_is_named_in_the_caption():
    study = examples.study()
    examples.result(study, "vgg08")
    make(study)
    assert list(table().index) == ["vgg08"]
    assert r"Not run: vgg38." in Path("report/studies.tex").read_text()


def test_seeds_without_results_are_not_counted():
    study = examples.study(SEEDS, runs=["vgg08"])
    examples.result(study, "vgg08", seed=1)
    make(study)
    assert table().loc["vgg08"].n == 1


def test_results_of_another_configuration_are_not_used():
    examples.result(examples.study({"train": {"epochs": 3}}), "vgg08")
    examples.result(examples.study(), "vgg38")
    make(examples.study())
    assert list(table().index) == ["vgg38"]


def test_a_study_without_results_leaves_its_section_out():
    other = {"title": "Other", "runs": ["vgg38"], "draw": ["training"]}
    study = examples.study({"studies": {"other": other}})
    examples.result(study, "vgg08")
    make(study)
    assert re.findall(r"\\begin\{study\}\{(\w+)\}", Path("report/studies.tex").read_text()) == ["core"]
    assert not (paths.TABLES / "other.csv").exists()
    assert {"study/core"} == {fact for fact in facts() if fact.startswith("study/")}


def test_without_any_results_there_are_numbers_and_no_study():
    make(examples.study())
    assert not paths.TABLES.exists()
    assert r"\begin{study}" not in Path("report/studies.tex").read_text()
    assert "chance/loss" in defined()


def test_the_core_study_stands_in_the_text_and_the_others_in_the_appendix_with_the_figures_that_are_printed():
    studies = {"core": {"title": "Depth", "runs": ["vgg08"]}, "other": {"title": "More", "runs": ["vgg38"]}}
    study = examples.study({"studies": studies})
    examples.result(study, "vgg08")
    examples.result(study, "vgg38")
    make(study)
    main, appendix = Path("report/studies.tex").read_text().split(r"\newcommand{\otherstudies}")
    assert re.findall(r"\\begin\{study\}\{(\w+)\}", main) == ["core"]
    assert re.findall(r"\\begin\{study\}\{(\w+)\}", appendix) == ["other"]
    assert re.findall(r"\\studyfigure\{core\}\{(\w+)\}", main) == ["accuracy", "gradient_flow_log"]
    assert re.findall(r"\\studyfigure\{other\}\{(\w+)\}\{(\S+) ", appendix) == [("accuracy", r"\emph{More.}")]
    assert "$n = 1$; fp32, trained on CPU." in main


def test_differences_stand_in_the_report_once_two_seeds_have_them():
    study = examples.study(SEEDS)
    for seed in (0, 1):
        make(study)
        assert r"\studydifferences{core}" not in Path("report/studies.tex").read_text()
        examples.result(study, "vgg08", seed)
        examples.result(study, "vgg38", seed)
    make(study)
    assert r"\studydifferences{core}" in Path("report/studies.tex").read_text()


def test_a_table_says_what_is_left_to_train():
    studies = {
        "core": {"title": "Depth", "runs": ["vgg08", "vgg38"]},
        "more": {"title": "More", "runs": ["vgg38", "long"]},
    }
    runs = {"long": {"train": {"epochs": 300}}}
    study = examples.study({"studies": studies, "runs": runs, "seeds": [0, 1]})
    examples.result(study, "vgg08")
    make(study)
    table = Path("report/studies.tex").read_text().partition(r"\newcommand{\missingtrainings}")[2]
    steps = 15  # of an epoch: 10 classes of 20 images less 5, in minibatches of 10
    assert re.findall(r"^\\texttt.*$", table, re.MULTILINE) == [
        rf"\texttt{{core}}: Depth & 2 & 3 & {3 * 2 * steps} \\",
        rf"\texttt{{more}}: More & 1 & 2 & {latex.number(2 * 300 * steps, 0)} \\",
    ]
    assert (defined()["trainings/left"][0], defined()["trainings/planned"][0]) == ("5", "6")


def test_tables_of_an_earlier_study_are_left_and_the_report_shows_none_of_them():
    earlier = {"title": "Other", "runs": ["vgg38"], "draw": ["training"]}
    study = examples.study({"studies": {"other": earlier}})
    examples.result(study, "vgg38")
    make(study)
    left = {path: path.read_bytes() for path in [*paths.TABLES.glob("other*"), *Path("report/tables").glob("other*")]}
    assert len(left) == 2 + 3
    make(examples.study())
    assert {path: path.read_bytes() for path in left} == left, "no stage deletes what another has made"
    assert "{other}" not in Path("report/studies.tex").read_text()
    assert "other" not in {verdict.study for verdict in checks.verdicts(examples.study())}


def test_a_title_reaches_latex_as_text():
    study = examples.study({"studies": {"core": {"title": r"50 % & _more_ \input{x}"}}})
    examples.result(study, "vgg08")
    make(study)
    layout = Path("report/studies.tex").read_text()
    assert r"\begin{study}{core}{50 \% \& \_more\_ \textbackslash{}input\{x\}}" in layout


def test_every_character_special_to_latex_is_escaped():
    assert latex.escape("~^#$") == r"\textasciitilde{}\textasciicircum{}\#\$"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1e-20, None, "$10^{-20}$"),
        (1.5e-20, None, r"$1.5 \times 10^{-20}$"),
        (0.0, None, "0"),
        (0.01, None, "0.01"),
        (2e-5, None, r"$2 \times 10^{-5}$"),
        (0.5, None, "0.5"),
        (999.4, None, "999"),
        (1234.0, None, r"$1.2 \times 10^{3}$"),
        (9999.0, None, r"$1.0 \times 10^{4}$"),
        (-0.5, None, "$-$0.5"),
        (-1e-20, None, r"$-1 \times 10^{-20}$"),
        (1234567, 0, r"1\,234\,567"),
        (-1.234, 2, "$-$1.23"),
        (math.inf, None, r"$\infty$"),
        (-math.inf, 2, r"$-\infty$"),
        (math.nan, None, "--"),
        (math.nan, 2, "--"),
        (0.005, 3, "0.005"),
    ],
)
def test_numbers_are_written_as_people_write_them(value, digits, text):
    assert latex.number(value, digits) == text


@pytest.fixture
def real_study():
    """Give a run of the real study results, in the test's folder."""
    study = config.load(examples.ROOT / "params.yaml")
    examples.result(study, "vgg08")
    make(study)


def test_every_fact_that_the_report_asks_for_can_be_defined():
    text = "".join(path.read_text() for path in sorted((examples.ROOT / "report" / "sections").glob("*.tex")))
    used = set(re.findall(r"\\(?:iffact|ifpaired|pairedverb)\{([^}#]+)\}", text))
    studies = config.load(examples.ROOT / "params.yaml").studies
    known = {f"{key}/{run}/{fact}" for key, study in studies.items() for run in study.runs for fact in FACTS}
    pairs = {
        f"{key}/{first}-{second}/{metric}{verdict}"
        for key, study in studies.items()
        for first, second in study.pairs
        for metric in differences.COMPARED
        for verdict in ("", "/higher", "/lower", "/open", "/interval", "/borrowed")
    }
    assert len(used & pairs) > 8
    assert used <= known | pairs | {f"{key}/one" for key in studies} | {
        "demo",
        "own",
        "other_images",
        "data/drawn",
        "data/unequal",
        "train/fp32",
        "why",
        "comparison",
        "otherstudies",
        "overview",
        "trainings/spread",
        "trainings/rounded_loss",
        "initialisation/vgg08/met",
        "published/entry_scale/respects",
        "published/gradients/r4/vgg08/1/min/plain",
        "published/gradients/r4/vgg08/2-7/max/plain",
    }


def test_the_settings_are_those_of_the_configuration(real_study):
    found = defined()
    assert found["data/name"][1] == "CIFAR-100"
    assert [found[f"data/{part}"] for part in ("train", "val", "test")] == [
        ("47500", r"47\,500"), ("2500", r"2\,500"), ("10000", r"10\,000"),
    ]  # fmt: skip
    assert found["chance/loss"] == ("4.605170186", "4.605")
    assert found["chance/accuracy"] == ("1", "1")
    assert not {"demo", "own", "other_images", "data/drawn", "data/unequal", "train/fp32"} & set(facts())
    assert found["data/mean"][1] == "0.4914, 0.4822, 0.4465"


def test_the_demonstration_is_named_one():
    study = examples.study()
    make(study)
    assert {"demo", "other_images", "train/fp32"} <= set(facts())
    assert "own" not in facts()
    assert defined()["data/train"] == ("150", "150")


def test_images_of_the_users_own_are_named_and_none_is_compared():
    """With 20, 10 and 10 of the three classes to train on, chance is an entropy of 1.5 ln 2."""
    own = examples.study({"data": examples.own(examples.study().data).model_dump()})
    examples.result(own, "vgg08", train=(1.045, 0.5), val=(1.2, 0.35))
    make(own)
    found = defined()
    assert found["core/vgg08/val_accuracy"][1] == "35.00"
    assert found["data/name"][1] == r"Mugs \& pots"
    assert found["data/digest"][1] == "0123456789abcdef"
    assert [found[f"data/{key}"][0] for key in ("classes", "train", "val", "test")] == ["3", "40", "15", "15"]
    assert [found[f"data/{key}"][0] for key in ("smallest", "largest")] == ["10", "20"]
    assert (found["data/mean"][1], found["data/std"][1]) == ("0.5000, 0.4000, 0.3000", "0.2500, 0.2000, 0.1500")
    assert found["chance/train_loss"] == ("1.039720771", "1.040")
    assert found["chance/loss"][1] == "1.099"
    assert (found["chance/accuracy"][1], found["chance/train_accuracy"][1]) == ("33.3", "50")
    assert {"own", "other_images", "data/drawn", "data/unequal", "core/vgg08/chance"} <= set(facts())
    assert "demo" not in facts()
    assert r"\studypublished" not in Path("report/studies.tex").read_text()


def test_chance_means_both_the_loss_and_the_accuracy_of_a_guess():
    study = examples.study(runs=["vgg08", "vgg38", "vgg38_bn", "vgg38_rc"])
    chance = math.log(10)
    examples.result(study, "vgg08", train=(1.009 * chance, 0.1), val=(chance, 0.119))
    examples.result(study, "vgg38", train=(0.98 * chance, 0.1), val=(chance, 0.1))
    examples.result(study, "vgg38_bn", train=(chance, 0.1), val=(chance, 0.13))
    examples.result(study, "vgg38_rc", train=(math.nan, 0.1), val=(math.nan, 0.1))
    make(study)
    assert {fact for fact in facts() if fact.endswith("/chance")} == {"core/vgg08/chance"}


def test_one_seed_that_learns_is_not_chance():
    study = examples.study({"seeds": [0, 1]}, runs=["vgg08"])
    examples.result(study, "vgg08", 0, train=(math.log(10), 0.1), val=(math.log(10), 0.1))
    examples.result(study, "vgg08", 1)
    make(study)
    assert "core/vgg08/chance" not in facts()


def test_gradient_numbers_are_of_first_and_last_layer_at_the_start_and_the_end():
    study = examples.study(runs=["vgg08"])
    examples.result(
        study, "vgg08", layers=4, snapshots=(0, 2), gradient=lambda epoch, layer: 10.0**-layer * (1 + epoch)
    )
    make(study)
    found = defined()
    assert found["core/vgg08/gradient_first"][0] == "0.1"
    assert found["core/vgg08/gradient_last"][0] == "0.0001"
    assert found["core/vgg08/gradient_first_end"][0] == "0.3"
    assert found["core/vgg08/gradient_ratio"] == ("1000", "$10^{3}$")


@pytest.mark.parametrize("last", [0.0, math.nan, math.inf])
def test_a_ratio_of_gradients_that_is_no_number_is_not_defined(last):
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08", layers=2, gradient=lambda epoch, layer: last if layer == 2 else 0.5)
    make(study)
    assert "core/vgg08/gradient_first" in defined()
    assert "core/vgg08/gradient_ratio" not in defined()


def test_the_same_results_give_the_same_bytes():
    def made():
        make(study)
        chosen = [*paths.TABLES.iterdir(), *Path("report").rglob("*.tex")]
        return {path: path.read_bytes() for path in chosen}

    study = examples.study({"seeds": [0, 1]})
    for run, seed in study.jobs():
        examples.result(study, run, seed, val=(1 / 3 + seed, 0.1))
    first = made()
    assert len(first) == 2 + 3 + 2
    assert made() == first


def test_results_of_another_configuration_are_named_and_left_out(capsys):
    examples.result(examples.study({"train": {"epochs": 3}}), "vgg08")
    assert aggregate.collect(examples.study()) == {}
    told = capsys.readouterr().err
    assert (
        told == "results/runs/vgg08/seed0: incomplete, or made with another configuration; left out\nno results yet\n"
    )


def test_a_seed_that_is_left_out_beside_another_is_named(capsys):
    settings = examples.study(SEEDS, runs=["vgg08"])
    examples.result(settings, "vgg08", 0)
    examples.result(examples.study({"train": {"epochs": 3}}), "vgg08", 1)
    assert [len(row.results) for row in aggregate.collect(settings)["core"]] == [1]
    told = capsys.readouterr().err
    assert told == "results/runs/vgg08/seed1: incomplete, or made with another configuration; left out\n"


def test_a_metric_more_is_one_line_and_a_column_of_every_table(monkeypatch):
    gap = columns.Metric(lambda result, *_: result.summary["parameters"] * 1e-6, 1, 100, "Test", "Made up")
    monkeypatch.setitem(columns.METRICS, "made_up", gap)
    study = examples.study(SEEDS, runs=["vgg08"])
    for seed in range(3):
        examples.result(study, "vgg08", seed, test=(1.7, 0.3))
    make(study)
    assert table().loc["vgg08", ["made_up_mean", "made_up_std"]].tolist() == pytest.approx([0.059716, 0])
    text = Path("report/tables/core.tex").read_text()
    assert r"\multicolumn{2}{c}{Test} & \\" in text
    assert r"& Acc. & Made up & $n$ \\" in text
    assert r"& 30.00 $\pm$ 0.00 & 6.0 $\pm$ 0.0 & 3 \\" in text
    assert defined()["core/vgg08/made_up"] == ("5.9716", r"6.0 $\pm$ 0.0")
    assert "| test accuracy | test made up | n |" in readme.block(study, aggregate.collect(study))
    assert "| 30.00 ± 0.00 % | 6.0 ± 0.0 % | 3 |" in readme.block(study, aggregate.collect(study))
    assert "made_up" in tables.study_text("Depth", aggregate.collect(study)["core"])


def test_a_setting_more_is_one_line_and_stands_in_every_table(monkeypatch):
    monkeypatch.setitem(columns.SETTINGS, "l1", columns.Setting("L1", "L1 penalty"))
    study = examples.study({"runs": {"vgg38": {"train": {"l1": 0.01}}}})
    for run in study.runs:
        examples.result(study, run)
    make(study)
    assert table().l1.to_dict() == {"vgg08": 0, "vgg38": 0.01}
    assert "Parameters & L1 & Loss" in Path("report/tables/core.tex").read_text()
    assert "L1 penalty 0, epochs 2" in tables.common_settings(aggregate.collect(study)["core"][:1])


def test_plain_shows_per_cent_and_nats():
    study = examples.study()
    examples.result(study, "vgg08", val=(1.23456, 0.4321))
    lines = tables.study_text("Depth", aggregate.collect(study)["core"]).splitlines()
    assert lines[0] == "Depth (losses in nats, accuracies in %)"
    assert "val_accuracy" in lines[1]
    assert "1.235" in lines[2]
    assert "43.21" in lines[2]


def test_final_figures_are_means_over_the_final_epochs_with_their_standard_error_in_brackets():
    study = examples.study({"studies": {"core": {"average": 2}}}, runs=["vgg08"])
    examples.result(study, "vgg08", epochs=3)
    examples.rewrite("vgg08", val_loss=[9.0, 1.812, 1.818], val_accuracy=[0.9, 0.30, 0.34])
    make(study)
    row = table().loc["vgg08"]
    assert (row.averaged_epochs, row.val_loss_mean) == (2, pytest.approx(1.815))
    assert defined()["core/vgg08/val_loss"] == ("1.815", "1.815(3)")  # 0.006 / 2, of two epochs
    assert defined()["core/vgg08/val_accuracy"] == ("32", "32(2)")
    assert "mean of the final 2 epochs" in Path("report/studies.tex").read_text()


def test_how_a_training_went_is_worked_out_by_hand():
    study = examples.study(SEEDS | {"train": {"epochs": 6}}, runs=["vgg08"])
    for seed, losses in enumerate(([2.3, 2.25, 2.41, 3.0, 1.5, 1.2], [2.3] * 6, [2.2, 2.1, 2.0, 1.9, 1.8, 1.7])):
        examples.result(study, "vgg08", seed, epochs=6)
        examples.rewrite("vgg08", seed, train_loss=losses, val_accuracy=[0.9, 0.1, 0.2, 0.3, 0.4, 0.5])
    make(study)
    row = table().loc["vgg08"]  # ln 10 = 2.3026; seed 1 never leaves it by more than 0.1, the others in epochs 3 and 1
    assert (row.onset_mean, row.onset_std) == (2, pytest.approx(math.sqrt(2)))
    assert (row.peak_loss_mean, row.peak_loss_std) == (pytest.approx(2.6), pytest.approx(0.4 * math.sqrt(2)))
    assert (row.val_final_std_mean, row.val_final_std_std) == (pytest.approx(math.sqrt(0.1 / 4)), pytest.approx(0))
    assert r"2 $\pm$ 1 (2 of 3) & 2.600 $\pm$ 0.566 & 15.81 $\pm$ 0.00 & 3 \\" in dynamics()
    assert defined()["core/vgg08/onset"] == ("2", r"2 $\pm$ 1")
    assert defined()["core/vgg08/peak_loss"] == ("2.6", r"2.600 $\pm$ 0.566")
    assert defined()["core/vgg08/val_final_std"] == ("15.8113883", r"15.81 $\pm$ 0.00")


def test_a_network_that_learns_how_frequent_classes_are_has_no_onset_until_it_learns_more():
    """From ln 3 = 1.099 to the entropy of (0.1, 0.1, 0.8), 0.639: within 0.1 nats of that range it is a guess."""
    own = examples.study({"data": examples.own(examples.study().data, train=[10, 10, 80]).model_dump()})
    examples.result(own, "vgg08", epochs=6)
    examples.rewrite("vgg08", train_loss=[1.19, 1.0, 0.7, 0.55, 0.53, 0.6])
    (row,) = aggregate.collect(own)["core"]
    assert (row.values("onset")[0], row.values("peak_loss")[0]) == (5, 0.6)


def test_chance_is_the_loss_of_training_and_the_accuracy_of_validation():
    """Near the entropy of (0.1, 0.1, 0.8), 0.639, and at 1/3 in validation; the share of 0.8 would be far above it."""
    own = examples.study({"data": examples.own(examples.study().data, train=[10, 10, 80]).model_dump()})
    for train, val, expected in ((0.643, 0.35, True), (0.66, 0.35, False), (0.643, 0.37, False), (1.099, 0.33, False)):
        examples.result(own, "vgg08", train=(train, 0.8), val=(1.8, val))
        (row,) = aggregate.collect(own)["core"]
        assert row.at_chance == expected


def test_a_short_training_that_never_leaves_chance_has_no_onset_no_peak_and_no_deviation():
    study = examples.study({"train": {"epochs": 4}}, runs=["vgg08"])
    examples.result(study, "vgg08", train=(math.log(10), 0.1), epochs=4)
    make(study)
    assert table().loc["vgg08", ["onset_mean", "peak_loss_mean", "val_final_std_mean"]].isna().all()
    assert r"\texttt{vgg08} & -- & -- & -- & 1 \\" in dynamics()
    assert not {f"core/vgg08/{metric}" for metric in columns.shown(dynamics=True)} & defined().keys()


def test_a_diverged_seed_is_in_no_mean_of_how_trainings_went():
    study = examples.study({"seeds": [0, 1]}, runs=["vgg08"])
    examples.result(study, "vgg08", 0, train=(1.5, 0.5))
    examples.result(study, "vgg08", 1, train=(math.inf, 0.1), val=(math.inf, 0.1), epochs=2)
    examples.rewrite("vgg08", 1, train_loss=[9.0, math.inf], val_loss=[9.0, math.inf])
    make(study)
    assert table().loc["vgg08"].peak_loss_mean == 1.5


def test_trainings_whose_loss_was_rounded_on_a_gpu_are_told():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08")
    path, told = paths.results("vgg08", 0) / "summary.json", []
    summary = json.loads(path.read_text())
    for environment in (
        {"device": "cuda", "precision": "bf16"},
        {"device": "cuda", "precision": "bf16", "loss": "in fp32"},
        {"device": "cuda", "precision": "fp32"},
        {"device": "cpu", "precision": "bf16"},
    ):
        path.write_text(json.dumps(summary | {"environment": environment | {"kind": "", "torch": "", "threads": 1}}))
        make(study)
        told.append("trainings/rounded_loss" in facts())
    assert told == [True, False, False, False]


def test_an_n_over_both_kinds_of_device_is_marked_and_explained():
    study = examples.study({"seeds": [0, 1]})
    for job in study.jobs():
        examples.result(study, *job)
    path = paths.results("vgg38", 1) / "summary.json"
    path.write_text(path.read_text().replace('"device": "cpu", "kind"', '"device": "cuda", "kind"'))
    make(study)
    assert table().devices.to_dict() == {"vgg08": "cpu", "vgg38": "cpu cuda"}
    for text in (Path("report/tables/core.tex").read_text(), dynamics()):
        assert re.findall(r"& (2\S*) \\\\", text) == ["2", r"2\dag{}"]
    explained = r"\dag{}: trained on CPU and on GPU."
    assert explained in Path("report/studies.tex").read_text()
    examples.result(study, "vgg38", 1)
    make(study)
    assert explained not in Path("report/studies.tex").read_text()


def test_settings_that_differ_have_columns_and_the_others_stand_in_the_caption():
    study = examples.study({"runs": {"vgg38": {"train": {"learning_rate": 0.01}}}})
    for run in study.runs:
        examples.result(study, run)
    rows = aggregate.collect(study)["core"]
    assert tables.differing_settings(rows) == ["learning_rate"]
    assert tables.common_settings(rows) == "schedule per epoch, batch 10, weight decay 0, epochs 2"
    assert "Parameters & Rate & Loss" in tables.study_table(rows)
    assert tables.differing_settings(rows[:1]) == []


def test_a_named_study_without_results_is_an_error():
    with pytest.raises(UserError, match=r"^study 'core' has no results yet; `snakemake core` makes them$"):
        tables.write_tables(examples.study(), ["core"])
    with pytest.raises(config.ParameterError, match=r"^study 'cor' is not configured; allowed: core$"):
        tables.write_tables(examples.study(), ["cor"])


@pytest.mark.parametrize(
    ("value", "uncertainty", "text"),
    [
        (1.8153, 0.0031, "1.815(3)"),
        (49.31, 0.23, "49.3(2)"),
        (45.2, 0.96, "45(1)"),
        (1.25, 0.0, "1.250"),
        (1.25, math.nan, "1.250"),
        (-0.512, 0.02, "$-$0.51(2)"),
        (1222388.0, 3126027.0, r"$1.2 \times 10^{6}$ $\pm$ $3.1 \times 10^{6}$"),
    ],
)
def test_a_bracket_is_the_uncertainty_of_the_last_digit(value, uncertainty, text):
    assert latex.bracket(value, uncertainty, 3) == text


@pytest.mark.parametrize(("value", "text"), [(1.234, "$+$1.23"), (-3.0, "$-$3.00"), (0.001, "0.00"), (-0.001, "0.00")])
def test_a_difference_has_its_sign(value, text):
    assert latex.signed(value, 2) == text
