"""`vanishing verify`: compares every file with every record of it.

Records are the hashes in a summary, `dvc.lock`, git's last commit, and the checksum inside a checkpoint; what none of
them covers is measured or built again. The checks do not depend on one another, and each yields its mismatches.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vanishing import config, files, git, paths
from vanishing.console import say
from vanishing.data import dataset, records, synthetic
from vanishing.data.cifar100 import CIFAR100, Expected
from vanishing.data.records import Split, canonical, content_hash, hold_out, joined
from vanishing.engines import catalogue
from vanishing.errors import UserError
from vanishing.results import checks, store
from vanishing.training import checkpoints
from vanishing.verify import dvc_lock, rebuild, remeasure
from vanishing.verify.mismatch import Mismatch, Record, Scope, guarded, printable, problem, remove

Check = Callable[[Scope], Iterator[Mismatch]]


def verify(settings: config.Parameters, every: bool = False) -> None:
    """Print every file that does not match a record, and what could not be checked.

    Args:
        settings: of the study.
        every: evaluate the best weights of all trainings and measure all gradient flow again. By default this is a
            sample of the trainings, and the gradient flow that no record covers.

    Raises:
        UserError: a file does not match.
    """
    scope = Scope(settings, every, (git.restores, dvc_lock.restores))
    for mismatch in _mismatches(scope):
        if mismatch.path not in scope.mismatched:  # damaged weights are found by several checks; the first says most
            scope.mismatched.add(mismatch.path)
            print(mismatch, flush=True)
    for note in scope.notes:
        say(printable(note))
    counts = f"{len(scope.compared)} files compared, {scope.tested} measurements repeated"
    if left := _left(scope):
        counts += f", {len(left)} files here not compared"
    if scope.mismatched:
        number = len(scope.mismatched)
        raise UserError(f"{number} {'file does' if number == 1 else 'files do'} not match; {counts}")
    print(f"no mismatch; {counts}")


def _mismatches(scope: Scope) -> Iterator[Mismatch]:
    """Yield the mismatches of all checks; if a file stops a check, name the file and go on with the next check."""
    for check in CHECKS:
        try:
            yield from check(scope)
        except (UserError, OSError) as error:
            named = error.filename if isinstance(error, OSError) else str(error).partition(": ")[0]
            path = Path(named or check.__name__)
            yield Mismatch(path, "what can be read", problem(path, error), f"ls -ld {shlex.quote(str(path))}")


def summaries(scope: Scope) -> Iterator[Mismatch]:
    """Compare history and checkpoints with the hashes in each `summary.json`."""
    _, broken = scope.read
    yield from broken
    for record in scope.records:
        scope.compared.add(record.path)
        if not record.trajectory.exists():
            scope.notes.append(f"{record.trajectory}: not here, not compared; `dvc pull` brings what was pushed")
        for name, digest in record.summary["files"].items():
            path = paths.trained(record.run, record.seed, name)
            if path.exists():
                yield from scope.compare(path, digest, str(record.path), record.command)
            elif path.parent.exists():
                command = scope.mend(path, digest, record.command)
                yield Mismatch(path, f"{digest} ({record.path})", "nothing", command)
        for path in sorted(record.trajectory.glob("*.safetensors")):
            if path.name not in record.summary["files"]:
                yield Mismatch(path, f"no such file ({record.path})", "one", remove(path))


def histories(scope: Scope) -> Iterator[Mismatch]:
    """Compare the metrics of each summary with the history that it stands for."""
    for record in scope.records:
        path = record.folder / "history.csv"
        if path not in scope.mismatched and path.exists():
            yield from guarded(path, record.command, _history(record, path))


def images(scope: Scope) -> Iterator[Mismatch]:
    """Compare the data file with each summary's hash, and its images with those that it must hold."""
    block = scope.settings.data
    path, command = block.path, "vanishing data"
    if not path.exists():
        scope.notes.append(f"{path}: not here, not compared; `{command}` makes it")
        return
    for record in scope.current:
        yield from scope.compare(path, record.summary["data"]["sha256"], str(record.path), command)
    scope.compared.add(path)
    try:
        arrays = dataset.load(path)
        records.check(arrays, block)
    except (UserError, OSError) as error:
        yield Mismatch(path, "the arrays of the data set", problem(path, error), command)
        return
    whole = joined(arrays.train, arrays.val)
    yield from _contents(block, path, whole, arrays.test, arrays.classes, command)
    right = (*hold_out(whole, block.validation_per_class, block.seed), canonical(arrays.test))
    if not all(map(_equal, (arrays.train, arrays.val, arrays.test), right)):
        yield Mismatch(path, "the images in their canonical order and splits", "another order", command)


def states(scope: Scope) -> Iterator[Mismatch]:
    """Read every checkpoint, those of unfinished trainings included: each holds a checksum of its own."""
    for root, depth in ((Path("checkpoints"), "*/seed*"), (paths.SCRATCH / "resume", "*/seed*/*")):
        for path in sorted(root.glob(f"{depth}/*.safetensors")):
            scope.compared.add(path)
            try:
                checkpoints.read(path)
            except (UserError, OSError) as error:
                run, seed = path.relative_to(root).parts[:2]
                command = shlex.join(["vanishing", "train", run, "--seed", seed.removeprefix("seed")])
                yield Mismatch(path, "the checksum written in it", problem(path, error), command)


