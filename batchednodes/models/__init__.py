"""Tasks: model, loss and data together are what the nodes learn; of these, the models are settings."""

from batchednodes.models.builtin import MLP, Linear, Model, PythonModule

__all__ = ["MLP", "Linear", "Model", "PythonModule"]
