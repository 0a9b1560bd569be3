"""A study on a user's own images, from `vanishing images` to the PDF, in both engines."""

import json
import re
import shutil

import pytest
from engines import COMMANDS, HUNG, content, lay_out, start
from PIL import Image

from vanishing import config, paths
from vanishing.data import dataset, own_images, synthetic
from vanishing.engines import graph

CLASSES = {"50% & $": 14, "gr\u00f6\u00dfe": 15, "kettle_1": 16, "mug": 18, "~pot^": 20}
"""Names that LaTeX has to be told how to set, with the images of each."""

KINDS = [(".png", {}), (".jpg", {"quality": 90}), (".webp", {"lossless": True})]


def photograph(folder):
    """Write class folders of images of several sizes, modes and formats, without a test set."""
    images, *_ = synthetic.generate(len(CLASSES), max(CLASSES.values()), 1, seed=1)
    for label, (name, count) in enumerate(CLASSES.items()):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = images.images[label * max(CLASSES.values()) + number].transpose(1, 2, 0)
            image = Image.fromarray(pixels).resize((30 + 5 * number, 70))
            suffix, options = KINDS[number % 3]
            image = image.convert("L") if number % 4 == 1 else image
            image.save(folder / "photos" / name / f"{number}{suffix}", **options)


def settle(folder):
    """Lay the record of the images over the tiny study, without its analyses: other tests do those."""
    path = folder / "params.yaml"
    tiny = config.read(path)
    tiny["analyses"] = {name: block | {"runs": []} for name, block in tiny["analyses"].items()}
    tiny["studies"]["core"]["draw"] = ["training"]
    record = own_images.record(folder / "photos", 0, lambda _: None)
    laid = config.merge(tiny, config.fitted(tiny, record, ["photos"]))
    path.write_text(config.text(laid))
    settings = config.load(path)
    (folder / paths.JOBS).write_text(graph.job_list(settings))
    (folder / paths.PLOTS).write_text(graph.plots(settings))


@pytest.fixture(scope="module")
def built(once):
    """Return the folders of both engines' builds, which ran side by side."""

    def make(folder):
        lay_out(folder / "snakemake", {}, train={"epochs": 1})
        photograph(folder / "snakemake")
        settle(folder / "snakemake")
        shutil.copytree(folder / "snakemake", folder / "dvc", symlinks=True)
        running = {engine: start([*command, "report"], folder / engine) for engine, command in COMMANDS.items()}
        for engine, process in running.items():
            printed, _ = process.communicate(timeout=HUNG)
            assert process.returncode == 0, f"{engine}:\n{printed[-3000:]}"

    folder = once("own-study", make)
    return {engine: folder / engine for engine in COMMANDS}


def test_both_engines_make_the_same_bytes_of_a_users_images(built):
    one, other = (content(built[engine]) for engine in COMMANDS)
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []
    made = "results/runs/vgg08/seed0/gradients.csv", "results/runs/vgg14_bn/seed0/history.csv"
    assert {"data/folder.npz", "report/report.pdf", *made} <= set(one)


def test_the_arrays_are_those_of_the_folder(built):
    made = dataset.load(built["dvc"] / "data/folder.npz")
    assert made.classes == tuple(CLASSES)
    record = config.load(built["dvc"] / "params.yaml").data.folder
    tests = [count // 5 for count in CLASSES.values()]
    assert record.test == tests == [2, 3, 3, 3, 4]
    assert record.train == [count - test for count, test in zip(CLASSES.values(), tests, strict=True)]
    assert len(made.val) == 3 * 5  # a quarter of the smallest class


def test_a_summary_holds_the_record_of_its_images(built):
    summary = json.loads((built["snakemake"] / "results/runs/vgg08/seed0/summary.json").read_text())
    folder = config.load(built["snakemake"] / "params.yaml").data.folder
    assert summary["configuration"]["data"]["folder"] == folder.model_dump(exclude={"title"})


def test_the_report_speaks_of_these_images_and_compares_nothing(built):
    folder = built["snakemake"]
    numbers = (folder / "report/numbers.tex").read_text()
    for line in (
        r"\defineresult{data/name}{0}{photos}",
        r"\defineresult{data/classes}{5}{5}",
        r"\defineresult{chance/accuracy}{20}{20}",
        r"\definefact{own}",
        r"\definefact{data/drawn}",
        r"\definefact{data/unequal}",
    ):
        assert line in numbers
    assert r"\definefact{demo}" not in numbers
    assert r"\studypublished" not in (folder / "report/studies.tex").read_text()
    named = r"{50\% \& \$, gr" + "\u00f6\u00df" + r"e, kettle~1, mug, \textasciitilde{}pot\textasciicircum{}}"
    assert named in (folder / "report/samples/samples.tex").read_text()
    published = (folder / "results/comparison/published.csv").read_text()
    assert not re.search(r",(holds|does not hold)$", published, re.MULTILINE)
