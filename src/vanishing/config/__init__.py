"""The study's configuration: `params.yaml`, typed and checked before anything runs."""

from vanishing.config.analyses import Analyses
from vanishing.config.analysis import Analysis
from vanishing.config.block import IMAGE_SIZE, LATIN, NAME, ParameterError
from vanishing.config.curvature import Curvature
from vanishing.config.data import CIFAR10, Address, Chance, Data, Folder, Generated, Scaling
from vanishing.config.effective_depth import EffectiveDepth
from vanishing.config.fitting import FEWEST, fitted, of_many_images
from vanishing.config.gradients import Gradients
from vanishing.config.landscape import Landscape
from vanishing.config.model import BOTTLENECK, Model
from vanishing.config.overrides import plain, read_settings, write_settings
from vanishing.config.parameters import VARIABLE, Parameters, check, load, read, with_runs
from vanishing.config.run import Run, completed, differences, flat
from vanishing.config.signal import Signal
from vanishing.config.smoothness import Smoothness
from vanishing.config.strict_yaml import inline, merge, read_yaml, text
from vanishing.config.study import CORE, Study
from vanishing.config.train import Train
from vanishing.config.trainable_depth import Sweep, TrainableDepth

__all__ = [
    "BOTTLENECK",
    "CIFAR10",
    "CORE",
    "FEWEST",
    "IMAGE_SIZE",
    "LATIN",
    "NAME",
    "VARIABLE",
    "Address",
    "Analyses",
    "Analysis",
    "Chance",
    "Curvature",
    "Data",
    "EffectiveDepth",
    "Folder",
    "Generated",
    "Gradients",
    "Landscape",
    "Model",
    "ParameterError",
    "Parameters",
    "Run",
    "Scaling",
    "Signal",
    "Smoothness",
    "Study",
    "Sweep",
    "Train",
    "TrainableDepth",
    "check",
    "completed",
    "differences",
    "fitted",
    "flat",
    "inline",
    "load",
    "merge",
    "of_many_images",
    "plain",
    "read",
    "read_settings",
    "read_yaml",
    "text",
    "with_runs",
    "write_settings",
]