def committed(scope: Scope) -> Iterator[Mismatch]:
    """Compare gradient flow with git's last commit, where parameters and summary are as they were committed.

    Nothing else in a checkout says what `gradients.csv` was when Snakemake alone has made it. Where either
    has changed since, new gradient flow is as it should be, and git is no record of it.
    """
    tree = git.committed(Path())
    if not tree:
        scope.notes.append(f"nothing is compared with git: {git.obstacle()}")
    params = Path("params.yaml")
    wanted = [record.folder / "gradients.csv" for record in scope.records]
    there = [
        path for path in (params, *wanted, *(each.path for each in scope.records)) if path in tree and path.is_file()
    ]
    same = {path for path, blob in git.blobs(there).items() if blob == tree[path]}
    for run, seed in scope.settings.jobs() if params in same else ():
        path = paths.results(run, seed) / "summary.json"
        if path in tree and not path.exists():
            yield Mismatch(path, f"blob {tree[path]} (git's last commit)", "nothing", git.checkout(path))
    for record in scope.records if params in same else ():
        path = record.folder / "gradients.csv"
        if path in there and record.path in same:
            scope.compared.add(path)
            if path not in same:
                command = f"vanishing gradients {record.run} --seed {record.seed}"
                yield Mismatch(path, f"blob {tree[path]} (git's last commit)", "another", command)


def checked(scope: Scope) -> Iterator[Mismatch]:
    """Compare `results/checks.csv`, if it is here, with what the checks give now, unless results do not match."""
    if not paths.CHECKS.exists():
        return
    if any(paths.RESULTS / "runs" in path.parents for path in scope.mismatched):
        scope.notes.append(f"{paths.CHECKS}: not compared, because some results do not match their records")
        return
    scope.compared.add(paths.CHECKS)
    expected = store.as_text(checks.checks_frame(checks.verdicts(scope.settings)))
    files.check_plain(paths.CHECKS, files.RESULT_BYTES)
    if files.content(paths.CHECKS) != expected.encode():
        yield Mismatch(paths.CHECKS, "what the checks give (done again)", "other bytes", "vanishing check")


CHECKS: tuple[Check, ...] = (
    summaries,
    histories,
    images,
    states,
    dvc_lock.outputs,
    dvc_lock.objects,
    committed,
    remeasure.accuracies,
    remeasure.gradient_flow,
    checked,
    rebuild.reports,
)
"""In this order: the later use what the earlier have proven."""


def _left(scope: Scope) -> set[Path]:
    """Return what the pipeline has made here and no check has compared."""
    here = {path for pattern in catalogue.patterns() for path in Path().glob(pattern)}
    return here - scope.compared - scope.mismatched


def _history(record: Record, path: Path) -> Iterator[Mismatch]:
    for key, said, right in _metrics(record.summary, store.read_history(path)):
        if said != right:
            yield Mismatch(record.path, f"{key} = {right} ({path})", f"{said}", record.command)
            return


def _metrics(summary: dict[str, Any], history: Any) -> Iterator[tuple[str, str, str]]:
    """Yield each metric that a summary repeats: its key, as it is there, and as the history has it."""
    last = history.iloc[-1]
    finite = history[np.isfinite(history.train_loss) & np.isfinite(history.val_loss)]
    pairs = {"epochs": (summary["epochs"], last.epoch)}
    for part, prefix in (("train", "train"), ("validation", "val")):
        for key in ("loss", "accuracy"):
            pairs[f"{part}.{key}"] = (summary[part][key], last[f"{prefix}_{key}"])
    if not finite.empty and summary["best"]:
        best = finite.loc[finite.val_accuracy.idxmax()]
        pairs |= {f"best.{key}": (summary["best"][key], best[name]) for key, name in BEST.items()}
    for key, (said, right) in pairs.items():
        yield key, _digits(said), _digits(right)


BEST = {"epoch": "epoch", "loss": "val_loss", "accuracy": "val_accuracy"}
"""What a summary says of the best epoch, and the history's columns."""


def _digits(value: float | None) -> str:
    """Write a metric as tables have it; non-finite values are None in a summary."""
    return "None" if value is None or not np.isfinite(value) else f"{value:.10g}"


def _contents(
    block: config.Data, path: Path, train: Split, test: Split, classes: tuple[str, ...], command: str
) -> Iterator[Mismatch]:
    """Compare the images, those of validation among the training images, with the hashes that they must have."""
    if block.own:
        if (found := records.digest(train, test, classes)) != block.own.sha256:
            recorded = f"images of hash {block.own.sha256} (data.folder)"
            yield Mismatch(path, recorded, f"images of hash {found}", command)
        return
    expected = _expected(block)
    for title, split, wanted in (("training", train, expected.train), ("test", test, expected.test)):
        if (found := content_hash(split)) != wanted:
            yield Mismatch(path, f"{title} images of hash {wanted}", f"images of hash {found}", command)


def _expected(block: config.Data) -> Expected:
    if block.set == "cifar100":
        return CIFAR100
    size = block.generated
    train, test, _ = synthetic.generate(size.classes, size.train_per_class, size.test_per_class, block.seed)
    return Expected(content_hash(train), content_hash(test))


def _equal(one: Split, other: Split) -> bool:
    return np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
