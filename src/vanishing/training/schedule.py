"""The learning-rate schedules."""

from __future__ import annotations

import math

from vanishing import config


def learning_rate(train: config.Train, epoch: int, iteration: int, iterations: int) -> float:
    """Return the learning rate of an iteration: constant, or cosine annealing (Loshchilov & Hutter 2017, no restarts).

    `cosine_per_epoch` changes once an epoch and nears the final learning rate in the last. `cosine_per_iteration`
    steps at every iteration while its half period stays `train.epochs` steps: it falls to the final learning rate in
    `train.epochs` iterations, rises again in as many, and so on.

    Args:
        train: initial and final learning rate, number of epochs, and schedule.
        epoch: from 1.
        iteration: within the epoch, from 0.
        iterations: number in an epoch.
    """
    if train.schedule == "constant":
        return train.learning_rate
    steps = epoch - 1 if train.schedule == "cosine_per_epoch" else (epoch - 1) * iterations + iteration
    share = (1 + math.cos(math.pi * steps / train.epochs)) / 2
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * share
