r"""Regimes of gossip that the figures compare, a scheme and a capacity each, and how each is drawn.

Notation: n nodes.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Regime:
    """Who transmits, at which capacity."""

    kind: str
    """`uniform`: everyone; `freshest`: only those that hold the newest update."""
    capacity: str
    """Gossip capacity of a node, an expression in n [1/s]."""
    bounded: bool
    """Whether mean staleness stays bounded as n grows: the paper's criterion for the convergence of every user."""
    marker: str
    """Its marker in figures; hollow for `freshest`."""
    colour: str
    """Its colour in figures."""

    @property
    def label(self) -> str:
        """Its name in figures."""
        return f"{self.kind}, capacity {self.capacity.replace('(n)', ' n')}"

    @property
    def style(self) -> dict[str, Any]:
        """How matplotlib draws it: told apart by marker, filling and line where colours are lost."""
        hollow = self.kind == "freshest"
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": "--" if hollow else "-",
            "markerfacecolor": "white" if hollow else self.colour,
        }

    def settings(self) -> dict[str, Any]:
        """Returns what a network of the regime needs, by the keys of a sweep."""
        return {"gossip.clock.rate": self.capacity, "gossip.scheme": {"kind": self.kind}}


REGIMES = (
    Regime("uniform", "1", False, "o", "#0072B2"),
    Regime("uniform", "log(n)", True, "s", "#D55E00"),
    Regime("uniform", "n", True, "^", "#009E73"),
    Regime("freshest", "1", False, "o", "#56B4E9"),
    Regime("freshest", "log(n)", False, "s", "#E69F00"),
    Regime("freshest", "n", True, "^", "#6B6B6B"),
)
"""The six of the paper's claims."""


def zipped(networks: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Returns the sweep, in mode zip, of networks that set the same keys.

    Example:
        >>> from batchednodes.figures.published.regimes import zipped
        >>> zipped([{"network.nodes": 10, "seed": 0}, {"network.nodes": 20, "seed": 1}])
        {'network.nodes': [10, 20], 'seed': [0, 1]}
    """
    return {key: [one[key] for one in networks] for key in networks[0]}
