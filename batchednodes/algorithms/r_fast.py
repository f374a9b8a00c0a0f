r"""R-FAST: gradient tracking by running sums, which neither delays nor losses of messages can falsify.

Node i keeps a tracker z_i and its last gradient g_i, 0 at the start, v_i, and of each neighbour j: the v_j that came
last, the running sum of what it gave to j, out_ij, that of what j gave to it, as it came last, in_ij, and as much of
it as it has used, used_ij. At an update, with d_i neighbours,

    v_i <- x_i - eta z_i,      x_i <- (v_i + sum_j v_j) / (1 + d_i),
    z <- z_i + sum_j (in_ij - used_ij) + g_i(x_i) - g_i,      used_ij <- in_ij,      g_i <- g_i(x_i),
    z_i <- z / (1 + d_i),      out_ij <- out_ij + z / (1 + d_i) for each j;

a message of i to j brings v_i and out_ij. A neighbour that has not been heard of counts as v_i.

The sum of z_i - g_i over the nodes, and of out - used over the edges, stays 0.

Reference:
    Z. Zhu, Y. Tian, Y. Huang, J. Xu, S. He, "R-FAST: robust fully-asynchronous stochastic gradient tracking over
    general topology", IEEE Trans. Signal Process. 72, 2024, Algorithm 1, with uniform weights.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import MEET, UPDATE


@dataclass(frozen=True)
class RFast(Algorithm):
    """Gradient tracking that neither delays nor losses disturb.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "gossip.clock": {"rate": 4}}
        >>> task = {"local.lr": 0.05, "task.data": {"kind": "linear_regression", "heterogeneity": 1.0}}
        >>> lossy = {"run.until": 60, "gossip.loss": {"kind": "independent", "probability": 0.3}}
        >>> kinds = ("gossip_sgd", "r_fast")
        >>> runs = [batchednodes.train(ring, task, lossy, {"algorithm": {"kind": kind}}) for kind in kinds]
        >>> pulled, tracked = (run.metrics["consensus_distance"].iloc[-1] for run in runs)
        >>> bool(tracked < pulled / 5)  # its own data pull no node away, though messages are lost
        True
    """

    fields: ClassVar[dict[str, Field]] = {
        "z": Field(),
        "g": Field(),
        "v": Field(start="model"),
        "heard": Field(width=1, lives="edge"),
        "theirs": Field(lives="edge"),
        "in": Field(lives="edge"),
        "used": Field(lives="edge"),
        "out": Field(lives="edge"),
    }
    timing: ClassVar[tuple[str, ...]] = ("events",)
    descends: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of z - g and out - used": lambda all_: (all_["z"] - all_["g"]).sum(0) + (all_["out"] - all_["used"]).sum(0)
    }

    def update_(self, r: Rows, k: Context) -> None:
        here = k.neighbours.unsqueeze(2).to(r["x"].dtype)
        share, v = 1 / (1 + here.sum(1)), r["x"] - k.lr * r["z"]
        heard = r["heard"] * here
        r["x"] = v + share * (heard * (r["theirs"] - v.unsqueeze(1))).sum(1)
        g = k.grad(r["x"])
        z = r["z"] + (here * (r["in"] - r["used"])).sum(1) + g - r["g"]
        r["v"], r["g"], r["used"], r["z"] = v, g, r["in"], share * z
        r["out"] = r["out"] + (share * z).unsqueeze(1) * here

    def emit_(self, r: Rows, k: Context) -> Rows:
        return {"v": r["v"], "out": r["out"]}

    def combine(self, own: Rows, other: Rows, w: Any) -> Rows:
        return other

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["theirs"], r["in"], r["heard"] = mixed["v"], mixed["out"], r["heard"] * 0 + 1

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, n = e.actor, e.edges.begins.numel() - 1
        if e.kind == UPDATE:
            edges = (e.edges.keys // n == i).nonzero().flatten().tolist()
            v = rows["x"][i] - k.lr * rows["z"][i]
            x = v.clone()
            for at in edges:
                x += ((rows["theirs"][at] if rows["heard"][at] > 0 else v) - v) / (1 + len(edges))
            g = k.grad(x)
            z = rows["z"][i] + g - rows["g"][i]
            for at in edges:
                z += rows["in"][at] - rows["used"][at]
                rows["used"][at] = rows["in"][at]
            for at in edges:
                rows["out"][at] += z / (1 + len(edges))
            rows["x"][i], rows["v"][i], rows["g"][i], rows["z"][i] = x, v, g, z / (1 + len(edges))
            return
        sent = {node: rows["v"][node].clone() for node in (i, e.peer)}
        for origin, to in [(i, e.peer), (e.peer, i)][: 2 if e.kind == MEET else 1]:
            there, back = (int((e.edges.keys == a * n + b).nonzero()) for a, b in ((to, origin), (origin, to)))
            rows["theirs"][there], rows["in"][there], rows["heard"][there] = sent[origin], rows["out"][back], 1.0
