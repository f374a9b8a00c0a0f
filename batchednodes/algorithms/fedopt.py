"""FedOpt: what a round of FedAvg changes is the gradient of a server's optimizer: Adam, Yogi, Adagrad, or momentum.

A fraction of the nodes, S, is drawn anew each round; only they train. With x the model that all nodes have:

    At an update of i in S:    x_i <- LocalSGD(x), of H = local.steps steps;
    in a round, for all i:     D = 1/|S| sum_{j in S} (x_j - x),    m <- b1 m + (1 - b1) D,
        adagrad:               v <- v + D^2,
        yogi:                  v <- v - (1 - b2) D^2 sign(v - D^2),
        adam:                  v <- b2 v + (1 - b2) D^2,              x <- x + s m / (sqrt(v) + tau);
        sgd:                   m <- b1 m + D,                         x <- x + s m.

v starts at tau^2; kept is q = v / tau^2. A server would keep m and v: here all nodes hold the same.

Reference:
    S. J. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konecny, S. Kumar, H. B. McMahan, "Adaptive federated
    optimization", ICLR 2021, Algorithm 2.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number
from batchednodes.topology import GlobalMean, RoundLaw, RoundWeights


@dataclass(frozen=True)
class FedOpt(Algorithm):
    """Adaptive federated optimization, whatever `network.topology` is.

    Example:
        >>> from batchednodes.algorithms.fedopt import FedOpt
        >>> FedOpt(server="yogi", step=0.01).beta2
        0.99
        >>> FedOpt(server="sgd", tau=0.1)
        Traceback (most recent call last):
            ...
        ValueError: beta2 and tau must be left out with server=sgd, which has no second moment, got beta2=0.99, tau=0.1
    """

    server: Literal["adam", "yogi", "adagrad", "sgd"] = "adam"
    """The server's optimizer; sgd has momentum beta1."""

    step: float = 0.1
    """Step size of the server s [dimensionless for sgd, else the unit of x]; positive and finite."""

    beta1: float = 0.9
    """Decay of the first moment b1, 0 <= beta1 < 1; dimensionless."""

    beta2: float = 0.99
    """Decay of the second moment b2, 0 <= beta2 < 1; dimensionless; of adam and yogi."""

    tau: float = 1e-3
    """How much steps adapt: added to the root of the second moment [unit of x]; positive and finite; not of sgd."""

    fraction: float = 1.0
    """Nodes that train in a round over all nodes [dimensionless]; in (0, 1]; their number is rounded, at least 1."""

    fields: ClassVar[dict[str, Field]] = {"base": Field(start="model"), "m": Field(), "q": Field(start="one")}
    emits: ClassVar[tuple[str, ...]] = ("x", "base")
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    spares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number(self.step, 1, "step", open_low=True)
        number(self.beta1, 1, "beta1", high=1.0)
        number(self.beta2, 1, "beta2", high=1.0)
        number(self.tau, 1, "tau", open_low=True)
        number(self.fraction, 1, "fraction", high=1.0, open_low=True, open_high=False)
        if self.server not in ("adam", "yogi", "adagrad", "sgd"):
            raise ValueError(f"server must be one of adam, yogi, adagrad, sgd, got {self.server!r}")
        got = f"got beta2={self.beta2:g}, tau={self.tau:g}"
        if self.server == "sgd" and (self.beta2, self.tau) != (0.99, 1e-3):
            raise ValueError(f"beta2 and tau must be left out with server=sgd, which has no second moment, {got}")
        if self.server == "adagrad" and self.beta2 != 0.99:
            raise ValueError(f"beta2 must be left out with server=adagrad, which adds up squares, {got}")

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return GlobalMean(weights.n, seed, self.fraction)

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        change, sgd = mixed["x"] - mixed["base"], self.server == "sgd"
        r["m"] = self.beta1 * r["m"] + (1.0 if sgd else 1 - self.beta1) * change
        square, q = (change / self.tau) ** 2, r["q"]
        if self.server == "adagrad":
            r["q"] = q + square
        elif self.server == "yogi":
            r["q"] = q - (1 - self.beta2) * square * (q - square).sign()
        elif self.server == "adam":
            r["q"] = self.beta2 * q + (1 - self.beta2) * square
        scale = self.step if sgd else self.step / (self.tau * (r["q"].sqrt() + 1))
        r["x"] = r["base"] = mixed["base"] + scale * r["m"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x, base, i = rows["x"], rows["base"], e.actor
        if e.kind == UPDATE:
            x[i] = k.descend(x[i])
            return
        some = (e.matrix[0] > 0).nonzero().flatten() + e.nodes.start
        start = base[some].mean(0)
        d = (x[some] - start).mean(0)
        m, v = rows["m"][i], rows["q"][i] * self.tau**2
        if self.server == "sgd":
            m = d + self.beta1 * m
            new = start + self.step * m
        else:
            m = m * self.beta1 + d * (1 - self.beta1)
            yogi = v - (1 - self.beta2) * d**2 * (v - d**2).sign()
            adam = self.beta2 * v + (1 - self.beta2) * d**2
            v = {"adagrad": v + d**2, "yogi": yogi, "adam": adam}[self.server]
            new = start + self.step * m / (v.sqrt() + self.tau)
        rows["m"][e.nodes], rows["q"][e.nodes] = m, v / self.tau**2
        x[e.nodes] = base[e.nodes] = new
