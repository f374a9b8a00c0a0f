"""Dropout by address: the law of the masks, and runs that draw them."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from test_exactness import LINEAR, SMALL
from test_resume import after, same_files

from batchednodes import load, resume, train
from batchednodes.data import Sampler
from batchednodes.models.dropout import alpha_drop, drop, kept
from batchednodes.models.stand_ins import StandIns
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning import memory_plan, plan

SIGMAS = 5.5
"""Standard deviations that a sum of many draws may be off: 4e-8 of false alarms each, for about 100 of them here."""

SHAPE = (3, 5, 7)


def keys(seeds=2, nodes=5, updates=4, steps=3):
    """Returns the keys of minibatch steps [seed, node, update, step]."""
    of = np.repeat(np.arange(seeds, dtype=np.uint64), nodes)
    local = np.tile(np.arange(nodes), seeds)
    one = np.arange(seeds * nodes)
    sampler = Sampler(of, local, one, np.arange(seeds * nodes + 1), 1, steps, "shuffle", keyed=True)
    drawn = [sampler.draw(one, np.full(one.size, k))[:, :, -1] for k in range(updates)]
    return torch.from_numpy(np.stack(drawn, 1).reshape(seeds, nodes, updates, steps))


def masks(p, calls=4):
    """Returns masks [seed, node, update, step, call, ...]."""
    every = keys()
    made = [kept(key, call, SHAPE, p) for key in every.flatten() for call in range(calls)]
    return torch.stack(made).view(*every.shape, calls, *SHAPE)


@pytest.mark.parametrize("p", [0.0, 0.02, 0.3, 0.5, 0.9])
def test_elements_are_kept_with_the_probability_asked_for(p):
    some = masks(p)
    deviation = (p * (1 - p) * some.numel()) ** 0.5
    assert abs(int(some.sum()) - (1 - p) * some.numel()) <= SIGMAS * deviation
    for dim in range(some.ndim):  # and so in each slice: of a seed, a node, an update, a step, a call, a place
        counts = some.transpose(0, dim).flatten(1).sum(1)
        size = some.numel() // some.shape[dim]
        assert ((counts - (1 - p) * size).abs() <= SIGMAS * (p * (1 - p) * size) ** 0.5).all()


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_masks_of_other_addresses_are_independent(p):
    some = (masks(p).double() - (1 - p)) / (p * (1 - p)) ** 0.5
    for shift in itertools.product((0, 1), repeat=some.ndim):  # neighbours in each direction, and diagonally
        if any(shift):
            parts = [some, some]
            for dim, step in enumerate(shift):
                if step:
                    size = some.shape[dim] - 1
                    parts = [parts[0].narrow(dim, 0, size), parts[1].narrow(dim, 1, size)]
            products = parts[0] * parts[1]
            assert abs(float(products.sum())) <= SIGMAS * products.numel() ** 0.5, shift


def test_keys_of_all_addresses_differ():
    every = keys(seeds=3, nodes=20, updates=30, steps=4)
    assert every.unique().numel() == every.numel()


def test_a_mask_depends_on_key_call_place_and_p_alone():
    key = keys()[0, 0, 0, 0]
    whole = kept(key, 2, (4, 6), 0.4)
    assert torch.equal(whole.flatten(), kept(key, 2, (24,), 0.4))
    assert torch.equal(whole.flatten()[:10], kept(key, 2, (10,), 0.4))
    assert (kept(key, 2, (4, 6), 0.7) <= whole).all()  # what a smaller p drops, a larger one drops too
    together = torch.vmap(lambda k: kept(k, 2, (4, 6), 0.4))(keys().flatten())
    assert torch.equal(together[0], whole)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_what_is_kept_and_dropped_becomes_what_pytorch_makes_of_it(p):
    x = torch.full((10_000,), 1.7, dtype=torch.float64)
    some = kept(keys()[0, 0, 0, 0], 0, x.shape, p)
    for ours, theirs in ((drop, F.dropout), (alpha_drop, F.alpha_dropout)):
        close = 4 * torch.finfo(x.dtype).eps  # PyTorch rounds its factors in another order
        assert torch.allclose(ours(x, some, p).unique(), theirs(x, p, True).unique(), rtol=close, atol=close)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (F.dropout1d, (3, 5, 7)),
        (F.dropout2d, (3, 5, 4, 7)),
        (F.dropout3d, (3, 5, 2, 4, 7)),
        (F.feature_alpha_dropout, (3, 5, 4, 7)),
        (F.dropout, (3, 5, 7)),
        (F.alpha_dropout, (3, 5, 7)),
    ],
)
def test_channels_are_dropped_whole_where_pytorch_drops_them_whole(function, shape):
    x = torch.ones(shape)
    with StandIns(keys()[0, 0, 0, 0], stacked=False):
        ours = function(x, 0.5, True)
    theirs = function(x, 0.5, True)
    whole = [bool((y.flatten(2) == y.flatten(2)[:, :, :1]).all()) for y in (ours, theirs)]
    assert whole[0] == whole[1]
    assert ours.unique().numel() == theirs.unique().numel() == 2


MODEL = "task.model={kind: python, target: 'example_models:Dropped', args: {p: 0.3}}"
OPTIONS = [*SMALL, "network.nodes=9", "local.lr=0.05", MODEL]
BASE = {"run": {"until": 4.0}, "gossip": {"clock": {"rate": 2.0}}}


def run(*options):
    return train(BASE, *OPTIONS, *options)


def alike(a, b):
    """Asserts that models are the same to rounding, and not finite in the same nodes."""
    finite = a.x.isfinite().all(1)
    assert torch.equal(finite, b.x.isfinite().all(1))
    assert torch.equal(a.versions, b.versions)
    error = (a.x - b.x)[finite].abs().max() / b.x[finite].abs().max()
    assert float(error) <= LINEAR


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["local.steps=3", "local.momentum=0.5", "update.applies=delta", "gossip.exchange=meet"],
        ["local.epochs=2", "task.partition.kind=quantity_skew", "local.momentum=0.5"],
        ["gossip.on_receipt=update_merge", "gossip.delay={kind: exponential, mean: 0.3}", "local.momentum=0.5"],
        ["gossip.on_receipt=merge_update", "gossip.delay={kind: constant, time: 0.2}"],
        ["run.on_divergence=quarantine", "local.lr={kind: choice, values: [0.05, 1e200]}"],
        ["task.model.init=independent", "local.weight_decay=0.1"],
        ["algorithm.kind=gradient_tracking", "local.steps=2", "gossip.exchange=meet"],
        [
            "algorithm.kind=gradient_tracking",
            "local.epochs=1",
            "task.partition.kind=quantity_skew",
            "gossip.exchange=meet",
        ],
    ],
    ids=" ".join,
)
def test_dropout_batched_equals_serial(options, monkeypatch):
    one = run(*options, "executor=serial")
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)
    for compiled in ("off", "auto"):
        alike(run(*options, f"local.compile={compiled}", "local.chunk=4"), one)


def test_runs_with_dropout_are_tapes_in_long_runs(monkeypatch):
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)
    config = load(BASE, OPTIONS)
    law = assembly.timeline([config])
    made = assembly.assemble([config], law, plan.plan([config], law).chunks).engine.executor
    assert made.algorithm.descent.tape is not None


@pytest.mark.parametrize("change", ["run.mark_every=0.37", "local.chunk=1", "run.window=0.11", "run.eval_nodes=3"])
def test_masks_do_not_depend_on_how_a_run_is_made(change):
    alike(run(change), run())


def test_networks_of_a_sweep_draw_the_masks_that_they_draw_alone():
    sweep = run("sweep.local.lr=[0.05, 0.1]", "replicas=2")
    points = sweep.metrics.groupby("network")
    for g, (lr, seed) in enumerate(itertools.product((0.05, 0.1), (0, 1))):
        one, row = run(f"local.lr={lr}", f"seed={seed}"), points.get_group(g).iloc[-1]
        error = (sweep.x[9 * g : 9 * (g + 1)] - one.x).abs().max() / one.x.abs().max()
        assert float(error) <= LINEAR
        assert row["loss_mean"] == pytest.approx(one.metrics["loss_mean"].iloc[-1], rel=LINEAR)


def test_scores_are_of_whole_models_unless_forward_says_otherwise():
    result = run("run.until=1")
    features = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    module = result.model(2)
    ours = result.stack.score(result.x[2], features, stacked=False)
    assert torch.equal(ours, module.eval()(features))
    assert not torch.equal(ours, result.stack.call(result.x[2], features))
    with pytest.warns(UserWarning, match="task.model draws dropout in evaluation mode too"):
        always = run("task.model.args={p: 0.3, always: true}", "run.until=1")
    assert torch.equal(always.x, result.x)
    assert not always.metrics["loss_mean"].equals(result.metrics["loss_mean"])


def test_masks_make_a_difference_and_seeds_make_others():
    results = [
        run("run.until=2", *more) for more in ([], ["seed=1"], ["task.model.args.p=0"], ["task.model.args.p=0.31"])
    ]
    assert all(not torch.equal(a.x, b.x) for a, b in itertools.combinations(results, 2))
    assert torch.equal(results[0].x, run("run.until=2").x)


@pytest.mark.parametrize("options", [[], ["executor=serial"], ["local.epochs=1", "local.momentum=0.5"]], ids=" ".join)
def test_a_halted_run_with_dropout_is_bit_for_bit_the_same(options, tmp_path):
    options = [*OPTIONS, *options, "run.checkpoint_every.time=0.5", "run.window=0.7"]
    train(BASE, *options, out=tmp_path / "whole")
    part = train(BASE, *options, out=tmp_path / "parts", stop=after(3))
    assert part.summary["status"] == "interrupted"
    while part.summary["status"] == "interrupted":
        part = resume(tmp_path / "parts", stop=after(8))
    same_files(tmp_path / "whole", tmp_path / "parts")
