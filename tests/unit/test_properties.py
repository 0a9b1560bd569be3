"""What holds of any input, tried on those that hypothesis thinks of."""

from __future__ import annotations

import hashlib
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import examples
from vanishing import config
from vanishing.config import ParameterError
from vanishing.data.records import Split, canonical, content_hash, hold_out
from vanishing.results import aggregate

# The canonical order

images = st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=2, max_size=2), st.integers(0, 3070)), min_size=1)


def split(records: list[tuple[int, bytes, int]]) -> Split:
    """Images of zeros but for two bytes, of which many are equal or nearly so."""
    pixels = np.zeros((len(records), 3072), np.uint8)
    for row, (_, content, place) in zip(pixels, records, strict=True):
        row[place : place + 2] = list(content)
    return Split(pixels.reshape(-1, 3, 32, 32), np.array([label for label, _, _ in records], np.uint8))


def listed(found: Split) -> list[bytes]:
    return [bytes([label]) + image.tobytes() for label, image in zip(found.labels, found.images, strict=True)]


@given(images, st.randoms(use_true_random=False))
def test_any_permutation_gives_the_same_arrays(records, random):
    shuffled = random.sample(records, len(records))
    expected = sorted(listed(split(records)))  # Python's order of bytes, the independent path
    assert listed(canonical(split(shuffled))) == expected
    assert content_hash(split(shuffled)) == hashlib.sha256(b"".join(expected)).hexdigest()
    columns = Split(np.asfortranarray(split(shuffled).images), split(shuffled).labels)
    assert listed(canonical(columns)) == expected
    assert listed(canonical(canonical(split(records)))) == expected


@given(images, st.integers(0, 2**31 - 1), st.randoms(use_true_random=False))
def test_what_is_held_out_and_what_is_kept_are_the_whole_in_canonical_order(records, seed, random):
    labels = [label for label, _, _ in records]
    assume(all(labels.count(label) > 1 for label in labels))
    parts = hold_out(split(records), 1, seed)
    shuffled = hold_out(split(random.sample(records, len(records))), 1, seed)
    assert [listed(part) for part in parts] == [listed(part) for part in shuffled]
    assert sorted(listed(parts[0]) + listed(parts[1])) == sorted(listed(split(records)))
    assert parts[1].labels.tolist() == sorted(set(labels))
    assert all(listed(part) == sorted(listed(part)) for part in parts)


# The parameters

BASE = examples.content()
BLOCKS = [(), ("data",), ("data", "generated"), ("model",), ("train",), ("gradients",), ("studies", "core")]
BLOCKS += [("runs", "vgg08"), ("runs", "vgg08", "model")]
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


def placed(path: tuple[str, ...], key: str, value: Any) -> dict[str, Any]:
    """Return the small study's parameters with a value put in a block."""
    base = config.merge(BASE, {"runs": {"vgg08": {"model": {}}}})
    block = base
    for part in path:
        block[part] = dict(block[part])
        block = block[part]
    block[key] = value
    return base


def allowed(path: tuple[str, ...]) -> set[str]:
    """Name the keys of a block."""
    block: Any = BASE
    if path[:1] == ("runs",):
        return {"data", "model", "train"} if len(path) == 2 else set(config.Model.model_fields)
    for part in path:
        block = block[part]
    return set(config.Study.model_fields) if path[:1] == ("studies",) else set(block)


@given(st.sampled_from(BLOCKS), st.text(max_size=80), plain)
def test_an_unknown_key_is_always_refused_by_name_in_one_line(path, key, value):
    assume(key not in allowed(path))
    with pytest.raises(ParameterError) as raised:
        config.check(placed(path, key, value))
    line = str(raised.value)
    assert line.isprintable()
    assert "unknown key" in line
    if key.isprintable() and 0 < len(key) <= 60:
        assert f"{'.'.join((*path, key))} = " in line


@given(st.data())
def test_any_value_is_taken_or_refused_in_one_line(data):
    path = data.draw(st.sampled_from(BLOCKS))
    content = placed(path, data.draw(st.sampled_from(sorted(allowed(path)))), data.draw(plain))
    try:
        checked = config.check(content)
    except ParameterError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1000
    else:
        assert config.check(checked.model_dump(mode="json")) == checked


rates = st.floats(1e-300, 1e300)
models = st.fixed_dictionaries({}, optional={
    "stages": st.integers(1, 4), "blocks": st.integers(0, 1000), "filters": st.sampled_from([8, 32, 4096]),
    "norm": st.sampled_from(["none", "batch", "group"]), "shortcut": st.sampled_from(["none", "identity"]),
    "kernel_size": st.sampled_from([3, 5]),
})  # fmt: skip
trains = st.fixed_dictionaries({"final_learning_rate": st.just(0.0)}, optional={
    "epochs": st.integers(1, 2**20 - 1), "learning_rate": rates, "weight_decay": rates,
    "snapshots": st.lists(st.integers(1, 10**9)), "precision": st.sampled_from(["fp32", "tf32", "bf16"]),
    "schedule": st.sampled_from(["cosine_per_epoch", "cosine_per_iteration", "constant"]),
})  # fmt: skip
splits = st.fixed_dictionaries({"seed": st.integers(0, 2**31 - 1)})
names = st.from_regex(r"[a-z][a-z0-9_]{0,59}", fullmatch=True)
runs_of_any_kind = st.dictionaries(
    names,
    st.fixed_dictionaries({}, optional={"data": splits, "model": models, "train": trains}),
    min_size=1,
    max_size=3,
)
titles = st.from_regex(config.LATIN.replace("]*$", "]{1,120}"), fullmatch=True)


@example({"a": {}}, "0E0", [0])
@example({"a": {}}, "1:40", [0])
@given(runs_of_any_kind, titles, st.lists(st.integers(0, 2**31 - 1), min_size=1, unique=True))
def test_parameters_survive_a_file(runs, title, seeds):
    content = examples.content(runs=list(runs)) | {"runs": runs, "seeds": seeds}
    content["studies"] = {"core": {"title": title, "runs": list(runs)}}
    checked = config.check(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(config.text(checked.model_dump(mode="json")), encoding="utf-8")
        again = config.load(path)
    assert again == checked
    assert [again.run(run).configuration() for run in runs] == [checked.run(run).configuration() for run in runs]


# The table arithmetic


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_a_spread_is_that_of_the_statistics_module(values):
    cell = aggregate.spread(values)
    assert cell.mean == pytest.approx(statistics.mean(values), rel=1e-12, abs=1e-9)
    assert cell.std == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-9)


@given(st.floats(-1e6, 1e6))
def test_one_value_has_no_spread(value):
    cell = aggregate.spread([value])
    assert cell.mean == value
    assert math.isnan(cell.std)
    assert math.isnan(aggregate.spread([]).mean)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_seeds_changes_no_printed_digit(values, random):
    shuffled = aggregate.spread(random.sample(values, len(values)))
    assert shuffled.mean == pytest.approx(aggregate.spread(values).mean, rel=1e-12)
    assert shuffled.std == pytest.approx(aggregate.spread(values).std, rel=1e-6, abs=1e-9, nan_ok=True)
