r"""Consensus over rings by meetings, plain and accelerated, against the exact law of their second moments.

Numbers of nodes that meet in pairs draw together as fast as the graph allows: on a ring of n nodes in a time of order
n^2, accelerated by A2CiD2 in order n. Lines are the exact law, points are means over many simulated networks.

Notation: n nodes, eta rate of flow, alpha move of a copy.

Reference:
    A. Nabli, E. Belilovsky, E. Oyallon, "A2CiD2: accelerating asynchronous communication in decentralized deep
    learning", NeurIPS 2023.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib.figure import Figure
from rich.table import Table
from scipy.special import ndtri

from batchednodes.algorithms.acid import chi
from batchednodes.figures.published import compared
from batchednodes.figures.published.compared import Compared, published
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, known, where
from batchednodes.results.theory.accelerated import accelerated_consensus
from batchednodes.topology import Ring

_WAYS = {"plain": ("gossip_sgd", "--"), "acid": ("acid", "-")}
"""Name in keys -> algorithm and line."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "black")

_RARE = 3e-3
"""Part of the start below which a mean is that of few networks which happen to be late: it has no interval then."""

_ROUNDING = float(np.finfo(float).eps)
"""How far off a published law is, over its start: it was found by sums of numbers as large as that."""

_CERTAIN = float(ndtri(0.9995))
"""Half-width of intervals of 99.9%, in standard errors."""


