"""Algorithms with momentum, local steps or accelerated gossip are what their papers say, on random graphs and data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import batchednodes
from batchednodes import load
from batchednodes.algorithms.acid import ACiD, chi
from batchednodes.config.schema import reseeded
from batchednodes.events.synchronous import Barriers
from batchednodes.events.timeline import UPDATE
from batchednodes.figures.published.compared import published
from batchednodes.simulation.build import assembly
from batchednodes.simulation.check import assert_sound
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning import plan
from batchednodes.topology import Chain, Ring, Star

ACID = published("acid")
LR, ROUNDS, STEPS = 0.05, 12, 3


def quasi_global(x, grad, w, nesterov=True, beta=0.8, mu=0.7):
    """Algorithm 1 of Lin et al. 2021 with Nesterov's step."""
    m = torch.zeros_like(x)
    for _ in range(ROUNDS):
        half = beta * m + grad(x)
        new = w @ (x - LR * (beta * half + grad(x)))
        m, x = mu * m + (1 - mu) * (x - new) / LR, new
    return x


def momentum_tracking(x, grad, w, beta=0.8):
    """Algorithm 1 of Takezawa et al. 2023, from c = 0."""
    u, c = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(ROUNDS):
        u = beta * u + grad(x)
        x, c = w @ x - LR * (u - c), w @ (c - u) + u
    return x


def decentlam(x, grad, w, beta=0.8):
    """Algorithm 2 of Yuan et al. 2021."""
    m = torch.zeros_like(x)
    for _ in range(ROUNDS):
        g = (x - w @ (x - LR * grad(x))) / LR
        m = beta * m + g
        x = x - LR * m
    return x


def noloco(x, grad, w, lr=0.6, momentum=0.5, pull=0.4):
    """Outer steps of Kolehmainen et al. 2025, for any group of which W takes the mean."""
    slow, m = x.clone(), torch.zeros_like(x)
    for _ in range(ROUNDS):
        fast = slow.clone()
        for _ in range(STEPS):
            fast = fast - LR * grad(fast)
        m = momentum * m + lr * w @ (fast - slow) - pull * (slow - w @ slow)
        slow = slow + m
    return slow


def dfedavgm(x, grad, w, theta=0.8):
    """Algorithm 1 of Sun et al. 2023: heavy-ball steps from rest in each round."""
    for _ in range(ROUNDS):
        before = x
        for _ in range(STEPS):
            x, before = x - LR * grad(x) + theta * (x - before), x
        x = w @ x
    return x


def dfedsam(x, grad, w, rho=0.3):
    """Algorithm 1 of Shi et al. 2023."""
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            g = grad(x)
            x = x - LR * grad(x + rho * g / (g**2).sum(1, keepdim=True).sqrt())
        x = w @ x
    return x


def decentralized_adam(x, grad, w, betas=(0.8, 0.9), eps=1e-8):
    """Adam's step at each node, then a mean of models; moments stay where they are."""
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(1, ROUNDS + 1):
        g = grad(x)
        m, v = (b * a + (1 - b) * new for b, a, new in zip(betas, (m, v), (g, g**2), strict=True))
        x = w @ (x - LR * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)) ** 0.5 + eps))
    return x


def proximal(x, grad, w, strength=2.0):
    """Local steps on the loss with a proximal term to the model of the round (Li et al. 2020), then a mean."""
    for _ in range(ROUNDS):
        start = x
        for _ in range(STEPS):
            x = x - LR * (grad(x) + strength * (x - start))
        x = w @ x
    return x


PLAIN = {
    quasi_global: ("algorithm={kind: quasi_global, nesterov: true, beta: 0.8, mu: 0.7}",),
    momentum_tracking: ("algorithm={kind: momentum_tracking, beta: 0.8}",),
    decentlam: ("algorithm={kind: decentlam, beta: 0.8}",),
    noloco: ("algorithm={kind: noloco, lr: 0.6, momentum: 0.5, pull: 0.4}", f"local.steps={STEPS}"),
    dfedavgm: ("algorithm={kind: dfedavgm}", f"local.steps={STEPS}", "local.momentum=0.8"),
    dfedsam: ("algorithm={kind: dfedsam, rho: 0.3}", f"local.steps={STEPS}"),
    proximal: (f"local.steps={STEPS}", "local.proximal=2"),
    decentralized_adam: ("algorithm.kind=gossip_sgd", "local.optimizer={kind: adam, beta1: 0.8, beta2: 0.9}"),
}


