"""Who may contact whom: the kinds of graphs, the graph itself, and the contact lists of a batch of networks.

A complete graph is never stored. Any other graph lists the contacts of each node, in CSR form; the graphs of several
networks are stacked into one `PeerLists`, from which `peer` draws. Where a graph changes with time, a `PeerSampler`
says who is contacted; likewise where weights do.
"""

from batchednodes.topology.base import Changing, Topology
from batchednodes.topology.communities import RandomGeometric, StochasticBlock, TwoCliques
from batchednodes.topology.deterministic import Chain, Complete, Exponential, Hypercube, Ring, Star
from batchednodes.topology.from_networkx import Davis, Karate, NetworkX, from_matrix, from_networkx
from batchednodes.topology.given import Adjacency, EdgeList, Edges
from batchednodes.topology.global_mean import GlobalMean
from batchednodes.topology.graph import Graph
from batchednodes.topology.grids import Grid, Torus
from batchednodes.topology.neighbours import Networks, PeerLists, peer, peers, stack
from batchednodes.topology.peer_sampler import ROUNDS, PeerSampler
from batchednodes.topology.peer_sampling_kernels import PeerTables, choice, choices, chosen
from batchednodes.topology.random import BarabasiAlbert, ErdosRenyi, WattsStrogatz
from batchednodes.topology.regular import KRegular
from batchednodes.topology.round_weights import RoundLaw, RoundWeights
from batchednodes.topology.time_varying import BaseGraph, OnePeerExponential, RandomMatching, RandomPeers
from batchednodes.topology.trees import BinaryTree, DoubleBinaryTree
from batchednodes.topology.weights import (
    ConstantWeights,
    GivenWeights,
    Laplacian,
    MaxDegree,
    MetropolisHastings,
    UniformWeights,
    Weighted,
    Weights,
)

__all__ = [
    "ROUNDS",
    "Adjacency",
    "BarabasiAlbert",
    "BaseGraph",
    "BinaryTree",
    "Chain",
    "Changing",
    "Complete",
    "ConstantWeights",
    "Davis",
    "DoubleBinaryTree",
    "EdgeList",
    "Edges",
    "ErdosRenyi",
    "Exponential",
    "GivenWeights",
    "GlobalMean",
    "Graph",
    "Grid",
    "Hypercube",
    "KRegular",
    "Karate",
    "Laplacian",
    "MaxDegree",
    "MetropolisHastings",
    "NetworkX",
    "Networks",
    "OnePeerExponential",
    "PeerLists",
    "PeerSampler",
    "PeerTables",
    "RandomGeometric",
    "RandomMatching",
    "RandomPeers",
    "Ring",
    "RoundLaw",
    "RoundWeights",
    "Star",
    "StochasticBlock",
    "Topology",
    "Torus",
    "TwoCliques",
    "UniformWeights",
    "WattsStrogatz",
    "Weighted",
    "Weights",
    "choice",
    "choices",
    "chosen",
    "from_matrix",
    "from_networkx",
    "peer",
    "peers",
    "stack",
]
