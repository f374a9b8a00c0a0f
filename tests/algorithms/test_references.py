"""Algorithms in synchronous rounds are the trajectories that the public codes of their papers make of quadratics.

Each case is a line of `RELAYSGD` or `DECENT_BENCH`: the name of a block of values, and settings that should make them.
Where several settings should, their names go on after a comma.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import batchednodes
from batchednodes.figures.published.compared import published

pytestmark = pytest.mark.slow

REFERENCES = Path(__file__).parents[1] / "references"
RING = ("network.topology.kind=ring",)
METROPOLIS = (*RING, "network.weights.kind=metropolis_hastings")
BELOW_A_THIRD = (*RING, f"network.weights={{kind: constant, value: {1 / 3 - 0.01}}}")  # of a neighbour
TREE = f"network.topology={{kind: edges, i: {[0, *(k // 2 for k in range(2, 32))]}, j: {[*range(1, 32)]}}}"
BASE = {
    "dtype": "float64",
    "network": {"nodes": 32},
    "timing": {"kind": "synchronous", "period": 1.0},
    "local": {"lr": 0.1},
    "staleness": {"track": "none"},
}

RELAYSGD = {
    "dpsgd_ring": (*METROPOLIS, "algorithm.kind=d_psgd"),
    "dpsgd_ring, gossip_sgd": METROPOLIS,
    "dpsgd_ring, push_sum": ("network.topology.kind=ring", "algorithm.kind=push_sum"),
    "dpsgd_ring_overlap": (*METROPOLIS, "algorithm={kind: d_psgd, order: combine_while_adapt}"),
    "dpsgd_ring_momentum": (*METROPOLIS, "algorithm.kind=d_psgd", "local.momentum=0.9", "local.lr=0.01"),
    "d2_ring": (*BELOW_A_THIRD, "algorithm.kind=d2"),
    "exact_diffusion_ring": (*METROPOLIS, "algorithm.kind=exact_diffusion"),
    "allreduce": (),
    "gradient_tracking_ring": (*METROPOLIS, "algorithm.kind=gradient_tracking"),
    "quasi_global_momentum_ring": (  # its step is x - lr (mu m + g) / (1 + mu)
        *METROPOLIS,
        f"algorithm={{kind: quasi_global, mu: 0.9, beta: {0.9 / 1.9}}}",
        f"local.lr={0.1 / 1.9}",
    ),
    "relaysum_model_chain": ("network.topology.kind=chain", "algorithm.kind=relay_sgd"),
    "relaysum_model_tree": (TREE, "algorithm.kind=relay_sgd"),
    "relaysum_grad_chain": ("network.topology.kind=chain", "algorithm={kind: relay_sgd, mode: gradient}"),
    "relaysum_grad_overlap_momentum_chain": (
        "network.topology.kind=chain",
        "algorithm={kind: relay_sgd, mode: gradient, overlap: true}",
        "local={lr: 0.01, momentum: 0.9}",  # the published momentum buffer is a mean of gradients, a tenth of a sum
    ),
    "dpsgd_tree": (TREE, "network.weights.kind=metropolis_hastings"),
    "dpsgd_star": ("network.topology.kind=star", "network.weights.kind=metropolis_hastings"),
    "dpsgd_hypercube": ("network.topology.kind=hypercube",),
    "one_peer_exponential_1": ("network.topology={kind: one_peer_exponential, period: 1}",),
    "one_peer_exponential_2": (
        "network.topology={kind: one_peer_exponential, period: 0.5}",
        "timing={kind: synchronous, mixings: 2}",
    ),
}
"""Block of tests/references/relaysgd.json, for zeta2 = 0.1 and 1 at a step size of 0.1 -> settings."""

DECENT_BENCH = {
    "ADMM": ("algorithm={kind: admm, penalty: 0.5, relaxation: 0.5, inner: 300}",),  # which minimise to rounding
    "DGD": ("algorithm={kind: d_psgd, order: combine_while_adapt}",),
    "ATC_Tracking": ("algorithm.kind=gradient_tracking",),
    "ED": ("algorithm.kind=exact_diffusion",),
    "NIDS": ("algorithm.kind=nids",),
    "EXTRA": ("algorithm.kind=extra",),
    "SimpleGT": ("algorithm={kind: extra, theta: 1}",),
    "WangElia": ("algorithm.kind=wang_elia", "local.lr=0.02"),
    "AugDGM": ("algorithm.kind=aug_dgm",),
    "ATG": ("algorithm={kind: atg, penalty: 1, relaxation: 0.5, gamma: 0.1}", "local.lr=0.001"),
    "LT_ADMM": (
        "algorithm={kind: lt_admm, beta: 0.01, penalty: 1, relaxation: 0.5}",
        "local.lr=0.01",
        "local.steps=5",
    ),
    "ProxSkip": ("algorithm={kind: proxskip, probability: 1, beta: 0.7, chi: 1}",),
    "LED": ("algorithm={kind: led, beta: 0.1}", "local.lr=0.05", "local.steps=4"),
    "KGT": ("algorithm={kind: k_gt, share: 0.5}", "local.lr=0.05", "local.steps=4"),
}
"""Block of tests/references/decent_bench.json, for zeta2 = 1 on a ring with Metropolis weights -> settings."""


def holds(values, zeta, steps, every, *settings):
    """Asserts that a run has some published values {step: {measure: value}}, at its end and at its marks before."""
    data = {"kind": "quadratics", "path": str(REFERENCES / f"quadratics_n32_d10_mu0.5_seed0_zeta{zeta}.npz")}
    run = batchednodes.train(BASE, {"task.data": data}, *settings, f"run.until={steps}", f"run.mark_every={every}")
    rows = run.metrics.set_index("time")
    for step, row in values.items():
        if int(step) > steps or int(step) % every:
            continue
        seen = rows.loc[float(step)]
        found = {
            "subopt": seen["suboptimality"],
            "mse": seen["distance_to_optimum"] ** 2,
            "cons": seen["consensus_distance"] ** 2,
        }
        if int(step) == steps:
            found |= {"x_0_0": float(run.x[0, 0]), "x_31_9": float(run.x[31, 9])}
        for key, value in found.items():  # near 0 the published numbers are differences of numbers near 1, and rounded
            assert value == pytest.approx(row[key], rel=1e-9, abs=1e-14), (step, key)


@pytest.mark.parametrize("zeta", ["0.1", "1"])
@pytest.mark.parametrize("name", RELAYSGD)
def test_trajectories_are_those_of_relaysgd(name, zeta):
    values = json.loads((REFERENCES / "relaysgd.json").read_text())["values"]
    steps, every = (100, 1) if zeta == "0.1" else (200, 10)
    holds(values[f"{name.split(',')[0]}/zeta2={zeta}/lr=0.1"], zeta, steps, every, *RELAYSGD[name])


@pytest.mark.parametrize("name", DECENT_BENCH)
def test_trajectories_are_those_of_decent_bench(name):
    values = json.loads((REFERENCES / "decent_bench.json").read_text())["values"]
    holds(values[f"{name}/zeta2=1"]["rows"], "1", 200, 5, *METROPOLIS, *DECENT_BENCH[name])


TUNED = {
    "d2/0.1": ("d2", 2),
    "d2/10": ("d2", 2),
    "gradient_tracking/0": ("gradient_tracking", 2),
    "relaysum_model/10": ("relay_sgd", 2),
    "gossip/0": ("d_psgd", 1),
}
"""Results of published searches for step sizes -> algorithm, and its step size over the one that is reported: after the
fastest run the search for it goes on from half of its step size, and reports that. The figure searches for all."""


def curve(algorithm, zeta, lr, steps, path):
    """Returns the suboptimality after 1, 2, ... steps on the published problems, with another heterogeneity."""
    with np.load(REFERENCES / "quadratics_n32_d10_mu0.5_seed0_zeta1.npz") as file:
        a, b, optimum = file["A"], file["B"].reshape(32, 10), file["optimum"].ravel()
    apart = b - a @ optimum
    slopes = np.einsum("nij,ni->nj", a, apart)
    np.savez(path, A=a, B=a @ optimum + np.sqrt(zeta / (slopes**2).sum() * 32) * apart, optimum=optimum)
    more = {"task.data": {"kind": "quadratics", "path": str(path)}, "algorithm.kind": algorithm, "local.lr": lr}
    graph = ("network.topology.kind=chain",) if algorithm == "relay_sgd" else METROPOLIS
    run = batchednodes.train(BASE, more, *graph, f"run.until={steps}", "run.mark_every=1")
    return run.metrics["suboptimality"].iloc[1:].to_numpy()


@pytest.mark.parametrize("name", TUNED)
def test_step_sizes_that_were_published_reach_the_target_at_the_published_step(name, tmp_path):
    algorithm, factor = TUNED[name]
    steps, lr = published("relaysgd_tuning")["values"][f"fig7/{name}"]
    found = curve(algorithm, float(name.split("/")[1]), factor * lr, steps, tmp_path / "q.npz")
    tested = np.unique(np.round(np.geomspace(1, 70_000 if algorithm == "d_psgd" else 10_000, 1000)).astype(int))
    seen = found[tested[tested <= steps] - 1]
    if algorithm == "d_psgd":  # a plateau: of three errors in a row, none is far from their mean
        threes = np.lib.stride_tricks.sliding_window_view(seen, 3)
        far = np.abs(threes - threes.mean(1, keepdims=True)).max(1)
        assert (far < 1e-8).tolist() == [False] * (len(threes) - 1) + [True]
        assert threes[-1].mean() < 1e-6
    else:
        assert (seen < 1e-6).tolist() == [False] * (len(seen) - 1) + [True]


def test_tracked_gradients_reach_the_optimum_though_a_fifth_of_the_messages_is_lost():
    data = {"kind": "quadratics", "path": str(REFERENCES / "quadratics_n32_d10_mu0.5_seed0_zeta1.npz")}
    lossy = {"network.topology.kind": "hypercube", "gossip.loss": {"kind": "independent", "probability": 0.2}}
    more = {"gossip.clock.rate": 20, "run.until": 100, "run.mark_every": 100, "task.data": data}
    base = {key: value for key, value in BASE.items() if key != "timing"}
    runs = {
        kind: batchednodes.train(base, lossy, more, f"algorithm.kind={kind}", f"local.lr={lr}")
        for kind, lr in (("gossip_sgd", 0.1), ("r_fast", 4.0))  # a tracker lies in messages most of its time
    }
    pulled, tracked = (run.metrics["suboptimality"].iloc[-1] for run in runs.values())
    assert tracked < 1e-10
    assert pulled > 1e-5
