"""What is learned in the benchmarks: three models on separable data, a few samples a node.

Notation: n nodes, b examples of a minibatch.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from batchednodes import load
from batchednodes.numerics import devices
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.planning.plan import plan


@dataclass(frozen=True)
class Workload:
    """A model, the shape of its data and its minibatches."""

    name: str
    """In tables."""
    features: int
    """Numbers of one example."""
    classes: int
    """Labels."""
    batch: int
    """Examples of a minibatch."""
    model: dict[str, Any]
    """Setting `task.model`."""
    layers: tuple[tuple[int, int], ...]
    """Inputs and outputs of its matrix products; empty where there are others."""
    samples: int = 4
    """Examples that a node owns."""


LOGREG = Workload("logreg", 57, 2, 32, {"kind": "linear"}, ((57, 2),))
MLP = Workload("mlp", 64, 10, 32, {"kind": "mlp", "hidden": [64]}, ((64, 64), (64, 10)))
CNN = Workload("cnn", 784, 10, 16, {"kind": "python", "target": "measure.workloads:lenet"}, (), 1)
WORKLOADS = {w.name: w for w in (LOGREG, MLP, CNN)}


def lenet() -> nn.Module:
    """Returns a network like LeNet-5 for 1 x 28 x 28 images, which come as rows of 784 numbers."""
    return nn.Sequential(
        nn.Unflatten(-1, (1, 28, 28)),
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(-3), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


@contextmanager
def settings(workload: Workload, n: int, device: str, rate: str = "log(n)", **run: Any) -> Iterator[dict[str, Any]]:
    """Gives the settings of n nodes with data in a temporary file; one update a second, gossip of some rate.

    Updates are memoryless, so that any span of a run holds as many for each gossip.
    """
    draw = np.random.default_rng(0)
    features = draw.standard_normal((n * workload.samples, workload.features), np.float32)
    scores = features @ draw.standard_normal((workload.features, workload.classes), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, features=features, targets=scores.argmax(1), test_features=features[:100],
                 test_targets=scores[:100].argmax(1))  # fmt: skip
        yield {
            "network": {"nodes": n},
            "device": device.replace(devices.CUDA, "cuda"),  # as settings name it
            "update": {"clock": {"kind": "exponential", "rate": 1.0}},
            "gossip": {"clock": {"rate": rate}},
            "local": {"batch_size": workload.batch, "lr": 0.05},
            "task": {"data": {"kind": "npz", "path": str(path)}, "model": workload.model},
            "run": {"eval_nodes": min(n, 10)} | run,
            "staleness": {"track": "none"},
        }


def built(source: dict[str, Any]) -> Simulation:
    """Returns the parts of a run, ready to start."""
    config = load(source)
    events = assembly.timeline([config])
    return assembly.assemble([config], events, plan([config], events).chunks)
