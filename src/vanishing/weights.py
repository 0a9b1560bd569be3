"""Trained weights for an archive such as Zenodo: the best weights of trainings, and how to load them, in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from vanishing import config, files, paths, project
from vanishing.console import counted, say
from vanishing.errors import UserError
from vanishing.results import store

FOLDER = Path("build") / "weights"
SUMS = "SHA256SUMS"
BEST = paths.best(Path()).name
SHOWN = 5
"""Trainings that an error names."""

Job = tuple[str, int]

README = """# Weights of vanishing {version}

The weights of {trainings}, at the epoch of best validation accuracy, under the MIT license. `RUN/seedS/` has
the weights, `best.safetensors`, and `summary.json`: configuration, metrics, the SHA-256 of the images, and versions and
hardware of the training. `params.yaml` configures the networks. `sha256sum --check SHA256SUMS` checks every file.

To load the weights, set up the source archive of the same version (`make setup`, `. .venv/bin/activate`); then, in this
folder:

```python
import vanishing
from safetensors.torch import load_file
from vanishing.training.augmentation import normalise

run = vanishing.load_parameters().run("{run}")
model = vanishing.build_model(run)
model.load_state_dict(load_file("{path}"))
model.eval()
# images: uint8 (batch, 3, 32, 32), channels red, green, blue
logits = model(normalise(images, run.data.scaling))
```

Accuracies are fractions.

| run | seed | status | epochs | best epoch | validation accuracy | test accuracy | SHA-256 of `best.safetensors` |
|---|---|---|---|---|---|---|---|
{rows}
"""


def pack(settings: config.Parameters, chosen: Sequence[Job], output: Path | None = None) -> Path:
    """Pack the best weights of trainings into one zip file, and return its path; equal inputs give equal bytes.

    Args:
        settings: those of `params.yaml`, which is packed too.
        chosen: runs and seeds; none stands for every finished training that has weights of a best epoch.
        output: the file, where it is not to be in `FOLDER`.

    Raises:
        UserError: a training is not finished, was made with another configuration, or has no best epoch; or its weights
            are not here or not those that its summary names.
    """
    summaries = _named(settings, chosen) if chosen else _finished(settings)
    _check_present(summaries)
    name = f"vanishing-weights-{version('vanishing')}"
    path, sums = output or FOLDER / f"{name}.zip", []
    with files.replacing(path) as handle, ZipFile(handle, "w") as archive:  # stored: weights do not get smaller
        for entry, content in _entries(summaries):
            _add(archive, f"{name}/{entry}", content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {entry}\n")
        _add(archive, f"{name}/{SUMS}", "".join(sums).encode())
    print(f"{path}: weights of {counted(len(summaries), 'training')}, {path.stat().st_size / 1e6:.1f} MB")
    return path


def _named(settings: config.Parameters, chosen: Sequence[Job]) -> dict[Job, dict[str, Any]]:
    """Return the summary of each training; `UserError` if one has no best weights of today's configuration."""
    summaries = {}
    for name, seed in chosen:
        if not paths.results(name, seed).joinpath("summary.json").exists():
            raise UserError(f"{name}:{seed}: not trained yet; `vanishing train {name} --seed {seed}` trains it")
        summary = store.check_configuration(settings.run(name), name, seed)
        if not _has_best(summary):
            raise UserError(f"{name}:{seed}: {summary['status']} without a best epoch, and has no weights of one")
        summaries[name, seed] = summary
    return summaries


def _finished(settings: config.Parameters) -> dict[Job, dict[str, Any]]:
    """Return the summary of each finished training, and say which are left out; `UserError` where there is none."""
    found = {
        (name, seed): store.read_summary(paths.results(name, seed) / "summary.json")
        for name, seed in settings.jobs()
        if store.is_trained(settings, name, seed)
    }
    summaries = {job: summary for job, summary in found.items() if _has_best(summary)}
    for (name, seed), summary in found.items():
        if (name, seed) not in summaries:
            say(f"{name}:{seed}: left out: {summary['status']} without a best epoch")
    if not summaries:
        raise UserError("no finished training; `vanishing train RUN` makes one, `vanishing restore` brings shared ones")
    return summaries


def _has_best(summary: Mapping[str, Any]) -> bool:
    return BEST in summary["files"]


def _best(name: str, seed: int) -> Path:
    return paths.best(paths.checkpoints(name, seed))


def _check_present(summaries: Mapping[Job, object]) -> None:
    missing = [job for job in summaries if not _best(*job).exists()]
    if len(missing) == 1:
        name, seed = missing[0]
        raise UserError(f"{_best(name, seed)}: missing; {store.back(_best(name, seed), name, seed)}")
    if missing:
        names = ", ".join(f"{name}:{seed}" for name, seed in missing[:SHOWN]) + ", ..." * (len(missing) > SHOWN)
        raise UserError(
            f"weights of {len(missing)} of {len(summaries)} trainings are not here: {names}; `vanishing restore` "
            "brings them if they were shared, `vanishing train RUN:SEED` makes them again; or name trainings to pack"
        )


def _entries(summaries: Mapping[Job, Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Yield the path and content of each file, in the order in which they are packed."""
    yield "README.md", _readme(summaries).encode()
    yield "LICENSE", (distribution("vanishing").read_text("licenses/LICENSE") or "").encode()
    yield "params.yaml", project.PARAMETERS.read_bytes()
    for (name, seed), summary in summaries.items():
        yield f"{name}/seed{seed}/summary.json", (paths.results(name, seed) / "summary.json").read_bytes()
        yield f"{name}/seed{seed}/{BEST}", _weights(name, seed, summary)


def _weights(name: str, seed: int, summary: Mapping[str, Any]) -> bytes:
    """Return the bytes of the best weights; `UserError` unless they are those that the summary names."""
    path, expected = _best(name, seed), summary["files"][BEST]
    files.check_plain(path, files.FILE_BYTES)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(
            f"{path}: not what {paths.results(name, seed) / 'summary.json'} says, SHA-256 {expected}; "
            f"{store.back(path, name, seed)}"
        )
    return content


def _readme(summaries: Mapping[Job, Mapping[str, Any]]) -> str:
    rows = [
        f"| {name} | {seed} | {summary['status']} | {summary['epochs']} | {summary['best']['epoch']} "
        f"| {summary['best']['accuracy']:.4f} | {summary['test']['accuracy']:.4f} | {summary['files'][BEST]} |"
        for (name, seed), summary in summaries.items()
    ]
    name, seed = next(iter(summaries))
    return README.format(
        version=version("vanishing"), trainings=counted(len(summaries), "training"), run=name,
        path=f"{name}/seed{seed}/{BEST}", rows="\n".join(rows),
    )  # fmt: skip


def _add(archive: ZipFile, name: str, content: bytes) -> None:
    """Add a file with a date and permissions that are the same each time."""
    entry = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as Unix has it
    archive.writestr(entry, content)
