"""The checks of results: each passes good results, and fails where what it is about is broken."""

import json
import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

import examples
from vanishing import cli, config, paths
from vanishing.results import checks, store
from vanishing.verify import run as verification
from vanishing.verify.mismatch import Scope

RUNS = ["vgg08", "vgg38", "vgg38_bn"]
GUESS = math.log(10)
COMPLETE = "snapshots 0 1 2, plain and augmented images, 4 weight layers"
HISTORY, SUMMARY, GRADIENTS = paths.result_files("vgg08", 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs with two seeds: one learns, the deep plain one does not, one seed of the last diverged."""
    content = examples.content({"seeds": [0, 1]}, RUNS)
    settings = config.check(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        Path("params.yaml").write_text(yaml.safe_dump(content))
        for seed in (0, 1):
            examples.result(settings, "vgg08", seed)
            examples.result(settings, "vgg38", seed, (GUESS, 0.1), (GUESS, 0.1), (GUESS, 0.1), layers=38)
            examples.result(settings, "vgg38_bn", seed)
        examples.result(settings, "vgg38_bn", 1, (math.nan, 0.02), (math.nan, 0.1), epochs=1, snapshots=(0,))
        return settings, Path.cwd()


@pytest.fixture(autouse=True)
def study(made, tmp_path, monkeypatch):
    """A copy of them to damage."""
    settings, folder = made
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "study"))
    return settings


def check(capsys):
    """Run the command: exit code, the findings, the last line."""
    paths.CHECKS.write_text("of an earlier time")
    code = cli.main(["check"])
    lines = capsys.readouterr().err.splitlines()
    assert code == (0 if not lines else 1)
    assert paths.CHECKS.exists() == (code == 0)
    return lines


def only(capsys):
    """Return the only finding."""
    *told, last = check(capsys)
    assert re.match(rf"vanishing check: {len(told)} of \d\d checks fail; `vanishing verify` names ", last)
    assert len(told) == 1, told
    return told[0]


def edit(path, **changes):
    """Change a summary."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *parts, last = key.split("__")
        (content[parts[0]] if parts else content)[last] = value
    path.write_text(json.dumps(content))


def history(run="vgg08", seed=0, **columns):
    """Change columns of the last row of a history."""
    path = paths.results(run, seed) / "history.csv"
    table = pd.read_csv(path).astype(float)
    for column, value in columns.items():
        table.loc[len(table) - 1, column] = value
    table.to_csv(path, index=False, na_rep="nan")
    examples.sign(run, seed)


def test_good_results_have_a_row_for_each_check_and_what_it_is_about(study, capsys):
    assert check(capsys) == []
    found = pd.read_csv(paths.CHECKS, dtype=str, keep_default_na=False)
    assert list(found) == ["check", "study", "run", "seed", "expected", "found"]
    counts = found.check.value_counts().to_dict()
    jobs = {"results", "epochs", "accuracies", "gradients"}
    assert counts == dict.fromkeys(jobs, 6) | {"losses": 5, "chance": 2, "learning": 3, "rows": 1}
    rows = {(row.check, row.run, row.seed): (row.expected, row.found) for row in found.itertuples()}
    assert rows["gradients", "vgg38", "1"] == ("snapshots 0 1 2, plain and augmented images, 38 weight layers",) * 2
    assert rows["gradients", "vgg38_bn", "1"] == ("snapshots 0, plain and augmented images, 4 weight layers",) * 2
    assert rows["losses", "vgg38", "1"] == ("finite",) * 2
    assert ("losses", "vgg38_bn", "1") not in rows, "it diverged"
    assert rows["rows", "", ""] == ("3 runs, 6 trainings",) * 2
    # 0.1 + 3 sqrt(0.1 0.9 / 50), and 0.1 - 6 sqrt(0.1 0.9 / 150) is less than nothing
    assert rows["chance", "vgg38", "0"] == ("validation accuracy of at most 0.2273", "0.1")
    assert rows["learning", "vgg08", "0"] == ("training accuracy of at least 0", "0.5")


def test_the_same_results_give_the_same_bytes(study):
    checks.write_checks(study)
    first = paths.CHECKS.read_bytes()
    checks.write_checks(study)
    assert paths.CHECKS.read_bytes() == first


def test_a_training_that_stopped_early_has_the_epochs_and_snapshots_of_its_summary(study, capsys):
    examples.result(study, "vgg08", 0, epochs=1, snapshots=(0, 1), status="stopped early")
    assert check(capsys) == []
    edit(SUMMARY, status="completed")
    assert [line.partition(" of vgg08")[0] for line in check(capsys)[:-1]] == ["epochs", "gradients"]


@pytest.mark.parametrize("lost", ["history.csv", "summary.json", "gradients.csv"])
def test_a_missing_result_is_named_and_counted(lost, capsys):
    (paths.results("vgg38", 1) / lost).unlink()
    assert check(capsys)[:-1] == [
        f"results of vgg38 seed 1: found no {lost} in results/runs/vgg38/seed1, expected {checks.COMPLETE}",
        "rows of core: found 3 runs, 5 trainings, expected 3 runs, 6 trainings",
    ]


def test_results_of_another_configuration_do_not_count(study, capsys):
    other = config.check(examples.content({"seeds": [0, 1], "train": {"epochs": 3}}, RUNS))
    examples.result(other, "vgg08", 0, epochs=3, snapshots=(0, 1, 3))
    told = check(capsys)
    assert "found another configuration in results/runs/vgg08/seed0, " in told[0]
    assert told[1] == "rows of core: found 3 runs, 5 trainings, expected 3 runs, 6 trainings"


@pytest.mark.parametrize("path", [HISTORY, SUMMARY, GRADIENTS], ids=lambda path: path.name)
def test_a_damaged_result_is_named_without_a_traceback(path, capsys):
    path.write_text("{")
    told = check(capsys)
    assert re.match(rf"results of vgg08 seed 0: found {path}: cannot be read \(", told[0])
    assert len(told) == 3


def test_a_non_finite_loss_needs_a_summary_that_says_diverged(capsys):
    history(train_loss=math.inf)
    told = check(capsys)
    expected = f"{HISTORY}: its last losses do not fit the summary's 'completed'; build both again"
    assert told[0] == f"results of vgg08 seed 0: found {expected}, expected {checks.COMPLETE}"


def test_a_summary_that_says_diverged_needs_a_non_finite_loss(capsys):
    edit(SUMMARY, status="diverged")
    assert "its last losses do not fit the summary's 'diverged'" in check(capsys)[0]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_non_finite_loss_in_a_summary_is_found(part, capsys):
    edit(SUMMARY, **{f"{part}__loss": None})
    assert only(capsys) == f"losses of vgg08 seed 0: found non-finite in {part}, expected finite"


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("val_accuracy", 0.41, "val 2: 0.41"),  # 20.5 of 50 images
        ("train_accuracy", 0.503, "train 2: 0.503"),  # 75.45 of 150
    ],
)
def test_an_accuracy_of_no_whole_number_of_images_is_named(column, value, named, capsys):
    history(**{column: value})
    expected = "shares of 150 training, 50 validation and 300 test images"
    assert only(capsys) == f"accuracies of vgg08 seed 0: found {named}, expected {expected}"


