"""Algorithms: batched equals one event at a time, laws hold, and what they promise comes true."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from test_exactness import LINEAR, SMALL

from batchednodes import load, train
from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.one_by_one import OneByOne
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.folder.inside import Inside
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Serial, Unobserved
from batchednodes.simulation.planning import plan

BASE = {"run": {"until": 5.0}, "network": {"nodes": 12}, "local": {"lr": 0.05}}
MEET = ("gossip.exchange=meet", "gossip.clock.rate=2")
AT_UPDATE = ("gossip.exchange=meet", "gossip.clock={kind: at_update}")
TO_ALL = "gossip.clock={kind: at_update, order: after, peers: all}"
ROUNDS = ("timing={kind: synchronous, period: 1}",)
METROPOLIS = (*ROUNDS, "network.weights.kind=metropolis_hastings")
UNEVEN = "task.partition={kind: quantity_lognormal}"
WAYS = {
    "push_sum": ("algorithm.kind=push_sum", "gossip.clock.rate=2"),
    "push_sum, momentum": ("algorithm.kind=push_sum", "gossip.clock.rate=2", "local.momentum=0.5", "local.steps=2"),
    "push_sum, rounds": ("algorithm.kind=push_sum", *ROUNDS),
    "push_sum, delays": (
        "algorithm.kind=push_sum",
        "gossip.clock.rate=2",
        "gossip.delay={kind: uniform, low: 0.1, high: 2}",
    ),
    "push_sum, losses": (
        "algorithm.kind=push_sum",
        "gossip.clock.rate=2",
        "gossip.delay={kind: exponential, mean: 0.5}",
        "gossip.loss={kind: independent, probability: 0.3}",
        "gossip.weight=0.3",
    ),
    "push_sum, off": (
        "algorithm.kind=push_sum",
        "gossip.clock.rate=2",
        "gossip.delay={kind: exponential, mean: 0.5}",
        "network.availability={kind: markov, mean_on: 1, mean_off: 0.5}",
        "network.churn={leave: {kind: uniform, low: 2, high: 9}}",
    ),
    "push_sum, accounts": (
        "algorithm.kind=push_sum",
        "gossip.clock.rate=2",
        "gossip.delay={kind: uniform, low: 0.1, high: 2}",
        "gossip.flow={kind: simple, capacity: 3}",
    ),
    "gradient_tracking": ("algorithm.kind=gradient_tracking", *MEET),
    "gradient_tracking, losses": (
        "algorithm.kind=gradient_tracking",
        *MEET,
        "gossip.loss={kind: independent, probability: 0.3}",
    ),
    "gradient_tracking, rounds": (
        "algorithm.kind=gradient_tracking",
        *ROUNDS,
        "network.weights.kind=metropolis_hastings",
        "local.steps=2",
        "local.weight_decay=0.1",
    ),
    "ad_psgd": ("algorithm.kind=ad_psgd", *AT_UPDATE),
    "ad_psgd, losses": ("algorithm.kind=ad_psgd", *AT_UPDATE, "gossip.loss={kind: independent, probability: 0.3}"),
    "d_psgd": ("algorithm={kind: d_psgd, order: combine_while_adapt}", *MEET, "local.momentum=0.5"),
    "d_psgd, rounds": ("algorithm={kind: d_psgd, order: combine_while_adapt}", *METROPOLIS, "local.steps=2"),
    "d_psgd, rounds that adapt first": ("algorithm.kind=d_psgd", *METROPOLIS, "local.momentum=0.5"),
    "d2, rounds": ("algorithm.kind=d2", *METROPOLIS, "local.schedule={kind: inverse_sqrt}", "local.momentum=0.5"),
    "exact_diffusion, rounds": ("algorithm.kind=exact_diffusion", *METROPOLIS),
    "nids, rounds": ("algorithm={kind: nids, c: 3}", *METROPOLIS),
    "extra, rounds": ("algorithm={kind: extra, theta: 0.8}", *METROPOLIS),
    "wang_elia, rounds": ("algorithm.kind=wang_elia", *METROPOLIS, "local.schedule={kind: step, every: 2}"),
    "aug_dgm, rounds": ("algorithm.kind=aug_dgm", *METROPOLIS, "local.schedule={kind: step, every: 2}"),
    "proxskip, rounds": ("algorithm={kind: proxskip, probability: 0.5, chi: 1.5}", *METROPOLIS),
    "led, rounds": ("algorithm.kind=led", *METROPOLIS, "local.steps=3", "local.weight_decay=0.1"),
    "led, rounds of epochs": (  # of 3 minibatches, or of 1 or 2 where nodes have fewer examples
        "algorithm.kind=led",
        *METROPOLIS,
        "local.epochs=1",
        "local.batch_size=8",
        "task.partition={kind: quantity_skew, alpha: 1}",
    ),
    "k_gt, rounds": ("algorithm={kind: k_gt, share: 0.5}", *METROPOLIS, "local.steps=3", "local.clip=0.1"),
    "quasi_global": ("algorithm={kind: quasi_global, nesterov: true, mu: 0.8}", "gossip.clock.rate=2", "local.steps=2"),
    "quasi_global, delays": (
        "algorithm.kind=quasi_global",
        "gossip.clock.rate=2",
        "gossip.delay={kind: uniform, low: 0.1, high: 2}",
        "local.schedule={kind: step, every: 2}",
    ),
    "quasi_global, rounds": ("algorithm.kind=quasi_global", *ROUNDS, "local.weight_decay=0.1"),
    "acid": ("algorithm.kind=acid", *MEET, "local.momentum=0.5", "local.steps=2"),
    "acid, losses": (
        "algorithm={kind: acid, eta: 0.3, alpha: 0.9}",
        *MEET,
        "gossip.loss={kind: independent, probability: 0.3}",
        "gossip.weight=0.4",
    ),
    "swarm_sgd": ("algorithm.kind=swarm_sgd", *AT_UPDATE, "local.steps=3"),
    "swarm_sgd, blocking": ("algorithm={kind: swarm_sgd, blocking: true}", *MEET, "local.momentum=0.5"),
    "noloco": ("algorithm.kind=noloco", *AT_UPDATE, "local.optimizer.kind=adam"),
    "noloco, rounds": ("algorithm={kind: noloco, pull: 0.5, momentum: 0.5}", *METROPOLIS, "local.steps=2"),
    "momentum_tracking, rounds": (
        "algorithm.kind=momentum_tracking",
        *METROPOLIS,
        "local.schedule={kind: step, every: 2}",
    ),
    "decentlam, rounds": ("algorithm.kind=decentlam", *METROPOLIS, "local.schedule={kind: step, every: 2}"),
    "dfedavgm": ("algorithm.kind=dfedavgm", "gossip.clock.rate=2", "local.momentum=0.9", "local.steps=3"),
    "dfedavgm, rounds": ("algorithm.kind=dfedavgm", *ROUNDS, "local.optimizer.kind=adam", "local.epochs=1"),
    "dfedsam": ("algorithm={kind: dfedsam, rho: 0.1}", "gossip.clock.rate=2", "local.epochs=1", "local.clip=1"),
    "dfedsam, rounds": ("algorithm={kind: dfedsam, rho: 0.1}", *ROUNDS, "local.steps=2", "local.weight_decay=0.1"),
    "gossip_sgd, proximal": (
        "local.proximal={kind: uniform, low: 0, high: 4}",
        "local.epochs=2",
        "local.batch_size=2",
        "local.clip=2",
        "local.momentum=0.5",
        "local.weight_decay=0.1",
    ),
    "push_sum, proximal": (
        "algorithm.kind=push_sum",
        "local.proximal=3",
        "local.steps=3",
        "local.optimizer.kind=adamw",
    ),
    "gossip_sgd, steps by a law": ("local.steps={kind: geometric, mean: 3}", "local.momentum=0.5"),
    "swarm_sgd, steps by a law": (
        "algorithm.kind=swarm_sgd",
        *AT_UPDATE,
        "local.steps={kind: geometric, mean: 3}",
        "local.optimizer.kind=adam",
    ),
    "gradient_tracking, steps by a law": (
        "algorithm.kind=gradient_tracking",
        *MEET,
        "local.steps={kind: geometric, mean: 3}",
    ),
    "dfedsam, rounds, steps by a law": (
        "algorithm={kind: dfedsam, rho: 0.1}",
        *ROUNDS,
        "local.steps={kind: geometric, mean: 2}",
        "local.weight_decay=0.1",
    ),
    "gossip_sgd, rounds": ROUNDS,
    "quasi_global, rounds of two mixings": ("algorithm.kind=quasi_global", "timing={kind: synchronous, mixings: 2}"),
    "all_reduce, rounds": ("algorithm.kind=all_reduce", *ROUNDS, "local.momentum=0.5"),
    "fedavg, rounds": ("algorithm={kind: fedavg, fraction: 0.3}", *ROUNDS, "local.epochs=2", UNEVEN),
    "fedprox, rounds": (
        "algorithm={kind: fedprox, mu: 0.5, fraction: 0.6}",
        *ROUNDS,
        "local.epochs=2",
        "local.clip=1",
        UNEVEN,
    ),
    "scaffold, rounds": (
        "algorithm={kind: scaffold, fraction: 0.6}",
        *ROUNDS,
        "local.steps=3",
        "local.weight_decay=0.1",
        "local.schedule={kind: step, every: 2, gamma: 0.5}",
    ),
    "fedopt, rounds": ("algorithm={kind: fedopt, server: yogi, fraction: 0.6}", *ROUNDS),
    "diloco, rounds": ("algorithm.kind=diloco", *ROUNDS, "local.steps=3", "local.optimizer.kind=adamw"),
    "matcha, rounds": ("algorithm.kind=matcha", *ROUNDS),
    "el_oracle, rounds": ("algorithm.kind=el_oracle", *ROUNDS),
    "el_local, rounds": ("algorithm.kind=el_local", *ROUNDS),
    "pens, rounds": ("algorithm={kind: pens, sampled: 3, kept: 1, rounds: 3}", *ROUNDS, UNEVEN, "local.momentum=0.5"),
    "gossip_sgd, contacts after updates": ("gossip.clock={kind: at_update, order: after}",),
    "gossip_sgd, contacts with all": ("gossip.exchange=meet", "gossip.clock={kind: at_update, peers: all}"),
    "on edges": ("algorithm={kind: python, target: 'own_algorithms:NewestOfNeighbours'}", "gossip.clock.rate=2"),
    "on edges, losses": (
        "algorithm={kind: python, target: 'own_algorithms:NewestOfNeighbours'}",
        *MEET,
        "gossip.loss={kind: independent, probability: 0.3}",
    ),
    "on edges, delays": (
        "algorithm={kind: python, target: 'own_algorithms:NewestOfNeighbours'}",
        "gossip.clock.rate=2",
        "gossip.delay={kind: exponential, mean: 0.5}",
    ),
    "on edges, accounts": (
        "algorithm={kind: python, target: 'own_algorithms:NewestOfNeighbours'}",
        "gossip.clock.rate=8",
        "gossip.flow={kind: generalized, spend: 2, capacity: 5}",
        "network.availability={kind: markov, mean_on: 1, mean_off: 0.5}",
    ),
    "inbox, delays": (
        "algorithm={kind: python, target: 'own_algorithms:Inbox'}",
        "gossip.clock.rate=2",
        "gossip.delay={kind: exponential, mean: 0.5}",
    ),
    "inbox, rounds": ("algorithm={kind: python, target: 'own_algorithms:Inbox'}", *ROUNDS),
    "neighbourhoods, rounds": ("algorithm={kind: python, target: 'own_algorithms:Middle'}", *ROUNDS),
    "changed by emissions": ("algorithm={kind: python, target: 'own_algorithms:Noting'}", "gossip.clock.rate=2"),
    "changed by emissions, losses": (
        "algorithm={kind: python, target: 'own_algorithms:Noting'}",
        *MEET,
        "gossip.loss={kind: independent, probability: 0.3}",
    ),
}
WAYS |= {
    "swift": ("algorithm={kind: swift, every: 2}", "gossip.clock.rate=2"),
    "swift, delays": (
        "algorithm={kind: swift, memory: false}",
        "gossip.clock.rate=4",
        "gossip.delay={kind: exponential, mean: 0.5}",
    ),
    "r_fast": ("algorithm.kind=r_fast", "gossip.clock.rate=2"),
    "r_fast, losses": ("algorithm.kind=r_fast", *MEET, "gossip.loss={kind: independent, probability: 0.3}"),
    "divshare": ("algorithm={kind: divshare, fragments: 3}", "gossip.clock.rate=4"),
    "divshare, delays": (
        "algorithm={kind: divshare, fragments: 2}",
        "gossip.clock.rate=4",
        "gossip.delay={kind: exponential, mean: 0.5}",
    ),
    "all2all": ("algorithm.kind=all2all", TO_ALL, "local.momentum=0.5"),
    "all2all, delays": (
        "algorithm.kind=all2all",
        TO_ALL,
        "network.weights.kind=metropolis_hastings",
        "gossip.delay={kind: exponential, mean: 0.5}",
        "gossip.loss={kind: independent, probability: 0.3}",
    ),
    "admm": ("algorithm={kind: admm, inner: 3}", "gossip.clock.rate=2"),
    "admm, losses": (
        "algorithm={kind: admm, inner: 2, penalty: 1.0}",
        *MEET,
        "gossip.loss={kind: independent, probability: 0.3}",
    ),
    "atg, losses": (
        "algorithm={kind: atg, gamma: 0.3, relaxation: 0.7}",
        *MEET,
        "gossip.loss={kind: independent, probability: 0.3}",
    ),
    "atg, rounds": ("algorithm={kind: atg, penalty: 0.5}", *METROPOLIS, "local.weight_decay=0.1"),
    "lt_admm, rounds": ("algorithm={kind: lt_admm, relaxation: 0.7}", *METROPOLIS, "local.epochs=1", UNEVEN),
    "admm, rounds": ("algorithm={kind: admm, inner: 2}", *ROUNDS, "network.weights.kind=metropolis_hastings"),
}
TREES = {
    f"relay_sgd, {mode}{', overlap' if overlap else ''}": (
        f"algorithm={{kind: relay_sgd, mode: {mode}, overlap: {overlap}}}",
        *ROUNDS,
    )
    for mode in ("model", "gradient")
    for overlap in (False, True)
}
RANDOM = "{kind: erdos_renyi, probability: 0.4}"
GRAPHS = (RANDOM, pytest.param("{kind: star}", marks=pytest.mark.slow))


def made(options, executor="batched", independent=True):
    """Returns a run at its end, which kept the clocks."""
    config = load(BASE, [*SMALL, *options, f"executor={executor}"])
    events = assembly.timeline([config])
    run = assembly.assemble([config], events, plan.plan([config], events).chunks)
    if not independent:
        executor = run.engine.executor
        assert isinstance(executor, Serial)
        assert isinstance(executor.algorithm, OneByOne)
        run = replace(run, engine=replace(run.engine, executor=Serial(replace(executor.algorithm, independent=False))))
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    return run


def same(a, b, tolerance=LINEAR):
    assert torch.equal(a.state.versions, b.state.versions)
    for name, tensor in a.state.tensors().items():
        other = b.state.tensors()[name]
        scale = tensor.abs().max() if tensor.is_floating_point() and tensor.isfinite().all() else 1.0
        assert torch.allclose(tensor, other, rtol=0, atol=tolerance * max(1.0, float(scale))), name
    assert torch.allclose(a.evaluator.models(a.state), b.evaluator.models(b.state), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("way", WAYS)
def test_batched_equals_serial(way, graph):
    options = (*WAYS[way], f"network.topology={graph}")
    batched = made(options)
    same(batched, made(options, "serial"))
    if graph == RANDOM and (not way.startswith("gossip_sgd") or "rounds" in way):
        same(batched, made(options, "serial", independent=False))


@pytest.mark.parametrize("graph", ["chain", "binary_tree"])
@pytest.mark.parametrize("way", TREES)
def test_batched_equals_serial_on_trees(way, graph):
    options = (*TREES[way], f"network.topology.kind={graph}", "local.momentum=0.5", "local.steps=2")
    batched = made(options)
    for independent in (True, False):
        same(batched, made(options, "serial", independent=independent))


UNDER_WAY = ("push_sum, delays", "push_sum, losses", "push_sum, off", "push_sum, accounts")


@pytest.mark.parametrize("way", UNDER_WAY)
def test_no_node_is_cut_off_where_messages_take_what_they_bring(way):
    with pytest.raises(ValueError, match=r"run\.on_divergence must be stop or ignore"):
        load(BASE, [*SMALL, *WAYS[way], "run.on_divergence=quarantine"])


@pytest.mark.parametrize(
    "way",
    [
        way
        for way in WAYS
        if "rounds" not in way and not way.startswith(("gossip_sgd", "r_fast")) and way not in UNDER_WAY
    ],
)  # the first step of r_fast leaves the model as it is, and what it sends then is not infinite
def test_nodes_that_diverge_are_cut_off_alike(way):
    lr, decay = [0.05] * 12, [0.0] * 12
    lr[3] = lr[7] = decay[3] = decay[7] = 1e200  # the first step leads beyond all numbers
    options = (
        *WAYS[way],
        f"local.lr={lr}",
        f"local.weight_decay={decay}",
        "run.on_divergence=quarantine",
        "network.topology={kind: ring}",
    )
    batched, serial = made(options), made(options, "serial")
    cut = batched.state.diverged_at.isfinite()
    assert cut.nonzero().flatten().tolist() == [3, 7]
    assert torch.equal(batched.state.diverged_at, serial.state.diverged_at)
    mine, theirs = (run.evaluator.models(run.state)[~cut] for run in (batched, serial))
    assert mine.isfinite().all()
    assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("exchange", ["push", "pull", "push_pull"])
@pytest.mark.parametrize("name", ["Inbox", "Aged"])
def test_a_slot_that_is_taken_again_in_the_wave_that_empties_it_is_read_first(name, exchange):
    options = (
        f"algorithm={{kind: python, target: 'own_algorithms:{name}'}}",
        f"gossip.exchange={exchange}",
        "gossip.clock.rate=8",
        "gossip.delay={kind: exponential, mean: 0.2}",
        "update.clock={kind: exponential, rate: 1}",
        "task.model.init=independent",
    )
    same(made(options), made(options, "serial", independent=False))


def laws(run):
    """Returns what each law of the algorithm says of a run."""
    rowwise = run.engine.executor.algorithm.rowwise
    return {name: law(rowwise.held(run.state)) for name, law in rowwise.algorithm.laws.items()}


@pytest.mark.parametrize("way", [way for way in WAYS if "gossip_sgd" not in way])
def test_mixing_keeps_what_it_must(way):
    still = (*WAYS[way], "local.lr=0", "local.weight_decay=0", "network.topology={kind: erdos_renyi, probability: 0.4}")
    before, after = made((*still, "run.until=1e-9")), made(still)
    ends = laws(before), laws(after)
    for name, value in ends[0].items():
        if "g" not in name:  # gradients are kept by updates, not at a step size of 0
            assert torch.allclose(value, ends[1][name], rtol=1e-12, atol=1e-12), name
    tracked = laws(made((*WAYS[way], "network.topology={kind: erdos_renyi, probability: 0.4}")))
    if "sum of y - g" in tracked:
        assert float(tracked["sum of y - g"].abs().max()) < 1e-12


@pytest.mark.slow
def test_gradient_tracking_by_events_finds_the_optimum_of_data_that_differ():
    path = Path(__file__).parents[1] / "references" / "quadratics_n32_d10_mu0.5_seed0_zeta1.npz"
    data = {"kind": "quadratics", "path": str(path)}
    settings = {"dtype": "float64", "network": {"nodes": 32}, "task.data": data, "local.lr": 0.1}
    common = ["network.topology.kind=ring", "gossip.exchange=meet", "gossip.clock.rate=1.5", "run.mark_every=1500"]
    common += ["update.clock={kind: exponential, rate: 1}"]
    tracked = train(settings, *common, "algorithm.kind=gradient_tracking", "run.until=3000")
    plain = train(settings, *common, "run.until=300")
    tracked, plain = (run.metrics["suboptimality"].iloc[-1] for run in (tracked, plain))
    assert tracked < 1e-20
    assert 1e-5 < plain < 1e-2


def test_a_run_starts_from_the_models_that_another_algorithm_scored(tmp_path):
    options = ["algorithm.kind=push_sum", "gossip.delay={kind: constant, time: 0.4}"]
    first = train(BASE, *SMALL, *options, out=tmp_path / "a")
    for algorithm in ("push_sum", "gossip_sgd"):
        start = [f"run.start_from={tmp_path / 'a'}", "run.until=1e-9", f"algorithm.kind={algorithm}"]
        assert torch.equal(train(BASE, *SMALL, *start).x, first.x)


@pytest.mark.parametrize(
    ("way", "options", "rule"),
    [
        ("on edges", ROUNDS, "timing.kind must be continuous"),
        ("on edges", ("network.topology={kind: random_matching}",), "network.topology.kind must be one that does not"),
        ("r_fast", ("gossip.delay={kind: constant, time: 1}",), "gossip.delay.kind must be none"),
        ("r_fast", ("gossip.exchange=push_pull", "gossip.reply=before"), "gossip.reply must be after"),
        ("swift", ("gossip.weight=0.3",), "gossip.weight must be left out with algorithm.kind=swift"),
    ],
)
def test_settings_are_refused_that_an_algorithm_cannot_follow(way, options, rule):
    with pytest.raises(ValueError, match=rule):
        load(BASE, [*WAYS[way], *options])


@pytest.mark.parametrize("kind", ["extra", "wang_elia", "aug_dgm", "lt_admm"])
def test_algorithms_of_rounds_are_refused_at_single_contacts(kind):
    with pytest.raises(
        ValueError, match=rf"timing\.kind must be synchronous with algorithm\.kind={kind}, which is sound"
    ):
        load(BASE, [f"algorithm.kind={kind}"])


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("extra, theta: 0", r"theta must be in \(0, 1\], got 0"),
        ("extra, theta: 1.5", r"theta must be in \(0, 1\], got 1.5"),
        ("atg, penalty: 0", "penalty must be positive"),
        ("atg, relaxation: 1", r"relaxation must be in \(0, 1\), got 1"),
        ("atg, gamma: 0", r"gamma must be in \(0, 1\], got 0"),
        ("lt_admm, beta: 0", "beta must be positive"),
        ("lt_admm, penalty: -1", "penalty must be positive"),
        ("lt_admm, relaxation: 0", r"relaxation must be in \(0, 1\], got 0"),
    ],
)
def test_settings_of_algorithms_are_refused_out_of_their_ranges(setting, rule):
    with pytest.raises(ValueError, match=rule):
        load(BASE, [*METROPOLIS, f"algorithm={{kind: {setting}}}"])


@pytest.mark.parametrize("kind", ["admm", "atg", "lt_admm"])
def test_no_message_comes_along_an_edge_without_weight(kind, tmp_path):
    rows = [(i, j % 12, 0.3) for i in range(12) for j in (i - 1, i + 1) if {i, j} != {0, 1}]
    np.savetxt(tmp_path / "weights.csv", rows, "%g", ",")
    weights = f"network.weights={{kind: given, path: '{tmp_path / 'weights.csv'}'}}"
    options = (*ROUNDS, f"algorithm.kind={kind}", weights, "network.topology={kind: ring}")
    same(made(options), made(options, "serial"))


@dataclass(frozen=True)
class Twice(Algorithm):
    """Mixes models, and what came of it."""

    mixes_after: ClassVar[tuple[str, ...]] = ("x",)


TWICE = "algorithm={kind: python, target: 'test_algorithms:Twice'}"


def test_a_second_exchange_mixes_what_the_first_one_left():
    still = (*METROPOLIS, "local.lr=0", "task.model.init=independent", "network.topology={kind: ring}")
    twice, once = made((*still, TWICE, "run.until=3")), made((*still, "run.until=6"))
    assert torch.allclose(twice.state.x, once.state.x, rtol=0, atol=1e-14)
    same(twice, made((*still, TWICE, "run.until=3"), "serial", independent=False))
    assert Twice().payload(10, 4) == 80


def test_a_second_exchange_is_refused_at_single_contacts():
    with pytest.raises(ValueError, match=r"timing\.kind must be synchronous with algorithm\.kind=python"):
        load(BASE, [TWICE])


def test_relayed_sums_ask_for_a_tree():
    with pytest.raises(
        ValueError, match=r"network\.topology must be a tree, .* got 12 edges of 12 nodes; use kind chain"
    ):
        made((*ROUNDS, "algorithm.kind=relay_sgd", "network.topology.kind=ring"))


def test_the_plan_counts_fields_on_edges():
    config = load(BASE, [*SMALL, *WAYS["on edges"], "network.topology={kind: ring}"])
    events = assembly.timeline([config])
    found = plan.plan([config], events)
    run = made((*WAYS["on edges"], "network.topology={kind: ring}"))
    assert run.state.fields["newest"].shape == (24, run.state.p)
    assert found.memory["newest"] == 24 * run.state.p * 8


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("gossip.exchange=pull",), "gossip.exchange must be push or meet"),
        (("gossip.exchange=push_pull",), "gossip.exchange must be push or meet"),
        (("gossip.loss={kind: independent, probability: 0.3}",), "gossip.loss must be left out"),
        (("network.availability={kind: markov, mean_on: 1, mean_off: 1}",), "network.availability must be left out"),
        (("gossip.flow={kind: simple, capacity: 3}",), "gossip.flow must be left out"),
    ],
)
def test_emissions_that_change_their_senders_are_refused_where_a_sender_cannot_follow(options, rule):
    with pytest.raises(ValueError, match=rule):
        load(BASE, [*WAYS["changed by emissions"], *options])


def test_checkpoints_beside_a_run_say_what_lives_on_edges(tmp_path):
    calls = iter(range(1000))
    often = ("run.checkpoint_every={time: 0.5, minutes: null}", "run.window=0.5", "network.topology={kind: ring}")
    train(BASE, *SMALL, *WAYS["on edges"], *often, out=tmp_path / "a", stop=lambda: next(calls) >= 6)
    files = sorted((tmp_path / "a" / "checkpoints").iterdir())
    rows = [len(checkpoint.load(Inside(f.parent) / f.name, torch.device("cpu")).state.fields["known"]) for f in files]
    assert rows == [24] * len(files)
    assert len(files) == 2


def test_the_plan_counts_rows_of_edges_as_they_are_filled_up():
    options = (*SMALL, *WAYS["on edges"], "network.nodes=2000", "network.topology={kind: star}")
    config = load(BASE, options)
    found = plan.plan([config], assembly.timeline([config]))
    row = 1999 * (5 + 1) * 8  # the centre's neighbours: a copy of the model of each, and a number
    assert found.chunks.update * row < 64 << 20
    assert found.memory["local updates"] > found.chunks.update * row
