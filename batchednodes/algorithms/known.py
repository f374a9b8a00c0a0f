r"""What the methods of an algorithm may know of their rows, in contacts, rounds and updates.

Notation: n nodes, w rows, p parameters, s steps of an update, b examples of a minibatch, x models.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from batchednodes.algorithms.base import Context, Rows, Step
from batchednodes.algorithms.context import Gradient, OwnLoss, uniforms
from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.numerics import devices


@dataclass(frozen=True, eq=False)
class Nodes:
    """What does not change of all nodes."""

    gradient: Gradient
    descent: LocalSGD
    rates: Hyperparameters
    degree: Float[Tensor, " n"]
    """How many nodes each node may contact."""
    sizes: Float[Tensor, " n"]
    """How many nodes each node's network has."""
    owned: Float[Tensor, " n"]
    """How many examples each node owns."""
    seeds: Int64[Tensor, " n"]
    """Seed of each node's network."""
    index: Int64[Tensor, " n"]
    """Number of each node in it."""
    constants: Mapping[str, Float[Tensor, " n"]]
    """What the algorithm's `constants` says of each node's network, by name."""

    @functools.cached_property
    def own_loss(self) -> OwnLoss:
        """The loss of models on all examples of a node."""
        return OwnLoss(self.gradient.problem)


class Contact(Context):
    """What a mixing may know of its rows."""

    def __init__(self, all_: Nodes, r: Rows, nodes: Tensor, time: Tensor) -> None:
        self.of, self.nodes, self.instant, self.last = all_, nodes, time, r.get("last_event")

    @functools.cached_property
    def before(self) -> Tensor:
        """Updates of each node before an update; -1 in a contact."""
        return torch.full_like(self.instant, -1)

    @functools.cached_property
    def number(self) -> Tensor:
        """What the address of draws ends with."""
        return self.instant.flatten().view(torch.int64)  # a node has one contact at a time

    @property
    def time(self) -> Tensor:
        return self.instant

    @property
    def count(self) -> Tensor:
        return self.before

    @property
    def lr(self) -> Tensor:
        return self.of.rates.of(self.nodes).lr.view(-1, 1)

    @property
    def steps(self) -> Tensor:
        raise ValueError("minibatch steps belong to updates, not to contacts")

    @property
    def degree(self) -> Tensor:
        return self.of.degree[self.nodes].unsqueeze(1)

    @property
    def node(self) -> Tensor:
        return self.of.index[self.nodes].unsqueeze(1)

    @property
    def size(self) -> Tensor:
        return self.of.sizes[self.nodes].unsqueeze(1)

    @property
    def owned(self) -> Tensor:
        return self.of.owned[self.nodes].unsqueeze(1)

    @property
    def elapsed(self) -> Tensor:
        assert self.last is not None
        return (self.time - self.last).to(self.of.degree.dtype)

    def constant(self, name: str) -> Tensor:
        return self.of.constants[name].index_select(0, self.nodes).unsqueeze(1)

    @property
    def neighbours(self) -> Tensor:
        raise ValueError("all neighbours at once belong to updates and rounds, not to contacts")

    @property
    def others(self) -> Tensor:
        raise ValueError("numbers of neighbours belong to rounds")

    @property
    def weights(self) -> Tensor:
        raise ValueError("weights of neighbours belong to rounds, or to updates where contacts are with all of them")

    @property
    def round(self) -> int:
        raise ValueError("numbers of rounds belong to rounds")

    @property
    def kept(self) -> tuple[str, ...]:
        return self.of.rates.keeps

    def loss(self, x: Tensor) -> Tensor:
        self._refuse_private("losses on all examples of a node")
        return self.of.own_loss.of(x, self.nodes).unsqueeze(1)

    def _refuse_private(self, what: str) -> None:
        """Raises ValueError where nodes are private: what an algorithm asks besides local SGD has no noise."""
        if self.of.rates.example_clip is not None:
            raise ValueError(f"local.privacy must be left out with an algorithm that asks {what}; leave it out")

    def grad(self, x: Tensor) -> Tensor:
        raise ValueError("gradients belong to updates, not to contacts")

    def descend(self, x: Tensor) -> Tensor:
        raise ValueError("local SGD belongs to updates, not to contacts")

    def descend_by(self, x: Tensor, step: Step) -> Tensor:
        raise ValueError("local steps belong to updates, not to contacts")

    def uniform(self, stream: int, size: int) -> Tensor:
        found = uniforms(self.of.seeds[self.nodes], self.of.index[self.nodes], self.number, stream, size)
        return found.to(self.of.degree.dtype)

    def common(self, stream: int, size: int) -> Tensor:
        everyone, at = torch.full_like(self.nodes, -1), self.instant.flatten().view(torch.int64)
        return uniforms(self.of.seeds[self.nodes], everyone, at, stream, size).to(self.of.degree.dtype)


