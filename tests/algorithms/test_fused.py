"""Contacts in one compiled loop: the same as one event at a time, for whatever a tape can hold."""

from dataclasses import dataclass, replace

import pytest
import torch

from batchednodes import config
from batchednodes.algorithms.base import Algorithm, Field, Rows
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning.plan import plan

PUSHES, PULLS, MEETINGS = ({"gossip.exchange": exchange} for exchange in ("push", "pull", "meet"))
CASES = [
    ("acid", MEETINGS),
    ("noloco", MEETINGS),
    ("divshare", PUSHES),
    ("divshare", MEETINGS),
    ("swift", PULLS),
    ("r_fast", MEETINGS),
    ("admm", PUSHES),
]


def ended(options, executor="batched"):
    """Returns rows at the end of a run whose contacts are fused where they can be, and whether they were."""
    base = {
        "dtype": "float64",
        "network": {"nodes": 7, "topology": {"kind": "ring"}},
        "task": {"data": {"features": 3, "samples_per_node": 4}, "model": {"init": "independent"}},
        "local": {"batch_size": 2, "lr": 0.05} | ({"compile": "off"} if executor == "batched" else {}),
        "gossip": {"clock": {"rate": 3}},
        "run": {"until": 4.0},
        "executor": executor,
    }
    settings = config.load(base, [options])
    events = assembly.timeline([settings])
    chunks = replace(plan([settings], events).chunks, traced=True)
    run = assembly.assemble([settings], events, chunks)
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    return run.state.tensors(), run.engine.executor.algorithm.rowwise.fused


@pytest.mark.parametrize(("kind", "exchange"), CASES, ids=lambda value: str(value).strip("{}"))
def test_contacts_in_one_loop_are_those_of_one_event_at_a_time(kind, exchange):
    options = {"algorithm": {"kind": kind}} | exchange
    fused, found = ended(options)
    alone, none = ended(options, "serial")
    assert list(found) == [exchange["gossip.exchange"] == "meet"]
    assert not none
    for name, rows in fused.items():
        torch.testing.assert_close(rows, alone[name], rtol=1e-12, atol=1e-12, msg=name)  # sums in another order


@dataclass(frozen=True)
class Swapped(Algorithm):
    """Two fields that change places, where what is written first must not be what is read."""

    fields = {"a": Field(start="model"), "b": Field()}

    def absorb_(self, r: Rows, mixed: Rows, k) -> None:
        r["a"], r["b"], r["x"] = r["b"], r["a"], mixed["x"]


@dataclass(frozen=True)
class Sorted(Swapped):
    """What no tape can hold."""

    def absorb_(self, r: Rows, mixed: Rows, k) -> None:
        r["a"] = mixed["x"].sort(dim=1).values


@pytest.mark.parametrize(("kind", "fuses"), [(Swapped, True), (Sorted, False)])
def test_what_is_written_is_read_before_and_what_no_tape_holds_goes_wave_by_wave(kind, fuses):
    options = {"algorithm": {"kind": "python", "target": f"{__name__}:{kind.__name__}"}} | PUSHES
    waves, found = ended(options)
    alone, _ = ended(options, "serial")
    assert bool(found) == fuses
    for name, rows in waves.items():
        torch.testing.assert_close(rows, alone[name], rtol=1e-12, atol=1e-12, msg=name)
