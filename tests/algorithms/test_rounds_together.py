"""Rounds of small networks that lie side by side, mixed by one product: the bits of each alone."""

import numpy as np
import pytest
import scipy
import torch

import batchednodes
from batchednodes.algorithms.mixing import rounds
from batchednodes.algorithms.mixing.rounds import RoundMatrices, RoundMatrix
from batchednodes.numerics.torch_modes import own as modes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_runs_have_it():
    with modes():
        yield


def graphs(sizes, dtype):
    """Returns networks side by side, each with a random W whose numbers lie in no order, and their rows."""
    draws, first, parts = np.random.default_rng(0), 0, []
    for n in sizes:
        of = draws.integers(1, n + 1, n)
        columns = np.concatenate([draws.permutation(n)[:k] for k in of])
        begins = np.concatenate([[0], np.cumsum(of)])
        w = scipy.sparse.csr_array((draws.random(columns.size), columns, begins), shape=(n, n))
        parts.append((slice(first, first + n), RoundMatrix(w, CPU, dtype), 3))
        first += n
    return parts, first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [1, 7, 10, 33])
def test_each_row_has_the_bits_that_its_network_alone_gives_it(p, dtype):
    parts, n = graphs((3, 32, 5, 17, 1, 60), dtype)
    x = torch.randn(n, p, dtype=dtype, generator=torch.Generator().manual_seed(0))
    [(nodes, joined, k)] = RoundMatrices((), CPU, dtype).together(parts, p)
    assert (nodes, k) == (slice(0, n), 3)
    assert torch.equal(joined.times(x), torch.cat([matrix.times(x[own]) for own, matrix, _ in parts]))


def test_large_networks_means_other_rounds_and_those_with_others_between_stay_apart(monkeypatch):
    monkeypatch.setattr(rounds, "_TOGETHER", 120)
    parts, n = graphs((6, 4, 60, 5, 3), torch.float64)
    parts[3] = parts[3][0], RoundMatrix(None, CPU, torch.float64), 3
    parts += [(slice(own.start + n + 10, own.stop + n + 10), matrix, 3) for own, matrix, _ in parts[:2]]
    parts += [(slice(own.start + n + 20, own.stop + n + 20), matrix, 4) for own, matrix, _ in parts[:2]]
    made = RoundMatrices((), CPU, torch.float64)
    found = [(nodes.start, nodes.stop) for nodes, _, _ in made.together(parts, 1)]
    assert found == [(0, 10), (10, 70), (70, 75), (75, 78), (88, 98), (98, 108)]
    again = [matrix for _, matrix, _ in made.together(parts, 1)]
    assert all(one is other for one, (_, other, _) in zip(again, made.together(parts, 1), strict=True))
    assert [nodes.stop for nodes, _, _ in made.together(parts, 20)][:2] == [6, 10]  # wide rows
    monkeypatch.setattr(rounds, "_KEPT", 1)
    made = RoundMatrices((), CPU, torch.float64)
    assert len([*made.together(parts, 1)]) == 6
    assert len(made._joined) == 1  # those of graphs that change do not add up


@pytest.mark.parametrize(
    ("algorithm", "weights", "kinds"),
    [
        ("d_psgd", "uniform", ("ring", "ring", "one_peer_exponential", "complete", "ring", "one_peer_exponential")),
        ("d_psgd", "metropolis_hastings", ("star", "chain", "ring", "star")),
        ("pens", "uniform", ("complete", "complete")),
        ("d2", "metropolis_hastings", ("star", "chain", "ring")),
        ("relay_sgd", "uniform", ("chain", "star", "chain")),
        ("lt_admm", "uniform", ("ring", "complete", "star")),
        ("atg", "uniform", ("ring", "star", "chain")),
        ("aug_dgm", "metropolis_hastings", ("ring", "star")),
        ("gossip_sgd", "metropolis_hastings", ("star", "ring")),
    ],
)
def test_networks_of_a_batch_are_what_each_is_alone(algorithm, weights, kinds):
    """Graphs that stay or change, a mean between them, and an algorithm that asks; versions are those of each graph."""
    base = {
        "timing.kind": "synchronous", "algorithm.kind": algorithm, "run": {"until": 6, "mark_every": 3},
        "network": {"nodes": 6, "topology": {"kind": kinds[0]}, "weights": {"kind": weights}},
        "task.data": {"kind": "quadratics"}, "local.lr": 0.1,
    }  # fmt: skip
    together = batchednodes.train(base | {"sweep": {"network.topology": [{"kind": kind} for kind in kinds]}})
    for g, kind in enumerate(kinds):
        alone = batchednodes.train(base | {"network.topology.kind": kind})
        own = slice(6 * g, 6 * g + 6)
        assert torch.equal(together.x[own], alone.x)
        assert torch.equal(together.versions[own], alone.versions)
