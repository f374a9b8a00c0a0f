r"""Entries of models that stay at their node, as personal layers do: contacts do nothing to them, and W is 1 there.

An entry is mixed in a contact where both nodes mix it. So the entries that the same nodes mix are mixed together, by
the contacts among these; they lie in a few runs of columns of x, of which any kernel mixes one as it would all of x.

Notation: n nodes, k kinds of nodes, q parameters (tensors) of a model, p their entries, w rows, W gossip matrix.
"""

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from batchednodes.algorithms.base import Rows
from batchednodes.algorithms.mixing.rounds import RoundMatrix


@dataclass(frozen=True, eq=False)
class SharedColumns:
    """Columns of x that the same nodes mix."""

    runs: tuple[slice, ...]
    """Where they lie, in order."""
    nodes: Bool[Tensor, " n"] | None
    """Which nodes mix them; None: all."""

    def within(self, part: slice) -> "SharedColumns":
        """Returns those that lie in a part of the columns, by their numbers in it."""
        ends = [(max(run.start or 0, part.start), min(run.stop, part.stop)) for run in self.runs]
        return SharedColumns(tuple(slice(a - part.start, b - part.start) for a, b in ends if a < b), self.nodes)

    def round_(self, x: Float[Tensor, "rows width"], nodes: slice, matrix: RoundMatrix) -> None:
        """Mixes them in a round, in place: what W gives the nodes of others that do not mix them, they keep.

        Args:
            x: rows of all nodes.
            nodes: of the network.
            matrix: its W.
        """
        some = None if self.nodes is None else self.nodes[nodes].unsqueeze(1)
        kept = None if some is None else 1 - matrix.times(some.to(x.dtype))
        for run in self.runs:
            own = x[nodes, run]
            if some is None or kept is None:
                own.copy_(matrix.times(own))
            else:
                own.copy_(torch.where(some, matrix.times(torch.where(some, own, 0)) + kept * own, own))


@dataclass(frozen=True, eq=False)
class Personal:
    """Which entries of their models the nodes of some networks mix."""

    sizes: Int64[np.ndarray, " q"]
    """Entries of each parameter, in their order in a row."""
    mixes: Bool[np.ndarray, "k q"]
    """Whether nodes of each kind mix each parameter."""
    kind: Int64[np.ndarray, " n"]
    """Kind of each node."""
    where: torch.device
    """The device of the models."""
    whole: bool = False
    """Whether all nodes mix all that outputs of their models depend on."""

    @functools.cached_property
    def entries(self) -> Bool[Tensor, "k p"]:
        """Whether nodes of each kind mix each entry."""
        return torch.from_numpy(np.repeat(self.mixes, self.sizes, axis=1)).to(self.where)

    @functools.cached_property
    def kinds(self) -> Int64[Tensor, " n"]:
        """Kind of each node, on the device."""
        return torch.from_numpy(self.kind).to(self.where)

    def both(self, one: Int64[Tensor, " w"], other: Int64[Tensor, " w"]) -> Bool[Tensor, "w p"]:
        """Returns which entries the nodes of pairs mix with each other."""
        return self.entries[self.kinds[one]] & self.entries[self.kinds[other]]

    def all_mix(self, nodes: slice) -> Bool[Tensor, " p"]:
        """Returns which entries all of some nodes mix."""
        return self.entries[torch.from_numpy(np.unique(self.kind[nodes])).to(self.where)].all(0)

    def kept(self, new: Rows, old: Rows, mixed: Bool[Tensor, "w p"]) -> Rows:
        """Returns rows with what they were in place of what is not mixed, in all fields as wide as a model.

        Args:
            new: what mixing made of them.
            old: what they were.
            mixed: which entries of each row it was about.
        """
        wide = [name for name, value in new.items() if name in old and value.shape == mixed.shape]
        return new | {name: torch.where(mixed, new[name], old[name]) for name in wide}

    def shared(self, beside: Iterable[slice]) -> tuple[SharedColumns, ...]:
        """Returns the columns of x that the same nodes mix, where any do.

        Args:
            beside: columns of x behind the model, of fields that are mixed as it is: those as wide as a model keep the
                same entries, others are mixed whole.
        """
        p = int(self.sizes.sum())
        places = [(0, p), *((part.start, part.stop - part.start) for part in beside)]
        ends, found = np.cumsum(self.sizes), dict[bytes, list[slice]]()
        for first, width in places:
            if width != p:
                found.setdefault(np.ones(len(self.mixes), bool).tobytes(), []).append(slice(first, first + width))
                continue
            for key, some in itertools.groupby(range(len(ends)), lambda a: self.mixes[:, a].tobytes()):
                each = [*some]
                begin, end = first + int(ends[each[0]] - self.sizes[each[0]]), first + int(ends[each[-1]])
                found.setdefault(key, []).append(slice(begin, end))
        return tuple(self._of(key, runs) for key, runs in found.items() if any(key))

    def _of(self, key: bytes, runs: list[slice]) -> SharedColumns:
        kinds = np.frombuffer(key, bool)
        nodes = None if kinds.all() else torch.from_numpy(kinds[self.kind]).to(self.where)
        joined = list[slice]()
        for run in sorted((run for run in runs if run.start < run.stop), key=lambda run: run.start):
            if joined and joined[-1].stop == run.start:
                run = slice(joined.pop().start, run.stop)
            joined.append(run)
        return SharedColumns(tuple(joined), nodes)
