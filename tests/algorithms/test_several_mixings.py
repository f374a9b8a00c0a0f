"""Several mixings in a synchronous round (multi-gossip): W is their product, and each sends its models."""

import functools
import itertools

import numpy as np
import pytest

from batchednodes import load, train
from batchednodes.topology import BaseGraph, MetropolisHastings, OnePeerExponential, Ring, RoundWeights, UniformWeights

BASE = {
    "network": {"nodes": 6, "topology": {"kind": "ring"}},
    "timing": {"kind": "synchronous", "mixings": 3},
    "run": {"until": 2.0},
}


def test_a_round_of_three_mixings_on_a_ring_is_the_third_power_and_sends_three_times():
    made = [RoundWeights(6, Ring().graph(6, 0), MetropolisHastings(), "double", False, 1.0, m) for m in (1, 3)]
    once, thrice = (weights.matrix(0).toarray() for weights in made)
    assert np.allclose(np.linalg.matrix_power(once, 3), thrice, rtol=0, atol=1e-15)
    assert [weights.sent(4).tolist() for weights in made] == [[2] * 6, [6] * 6]
    runs = [train(BASE, f"timing.mixings={m}") for m in (1, 3)]
    for key in ("gossips", "bytes_sent"):
        assert [int(run.metrics[key].iloc[-1]) for run in runs] == [n * runs[0].metrics[key].iloc[-1] for n in (1, 3)]


@pytest.mark.parametrize("seconds", [0.5, 0.75, 1.0])
def test_only_rounds_with_the_same_matrices_share_a_number(seconds):
    graph = OnePeerExponential(period=seconds).graph(8, 0)  # three graphs in turn; of 0.75 s: not in step with rounds
    made = RoundWeights(8, graph, UniformWeights(), "row", False, 1.0, 2)
    dense = [made.matrix(k).toarray() for k in range(12)]
    for k, w in enumerate(dense):
        times = (k + 1e-9, k + 0.5 + 1e-9)
        parts = [RoundWeights(8, graph.at(t), UniformWeights(), "row", False, 1.0).matrix(0).toarray() for t in times]
        assert np.allclose(functools.reduce(np.matmul, parts[::-1]), w, rtol=0, atol=1e-15)
    for i, j in itertools.combinations(range(12), 2):
        assert made.repeats(i) != made.repeats(j) or np.array_equal(dense[i], dense[j])
    assert len({made.repeats(k) for k in range(100)}) <= 6


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("algorithm.kind=all_reduce", "algorithm.kind=all_reduce"),
        ("algorithm.kind=admm", "algorithm.kind=admm"),
        ("gossip.merge.kind=median", "gossip.merge"),
        ("gossip.compress={kind: sign, feedback: none}", "gossip.compress"),
        ("network.attack={kind: sign_flip, nodes: [0]}", "network.attack"),
    ],
)
def test_rounds_that_are_no_product_mix_once(setting, key):
    with pytest.raises(ValueError, match=rf"timing\.mixings must be 1 with {key}"):
        load(BASE, [setting])
    load(BASE, [setting, "timing.mixings=1"])


def test_messages_of_rounds_that_repeat_are_counted_once_and_right():
    graph = BaseGraph(1, 0.4).graph(7, 0)  # a cycle in which nodes send to none or one, not in step with rounds

    def fresh():
        return RoundWeights(7, graph, UniformWeights(), "double", False, 1.0, 2)

    kept, counts = fresh(), [fresh().sent(k).tolist() for k in range(60)]
    assert [kept.sent(k).tolist() for k in range(60)] == counts
    assert len({tuple(one) for one in counts}) > 1
    assert len(kept._sent) == len({kept.repeats(k) for k in range(60)}) < 60