@pytest.mark.parametrize(
    ("column", "value"), [("val_accuracy", 1.02), ("train_accuracy", -0.02), ("train_accuracy", math.nan)]
)
def test_an_accuracy_that_is_no_share_is_no_result(column, value, capsys):
    history(**{column: value})
    assert re.match(rf"results of vgg08 seed 0: found {HISTORY}: cannot be read \(.*accuracy", check(capsys)[0])


def test_a_test_accuracy_of_no_whole_number_of_images_is_named(capsys):
    edit(SUMMARY, test__accuracy=0.3001)
    assert "found test: 0.3001, expected shares " in only(capsys)


def test_a_short_last_minibatch_weighs_its_images_more():
    """The mean over minibatches of 40, 40, 40 and 30 is then of no whole number of images."""
    whole = config.check(examples.content({"train": {"batch_size": 40}}, RUNS))
    examples.result(whole, "vgg08", 0, train=(1.5, (0.5 + 0.5 + 0.5 + 1 / 30) / 4))
    answer = checks.accuracies(store.read("vgg08", 0), whole.run("vgg08"))
    assert answer[2]
    found = checks.accuracies(store.read("vgg08", 0), examples.study().run("vgg08"))
    assert not found[2]


def test_an_epoch_that_is_missing_is_found(capsys):
    HISTORY.write_text("".join(HISTORY.read_text().splitlines(keepends=True)[:2]))
    edit(SUMMARY, epochs=1)
    examples.sign("vgg08")
    assert only(capsys) == "epochs of vgg08 seed 0: found 1 to 1, expected 1 to 2"


def test_a_training_longer_than_configured_is_found(study, capsys):
    examples.result(study, "vgg08", 0, epochs=3, status="stopped early")
    assert only(capsys) == "epochs of vgg08 seed 0: found 1 to 3, expected 1 to 2"


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        (r"^2,", "snapshots 0 1, plain and augmented images, 4 weight layers"),
        (",augmented,", "snapshots 0 1 2, plain images, 4 weight layers"),
        (",layer4,", "snapshots 0 1 2, plain and augmented images, 3 weight layers"),
    ],
)
def test_gradients_are_of_all_snapshots_kinds_of_images_and_weight_layers(lost, found, capsys):
    lines = GRADIENTS.read_text().splitlines(keepends=True)
    GRADIENTS.write_text("".join(line for line in lines if not re.search(lost, line)))
    assert only(capsys) == f"gradients of vgg08 seed 0: found {found}, expected {COMPLETE}"


