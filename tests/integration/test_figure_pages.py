"""Figures of as many runs, epochs and snapshots as the real study has, on the page."""

from itertools import pairwise

import pytest

import examples
from vanishing import config
from vanishing.report import figures
from vanishing.report.captions import CAPTIONS

CORE = config.load(examples.ROOT / "params.yaml").studies["core"].runs


@pytest.mark.parametrize("runs", [["vgg08"], CORE[:5], CORE, [*CORE, "vgg38_he", "vgg38_gn"]], ids=len)
def test_with_the_snapshots_of_the_real_study_nothing_leaves_the_page_or_overlaps(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snapshots = [0, 1, 2, 5, *range(10, 101, 10)]
    study = examples.study({"train": {"epochs": 100}}, runs=runs)
    for run in runs:
        examples.result(study, run, epochs=100, snapshots=snapshots)
    data = figures.read_study("core", study)
    drawn = {name: figure for family in CAPTIONS for name, figure in figures.draw(family, data).items()}
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, name
        for axis in figure.axes:
            for direction, labels in (("x", axis.get_xticklabels()), ("y", axis.get_yticklabels())):
                boxes = [label.get_window_extent() for label in labels if label.get_text() and label.get_visible()]
                ends = sorted((getattr(box, f"{direction}0"), getattr(box, f"{direction}1")) for box in boxes)
                overlaps = [(one, other) for one, other in pairwise(ends) if one[1] > other[0]]
                assert not overlaps, (name, direction)
