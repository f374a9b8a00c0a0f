"""Merge rules for whole neighbourhoods: many rows at once equal one node after the other, and attackers do little."""

import pytest
import torch

from batchednodes.algorithms.attacks import Alie, Dissensus, Ipm
from batchednodes.events.merge import ClippedGossip, GeometricMedian, Krum, Median, TrimmedMean

RULES = {
    "clipped": ClippedGossip(tau=1.5),
    "clipped, adaptive": ClippedGossip(),
    "clipped, oracle": ClippedGossip(tau="oracle"),
    "trimmed mean": TrimmedMean(trim=2),
    "trimmed mean, oracle": TrimmedMean(trim="oracle"),
    "trimmed mean, copies": TrimmedMean(trim=7, copies=100),
    "trimmed mean, oracle, copies": TrimmedMean(trim="oracle", copies=100),
    "median": Median(),
    "median, copies": Median(copies=100),
    "geometric median": GeometricMedian(),
    "krum": Krum(),
    "multi-krum": Krum(attackers=0, m=3),
}
W, D, P = 40, 6, 5


def neighbourhoods(seed=0):
    """Returns rows of nodes of 0 to 6 neighbours each, some of which attack, and how many each has."""
    draw = torch.Generator().manual_seed(seed)
    own, others = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((W, P), (W, D, P)))
    degree = torch.arange(W) % (D + 1)
    here = torch.arange(D) < degree.unsqueeze(1)
    weights = torch.where(here, torch.rand(W, D, generator=draw, dtype=torch.float64) / D, 0)
    attackers = here & (torch.rand(W, D, generator=draw) < 0.3)
    return (own, others, weights, here, attackers), degree.tolist()


@pytest.mark.parametrize("rule", RULES)
def test_many_rows_at_once_equal_one_node_after_the_other(rule):
    (own, others, weights, here, attackers), degree = neighbourhoods()
    found = RULES[rule].gather(own, others, weights, here, attackers)
    for i, d in enumerate(degree):
        alone = RULES[rule].alone(own[i], others[i, :d], weights[i, :d], attackers[i, :d])
        torch.testing.assert_close(found[i], alone, rtol=1e-12, atol=1e-12)  # order of sums


@pytest.mark.parametrize("rule", RULES)
def test_what_is_no_neighbour_and_how_many_such_there_are_change_nothing(rule):
    (own, others, weights, here, attackers), _ = neighbourhoods()
    found = RULES[rule].gather(own, others, weights, here, attackers)
    other = torch.where(here.unsqueeze(2), others, 1e9)
    more = [torch.cat([t, torch.zeros_like(t[:, :2])], 1) for t in (other, weights, here, attackers)]
    torch.testing.assert_close(RULES[rule].gather(own, *more), found, rtol=1e-12, atol=1e-12)  # order of sums


@pytest.mark.parametrize("lie", [1e30, -1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("rule", [name for name in RULES if "copies" not in name])
def test_one_attacker_moves_no_node_far(rule, lie):
    (own, others, weights, *_), _ = neighbourhoods()
    here, attackers = torch.ones(W, D, dtype=torch.bool), torch.zeros(W, D, dtype=torch.bool)
    attackers[:, 2] = True
    others[:, 2] = lie
    found = RULES[rule].gather(own, others, weights, here, attackers)
    assert found.isfinite().all()
    assert found.abs().max() < 20  # honest numbers are below 4


def test_what_attackers_tell_is_as_in_the_papers():
    target, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[[3.0, 2.0], [2.0, 4.0], [9.0, 9.0], [7.0, 7.0]]])
    honest, attackers = torch.tensor([[True, True, False, False]]), torch.tensor([[False, False, True, False]])
    args = (target, others, torch.tensor([[0.1, 0.2, 0.25, 0.0]]), honest, attackers)
    models = torch.tensor([[1.0, 0.0], [3.0, 2.0], [2.0, 4.0]])
    assert torch.allclose(Alie([0], z=1.5).told(*args)[0], models.mean(0) - 1.5 * models.std(0))
    assert torch.allclose(Ipm([0], epsilon=0.3).told(*args)[0], -0.3 * models.mean(0))
    pulled = 0.1 * torch.tensor([2.0, 2.0]) + 0.2 * torch.tensor([1.0, 4.0])
    assert torch.allclose(Dissensus([0], epsilon=2.0).told(*args)[0], target[0] - 2 * pulled / 0.25)