def test_a_deep_plain_network_that_learns_is_found(capsys):
    history("vgg38", 1, val_accuracy=0.22)  # at most 0.2273
    assert check(capsys) == []
    history("vgg38", 1, val_accuracy=0.24)
    assert only(capsys) == "chance of vgg38 seed 1: found 0.24, expected validation accuracy of at most 0.2273"


@pytest.mark.parametrize(
    ("model", "layers", "plain"),
    [
        ({}, 38, True),
        ({"blocks": 10}, 68, True),
        ({"filters": 64}, 38, True),
        ({}, 37, False),
        ({"norm": "batch"}, 38, False),
        ({"shortcut": "identity"}, 38, False),
        ({"shortcut": "dense"}, 38, False),
        ({"reduction_shortcut": "pool"}, 38, False),
        ({"initialisation": "he"}, 38, False),
        ({"gradient_amplification": 2.0}, 38, False),
        ({"activation": "tanh"}, 38, False),
    ],
)
def test_plain_is_what_has_no_cure_at_all(model, layers, plain):
    study = examples.study({"model": model})
    examples.result(study, "vgg38", layers=layers)
    raw, run = store.read("vgg38", 0), study.run("vgg38")
    assert (checks.chance(raw, run) is not None) == plain
    assert (checks.learning(raw, run) is None) == plain


def test_a_training_below_chance_is_found():
    """Of 100 classes and 47,500 images, 475 minibatches of 100: 0.01 - 6 sqrt(0.01 0.99 / 47500) = 0.00726."""
    real = config.load(examples.ROOT / "params.yaml")
    for accuracy, sound in ((0.0073, True), (0.0072, False)):
        examples.result(real, "vgg08", train=(4.6, accuracy))
        answer = checks.learning(store.read("vgg08", 0), real.run("vgg08"))
        assert answer == ("training accuracy of at least 0.007261", f"{accuracy}", sound)


def test_a_short_minibatch_makes_the_training_accuracy_less_sure():
    """Four minibatches of which one has 8 images, as in the tiny catalogue: 0.072 and 0.065 were measured there."""
    overlay = {"data": {"validation_per_class": 10, "generated": {"train_per_class": 90}}, "train": {"batch_size": 264}}
    study = examples.study(overlay)
    examples.result(study, "vgg08", train=(2.3, 0.0653))
    expected, _, sound = checks.learning(store.read("vgg08", 0), study.run("vgg08"))
    # 0.1 - 6 sqrt(0.09 (3 / 264 + 1 / 8) / 16) < 0
    assert (expected, sound) == ("training accuracy of at least 0", True)


def test_three_classes_and_twelve_validation_images_are_enough():
    overlay = {
        "data": {"generated": {"classes": 3, "train_per_class": 14, "test_per_class": 5}, "validation_per_class": 4},
        "train": {"batch_size": 8},
    }
    study = examples.study(overlay)
    examples.result(study, "vgg08", train=(1.1, 0.28), val=(1.1, 1 / 3), test=(1.1, 7 / 15))
    examples.result(study, "vgg38", train=(1.1, 0.28), val=(1.1, 5 / 12), test=(1.1, 2 / 15), layers=38)
    checks.write_checks(study)
    assert paths.CHECKS.exists()


def test_verify_compares_the_recorded_checks_unless_results_do_not_match(study):
    assert list(verification.checked(Scope(study))) == []
    checks.write_checks(study)
    assert list(verification.checked(Scope(study))) == []
    paths.CHECKS.write_text(paths.CHECKS.read_text().replace("0.1\n", "0.2\n", 1))
    (finding,) = verification.checked(Scope(study))
    told = "found other bytes, expected what the checks give (done again); next: `vanishing check`"
    assert f"{finding}" == f"results/checks.csv: {told}"
    scope = Scope(study, mismatched={HISTORY})
    assert list(verification.checked(scope)) == []
    assert scope.notes == ["results/checks.csv: not compared, because some results do not match their records"]


def test_every_check_has_a_row_or_a_reason(study):
    names = {check.__name__ for check in checks.CHECKS}
    found = {verdict.check for verdict in checks.verdicts(study)}
    assert found == names | {"results", "rows"}
    assert all(check.__doc__ for check in checks.CHECKS)
