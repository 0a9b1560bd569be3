"""The page of results in a real browser: Debian's Chromium, driven by Playwright, looked over by axe-core."""

import csv
import math
import re
from pathlib import Path

import pandas as pd
import programs
import pytest

import examples
from vanishing import config, paths
from vanishing.report.page import render
from vanishing.results import store

RUNS = ("vgg08", "vgg38", "vgg38_bn", "vgg38_rc")
EPOCHS = 3


def write_results():
    """Write results of four runs of two studies, one with two seeds, and two analyses of one of them."""
    content = examples.content({"seeds": [0, 1]}, RUNS)
    content["studies"] = {
        "core": {"title": "Depth & <b>cures</b>", "runs": list(RUNS[:3])},
        "other": {"title": "Residual connections", "runs": ["vgg38_rc"]},
    }
    content["runs"]["vgg38_rc"]["train"] = {"learning_rate": 0.002}
    study = config.check(content)
    for at, run in enumerate(RUNS):
        examples.result(
            study, run, 0, val=(1.6, 0.1 * (at + 1)), epochs=EPOCHS, snapshots=(0, 1, EPOCHS), layers=8,
            # none has arrived at the first layer of vgg38
            gradient=lambda epoch, layer, run=run: 0.0 if (run, layer) == ("vgg38", 1) else 1e-3 * layer / (1 + epoch),
        )  # fmt: skip
    examples.result(study, "vgg08", 1, val=(1.6, 0.2), epochs=EPOCHS, snapshots=(0, 1, EPOCHS), layers=8)
    cuts = [("cut", 1 + number, x, math.nan, 2 + number + x * x) for number in (0, 1) for x in (-0.5, 0.0, 0.5)]
    grid = [("grid", math.nan, x, y, 2 + x * y) for x in (-0.5, 0.5) for y in (-0.5, 0.5)]
    landscape = pd.DataFrame(cuts + grid, columns=["kind", "direction", "x", "y", "loss"])
    store.write_table(paths.analysis("landscape", "vgg08", 0), landscape.assign(epoch=EPOCHS, statistics="batch"))
    moved = [(distance, 10 * distance, distance, 1 - distance) for distance in (1e-3, 1e-2)]
    smoothness = pd.DataFrame(moved, columns=["relative_distance", "relative_change", "loss_range", "cosine"])
    of_each = {"epoch": 0, "kind": "minibatch", "size": 10, "direction": "gradient"}
    store.write_table(paths.analysis("smoothness", "vgg08", 0), smoothness.assign(**of_each))
    render.write_page(study)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_results()
        yield render.TARGET.resolve().as_uri()


@pytest.fixture(scope="module")
def browser():
    programs.needs("chromium", "playwright", "axe_playwright_python")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # as root, in a container, Chromium has no sandbox
        browser = playwright.chromium.launch(executable_path=programs.found("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Return a function that opens the page; whatever the browser complains of or asks for fails the test."""
    contexts, complaints = [], []

    def open_page(width=1280, where=address, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "blob:")) or complaints.append(request.url))
        page.goto(where)
        for figure in ("start", "curves", "flow", "landscape", "surface", "smoothness"):
            page.wait_for_selector(f"#{figure} .made, #{figure} .none:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def downloaded(page, figure):
    """Return what a figure's button for CSV gives, as a list of dictionaries."""
    with page.expect_download() as download:
        page.click(f"#{figure} [data-save=csv]")
    assert re.fullmatch(f"{figure}(-[a-z0-9_]+)*.csv", download.value.suggested_filename)
    with Path(download.value.path()).open() as handle:
        return list(csv.DictReader(handle))


def heights(page, query):
    """Return how far below the top marks stand that are placed by translate(x,y)."""
    placed = page.eval_on_selector_all(query, "marks => marks.map((mark) => mark.getAttribute('transform'))")
    return [float(text.split(",")[1].rstrip(")")) for text in placed]


def column(page, table, head):
    """Return the texts of the shown cells of a column."""
    return page.evaluate(
        """([table, head]) => {
            const { tHead, tBodies } = document.getElementById(`${table}-table`);
            const at = [...tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === head);
            return [...tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[at].textContent);
        }""",
        [table, head],
    )


def test_a_slider_moves_the_gradient_flow_to_the_next_snapshot(opened):
    page = opened()
    lines = "#flow .made svg .mark-line path"
    before, rows = page.locator(lines).first.get_attribute("d"), downloaded(page, "flow")
    assert [float(row["mean"]) for row in rows if row["run"] == "vgg08"] == [1e-3 * layer for layer in range(1, 9)]
    assert [row["n"] for row in rows if row["layer"] == "1"] == ["2", "1"]
    assert [row["layer"] for row in rows if row["run"] == "vgg38"] == list("2345678")  # 0 has no place on a log axis
    page.focus("#epoch")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([query, old]) => document.querySelector(query)?.getAttribute('d') !== old", arg=[lines, before]
    )
    assert page.locator("output[for=epoch]").text_content() == "1"
    assert page.get_attribute("#epoch", "aria-valuetext") == "epoch 1"
    assert page.locator("#runs legend").text_content() == "Runs, 3 chosen"
    assert [float(row["mean"]) for row in downloaded(page, "flow") if row["run"] == "vgg08"] == [
        0.5e-3 * layer for layer in range(1, 9)
    ]


