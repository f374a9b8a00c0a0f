r"""PENS, performance-based neighbour selection: nodes learn with those whose models suit their own data.

At an update of i:       x_i <- LocalSGD(x_i);
in rounds 0 to T - 1:    i asks s random neighbours for their models, takes the mean of its own and of the m among them
                         with the lowest loss on all examples of i, and counts whom it asked, a_ij, and kept, b_ij;
in later rounds:         i asks one random neighbour j among those with b_ij > a_ij m / s, kept more often than at
                         random, or among all if there are none, and takes the mean of its own model and x_j.

Whom a node asks first is drawn, and later follows from its counts, so no event depends on a model. In the paper nodes
send to such peers, and merge when s models have come; here they ask, so that each round is whole. A node with fewer
than s neighbours asks all of them: s and m are then as many as it has, at most. Those asked count as sent in
`gossips`, by who asks; versions count all of whom a node was told.

Reference:
    N. Onoszko, G. Karlsson, O. Mogren, E. L. Zec, "Decentralized federated learning of deep neural networks on non-iid
    data", ICML 2021 workshop on federated learning, arXiv 2107.08517.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy
from jaxtyping import Int64

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count
from batchednodes.topology import Graph, RoundLaw, RoundWeights

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")

_STREAM = 1
"""Of the draws of whom a node asks."""


@dataclass(frozen=True)
class PENS(Algorithm):
    """Local SGD, and means with few peers: those whose models do best on a node's own data, then those known for it.

    Example:
        >>> import batchednodes
        >>> method = {"algorithm": {"kind": "pens", "sampled": 4, "rounds": 3}, "timing": {"kind": "synchronous"}}
        >>> run = batchednodes.train({"network.nodes": 10, "run.until": 5}, method)
        >>> int(run.metrics["gossips"].iloc[-1])  # ten nodes ask four others in three rounds, and one in two more
        140
    """

    sampled: int = 10
    """Neighbours that a node asks in each of the first rounds, s [nodes]; at least 1; all, where a node has fewer."""
    kept: int = 2
    """How many of their models it keeps, m; at least 1, at most `sampled`."""
    rounds: int = 200
    """Rounds in which nodes find out whose models suit them, T; at least 1."""

    fields: ClassVar[dict[str, Field]] = {
        "times_asked": Field(width=1, lives="edge", seen=False),
        "times_kept": Field(width=1, lives="edge", seen=False),
    }
    timing: ClassVar[tuple[str, ...]] = ("rounds",)

    def __post_init__(self) -> None:
        count(self.sampled, 1, "sampled")
        count(self.kept, 1, "kept", high=self.sampled)
        count(self.rounds, 1, "rounds")

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return Asking(weights, self.sampled, self.rounds)

    def asks(self, r: Rows, k: Context) -> Any:
        here = k.weights != 0
        u, size = k.uniform(_STREAM, here.shape[1]), self.sampled
        if k.round >= self.rounds:
            s = here.sum(1, keepdim=True).clamp(max=self.sampled)
            better = here & (r["times_kept"][:, :, 0] * s > r["times_asked"][:, :, 0] * s.clamp(max=self.kept))
            here, size = torch.where(better.any(1, keepdim=True), better, here), 1
        order = torch.where(here, u, torch.inf).argsort(dim=1, stable=True)[:, :size]
        return torch.where(here.gather(1, order), order, -1)

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        places, models = mixed["asked"], mixed["x"]
        if k.round < self.rounds:
            losses = [k.loss(models[:, j]) for j in range(models.shape[1])]
            order = _lowest(torch.where(places >= 0, torch.cat([models[:, :0, 0], *losses], 1), torch.inf), self.kept)
            chosen = places.gather(1, order)
            r["times_asked"] = _counted(r["times_asked"], places)
            r["times_kept"] = _counted(r["times_kept"], chosen)
            models, places = models.gather(1, order.unsqueeze(2).expand(-1, -1, models.shape[2])), chosen
        total = r["x"]
        for j in range(models.shape[1]):
            total = total + torch.where(places[:, j : j + 1] >= 0, models[:, j], 0)
        r["x"] = total / (1 + (places >= 0).sum(1, keepdim=True))

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind == UPDATE:
            rows["x"][e.actor] = k.descend(rows["x"][e.actor])
            return
        n, old = e.edges.begins.numel() - 1, rows["x"].clone()
        for i in range(e.nodes.start, e.nodes.stop):
            edges = (e.edges.keys // n == i).nonzero().flatten().tolist()
            other = {at: int(e.edges.keys[at]) % n for at in edges}
            u = dict(zip(edges, e.draws(torch.tensor([i]), _STREAM, len(edges))[0].tolist(), strict=True))
            drawn = sorted(
                (at for at in edges if e.matrix[i - e.nodes.start, other[at] - e.nodes.start] != 0), key=u.__getitem__
            )
            asked, share = drawn[: self.sampled], min(self.kept, len(drawn)) / max(1, min(self.sampled, len(drawn)))
            if e.number < self.rounds:
                best = sorted(asked, key=lambda at, i=i, other=other: float(e.loss(i, old[other[at]])))[: self.kept]
                rows["times_asked"][asked] += 1
                rows["times_kept"][best] += 1
            else:
                better = [at for at in drawn if rows["times_kept"][at] > rows["times_asked"][at] * share]
                best = (better or drawn)[:1]
            rows["x"][i] = torch.stack([old[i], *(old[other[at]] for at in best)]).mean(0)


def _lowest(losses: Any, m: int) -> Any:
    """Returns the places of the m lowest losses of each row; of equal ones the first."""
    return torch.where(losses.isnan(), torch.inf, losses).argsort(dim=1, stable=True)[:, :m]


def _counted(times: Any, places: Any) -> Any:
    """Returns numbers of times [w, d, 1] with one more at some places [w, s]."""
    return times.scatter_add(1, places.clamp(min=0).unsqueeze(2), (places >= 0).to(times.dtype).unsqueeze(2))


@dataclass(frozen=True, eq=False)
class Asking(RoundLaw):
    """Rounds of one network in which nodes ask some of those whom the weights let them hear."""

    weights: RoundWeights
    """Whom a node may hear."""
    sampled: int
    """s."""
    rounds: int
    """T."""

    def matrix(self, k: int) -> "scipy.sparse.csr_array | None":
        return self.weights.matrix(k)

    def sent(self, k: int) -> Int64[np.ndarray, " n"]:
        w = self.weights.matrix(k)
        able = np.full(self.weights.n, self.weights.n - 1) if w is None else np.diff((w != 0).indptr) - 1
        return np.minimum(able, self.sampled if k < self.rounds else 1)

    def union(self) -> Graph | None:
        return self.weights.union()

    @property
    def few(self) -> bool:
        return self.weights.few

    def repeats(self, k: int) -> int:
        return self.weights.repeats(k)
