"""Compressed messages: values of the authors' code, laws, batched equals one event at a time, bytes, refusals."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_algorithms import AT_UPDATE, BASE, GRAPHS, MEET, ROUNDS, laws, made, same
from test_exactness import SMALL

from batchednodes import load, train
from batchednodes.algorithms.compression import QSGD, Compressor, Float8, Float16, LowRank, RandomK, Sign, TopK
from batchednodes.algorithms.compression.feedback import WAYS, compressed
from batchednodes.algorithms.gossip_sgd import GossipSGD
from batchednodes.simulation import check
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning import plan

REFERENCES = Path(__file__).parents[1] / "references"
PUBLISHED = json.loads((REFERENCES / "choco_gossip.json").read_text())["values"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_choco_in_rounds_is_the_published_consensus(name):
    _, graph, how, gamma = name.split("/")
    compress = {"top5": "{kind: top_k, share: 0.1, ", "full": "{kind: none, feedback: choco, "}[how]
    start = torch.from_numpy(np.load(REFERENCES / "choco_gossip_x0.npz")["n9"].T.copy())
    model = "{kind: python, target: 'torch.nn:Linear', args: {in_features: 50, out_features: 1, bias: false}}"
    options = ["network.nodes=9", f"network.topology.kind={graph}", f"task.model={model}", "task.data.features=50"]
    options += ["dtype=float64", "local.lr=0", f"gossip.compress={compress}{gamma.replace('=', ': ')}}}", *ROUNDS]
    config = load(BASE, [*options, "run.until=3000", "run.mark_every=3000"])
    events = assembly.timeline([config])
    run = assembly.assemble([config], events, plan.plan([config], events).chunks)
    run.state.models.copy_(start)
    progress = run.engine.begin()
    for rounds in ("10", "100", "1000")[: 3 if gamma == "gamma=0.1" else 2]:
        row, engine = PUBLISHED[name][rounds], replace(run.engine, until=float(rounds))
        progress = engine.run_(run.state, progress, Unobserved())
        x = run.state.models
        consensus = float((x - x.mean(0)).square().sum(1).mean())
        # relative 1e-6, until rounding says which entries are the largest
        assert consensus == pytest.approx(row["consensus"], rel=1e-6, abs=1e-16), rounds
        assert float(x[0, 0]) == pytest.approx(row["x_0_0"], rel=1e-6), rounds
        assert torch.allclose(x.mean(0), start.mean(0), rtol=0, atol=1e-12)


COMPRESS = {
    "top_k": "kind: top_k, share: 0.4, gamma: 0.3",
    "random_k": "kind: random_k, share: 0.4, gamma: 0.2",
    "sign": "kind: sign, gamma: 0.3",
    "qsgd": "kind: qsgd, levels: 4, gamma: 0.4",
    "low_rank": "kind: low_rank, gamma: 0.3",
    "float8": "kind: float8",
    "float16": "kind: float16",
    "none": "kind: none, gamma: 0.5",
}
LOSSES = "gossip.loss={kind: independent, probability: 0.3}"
SMOOTH = "network.weights.kind=metropolis_hastings"
WAYS_OF = {
    "choco, meetings": ("choco", MEET),
    "choco, losses": ("choco", (*MEET, LOSSES)),
    "choco, at updates": ("choco", (*AT_UPDATE, "algorithm.kind=ad_psgd", "local.momentum=0.5")),
    "choco, rounds": ("choco", (*ROUNDS, SMOOTH)),
    "deep_squeeze, rounds": ("deep_squeeze", (*ROUNDS, SMOOTH)),
    "dcd, rounds": ("dcd", (*ROUNDS, SMOOTH, "local.optimizer={kind: adam}")),
    "none, pushes": ("none", ("gossip.clock.rate=2",)),
    "none, meetings": ("none", (*AT_UPDATE, "algorithm.kind=ad_psgd")),
    "none, rounds": ("none", (*ROUNDS, SMOOTH)),
    "none, delays": ("none", ("gossip.exchange=push_pull", "gossip.delay={kind: uniform, low: 0.1, high: 2}")),
}


def way(feedback, kind):
    """Returns the setting of a compressor with a feedback."""
    settings = COMPRESS[kind]
    if feedback in ("dcd", "none"):
        settings = settings.partition(", gamma")[0]
    elif "gamma" not in settings:
        settings += ", gamma: 0.4"
    return f"gossip.compress={{{settings}, feedback: {feedback}}}"


@pytest.mark.parametrize("name", WAYS_OF)
@pytest.mark.parametrize("kind", ["top_k", "qsgd", "low_rank", "float8"])
def test_batched_equals_serial(name, kind):
    feedback, options = WAYS_OF[name]
    options = (*options, way(feedback, kind), "task.model.init=independent", f"network.topology={GRAPHS[1]}")
    batched = made(options)
    same(batched, made(options, "serial"))
    same(batched, made(options, "serial", independent=False))


@pytest.mark.parametrize("name", [name for name in WAYS_OF if "push" not in name and "dcd" not in name])
@pytest.mark.parametrize("kind", COMPRESS)
def test_mixing_keeps_the_sum_of_models(name, kind):
    feedback, options = WAYS_OF[name]
    if feedback == "none" and "ad_psgd" not in str(options):
        pytest.skip("the algorithm asks for no more than means")
    still = (*options, way(feedback, kind), "local.lr=0", "task.model.init=independent", "network.topology.kind=ring")
    before, after = made((*still, "run.until=1e-9")), made(still)
    assert float((before.state.models - after.state.models).abs().max()) > 1e-3  # something has been mixed
    assert torch.allclose(laws(before)["sum of x"], laws(after)["sum of x"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", check.RULES)
@pytest.mark.parametrize("name", ["choco, meetings", "choco, rounds", "deep_squeeze, rounds", "dcd, rounds", "none, pushes"])
def test_what_the_kit_checks_holds(rule, name):
    feedback, options = WAYS_OF[name]
    small = ("network.nodes=5", "network.topology.kind=ring", "run.until=4")
    config = load(BASE, [*SMALL, *options, way(feedback, "top_k"), *small])
    assert check.RULES[rule](config) is None
