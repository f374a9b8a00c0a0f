r"""Problem: what is learned, on the device: model, loss, the nodes' examples and a shared test set.

Notation: g networks, w nodes of a wave, p parameters, s steps, b examples of a minibatch, S training examples, t test
examples, k outputs.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.func import vjp, vmap

from batchednodes.data import Sampler
from batchednodes.models.feed import Drawn, Feed
from batchednodes.models.losses import Loss
from batchednodes.models.own_rows import OwnRows
from batchednodes.models.scoring import Scorer
from batchednodes.models.stacked import Stack
from batchednodes.numerics import devices
from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.memory import sendable

T = TypeVar("T")


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
    """Training inputs of all nodes [S, ...]; with a feed, those of the minibatches at work."""
    targets: Tensor
    """Training labels [S] or [S, ...], or values [S, k]; with a feed likewise."""
    tests: tuple[Tests, ...]
    """Test sets of all networks, each shared by all nodes of its network."""
    sampler: Sampler
    """Which examples are in each minibatch of each node."""
    own: OwnRows | None = None
    """Test rows of the nodes' own; None: they have none."""
    given: tuple[int, ...] | None = None
    """Shape of an example of the data, where features are what a frozen part of the model makes of it."""
    feed: Feed | None = None
    """What makes the examples of each minibatch, where they lie in files or are augmented; None: all are there."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example of the data."""
        return tuple(self.features.shape[1:]) if self.given is None else self.given

    def loss(
        self, row: Float[Tensor, " p"], features: Tensor, targets: Tensor, kept: dict[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor:  # fmt: skip
        """Returns the mean loss of one model on one minibatch, not under vmap.

        Args:
            row: parameters.
            features: inputs [b, ...].
            targets: labels [b] or values [b, k].
            kept: receives what forward makes of running statistics; None: nobody asks.
            more: as for `objective`.
        """
        views = self.stack.views(row)
        statistics = {name: views[name].detach().clone() for name in self.stack.kept}
        loss = self.objective(views | statistics, features, targets, stacked=False, **more)
        if kept is not None:
            kept |= {name: value.detach() for name, value in statistics.items()}
        return loss

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

        Running statistics among these are written in place.

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
        """Returns inputs [*shape, ...] and targets [*shape, ...] at places of minibatches, as `draw` gives them."""
        flat = index.flatten()
        features, targets = self.features.index_select(0, flat), self.targets.index_select(0, flat)
        return features.view(*index.shape, *features.shape[1:]), targets.view(*index.shape, *targets.shape[1:])

    def rows(self, index: Int64[Tensor, "*shape"]) -> tuple[Tensor, Tensor]:
        """Returns inputs and targets of training examples 0 <= index < S as they are, never augmented."""
        if self.feed is None:
            return self.batch(index)
        found = self.feed.labels.index_select(0, index.flatten())
        return self.feed.inputs(index), found.view(*index.shape, *found.shape[1:])

    @property
    def drawer(self) -> Sampler:
        """What draws minibatches, with the keys that make them."""
        return self.sampler if self.feed is None else self.feed.sampler

    def draw(self, nodes: Int64[np.ndarray, " w"], counts: Int64[np.ndarray, " w"]) -> Int64[Tensor, "w s b"]:
        """Returns places of the examples of update number counts[k] of nodes[k], on the device of the data.

        They are those of `Sampler.draw`; with a feed they lie there until the next minibatches are drawn.
        """
        device, drawer = self.features.device, self.drawer
        index = sendable((nodes.size, *drawer.drawn), torch.int64, device)
        drawer.draw(nodes, counts, index.numpy())
        there = index.to(device, non_blocking=True)
        return self.placed(Drawn(there, None if self.feed is None else self.feed.gathered(index)))

    def placed(self, drawn: Drawn) -> Int64[Tensor, "w s b"]:
        """Returns places of the examples of minibatches that were drawn, which a feed puts there."""
        return drawn.index if self.feed is None else self.feed.fill_(drawn)

    def fed(self, feed: Feed) -> "Problem":
        """Returns the same with examples that something makes for each minibatch."""
        return replace(self, features=feed.features, targets=feed.targets, feed=feed)

    def holding(self, rows: int) -> "Problem":
        """Returns the same with room for the minibatches of some rows at once."""
        return self if self.feed is None else self.fed(self.feed.holding(rows))

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
        loss, accuracy = self._each(self.score, models, tests)
        return loss, accuracy

    def _each(
        self, score: Callable[..., tuple[Tensor, ...]], models: Float[Tensor, "g k p"], tests: Tests
    ) -> tuple[Tensor, ...]:
        """Returns what a function of a model, features and targets gives of each model of each network."""
        count, score, own = models.shape[1], self._way(score), None
        features, targets = tests.features, tests.targets
        if self.stack.ways.anchored:  # each model gets features of its own
            own, features = 0, features.unsqueeze(1).expand(len(features), count, *features.shape[1:])
        if len(models) == 1:
            found = vmap(score, in_dims=(0, own, None))(models[0], features[0], targets[0])
            return tuple(t.unsqueeze(0) for t in found)
        targets = targets.unsqueeze(1).expand(len(targets), count, *targets.shape[1:])
        return vmap(vmap(score, in_dims=(0, own, 0)))(models, features, targets)

    def _way(self, score: Callable[..., T]) -> Callable[..., T]:
        """Returns a function of a model and examples as vmap carries it: as if for a gradient, which nothing needs."""
        if not self.stack.ways.composed:
            return score
        return lambda row, *examples: vjp(lambda _: score(row, *examples), row.new_zeros(()))[0]

    def hits(self, models: Float[Tensor, "g k p"], tests: Tests) -> Float64[Tensor, "g k 3 c"]:
        """Returns of each label how often some models of each network take it rightly, take it, and should take it.

        Args:
            models: of each network.
            tests: their test sets, whose targets are labels.
        """
        assert self.classes is not None
        none = torch.zeros(self.classes, dtype=torch.float64, device=models.device)

        def count(row: Tensor, features: Tensor, targets: Tensor) -> tuple[Tensor]:
            taken, label = self.stack.score(row, features).argmax(-1).flatten(), targets.flatten()
            right, all_ = (taken == label).double(), torch.ones_like(label, dtype=torch.float64)
            pairs = ((label, right), (taken, all_), (label, all_))
            return (torch.stack([none.scatter_add(0, at, n) for at, n in pairs]),)

        return self._each(count, models, tests)[0]

    def own_scores(
        self, models: Float[Tensor, "w p"], part: slice
    ) -> tuple[Float64[Tensor, " w"], Float64[Tensor, " w"]]:
        """Returns the sums of losses, and of accuracies (NaN for real targets), of models on some blocks of own rows.

        Args:
            models: one for each of the blocks.
            part: numbers of the blocks.
        """
        own = self.own
        assert own is not None
        counted, flat = own.counted[part], own.examples[part].flatten()
        features, targets = (t.index_select(0, flat).unflatten(0, counted.shape) for t in (own.features, own.targets))

        def score(row: Tensor, x: Tensor, y: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.stack.score(row, x)
            loss = self.criterion.each(outputs, y).double()
            right = torch.full_like(loss, torch.nan)
            if self.classes is not None:
                right = (outputs.argmax(-1) == y).reshape(len(y), -1).double().mean(1)
            return loss.masked_fill(~counts, 0.0).sum(), right.masked_fill(~counts, 0.0).sum()

        return vmap(self._way(score))(models, features, targets, counted)

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

        return vmap(self._way(loss))(models, features, targets, weights)
