"""What the report's text refers to exists, and the figures that it works out for itself are right."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import examples
from vanishing import config, paths
from vanishing.report import captions, macros
from vanishing.report.why import section
from vanishing.results import aggregate, published

KEYED = ("result", "raw", "ifabove", "ifgreater", "ifwithin", "ifresults", "epochs")
"""Commands whose first argument is a key, or several."""


def text(pattern="sections/*.tex"):
    """Return the text of the report without comments."""
    paths = sorted((examples.ROOT / "report").glob(pattern))
    return re.sub(r"(?<!\\)%.*", "", "\n".join(path.read_text() for path in paths))


def expanded():
    """Return the text with each call of a command that the report defines replaced by what it stands for."""
    expanded, commands = text(), {}
    for source in (text("preamble.tex"), expanded):
        for found in re.finditer(r"\\newcommand\{\\(\w+)\}(?:\[(\d)\])?", source):
            body, end = group(source, found.end())
            commands[found[1]] = int(found[2] or 0), body
            expanded = expanded.replace(source[found.start() : end], "")
    while call := re.search(rf"\\({'|'.join(commands)})(?![a-zA-Z])", expanded):
        (count, body), end = commands[call[1]], call.end()
        for number in range(1, count + 1):
            argument, end = group(expanded, end)
            body = body.replace(f"#{number}", argument)
        expanded = expanded[: call.start()] + body + expanded[end:]
    return expanded


def group(source, start):
    """Return what stands in the braces that open at `start`, or behind space there, and where they end."""
    begin, depth = re.compile(r"\s*\{").match(source, start).end(), 1
    for found in re.compile(r"\\.|[{}]").finditer(source, begin):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return source[begin : found.start()], found.end()


def keys():
    """Return every key that the text looks up, in numbers.tex or among its facts."""
    whole = expanded()
    found = re.findall(rf"\\(?:{'|'.join(KEYED)})\{{([^{{}}]+)\}}", whole)
    found += re.findall(r"\\(?:ifgreater|ifwithin)\{[^{}]+\}\{([^{}]+)\}", whole)
    return {key.strip() for keys in found for key in keys.split(",")}


@pytest.fixture
def defined(tmp_path, monkeypatch):
    """Return the keys that `numbers` defines where every run has results, or the images are the user's own."""
    monkeypatch.chdir(tmp_path)
    settings = config.load(examples.ROOT / "params.yaml")
    for run in settings.runs:
        examples.result(settings, run, epochs=5)
    keys = set()
    for each in (settings, settings.model_copy(update={"data": examples.own(settings.data)})):
        macros.write_numbers(each)
        keys |= set(re.findall(r"\\define(?:result|fact)\{([^{}]+)\}", Path("report/numbers.tex").read_text()))
    return keys


def test_every_figure_that_the_text_points_to_is_one_that_its_study_draws():
    pointed = re.findall(r"\\seefigure\{([^{}]+)\}", text())
    study = config.load(examples.ROOT / "params.yaml")
    assert pointed
    for key in pointed:
        name, figure = key.split("/")
        assert figure in {captions.PRINTED[family] for family in study.studies[name].draw}, key


def test_every_key_is_one_that_the_numbers_define(defined):
    defined |= {
        f"published/{source.report}/{source.runs[0]}/{schedule}/probability"
        for source in published.load()
        for schedule in published.SCHEDULES
    } | {"published/half_width", "published/freedom"}  # with two seeds
    looked_up = {key for key in keys() if not key.startswith("why/")}
    assert len(looked_up) > 300
    assert looked_up <= defined


