r"""How many neighbours a graph is worth, and how fast noisy gradients descend on it: theory, published values, runs.

The effective number of neighbours is by how much averaging over a graph lessens the variance of a walk that forgets at
rate 1 - gamma; runs of SGD on quadratics with noise are such walks, so they measure it. Where step sizes are large, the
rate of descent on random isotropic quadratics is limited by it: more neighbours allow larger steps.

Notation: n nodes, gamma decay, eta step size, zeta noise of Hessians.

Reference:
    T. Vogels, H. Hendrikx, M. Jaggi, "Beyond spectral gap: the role of the topology in decentralized learning",
    NeurIPS 2022.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes import config
from batchednodes.figures.published import compared
from batchednodes.figures.published.compared import Compared, published
from batchednodes.figures.published.estimates import errors, inside, over_replicas
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, known, take, where
from batchednodes.results.theory.quadratics import effective_neighbours, quadratic_rate, worst_node_rate
from batchednodes.topology import PeerSampler
from batchednodes.topology.round_weights import RoundWeights

Matrices = list[Float64[np.ndarray, "n n"]]
"""Gossip matrices of a period."""

_ALONE = "Solo"
"""Nodes that average with nobody, which need no run."""

_NOISE = 1.0
"""Length of the noise of gradients."""

_PART = 0.125
"""Part of a run that is left out: six times the time in which a walk of the largest gamma forgets."""


def _graphs(n: int) -> dict[str, tuple[dict[str, Any], str, str]]:
    """Returns the published graphs of n nodes, n a power of 2 from 16: settings, colour and line.

    The published torus is wound up: its rows are joined to the next, which makes it a ring with chords.
    """
    nodes, row = [*range(n)], n // 4
    torus = {"i": nodes * 2, "j": [(i + k) % n for k in (1, row) for i in nodes]}
    tree = {"i": [0, *(k // 2 for k in range(2, n))], "j": nodes[1:]}  # the root hangs from node 0
    return {
        "Fully connected": ({"kind": "complete"}, "black", "-"),
        "Hypercube": ({"kind": "hypercube"}, "#009E73", "-"),
        f"Torus (4x{row})": ({"kind": "edges", **torus}, "#D55E00", "-"),
        "Time-varying exponential": ({"kind": "one_peer_exponential"}, "#CC79A7", "-"),
        "Two cliques": ({"kind": "two_cliques"}, "#009E73", "--"),
        "Social network": ({"kind": "davis"}, "#E69F00", "--"),
        "Ring": ({"kind": "ring"}, "#0072B2", "-"),
        "Binary tree": ({"kind": "edges", **tree}, "#56B4E9", "--"),
        "Star": ({"kind": "star"}, "#D55E00", ":"),
    }


def _network(n: int, name: str) -> dict[str, Any]:
    """Returns the settings of a graph and its weights."""
    kind = "uniform" if name in ("Fully connected", "Time-varying exponential") else "metropolis_hastings"
    return {"network.nodes": n, "network.topology": _graphs(n)[name][0], "network.weights": {"kind": kind}}


def scheme(n: int, name: str) -> Matrices:
    """Returns the gossip matrices of a graph that was published, which are used in turn.

    Args:
        n: number of nodes.
        name: as it was published, or "Solo".
    """
    if name == _ALONE:
        return [np.eye(n)]
    network = config.load(_network(n, name)).network
    graph = network.topology.graph(n, 0)
    rounds = RoundWeights(n, graph, network.weights, "double", False, 1.0)
    cycle = (graph.cycle or 1) if isinstance(graph, PeerSampler) else 1
    found = [rounds.matrix(k) for k in range(cycle)]
    return [np.full((n, n), 1 / n) if w is None else w.toarray() for w in found]


@dataclass(frozen=True)
class TopologyQuadratics(Experiment):
    """The figure, for graphs of one number of nodes."""

    graphs: tuple[str, ...]
    """Names of graphs as they were published, those without runs too."""
    gammas: tuple[float, ...]
    """Decays of the walks that are run; in (0, 1)."""
    replicas: int
    """Walks of each, with other seeds; at least 2."""
    nodes: int = 32
    """Number of nodes n; values for 32 were published."""
    zeta: float = 50.0
    """E |H x|^2 / |x|^2 of the random Hessians."""

    def batches(self) -> dict[str, dict[str, Any]]:
        points = [(name, gamma) for name in self.graphs if name != _ALONE for gamma in self.gammas]
        until = math.ceil(48 / (1 - max(self.gammas)))
        networks = [_network(self.nodes, name) for name, _ in points]
        run = {
            "algorithm": {"kind": "d_psgd"},
            "timing": {"kind": "synchronous", "period": 1.0},
            "task": {
                "data": {"kind": "quadratics", "curvature": 1.0, "heterogeneity": 0, "distance": 0, "noise": _NOISE}
            },
            "run": {"until": until, "mark_every": until / 600},
            "staleness": {"track": "none"},
            "dtype": "float64",
            "sweep": {
                **{key: [one[key] for one in networks] for key in networks[0]},
                "local.lr": [1 - math.sqrt(gamma) for _, gamma in points],
            },
            "sweep_mode": "zip",
            "replicas": self.replicas,
        }
        return {"walks": run}

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        schemes = {name: scheme(self.nodes, name) for name in self.graphs}
        lines = pd.DataFrame([row for name, own in schemes.items() for row in self._theory(name, own)])
        printed = published("topology_quadratics")["values"]
        values = [
            one
            for name, own in schemes.items()
            for one in _compared(f"{name}, n = {self.nodes}", printed.get(f"{name}/n={self.nodes}", {}), own)
        ]
        return pd.concat([lines, self._measured(metrics["walks"], schemes), compared.rows(values)])

    def _theory(self, name: str, own: Matrices) -> Iterator[dict[str, Any]]:
        """Yields what theory says of a graph, to draw lines of it."""
        for gamma in 1 - np.geomspace(0.5, 0.001, 25):
            yield {"graph": name, "gamma": gamma, "neighbours_theory": _mean(own, gamma)}
        for lr in np.geomspace(0.002, 0.5, 30):
            yield {"graph": name, "lr": lr, "rate_theory": quadratic_rate(own, self.zeta, lr)}

    def _measured(self, rows: pd.DataFrame, schemes: Mapping[str, Matrices]) -> pd.DataFrame:
        """Returns the effective neighbours that runs measure, with theory beside."""
        points = [(name, gamma) for name in self.graphs if name != _ALONE for gamma in self.gammas]
        late = take(rows, column(rows, "time") > _PART * column(rows, "time").max())
        found = []
        for k, (_, own) in enumerate(groups(late, ["network"])):
            name, gamma = points[k // self.replicas]
            alone = (1 - math.sqrt(gamma)) ** 2 * _NOISE**2 / (1 - gamma)
            spread = float(np.square(column(own, "distance_to_optimum")).mean())
            theory = _mean(schemes[name], gamma)
            found.append({"graph": name, "gamma": gamma, "neighbours": alone / spread, "measured_theory": theory})
        return over_replicas(pd.DataFrame(found), ["graph", "gamma"], "neighbours", ["measured_theory"])

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, (_, colour, line) in _graphs(self.nodes).items():
            own = where(table, graph=name)
            walks, descents = (known(own, key) for key in ("neighbours_theory", "rate_theory"))
            if not len(walks):
                continue
            style = {"color": colour, "linestyle": line}
            left.plot(1 / (1 - walks["gamma"]), walks["neighbours_theory"], **style, label=name)
            right.plot(descents["lr"], descents["rate_theory"], **style)
            runs = known(own, "neighbours")
            left.errorbar(
                1 / (1 - runs["gamma"]),
                runs["neighbours"],
                errors(runs, "neighbours"),
                fmt=".",
                color=colour,
                capsize=2,
            )
        left.set(title="(a) lines: theory, points: runs", xlabel=r"$1 / (1 - \gamma)$ [rounds]", xscale="log")
        left.set_ylabel("effective number of neighbours")
        right.set(title=rf"(b) random quadratics, $\zeta = {self.zeta:g}$", xlabel=r"step size $\eta$", xscale="log")
        right.set(ylabel="rate of descent [1/round]", ylim=(0, None))
        for axes in (left, right):
            axes.grid(visible=True)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        runs = known(table, "neighbours")
        title = "effective neighbours that runs measure, with 99% intervals; all graphs share their noise"
        shown = Table("graph", "gamma", "theory", "measured", "within 99%", title=title)
        for (_, row), held in zip(runs.iterrows(), inside(runs, "neighbours", "measured_theory", 99), strict=True):
            measured = f"{row['neighbours']:.4g} ± {row['neighbours_high_99'] - row['neighbours']:.2g}"
            cells = (f"{row['gamma']:g}", f"{row['measured_theory']:.4g}", measured, "yes" if held else "no")
            shown.add_row(str(row["graph"]), *cells)
        return [compared.shown(table, "effective neighbours and rates"), shown]


def _mean(own: Matrices, gamma: float) -> float:
    """Returns the effective number of neighbours by the mean variance over nodes."""
    each = effective_neighbours(own, gamma)
    return float(1 / (1 / each).mean())


def _compared(name: str, values: Mapping[str, float | None], own: Matrices) -> Iterator[Compared]:
    """Yields the published values of a graph beside those of its matrices here.

    Args:
        name: of the graph.
        values: by a key as "effective_neighbours/gamma=0.5" or "rate/zeta=50/lr=0.02"; None: there is no rate.
        own: the matrices.
    """
    for key, value in values.items():
        kind, *rest = key.split("/")
        given = {part.partition("=")[0]: float(part.partition("=")[2]) for part in rest}
        if kind == "rate":
            here = worst_node_rate(own, given["zeta"], given["lr"])
        elif kind == "effective_neighbours":
            here = _mean(own, given["gamma"])
        else:
            here = float(effective_neighbours(own, given["gamma"]).min())
        words = f"{name}: {kind.replace('_', ' ')}, {', '.join(rest)}"
        yield Compared(words, math.nan if value is None else value, here, absolute=1e-4)


def sized(size: Size) -> TopologyQuadratics:
    """Returns the figure at a size."""
    graphs = (*_graphs(32), _ALONE)
    return (
        TopologyQuadratics(graphs, (0.5, 0.9, 0.98), 4)
        if size == "quick"
        else TopologyQuadratics(graphs, (0.5, 0.9, 0.99), 8)
    )
