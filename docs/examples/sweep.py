"""A sweep: four rates of gossip, three seeds each, twelve networks in one batch; a table and the curves.

Run it:    python docs/examples/sweep.py [KEY=VALUE ...]
"""

import sys

import batchednodes

settings = {
    "network": {"nodes": 50},
    "local": {"lr": 0.5, "batch_size": 16},
    "task": {"data": {"kind": "digits"}, "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "run": {"until": 60, "mark_every": 5},
    "sweep": {"gossip.clock.rate": [0.1, 1, "log(n)", "n/4"]},
    "replicas": 3,
}
result = batchednodes.train(settings, *sys.argv[1:])

last = result.metrics[result.metrics["time"] == result.metrics["time"].max()]
table = last.groupby("gossip.clock.rate")[["accuracy_mean", "accuracy_min", "staleness_mean", "staleness_theory"]]
print(table.mean().round(3))

curves = result.metrics.groupby(["time", "gossip.clock.rate"])["accuracy_mean"].mean().unstack()
axes = curves.plot(ylabel="test accuracy, mean over nodes and seeds", xlabel="time [s]")
axes.figure.savefig("sweep.png", dpi=150)
