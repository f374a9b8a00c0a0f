r"""Divergence: nodes whose loss or model is not finite, what is said of them, and why it may be so.

Gradient descent on a quadratic with curvature h, the largest eigenvalue of the Hessian, grows where its step size is
above

    2 (1 + m) / h,    or with Nesterov's step    2 (1 + m) / ((1 + 2 m) h),

m the momentum. The curvature of the first node's data is measured by power iteration, and compared.

Notation: n nodes, p parameters, x models, h curvature, m momentum.

Reference:
    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vjp

from batchednodes.config import Config
from batchednodes.numerics.values import per_node
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.topology import Networks

Nodes = Sequence[tuple[int, float]]
"""Rows of x whose loss or model is not finite, each with the time when that was first seen [s]; inf: just now."""

_NAMED = 100
"""Nodes that the summary names, at most."""

_EXAMPLES, _NUMBERS = 1024, 1 << 26
"""Examples that the curvature is measured on, at most, and parameters times examples: about a second's work."""

_PRODUCTS = 20
"""Hessian-vector products of the power iteration; it finds the curvature to some percent, from below."""


def stops(mode: str, nodes: Nodes, n: int) -> bool:
    """Returns whether a run ends at a mark, with nodes that are not finite, of n: `run.on_divergence` says."""
    return bool(nodes) and (mode == "stop" or (mode == "quarantine" and len(nodes) == n))


def summary(networks: Networks, nodes: Nodes, now: float) -> dict[str, Any]:
    """Returns how many nodes are not finite, and the first hundred of them in time, with their times [s]."""
    named = []
    for row, when in sorted(nodes, key=lambda pair: pair[1])[:_NAMED]:
        g, i = _place(networks, row)
        named.append({"network": g, "node": i, "time": min(when, now)})
    return {"count": len(nodes), "nodes": named}


def suspect(configs: Sequence[Config], nodes: Nodes) -> int:
    """Returns the row of x of the node that most likely diverged by itself; others may have got it from that one."""
    lr = np.concatenate([per_node(c.local.lr, c.network.nodes, c.seed, "local.lr") for c in configs])
    return max(nodes, key=lambda pair: (lr[pair[0]], -pair[1]))[0]


def message(networks: Networks, nodes: Nodes, now: float, cause: str) -> str:
    """Returns what to say of a run that stopped: which nodes, when, and the likely cause.

    Args:
        networks: of the run.
        nodes: at least one.
        now: time of the mark [s].
        cause: the likely one.
    """
    row, when = min(nodes, key=lambda pair: pair[1])
    some = ", ".join(str(i) for i, _ in nodes[:10]) + (", ..." if len(nodes) > 10 else "")
    where = f"nodes {some}; " if networks.count == 1 else ""
    count = f"{len(nodes)} nodes" if len(nodes) > 1 else "one node"
    return (
        f"the loss or the model of {count} is not finite ({where}the first was {name(networks, row)}, at "
        f"t = {min(when, now):g} s); the run stopped at t = {now:g} s; {cause}"
    )


def _place(networks: Networks, row: int) -> tuple[int, int]:
    """Returns network and number in it of a row of x."""
    offsets = networks.offsets
    g = int(np.searchsorted(offsets, row, side="right")) - 1
    return g, row - int(offsets[g])


def name(networks: Networks, row: int) -> str:
    """Returns the name of the node whose row of x that is."""
    g, i = _place(networks, row)
    return f"node {i}" if networks.count == 1 else f"node {i} of network {g}"


def cause(run: Simulation, configs: Sequence[Config], row: int, node: str) -> str:
    """Returns the likely cause at one node, and what to do; all ranks that hold its network together must ask.

    Args:
        run: that stopped.
        configs: settings of its networks.
        row: of x.
        node: its name.
    """
    g, i = _place(run.evaluator.networks, row)
    c = configs[g]
    features, targets = run.problem.rows(_examples(run, row))
    lr, momentum, decay = (
        float(per_node(getattr(c.local, key), c.network.nodes, c.seed, f"local.{key}")[i])
        for key in ("lr", "momentum", "weight_decay")
    )
    h = curvature(run, c, row, features, targets)
    if h is None or h + decay <= 0:
        return "lower local.lr"
    bound = 2 * (1 + momentum) / (h + decay) / (1 + 2 * momentum if c.local.nesterov else 1)
    formula = "2 / curvature" if momentum == 0 else "2 (1 + momentum) / curvature"
    if c.local.nesterov:
        formula = "2 (1 + momentum) / (1 + 2 momentum) / curvature"
    seen = f"{formula} = {bound:.3g}, measured on its data"
    if lr > bound:
        return f"local.lr of {node} is {lr:g}, above {seen}: lower local.lr"
    return f"local.lr of {node} is {lr:g}, below {seen}, so the data, the model or the loss may be the cause instead"


def _examples(run: Simulation, row: int) -> Tensor:
    """Returns the first examples of a node, on the device of the data."""
    sampler = run.problem.sampler
    most = max(1, min(_EXAMPLES, _NUMBERS // run.problem.stack.p))
    own = sampler.rows[sampler.offsets[row] : sampler.offsets[row + 1]][:most]
    return torch.from_numpy(own).to(run.problem.features.device)


def curvature(run: Simulation, config: Config, row: int, features: Tensor, targets: Tensor) -> float | None:
    """Returns the largest eigenvalue of the Hessian of the mean loss of some examples, by power iteration.

    It is the larger of those at the initial model of the node and at the mean of the finite models of its network,
    which may have grown already. None where neither can be told: the model has no second derivative, or its largest
    eigenvalue is not finite or not positive.
    """
    found = []
    for model in (_initial, _mean):
        try:
            h = _largest(run, model(run, config, row), features, targets)
        except (RuntimeError, MemoryError):  # of a user's model, or of its operations, without second derivatives
            continue
        found += [h] if 0 < h < math.inf else []
    return max(found, default=None)


def _largest(run: Simulation, x: Float[Tensor, " p"], features: Tensor, targets: Tensor) -> float:
    product = vjp(grad(lambda w: run.problem.loss(w, features, targets)), x)[1]
    v = torch.randn(x.numel(), generator=torch.Generator().manual_seed(0)).to(x)
    h = x.new_zeros(())
    for _ in range(_PRODUCTS):
        v = v / v.norm()
        (w,) = product(v)
        h, v = v @ w, w
    return float(h)


def _mean(run: Simulation, _: Config, row: int) -> Float[Tensor, " p"]:
    """Returns the mean of the finite models of a node's network; NaN if there is none."""
    part, models = run.evaluator.networks.slice(_place(run.evaluator.networks, row)[0]), run.evaluator.held(run.state)
    mean = models.consensus([part], models.finite(models.x)[part].unsqueeze(0), None)[0]
    return mean[0].to(models.x.dtype)


def _initial(run: Simulation, config: Config, row: int) -> Float[Tensor, " p"]:
    """Returns an initial model of a node's network."""
    problem, x = run.problem, run.state.x.new_empty(1, run.problem.stack.p)
    shape, outputs = problem.shape, problem.classes or problem.targets.shape[1]
    config.task.model.init_(x, problem.stack, config.seed, shape, outputs)
    return x[0]
