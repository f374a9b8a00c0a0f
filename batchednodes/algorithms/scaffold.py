"""SCAFFOLD: FedAvg whose local steps are corrected by control variates, so that data that differ do not drag.

Node i keeps c_i, the mean gradient of its last update, and c, the mean of all c_i, which a server would keep: all nodes
hold the same. A fraction of the nodes, S, is drawn anew each round; only they train. With x the model of all nodes:

    At an update of i in S:    y <- x, then H = local.steps times y <- y - eta (g_i(y) - c_i + c);
                               d_i <- mean of the H gradients - c_i, and c_i <- c_i + d_i;
    in a round, for all i:     x <- x + s 1/|S| sum_{j in S} (y_j - x),    c <- c + 1/n sum_{j in S} d_j.

The mean of the gradients is the paper's second option, c_i - c + (x - y) / (H eta). After each round, c is the mean of
all c_i.

Reference:
    S. P. Karimireddy, S. Kale, M. Mohri, S. J. Reddi, S. U. Stich, A. T. Suresh, "SCAFFOLD: stochastic controlled
    averaging for federated learning", ICML 2020, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.algorithms.k_gt import LEAST
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number
from batchednodes.topology import GlobalMean, RoundLaw, RoundWeights


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Federated averaging with control variates, whatever `network.topology` is.

    Example:
        >>> import batchednodes
        >>> task = {"task.data.kind": "quadratics", "local": {"lr": 0.1, "steps": 10}, "run.until": 100}
        >>> task |= {"network.nodes": 5, "timing": {"kind": "synchronous"}, "dtype": "float64"}
        >>> runs = [batchednodes.train(task, f"algorithm.kind={kind}") for kind in ("fedavg", "scaffold")]
        >>> dragged, corrected = (run.metrics["suboptimality"].iloc[-1] for run in runs)
        >>> bool(corrected < 1e-6 * dragged)  # ten steps on data that differ lead elsewhere, unless they are corrected
        True
    """

    fraction: float = 1.0
    """Nodes that train in a round over all nodes [dimensionless]; in (0, 1]; their number is rounded, at least 1."""

    step: float = 1.0
    """Step size of the server s [dimensionless]; positive and finite."""

    fields: ClassVar[dict[str, Field]] = {
        "base": Field(start="model"),
        "own_c": Field(),
        "c": Field(),
        "change": Field(),
    }
    emits: ClassVar[tuple[str, ...]] = ("x", "base", "change")
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.fraction, 1, "fraction", high=1.0, open_low=True, open_high=False)
        number(self.step, 1, "step", open_low=True)

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return GlobalMean(weights.n, seed, self.fraction)

    def update_(self, r: Rows, k: Context) -> None:
        shift = r["c"] - r["own_c"]
        new = k.descend_by(r["x"], lambda y, grad: y - k.lr * (grad(y) + shift))
        r["change"] = (r["x"] - new) / (k.steps * k.lr + LEAST) - r["c"]
        r["x"], r["own_c"] = new, r["own_c"] + r["change"]

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = mixed["base"] + self.step * (mixed["x"] - mixed["base"])
        r["base"] = r["x"]
        r["c"] = r["c"] + (self.fraction * k.size).round().clamp(min=1) / k.size * mixed["change"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, base, c, own, change = e.actor, *(rows[name] for name in ("x", "base", "c", "own_c", "change"))
        if e.kind == UPDATE:
            new = k.descend_by(x[i].clone(), lambda y, grad: y - k.lr * (grad(y) - own[i] + c[i]))
            change[i] = (x[i] - new) / (k.steps * k.lr + LEAST) - c[i]
            own[i] += change[i]
            x[i] = new
        else:
            some = (e.matrix[0] > 0).nonzero().flatten() + e.nodes.start
            start = base[some].mean(0)
            x[e.nodes] = base[e.nodes] = start + self.step * (x[some] - start).mean(0)
            c[e.nodes] += change[some].sum(0) / (e.nodes.stop - e.nodes.start)
