"""Asynchronous decentralized local SGD with randomized gossip: what an update makes of a model is local SGD.

At an update of node i:      x_i <- LocalSGD(x_i);
at a write of j from i:      x_j <- (1 - w) x_j + w x_i.

Its independent form, event by event, is `algorithms/reference.py`.

References:
    P. Mitra, S. Ulukus, "Scale-Robust Timely Asynchronous Decentralized Learning", arXiv 2404.19749, 2024.
"""

from dataclasses import dataclass

from batchednodes.algorithms.base import Algorithm


@dataclass(frozen=True)
class GossipSGD(Algorithm):
    """Local SGD, and averages of models at contacts (in rounds: D-PSGD, adapt then combine).

    Example:
        >>> import batchednodes
        >>> run = batchednodes.train({"network.nodes": 10, "algorithm": {"kind": "gossip_sgd"}, "run.until": 5})
        >>> first, last = run.metrics["loss_mean"].iloc[[0, -1]]
        >>> bool(last < first / 2)
        True
    """