def test_every_key_of_an_analysis_is_one_that_the_analysis_defines(tmp_path, monkeypatch):
    """Up to the run: that of a trajectory that is not measured yet is defined once it is.

    In the sweeps over depths a seed fails, a deeper network trains, and depths are missing.
    """
    settings = config.load(examples.ROOT / "params.yaml")

    def any_run(key):
        return "/".join("RUN" if part in settings.runs else part for part in key.split("/"))

    shutil.copytree(examples.ROOT / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    shared = {"signal": 1e-3, "entry_gradient": 1e-6, "epoch": 1, "val_loss": 4.6}
    rows = [
        {
            "initialisation": start,
            "precision": precision,
            "layers": layers,
            "seed": seed,
            "standard_errors": 20 * trained,
        }
        for start, precision in (("default", "fp32"), ("he", "fp32"), ("default", "bf16"))
        for layers, seeds in {8: [1], 10: [1, 0], 12: [1], 14: [0]}.items()
        for seed, trained in enumerate(seeds)
    ]
    pd.DataFrame(rows).assign(**shared).to_csv(paths.TRAINABLE_DEPTH, index=False)
    assert set(section.write(settings)) == set(section.TITLES)
    made = (paths.WHY / "numbers.tex").read_text()
    defined = {any_run(key) for key in re.findall(r"\\defineresult\{([^{}]+)\}", made)}
    looked_up = {any_run(key) for key in keys() if key.startswith("why/")}
    assert len(looked_up) > 200
    assert looked_up <= defined


@pytest.mark.parametrize(
    ("command", "study", "run"), [("deep", "depth", "{}"), ("stressed", "stress", "vgg38_resnet_wd3_{}")]
)
def test_every_run_that_a_command_stands_for_is_in_its_study(command, study, run):
    told = re.findall(rf"\\{command}\{{([^{{}}#\\]+)\}}", text())
    runs = config.load(examples.ROOT / "params.yaml").studies[study].runs
    assert len(told) > 4
    assert {run.format(name) for name in told} | {"vgg38_resnet_wd3"} == set(runs)


@pytest.mark.parametrize("study", ["controls", "controls_per_iteration"])
def test_each_network_of_the_controls_is_told_at_its_three_rates(study):
    settings = config.load(examples.ROOT / "params.yaml")
    told = re.findall(rf"\\threerates\{{{study}\}}\{{(\w+)\}}\{{(\w+)\}}\{{(\w+)\}}", text())
    shallow = [name for name in settings.studies[study].runs if name.startswith("vgg08_bn")]
    assert sorted(sum(map(list, told), shallow)) == sorted(settings.studies[study].runs)
    for names in told:
        runs = [settings.run(name) for name in names]
        assert [run.train.learning_rate for run in runs] == [1e-4, 1e-3, 1e-2]
        assert runs[0].model == runs[1].model == runs[2].model


@pytest.mark.parametrize(
    ("factor", "rate", "told"),
    [
        (5, 1e-4, r"$10^{-4}$ at five times"),
        (10, 2e-4, r"$2 \times 10^{-4}$ at ten"),
        (30, 6e-4, r"$6 \times 10^{-4}$ at thirty"),
        (100, 2e-3, r"$2 \times 10^{-3}$ at a hundred"),
    ],
)
def test_the_final_learning_rates_of_the_stress_study_are_those_configured(factor, rate, told):
    run = config.load(examples.ROOT / "params.yaml").run(f"vgg38_resnet_wd3_x{factor}")
    assert run.train.final_learning_rate == rate
    assert told in " ".join(text().split())


def test_every_run_of_the_common_table_that_diverged_is_told():
    core = config.load(examples.ROOT / "params.yaml").studies["core"].runs
    assert re.findall(r"\\divergednote\{([^{}#]+)\}", text()) == [run for run in core if not run.endswith("_it")]


def test_every_study_has_a_text_and_every_text_a_study():
    texts = {path.stem.removeprefix("study-") for path in (examples.ROOT / "report/sections").glob("study-*.tex")}
    assert texts == set(config.load(examples.ROOT / "params.yaml").studies)


def test_every_citation_has_its_entry_and_every_entry_its_citation():
    cited = re.findall(r"\\cite[a-z]*(?:\[[^]]*\])*\{([^{}]+)\}", text())
    entries = re.findall(r"@\w+\{([^,\s]+),", (examples.ROOT / "report" / "references.bib").read_text())
    assert len(entries) == len(set(entries))
    assert {key.strip() for keys in cited for key in keys.split(",")} == set(entries)


def test_every_label_that_the_text_points_to_exists():
    pointed = set(re.findall(r"\\(?:eq)?ref\{([^{}]+)\}", text()))
    studies = {f"study:{key}" for key in config.load(examples.ROOT / "params.yaml").studies}
    made = {"figure:agreement", "table:schedules"} | {f"why:{name}" for name in section.TITLES}
    made |= {f"dynamics:{key}" for key in re.findall(r"\\studydynamics\{(\w+)\}", text())}
    made |= {f"why:{name}/{item}" for name in section.TITLES for item in section.module(name).CAPTIONS}
    assert pointed <= set(re.findall(r"\\label\{([^{}]+)\}", text())) | studies | made


def test_no_label_of_the_text_is_that_of_a_study():
    made = re.findall(r"\\label\{([^{}#]+)\}", text())
    taken = {
        f"{kind}:{key}" for key in config.load(examples.ROOT / "params.yaml").studies for kind in ("study", "table")
    }
    assert len(made) == len(set(made))
    assert not taken & set(made)


@pytest.mark.parametrize("name", section.TITLES)
def test_every_part_on_causes_places_its_tables_and_figures_once(name):
    assert (examples.ROOT / "report" / "sections" / f"why-{name}.tex").read_text().count("\\whyfloats") == 1


def test_what_is_measured_in_training_is_held_against_chance_in_training():
    sections = examples.ROOT / "report" / "sections"
    studies = "".join(path.read_text() for path in sections.glob("study-*.tex"))
    assert r"\lossofchance" in studies
    assert r"\result{chance/loss}" not in studies
    assert r"\raw{chance/accuracy}" not in (sections / "why-effective_depth.tex").read_text()


def test_chance_is_defined_with_the_bounds_of_the_tables():
    words = " ".join(text().split())
    assert f"within {100 * aggregate.CHANCE_LOSS:g}\\,\\% of $\\ln K$" in words
    assert f"at most {100 * aggregate.CHANCE_ACCURACY:g} percentage points above" in words


def error(blocks: int, borders: bool = True) -> float:
    """Follow the error's second moment, a product of two profiles, from the last convolution to the first.

    All factors but 1/6 a layer and those of the borders are the same for any number of blocks.
    """
    profile = np.ones(4)
    layers = 0
    for width in (8, 16, 32):
        profile = _border(4 if width == 8 else width // 2, borders) @ profile  # a reduction block's second
        profile = np.repeat(profile, 2) / 2
        for _ in range(1 + 2 * blocks):
            profile = _border(width, borders) @ profile
        layers += 2 + 2 * blocks
    return math.sqrt(profile.sum() ** 2 / 6**layers)


def _border(width: int, borders: bool) -> np.ndarray:
    """Return the matrix by which a row of taps maps second moments, with zero padding or without borders."""
    near = np.eye(width) + np.eye(width, k=1) + np.eye(width, k=-1)
    if not borders:
        near[0, -1] = near[-1, 0] = 1
    return near / 3


def test_what_the_additional_layers_take_away_is_worked_out_right():
    kappa = {width: (1 + 2 * math.cos(math.pi / (width + 1))) / 3 for width in (32, 16, 8)}
    for width, factor in kappa.items():
        assert np.linalg.eigvalsh(_border(width, True)).max() == pytest.approx(factor)
        assert f"\\kappa_{{{width}}}^2 \\approx {factor**2:.3f}".replace("{8}", "8") in text()
    assert _border(8, True).sum() / 8 == pytest.approx(22 / 24)
    assert error(5, borders=False) / error(0, borders=False) == pytest.approx(6**-15)
    assert f"{6**-15:.1e}" == "2.1e-12"
    assert math.prod(kappa.values()) ** 10 == pytest.approx(0.57, abs=0.005)
    assert error(5) / error(0) / 6**-15 == pytest.approx(0.56, abs=0.005)
    assert f"{6**-15 * math.prod(kappa.values()) ** 10:.1e}" == "1.2e-12"
    assert (error(5) / error(0)) ** (1 / 30) == pytest.approx(0.40, abs=0.005)
