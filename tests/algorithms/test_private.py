"""Private minibatch steps: clipped gradients of single examples, noise by address, and what is known of their loss."""

import math

import numpy as np
import pytest
import torch

import batchednodes
from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.private import normal
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.data import Sampler
from batchednodes.data.minibatches import largest
from batchednodes.models.losses import choose
from batchednodes.results.metrics.privacy_loss import Accountant

SMALL = {
    "network": {"nodes": 5},
    "local": {"steps": 2, "batch_size": 3, "lr": 0.3},
    "task": {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [5]}},
    "run": {"until": 3, "mark_every": 3},
}

MSE = choose("mse", None)


def views(rows):
    return {"w": rows}


def loss(parameters, features, targets, weights=None, factors=None):
    outputs = torch.tanh(features @ parameters["w"]).unsqueeze(-1)
    if weights is not None:
        return MSE.weighted(outputs, targets, weights, factors)
    return MSE.mean(outputs, targets) if factors is None else MSE.shortened(outputs, targets, factors)


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_is_the_mean_of_clipped_gradients_with_noise(padded):
    draw = torch.Generator().manual_seed(0)
    x, features, targets = (torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((3, 4), (9, 4), (9, 1)))
    examples = torch.tensor([[[0, 1, 2]], [[3, 4, -1 if padded else 5]], [[6, 7, 8]]])
    keys = torch.tensor([5, 6, 7])
    lr, clip, noise = (torch.tensor(a, dtype=torch.float64) for a in ([0.1, 0.2, 0.3], [0.1, 0.3, 9.0], [0.0, 0.5, 2]))
    rates = Hyperparameters(lr, example_clip=clip, noise=noise)
    new = x.clone()
    descent = LocalSGD.of(loss, views, rates, features, targets, padded)
    descent.run_(new, None, torch.cat([examples, keys.view(3, 1, 1)], 2), rates)
    for i in range(3):
        own = [e for e in examples[i, 0].tolist() if e >= 0]
        total = noise[i] * normal(keys[i : i + 1], 4)[0]
        for e in own:
            row = x[i].clone().requires_grad_()
            (g,) = torch.autograd.grad(loss({"w": row}, features[e : e + 1], targets[e : e + 1]), row)
            total = total + g * min(1.0, float(clip[i] / g.norm()))
        # Products of one example round otherwise than those of a minibatch.
        assert torch.allclose(new[i], x[i] - lr[i] * total / len(own), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "settings",
    [
        ["run.until=30", "run.mark_every=30", "local.weight_decay=0.01", "update.applies=delta"],
        ["local.epochs=1", "local.steps=1", "task.partition={kind: dirichlet}", "local.momentum=0.5"],
        ["local.optimizer={kind: adam}", "local.sampling=poisson", "task.model={kind: linear}"],
        ["local.sampling=replacement", "network.nodes=2"],
    ],
    ids=["tape", "padded", "adam", "replacement"],
)
def test_without_noise_and_below_the_clip_models_are_the_same_bit_for_bit(settings):
    plain, private = (
        batchednodes.train(SMALL, *settings, *more).x for more in ([], ["local.privacy={clip: 1e6, noise: 0}"])
    )
    assert torch.equal(plain, private)


def test_batched_equals_serial():
    settings = ["dtype=float64", "local.privacy={clip: [0.1, 1, 2, 3, 9], noise: [0, 1, 2, 0.5, 0.1]}"]
    more = ["local.sampling=poisson", "local.momentum=0.5", "gossip.delay={kind: exponential, mean: 0.3}"]
    batched, serial = (batchednodes.train(SMALL, *settings, *more, f"executor={e}").x for e in ("batched", "serial"))
    assert torch.allclose(batched, serial, rtol=1e-11, atol=1e-12)  # sums over examples in another order
    assert not torch.allclose(batched, batchednodes.train(SMALL, *more, "dtype=float64").x, rtol=1e-3)


def test_a_poisson_sample_takes_each_row_independently():
    sampler = Sampler(np.zeros(1, np.uint64), np.arange(1), np.arange(40), np.array([0, 40]), 8, 500, "poisson")
    drawn = sampler.draw(np.zeros(2, np.int64), np.array([3, 3]))
    assert (drawn[0] == drawn[1]).all()
    assert drawn.shape[2] == largest(40, 8) < 40
    times, sizes = np.bincount(drawn[0][drawn[0] >= 0], minlength=40), (drawn[0] >= 0).sum(1)
    deviation = math.sqrt(500 * 0.2 * 0.8)
    assert abs(times - 100).max() < 4.5 * deviation  # a false alarm in 3,000 runs, of which the seed allows one
    assert abs(sizes.var() - 40 * 0.2 * 0.8) < 4 * 6.4 * math.sqrt(2 / 500)  # not 0, as of dealt minibatches


def sampler(sampling, epochs=None, batch_size=4):
    rows = (np.arange(30), np.array([0, 10, 30]))
    return Sampler(np.zeros(2, np.uint64), np.arange(2), *rows, batch_size, 1 if epochs else 3, sampling, epochs)


def accountant(of):
    return Accountant(of, np.array([1.3, 0.0]), np.full(2, 1e-5))


def test_epsilon_is_that_of_opacus_for_the_same_steps():
    library = pytest.importorskip("opacus.accountants", reason="needs the extra dp")
    found = accountant(sampler("poisson")).epsilon(np.array([5, 0]))
    theirs = library.RDPAccountant()
    for _ in range(15):
        theirs.step(noise_multiplier=1.3, sample_rate=0.4)
    assert found[0] == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-12)
    assert found[1] == 0.0
    assert accountant(sampler("poisson")).epsilon(np.array([5, 1]))[1] == math.inf


def test_dealt_examples_are_in_as_many_mechanisms_as_epochs_have_begun():
    # 15 steps of 4: 60 places, 6 epochs of 10 and 3 of 20; a minibatch of the first reaches into the next epoch
    found = accountant(sampler("shuffle"))._mechanisms(np.array([5, 5]))
    assert [a.tolist() for a in found] == [[1.0, 1.0], [12, 3]]
    assert accountant(sampler("shuffle"))._mechanisms(np.array([4, 4]))[1].tolist() == [10, 3]  # 48 places
    assert accountant(sampler("shuffle", epochs=2))._mechanisms(np.array([5, 1]))[1].tolist() == [10, 2]
    assert accountant(sampler("poisson"))._mechanisms(np.array([5, 1]))[0].tolist() == [0.4, 0.2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["local.privacy={clip: 0}"], r"local\.privacy\.clip must be positive"),
        (["local.privacy={noise: -1}"], r"local\.privacy\.noise must be at least 0"),
        (["local.privacy={delta: 1}"], r"privacy\.delta must be in \(0, 1\)"),
        (["local.privacy={}", "local.sampling=replacement"], r"local\.sampling must be poisson or shuffle"),
        (["local.privacy={}", "dtype=bfloat16"], r"dtype must be float32 or float64"),
        (["local.privacy={}", "algorithm.kind=quasi_global", "timing.kind=synchronous"], "asks gradients at points"),
        (["local.privacy={}", "algorithm.kind=pens", "timing.kind=synchronous"], "whose nodes choose by losses"),
        (["local.privacy={}", "task.augment=[{kind: mixup}]"], r"task\.augment must be without mixup"),
        (["local.sampling=poisson", "local.batch_size=999"], r"local\.batch_size must be at most the examples"),
        (["local.sampling=poisson", "local.steps={kind: geometric, mean: 2}"], r"local\.steps must be a number"),
    ],
)
def test_what_is_wrong_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        batchednodes.train(SMALL, *settings)
