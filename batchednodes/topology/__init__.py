"""Who may contact whom: the kinds of graphs, the graph itself, and the contact lists of a batch of networks.

A complete graph is never stored. Any other graph lists the contacts of each node, in CSR form; the graphs of several
networks are stacked into one `Contacts`, from which `peer` draws.
"""

from batchednodes.topology.contacts import Contacts, Networks, peer, peers, stack
from batchednodes.topology.edge_list import EdgeList
from batchednodes.topology.graphs import Graph
from batchednodes.topology.kinds import (
    BarabasiAlbert,
    Complete,
    ErdosRenyi,
    Exponential,
    Hypercube,
    KRegular,
    Ring,
    Star,
    Topology,
    Torus,
    WattsStrogatz,
)

__all__ = [
    "BarabasiAlbert",
    "Complete",
    "Contacts",
    "EdgeList",
    "ErdosRenyi",
    "Exponential",
    "Graph",
    "Hypercube",
    "KRegular",
    "Networks",
    "Ring",
    "Star",
    "Topology",
    "Torus",
    "WattsStrogatz",
    "peer",
    "peers",
    "stack",
]
