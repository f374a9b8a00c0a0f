"""Contacts and updates in one compiled loop: the same as one event at a time, for whatever a tape can hold."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from batchednodes import config, train
from batchednodes.algorithms.base import Algorithm, Field, Rows
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning.plan import plan

PUSHES, PULLS, MEETINGS = ({"gossip.exchange": exchange} for exchange in ("push", "pull", "meet"))
CASES = [  # and whether contacts and updates fuse
    ("acid", MEETINGS, True, True),
    ("noloco", MEETINGS, True, False),  # an update is local SGD
    ("divshare", PUSHES, True, True),
    ("divshare", MEETINGS, True, True),
    ("swift", PULLS, True, False),  # an update sees what lies on edges
    ("r_fast", MEETINGS, True, False),
    ("admm", PUSHES, True, False),
    ("gradient_tracking", MEETINGS, False, True),  # contacts are products with W
    ("quasi_global", PUSHES, False, True),
]


def ended(options, executor="batched"):
    """Returns rows at the end of a run that is fused where it can be, and the algorithm on rows."""
    base = {
        "dtype": "float64",
        "network": {"nodes": 7, "topology": {"kind": "ring"}},
        "task": {"data": {"features": 3, "samples_per_node": 4}, "model": {"init": "independent"}},
        "local": {"batch_size": 2, "lr": 0.05},
        "gossip": {"clock": {"rate": 3}},
        "run": {"until": 4.0},
        "executor": executor,
    }
    settings = config.load(base, [options])
    events = assembly.timeline([settings])
    chunks = replace(plan([settings], events).chunks, traced=True)
    run = assembly.assemble([settings], events, chunks)
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    return run.state.tensors(), run.engine.executor.algorithm.rowwise


@pytest.mark.parametrize(("kind", "exchange", "contacts", "updates"), CASES)
def test_what_is_in_one_loop_is_as_one_event_at_a_time(kind, exchange, contacts, updates):
    options = {"algorithm": {"kind": kind}} | exchange
    fused, rowwise = ended(options)
    alone, plain = ended(options, "serial")
    assert [*rowwise.fused] == [exchange == MEETINGS] * contacts
    assert bool(rowwise.fused_update) == updates
    assert not plain.fused
    assert not plain.fused_update
    for name, rows in fused.items():
        torch.testing.assert_close(rows, alone[name], rtol=1e-12, atol=1e-12, msg=name)  # sums in another order


@dataclass(frozen=True)
class Swapped(Algorithm):
    """Two fields that change places, where what is written first must not be what is read."""

    fields: ClassVar[dict[str, Field]] = {"a": Field(start="model"), "b": Field()}

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
    waves, rowwise = ended(options)
    alone, _ = ended(options, "serial")
    assert bool(rowwise.fused) == fuses
    for name, rows in waves.items():
        torch.testing.assert_close(rows, alone[name], rtol=1e-12, atol=1e-12, msg=name)


@dataclass(frozen=True)
class Replacing(Algorithm):
    """Counts updates in its model, by new tensors."""

    fields: ClassVar[dict[str, Field]] = {"m": Field(width=1)}

    def update_(self, r: Rows, k) -> None:
        r["m"] = r["m"] + 1
        r["x"] = k.descend(r["x"]) + r["m"]


@dataclass(frozen=True)
class Writing(Replacing):
    """The same, written into what it is given."""

    def update_(self, r: Rows, k) -> None:
        r["m"] += 1
        r["x"] = k.descend(r["x"]) + r["m"]


def test_what_a_method_writes_into_its_rows_is_kept():
    small = {"network.nodes": 4, "run.until": 4}
    replaced, written = (train(small, {"algorithm": kind()}).x for kind in (Replacing, Writing))
    assert torch.equal(replaced, written)
