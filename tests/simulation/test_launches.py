"""Few launches: what the host asks of a device for an update wave and a gossip phase, as pretended devices count."""

from collections import Counter

import pytest
import torch

from batchednodes import train
from batchednodes.algorithms.waves import Waves
from batchednodes.data import minibatches_cuda
from batchednodes.numerics.cuda_graphs import CudaGraphs
from batchednodes.simulation.planning import memory_plan

pytest.importorskip("triton", reason="Triton has no build for this platform")

MLP = {
    "run": {"until": 1.0, "mark_every": 1.0},
    "network": {"nodes": 9},  # of more nodes and larger models each launch does more, and there are as many
    "task": {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [4]}},
    "gossip": {"clock": {"rate": 3.0}},
}


@pytest.fixture
def visits(machine, monkeypatch):
    """Counts waves of updates and phases of gossip, and lets what is noted of devices say where the host is."""
    if machine is None:
        pytest.skip("a real device does not say what it was asked")
    found = Counter()

    def within(owner, name, place):
        plain = getattr(owner, name)

        def call(*arguments):
            before, machine.place = machine.place, place
            found[place] += 1
            try:
                return plain(*arguments)
            finally:
                machine.place = before

        monkeypatch.setattr(owner, name, call)

    within(Waves, "update_", "update")
    within(Waves, "mix_", "gossip")
    within(CudaGraphs, "_graph", "graph")
    return found


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("options", "update", "gossip", "graph"),
    [((), 6, 4, 26), (("local.momentum=0.9", "gossip.exchange=meet", "staleness.track=none"), 9, 1, 39)],
    ids=["tracked", "momentum, untracked"],
)
def test_an_update_wave_takes_ten_launches_at_most_and_a_gossip_phase_six(
    options, update, gossip, graph, machine, visits, monkeypatch
):
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)  # as in a long run: of CUDA graphs
    train(MLP, *options, "device=cuda")
    asked = Counter()
    for (place, _), count in machine.launches.items():
        asked[place] += count
    assert asked["update"] == update * visits["update"] > 0
    assert asked["gossip"] == gossip * visits["gossip"] > 0
    assert machine.replayed["update"] == graph * visits["update"]


@pytest.mark.cuda
def test_minibatches_that_the_device_draws_are_those_of_the_host_and_nothing_waits(machine, visits, monkeypatch):
    host = train(MLP, "local.batch_size=4", "device=cuda")
    monkeypatch.setattr(minibatches_cuda, "NODES", 1)
    found = train(MLP, "local.batch_size=4", "device=cuda")
    assert 2 * machine.launches["update", "_draw"] == visits["update"]
    assert torch.equal(found.x, host.x)
    assert not [key for key in (*machine.waits, *machine.pageable) if key[0] == "update"]