@pytest.fixture
def problem(tmp_path):
    """Returns the settings of quadratics at random, and the gradient of all nodes."""
    draw = np.random.default_rng(5)
    a, b = draw.normal(size=(9, 4, 4)), draw.normal(size=(9, 4))
    np.savez(tmp_path / "q.npz", A=a, B=b)
    a, b = torch.from_numpy(a), torch.from_numpy(b)

    def grad(x):
        return torch.einsum("kji,kj->ki", a, torch.einsum("kij,kj->ki", a, x) - b)

    return {"task.data": {"kind": "quadratics", "path": str(tmp_path / "q.npz")}, "dtype": "float64"}, grad


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("plain", PLAIN)
def test_rounds_are_what_the_paper_says(plain, seed, problem):
    settings, grad = problem
    graph = ("network.topology={kind: erdos_renyi, probability: 0.5}", "network.weights.kind=metropolis_hastings")
    common = (*graph, "timing={kind: synchronous}", f"local.lr={LR}", f"run.until={ROUNDS}", "network.nodes=9")
    config = load(settings, [*common, *PLAIN[plain], f"seed={seed}"])
    run = assembled([config])
    assert isinstance(run.engine.timeline, Barriers)
    matrix = run.engine.timeline.weights[0].matrix(0)
    assert matrix is not None
    w = torch.from_numpy(matrix.toarray())
    expected = plain(run.state.models.clone(), grad, w)
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    found = run.evaluator.models(run.state)
    assert torch.allclose(
        found, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max())
    )  # sums in another order


def assembled(configs):
    events = assembly.timeline(configs)
    return assembly.assemble(configs, events, plan.plan(configs, events).chunks)


def test_momentum_takes_in_the_moves_between_two_updates_once(problem):
    settings, grad = problem
    events = ("network.nodes=9", "gossip.clock.rate=3", f"local.lr={LR}", "run.until=6", "run.mark_every=6")
    config = load(settings, [*events, "algorithm={kind: quasi_global, beta: 0.5, mu: 0.6}"])
    run = assembled([config])
    timeline = run.engine.timeline
    found, _ = timeline.window(run.engine.begin().clocks, 6.0)
    x = run.state.models.clone()
    m, begun = torch.zeros_like(x), dict[int, torch.Tensor]()
    for kind, i, j in zip(found.kind, found.actor.tolist(), found.peer.tolist(), strict=True):
        if kind == UPDATE:
            m[i] = 0.6 * m[i] + 0.4 * (begun[i] - x[i]) / LR if i in begun else 0.0
            begun[i] = x[i].clone()
            x[i] -= LR * (0.5 * m[i] + grad(x)[i])
        else:
            x[j] = (x[j] + x[i]) / 2
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    assert torch.allclose(run.state.models, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "other", "clock"),
    [("{kind: swarm_sgd}", "ad_psgd", "at_update"), ("{kind: swarm_sgd, blocking: true}", "gossip_sgd", "poisson")],
)
def test_swarm_sgd_is_what_it_becomes_with_a_neighbours_settings(kind, other, clock):
    common = ("network.nodes=8", "gossip.exchange=meet", f"gossip.clock.kind={clock}", "run.until=6", "local.steps=2")
    kinds = (kind, f"{{kind: {other}}}")
    one, two = (batchednodes.train({"dtype": "float64"}, *common, f"algorithm={which}") for which in kinds)
    assert torch.allclose(one.x, two.x, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "args"),
    [("swarm_sgd", {"blocking": True}), ("quasi_global", {"nesterov": True}), ("acid", {"eta": 0.2, "alpha": 1.1})],
)
def test_settings_of_algorithms_are_sound(target, args):
    assert_sound(target, args, cases=2)


@pytest.mark.parametrize("name", ACID["constants"])
def test_constants_of_a_ring_are_those_of_the_authors(name):
    n = int(name.split("n=")[1].split("/")[0])
    one, two = chi(Ring().graph(n, 0), [0.5] * n)  # one contact of each node a second, as each edge has two ends
    made = ACiD().constants(Ring().graph(n, 0), np.full(n, 0.5))
    row = ACID["constants"][name]
    found = {"chi1": one, "chi2": two, "eta": made["eta"], "alpha_tilde": made["alpha"]}
    assert found == {key: pytest.approx(row[key], rel=1e-12) for key in found}


def test_constants_follow_from_the_graph_and_the_rates():
    n, rate = 7, 0.3
    everyone = chi(None, [rate] * n)
    uneven = chi(None, [rate, *[rate * (1 + 1e-13)] * (n - 1)])  # by the matrix, not in closed form
    assert uneven == pytest.approx(everyone, rel=1e-11)
    star = chi(Star().graph(n, 0), [rate] * n)
    meets = rate + rate / (n - 1)  # of a leaf and the centre, which contacts one of n - 1; resistances are 1 / meets
    assert star == pytest.approx((1 / meets, 1 / meets / 2), rel=1e-12)
    assert chi(Chain().graph(2, 0), [0.0, 0.0]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="eta and alpha must be given where a network has more than 2000 nodes"):
        chi(Ring().graph(3000, 0), [1.0] * 3000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "acid"])