class Update(Contact):
    """What an update may know of its rows."""

    def __init__(
        self, all_: Nodes, r: Rows, nodes: Tensor, time: Tensor, count: Tensor, examples: Tensor,
        edges: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> None:  # fmt: skip
        super().__init__(all_, r, nodes, time)
        self.here, self.shares = edges
        self.r, self.before, self.examples, self.number = r, count, examples, count.flatten()
        self.losses = torch.full_like(time.flatten(), torch.nan)

    def grad(self, x: Tensor) -> Tensor:
        g, self.losses = self._grad(x, self.examples)
        return g

    def _grad(self, x: Tensor, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Returns gradients by some minibatches, clipped, with weight decay, and losses."""
        with torch.no_grad():
            g, losses = self.of.gradient.of(x, examples)
        rates = self.rates()
        self._refuse_private("gradients at points of its own")
        if rates.clip is not None:
            norm = g.norm(dim=1)
            g = g * (rates.clip / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1)
        return g if rates.weight_decay is None else g + rates.weight_decay.unsqueeze(1) * x, losses

    def descend_by(self, x: Tensor, step: Step) -> Tensor:
        there, first, losses = self._there().unsqueeze(2), self.examples[:, 0], torch.zeros_like(x[:, 0])
        most = there.shape[1] if devices.is_cuda(x.device) else int(self.steps.max())  # nobody waits for a device
        for s in range(most):
            here = there[:, s]  # rows that do not have this step repeat their first minibatch, and forget it
            minibatch, seen = torch.where(here, self.examples[:, s], first).unsqueeze(1), list[Tensor]()

            def grad(y: Tensor, minibatch: Tensor = minibatch, seen: list[Tensor] = seen) -> Tensor:
                g, loss = self._grad(y, minibatch)
                seen.append(loss)
                return g

            x = torch.where(here, step(x, grad), x)
            losses += torch.where(here[:, 0], seen[0] if seen else torch.nan, 0)
        self.losses = losses / self.steps[:, 0]
        return x

    @property
    def neighbours(self) -> Tensor:
        if self.here is None:
            raise ValueError("neighbours are known to algorithms with fields that live on edges")
        return self.here

    @property
    def weights(self) -> Tensor:
        return super().weights if self.shares is None else self.shares

    @property
    def steps(self) -> Tensor:
        return self._there().sum(1, keepdim=True)

    def _there(self) -> Tensor:
        """Returns which steps each row has; minibatches of random sizes may be empty, but steps they are."""
        random = self.of.gradient.problem.sampler.expected is not None
        return torch.ones_like(self.examples[:, :, 0], dtype=torch.bool) if random else self.examples[:, :, 0] >= 0

    def descend(self, x: Tensor) -> Tensor:
        made, optimizer = x.clone(), self.of.rates.optimizer
        kept = {} if optimizer is None else {name: self.r[name].clone() for name in type(optimizer).fields}
        v = self.r["v"].clone() if "v" in self.r else None
        self.losses = self.of.descent.run_(made, v, self.examples, self.rates(kept)).clone()
        self.r |= kept if v is None else kept | {"v": v}
        return made

    def rates(self, kept: Mapping[str, Tensor] | None = None) -> Hyperparameters:
        """Returns the coefficients of this update."""
        factor = self.of.rates.factor(self.nodes, self.count.flatten(), self.time.flatten())
        return self.of.rates.of(self.nodes, factor, kept)

    @property
    def lr(self) -> Tensor:
        return self.rates().lr.view(-1, 1)