@dataclass(frozen=True)
class Acid(Experiment):
    """The figure, for rings of some sizes."""

    nodes: tuple[int, ...]
    """Numbers of nodes n, each at least 3."""
    times: tuple[float, ...]
    """When consensus is looked at, rising, above 0 [s]."""
    replicas: int
    """Networks of each ring and way; at least 2."""
    rate: float = 1.0
    """Meetings of a node, begun by it or by others [1/s]."""

    def batches(self) -> dict[str, dict[str, Any]]:
        return {way: self._batch(algorithm) for way, (algorithm, _) in _WAYS.items()}

    def _batch(self, algorithm: str) -> dict[str, Any]:
        return {
            "network": {"topology": {"kind": "ring"}},
            "update": {"clock": {"kind": "never"}},
            "gossip": {"exchange": "meet", "clock": {"kind": "poisson", "rate": self.rate / 2}},
            "algorithm": {"kind": algorithm},
            "task": {
                "data": {"kind": "quadratics", "dimension": 10},
                "model": {"kind": "linear", "bias": False, "init": "independent"},
            },
            "run": {"until": self.times[-1], "mark_at": [*self.times], "eval_nodes": 1},
            "staleness": {"track": "none"},
            "dtype": "float64",
            "sweep": {"network.nodes": [*self.nodes]},
            "replicas": self.replicas,
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        fine = np.geomspace(0.1, self.times[-1], 60).tolist()
        parts = []
        for way in _WAYS:
            for n in self.nodes:
                line = pd.DataFrame({"way": way, "n": n, "time": fine, "law": self.law(n, way, fine)})
                parts += [line, self._measured(metrics[way], n, way)]
        return pd.concat([*parts, compared.rows(self._compared())])

    def law(self, n: int, way: str, times: Sequence[float]) -> Float64[np.ndarray, " k"]:
        """Returns the law from 1 at one node and 0 at the others, plain or accelerated ("acid")."""
        ring = Ring().graph(n, 0)
        assert ring is not None
        near = ring.adjacency().toarray().astype(np.float64)
        constants = self._constants(n) if way == "acid" else {"eta": 0.0, "alpha_tilde": 0.0}
        meet = near * (self.rate / near.sum(1)[:, None])
        return accelerated_consensus(meet, np.eye(n)[0], times, constants["eta"], constants["alpha_tilde"])

    def _constants(self, n: int) -> dict[str, float]:
        one, two = map(float, chi(Ring().graph(n, 0), [self.rate / 2] * n))
        root = math.sqrt(one * two)
        found = {"chi1": one, "chi2": two, "sqrt_chi1_chi2": root}
        return found | {"eta": 1 / (2 * root), "alpha_tilde": math.sqrt(one / two) / 2}

    def _measured(self, rows: pd.DataFrame, n: int, way: str) -> pd.DataFrame:
        """Returns means over networks as parts of the start, scaled as the law: models begin independent there.

        On a ring each node is as good to begin from as any other, so independent starts have the law of one.
        """
        own = [
            np.square(column(one, "consensus_distance"))
            for (size, _), one in groups(rows, ["n", "network"])
            if size == n
        ]
        squares = np.stack(own)
        ratio = squares.mean(0) / squares[:, 0].mean()
        apart = squares - ratio * squares[:, :1]
        error = apart.std(0, ddof=1) / math.sqrt(len(squares)) / squares[:, 0].mean()
        begin = (1 - 1 / n) / n
        law = self.law(n, way, [0.0, *self.times])
        kept = law > _RARE * begin
        found = {"time": [0.0, *self.times], "measured": begin * ratio, "error": begin * error, "expected": law}
        return pd.DataFrame({"way": way, "n": n} | {key: np.asarray(value)[kept][1:] for key, value in found.items()})

    def _compared(self) -> Iterator[Compared]:
        """Yields the published constants and laws of these rings, which are of one meeting a second."""
        printed = published("acid") if self.rate == 1 else {"constants": {}, "law": {}}
        for key, values in printed["constants"].items():
            n = int(key.split("/")[1].removeprefix("n="))
            if n in self.nodes:
                for name, here in self._constants(n).items():
                    yield Compared(f"ring of {n}: {name}", values[name], here, relative=1e-12)
        for key, values in printed["law"].items():
            _, size, way = key.split("/")
            n = int(size.removeprefix("n="))
            if n not in self.nodes:
                continue
            times = [float(time) for time in values["consensus"]]
            for time, value, here in zip(times, values["consensus"].values(), self.law(n, way, times), strict=True):
                words = f"ring of {n}, {way}: consensus at {time:g} s"
                yield Compared(words, value, float(here), relative=1e-12, absolute=_ROUNDING * values["consensus"]["0"])

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.subplots()
        for colour, n in zip(_COLOURS, self.nodes, strict=False):
            for way, (_, line) in _WAYS.items():
                own = where(table, n=n, way=way)
                law, runs = known(own, "law"), known(own, "measured")
                begin = (1 - 1 / n) / n
                label = f"n = {n}, {'A2CiD2' if way == 'acid' else 'plain'}"
                axes.plot(law["time"], law["law"] / begin, line, color=colour, label=label)
                width = _CERTAIN * runs["error"] / begin
                axes.errorbar(runs["time"], runs["measured"] / begin, width, fmt=".", color=colour, capsize=2)
        axes.set(xscale="log", yscale="log", ylim=(1e-6, 2), xlabel="time [s]", ylabel="consensus, part of the start")
        axes.grid(visible=True)
        axes.legend()
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        runs = known(table, "measured")
        title = "means over networks and the exact law, with 99.9% intervals"
        shown = Table("n", "gossip", "time [s]", "law", "measured", "within 99.9%", title=title)
        for row in runs.to_dict("records"):
            width = _CERTAIN * row["error"]
            held = abs(row["measured"] - row["expected"]) <= width
            cells = (f"{row['time']:g}", f"{row['expected']:.4g}", f"{row['measured']:.4g} ± {width:.2g}")
            shown.add_row(f"{row['n']:g}", str(row["way"]), *cells, "yes" if held else "no")
        return [compared.shown(table, "constants and exact law"), shown]


def sized(size: Size) -> Acid:
    """Returns the figure at a size."""
    return Acid((8, 16, 32), (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), 200 if size == "quick" else 2000)
