import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import seaborn as sns

import examples
from vanishing import paths
from vanishing.errors import UserError
from vanishing.report import figures, notebooks
from vanishing.report.captions import CAPTIONS

FAMILIES = tuple(CAPTIONS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(study, families=FAMILIES):
    data = figures.read_study("core", study)
    return {name: figure for family in families for name, figure in figures.draw(family, data).items()}


def saved(study, families=FAMILIES):
    """Draw and save figures, and return the bytes by name."""
    figures.save(drawn(study, families), paths.FIGURES / "core")
    return {path.name: path.read_bytes() for path in sorted((paths.FIGURES / "core").iterdir())}


def lines(figure, panel):
    """Return the data of the lines of a panel that are no mark of chance, as pairs of lists."""
    return [
        (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[panel].lines if len(line.get_xdata())
    ][:-1]


def test_every_captioned_figure_is_drawn_and_saved():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08")
    made = saved(study)
    assert sorted(made) == sorted(f"{name}.pdf" for family in FAMILIES for name in CAPTIONS[family])
    assert sorted(made) == sorted(path.name for path in notebooks.outputs("core", study.studies["core"]))
    assert all(content.startswith(b"%PDF") and b"CreationDate" not in content for content in made.values())


def test_lines_are_the_means_over_the_seeds():
    study = examples.study({"seeds": [0, 1, 2, 3]}, runs=["vgg08"])
    for seed, (loss, accuracy) in enumerate([(1.0, 0.2), (1.5, 0.3), (2.3, 0.4), (1.6, 0.7)]):
        examples.result(study, "vgg08", seed, train=(loss, accuracy), val=(2 * loss / 1.6, 0.3))
    made = drawn(study)
    assert lines(made["loss"], 0)[0] == ([1, 2], pytest.approx([1.6, 1.6]))
    assert lines(made["loss"], 1)[0] == ([1, 2], pytest.approx([2.0, 2.0]))
    assert lines(made["accuracy"], 0)[0] == ([1, 2], pytest.approx([0.4, 0.4]))
    band = made["accuracy"].axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (
        pytest.approx(0.4 - math.sqrt(0.14 / 3)),  # 0.2^2 + 0.1^2 + 0^2 + 0.3^2, over n - 1
        pytest.approx(0.4 + math.sqrt(0.14 / 3)),
    )


def test_gradients_are_the_means_over_the_seeds_by_layer():
    study = examples.study({"seeds": [0, 1]}, runs=["vgg08"])
    examples.result(study, "vgg08", 0, gradient=lambda epoch, layer: 1e-20 * layer)
    examples.result(study, "vgg08", 1, gradient=lambda epoch, layer: 3e-20 * layer)
    axis = drawn(study, ["gradient_flow"])["gradient_flow_log"].axes[0]
    assert axis.get_yscale() == "log"
    assert [line.get_label() for line in axis.lines] == ["epoch 0", "epoch 1", "epoch 2"]
    for line in axis.lines:
        assert list(line.get_xdata()) == [1, 2, 3, 4]
        np.testing.assert_allclose(line.get_ydata(), [2e-20, 4e-20, 6e-20, 8e-20], rtol=1e-9)


def test_the_flow_as_reported_is_of_augmented_images_and_has_the_scales_marked_in_forward_order():
    study = examples.study({"seeds": [0, 1]}, runs=["vgg08"])
    examples.result(study, "vgg08", 0, gradient=lambda epoch, layer: 1e-3 * layer)
    examples.result(study, "vgg08", 1, gradient=lambda epoch, layer: 3e-3 * layer)
    axis = drawn(study)["gradient_flow_reported"].axes[0]
    assert axis.get_yscale() == "linear"
    assert [line.get_label() for line in axis.lines] == ["epoch 0", "epoch 1", "epoch 2"]
    for line in axis.lines:
        assert list(line.get_xdata()) == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(
            line.get_ydata(), [4e-3, 4e-3, 8e-3, 12e-3, 16e-3], rtol=1e-9
        )  # examples: twice plain
        assert line.get_markevery() == [1]


def test_a_run_measured_on_plain_images_alone_has_no_flow_as_reported():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08")
    path = paths.results("vgg08", 0) / "gradients.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "augmented" not in line))
    axis = drawn(study)["gradient_flow_reported"].axes[0]
    assert not axis.lines
    assert [text.get_text() for text in axis.texts] == ["not measured"]


def test_the_comparison_has_a_mark_for_every_run_seed_and_part():
    study = examples.study({"seeds": [0, 1, 2]})
    for run, seed in study.jobs():
        examples.result(study, run, seed, train=(1.0, 0.1 * seed), val=(1.0, 0.5))
    axis = drawn(study, ["training"])["comparison"].axes[0]
    marks = np.concatenate([marks.get_offsets() for marks in axis.collections if len(marks.get_offsets())])
    assert len(marks) == 2 * 3 * 2
    assert sorted(marks[:, 0].round(3)) == [0.0] * 2 + [0.1] * 2 + [0.2] * 2 + [0.5] * 6


def test_chance_is_marked():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08")
    made = drawn(study)
    assert made["loss"].axes[1].lines[-1].get_ydata()[0] == pytest.approx(math.log(10))
    assert made["accuracy"].axes[1].lines[-1].get_ydata()[0] == pytest.approx(0.1)


def test_training_and_validation_of_a_run_share_a_panel_in_its_colour():
    study = examples.study({"seeds": [0, 1], "runs": {"vgg38": {"train": {"epochs": 5}}}})
    for run, seed in study.jobs():
        epochs = 5 if run == "vgg38" else 2
        examples.result(study, run, seed, train=(1.0 + seed, 0.2), val=(2.0 + seed, 0.1 + 0.2 * seed), epochs=epochs)
    made = drawn(study, ["training"])
    looks = figures.read_study("core", study).looks
    for name, train, val, chance in (("loss", 1.5, 2.5, math.log(10)), ("accuracy", 0.2, 0.2, 0.1)):
        panels = made[f"{name}_by_run"].axes
        assert [panel.get_title() for panel in panels] == ["vgg08", "vgg38"]
        assert len({(panel.get_xlim(), panel.get_ylim()) for panel in panels}) == 1
        for panel, run, epochs in zip(panels, ("vgg08", "vgg38"), (2, 5), strict=True):
            solid, dashed, *_, dotted = [line for line in panel.lines if len(line.get_xdata())]
            assert list(solid.get_xdata()) == list(dashed.get_xdata()) == list(range(1, epochs + 1))
            assert list(solid.get_ydata()) == pytest.approx([train] * epochs)
            assert list(dashed.get_ydata()) == pytest.approx([val] * epochs)
            assert [solid.get_linestyle(), dashed.get_linestyle(), dotted.get_linestyle()] == ["-", "--", ":"]
            assert solid.get_color() == dashed.get_color() == looks[run][0]
            assert dotted.get_ydata()[0] == pytest.approx(chance)
        legend = made[f"{name}_by_run"].legends[0]
        assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
        assert [line.get_linestyle() for line in legend.get_lines()] == ["-", "--"]
    band = made["accuracy_by_run"].axes[0].collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(0.2 - 0.1 * 2**0.5), pytest.approx(0.2 + 0.1 * 2**0.5))


def test_one_huge_loss_does_not_flatten_the_others():
    study = examples.study()
    examples.result(study, "vgg08", val=(500.0, 0.1))
    examples.result(study, "vgg38")
    made = drawn(study)
    for axis in (*made["loss"].axes, *made["loss_by_run"].axes):
        assert axis.get_ylim() == (0, pytest.approx(1.5 * math.log(10)))


def test_small_losses_fill_the_axis():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08", train=(0.5, 0.9), val=(0.5, 0.9))
    low, high = drawn(study, ["training"])["loss"].axes[0].get_ylim()
    assert low == 0
    assert math.log(10) < high < 1.2 * math.log(10)  # the mark of chance is always seen


def test_a_run_keeps_its_colour_when_others_have_no_results():
    study = examples.study(runs=["vgg08", "vgg38", "vgg38_bn"])
    for run in study.runs:
        examples.result(study, run)
    every = [(line.get_color(), line.get_linestyle()) for line in drawn(study, ["training"])["loss"].axes[0].lines[:3]]
    assert len(set(every)) == 3
    (paths.results("vgg38", 0) / "summary.json").unlink()
    data = figures.read_study("core", study)
    assert data.runs == ["vgg08", "vgg38_bn"]
    some = [(line.get_color(), line.get_linestyle()) for line in drawn(study, ["training"])["loss"].axes[0].lines[:2]]
    assert some == [every[0], every[2]]


def test_chance_is_marked_for_the_part_that_a_panel_shows():
    """Of (0.1, 0.1, 0.8): 0.639 nats and 0.8 in training, ln 3 = 1.099 and 1/3 in validation; axes show the start."""
    data = examples.own(examples.study().data, train=[10, 10, 80]).model_dump()
    study = examples.study({"data": data}, runs=["vgg08"])
    examples.result(study, "vgg08", train=(0.5, 0.85), val=(1.2, 0.5))
    made = drawn(study, ["training"])

    def marks(name):
        return [[line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == ":"] for axis in made[name].axes]

    assert marks("loss") == [[pytest.approx(0.639, abs=5e-4)], [math.log(3)]]
    assert marks("accuracy") == [[0.8], [1 / 3]]
    assert marks("accuracy_by_run") == [[1 / 3, 0.8]]
    for name in ("loss", "loss_by_run"):
        assert made[name].axes[0].get_ylim()[1] >= 1.05 * math.log(3)


def test_one_epoch_and_one_snapshot_can_be_drawn():
    study = examples.study({"train": {"epochs": 1}}, runs=["vgg08"])
    examples.result(study, "vgg08", epochs=1, snapshots=[0])
    made = drawn(study)
    assert made["loss"].axes[0].lines[0].get_marker() == "o"
    figures.save(
        {name: made[name] for name in ("loss", "loss_by_run", "gradient_flow_log", "gradient_heat_map")},
        paths.FIGURES / "core",
    )


def test_the_legend_names_every_snapshot_of_every_run():
    study = examples.study()
    examples.result(study, "vgg08", snapshots=[0, 2, 4])
    examples.result(study, "vgg38", snapshots=[0, 3, 4])
    legend = drawn(study, ["gradient_flow"])["gradient_flow_log"].legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["epoch 0", "epoch 2", "epoch 3", "epoch 4"]


@pytest.mark.parametrize("value", [0.0, 1e-45, math.nan, math.inf])
def test_gradients_that_are_all_alike_can_be_drawn(value):
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08", gradient=lambda epoch, layer: value)
    assert len(saved(study, ["gradient_flow"])) == 4


def test_gradients_of_zero_are_left_out_of_the_logarithmic_axis_only():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08", snapshots=[0], gradient=lambda epoch, layer: 0.0 if layer == 1 else 0.5)
    made = drawn(study)
    np.testing.assert_equal(made["gradient_flow_log"].axes[0].lines[0].get_ydata(), [np.nan, 0.5, 0.5, 0.5])
    np.testing.assert_equal(made["gradient_flow_linear"].axes[0].lines[0].get_ydata(), [0, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_run_can_be_drawn(loss):
    study = examples.study({"seeds": [0, 1]})
    examples.result(study, "vgg08")
    examples.result(study, "vgg38", 0, train=(loss, 0.1), val=(loss, 0.1), epochs=1, snapshots=[0])
    examples.result(study, "vgg38", 1)
    made = drawn(study, ["training"])
    assert made["loss"].axes[0].get_ylim()[1] <= 1.5 * math.log(10)
    figures.save(made, paths.FIGURES / "core")


def test_a_study_of_diverged_runs_alone_can_be_drawn():
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08", train=(math.nan, 0.1), val=(math.inf, 0.1), epochs=1, snapshots=[0])
    assert len(saved(study, ["training"])) == 5


def test_ten_runs_and_three_seeds_fit():
    runs = [f"run{number}" for number in range(10)]
    study = examples.study({"seeds": [0, 1, 2]}, runs=runs)
    for run, seed in study.jobs():
        examples.result(study, run, seed, train=(1 + 0.1 * seed, 0.5))
    made = drawn(study)
    styles = {(line.get_color(), line.get_linestyle()) for line in made["loss"].axes[0].lines[:10]}
    assert len(styles) == 10
    assert sum(bool(axis.get_title()) for axis in made["gradient_flow_log"].axes) == 10
    assert all(figure.get_size_inches()[0] == pytest.approx(6.3) for figure in made.values())
    figures.save({"loss": made["loss"], "comparison": made["comparison"]}, paths.FIGURES / "core")


def test_the_same_results_give_the_same_bytes_whatever_the_users_settings(folder):
    study = examples.study(runs=["vgg08"])
    examples.result(study, "vgg08")
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "pdf.compression": 0, "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        first = saved(study)
        assert dict(mpl.rcParams) == before
    Path("matplotlibrc").write_text("font.size: 20\npdf.fonttype: 3\nsavefig.facecolor: red\n")
    for listed in Path(mpl.get_cachedir()).glob("fontlist-*.json"):  # to list the fonts anew takes seconds
        shutil.copy(listed, folder)
    subprocess.run(  # another process starts in another second, too
        [sys.executable, "-c", "import examples, test_figures as t; t.saved(examples.study(runs=['vgg08']))"],
        env=os.environ
        | {"TZ": "Asia/Kathmandu", "MPLCONFIGDIR": str(folder), "LC_ALL": "C", "SOURCE_DATE_EPOCH": "1"}
        | {
            "PYTHONPATH": os.pathsep.join(
                [str(examples.ROOT / "src"), str(examples.ROOT / "tests/support"), str(Path(__file__).parent)]
            )
        },
        check=True,
        timeout=120,
    )
    assert {path.name: path.read_bytes() for path in (paths.FIGURES / "core").iterdir()} == first


def test_a_study_without_results_is_one_line_with_the_next_step():
    with pytest.raises(UserError, match="study 'core' has no results"):
        figures.read_study("core", examples.study())


def test_runs_of_another_schedule_or_length_have_a_line_of_panels_of_their_own():
    study = examples.study({"runs": {"vgg38": {"train": {"schedule": "cosine_per_iteration"}}}})
    for run in study.runs:
        examples.result(study, run)
    assert figures.read_study("core", study).groups == {
        "rate per epoch, 2 epochs": ["vgg08"],
        "rate per iteration, 2 epochs": ["vgg38"],
    }
    titles = [axis.get_title() for axis in drawn(study, ["training"])["loss"].axes]
    assert titles == [
        "training, rate per epoch, 2 epochs", "validation, rate per epoch, 2 epochs",
        "training, rate per iteration, 2 epochs", "validation, rate per iteration, 2 epochs",
    ]  # fmt: skip


def test_a_run_looks_the_same_in_two_studies_and_unlike_its_fellows():
    other = {"title": "Other", "runs": ["vgg38", "vgg38_bn"]}
    study = examples.study({"studies": {"other": other}}, runs=["vgg08", "vgg38", "vgg38_bn"])
    for run in study.runs:
        examples.result(study, run)
    core, again = figures.read_study("core", study).looks, figures.read_study("other", study).looks
    assert core["vgg38"] == again["vgg38"]
    assert len({core[run] for run in study.runs}) == 3


def test_published_accuracies_stand_against_ours_by_schedule_and_are_filled_where_they_hold():
    rows = [
        ("r1", "cosine_per_epoch", "val_accuracy", "47.04", 48.0, "holds"),
        ("r1", "cosine_per_iteration", "val_accuracy", "47.04", 40.0, "does not hold"),
        ("r2", "cosine_per_epoch", "train_accuracy", "49.3(2)", 60.0, "does not hold"),
        ("r1", "cosine_per_epoch", "val_loss", "1.95", 1.9, "holds"),
        ("r3", "constant", "test_accuracy", "61.4", math.nan, "not run"),
    ]
    columns = ["report", "schedule", "metric", "published", "reproduced", "verdict"]
    origins = ["handout", *["report"] * 4]
    figure = figures.agreement(pd.DataFrame(rows, columns=columns).assign(tolerance=1.0, origin=origins))
    panels = figure.axes
    found = {
        (panel.get_title(), line.get_marker(), float(line.get_xdata()[0]), float(line.get_ydata()[0])):
            line.get_markerfacecolor() != "none"
        for panel in panels for line in panel.lines if line.get_linestyle() == "None" and len(line.get_xdata())
    }  # fmt: skip
    assert found == {
        ("rate per epoch", "o", 49.3, 60.0): False,
        ("rate per epoch", "s", 47.04, 48.0): True,
        ("rate per iteration", "s", 47.04, 40.0): False,
    }
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["handout", "r1"]
    colours = {line.get_color() for panel in panels for line in panel.lines if list(line.get_xdata()) == [47.04]}
    assert colours == {(0.45, 0.45, 0.45), sns.color_palette("colorblind")[0]}, "the handout's value, and r1's own"


def test_published_figures_none_of_which_has_been_run_can_be_drawn():
    rows = [("r3", "constant", "test_accuracy", "61.4(2)", math.nan, "not run")]
    columns = ["report", "schedule", "metric", "published", "reproduced", "verdict"]
    figure = figures.agreement(pd.DataFrame(rows, columns=columns).assign(tolerance=math.nan, origin="report"))
    figures.save({"agreement": figure}, paths.FIGURES / "comparison")
    assert (paths.FIGURES / "comparison" / "agreement.pdf").read_bytes().startswith(b"%PDF")


def test_a_legend_of_long_names_stays_on_the_page():
    runs = ["vgg38_resnet_wd3_x100", "vgg38_resnet_wd3_x10", "vgg38_resnet_sigmoid", "vgg38_resnet_wd3_x30"]
    study = examples.study(runs=runs)
    for run in runs:
        examples.result(study, run)
    for figure in drawn(study).values():
        figure.draw_without_rendering()
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [0]), (3, [0, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (14, [0, 3, 5, 8, 10, 13])]
)
def test_the_epochs_named_beside_a_heat_map_are_the_first_the_last_and_some_between(count, shown):
    assert figures._spread(count, 6) == shown


@pytest.mark.parametrize(
    ("layers", "labels"),
    [
        (8, "1 8"),
        (38, "1 10 20 30 38"),
        (50, "1 10 20 30 40 50"),
        (72, "1 20 40 60 72"),
        (106, "1 20 40 60 80 106"),
        (132, "1 50 100 132"),
        (150, "1 50 100 150"),
        (902, "1 902"),
    ],
)
def test_the_labels_of_layers_leave_each_other_room(layers, labels):
    places, texts = figures._layer_ticks(layers)
    assert " ".join(texts) == labels
    assert [place + 1 for place in places] == [int(text) for text in texts]
