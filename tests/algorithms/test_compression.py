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
