from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from batchednodes.data import Geometric, Sampler
from batchednodes.numerics import rng

SAMPLINGS = ["shuffle", "replacement"]


def sampler(sampling="shuffle", sizes=(5, 1, 12, 3), batch_size=4, steps=2, seeds=None, local=None, epochs=None):
    n = len(sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    seeds = np.full(n, 7, dtype=np.uint64) if seeds is None else np.array(seeds, dtype=np.uint64)
    local = np.arange(n) if local is None else np.array(local)
    steps = steps if epochs is None else 1
    return Sampler(seeds, local, 100 + np.arange(offsets[-1])[::-1], offsets, batch_size, steps, sampling, epochs)


def one(s, node, count):
    return s.draw(np.array([node]), np.array([count]))[0]


def word(seed, node, q):
    return np.uint64(rng.block(np.uint64(seed), rng.BATCH, node, q // 2)[q % 2])


def slow(s, node, q):
    """Returns the row at position q of a node's stream, from the definition."""
    seed, local = int(s.seeds[node]), int(s.index[node])
    own = s.rows[s.offsets[node] : s.offsets[node + 1]]
    m = len(own)
    if s.sampling == "replacement":
        return own[rng.below(word(seed, local, q), m)]
    order = list(range(m))
    for r in range(m):
        j = r + rng.below(word(seed, local, q // m * m + r), m - r)
        order[r], order[j] = order[j], order[r]
    return own[order[q % m]]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("batch_size", "steps"), [(4, 2), (1, 1), (3, 1), (7, 5)])
def test_draws_are_those_of_the_definition(sampling, batch_size, steps):
    s = sampler(sampling, batch_size=batch_size, steps=steps, seeds=[7, 7, 2**63 + 1, 9], local=[0, 1, 0, 2**32 - 1])
    for node in range(4):
        for count in (0, 1, 2, 5, 1000):
            drawn = one(s, node, count)
            assert drawn.shape == (steps, batch_size)
            first = count * steps * batch_size
            assert list(drawn.ravel()) == [slow(s, node, first + k) for k in range(steps * batch_size)]


def by_law(sampling, mean=3.0, most=None, **more):
    """Returns a sampler whose updates have geometric numbers of steps."""
    law = Geometric(mean, most).cumulated()
    return replace(sampler(sampling, steps=law.size, **more), steps_law=law)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_updates_draw_their_steps_and_go_on_in_the_stream(sampling):
    s = by_law(sampling, batch_size=3, seeds=[7, 7, 2**63 + 1, 9], local=[0, 1, 0, 2**32 - 1])
    assert s.steps_law is not None
    law = np.diff(s.steps_law, prepend=0.0)
    for node in range(4):
        first = 0
        for count in range(40):
            u = rng.unit(np.uint64(rng.block(s.seeds[node], rng.STEPS, s.index[node], count)[0]))
            steps = next(h for h in range(1, len(law) + 1) if law[:h].sum() > u)
            drawn = one(s, node, count)
            assert drawn.shape == (60, 3)
            assert list(drawn[:steps].ravel()) == [slow(s, node, first + k) for k in range(3 * steps)]
            assert (drawn[steps:] == -1).all()
            first += 3 * steps


@pytest.mark.parametrize(("mean", "most"), [(1.0, None), (2.5, None), (6.0, 4)])
def test_numbers_of_steps_have_their_law(mean, most):
    s = by_law("replacement", mean, most, sizes=(2,), batch_size=1)
    steps = (s.draw(np.zeros(20_000, np.int64), np.arange(20_000)) >= 0).sum((1, 2))
    p = Geometric(mean, most).probabilities()
    expected = (p * np.arange(1, p.size + 1)).sum()
    spread = ((p * (np.arange(1, p.size + 1) - expected) ** 2).sum() / 20_000) ** 0.5
    assert abs(steps.mean() - expected) <= 4 * spread  # a false alarm in 16,000 seeds
    assert abs((steps == 1).mean() - p[0]) <= 4 * (p[0] * (1 - p[0]) / 20_000) ** 0.5
    assert (s.shape, s.uneven) == ((p.size, 1), True)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("sampler", [sampler, by_law])
def test_draws_do_not_depend_on_the_calls_before(sampler, sampling):
    g = np.random.default_rng(0)
    nodes, counts = g.integers(0, 4, 200), g.integers(0, 30, 200)  # nodes repeat, with different counts
    together = sampler(sampling).draw(nodes, counts)
    kept = sampler(sampling)
    assert np.array_equal(
        together, np.stack([one(sampler(sampling), i, c) for i, c in zip(nodes, counts, strict=True)])
    )
    order = g.permutation(200)
    assert np.array_equal(kept.draw(nodes[order], counts[order]), together[order])
    assert np.array_equal(kept.draw(nodes, counts), together)


def test_draws_do_not_depend_on_the_other_networks():
    alone = sampler(sizes=(5, 8), seeds=[3, 3], local=[0, 1])
    batch = sampler(sizes=(4, 9, 5, 8), seeds=[2, 2, 3, 3], local=[0, 1, 0, 1])
    for i in range(2):
        own, again = alone.offsets[i], batch.offsets[2 + i]
        places = alone.rows[own] - one(alone, i, 6)  # rows count down
        assert np.array_equal(places, batch.rows[again] - one(batch, 2 + i, 6))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_seeds_and_nodes_draw_differently(sampling):
    s = sampler(sampling, sizes=(64,) * 3, batch_size=16, seeds=[1, 2, 1], local=[0, 0, 1])
    drawn = s.draw(np.arange(3), np.zeros(3, dtype=np.int64)) - s.offsets[2:-5:-1][:3, None, None]
    places = [tuple(d.ravel()) for d in drawn]
    assert len(set(places)) == 3


@pytest.mark.parametrize(("m", "batch_size"), [(6, 4), (4, 6), (1, 3), (7, 7)])
def test_each_epoch_is_a_permutation(m, batch_size):
    s = sampler(sizes=(2, m), batch_size=batch_size, steps=3)
    stream = np.concatenate([one(s, 1, count).ravel() for count in range(4 * m)])
    assert len(stream) % m == 0
    epochs = stream.reshape(-1, m)
    assert np.array_equal(np.sort(epochs), np.tile(np.sort(s.rows[2:]), (len(epochs), 1)))
    if m > 1:
        assert len({tuple(epoch) for epoch in epochs}) > 1


def minibatches(s, node, count):
    """Returns the minibatches of an update as lists, without the places that are not taken."""
    drawn = one(s, node, count)
    cut = [list(rows[rows >= 0]) for rows in drawn]
    assert all((rows[len(some) :] == -1).all() for some, rows in zip(cut, drawn, strict=True))  # -1 only at the end
    assert all(cut[: s.steps_of[node]])
    assert not any(cut[s.steps_of[node] :])
    return cut[: s.steps_of[node]]


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_each_pass_deals_each_row_once_in_minibatches_of_which_the_last_is_what_is_left(epochs, batch_size):
    s = sampler(batch_size=batch_size, epochs=epochs, seeds=[7, 7, 2**63 + 1, 9], local=[0, 1, 0, 2**32 - 1])
    for node in range(4):
        own = s.rows[s.offsets[node] : s.offsets[node + 1]]
        m, seen = len(own), []
        for count in (0, 1, 5):
            found = minibatches(s, node, count)
            a_pass = [min(batch_size, m - first) for first in range(0, m, batch_size)]
            assert [len(some) for some in found] == epochs * a_pass
            passes = np.concatenate(found).reshape(epochs, m)
            assert (np.sort(passes) == np.sort(own)).all()
            first = count * epochs * m
            assert [slow(s, node, first + k) for k in range(epochs * m)] == list(passes.ravel())
            seen += [tuple(order) for order in passes]
        assert m < 12 or len(set(seen)) == len(seen)  # 12! orders; nine of them are equal once in 10^7 seeds


@pytest.mark.parametrize(
    ("sizes", "batch_size", "epochs", "shape", "padded", "uneven"),
    [
        ((8, 8), 4, None, (2, 4), False, False),
        ((8, 5), 4, None, (2, 4), False, False),
        ((8, 8), 4, 3, (6, 4), False, False),
        ((3, 3), 4, 2, (2, 3), False, False),
        ((3, 4), 4, 2, (2, 4), True, False),
        ((5, 5), 4, 1, (2, 4), True, False),
        ((5, 1), 4, 2, (4, 4), True, True),
        ((8, 4), 4, 1, (2, 4), True, True),
    ],
)
def test_minibatches_are_padded_only_where_they_differ(sizes, batch_size, epochs, shape, padded, uneven):
    s = sampler(sizes=sizes, batch_size=batch_size, epochs=epochs)
    drawn = s.draw(np.arange(2), np.zeros(2, dtype=np.int64))
    assert (s.shape, s.padded, s.uneven) == (shape, padded, uneven) == (drawn.shape[1:], padded, uneven)
    assert (drawn.min() < 0) == padded
    assert list(s.steps_of) == list((drawn[:, :, 0] >= 0).sum(1))


def test_passes_do_not_depend_on_the_calls_before():
    g = np.random.default_rng(0)
    nodes, counts = g.integers(0, 4, 200), g.integers(0, 30, 200)
    kept = sampler(epochs=2)
    together = kept.draw(nodes, counts)
    alone = [one(sampler(epochs=2), i, c) for i, c in zip(nodes, counts, strict=True)]
    assert np.array_equal(together, np.stack(alone))
    order, out = g.permutation(200), np.full_like(together, 7)
    assert kept.draw(nodes[order], counts[order], out) is out
    assert np.array_equal(out, together[order])


def test_shuffled_places_are_uniform_and_independent_of_the_next_epoch():
    m, nodes = 6, 30_000
    s = sampler(sizes=(m,) * nodes, batch_size=2 * m, steps=1)
    drawn = s.draw(np.arange(nodes), np.zeros(nodes, dtype=np.int64))[:, 0] - s.rows[s.offsets[1:] - 1][:, None]
    first, second = drawn[:, :m], drawn[:, m:]
    for place in range(m):
        chi_square(np.bincount(first[:, place], minlength=m), 5.5)
    chi_square(
        np.bincount(first[:, 0] * m + first[:, 1])[[a * m + b for a in range(m) for b in range(m) if a != b]], 5.5
    )
    chi_square(np.bincount(first[:, 0] * m + second[:, 0], minlength=m * m), 5.5)
    chi_square(np.bincount(first[:, -1] * m + second[:, 0], minlength=m * m), 5.5)


def test_draws_with_replacement_are_uniform_and_independent():
    m, nodes = 6, 10_000
    s = sampler("replacement", sizes=(m,) * nodes, batch_size=5, steps=1)
    drawn = s.draw(np.arange(nodes), np.full(nodes, 3))[:, 0] - s.rows[s.offsets[1:] - 1][:, None]
    chi_square(np.bincount(drawn.ravel(), minlength=m), 5.5)
    for b in range(4):
        chi_square(np.bincount(drawn[:, b] * m + drawn[:, b + 1], minlength=m * m), 5.5)


def chi_square(counts, bound):
    """Fails where counts are not uniform: with k - 1 degrees of freedom, by the Wilson-Hilferty cube root.

    A bound of 5.5 standard deviations is a false alarm of about 2e-8 for each of the counts compared.
    """
    k = len(counts) - 1
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    z = ((statistic / k) ** (1 / 3) - (1 - 2 / (9 * k))) / np.sqrt(2 / (9 * k))
    assert z < bound


def test_no_nodes_draw_nothing():
    none = np.zeros(0, dtype=np.int64)
    assert sampler().draw(none, none).shape == (0, 2, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": (3, 0, 2)}, "no empty shard"),
        ({"batch_size": 0}, "a batch holds samples"),
        ({"steps": 0}, "an update takes steps"),
        ({"sampling": "sorted"}, "sorted"),
        ({"epochs": 0}, "whole epochs in place of steps"),
        ({"epochs": 1, "sampling": "replacement"}, "an epoch deals each row once"),
        ({"local": [0, 1]}, "one seed, index and shard|index"),  # the second where signatures are checked
    ],
)
def test_our_own_mistakes_are_noticed(change, words):
    with pytest.raises(Exception, match=words):
        sampler(**change)


@pytest.mark.parametrize(("node", "count"), [(4, 0), (-1, 0), (0, -1)])
def test_nodes_and_counts_out_of_range(node, count):
    with pytest.raises(AssertionError):
        one(sampler(), node, count)


def test_threads_may_draw_from_one_sampler():
    shared, alone = (sampler(sizes=[50] * 40, batch_size=16) for _ in range(2))
    nodes, rounds = np.arange(40), [np.full(40, count % 7) for count in range(400)]
    wanted = [alone.draw(nodes, counts) for counts in rounds]
    with ThreadPoolExecutor(4) as pool:
        for got, drawn in zip(pool.map(lambda counts: shared.draw(nodes, counts), rounds), wanted, strict=True):
            assert (got == drawn).all()
