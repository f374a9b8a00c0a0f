"""What a metric of a user's own may ask of a network: losses and gradients on its data.

Notation: m models, p parameters, b examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from batchednodes.models.problem import Problem, Tests

_EXAMPLES = 1024
"""Examples that one model sees at once: memory for more would have to be planned."""


@dataclass(frozen=True)
class View:
    """One network at one mark; models are scored as at marks, one after the other."""

    network: int
    """Its number in the batch."""
    time: float
    """Simulated time [s]."""
    nodes: slice
    """Its rows of x."""
    problem: Problem
    """What is learned."""

    def loss(self, models: Float[Tensor, "m p"], data: str = "train") -> Float[Tensor, " m"]:
        """Returns the mean loss of some models on all examples of the network: `train` or `test`."""
        losses = models.new_zeros(len(models))
        with torch.no_grad():
            for part, share in self._parts(data):
                losses += share * torch.stack([self._loss(x, part) for x in models])
        return losses

    def gradient(self, models: Float[Tensor, "m p"], data: str = "train") -> Float[Tensor, "m p"]:
        """Returns the gradient of the same by each model."""
        slope, sums = grad(self._loss), torch.zeros_like(models)
        for part, share in self._parts(data):
            sums += share * torch.stack([slope(x, part) for x in models])
        return sums

    def _loss(self, x: Float[Tensor, " p"], part: Tests) -> Float[Tensor, ""]:
        return self.problem.scores(x.view(1, 1, -1), part)[0][0, 0]

    def _parts(self, data: str) -> Iterator[tuple[Tests, float]]:
        """Yields blocks of examples, each with its share of all.

        Raises:
            ValueError: there are no such data.
        """
        if data not in ("train", "test"):
            raise ValueError(f"data must be train or test, got {data!r}")
        number = np.array([self.network])
        if data == "train":
            sampler = self.problem.sampler
            rows = torch.from_numpy(sampler.rows[sampler.offsets[self.nodes.start] : sampler.offsets[self.nodes.stop]])
            for some in rows.split(_EXAMPLES):
                features, targets = self.problem.rows(some.to(self.problem.features.device).unsqueeze(0))
                yield Tests(number, features, targets), len(some) / len(rows)
            return
        tests = next(t for t in self.problem.tests if self.network in t.networks)
        at = int(np.flatnonzero(tests.networks == self.network)[0])
        features, targets = tests.features[at : at + 1], tests.targets[at : at + 1]
        for first in range(0, targets.shape[1], _EXAMPLES):
            part = slice(first, first + _EXAMPLES)
            some = targets[:, part]
            yield Tests(number, features[:, part], some), some.shape[1] / targets.shape[1]
