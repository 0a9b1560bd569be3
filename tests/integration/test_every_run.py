"""Every run of the study, as far as two steps on 8 images tell."""

import math

import pytest
import torch

import examples
from vanishing import config
from vanishing.data import synthetic
from vanishing.training import augmentation
from vanishing.training.step import Learner


@pytest.fixture(scope="module")
def eight():
    """Return 8 images and their labels."""
    train, _, _ = synthetic.generate(8, 1, 1, seed=0)
    return torch.from_numpy(train.images), torch.from_numpy(train.labels).long()


def of_a_step(name):
    """Return all that a step on the CPU takes from a run; others differ in length, schedule or minibatch alone."""
    run = STUDY.run(name)
    train = run.train
    return run.model, train.learning_rate, train.weight_decay, train.l1, train.precision, train.kernels


STUDY = config.load(examples.ROOT / "params.yaml")
FIRST = {of_a_step(name): name for name in reversed(STUDY.runs)}


@pytest.mark.parametrize("name", FIRST.values())
def test_every_run_takes_two_steps(study, eight, name):
    learner = Learner(study.run(name), 0, torch.device("cpu"))
    before = {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}
    for iteration in range(2):
        learner.step(*eight, augmentation.draw(8, 0, 1 + iteration).batch(0, 8))
    assert all(map(math.isfinite, learner.metrics(2)))
    for key, weight in learner.model.named_parameters():
        assert weight.isfinite().all(), key
        assert weight.grad.isfinite().all(), key
        vanished = weight.grad.abs().max() < 1e-8  # Adam's epsilon: too small to move a weight
        assert vanished or not torch.equal(weight, before[key]), key
    assert learner.model.eval()(augmentation.normalise(eight[0])).shape == (8, 100)
