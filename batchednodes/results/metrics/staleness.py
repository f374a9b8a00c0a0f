r"""Staleness: how many of a source's updates are missing from a node's model.

N[j, c] counts the updates of source number c that node j's model contains, at most; an update of the source adds one to
its own entry, gossip takes the elementwise maximum (mixing/). The staleness is S[j, c] = N[source, c] - N[j, c] >= 0,
for every node j but the source itself. Each network has a table of its own, see versions.py.

Notation: n nodes of all networks, g networks, t columns (tracked sources of a network), N versions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64
from torch import Tensor

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics import rng
from batchednodes.numerics.lag_counts import LagCounts, bins, counts, sums, tally
from batchednodes.topology import Networks

Track = int | Literal["all", "none"]


@dataclass(frozen=True)
class Sources:
    """The tracked sources of each network, and the column of each source."""

    nodes: tuple[Int64[np.ndarray, " _"], ...]
    """For each network, its sources as rows of x, in increasing order; empty: nothing is tracked."""
    column: Int64[np.ndarray, " n"]
    """Column of each node as a source; -1 where it is not tracked."""

    @property
    def widths(self) -> Int64[np.ndarray, " g"]:
        """Number of sources of each network."""
        return np.array([s.size for s in self.nodes], np.int64)

    @property
    def width(self) -> int:
        """Largest number of sources of a network."""
        return int(self.widths.max(initial=0))


def choose(networks: Networks, tracks: Sequence[Track]) -> Sources:
    """Returns the sources to track of each network: all nodes, none, or a fixed sample drawn by address.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.metrics.staleness import choose
        >>> from batchednodes.topology import Networks
        >>> batch = Networks(offsets=np.array([0, 4, 8]), seeds=np.array([0, 1], np.uint64))
        >>> sources = choose(batch, ["all", 2])  # two of the second network's nodes, drawn by its seed
        >>> sources.widths.tolist(), sources.column.tolist()
        ([4, 2], [0, 1, 2, 3, 0, -1, 1, -1])
    """
    nodes, column = [], np.full(networks.n, -1, np.int64)
    for g, track in enumerate(tracks):
        first, size = int(networks.offsets[g]), int(networks.sizes[g])
        kept = {"all": size, "none": 0}.get(track, track) if isinstance(track, str) else min(track, size)
        chosen = first + sample(int(networks.seeds[g]), rng.SOURCES, size, int(kept))
        column[chosen] = np.arange(chosen.size)
        nodes.append(chosen)
    return Sources(tuple(nodes), column)


def sample(seed: int, stream: int, n: int, size: int) -> Int64[np.ndarray, " size"]:
    """Returns `size` of n nodes in increasing order, uniformly without replacement, by the address of each node.

    Example:
        >>> from batchednodes.numerics import rng
        >>> from batchednodes.results.metrics.staleness import sample
        >>> sample(0, rng.EVALUATED, n=1000, size=3).tolist(), sample(0, rng.EVALUATED, n=3, size=3).tolist()
        ([235, 243, 892], [0, 1, 2])
    """
    if size >= n:
        return np.arange(n)
    draws = rng.uniforms(seed, stream, np.arange(n), 1)[:, 0]
    return np.sort(np.argsort(draws, kind="stable")[:size])


@dataclass(frozen=True, eq=False)
class Staleness:
    """Staleness of one network at one instant."""

    mean: float
    """Mean of S over all pairs of a source and another node; dimensionless (updates)."""
    integral: float
    """Integral of that mean from time 0 until now, exact between events too [updates s]."""
    max: int
    """Largest S."""
    median: int
    """Smallest s such that half of the pairs have S <= s; exact below 2^20, as p90 and p99 are."""
    p90: int
    """The same for 90% of the pairs."""
    p99: int
    """The same for 99% of the pairs."""
    of_node: Float64[np.ndarray, " n"]
    """Mean of S over the sources other than the node itself, for each node; NaN where there is none."""
    of_source: Float64[np.ndarray, " n"]
    """Mean of S over the other nodes, for each node as a source; NaN where it is not tracked."""
    integral_of_node: Float64[np.ndarray, " n"]
    """Integral of `of_node` from time 0 until now, exact between events too [updates s]."""
    pairs: Int64[np.ndarray, " b"]
    """Number of pairs with S in [k 2^shift, (k + 1) 2^shift), for each k."""
    shift: int
    """Logarithm of the width of a bin; 0 below 2^20."""


@dataclass(frozen=True, eq=False)
class Tracking:
    """What is followed of a batch of networks, and where it lies."""

    networks: Networks
    sources: Sources
    layout: Layout
    own: Int64[Tensor, " n"]
    """Place of each node's count of its own updates among the versions; -1: not tracked."""
    stacks: tuple[tuple[Int64[np.ndarray, " _"], Int64[Tensor, "_ _"]], ...]
    """Networks of one shape that have staleness, and the places of these counts of their sources."""
    whole: tuple[Int64[np.ndarray, " _"], ...]
    """Networks of one shape that have staleness, of the sources of all ranks."""
    cut: Cut | None = None
    """How the versions are cut over ranks, by sources: layout, places and stacks are then of this rank's sources, and
    -1 means, too, that another rank has them; None: they are not."""

    @staticmethod
    def of(networks: Networks, tracks: Sequence[Track], device: torch.device) -> "Tracking":
        """Returns what is followed of networks, with what the device needs to know on it."""
        sources = choose(networks, tracks)
        layout = Layout.of(networks.sizes, sources.widths, device)
        column = torch.as_tensor(sources.column, device=device)
        own = torch.where(column >= 0, layout.place + column, -1)
        stacks = _stacks(layout, own, sources.nodes)
        return Tracking(networks, sources, layout, own, stacks, tuple(stack for stack, _ in stacks))

    def over(self, cut: Cut, layout: Layout, own: Int64[Tensor, " n"]) -> "Tracking":
        """Returns the same where versions are cut over ranks, given layout and places of this rank's sources."""
        nodes = tuple(some[cut.columns(some.size)] for some in self.sources.nodes)
        return Tracking(self.networks, self.sources, layout, own, _stacks(layout, own, nodes), self.whole, cut)

    def tally(self, versions: Int[Tensor, " numbers"], most: int) -> list[Tensor]:
        """Returns what `measured` needs to know of the versions of a state; no node has made more updates than most."""
        if self.cut is not None:
            return self._total(self.cut, versions)
        return [t for stack, own in self.stacks for t in tally(self.layout.view(versions, stack), versions[own], most)]

    def _total(self, cut: Cut, versions: Int[Tensor, " numbers"]) -> list[Tensor]:
        """Returns the same over the sources of all ranks, stack by stack of whole networks, on the host."""
        here = {int(g): (self.layout.view(versions, stack[k : k + 1]), versions[own[k : k + 1]])
                for stack, own in self.stacks for k, g in enumerate(stack)}  # fmt: skip
        found = {g: [numbers.cpu() for numbers in sums(*table)] for g, table in here.items()}
        largest = torch.zeros(self.networks.count, dtype=torch.int64)
        for g, (_, _, most) in found.items():
            largest[g] = most[0]
        largest = cut.ranks.largest(largest)
        tallied = list[Tensor]()
        for stack in self.whole:
            n, t = int(self.networks.sizes[stack[0]]), int(self.sources.widths[stack[0]])
            shift, room = bins(int(largest[torch.from_numpy(stack)].max()))
            parts = [torch.zeros(stack.size, size, dtype=torch.int64) for size in (n, t, room)]
            for k, g in enumerate(stack.tolist()):
                if g in here:
                    parts[0][k], parts[1][k, cut.columns(t)] = found[g][0][0], found[g][1][0]
                    parts[2][k] = counts(*here[g], shift, room)[0].cpu()
            row, column, pairs = (cut.ranks.total(part) for part in parts)
            tallied += [row, column, largest[torch.from_numpy(stack)], pairs]
        return tallied

    def falls(self, updated: Float64[np.ndarray, " n"], gained: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Returns the sum of (fall) (its time) over the falls of each node's staleness, all sources' [updates s].

        It rises by one at each update of a source but the node itself, and falls by what the node's contacts gain.

        Args:
            updated: of the state.
            gained: of the state.
        """
        whole = np.add.reduceat(updated, self.networks.offsets[:-1])
        return gained - (np.repeat(whole, self.networks.sizes) - updated)

    def measured(
        self, found: Sequence[Tensor], falls: Float64[np.ndarray, " n"], time: float
    ) -> list[Staleness | None]:
        """Returns the staleness of each network; None where nothing is tracked or the network is a lone node.

        Args:
            found: what `tally` returned, on the host.
            falls: what `falls` returned.
            time: now [s].
        """
        measured: list[Staleness | None] = [None] * self.networks.count
        fours = [found[k : k + 4] for k in range(0, len(found), 4)]
        for stack, four in zip(self.whole, fours, strict=True):
            lags = LagCounts.of(four)
            for k, g in enumerate(stack):
                measured[g] = self._staleness(lags, k, falls[self.networks.slice(int(g))], time, int(g))
        return measured

    def _staleness(self, sums: LagCounts, k: int, falls: Float64[np.ndarray, " n"], time: float, g: int) -> Staleness:
        r"""Returns the staleness of network g, number k of its stack.

        The sum A of S over the sources at one node jumps at events only, so its integral from 0 to t is

            t A(t) + sum over the falls of (fall) (its time).
        """
        sources = self.sources.nodes[g] - self.networks.offsets[g]
        n, t = falls.size, sources.size
        others = np.full(n, float(t))
        others[sources] -= 1
        integral = time * sums.of_row[k] + falls
        of_source = np.full(n, np.nan)
        of_source[sources] = sums.of_column[k] / (n - 1)
        pairs = sums.pairs[k].copy()
        pairs[0] -= t  # a source does not lag behind itself
        ends = np.cumsum(pairs)
        least = -(-ends[-1] * np.array([50, 90, 99]) // 100)
        median, p90, p99 = (np.searchsorted(ends, least) << sums.shift).tolist()
        with np.errstate(invalid="ignore"):
            of_node, integral_of_node = sums.of_row[k] / others, integral / others  # 0 / 0 at a lone source
        mean, whole = float(sums.of_row[k].sum()) / (t * (n - 1)), float(integral.sum()) / (t * (n - 1))
        return Staleness(
            mean, whole, int(sums.largest[k]), median, p90, p99, of_node, of_source, integral_of_node, pairs, sums.shift
        )


def _stacks(
    layout: Layout, own: Int64[Tensor, " n"], sources: Sequence[Int64[np.ndarray, " _"]]
) -> tuple[tuple[Int64[np.ndarray, " _"], Int64[Tensor, "_ _"]], ...]:
    """Returns networks of one shape that have staleness, and the places of their sources' own counts."""
    found = []
    for stack in layout.stacks:
        if layout.sizes[stack[0]] > 1 and layout.widths[stack[0]] > 0:
            rows = torch.as_tensor(np.stack([sources[g] for g in stack]), device=own.device)
            found.append((stack, own[rows]))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class StalenessAverages:
    """Staleness node by node and source by source over the marks of a span of time, for nodes of all networks."""

    since: float
    """Time of the first mark [s]."""
    until: float
    """Time of the last mark [s]."""
    marks: int
    """Number of marks."""
    before: Float64[np.ndarray, " n"]
    """Integral of each node's staleness until the first mark [updates s]; NaN where there is none."""
    integral: Float64[np.ndarray, " n"]
    """The same until the last mark [updates s]."""
    of_source: Float64[np.ndarray, " n"]
    """Sum over the marks of each source's staleness; NaN where a node is not tracked."""

    @staticmethod
    def of(measured: Sequence[Staleness | None], networks: Networks, time: float) -> "StalenessAverages":
        """Returns the curves of one mark."""
        integral, of_source = np.full((2, networks.n), np.nan)
        for g, stale in enumerate(measured):
            if stale is not None:
                integral[networks.slice(g)], of_source[networks.slice(g)] = stale.integral_of_node, stale.of_source
        return StalenessAverages(time, time, 1, integral, integral, of_source)

    def then(self, later: "StalenessAverages") -> "StalenessAverages":
        """Returns the curves over these marks and later ones."""
        of_source = self.of_source + later.of_source
        return StalenessAverages(
            self.since, later.until, self.marks + later.marks, self.before, later.integral, of_source
        )

    def averages(self) -> dict[str, Float64[np.ndarray, " n"]]:
        """Returns each node's exact time average of staleness (NaN for one mark), and each source's mean over marks."""
        span = self.until - self.since
        of_node = (self.integral - self.before) / span if span else np.full_like(self.integral, np.nan)
        return {"staleness_of_node": of_node, "staleness_of_source": self.of_source / self.marks}