def test_consensus_by_meetings_has_the_law_of_its_second_moments(kind):
    """4.5 standard errors: of six means one is outside by chance once in 20,000 seeds."""
    n, copies, row = 16, 1500, ACID["law"][f"cycle/n=16/{kind}"]["consensus"]
    algorithm = "acid" if kind == "acid" else "gossip_sgd"
    ring = ["network.nodes=16", "network.topology.kind=ring", "gossip={exchange: meet, clock: {rate: 0.5}}"]
    still = ["update.clock.kind=never", "dtype=float64", "staleness.track=none", "run.mark_every=100"]
    small = ["task.data={features: 1, samples_per_node: 1, test_samples: 1}", f"algorithm.kind={algorithm}"]
    first = load({}, [*ring, *still, *small, "run.until=20"])
    configs = [reseeded(first, seed) for seed in range(copies)]
    run = assembled(configs)
    x = run.state.models
    x.zero_()
    x[::n] = 1.0
    if kind == "acid":
        run.state.fields["y"][: x.shape[0]] = x
    progress = run.engine.begin()
    for until in (2.0, 10.0, 20.0):
        progress = replace(run.engine, until=until).run_(run.state, progress, Unobserved())
        models = run.evaluator.models(run.state, until)[:, 0].view(copies, n)
        each = (models - models.mean(1, keepdim=True)).square().mean(1)
        assert float(each.mean()) == pytest.approx(row[f"{until:g}"], abs=4.5 * float(each.std()) / copies**0.5)


@pytest.mark.parametrize("sampling", ["shuffle", "replacement"])
def test_runs_whose_steps_have_a_law_go_on_bit_for_bit(sampling, tmp_path):
    options = (
        "network.nodes=8",
        "local={steps: {kind: geometric, mean: 4}, batch_size: 8, proximal: 2, momentum: 0.5}",
        f"local.sampling={sampling}",
        "gossip={exchange: meet, clock: {kind: at_update}}",
        "algorithm.kind=swarm_sgd",
        "run.mark_every=1",
    )
    whole = batchednodes.train({"run.until": 6}, *options)
    batchednodes.train({"run.until": 3}, *options, out=tmp_path / "a")
    assert torch.equal(batchednodes.resume(tmp_path / "a", "run.until=6").x, whole.x)
    fixed = batchednodes.train({"run.until": 6}, *options, {"local.steps": 4})
    assert not torch.equal(fixed.x, whole.x)


def test_the_plan_counts_the_most_steps_that_a_law_draws():
    fixed, drawn = (load({}, [f"local.steps={steps}"]) for steps in ("80", "{kind: geometric, mean: 4}"))
    plans = [plan.plan([config], assembly.timeline([config])) for config in (fixed, drawn)]
    assert plans[0].memory == plans[1].memory
    assert fixed.local.shape(10) == drawn.local.shape(10) == (80, 32)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("local.steps={kind: geometric, mean: 0.5}",), r"local\.steps\.mean must be at least 1 and finite, got 0.5"),
        (
            ("local.steps={kind: geometric, mean: 1e6}",),
            r"local\.steps\.mean must be at most 50,000 unless most is given",
        ),
        (
            ("local.steps={kind: geometric}", "local.batch_size=all"),
            r"local\.steps must be a number with batch_size=all, got Geometric",
        ),
        (("local.steps={kind: geometric}", "local.epochs=2"), r"local\.steps must be left out where epochs are given"),
        (
            ("local.steps={kind: geometric}", "gossip.merge.kind=age_weighted"),
            r"local\.steps must be a number unless gossip\.merge\.kind is fixed, mean or sampled",
        ),
        (("local.proximal=1",), r"local\.proximal must be left out where an update is one step"),
        (
            ("local={proximal: 1, steps: 2}", "algorithm.kind=quasi_global"),
            r"local\.proximal must be left out with algorithm\.kind=quasi_global, which makes its own steps",
        ),
        (("algorithm={kind: quasi_global, mu: 1}",), r"algorithm\.mu must be in \[0, 1\), got 1"),
        (("algorithm={kind: noloco, pull: -1}", "gossip.exchange=meet"), r"algorithm\.pull must be at least 0"),
        (("algorithm={kind: acid, eta: -1}", "gossip.exchange=meet"), r"algorithm\.eta must be at least 0 .* \[1/s\]"),
        (("algorithm.kind=acid",), r"gossip\.exchange must be meet with algorithm\.kind=acid"),
        (("algorithm.kind=acid", "timing.kind=synchronous"), r"timing\.kind must be continuous or rounds with .*acid"),
        (("algorithm.kind=swarm_sgd", "timing.kind=synchronous"), r"timing\.kind must be continuous or rounds with"),
        (("algorithm.kind=decentlam",), r"timing\.kind must be synchronous with algorithm\.kind=decentlam"),
        (("algorithm.kind=momentum_tracking",), r"timing\.kind must be synchronous with .*momentum_tracking"),
    ],
)
def test_what_cannot_be_is_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        load({}, options)
