"""Graphs of one's own: an object of networkx, and a class that a config can name.

Run it:    python docs/examples/own_graph.py [KEY=VALUE ...]
"""

import sys
from dataclasses import dataclass

import networkx
import numpy as np

import batchednodes
from batchednodes.topology import Graph, Topology, from_networkx


@dataclass(frozen=True)
class Ladder(Topology):
    """Two rings of n/2 nodes, joined by rungs."""

    rungs: int = 4
    """From one rung to the next [nodes]."""

    def contacts(self, n: int) -> float:
        """Returns the number of pairs (node, neighbour), or a bound on it, for the plan of memory."""
        return 2.0 * n + n / self.rungs

    def graph(self, n: int, seed: int) -> Graph:
        """Returns the graph of n nodes."""
        half = n // 2
        k, rung = np.arange(half), np.arange(0, half, self.rungs)
        i = np.concatenate([k, k + half, rung])
        j = np.concatenate([(k + 1) % half, (k + 1) % half + half, rung + half])
        return Graph.of(n, i, j)


if __name__ == "__main__":
    graphs = {
        "caves": from_networkx(networkx.connected_caveman_graph(4, 5)),
        "ladder": {"kind": "python", "target": f"{__file__}:Ladder", "args": {"rungs": 2}},
    }
    for name, graph in graphs.items():
        settings = {"network": {"nodes": 20, "topology": graph}, "run": {"until": 30, "mark_every": 10}}
        result = batchednodes.train(settings, *sys.argv[1:])
        row = result.metrics.iloc[-1]
        print(f"{name:8} staleness {row['staleness_mean']:.2f}   consensus distance {row['consensus_distance']:.3f}")
