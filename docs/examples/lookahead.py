"""A complete algorithm of one's own: each node keeps slow weights, half way to which it returns after every update.

Run it:    batchednodes train CONFIG "algorithm={kind: python, target: docs/examples/lookahead.py:Lookahead}"
Check it:  batchednodes check docs/examples/lookahead.py:Lookahead pull=0.3

Reference:
    M. Zhang, J. Lucas, G. Hinton, J. Ba, "Lookahead optimizer: k steps forward, 1 step back", NeurIPS 2019.
"""

from dataclasses import dataclass
from typing import ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows


@dataclass(frozen=True)
class Lookahead(Algorithm):
    """Local SGD, then a step of the slow weights towards its result; gossip mixes the models, not the slow weights."""

    pull: float = 0.5
    """Share of the way that the slow weights go at each update; in [0, 1]; dimensionless."""

    fields: ClassVar[dict[str, Field]] = {"slow": Field(start="model")}

    def __post_init__(self) -> None:
        if not 0 <= self.pull <= 1:
            raise ValueError(f"pull must be in [0, 1], got {self.pull}")

    def update_(self, r: Rows, k: Context) -> None:
        fast = k.descend(r["x"])
        r["slow"] = r["slow"] + self.pull * (fast - r["slow"])
        r["x"] = r["slow"]