def test_curves_are_means_with_bands_over_the_seeds_of_the_runs_and_the_metric_that_are_chosen(opened):
    page = opened()
    rows = [row for row in downloaded(page, "curves") if row["run"] == "vgg08"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    # accuracies of 10 and 20 %: their standard deviation (n - 1) is 7.0711
    assert [[float(row[key]) for key in ("mean", "low", "high", "n")] for row in rows] == [
        pytest.approx([15, 15 - 50**0.5, 15 + 50**0.5, 2], rel=1e-5)
    ] * 3
    assert page.locator("#curves .made svg .mark-line path").count() == 3
    page.uncheck("#runs input[value=vgg38_bn]")
    page.wait_for_function("document.querySelectorAll('#curves .made svg .mark-line path').length === 2")
    page.select_option("#metric", "train_loss")
    page.wait_for_selector("#curves .made[aria-label^='training loss']")
    assert {row["mean"] for row in downloaded(page, "curves")} == {"1.5"}
    page.select_option("#metric", "val_accuracy")
    page.wait_for_selector("#curves .made[aria-label^='validation accuracy']")
    at, (guess,) = (
        heights(page, f"#curves .made .{kind}") for kind in ("mark-symbol.role-mark path", "mark-rule line")
    )
    fifteen, twenty = sorted(set(at), reverse=True)  # per cent, of vgg08 and vgg38
    assert guess - fifteen == pytest.approx(fifteen - twenty)  # the dotted line is at 10 %
    page.select_option("#study", "")
    assert page.locator("#runs input").count() == 4
    page.fill("#find", "rc")
    assert page.locator("#runs input").count() == 1
    page.click("#none")
    page.wait_for_selector("#curves .none:not([hidden])")
    assert page.locator("#curves .none").text_content() == "No run is chosen."


def test_landscape_and_smoothness_show_what_was_measured_and_say_where_nothing_was(opened):
    page = opened()
    cuts = downloaded(page, "landscape")
    assert [(float(row["step"]), float(row["mean"]), float(row["low"])) for row in cuts] == [
        (-0.5, 2.75, 2.25), (0, 2.5, 2), (0.5, 2.75, 2.25),
    ]  # fmt: skip
    assert [float(row["loss"]) for row in downloaded(page, "surface")] == [2.25, 1.75, 1.75, 2.25]
    assert page.locator("#surface .made svg .mark-rect.role-mark path").count() == 4
    assert [float(row["mean"]) for row in downloaded(page, "smoothness")] == [0.01, 0.1]
    page.select_option("#smoothness-measure", "cosine")
    page.wait_for_selector("#smoothness .made[aria-label^='cosine']")
    assert [float(row["mean"]) for row in downloaded(page, "smoothness")] == [0.999, 0.99]
    page.select_option("#study", "other")
    for figure in ("landscape", "surface", "smoothness"):
        page.wait_for_selector(f"#{figure} .none:not([hidden])")


def test_a_head_sorts_and_words_filter(opened):
    page = opened()
    head = page.locator("#results-table thead button", has_text="validation accuracy")
    head.click()
    assert column(page, "results", "validation accuracy") == ["15.00 ± 7.07", "20.00", "30.00", "40.00"]
    head.click()
    assert column(page, "results", "run") == ["vgg38_rc", "vgg38_bn", "vgg38", "vgg08"]
    assert page.locator("#results-table th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.fill("[data-filter=results]", "VGG38 0.001")
    assert column(page, "results", "run") == ["vgg38_bn", "vgg38"]
    assert page.locator("[data-count=results]").text_content() == "2 of 4 rows"
    page.fill("[data-filter=published]", "r5 does-not-exist")
    assert column(page, "published", "run") == []
    page.fill("[data-filter=published]", "")
    heads = page.locator("#published-table thead button").all_text_contents()
    assert {"published", "reproduced", "verdict"} <= set(heads)
    assert len(column(page, "published", "verdict")) > 100


def test_two_configurations_show_what_differs(opened):
    page = opened()
    page.select_option("#first", "vgg38")
    page.select_option("#second", "vgg38_rc")
    rows = page.locator("#configuration-table tbody tr")
    assert [re.split(r"\s+", text.strip()) for text in rows.all_inner_texts()] == [
        ["model.shortcut", "none", "identity"],
        ["train.learning_rate", "0.001", "0.002"],
    ]
    page.uncheck("#differences")
    assert rows.count() > 30


def test_two_runs_that_look_alike_are_told_apart_and_a_saved_figure_is_for_paper(opened):
    page = opened(color_scheme="dark")
    page.evaluate("data.looks.vgg38 = data.looks.vgg08; explore()")
    page.wait_for_function("document.querySelectorAll('#curves .made svg .mark-line path').length === 3")
    lines = "#curves .made svg .mark-line path"
    looks = page.eval_on_selector_all(
        lines, "lines => lines.map((line) => line.getAttribute('stroke') + line.getAttribute('stroke-dasharray'))"
    )
    assert len(set(looks)) == 3
    with page.expect_download() as download:
        page.click("#flow [data-save=svg]")
    assert download.value.suggested_filename == "flow-mean_abs_gradient-epoch0.svg"
    saved = Path(download.value.path()).read_text()
    assert saved.startswith("<svg")
    assert 'fill="white"' in saved
    assert "#e6edf3" not in saved


def test_links_lead_to_parts_of_the_page_and_titles_are_text(opened):
    page = opened()
    targets = page.eval_on_selector_all("a", "links => links.map((link) => link.getAttribute('href'))")
    assert len(targets) == 6
    for target in targets:
        assert page.locator(target).count() == 1
    page.click("nav a[href='#results']")
    assert page.evaluate("document.querySelector('#results').getBoundingClientRect().top") < 100
    assert "core: Depth & <b>cures</b>" in page.locator("#study option").all_text_contents()
    assert page.locator("#study b, option b").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_the_page_is_accessible_and_fits_wide_and_narrow_light_and_dark(opened, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(width, color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_the_keyboard_reaches_every_control(opened):
    page = opened()
    controls = "a, button, input, select, [tabindex]"
    usable = "filter((each) => each.checkVisibility() && !each.disabled)"
    wanted = page.evaluate(f"[...document.querySelectorAll('{controls}')].{usable}.length")
    reached = set()
    for _ in range(2 * wanted):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"[...document.querySelectorAll('{controls}')].indexOf(document.activeElement)"))
    assert len(reached - {-1}) == wanted > 40


def test_without_scripts_the_answer_and_the_tables_are_there(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert "the plain network of 8 layers" in page.locator("#answer").inner_text()
    assert page.locator("#results-table tbody tr").count() == 4
    context.close()


def test_a_study_without_results_has_a_page_that_says_so(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    render.write_page(examples.study())
    page = opened(where=render.TARGET.resolve().as_uri())
    assert page.locator("#answer > p").all_inner_texts() == [
        "These are results on the generated set, not on CIFAR-100.",
        "0 of the study's 2 trainings are complete.",
    ]
    assert page.locator("#start .none").inner_text() == "No network has been measured yet."
    assert page.locator("#runs input").count() == 0
