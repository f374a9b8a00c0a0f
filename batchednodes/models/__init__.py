"""Models and losses, the same for all nodes: any `nn.Module` is computed on rows of one tensor, a row for each node."""

from batchednodes.models.builtin import MLP, Linear, Model, NoisyLinear, PythonModule

__all__ = ["MLP", "Linear", "Model", "NoisyLinear", "PythonModule"]
