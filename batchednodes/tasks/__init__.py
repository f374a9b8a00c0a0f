"""Tasks: model, loss and data together are what the nodes learn."""

from batchednodes.tasks.losses import LossName
from batchednodes.tasks.models import MLP, Linear, Model, PythonModule
from batchednodes.tasks.problem import Problem, Tests

__all__ = ["MLP", "Linear", "LossName", "Model", "Problem", "PythonModule", "Tests"]
