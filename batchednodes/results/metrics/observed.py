"""What is observed at a mark: of one network, of a batch, and of batches that ranks hold as one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchednodes.results.metrics.staleness import Staleness
from batchednodes.topology import Networks


@dataclass(frozen=True)
class Observation:
    """One network at one mark."""

    row: dict[str, Any]
    """One line of metrics.jsonl; None where a key does not apply. `staleness_mean` is a mean over the time since the
    mark before, which whoever keeps the rows fills in from `staleness_integral`."""
    over_nodes: dict[str, np.ndarray]
    """Values node by node, for histograms."""
    staleness: Staleness | None
    """Staleness in full; None where nothing is tracked."""
    nodes: np.ndarray | None = None
    """A row for each evaluated node, see `node_table.COLUMNS`; None: they are not asked for."""


@dataclass(frozen=True)
class Observed:
    """All networks at one mark."""

    networks: list[Observation]
    diverged: list[tuple[int, float]]
    """Nodes whose loss or model is not finite, with the time when that was first seen (inf: just now)."""
    done: float
    """When the device had done all that came before, by `time.perf_counter` [s]."""


def joined(parts: Sequence[Observed], groups: Sequence[Sequence[int]], networks: Networks) -> Observed:
    """Returns what is observed of a batch, given what each group of ranks observes of its networks.

    Args:
        parts: of each group, in which networks and nodes have the numbers that they have there.
        groups: numbers of their networks in the batch, in increasing order.
        networks: of the batch.
    """
    found, bad = dict[int, Observation](), list[tuple[int, float]]()
    for part, numbers in zip(parts, groups, strict=True):
        for g, one in zip(numbers, part.networks, strict=True):
            nodes = None if one.nodes is None else one.nodes.copy()
            if nodes is not None:
                nodes["network"] = g
            found[g] = replace(one, row=one.row | {"network": g}, nodes=nodes)
        ends = np.cumsum(networks.sizes[[*numbers]])
        for row, when in part.diverged:
            k = int(np.searchsorted(ends, row, side="right"))
            bad.append((int(networks.offsets[numbers[k]] + row - (ends[k] - networks.sizes[numbers[k]])), when))
    return Observed([found[g] for g in sorted(found)], sorted(bad), max(part.done for part in parts))
