"""The page of results as a file; `tests/integration/test_page_in_browser.py` opens it."""

import base64
import hashlib
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

import examples
from vanishing import config
from vanishing.report.page import answer, content, render
from vanishing.results import aggregate, published, store

RUNS = ("vgg08", "vgg38", "vgg38_bn", "vgg38_rc", "vgg38_bn_rc")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(study):
    """Return the sentences of the answer to a study."""
    studies = aggregate.collect(study)
    return answer.sentences(study, studies, published.value_claims(study, studies))


def test_the_answer_says_what_depth_does_and_what_cures_it():
    study = examples.study({"seeds": [0, 1]}, RUNS)
    for seed in (0, 1):
        examples.result(study, "vgg08", seed, test=(1.7, 0.30 + 0.02 * seed), layers=8)
        examples.result(
            study, "vgg38", seed, train=(math.log(10), 0.1), val=(math.log(10), 0.1), test=(math.log(10), 0.1),
            layers=38, gradient=lambda _, layer: 10.0 ** (layer - 38),
        )  # fmt: skip
        examples.result(study, "vgg38_bn_rc", seed, test=(1.7, 0.5), layers=38, gradient=lambda *_: 2e-3)
    assert said(study) == [
        "After 2 epochs, the plain network of 38 layers classifies 10.00 ± 0.00 % of the test images of the generated "
        "set correctly, no better than a guess (10 %). The one of 8 layers reaches 31.00 ± 1.41 %.",
        "The same 38 layers reach 50.00 ± 0.00 % with both.",
        "No training with batch normalisation alone or residual connections alone is complete yet.",
        "Before training, the mean absolute gradient of the first layer, over that of the last, is 1.0·10⁻³⁷ in the "
        "plain network and 1 with both.",
        "Accuracies are means over up to 2 trainings, with their standard deviation (n - 1).",
        "6 of the study's 10 trainings are complete.",
    ]


def test_one_training_has_no_spread_and_a_network_that_learns_is_not_at_chance():
    study = examples.study({"train": {"epochs": 1}}, RUNS)
    examples.result(study, "vgg38", test=(1.7, 0.3), epochs=1, layers=38)
    first, *_, certainty, _ = said(study)
    assert first == (
        "After 1 epoch, the plain network of 38 layers classifies 30.00 % of the test images of the generated set "
        "correctly; a guess, 10 %."
    )
    assert certainty == "Each accuracy is that of one training: how much another seed would change it is not known yet."


def test_the_cures_are_those_of_the_longest_trainings_where_the_plain_network_has_only_a_short_one():
    short = [f"{run}_short" for run in ("vgg08", "vgg38", "vgg38_bn")]
    overlay = {
        "runs": {run: {"train": {"epochs": 1}} for run in short},
        "studies": {"short": {"title": "Short", "runs": short}},
    }
    study = examples.study(overlay, RUNS)
    for run, accuracy in zip(short, (0.2, 0.1, 0.25), strict=True):
        examples.result(
            study, run, train=(math.log(10), 0.1), val=(math.log(10), 0.1), test=(1.7, accuracy), epochs=1, layers=38
        )
    studies = aggregate.collect(study)
    assert answer.comparing(studies) == answer.answering(studies) == "short"
    assert said(study)[1] == "The same 38 layers reach 25.00 % with batch normalisation alone."
    examples.result(study, "vgg08", test=(1.7, 0.3), layers=8)
    examples.result(study, "vgg38_bn", test=(1.7, 0.5), layers=38)
    assert answer.comparing(aggregate.collect(study)) == "core"
    assert said(study)[:2] == [
        "After 1 epoch, the plain network of 38 layers classifies 10.00 % of the test images of the generated set "
        "correctly, no better than a guess (10 %). The one of 38 layers reaches 20.00 %.",
        "After 2 epochs, the same 38 layers reach 50.00 % with batch normalisation alone. The one of 8 layers reaches "
        "30.00 %.",
    ]


def test_without_the_deep_plain_network_the_page_ranks_the_runs_of_a_study():
    study = examples.study(runs=RUNS)
    examples.result(study, "vgg08")
    assert said(study) == ["1 of the study's 5 trainings are complete."]
    examples.result(study, "vgg38_bn", test=(1.7, 0.5))
    assert said(study) == [
        "Depth: 50.00 % for vgg38_bn and 30.00 % for vgg08 of the test images are classified correctly.",
        "Each accuracy is that of one training: how much another seed would change it is not known yet.",
        "2 of the study's 5 trainings are complete.",
    ]
    assert answer.answering({}) is None


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.1e-15, "1.1·10⁻¹⁵"), (0.0741, "0.074"), (10.2, "10"), (176.0, "180"), (2.34e4, "2.3·10⁴")]
)
def test_a_ratio_far_from_1_is_a_power_of_ten(ratio, text):
    assert answer._power(ratio) == text


