"""Why deep plain CNNs do not train, and what cures it.

The public API is the functions of this module, the objects that they return, and the command line. Functions that read
files look in the working directory, which is the project's folder. Each imports what it needs when it is called, since
PyTorch takes seconds. `examples/api.ipynb` shows them at work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    import numpy as np
    import pandas as pd
    from torch import Tensor, nn

    from vanishing.config import Parameters, Run
    from vanishing.data.records import Dataset
    from vanishing.report.diagnosis import Diagnosis
    from vanishing.training.loop import Outcome
    from vanishing.training.models import VGG

__all__ = ["build_model", "diagnose", "gradient_flow", "load_images", "load_parameters", "load_results", "train"]


def load_parameters(path: Path | str = "params.yaml", overlay: Path | str | None = None) -> Parameters:
    """Read and check the study's configuration; `.run(name)` is the effective configuration of a run.

    Args:
        path: the complete parameter file.
        overlay: a file of differences to lay over it, such as `workflow/demo.yaml`.

    Raises:
        ParameterError: if a file is missing or has a mistake; the text names the key and what is allowed.
    """
    from vanishing import config

    if overlay is None:
        return config.load(Path(path))
    return config.check(config.merge(config.read(Path(path)), config.read(Path(overlay))), Path(overlay))


def load_images(parameters: Parameters, run: str) -> Dataset:
    """Read the images that `vanishing data` made, with the validation split of a run.

    Returns:
        The splits `train`, `val` and `test`, each with `images`, uint8 (n, 3, 32, 32), and `labels`, (n,), uint8
        for up to 256 classes and uint16 for more; and `classes`, the names of the labels.

    Raises:
        ParameterError: if the run is not configured.
        DataError: if the file is missing, damaged or not of the configured size.
    """
    from vanishing.data import dataset, records

    data = parameters.run(run).data
    images = dataset.load_split(data, parameters.data.seed)
    records.check(images, data)
    return images


def build_model(run: Run, seed: int = 0) -> VGG:
    """Build the network of a run, initialised as a training with that seed begins.

    Returns:
        A module on the CPU, in training mode, that maps normalised images, float (batch, 3, 32, 32), to logits,
        (batch, classes).
    """
    from vanishing.training import models

    return models.build(run.model, run.data.classes, seed, run.train.kernels)


def train(run: Run, images: Dataset, folder: Path | str, seed: int = 0) -> Outcome:
    """Train a run to its end; the same arguments give the same bytes.

    It sets PyTorch's number of threads and its deterministic algorithms for the whole process. `vanishing train` does
    the same for the pipeline and, unlike this, goes on after an interruption.

    Args:
        run: the effective configuration.
        images: those of `load_images`.
        folder: new or empty; receives the trajectory, the weights of the chosen epochs as `epochNNNN.safetensors` and
            of the best epoch as `best.safetensors`.
        seed: of initialisation, order and augmentation.

    Returns:
        The outcome: `history`, a row an epoch (losses in nats, accuracies as fractions); `status`; the `best` epoch by
        validation accuracy; and `test`, loss and accuracy with the weights of that epoch.

    Raises:
        UserError: if the folder holds files, or the device cannot be used.
        DataError: if the images are not those that the run describes.
        Interrupted: after SIGINT or SIGTERM.
    """
    from vanishing.errors import UserError
    from vanishing.training import loop

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: not empty; a training writes into a folder of its own")
    outcome = loop.train(run, seed, images, folder, str(folder))
    (folder / loop.STATE).unlink(missing_ok=True)  # what an interrupted training goes on from
    return outcome


def gradient_flow(
    model: nn.Module, images: np.ndarray | Tensor, labels: np.ndarray | Tensor, batch_size: int = 100
) -> pd.DataFrame:
    """Measure the mean absolute gradient of the cross-entropy, layer by layer, in training mode.

    Args:
        model: any classifier; it is left untouched, and measured on the device that it is on.
        images: (n, ...). Those of type uint8, (n, 3, 32, 32), are normalised as CIFAR-100 is in training; others are
            taken as the model's input.
        labels: integers, (n,).
        batch_size: images of a minibatch; the last one may be smaller.

    Returns:
        A row for each weight, in the order of the forward pass: layer, kind, name, mean_abs_gradient and the other
        columns that `vanishing.analysis.gradient_flow.gradient_flow` documents.

    Raises:
        ValueError: if there is no image, no weight, or a weight that the forward pass does not use.
    """
    import torch

    from vanishing.analysis import gradient_flow as flow
    from vanishing.training import augmentation

    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    inputs, targets = torch.as_tensor(images), torch.as_tensor(labels).long()
    if inputs.dtype == torch.uint8:
        inputs = augmentation.normalise(inputs)
    parts = (torch.split(tensor.to(device), batch_size) for tensor in (inputs, targets))
    batches = zip(*parts, strict=True)
    return flow.gradient_flow(model, (batch for batch in batches if len(batch[0])))


def diagnose(model: nn.Module, batches: Iterable[Any], loss: Callable[[Any, Any], Tensor] | None = None) -> Diagnosis:
    """Say where the signal or the gradient of any network dies or explodes, and which change this study found to help.

    The network is measured at its present weights on a copy, with batch statistics in batch normalisation and without
    dropout; it is left untouched, and so are the random generators.

    Args:
        model: any module.
        batches: minibatches, the first eight of which are read: pairs (inputs, targets), or inputs alone. Inputs are a
            tensor, a tuple of arguments or a mapping of keyword arguments. 32 examples suffice.
        loss: maps (output, targets) to a scalar. By default it is the cross-entropy for targets that are classes, and
            a random projection of the output where there are no targets.

    Returns:
        The diagnosis: `table`, a row for each call of a layer; `healthy`; `verdict`, in words; `findings`, each with
        kind, direction, layers, factor and advice; `limits`, what could not be judged; `figure()` and `save(path)`.
        It prints as text, and shows itself in a notebook.

    Raises:
        UserError: if the model cannot be copied or measured, or for a minibatch of another form.
    """
    from vanishing.report import diagnosis

    return diagnosis.diagnose(model, batches, loss)


def load_results(parameters: Parameters, study: str) -> pd.DataFrame:
    """Read the results of a study from `results/`, a row for each run and seed.

    Returns:
        run, seed, status, layers, parameters, epochs; then metrics of the last epoch (train_loss, train_accuracy,
        val_loss, val_accuracy), of the epoch of best validation accuracy (best_epoch, best_val_accuracy, test_loss,
        test_accuracy) and of the dynamics (onset, peak_loss, val_final_std). Losses are in nats, accuracies fractions.
        Where the study averages its final epochs, so do the metrics of the last. A diverged training has NaN.

    Raises:
        ParameterError: if the study is not configured.
        UserError: if it has no results yet, or a file cannot be read.
    """
    import pandas as pd

    from vanishing.errors import UserError
    from vanishing.results import aggregate
    from vanishing.results.columns import METRICS

    rows = aggregate.collect(parameters, [study]).get(study)
    if not rows:
        raise UserError(f"study {study!r} has no results yet; `snakemake {study}` makes them")
    records = []
    for row in rows:
        values = {metric: row.values(metric) for metric in METRICS}
        for result in row.results:
            said = {key: result.summary[key] for key in ("status", "layers", "parameters", "epochs")}
            metrics = {metric: by_seed.get(result.seed, float("nan")) for metric, by_seed in values.items()}
            records.append({"run": row.run, "seed": result.seed, **said, **metrics})
    return pd.DataFrame(records)
