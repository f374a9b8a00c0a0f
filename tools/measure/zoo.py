"""Every algorithm against local SGD and gossip averages of the same events or rounds, and rounds against torch by hand.

Notation: n nodes.
"""

from typing import Any

import numpy as np
import torch
from torch.func import grad, vmap

from batchednodes.algorithms.mixing.matrix import announce_beta
from batchednodes.config.kinds import KINDS
from measure.timing import gathered, ratios, seconds
from measure.whole import events_a_second
from measure.workloads import LOGREG, built, settings

_REGULAR = {"network.topology": {"kind": "k_regular", "degree": 4}}
_OWN = {"timing": {"kind": "synchronous"}, "gossip": {}, "update": {}}
_ROUNDS = _OWN | {"network.weights": {"kind": "metropolis_hastings"}}
WAYS: dict[str, dict[str, Any]] = {
    "pushes": _REGULAR,
    "meetings": _REGULAR | {"gossip": {"clock": {"rate": 1}, "exchange": "meet"}},
    "meetings at updates": _REGULAR | {"gossip": {"clock": {"kind": "at_update"}, "exchange": "meet"}},
    "pushes to all": _REGULAR | {"gossip": {"clock": {"kind": "at_update", "order": "after", "peers": "all"}}},
    "rounds": _REGULAR | _ROUNDS,
    "rounds of their own": _REGULAR | _OWN,
    "rounds on a tree": _OWN | {"network.topology": {"kind": "binary_tree"}},
    "meetings on a star": {
        "network.topology": {"kind": "star"},
        "gossip": {"clock": {"kind": "at_update", "order": "after"}, "exchange": "meet"},
    },
}
"""Where algorithms are sound; each is measured in the first of these that takes it."""

LARGEST = {"matcha": 200}
"""Nodes up to which an algorithm is measured, on whose graphs it solves for probabilities."""


def ways() -> dict[str, str]:
    """Returns in which of the ways each built-in algorithm is measured."""
    found = dict[str, str]()
    with settings(LOGREG, 8, "cpu", "1") as source:
        for kind in KINDS["algorithm"]:
            for way, more in WAYS.items():
                try:
                    built(to_load(source, more, kind))
                except ValueError:
                    continue
                found[kind] = way
                break
    return found


def to_load(source: dict[str, Any], way: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns settings of an algorithm in one of the ways."""
    return {key: value for key, value in source.items() if key not in way} | way | {"algorithm": {"kind": kind}}


def zoo(n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns the updates a second of each algorithm over those of `gossip_sgd` in the same way."""
    shown = dict[str, Any]()
    for kind, way in ways().items():
        size = min(n, LARGEST.get(kind, n))
        with settings(LOGREG, size, str(device), "1") as source:
            both = {name: to_load(source, WAYS[way], name) for name in dict.fromkeys((kind, "gossip_sgd"))}
            span = 20.0 if "rounds" in way else 60_000 / size
            works = {name: lambda one=one, span=span: events_a_second(one, span) for name, one in both.items()}
            found = gathered(works, repeats)
        shown[f"{kind}, {way}"] = ratios(found[kind], found["gossip_sgd"])
    return shown


def rounds(n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns rounds a second of synchronous D-PSGD over those of a vmapped step and a sparse product by hand."""
    with settings(LOGREG, n, str(device), "1") as source:
        run = built(to_load(source, WAYS["rounds"], "gossip_sgd"))
    problem, x, nodes = run.problem, run.state.x.clone(), np.arange(n)
    weights = getattr(run.engine.timeline, "weights")[0].matrix(0)  # noqa: B009  (of rounds only)
    announce_beta()
    matrix = torch.sparse_csr_tensor(weights.indptr, weights.indices, weights.data, dtype=x.dtype, device=device)
    gradient = vmap(grad(problem.loss))
    features, targets = (a[:, 0] for a in problem.batch(problem.draw(nodes, np.zeros(n, np.int64))))

    def by_hand(count: int = 50) -> float:
        def all_() -> None:
            nonlocal x
            for _ in range(count):
                x = matrix @ (x - 0.05 * gradient(x, features, targets))

        return (n + 1) * count / seconds(all_, device)

    with settings(LOGREG, n, str(device), "1") as source:
        config = to_load(source, WAYS["rounds"], "gossip_sgd")
        found = gathered({"run": lambda: events_a_second(config, 50.0), "by hand": by_hand}, repeats)
    return {"synchronous D-PSGD over a step by hand": ratios(found["run"], found["by hand"])}
