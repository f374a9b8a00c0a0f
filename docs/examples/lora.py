"""LoRA: all nodes share one frozen model; each trains and gossips two thin matrices beside its layers, and a head.

Only what is trained lives in the rows of x, so a node costs its adapters, and messages carry nothing else.

Run it:    python docs/examples/lora.py [KEY=VALUE ...]

Reference:
    E. J. Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022.
"""

import sys

from torch import nn

import batchednodes


def network() -> nn.Module:
    """Returns the model; a real one loads its weights here, from a file."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


if __name__ == "__main__":
    settings = {
        "network": {"nodes": 50},
        "gossip": {"clock": {"rate": "log(n)"}},
        "local": {"lr": 0.3, "batch_size": 16},
        "task": {
            "data": {"kind": "digits"},
            "model": {
                "kind": "python",
                "target": f"{__file__}:network",
                "adapter": {"kind": "lora", "targets": ["0", "2"], "rank": 4, "alpha": 8, "trains": ["4"]},
            },
        },
        "run": {"until": 60, "mark_every": 10},
    }
    result = batchednodes.train(settings, *sys.argv[1:])
    plain = result.mean_model(merged=True)  # without adapters: what they add is in its weights
    print(f"{result.x.shape[1]:,} numbers are trained beside {sum(w.numel() for w in plain.parameters()):,}")
    print(result.metrics[["time", "accuracy_mean", "accuracy_min"]].round(3))
