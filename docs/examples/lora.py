"""LoRA: all nodes share one frozen model; each trains and gossips two thin matrices beside its layers.

Only what is trainable lives in the rows of x, so a node costs its adapters, and messages carry nothing else.

Run it:    python docs/examples/lora.py [KEY=VALUE ...]

Reference:
    E. J. Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022.
"""

import sys

import torch
from torch import Tensor, nn

import batchednodes


class Adapted(nn.Module):
    """A frozen linear layer, and the product of two thin trainable ones beside it; at first that product is 0."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the frozen layer's output, corrected."""
        return self.layer(x) + self.up(self.down(x))


def network(rank: int = 4) -> nn.Module:
    """Returns the model; a real one loads the weights of its layers here, from a file."""
    torch.manual_seed(0)
    layers = nn.Linear(64, 128), nn.Linear(128, 10)
    return nn.Sequential(Adapted(layers[0], rank), nn.ReLU(), Adapted(layers[1], rank))


if __name__ == "__main__":
    settings = {
        "network": {"nodes": 50},
        "gossip": {"clock": {"rate": "log(n)"}},
        "local": {"lr": 0.3, "batch_size": 16},
        "task": {
            "data": {"kind": "digits"},
            "model": {"kind": "python", "target": f"{__file__}:network", "args": {"rank": 4}},
        },
        "run": {"until": 60, "mark_every": 10},
    }
    result = batchednodes.train(settings, *sys.argv[1:])
    whole = sum(parameter.numel() for parameter in result.model(0).parameters())
    print(f"{result.x.shape[1]:,} of {whole:,} parameters are trained")
    print(result.metrics[["time", "accuracy_mean", "accuracy_min"]].round(3))
