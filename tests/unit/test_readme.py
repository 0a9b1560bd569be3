"""The results in README.md, and the page and the figure beside it."""

import dataclasses
import math
import re
import subprocess
from pathlib import Path

import pytest

import examples
from vanishing import cli, config
from vanishing.errors import UserError
from vanishing.report import figures, overview, readme
from vanishing.results import aggregate

TEXT = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text(TEXT)


def written(settings):
    """Return the results that are written into README.md; what stands around them stays."""
    readme.write_readme(settings)
    before, results, after = re.split(f"{readme.BEGIN}|{readme.END}", Path("README.md").read_text())
    assert (before, after) == ("before\n", "\nafter\n")
    return results


def page():
    """Return the page that the last call of `written` made."""
    return Path("docs/results.md").read_text()


def rows(text):
    """Return the cells of every table row that is no head and no rule."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if cells[0] not in ("run", "---")]


def test_a_row_has_settings_means_deviations_n_and_device():
    study = examples.study({"seeds": [0, 1]})
    for seed in (0, 1):
        examples.result(
            study, "vgg38", seed, train=(1.0 + seed, 0.5), val=(1.6, 0.3 + 0.2 * seed), test=(1.7, 0.25), epochs=2
        )
    text = written(study)
    assert "\nDepth (`core`, 2 epochs):\n\n| run | schedule | epochs | precision | training loss |" in text
    precision = study.run("vgg38").train.precision
    assert rows(text) == [
        ["vgg38", "per epoch", "2", precision, "1.500 ± 0.707", "50.00 ± 0.00 %", "1.600 ± 0.000", "40.00 ± 14.14 %",
         "25.00 ± 0.00 %", "2", "cpu"],
    ]  # fmt: skip
    missing = "2 of the study's 4 trainings are complete. `core` has no results yet for `vgg08`."
    assert text.endswith(f"\n{missing} [All results](docs/results.md).\n\n")


def test_one_seed_has_no_deviation_and_all_runs_leave_none_missing():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08", train=(1.5, 0.5), val=(1.6, 0.4), test=(1.7, 0.3))
    text = written(study)
    assert rows(text)[0][4:10] == ["1.500", "50.00 %", "1.600", "40.00 %", "30.00 %", "1"]
    assert text.endswith("\n1 of the study's 1 trainings are complete. [All results](docs/results.md).\n\n")


def test_diverged_seeds_are_counted_and_without_any_other_there_is_no_number():
    study = examples.study({"seeds": [0, 1]})
    for run, seed in study.jobs():
        diverged = run == "vgg38" or seed == 1
        examples.result(study, run, seed, train=(float("nan"), 0.1) if diverged else (1.5, 0.5), val=(1.6, 0.4))
    some, none = rows(written(study))
    assert (some[4], some[9]) == ("1.500", "1, 1 diverged (epoch 2)")
    assert (none[4], none[8], none[9]) == ("-", "-", "0, 2 diverged (epoch 2, 2)")


def test_the_core_study_is_in_the_readme_and_first_on_the_page_with_each_run_once():
    short = {"title": "Cut short", "runs": ["vgg38", "vgg38_short"], "average": 2}
    overlay = {"studies": {"short": short}, "runs": {"vgg38_short": {"train": {"epochs": 3}}}}
    content = examples.content(overlay)
    content["studies"] = dict(reversed(content["studies"].items()))
    study = config.check(content)
    for run in study.runs:
        examples.result(study, run, epochs=3 if run == "vgg38_short" else 2)
    titles = ["Depth (`core`, 2 epochs):", "Cut short (`short`, 3 epochs, mean of the final 2):"]
    text = written(study)
    assert re.findall(r"^.*:$", text, re.MULTILINE) == titles[:1]
    assert [cells[0] for cells in rows(text)] == ["vgg08", "vgg38"]
    assert re.findall(r"^.*:$", page(), re.MULTILINE) == titles
    assert [cells[0] for cells in rows(page())] == ["vgg08", "vgg38", "vgg38_short"]
    assert page().endswith("\n3 of the study's 3 trainings are complete.\n")


def test_the_answer_stands_first_once_every_network_of_it_has_results():
    accuracies = {"vgg08": 0.5, "vgg38": 0.1, "vgg38_bn": 0.48, "vgg38_rc": 0.52}
    study = examples.study(runs=[*accuracies, "vgg38_bn_rc"])
    guess = math.log(study.data.classes), 1 / study.data.classes
    for run, accuracy in accuracies.items():
        chance = {"train": guess, "val": guess} if run == "vgg38" else {}
        examples.result(study, run, test=(1.7, accuracy), layers=8 if run == "vgg08" else 38, **chance)
    assert "On the test set" not in written(study)
    examples.result(study, "vgg38_bn_rc", test=(1.7, 0.59))
    assert written(study).startswith(
        "\n\nOn the test set, 8 plain layers reach 50.00 %, and 38, which stay at chance, 10.00 %. "
        "With 38 layers, BN gives 48.00 %, RC 52.00 %, and both 59.00 %.\n\nDepth"
    )
    examples.result(study, "vgg38", test=(1.7, 0.2), layers=38)
    assert "and 38 20.00 %. With" in written(study)
    examples.result(study, "vgg38", train=(math.nan, 0.1), layers=38)  # diverged
    assert "On the test set" not in written(study)


def test_without_results_they_say_so():
    count = "0 of the study's 2 trainings are complete."
    missing = f"{count} `core` has no results yet for `vgg08`, `vgg38`. [All results](docs/results.md)."
    assert written(examples.study()) == f"\n\n{missing}\n\n"
    assert page() == f"{readme.INTRODUCTION}\n{count}\n"


def test_the_figure_has_the_gradients_at_initialisation_of_its_study_and_the_same_bytes_each_time():
    cured = {"model": {"norm": "batch", "shortcut": "identity"}}
    start = {"studies": {"initialisation": {"title": "Start", "runs": ["vgg38", "cured"]}}, "runs": {"cured": cured}}
    study = examples.study(start)
    written(study)
    assert not Path("docs/result.svg").exists()
    for run in ("vgg38", "cured"):
        examples.result(study, run)
    written(study)
    first = Path("docs/result.svg").read_bytes()
    written(study)
    assert Path("docs/result.svg").read_bytes() == first
    assert b"<svg" in first
    assert not re.search(rb"<dc:date>|Matplotlib v", first)
    start = overview.choose(study, aggregate.collect(study), overview.START)
    assert {label: run for label, (run, _) in start.items()} == {"4 layers": "vgg38", "4 layers, BN and RC": "cured"}
    axes = figures.overview(start, {}).axes[0]
    assert axes.get_yscale() == "log"
    # 1e-3 times the layer at epoch 0, of plain images and without the normalisation
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3])
    assert [line.get_label() for line in axes.lines] == ["4 layers", "4 layers, BN and RC"]


def test_networks_of_one_look_are_drawn_unlike_each_other():
    study = examples.study({"studies": {"initialisation": {"title": "Start", "runs": ["vgg08", "vgg38"]}}})
    examples.result(study, "vgg08")
    examples.result(study, "vgg38", layers=6)
    start = overview.choose(study, aggregate.collect(study), overview.START)
    one = figures.read_study("core", study).looks["vgg08"]
    alike = {
        label: (run, dataclasses.replace(data, looks=dict.fromkeys(data.looks, one)))
        for label, (run, data) in start.items()
    }
    lines = figures.overview(alike, {}).axes[0].lines
    assert [line.get_label() for line in lines] == ["4 layers", "6 layers"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2


def test_the_figure_shows_how_the_networks_train_by_the_longest_training_that_each_has():
    shorter = {"train": {"epochs": 1}}
    runs = {
        "plain_start": shorter,
        "plain_short": shorter,
        "shallow_short": shorter,
        "other_rate": {"train": {"learning_rate": 0.5}},
    }
    studies = {
        "initialisation": {"title": "Start", "runs": ["plain_start"]},
        "short": {"title": "Short", "runs": ["plain_short"]},
        "core": {"title": "Depth", "runs": ["other_rate", "vgg38"]},
    }
    study = examples.study({"runs": runs, "studies": studies})
    for run in ("plain_start", "plain_short", "other_rate"):
        examples.result(study, run, val=(1.6, 0.3), epochs=study.run(run).train.epochs)
    chosen = overview.choose(study, aggregate.collect(study), overview.TRAINED)
    assert [run for run, _ in chosen.values()] == ["plain_short"]
    examples.result(study, "vgg38", val=(1.6, 0.45))
    trained = overview.choose(study, aggregate.collect(study), overview.TRAINED)
    assert [run for run, _ in trained.values()] == ["vgg38"]
    right = figures.overview(overview.choose(study, aggregate.collect(study), overview.START), trained).axes[1]
    assert right.lines[0].get_xdata().tolist() == [1, 2]
    assert right.lines[0].get_ydata().tolist() == [0.45, 0.45]
    assert right.lines[1].get_ydata() == [0.1, 0.1], "chance"


def test_the_same_results_give_the_same_bytes():
    study = examples.study()
    examples.result(study, "vgg08")
    assert written(study) == written(study)


@pytest.mark.parametrize(
    "text",
    ["", readme.BEGIN, f"{readme.END}\n{readme.BEGIN}\n", TEXT + TEXT, f"{TEXT}{readme.END}", f"{readme.END}\n{TEXT}"],
)
def test_a_readme_without_one_place_for_the_results_is_left_alone(text):
    Path("README.md").write_text(text)
    with pytest.raises(UserError, match=r"^README.md: needs the line <!-- .* -->, and below it <!-- .* -->, each once"):
        readme.write_readme(examples.study())
    assert Path("README.md").read_text() == text


def test_a_folder_without_readme_is_one_line(capsys):
    Path("README.md").unlink()
    Path("params.yaml").write_text((examples.ROOT / "params.yaml").read_text())
    assert cli.main(["readme"]) == 1
    assert capsys.readouterr().err.endswith(
        "vanishing readme: README.md: missing; `vanishing readme` writes into the one of the project's folder\n"
    )


def test_help_says_that_no_engine_makes_it(capsys):
    with pytest.raises(SystemExit):
        cli.main(["readme", "--help"])
    assert "no engine makes them" in " ".join(capsys.readouterr().out.split())


def test_the_projects_readme_has_the_committed_results(monkeypatch):
    monkeypatch.chdir(examples.ROOT)
    changed = subprocess.run(["git", "status", "--porcelain", "results"], capture_output=True, text=True, check=False)
    if changed.returncode or changed.stdout:
        pytest.skip("not a git repository, or results that are not committed")
    settings = config.load()
    found = aggregate.collect(settings)
    text = Path("README.md").read_text()
    assert readme.rewritten(text, readme.block(settings, found)) == text, "`make readme` writes it again"
    assert Path("docs/results.md").read_text() == readme.page(settings, found), "`make readme` writes it again"


def test_the_projects_pages_name_every_study_and_count_the_trainings():
    text, study = (examples.ROOT / "README.md").read_text(), config.load(examples.ROOT / "params.yaml")
    for key in study.studies:
        assert re.search(rf"^\|.*`{key}`.* \|$", (examples.ROOT / "docs/studies.md").read_text(), re.MULTILINE), key
    rest = readme.rewritten(text, "")
    assert re.findall(r"(\d+)\s+trainings", rest) == [str(len(list(study.jobs())))]


def test_a_bar_within_a_cell_of_the_columns_page_ends_no_cell():
    rows = [line for line in readme.columns_page().splitlines() if line.startswith("| `")]
    assert any(r"\|dL/dW\|" in row for row in rows)
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != 3] == []
