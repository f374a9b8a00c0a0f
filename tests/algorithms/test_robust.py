"""Attackers and robust merging: batched equals one event at a time, consensus is as published, honest nodes count."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from test_algorithms import BASE, MEET, ROUNDS, made, same
from test_exactness import SMALL

from batchednodes import load, train
from batchednodes.algorithms.attacks import OnData, OwnRows
from batchednodes.algorithms.attacks.base import chosen
from batchednodes.events.merge import Gathering
from batchednodes.figures.published.compared import published
from batchednodes.simulation.build import assembly, datasets
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning import plan

CLIP, FLIP = "gossip.merge={kind: clipped_gossip, tau: 0.3}", "network.attack={kind: sign_flip, nodes: 3}"
NOISE, TRACKING = "network.attack={kind: noise, nodes: 0.3}", "algorithm.kind=gradient_tracking"
WAYS = {
    "clipped": (CLIP, "gossip.clock.rate=2"),
    "clipped, meetings": (CLIP, *MEET),
    "sign_flip, pulls": (FLIP, "gossip.exchange=pull", "gossip.clock.rate=2"),
    "noise, clipped, delays": (
        NOISE,
        CLIP,
        "gossip.exchange=push_pull",
        "gossip.delay={kind: exponential, mean: 0.5}",
        "gossip.loss={kind: independent, probability: 0.3}",
    ),
    "sign_flip, by ages": (FLIP, "gossip.merge.kind=age_weighted", "gossip.clock.rate=2"),
    "noise, clipped, tracking": (NOISE, CLIP, TRACKING, *MEET),
    "sign_flip, rounds": (FLIP, *ROUNDS),
    "noise, tracking, rounds": (NOISE, TRACKING, "network.weights.kind=metropolis_hastings", *ROUNDS),
    "noise, median, tracking, rounds": (
        NOISE,
        "gossip.merge.kind=median",
        TRACKING,
        "network.weights.kind=metropolis_hastings",
        *ROUNDS,
    ),
    "alie, rounds": ("network.attack={kind: alie, nodes: 3}", *ROUNDS),
    "ipm, trimmed mean, rounds": ("network.attack={kind: ipm, nodes: 3}", "gossip.merge.kind=trimmed_mean", *ROUNDS),
    "dissensus, clipped, rounds": (
        "network.attack={kind: dissensus, nodes: 3}",
        "gossip.merge={kind: clipped_gossip, tau: oracle}",
        *ROUNDS,
    ),
    "geometric median, rounds": ("gossip.merge.kind=geometric_median", *ROUNDS),
    "krum, rounds": ("gossip.merge={kind: krum, m: 2}", FLIP, *ROUNDS),
    "own, rounds": ("gossip.merge={kind: python, target: 'test_robust:Nearest'}", FLIP, *ROUNDS),
}


@dataclass(frozen=True)
class Nearest(Gathering):
    """The mean with the neighbour whose model is nearest."""

    def gather(self, own, others, weights, here, attackers):
        distance = torch.where(here, (others - own.unsqueeze(1)).norm(dim=2), torch.inf)
        nearest = others.gather(1, distance.argmin(1).view(-1, 1, 1).expand(-1, 1, own.shape[1])).squeeze(1)
        return torch.where(here.any(1, keepdim=True), (own + nearest) / 2, own)


RANDOM = "{kind: erdos_renyi, probability: 0.4}"
PAIRS = [
    *((way, RANDOM) for way in WAYS),
    *((way, "{kind: complete}") for way in WAYS if "rounds" in way and "tracking" not in way),
]


@pytest.mark.parametrize(("way", "graph"), PAIRS)
def test_batched_equals_serial(way, graph):
    options = (*WAYS[way], f"network.topology={graph}", "task.model.init=independent")
    batched = made(options)
    same(batched, made(options, "serial"))
    same(batched, made(options, "serial", independent=False))
    plain = [one for one in options if not one.startswith(("gossip.merge", "network.attack"))]
    honest = made(plain)
    assert not torch.allclose(batched.state.models, honest.state.models, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- as published

PUBLISHED = {
    name: values
    for name, values in published("byzantine")["values"].items()
    if name.endswith(("=0.267", "=0.02")) or (name.endswith("=0.45") and not name.startswith("Median"))
}
MERGES = {
    "SCClip": "{kind: clipped_gossip, tau: oracle}",
    "Median": "{kind: median}",
    "TM": "{kind: trimmed_mean, trim: oracle}",
    "Median*": "{kind: median, copies: 100}",
    "TM*": "{kind: trimmed_mean, trim: oracle, copies: 100}",
}


class Keeping(Unobserved):
    """Keeps the models of honest nodes after 1, 10 and 100 rounds."""

    def __init__(self, state):
        self.state, self.x = state, {}

    def observe(self, progress):
        if progress.clocks.time in (1, 10, 100):
            self.x[int(progress.clocks.time)] = self.state.models[2:, 0].numpy().copy()
        return True


SERIAL = [name for name in PUBLISHED if "delta_max=0.1/beta=0.267" in name]


@pytest.mark.parametrize(
    ("name", "executor"), [*((one, "batched") for one in PUBLISHED), *((one, "serial") for one in SERIAL)]
)
def test_consensus_under_dissensus_is_as_published(name, executor, tmp_path):
    merge, delta, beta = (part.split("=")[-1] for part in name.split("/"))
    edges = [(2, 3, 1 / 3), (3, 4, float(beta)), (4, 5, 1 / 3), (0, 3, float(delta)), (1, 4, float(delta))]
    rows = [f"{a},{b},{w!r}\n" for i, j, w in edges for a, b in ((i, j), (j, i))]
    (tmp_path / "w.csv").write_text("".join(rows))
    network = {
        "nodes": 6,
        "topology": {"kind": "edges", "i": [i for i, *_ in edges], "j": [j for _, j, _ in edges]},
        "weights": {"kind": "given", "path": str(tmp_path / "w.csv")},
        "attack": {"kind": "dissensus", "nodes": [0, 1], "epsilon": 0.05},
    }
    args = {"in_features": 1, "out_features": 1, "bias": False}
    model = {"kind": "python", "target": "torch.nn:Linear", "args": args}
    task = {"data": {"kind": "linear_regression", "features": 1}, "model": model}
    base = {"network": network, "task": task, "dtype": "float64", "local": {"lr": 0}, "executor": executor}
    config = load(base, [*ROUNDS, f"gossip.merge={MERGES[merge]}", "run.until=100"])
    run = assembly.assemble([config], events := assembly.timeline([config]), plan.plan([config], events).chunks)
    run.state.models[:, 0] = torch.tensor([7.0, 7.0, 0.0, 0.0, 200.0, 200.0])
    run.engine.run_(run.state, run.engine.begin(), kept := Keeping(run.state))
    for measure in ("error", "consensus"):
        for value, (t, x) in zip(PUBLISHED[name][measure][1:], kept.x.items(), strict=True):
            found = ((x - (100 if measure == "error" else x.mean())) ** 2).mean()
            rounding = 2e-12 * value**0.5 + 1e-24  # some units in the last place of models near 100, squared
            assert found == pytest.approx(value, rel=1e-9, abs=rounding), (measure, t)


# ----------------------------------------------------------------------------------------------- who counts, who may


def test_loss_accuracy_and_consensus_are_of_honest_nodes():
    digits = [
        "task.data.kind=digits",
        "run.until=2",
        "task.model.init=independent",
        "network.attack={kind: noise, nodes: [2, 5], sigma: 9}",
    ]
    found = train(BASE, *digits)
    whole = train(BASE, *digits[:3], "network.attack.kind=none")
    honest = [i for i in range(12) if i not in (2, 5)]
    x = found.x[honest].double()
    distance = (x - x.mean(0)).square().sum(1).mean().sqrt()
    assert found.metrics["consensus_distance"].iloc[-1] == pytest.approx(float(distance), rel=1e-6)
    assert found.metrics["model_norm_mean"].iloc[-1] == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-6)
    first = found.metrics.iloc[0], whole.metrics.iloc[0]  # nothing has been sent yet
    assert first[0]["loss_max"] <= first[1]["loss_max"]
    assert first[0]["loss_mean"] != first[1]["loss_mean"]


def test_attackers_learn_flipped_labels_and_nobody_else_does():
    options = ["task.data.kind=digits", "network.nodes=9"]
    (true, shards), (false, _) = (
        datasets.split(load(BASE, [*options, f"network.attack={attack}"]))
        for attack in ("{kind: none}", "{kind: label_flip, nodes: [1, 4]}")
    )
    bad = np.isin(shards.owners, [1, 4])
    assert (false.targets[bad] == 9 - true.targets[bad]).all()
    assert (false.targets[~bad] == true.targets[~bad]).all()
    assert (false.test_targets == true.test_targets).all()


def test_networks_of_a_batch_have_their_own_attackers_and_radii():
    for options in (
        (FLIP, CLIP),
        (*ROUNDS, "network.attack={kind: ipm, nodes: 3}", "gossip.merge.kind=clipped_gossip"),
    ):
        swept = {"gossip.merge.tau": [0.1, 2.0], "network.attack.nodes": [1, 4]}
        together = train(BASE, *SMALL, *options, {"sweep": swept, "sweep_mode": "zip", "replicas": 2}).x
        for g, (tau, nodes, seed) in enumerate([(0.1, 1, 0), (0.1, 1, 1), (2.0, 4, 0), (2.0, 4, 1)]):
            alone = train(
                BASE, *SMALL, *options, f"gossip.merge.tau={tau}", f"network.attack.nodes={nodes}", f"seed={seed}"
            )
            torch.testing.assert_close(together[12 * g : 12 * g + 12], alone.x, rtol=1e-11, atol=1e-11)  # order of sums


def test_attackers_are_drawn_anew_for_each_seed():
    drawn = [frozenset(np.flatnonzero(chosen(0.25, 40, seed)).tolist()) for seed in range(20)]
    assert {len(one) for one in drawn} == {10}
    assert len({*drawn}) == 20


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("gossip.merge.kind=median",), r"timing\.kind must be synchronous with gossip\.merge\.kind=median, .* whole"),
        (("gossip.merge.kind=clipped_gossip",), r"timing\.kind must be synchronous .* unless gossip\.merge\.tau is"),
        (("network.attack={kind: ipm, nodes: 2}",), r"timing\.kind must be synchronous .*kind=ipm, .* rows of others"),
        ((*ROUNDS, "algorithm.kind=push_sum", FLIP), r"network\.attack must be left out with algorithm\.kind=push_sum"),
        ((CLIP, "algorithm.kind=push_sum"), r"gossip\.merge must be left out with algorithm\.kind=push_sum"),
        ((FLIP, "gossip.compress.kind=float16"), r"gossip\.compress must be left out with network\.attack"),
        ((*ROUNDS, "gossip.merge.kind=mean"), r"gossip\.merge must be left out with timing\.kind=synchronous"),
        ((FLIP, "gossip.merge.kind=sampled"), r"gossip\.merge\.kind must be one that takes whole models"),
        ((FLIP, "gossip.on_receipt=update"), r"gossip\.on_receipt must be merge with network\.attack\.kind=sign_flip"),
        ((CLIP, "update.applies=delta"), r"update\.applies must be at_completion with gossip\.merge\.kind=clipped"),
        ((FLIP, "timing.kind=rounds"), r"timing\.kind must be continuous or synchronous with network\.attack"),
        (("network.attack.kind=noise",), r"network\.attack\.nodes must be given"),
        (("network.attack={kind: noise, nodes: [3, 12]}",), r"network\.attack\.nodes must be different .* 11, got 12"),
        (("network.attack={kind: noise, nodes: [3, 3]}",), "nodes must be different nodes"),
        (("network.attack={kind: noise, nodes: 12}",), r"network\.attack\.nodes must be a list .* below n, got 12"),
        (("network.attack={kind: noise, nodes: 0.01}",), r"attack\.nodes must be .* one at least, .*got 0\.01"),
        (("network.attack={kind: alie, nodes: 7}", *ROUNDS), r"network\.attack\.z must be given where half"),
    ],
)  # fmt: skip
def test_what_is_unsound_is_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        load(BASE, [*options])


@dataclass(frozen=True)
class Flat(Gathering):
    """Makes one number of a model."""

    def gather(self, own, others, weights, here, attackers):
        return others.mean((1, 2)).unsqueeze(1)


@dataclass(frozen=True)
class Common(Gathering):
    """Makes the same of all models."""

    def gather(self, own, others, weights, here, attackers):
        return own.mean(0, keepdim=True).expand_as(own)


@dataclass(frozen=True)
class Short(OwnRows):
    """Sends one number of a model."""

    nodes: int = 2

    def sent(self, own, k, place):
        return own[:, :1]


@dataclass(frozen=True)
class Shifted(OnData):
    """Learns labels that there are not."""

    nodes: int = 2

    def labels(self, labels, classes):
        return labels + 1


@pytest.mark.parametrize(
    ("key", "name", "rule"),
    [
        ("gossip.merge", "Flat", r"return rows of shape \[3, 5\], got \[3, 1\]"),
        ("gossip.merge", "Common", "make each row by itself"),
        ("network.attack", "Short", r"return rows of shape \[3, 5\], got \[3, 1\]"),
        ("network.attack", "Shifted", r"labels\(\) are in 0 \.\. 9, got 0 \.\. 10"),
    ],
)
def test_what_kinds_of_the_users_own_cannot_make_is_refused(key, name, rule, tmp_path):
    options = (*ROUNDS, "task.data.kind=digits", f"{key}={{kind: python, target: 'test_robust:{name}'}}")
    with pytest.raises(ValueError, match=rf"{key} must be a kind .*{rule}"):
        train(BASE, *options, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_false_labels_need_labels():
    with pytest.raises(ValueError, match=r"task\.data must have labels where attackers learn from false ones"):
        train(BASE, "network.attack={kind: label_flip, nodes: 2}")
