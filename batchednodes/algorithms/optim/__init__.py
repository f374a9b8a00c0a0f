"""Optimizers and schedules: what a minibatch step makes of a gradient, row by row; one method, one file."""

from batchednodes.algorithms.optim.adam import Adam, AdamW
from batchednodes.algorithms.optim.base import Optimizer
from batchednodes.algorithms.optim.schedules import Constant, Cosine, Inverse, InverseSqrt, Milestones, Schedule, Step
from batchednodes.algorithms.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Inverse",
    "InverseSqrt",
    "Milestones",
    "Optimizer",
    "Schedule",
    "Step",
]
