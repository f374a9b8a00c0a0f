r"""Cases: the searches for step sizes of RelaySGD's figures 2, 7 and 8, each a method on a problem.

Every problem is drawn as the reference's public code draws it: 10 parameters, curvature from 0.25 to 1.

Notation: n nodes, zeta^2 heterogeneity, k tested numbers of steps.

Reference:
    T. Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS 2021.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64

from batchednodes.figures.published import tuning
from batchednodes.figures.published.frames import column, groups
from batchednodes.figures.published.tuning import Tuned

METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "gossip": ("gossip", {"kind": "d_psgd"}, {}, "#0072B2"),
    "gradient_tracking": ("gradient tracking", {"kind": "gradient_tracking"}, {}, "#E69F00"),
    "d2": ("D2", {"kind": "d2"}, {}, "#009E73"),
    "relaysum_model": ("RelaySGD", {"kind": "relay_sgd"}, {}, "#D55E00"),
    "relaysum_grad": ("RelaySGD of gradients", {"kind": "relay_sgd", "mode": "gradient"}, {}, "#CC79A7"),
    "all_reduce": ("all-reduce", {"kind": "all_reduce"}, {}, "black"),
    "sgp": ("SGP", {"kind": "d_psgd"}, {"mixings": 2}, "#56B4E9"),
}
"""Name of a method in keys -> in words, its algorithm, what rounds it needs, colour."""

_WEIGHED = ("gossip", "gradient_tracking", "d2")
"""Methods whose weights are Metropolis'."""

_SHORT = 200
"""Rounds up to which a step takes less time as it is than to be traced."""

TARGET = 1e-6
"""Error that is wanted."""


