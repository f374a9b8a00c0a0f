"""Rounds of gossip learning against gossipy's own, where that package can be imported (PyPI: gossipy-dfl).

In a round each of n nodes pushes its model once, at a step of its own, and who gets one takes the mean with its own and
makes one minibatch step. gossipy has an object, a module and an optimizer for each node.

Notation: n nodes.
"""

import contextlib
import importlib.util
import io
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from batchednodes import train
from measure.timing import gathered, ratios, spread
from measure.workloads import Workload, settings

STEPS = 100
"""Steps of a round."""

OURS, THEIRS = 100, 2
"""Rounds that are measured at once."""


def is_here() -> bool:
    """Returns whether gossipy can be imported; a package of another content has the same name."""
    return importlib.util.find_spec("gossipy") is not None and importlib.util.find_spec("gossipy.simul") is not None


def rounds(workload: Workload, n: int, repeats: int) -> dict[str, Any]:
    """Returns rounds a second over those of gossipy, without evaluation; nothing, and a line of why, without it."""
    if not is_here():
        print("gossipy cannot be imported: skipped (install gossipy-dfl)", file=sys.stderr, flush=True)
        return {}
    with settings(replace(workload, samples=workload.batch), n, "cpu") as source:
        with np.load(source["task"]["data"]["path"]) as file:
            data = torch.from_numpy(file["features"]), torch.from_numpy(file["targets"])
        source |= ours(OURS)
        simulator = theirs(workload, n, data)
        works = {"ours": lambda: _rounds_a_second(source, n), "gossipy": lambda: _their_rounds_a_second(simulator)}
        speed = gathered(works, repeats)
    return {"rounds/s": spread(speed["ours"]), "rounds over gossipy": ratios(speed["ours"], speed["gossipy"])}


def ours(count: int) -> dict[str, Any]:
    """Returns the sections of settings that make some such rounds."""
    until = float(STEPS * count)
    return {
        "timing": {"kind": "rounds", "steps": STEPS},
        "update": {"clock": {"kind": "never"}},
        "gossip": {"exchange": "push", "on_receipt": "merge_update", "merge": {"kind": "mean"}},
        "run": {"until": until, "mark_every": until, "eval_nodes": 1, "baseline": "none"},
    }


def _rounds_a_second(source: dict[str, Any], n: int) -> float:
    return train(source).summary["updates_per_second"] / n


def theirs(workload: Workload, n: int, data: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """Returns gossipy's simulator of n nodes, each with its part of the data, ready to start."""
    core, model, handler, node, simul = (
        importlib.import_module(f"gossipy.{name}") for name in ("core", "model", "model.handler", "node", "simul")
    )

    class Network(model.TorchModel):
        def __init__(self) -> None:
            super().__init__()
            layers = [part for i, o in workload.layers for part in (nn.Linear(i, o), nn.ReLU())][:-1]
            self.layers = nn.Sequential(*layers)

        def init_weights(self) -> None:
            pass

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    proto = handler.TorchModelHandler(
        Network(), torch.optim.SGD, {"lr": 0.05}, F.cross_entropy, local_epochs=0, batch_size=workload.batch,
        create_model_mode=core.CreateModelMode.MERGE_UPDATE,
    )  # fmt: skip
    network, parts = core.StaticP2PNetwork(n, None), zip(*(part.chunk(n) for part in data), strict=True)
    nodes = {i: node.GossipNode(i, (part, None), STEPS, proto.copy(), network, True) for i, part in enumerate(parts)}
    untested = SimpleNamespace(has_test=lambda: False)
    made = simul.GossipSimulator(nodes, untested, STEPS, core.AntiEntropyProtocol.PUSH)
    made.init_nodes()
    return made


def _their_rounds_a_second(simulator: Any) -> float:
    with contextlib.redirect_stdout(io.StringIO()):  # it shows its progress
        begun = time.perf_counter()
        simulator.start(THEIRS)
        return THEIRS / (time.perf_counter() - begun)
