"""Compressed messages: values of the authors' code, laws, batched equals one event at a time, bytes, refusals."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_algorithms import AT_UPDATE, BASE, MEET, RANDOM, ROUNDS, laws, made, same
from test_exactness import SMALL

from batchednodes import load, train
from batchednodes.algorithms.compression import QSGD, Float8, Float16, LowRank, RandomK, Sign, TopK
from batchednodes.algorithms.compression.feedback import WAYS, compressed
from batchednodes.algorithms.gossip_sgd import GossipSGD
from batchednodes.figures.published.compared import published
from batchednodes.simulation import check
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning import plan

REFERENCES = Path(__file__).parents[1] / "references"
PUBLISHED = {
    name: told for name, told in published("choco_gossip")["values"].items() if "top5" in name or "full" in name
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_choco_in_rounds_is_the_published_consensus(name):
    _, graph, how, gamma = name.split("/")
    compress = {"top5": "{kind: top_k, share: 0.1, ", "full": "{kind: none, feedback: choco, "}[how]
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 9)).T.copy())
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
    "choco, meetings": ("choco", (*MEET, "algorithm.kind=d_psgd")),
    "choco, losses": ("choco", (*MEET, LOSSES, "algorithm.kind=dfedavgm", "local.momentum=0.5")),
    "choco, at updates": ("choco", (*AT_UPDATE, "algorithm.kind=ad_psgd", "local.momentum=0.5")),
    "choco, rounds": ("choco", (*ROUNDS, SMOOTH, "algorithm.kind=d_psgd")),
    "deep_squeeze, rounds": ("deep_squeeze", (*ROUNDS, SMOOTH)),
    "dcd, rounds": ("dcd", (*ROUNDS, SMOOTH, "local.optimizer={kind: adam}")),
    "ecd, rounds": ("ecd", (*ROUNDS, SMOOTH)),
    "none, pushes": ("none", ("gossip.clock.rate=2",)),
    "none, meetings": ("none", (*AT_UPDATE, "algorithm.kind=ad_psgd")),
    "none, rounds": ("none", (*ROUNDS, SMOOTH)),
    "none, delays": ("none", ("gossip.exchange=push_pull", "gossip.delay={kind: uniform, low: 0.1, high: 2}")),
}


def way(feedback, kind):
    """Returns the setting of a compressor with a feedback."""
    settings = COMPRESS[kind]
    if feedback in ("dcd", "ecd", "none"):
        settings = settings.partition(", gamma")[0]
    elif "gamma" not in settings:
        settings += ", gamma: 0.4"
    return f"gossip.compress={{{settings}, feedback: {feedback}}}"


@pytest.mark.parametrize("name", WAYS_OF)
@pytest.mark.parametrize("kind", ["top_k", "qsgd", "low_rank", "float8"])
def test_batched_equals_serial(name, kind):
    feedback, options = WAYS_OF[name]
    options = (*options, way(feedback, kind), "task.model.init=independent", f"network.topology={RANDOM}")
    batched = made(options)
    same(batched, made(options, "serial"))
    same(batched, made(options, "serial", independent=False))


@pytest.mark.parametrize("name", ["none, meetings", *(name for name in WAYS_OF if name[:5] in ("choco", "deep_"))])
@pytest.mark.parametrize("kind", COMPRESS)
def test_mixing_keeps_the_sum_of_models(name, kind):
    feedback, options = WAYS_OF[name]
    still = (*options, way(feedback, kind), "local.lr=0", "task.model.init=independent", "network.topology.kind=ring")
    before, after = made((*still, "run.until=1e-9")), made(still)
    assert float((before.state.models - after.state.models).abs().max()) > 1e-3  # something has been mixed
    assert torch.allclose(laws(before)["sum of x"], laws(after)["sum of x"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["choco, meetings", "choco, losses", "none, pushes"])
def test_nodes_that_diverge_are_cut_off_alike(name):
    feedback, options = WAYS_OF[name]
    lr, decay = [0.05] * 12, [0.0] * 12
    lr[3] = lr[7] = decay[3] = decay[7] = 1e200  # the first step leads beyond all numbers
    options = (*options, way(feedback, "top_k"), f"local.lr={lr}", f"local.weight_decay={decay}")
    options += ("run.on_divergence=quarantine", "network.topology={kind: ring}")
    batched, serial = made(options), made(options, "serial")
    cut = batched.state.diverged_at.isfinite()
    assert cut.nonzero().flatten().tolist() == [3, 7]
    assert torch.equal(batched.state.diverged_at, serial.state.diverged_at)
    mine, theirs = (run.state.models[~cut] for run in (batched, serial))
    assert mine.isfinite().all()
    assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", check.RULES)
@pytest.mark.parametrize(
    "name", ["choco, meetings", "choco, rounds", "deep_squeeze, rounds", "dcd, rounds", "ecd, rounds", "none, pushes"]
)
def test_what_the_kit_checks_holds(rule, name):
    feedback, options = WAYS_OF[name]
    small = ("network.nodes=5", "network.topology.kind=ring", "run.until=4")
    kind = "none" if feedback == "ecd" else "top_k"  # what ecd loses is about the model, not a difference of models
    config = load(BASE, [*SMALL, *options, way(feedback, kind), *small])
    assert check.RULES[rule](config) is None


QUADRATICS = REFERENCES / "quadratics_n32_d10_mu0.5_seed0_zeta1.npz"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("feedback", ["choco", "deep_squeeze", "dcd", "ecd", "none"])
def test_rounds_are_what_the_papers_say(feedback, seed):
    graph = "network.topology={kind: erdos_renyi, probability: 0.3}"
    gamma = {"choco": 0.3, "deep_squeeze": 0.2, "none": 0.5}.get(feedback)
    compress = {"kind": "top_k", "share": 0.4, "feedback": feedback, "gamma": gamma}
    data = {"task.data": {"kind": "quadratics", "path": str(QUADRATICS)}, "gossip.compress": compress, "seed": seed}
    config = load(
        {"network.nodes": 32, "dtype": "float64", "local.lr": 0.1, "run.until": 40}, [data, graph, SMOOTH, *ROUNDS]
    )
    events = assembly.timeline([config])
    run = assembly.assemble([config], events, plan.plan([config], events).chunks)
    w = torch.from_numpy(events.weights[0].matrix(0).toarray())
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    with np.load(QUADRATICS) as file:
        a, b = (torch.from_numpy(file[name]) for name in ("A", "B"))
    x = torch.zeros(32, 10, dtype=torch.float64)
    hat, error = x.clone(), x.clone()

    def c(v):
        kept = v.abs() >= v.abs().sort(1, descending=True).values[:, 3:4]
        return v * kept

    for s in range(1, 41):
        half = x - 0.1 * torch.einsum("nij,ni->nj", a, torch.einsum("nij,nj->ni", a, x) - b)
        if feedback == "choco":
            x = half + gamma * (w @ hat - hat)
            hat = hat + c(x - hat)
        elif feedback == "deep_squeeze":
            q = c(half + error)
            x, error = half + gamma * (w @ q - q), half + error - q
        elif feedback == "dcd":  # whose paper steps from the mean of the copies
            x = x + c(w @ x - (x - half) - x)
        elif feedback == "ecd":
            x, old = w @ hat + half - x, x
            hat = (1 - 2 / s) * hat + 2 / s * c((1 - s / 2) * old + s / 2 * x)
        else:
            x = half + gamma * (w @ c(half) - c(half))
    assert float(x.abs().max()) > 0.1
    assert torch.allclose(run.state.models, x, rtol=1e-10, atol=1e-12)


def test_choco_by_meetings_agrees_where_messages_bring_a_fifth():
    still = ("network={nodes: 8, topology: {kind: ring}}", "update.clock.kind=never", "task.model.init=independent")
    data = ("task.data={kind: linear_regression, features: 9}", "dtype=float64", *MEET, "run.until=100")
    fifth = "{{kind: top_k, share: 0.2, gamma: 0.6, feedback: {}}}"
    ends = [
        train(BASE, *still, *data, f"gossip.compress={fifth.format(feedback)}").metrics["consensus_distance"].iloc[-1]
        for feedback in ("choco", "none")
    ]
    assert ends[0] < 1e-9
    assert ends[1] > 0.1  # nothing is made up for


ROWS = torch.randn(400, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def drawn(size):
    return torch.rand(400, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))


KINDS = {
    TopK(share=0.1, gamma=0.1): 0.9,
    RandomK(share=0.1, gamma=0.1): 0.9,
    Sign(gamma=0.1): 1 - 1 / 60,
    QSGD(levels=4, gamma=0.1): 1 - 1 / (1 + min(60 / 16, math.sqrt(60) / 4)),
    LowRank(rank=2, gamma=0.1): 1.0,
    Float8(): 2.0**-8,
    Float8(format="e5m2"): 2.0**-6,
    Float16(): 2.0**-22,
    Float16(format="bfloat16"): 2.0**-16,
}
"""Compressor -> the largest mean of |v - C(v)|^2 / |v|^2, by theory; of floats, that of a rounded mantissa."""


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_compressors_lose_is_bounded(kind):
    found = kind.compress(ROWS, drawn)
    lost = (ROWS - found).square().sum(1) / ROWS.square().sum(1)
    assert 0 < float(lost.mean()) <= KINDS[kind]
    zero = kind.compress(0 * ROWS, drawn)
    assert torch.equal(zero, 0 * ROWS)
    assert found.dtype == ROWS.dtype
    assert kind.compress(ROWS.to(torch.bfloat16), lambda size: drawn(size).to(torch.bfloat16)).isfinite().all()


@pytest.mark.parametrize("kind", [RandomK(share=0.25, feedback="dcd"), QSGD(levels=2, feedback="dcd")], ids=str)
def test_random_compressors_are_unbiased_where_they_must_be(kind):
    v = ROWS[:1].expand(400, 60)
    draws = [kind.compress(v, lambda _, k=k: drawn(60 + k)[:, :60]) for k in range(50)]
    mean, spread = torch.cat(draws).mean(0), torch.cat(draws).std(0) / math.sqrt(400 * 50)
    assert bool(((mean - v[0]).abs() <= 5 * spread + 1e-12).all())  # false alarm: 60 times 6e-7


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("top_k, share: 0.02, gamma: 0.1", 13 * 8),
        ("top_k, share: 0.5, gamma: 0.1", 325 * 4 + 82),
        ("random_k, share: 0.02, gamma: 0.1", 13 * 4),
        ("sign, gamma: 0.1", 82 + 4),
        ("qsgd, levels: 16, gamma: 0.1", 488 + 4),
        ("low_rank, rank: 2, gamma: 0.1", 2 * (26 + 25) * 4),
        ("float8", 654),
        ("float16", 1300),
        ("none", 2600),
    ],
)
def test_messages_have_the_bytes_of_what_they_bring(kind, size):
    found = load({"gossip.exchange": "meet"}, [f"gossip.compress={{kind: {kind}}}"])
    assert found.method.payload(650, 4) == size


SENT = {
    "push": (1, ()),
    "pull": (1, ("gossip.exchange=pull",)),
    "meet": (2, ("gossip.exchange=meet",)),
    "rounds": (1, ROUNDS),
    "push_sum": (1, ("algorithm.kind=push_sum",)),
    "fedavg": (2, ("algorithm={kind: fedavg, fraction: 0.5}", *ROUNDS)),  # up to a server and back
    "all_reduce": (2, ("algorithm.kind=all_reduce", *ROUNDS)),
}


@pytest.mark.parametrize("way_", SENT)
def test_bytes_sent_are_those_of_all_contacts(way_):
    sides, options = SENT[way_]
    last = train(BASE, *SMALL, *options).metrics.iloc[-1]
    numbers = 5 + (way_ == "push_sum")  # four features and a bias; a weight
    assert last["bytes_sent"] == last["gossips"] * sides * numbers * 8 > 0


def test_bytes_sent_are_those_of_messages_and_requests_have_none():
    slow = ("gossip.delay={kind: constant, time: 0.3}", "gossip.loss={kind: independent, probability: 0.3}")
    for exchange in ("push", "pull", "push_pull"):
        last = train(BASE, *SMALL, *slow, f"gossip.exchange={exchange}").metrics.iloc[-1]
        asked = last["gossips"] if exchange == "pull" else 0
        assert last["bytes_sent"] == (last["messages_sent"] - asked) * 5 * 8 > 0
    sampled = train(BASE, *SMALL, "gossip.merge={kind: sampled, share: 0.5}").metrics.iloc[-1]
    assert sampled["bytes_sent"] == sampled["messages_sent"] * 20


def test_links_carry_compressed_messages_in_less_time():
    slow = ("gossip.delay={kind: bandwidth, rate: 100}", "gossip.clock.rate=1", "network.nodes=12")
    times = [
        assembly.timeline([load(BASE, [*SMALL, *slow, f"gossip.compress.kind={kind}"])]).laws.nodes["transfer"]
        for kind in ("none", "float16")
    ]
    assert times[0].tolist() == [0.4] * 12  # five numbers of 8 bytes
    assert times[1].tolist() == [0.1] * 12


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("gossip.compress.kind=top_k",), r"gossip\.compress\.gamma must be given with feedback=choco, got null"),
        (
            ("gossip.compress={kind: qsgd, feedback: dcd, gamma: 0.5}",),
            r"gossip\.compress\.gamma must be left out with feedback=dcd, which has none, got 0\.5",
        ),
        (("gossip.compress={kind: sign, feedback: ecd}", *MEET), r"timing\.kind must be synchronous with .*=ecd"),
        (("gossip.compress={kind: sign, gamma: 2}",), r"gossip\.compress\.gamma must be in \(0, 1\], got 2"),
        (("gossip.compress={kind: top_k, share: 0}",), r"gossip\.compress\.share must be in \(0, 1\], got 0"),
        (("gossip.compress={kind: qsgd, levels: 0}",), r"gossip\.compress\.levels must be an integer .*got 0"),
        (("gossip.compress={kind: low_rank, rank: 0}",), r"gossip\.compress\.rank must be an integer .*got 0"),
        (
            ("gossip.compress={kind: sign, gamma: 0.5}",),
            r"gossip\.exchange must be meet with algorithm\.kind=gossip_sgd and gossip\.compress\.feedback=choco",
        ),
        (
            ("gossip.compress={kind: sign, gamma: 0.5, feedback: deep_squeeze}", *MEET),
            r"timing\.kind must be synchronous with gossip\.compress\.feedback=deep_squeeze",
        ),
        (
            ("gossip.compress={kind: sign, gamma: 0.5}", *ROUNDS, "network.topology={kind: random_matching}"),
            r"network\.topology\.kind must be one that does not change with gossip\.compress\.feedback=choco",
        ),
        (
            ("gossip.compress.kind=float16", "algorithm.kind=push_sum"),
            r"gossip\.compress must be left out with algorithm\.kind=push_sum, whose messages bring more than a model",
        ),
        (
            ("gossip.compress.kind=float16", "algorithm.kind=gradient_tracking", *MEET),
            r"gossip\.compress must be left out with algorithm\.kind=gradient_tracking",
        ),
        (
            ("gossip.compress.kind=float16", "gossip.merge={kind: sampled, share: 0.5}"),
            r"gossip\.merge\.kind must be fixed or mean",
        ),
    ],
)
def test_what_cannot_be_compressed_is_refused(options, rule):
    with pytest.raises(ValueError, match=rf"^{rule}"):
        load(BASE, [*SMALL, *options])


def test_the_plan_counts_what_neighbours_know():
    options = ("network.topology={kind: ring}", *MEET, way("choco", "top_k"))
    config = load(BASE, [*SMALL, *options])
    found, run = plan.plan([config], assembly.timeline([config])), made(options)
    assert run.state.fields["hat"].shape == (24, run.state.p)
    assert found.memory["hat"] == 24 * run.state.p * 8


@dataclass(frozen=True)
class Named(GossipSGD):
    """Gossip with a setting of its own."""

    pull: float = 0.5


def test_a_compressed_algorithm_keeps_settings_name_and_the_rest_of_its_class():
    found = compressed(Named(pull=0.2), TopK(gamma=0.1), rounds=True)
    assert (found.pull, type(found).__qualname__, type(found).__module__) == (0.2, "Named", __name__)
    assert type(found) is type(compressed(Named(), Sign(gamma=0.1), rounds=True))
    assert isinstance(found, WAYS["choco"][True])
    assert isinstance(found, Named)
    assert compressed(Named(), load({}).gossip.compress, rounds=True) == Named()
