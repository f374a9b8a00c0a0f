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

Reference:
    T. Vogels, L. He, A. Koloskova, T. Lin, S. P. Karimireddy, S. U. Stich, M. Jaggi, "RelaySum for decentralized deep
    learning on heterogeneous data", NeurIPS 2021, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import ROUND, UPDATE


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

    fields: ClassVar[dict[str, Field]] = {
        "start": Field(start="model"),
        "y": Field(),
        "came": Field(lives="edge"),
        "counts": Field(width=1, lives="edge"),
    }
    mixing: ClassVar[Any] = "row"
    graph: ClassVar[Any] = "tree"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)

    def update_(self, r: Rows, k: Context) -> None:
        new = k.descend(r["x"])
        r["y"] = new if self.mode == "model" else r["x"] - new

    def emit_(self, r: Rows, k: Context) -> Rows:
        came, counts = r["came"], r["counts"]
        others, known = came.sum(1, keepdim=True) - came, counts.sum(1, keepdim=True) - counts
        return {"came": r["y"].unsqueeze(1) + others, "counts": 1 + known}

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        of = r if self.overlap else mixed
        total, known = r["y"] + of["came"].sum(1), 1 + of["counts"].sum(1)
        if self.mode == "model":
            r["x"] = (total + (k.size - known) * r["start"]) / k.size
        else:
            r["x"] = r["x"] - total / k.size
        r["came"], r["counts"] = mixed["came"], mixed["counts"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind == UPDATE:
            new = k.descend(rows["x"][e.actor])
            rows["y"][e.actor] = new if self.mode == "model" else rows["x"][e.actor] - new
        elif e.kind == ROUND:
            n = e.nodes.stop - e.nodes.start
            came, counts = rows["came"].clone(), rows["counts"].clone()
            edges = [divmod(key, len(rows["x"])) for key in e.edges.keys.tolist()]  # (i, k): what i keeps of k
            for to, (j, i) in enumerate(edges):
                if j not in range(e.nodes.start, e.nodes.stop):
                    continue
                others = [at for at, (node, k) in enumerate(edges) if node == i and k != j]
                rows["came"][to] = rows["y"][i] + came[others].sum(0)
                rows["counts"][to] = 1 + counts[others].sum(0)
            heard = (came, counts) if self.overlap else (rows["came"], rows["counts"])
            for i in range(e.nodes.start, e.nodes.stop):
                mine = [at for at, (node, _) in enumerate(edges) if node == i]
                total, known = rows["y"][i] + heard[0][mine].sum(0), 1 + heard[1][mine].sum(0)
                if self.mode == "model":
                    rows["x"][i] = (total + (n - known) * rows["start"][i]) / n
                else:
                    rows["x"][i] -= total / n
