"""RelaySGD on two trees, a half of the model along each, against a plain version that knows who hears whom how late."""

import networkx
import numpy as np
import pytest
import torch
from test_algorithms import ROUNDS, made, same
from test_references import BASE, REFERENCES

from batchednodes import load, train
from batchednodes.simulation.planning import preflight
from batchednodes.topology.trees import joined, two_trees

PATH = str(REFERENCES / "quadratics_n32_d10_mu0.5_seed0_zeta1.npz")
TWO = {"network.topology.kind": "double_binary_tree", "task.data": {"kind": "quadratics", "path": PATH}}


def relayed(mode, overlap, rounds, lr=0.1):
    """Returns the models after some rounds: of node j at distance d, what it had d - 1 rounds ago (overlap: d)."""
    with np.load(PATH) as file:
        a, b = torch.from_numpy(file["A"]), torch.from_numpy(file["B"].reshape(32, 10))
    ages = []
    for edges in two_trees(32):
        distance = dict(networkx.all_pairs_shortest_path_length(networkx.from_edgelist(edges.tolist())))
        late = torch.tensor([[distance[i][j] for j in range(32)] for i in range(32)])
        ages.append(late if overlap else (late - 1).clamp(min=0))
    x, past = torch.zeros(32, 10, dtype=torch.float64), []
    start = x if mode == "model" else torch.zeros_like(x)
    for _ in range(rounds):
        g = torch.einsum("nij,ni->nj", a, torch.einsum("nij,nj->ni", a, x) - b)
        past.append(x - lr * g if mode == "model" else lr * g)
        mean = torch.empty_like(x)
        for half, late in zip((slice(0, 5), slice(5, 10)), ages, strict=True):
            for i in range(32):
                heard = [past[-1 - t][j] if t < len(past) else start[i] for j, t in enumerate(late[i].tolist())]
                mean[i, half] = torch.stack(heard).mean(0)[half]
        x = mean if mode == "model" else x - mean
    return x


@pytest.mark.parametrize(("mode", "overlap"), [("model", False), ("gradient", True)])
def test_models_are_those_of_a_plain_version(mode, overlap):
    algorithm = {"kind": "relay_sgd", "trees": 2, "mode": mode, "overlap": overlap}
    run = train(BASE, TWO, {"algorithm": algorithm, "run.until": 15})
    assert torch.allclose(run.x, relayed(mode, overlap, 15), rtol=1e-9, atol=1e-12)
    last = run.metrics.iloc[-1]
    assert int(last["gossips"]) == 15 * 4 * 31  # each edge of each tree, both ways
    assert int(last["bytes_sent"]) == 15 * 4 * 31 * (5 + 1) * 8  # a half of the model, and a count


@pytest.mark.parametrize("algorithm", ["{kind: relay_sgd, trees: 2, overlap: true}", "{kind: relay_sgd, trees: 2}"])
def test_batched_equals_serial(algorithm):
    options = (*ROUNDS, f"algorithm={algorithm}", "network.topology.kind=double_binary_tree", "local.momentum=0.5")
    batched = made(options)
    for independent in (True, False):
        same(batched, made(options, "serial", independent=independent))


@pytest.mark.parametrize("n", [1, 2, 5, 12, 33])
def test_edges_know_their_trees(n):
    i, j = np.divmod(np.arange(n * n), n)
    i, j = i[i != j], j[i != j]
    for mine, edges in zip(joined(i, j, np.full(i.size, n)), two_trees(n), strict=True):
        assert {*zip(i[mine].tolist(), j[mine].tolist(), strict=True)} == {
            pair for a, b in edges.tolist() for pair in ((a, b), (b, a))
        }
        assert n < 2 or networkx.is_tree(networkx.from_edgelist(edges.tolist()))


@pytest.mark.parametrize(("trees", "kind"), [(2, "chain"), (2, "complete"), (1, "double_binary_tree")])
def test_other_graphs_are_refused(trees, kind):
    config = load(BASE, [f"algorithm={{kind: relay_sgd, trees: {trees}}}", f"network.topology.kind={kind}"])
    with pytest.raises(ValueError, match=r"topology must be (a tree|two trees), .*kind=relay_sgd, got \d+ edges"):
        preflight.timeline([config], 1)
