"""A module and arrays of one's own: a file with a factory, and an .npz that is dealt to the nodes.

Run it:    python docs/examples/own_model.py [KEY=VALUE ...]
"""

import sys

import numpy as np
from torch import nn

import batchednodes


def network(inputs: int = 6, width: int = 16) -> nn.Module:
    """Returns the module that every node trains a copy of."""
    return nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 2))


if __name__ == "__main__":
    random = np.random.default_rng(0)
    features = random.normal(size=(1000, 6)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.int64)
    np.savez("mine.npz", features=features, targets=labels)

    settings = {
        "network": {"nodes": 20, "topology": {"kind": "k_regular", "degree": 4}},
        "gossip": {"exchange": "meet"},
        "local": {"steps": 5, "optimizer": {"kind": "adam"}, "lr": 0.01},
        "task": {
            "data": {"kind": "npz", "path": "mine.npz", "test_fraction": 0.2},
            "model": {"kind": "python", "target": f"{__file__}:network", "args": {"width": 32}},
        },
        "run": {"until": 40, "mark_every": 5},
    }
    result = batchednodes.train(settings, *sys.argv[1:])
    print(result.metrics[["time", "accuracy_mean", "accuracy_min", "consensus_distance"]].round(3))
    print(result.model(3))  # node 3's own
