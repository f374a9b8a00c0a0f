"""Measured staleness beside its exact law, for networks of growing size at constant capacity, and at capacity log n.

Run it:    python docs/examples/staleness.py [KEY=VALUE ...]
"""

import sys

import pandas

import batchednodes

settings = {
    "network": {"topology": {"kind": "complete"}},
    "update": {"clock": {"kind": "exponential", "rate": 1}},
    "task": {"data": {"kind": "linear_regression", "features": 2, "samples_per_node": 2}},
    "run": {"until": 40, "mark_every": 10, "eval_nodes": 1},
    "sweep": {"network.nodes": [10, 30, 100], "gossip.clock.rate": [1, "log(n)"]},
}
result = batchednodes.train(settings, *sys.argv[1:])

columns = ["n", "gossip.clock.rate", "staleness_average", "staleness_average_half_width", "staleness_theory"]
print(pandas.DataFrame(result.summary["networks"])[columns].to_string(index=False))
