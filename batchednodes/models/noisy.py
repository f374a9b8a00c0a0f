"""A linear layer whose gradient, where examples are a square matrix, has a random part of known size.

Notation: b examples, d features, of which there are as many, F features [b, d], w weights, xi the random part.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from jaxtyping import Float
from torch import Tensor, nn


class NoisyLayer(nn.Module):
    """One layer w without bias; in training the gradient of the mean squared error has xi added to it.

    Outputs are F w + (b / 2) F^-T xi, so that the gradient is (2 / b) F^T (F w - targets) + xi. The signs of xi are
    those of a dropout, and so have addresses.
    """

    def __init__(self, features: int, noise: float) -> None:
        """Makes the layer.

        Args:
            features: d.
            noise: length of xi.
        """
        super().__init__()
        self.layer, self.noise = nn.Linear(features, 1, bias=False), noise

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
        outputs = self.layer(features)
        if not self.training:
            return outputs
        b, d = features.shape
        signs = F.dropout(torch.ones_like(features[:1]), 0.5) - 1
        right = self.noise / math.sqrt(d) * signs.T
        return outputs + b / 2 * torch.linalg.solve_ex(features.T, right).result  # `solve` waits, to see if it failed
