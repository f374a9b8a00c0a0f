"""D2: gradient descent whose averages are corrected by the step before, so that heterogeneous data do no harm.

Node i keeps s_i, what the last step made of its model before it was averaged, its model at the start. A round is

    s' = x - eta g(x),    x <- W (s' + x - s),    s <- s',

the same as x'' = W (2 x' - x - eta (g' - g)). With momentum s' is what that makes of x, as RelaySGD's authors have it.
The sum of x_i - s_i over the nodes stays 0 from round to round. All eigenvalues of W should be above -1/3; those of (I
+ W) / 2 are, see `exact_diffusion`. Below it models diverge wherever losses are flat, and a W that does not change is
refused; at -1/3 itself what noise leaves there stays. Rounds only: at contacts of pairs the correction, which is for
all of W, makes models diverge.

Reference:
    H. Tang, X. Lian, M. Yan, C. Zhang, J. Liu, "D2: decentralized training over decentralized data", ICML 2018.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE


@dataclass(frozen=True)
class D2(Algorithm):
    """Decentralized training over decentralized data, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network.topology.kind": "ring", "network.weights": {"kind": "constant", "value": 0.3}}
        >>> task = {"task.data.kind": "quadratics", "local.lr": 0.5, "run.until": 200, "network.nodes": 8}
        >>> rounds = {"timing.kind": "synchronous", "dtype": "float64"}
        >>> run = batchednodes.train(ring, task, rounds, {"algorithm.kind": "d2"})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # though the nodes' own optima differ
        True
    """

    fields: ClassVar[dict[str, Field]] = {"s": Field(start="model")}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    least_eigenvalue: ClassVar[float] = -1 / 3
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def update_(self, r: Rows, k: Context) -> None:
        s = k.descend(r["x"])
        r["x"] = s + (r["x"] - r["s"])
        r["s"] = s

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, s = e.actor, rows["x"], rows["s"]
        if e.kind == UPDATE:
            adapted = k.descend(x[i])
            x[i] += adapted - s[i]
            s[i] = adapted
        elif e.kind == ROUND:
            x[e.nodes] = e.matrix @ x[e.nodes]
