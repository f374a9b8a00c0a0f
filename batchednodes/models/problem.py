r"""Problem: what is learned, on the device: model, loss, the nodes' examples and a shared test set.

Notation: g networks, w nodes of a wave, p parameters, s steps, b examples of a minibatch, S training examples, t test
examples, k outputs.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.func import vjp, vmap

from batchednodes.data import Sampler
from batchednodes.models.losses import Loss
from batchednodes.models.scoring import Scorer
from batchednodes.models.stacked import Stack
from batchednodes.numerics import devices
from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.memory import sendable


@dataclass(frozen=True, eq=False)
class Tests:
    """The test sets of networks with equally many nodes and test examples, which are scored together."""

    networks: Int64[np.ndarray, " g"]
    """Numbers of the networks."""
    features: Tensor
    """Test inputs of each [g, t, ...]."""
    targets: Tensor
    """Test labels [g, t] or [g, t, ...], or values [g, t, k]."""
    optima: Float64[Tensor, "g p"] | None = None
    """Of quadratic losses, the models at which the test losses are least; None: they are not known."""
    scorer: Scorer | None = None
    """Scores models on these test sets in one compiled loop; None: they are scored by vmap."""

    def of(self, part: slice) -> "Tests":
        """Returns the test sets of some of the networks, without a copy."""
        optima = None if self.optima is None else self.optima[part]
        return Tests(self.networks[part], self.features[part], self.targets[part], optima, self.scorer)

    def excess(self, mean: Float64[Tensor, "g p"]) -> Float64[Tensor, " g"]:
        """Returns twice what a model of each network costs more than the optimum, without cancellation; or NaN."""
        if self.optima is None:
            return torch.full_like(mean[:, 0], torch.nan)
        away = self.features.double() @ (mean - self.optima).unsqueeze(2)  # mean squares, whose slope at it is 0
        return 2 * away.square().mean((1, 2))


@dataclass(frozen=True)
class Problem:
    """One task for all nodes of all networks of a batch."""

    stack: Stack
    """Layout of a row, and the model's computation."""
    criterion: Loss
    """Loss of (outputs, targets)."""
    classes: int | None
    """Number of labels; None: targets are real values."""
    features: Tensor
    """Training inputs of all nodes [S, ...]."""
    targets: Tensor
    """Training labels [S] or [S, ...], or values [S, k]."""
    tests: tuple[Tests, ...]
    """Test sets of all networks, each shared by all nodes of its network."""
    sampler: Sampler
    """Which examples are in each minibatch of each node."""
    given: tuple[int, ...] | None = None
    """Shape of an example of the data, where features are what a frozen part of the model makes of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example of the data."""
        return tuple(self.features.shape[1:]) if self.given is None else self.given

    def loss(self, row: Float[Tensor, " p"], features: Tensor, targets: Tensor, **more: Tensor) -> Tensor:
        """Returns the mean loss of one model on one minibatch, not under vmap; more: as for `objective`."""
        return self.objective(self.stack.views(row), features, targets, stacked=False, **more)

    def objective(
        self,
        parameters: Mapping[str, Tensor],
        features: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        key: Int64[Tensor, ""] | None = None,
        stacked: bool = True,
        factors: Tensor | None = None,
    ) -> Tensor:
        """Returns the mean loss of one model, whose parameters are given by name, on one minibatch.

        Args:
            parameters: by name.
            features: inputs [b, ...].
            targets: labels [b] or values [b, k].
            weights: of the examples [b]; None: those of the mean.
            key: of the minibatch step, by which masks are drawn; None: 0.
            stacked: whether vmap carries the call.
            factors: how many times as long the gradient of each example's loss is [b]; None: as it is.
        """
        outputs = self.stack.call_named(parameters, features, key, stacked)
        if weights is not None:
            return self.criterion.weighted(outputs, targets, weights, factors)
        if factors is not None:
            return self.criterion.shortened(outputs, targets, factors)
        return self.criterion.mean(outputs, targets)

    def batch(self, index: Int64[Tensor, "*shape"]) -> tuple[Tensor, Tensor]:
        """Returns inputs [*shape, ...] and targets [*shape, ...] of training examples 0 <= index < S."""
        flat = index.flatten()
        features, targets = self.features.index_select(0, flat), self.targets.index_select(0, flat)
        return features.view(*index.shape, *features.shape[1:]), targets.view(*index.shape, *targets.shape[1:])

    def draw(self, nodes: Int64[np.ndarray, " w"], counts: Int64[np.ndarray, " w"]) -> Int64[Tensor, "w s b"]:
        """Returns the examples of update number counts[k] of nodes[k], as `Sampler.draw`, on the device of the data."""
        device = self.features.device
        index = sendable((nodes.size, *self.sampler.drawn), torch.int64, device)
        self.sampler.draw(nodes, counts, index.numpy())
        return index.to(device, non_blocking=True)

    def score(self, row: Float[Tensor, " p"], features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns loss and accuracy over all labels (NaN for real targets) of one model on a test set, under vmap."""
        outputs = self.stack.score(row, features)
        loss = self.criterion.mean(outputs, targets)
        if self.classes is None:
            return loss, torch.full_like(loss, torch.nan)
        return loss, (outputs.argmax(-1) == targets).double().mean()

    def scores(self, models: Float[Tensor, "g k p"], tests: Tests) -> tuple[Float[Tensor, "g k"], Float[Tensor, "g k"]]:
        """Returns loss and accuracy of some models of each network on its test set.

        Args:
            models: of each network.
            tests: their test sets.
        """
        if tests.scorer is not None:
            return tests.scorer.scores(models, tests.features, tests.targets)
        count, score = models.shape[1], self._composed if self.stack.ways.composed else self.score
        own, features, targets = None, tests.features, tests.targets
        if self.stack.ways.anchored:  # each model gets features of its own
            own, features = 0, features.unsqueeze(1).expand(len(features), count, *features.shape[1:])
        if len(models) == 1:
            loss, accuracy = vmap(score, in_dims=(0, own, None))(models[0], features[0], targets[0])
            return loss.unsqueeze(0), accuracy.unsqueeze(0)
        targets = targets.unsqueeze(1).expand(len(targets), count, *targets.shape[1:])
        return vmap(vmap(score, in_dims=(0, own, 0)))(models, features, targets)

    def with_scorers(self) -> "Problem":
        """Returns the same with test sets that are scored in compiled loops, where the model allows it."""
        if devices.is_cuda(self.features.device) or self.stack.ways.anchored or self.stack.ways.composed:
            return self
        return replace(self, tests=tuple(self._with_scorer(tests) for tests in self.tests))

    def _with_scorer(self, tests: Tests) -> Tests:
        like = self.stack.start(self.features.device), tests.features[0], tests.targets[0]
        with suppress(UntraceableError):
            return replace(tests, scorer=Scorer.of(self.stack.score, self.criterion, self.classes is not None, like))
        return tests

    def losses(
        self, models: Float[Tensor, "w p"], features: Tensor, targets: Tensor, weights: Float[Tensor, "w b"]
    ) -> Float[Tensor, " w"]:
        """Returns the weighted mean loss of each model, in evaluation mode, on examples of its own.

        Args:
            models: one for each row.
            features: inputs [w, b, ...].
            targets: labels [w, b] or [w, b, ...], or values [w, b, k].
            weights: of the examples; an example of weight 0 counts for nothing.
        """

        def loss(row: Tensor, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            return self.criterion.weighted(self.stack.score(row, x), y, w)

        def composed(row: Tensor, x: Tensor, y: Tensor, w: Tensor) -> Tensor:  # see `_composed`
            return vjp(lambda _: loss(row, x, y, w), row.new_zeros(()))[0]

        return vmap(composed if self.stack.ways.composed else loss)(models, features, targets, weights)

    def _composed(self, row: Float[Tensor, " p"], features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the same as `score`, as if for a gradient, which nothing needs."""
        return vjp(lambda _: self.score(row, features, targets), row.new_zeros(()))[0]
