r"""RelaySGD: models, or gradients, of all nodes reach all nodes along the edges of a tree, each exactly once.

Node i keeps y_i, its own contribution, and of each neighbour k the message m_ki that came last, with the number c_ki of
nodes whose contributions it sums up. To neighbour j it sends the sum of what the others sent,

    m_ij = y_i + sum over k != j of m_ki,        c_ij = 1 + sum over k != j of c_ki,

and, with N_i = 1 + sum_k c_ki nodes heard of, among n, and x_i(0) for the others,

    model:     at an update y_i <- LocalSGD(x_i); then, and whenever a message comes,
               x_i <- (y_i + sum_k m_ki + (n - N_i) x_i(0)) / n;
    gradient:  at an update y_i <- x_i - LocalSGD(x_i); after it x_i <- x_i - (y_i + sum_k m_ki) / n.

After as many rounds as the tree is wide each model is a mean of n contributions, each as old as its way is long. With
`overlap` a round makes x_i of the messages of the round before, which may then be under way while nodes compute.

With `trees: 2` the first half of each model goes along one tree, the second along another, those of the topology
`double_binary_tree`: nobody is an inner node of both, so nobody sends much more than its model in a round.

Reference:
    T. Vogels, L. He, A. Koloskova, T. Lin, S. P. Karimireddy, S. U. Stich, M. Jaggi, "RelaySum for decentralized deep
    learning on heterogeneous data", NeurIPS 2021, Algorithm 1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int64

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import ROUND, UPDATE
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count
from batchednodes.topology import Graph, RoundLaw, RoundWeights
from batchednodes.topology.trees import joined, two_trees

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class RelaySGD(Algorithm):
    """Sums of models, or of gradients, that are relayed along a tree.

    Example:
        >>> import batchednodes
        >>> chain = {"network": {"nodes": 5, "topology": {"kind": "chain"}}, "timing": {"kind": "synchronous"}}
        >>> run = batchednodes.train(chain, {"algorithm": {"kind": "relay_sgd"}, "run.until": 40, "local.lr": 0})
        >>> bool(run.metrics["consensus_distance"].iloc[-1] < 1e-5)
        True
    """

    mode: Literal["model", "gradient"] = "model"
    """What is relayed: models, or what local SGD takes off them."""
    overlap: bool = False
    """Whether a round uses the messages of the round before."""

    trees: int = 1
    """Trees along which parts of the model are relayed: 1, or 2, each for a half."""

    fields: ClassVar[dict[str, Field]] = {
        "start": Field(start="model"),
        "y": Field(),
        "came": Field(lives="edge"),
        "counts": Field(width=2, lives="edge"),
    }
    emits: ClassVar[tuple[str, ...]] = ("came", "counts")
    mixing: ClassVar[Any] = "row"
    graph: ClassVar[Any] = "tree"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)

    def __post_init__(self) -> None:
        count(self.trees, 1, "trees", high=2)

    def shape(self) -> Any:
        return "tree" if self.trees == 1 else "two_trees"

    def payload(self, p: int, item: int) -> int:
        """Returns the bytes of the part of a model that goes along a tree, and of its count."""
        return (-(-p // self.trees) + 1) * item

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return RelayRounds(weights, self.trees)

    def update_(self, r: Rows, k: Context) -> None:
        new = k.descend(r["x"])
        r["y"] = new if self.mode == "model" else r["x"] - new

    def emit_(self, r: Rows, k: Context) -> Rows:
        came, counts = r["came"], r["counts"]
        others, known = came.sum(1, keepdim=True) - came, counts.sum(1, keepdim=True) - counts
        sent = {"came": r["y"].unsqueeze(1) + others, "counts": 1 + known}
        if self.trees == 2:
            along = torch.stack(joined(k.node, k.others, k.size.long()), 2)
            sent = {
                "came": torch.where(along[:, :, self._tree_of(r["y"])], sent["came"], 0),
                "counts": torch.where(along, sent["counts"], 0),
            }
        return sent

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        of = r if self.overlap else mixed
        total = r["y"] + of["came"].sum(1)
        if self.mode == "model":
            known = (1 + of["counts"].sum(1))[:, self._tree_of(total)]
            r["x"] = (total + (k.size - known) * r["start"]) / k.size
        else:
            r["x"] = r["x"] - total / k.size
        r["came"], r["counts"] = mixed["came"], mixed["counts"]

    def _tree_of(self, x: Tensor) -> Tensor:
        """Returns along which tree each parameter goes, 0 or 1 [p]."""
        p = x.shape[-1]
        return (torch.arange(p, device=x.device) >= -(-p // self.trees)).long()

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind == UPDATE:
            new = k.descend(rows["x"][e.actor])
            rows["y"][e.actor] = new if self.mode == "model" else rows["x"][e.actor] - new
        elif e.kind == ROUND:
            n, half = e.nodes.stop - e.nodes.start, -(-rows["x"].shape[1] // 2)
            if self.trees == 1:
                self._relay_(rows, e, slice(None), slice(0, 2), None)
                return
            for tree, part in enumerate((slice(0, half), slice(half, None))):
                edges = {frozenset(pair) for pair in (two_trees(n)[tree] + e.nodes.start).tolist()}
                self._relay_(rows, e, part, slice(tree, tree + 1), edges)

    def _relay_(self, rows: Rows, e: Any, part: slice, tree: slice, edges: set[frozenset[int]] | None) -> None:
        """Applies a round to parts of models that are relayed along some edges; None: along all."""
        n, came, counts = e.nodes.stop - e.nodes.start, rows["came"].clone(), rows["counts"].clone()
        pairs = [divmod(key, len(rows["x"])) for key in e.edges.keys.tolist()]  # (i, k): what i keeps of k
        there = [(at, i, j) for at, (i, j) in enumerate(pairs) if edges is None or {i, j} in edges]
        for to, j, i in there:
            if j not in range(e.nodes.start, e.nodes.stop):
                continue
            others = [at for at, node, k in there if node == i and k != j]
            rows["came"][to, part] = rows["y"][i, part] + came[others][:, part].sum(0)
            rows["counts"][to, tree] = 1 + counts[others][:, tree].sum(0)
        heard = (came, counts) if self.overlap else (rows["came"], rows["counts"])
        for i in range(e.nodes.start, e.nodes.stop):
            mine = [at for at, node, _ in there if node == i]
            total, known = rows["y"][i, part] + heard[0][mine][:, part].sum(0), 1 + heard[1][mine][:, tree].sum(0)[:1]
            if self.mode == "model":
                rows["x"][i, part] = (total + (n - known) * rows["start"][i, part]) / n
            else:
                rows["x"][i, part] -= total / n


@dataclass(frozen=True)
class RelayRounds(RoundLaw):
    """All send to their neighbours on each tree: one message for a tree."""

    weights: RoundWeights
    """Of the graph, which does not change; what they are means nothing."""
    trees: int
    """1 or 2."""

    def matrix(self, k: int) -> Any:
        return self.weights.matrix(0)

    def sent(self, k: int) -> Int64[np.ndarray, " n"]:
        """Returns how many parts of models each node sends."""
        if self.trees == 1:
            return self.weights.sent(0)
        return np.bincount(np.concatenate(two_trees(self.weights.n)).ravel(), minlength=self.weights.n)

    def union(self) -> Graph | None:
        return self.weights.union()

    @property
    def few(self) -> bool:
        return True

    def repeats(self, k: int) -> int:
        return 0