def shown():
    """Write the page of a study with one run more than it has results of, and return its text and its data."""
    study = examples.study({"studies": {"core": {"title": "A & B"}}}, RUNS)
    examples.result(study, "vgg08")
    examples.result(study, "vgg38", train=(float("nan"), 0.1), status="diverged")
    render.write_page(study)
    text = render.TARGET.read_text()
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_same_results_give_the_same_bytes():
    assert shown()[0] == shown()[0]


def test_data_has_what_was_measured_and_nothing_that_json_has_not():
    _, data = shown()
    of_run = {training["run"]: training for training in data["trainings"]}
    assert of_run["vgg08"]["history"]["train_loss"] == [1.5, 1.5]
    assert of_run["vgg38"]["history"]["train_loss"] == [None, None]
    assert of_run["vgg08"]["snapshots"] == [0, 1, 2]
    assert of_run["vgg08"]["flow"] == {  # layer / (1 + epoch) thousandths, weight layers on plain images
        "mean_abs_gradient": [[0.001, 0.002, 0.003, 0.004], [0.0005, 0.001, 0.0015, 0.002],
                              [0.0003333, 0.0006667, 0.001, 0.001333]],
    }  # fmt: skip
    assert (data["shared"] | data["configurations"]["vgg08"])["train.learning_rate"] == "0.001"
    assert data["configurations"]["vgg38_rc"] == {
        "model.blocks": "5",
        "model.norm": "none",
        "model.shortcut": "identity",
    }
    assert data["studies"] == [{"key": "core", "title": "A & B", "runs": ["vgg08", "vgg38"]}]


def test_the_policy_allows_the_scripts_and_the_style_of_the_page_by_their_hashes_and_nothing_else():
    text, _ = shown()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"

    def hashes(tag):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found]

    assert rules["script-src"].split() == hashes("script")
    assert rules["style-src"].split() == hashes("style")
    assert "unsafe" not in policy


def test_what_a_name_or_a_title_holds_is_text():
    rows = ([["</script><b>"]], [[("</script><b>", "</script><b>")]])
    said = {"images": "<b>", "real": False, "sentences": ["<b>"], "results": rows, "published": rows}
    text = render.page({"title": "</script><b>"}, **said)
    body = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    assert "<b>" not in body
    assert '{"title":"\\u003c/script>\\u003cb>"}' in body


def test_tables_sort_by_numbers_and_what_is_missing_is_empty():
    study = examples.study(runs=("vgg08", "vgg38"))
    examples.result(study, "vgg08", val=(1.6, 0.4321))
    examples.result(study, "vgg38", train=(float("nan"), 0.1), status="diverged")
    studies = aggregate.collect(study)
    head, rows = render._results(studies["core"])
    of_claims, claims = render._published(published.value_claims(study, studies))
    at = head.index("validation accuracy")
    assert rows[0][at] == ("43.21", pytest.approx(0.4321))
    assert rows[1][at] == ("-", "")
    assert rows[1][head.index("n")] == ("0, 1 diverged (epoch 2)", 0)
    assert {claim[of_claims.index("verdict")][0] for claim in claims} == {
        "not run",
        "other settings",
    }  # they trained on CIFAR-100


def test_the_whole_catalogue_stays_below_8_megabytes():
    """With every seed of every run, as many epochs and layers as each has, and random digits, which are the longest."""
    study, draw = config.check(examples.PROJECT), np.random.default_rng(0).random
    results = {}
    for run, seed in study.jobs():
        configured = study.run(run)
        epochs, layers = configured.train.epochs, 8 if run.startswith("vgg08") else 150 if "150" in run else 39
        history = pd.DataFrame(draw((epochs, 6)), columns=store.HISTORY_COLUMNS).assign(epoch=range(1, epochs + 1))
        snapshots = [0, *configured.train.snapshot_epochs]
        flow = pd.DataFrame({
            "epoch": np.repeat(snapshots, layers), "images": "plain", "layer": [*range(1, layers + 1)] * len(snapshots),
            "kind": "convolution", "name": "stage1.reduction.conv1",
            **{measure: 1e-9 * draw(layers * len(snapshots)) for measure in content.FLOW},
        })  # fmt: skip
        summary = {"layers": layers, "parameters": 1, "status": "completed"}
        results.setdefault(run, []).append(store.Result(run, seed, summary, history, flow))
    found = content.gather(study, results)
    assert len(found["trainings"]) == len(list(study.jobs()))
    page = render.page(found, images="", real=True, sentences=[], results=([], []), published=([], []))
    assert 2e6 < len(page.encode()) < 7e6  # a megabyte is left for the tables and the analyses