@dataclass(frozen=True)
class Case:
    """One search: a method on a problem.

    Example:
        >>> from batchednodes.figures.published.relaysgd_cases import case
        >>> case("fig8/d2/0.01")
        Case(figure='fig8', method='d2', graph='star', nodes=32, heterogeneity=0.01, seed=0)
        >>> case("fig2/relaysum_grad/tree/12/0.1/0").name
        'figure 2, RelaySGD of gradients on tree, n = 12, zeta^2 = 0.1'
    """

    figure: Literal["fig2", "fig7", "fig8"]
    """Which says the distance of the optimum, the rule of the search, where it begins and its budget."""
    method: str
    """One of the keys of the methods."""
    graph: Literal["ring", "chain", "star", "tree", "exponential"]
    """Whom nodes contact."""
    nodes: int
    """Number of nodes n."""
    heterogeneity: float
    """zeta^2."""
    seed: int
    """Of the problem."""

    @property
    def key(self) -> str:
        """Its name in the file of published values."""
        zeta = f"{self.heterogeneity:g}"
        if self.figure != "fig2":
            return f"{self.figure}/{self.method}/{zeta}"
        return f"fig2/{self.method}/{self.graph}/{self.nodes}/{zeta}/{self.seed}"

    @property
    def name(self) -> str:
        """It in words."""
        words = f"figure {self.figure[3:]}, {METHODS[self.method][0]}"
        if self.figure == "fig2":
            words += f" on {self.graph}, n = {self.nodes}"
        return f"{words}, zeta^2 = {self.heterogeneity:g}" + (f", seed {self.seed}" if self.seed else "")

    @property
    def linear(self) -> bool:
        """Whether the method finds the optimum exactly, so that the search is for the fastest."""
        return self.method not in ("gossip", "relaysum_grad")

    @property
    def distance(self) -> float:
        """Of the optimum from 0, where models begin."""
        return 1.0 if self.figure != "fig2" else 100.0 if self.linear else 10.0

    @property
    def budget(self) -> int:
        """The most steps of a trial."""
        return 20_000 if self.figure == "fig2" else 10_000 if self.linear else 70_000

    def search(self) -> tuning.Search:
        """Begins the search that was published."""
        quick = self.linear or (self.figure == "fig2" and self.heterogeneity == 0)
        start = 100.0 if self.figure == "fig2" and not self.linear else 10.0
        return (tuning.fastest if quick else tuning.plateau)(start, TARGET)

    def data(self) -> dict[str, Any]:
        """Returns the settings of the problem."""
        drawn = {"heterogeneity": self.heterogeneity, "distance": self.distance, "torch_seed": self.seed}
        return {"kind": "quadratics", "dimension": 10, "curvature": 0.5, **drawn}

    def network(self) -> dict[str, Any]:
        """Returns the settings of nodes and graph, and of weights where the method leaves them open."""
        graph: dict[str, Any] = {"kind": self.graph}
        if self.graph == "exponential":
            graph = {"kind": "one_peer_exponential", "period": 0.5}
        elif self.graph == "tree":  # the root hangs from node 0
            later = range(2, self.nodes)
            graph = {"kind": "edges", "i": [0, *(k // 2 for k in later)], "j": [1, *later]}
        found = {"network.nodes": self.nodes, "network.topology": graph}
        return found | ({"network.weights": {"kind": "metropolis_hastings"}} if self.method in _WEIGHED else {})


def case(key: str) -> Case:
    """Returns the case of a key of published values: "fig7/d2/0.1" or "fig2/gossip/ring/16/0.01/0".

    Raises:
        ValueError: there is no such case.
    """
    figure, method, *rest = key.split("/")
    if figure not in ("fig2", "fig7", "fig8") or method not in METHODS or len(rest) != (4 if figure == "fig2" else 1):
        raise ValueError(f"a case must be figN/method/zeta^2 or fig2/method/graph/n/zeta^2/seed, got {key!r}")
    if figure == "fig2":
        graph, nodes, zeta, seed = rest
    else:
        graph = "star" if figure == "fig8" else "chain" if method.startswith("relaysum") else "ring"
        nodes, zeta, seed = "32", rest[0], "0"
    return Case(figure, method, graph, int(nodes), float(zeta), int(seed))  # pyright: ignore[reportArgumentType]


def alike(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Yields the cases whose trials can run in one batch: those of one method, with one budget."""
    found = dict[tuple[str, int], list[Case]]()
    for one in cases:
        found.setdefault((one.method, one.budget), []).append(one)
    yield from found.values()


def settings(trials: Sequence[tuple[Case, float]], marks: Sequence[int]) -> dict[str, Any]:
    """Returns the settings of a batch: cases that are alike, each with a step size, observed after some rounds."""
    _, algorithm, rounds, _ = METHODS[trials[0][0].method]
    return {
        "algorithm": algorithm,
        "timing": {"kind": "synchronous", "period": 1.0, **rounds},
        "task": {"data": {"kind": "quadratics"}},
        "local": {"compile": "off" if marks[-1] <= _SHORT else "auto"},
        "run": {"until": marks[-1], "mark_at": [*marks], "eval_nodes": 1, "on_divergence": "ignore"},
        "staleness": {"track": "none"},
        "dtype": "float64",
        "sweep": {
            **{key: [one.network()[key] for one, _ in trials] for key in trials[0][0].network()},
            "task.data": [one.data() for one, _ in trials],
            "local.lr": [lr for _, lr in trials],
        },
        "sweep_mode": "zip",
    }


def errors(metrics: pd.DataFrame) -> Float64[np.ndarray, " k"]:
    """Returns the errors of a network at its marks: that of the mean model; NaN where it is no number."""
    return column(metrics, "suboptimality")[1:]


def tuned(cases: Sequence[Case], train: Callable[[dict[str, Any]], pd.DataFrame]) -> dict[str, Tuned]:
    """Returns what the published search finds for each case, by its key; trials that are alike run in one batch.

    Args:
        cases: any.
        train: returns the metrics of a run of given settings.
    """
    found = dict[str, Tuned]()
    for some in alike(cases):
        known = {one.key: one for one in some}

        def run(
            trials: Sequence[tuple[str, float]], marks: Sequence[int], known: Mapping[str, Case] = known
        ) -> list[Float64[np.ndarray, " k"]]:
            rows = train(settings([(known[key], lr) for key, lr in trials], marks))
            return [errors(own) for _, own in groups(rows, ["network"])]

        found |= tuning.settle({key: one.search() for key, one in known.items()}, some[0].budget, run)
    return found
