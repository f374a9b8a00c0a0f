"""What ranks say to each other by the plan's formula, what each holds, and what that costs by a model of machines."""

import json
import runpy
from pathlib import Path

import pytest

from batchednodes import load
from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.over_ranks import sent_by_contacts, sent_by_update
from batchednodes.config import sweep
from batchednodes.numerics.ranks import Ranks
from batchednodes.simulation import setup
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.memory_plan import MemoryBudget
from batchednodes.simulation.planning.plan import plan
from batchednodes.simulation.planning.preflight import prepare
from batchednodes.simulation.planning.speed_up import Load, Machine, seconds, speed_up
from batchednodes.simulation.planning.traffic import Sample, traffic

ROW = 128
"""Numbers of a row: 32 columns of each of four ranks."""


def need(ranks, **settings):
    return MemoryBudget([load({"network.nodes": 64, **settings})], ROW, [], ranks=ranks)


def test_formula_of_updates_over_ranks_is_what_they_send():
    cuts = [Cut(Ranks(rank, 4), {"x": ROW}) for rank in range(4)]
    mean = sum(sent_by_update(cut, 40, {"x": 4}) for cut in cuts) / 4
    said = traffic(need(4), Sample(0.1, 5, 40, 1 / 40, 0.1), updates=40.0, contacts=7.0)
    assert said.bytes == pytest.approx(mean, rel=1e-12)
    assert said.exchanges == 2.0  # mixing by products exchanges nothing


def test_formula_of_contacts_over_ranks_is_what_they_send():
    budget = need(4, **{"algorithm.kind": "acid", "gossip.exchange": "meet"})
    row = ROW * 4 + sum(one.size(ROW, 4) for one in budget.declared.values() if one.seen or one.mixed)
    cuts = [Cut(Ranks(rank, 4), {"x": row // 4}) for rank in range(4)]
    mean = sum(sent_by_contacts(cut, 16, {"x": 4}, pairs=True, both=False) for cut in cuts) / 4
    said = traffic(budget, Sample(0.1, 8, 8, 1 / 8, 1 / 8), updates=0.0, contacts=8.0)
    assert said.bytes == pytest.approx(mean, rel=0.05)  # columns of ranks are a few more or fewer than the mean
    assert said.exchanges == 2.0


def test_ranks_hold_less_each_and_their_plans_are_of_whole_networks_or_columns():
    settings = load({"network.nodes": 40, "replicas": 3, "run": {"until": 2, "mark_every": 1}})
    made = prepare(sweep.points(settings))
    events = assembly.timeline(made.configs)
    alone = plan(made.configs, events, made.sizes)
    shares = setup.plans(made, events, 2)
    assert sorted(one.networks for one in shares) == [1, 2]
    assert all(one.ranks == 1 and one.traffic is None for one in shares)
    assert sum(one.memory["models"] for one in shares) == alone.memory["models"]
    (first, *_) = four = setup.plans(made, events, 4)
    assert [one.ranks for one in four] == [2, 1, 1]
    assert first.memory["models"] == four[1].memory["models"] // 2
    assert first.memory["rows of waves between ranks"] > 0
    assert first.traffic is not None
    assert first.traffic.bytes > 0


def test_speed_up_over_ranks_is_theirs_where_nothing_is_said_and_bounded_by_the_host():
    machine = Machine(1e12, 1e12, 1e11, 1e10, 8, 0.0, 0.0, event=0.0)
    free = Load(nodes=10_000, bytes=0.0, flops=1e9, touched=0.0, contacts=0.0)
    assert speed_up(free, machine, 8) == pytest.approx(8)
    assert (
        speed_up(Load(8, 0.0, 1e9, 0.0, 0.0, waves=1.0, fill=8.0), machine, 8) == 1
    )  # a device is busy with eight rows
    far = Load(nodes=10_000, bytes=1e6, flops=1e6, touched=0.0, contacts=0.0)
    assert seconds(far, machine, 16) > seconds(far, machine, 8)
    slow = Machine(1e12, 1e12, 1e11, 1e10, 8, 0.0, 0.0, event=1e-3, threads=2)
    light = Load(nodes=10_000, bytes=0.0, flops=1e6, touched=0.0, contacts=0.0)
    assert seconds(light, slow, 4) == pytest.approx(10_000 * 1e-3 / 8)


def test_calculated_speed_up_is_at_most_half_more_than_what_was_measured_on_ranks_of_two_cores():
    tests = Path(__file__).parents[1]
    calculated = runpy.run_path(str(tests.parent / "tools" / "ranks.py"))["calculated"]
    kept = json.loads((tests / "references" / "ranks.json").read_text())  # by tools/ranks.py --measure
    assert {(run["steps"], run["ranks"]) for run in kept["runs"]} == {(2, 2), (2, 4), (40, 2), (40, 4)}
    for run in kept["runs"]:
        found = calculated(run["alone"], kept["links"][str(run["ranks"])], run["ranks"], kept["cores"])
        assert found == pytest.approx(run["calculated"], rel=1e-12)
        assert found / 1.5 < run["measured"] < found * 1.05  # ranks wait for each other's host threads, too
