"""Files of state: what is read is what was written, and damage is named."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.state import begin
from batchednodes.algorithms.versions import Layout
from batchednodes.events.messages.records import check, opened
from batchednodes.events.timeline import Clocks
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.header import DamageError
from batchednodes.results.checkpoints.journal import RunJournal
from batchednodes.results.folder.inside import Inside

CPU = torch.device("cpu")
JOURNAL = RunJournal(
    {"name": "a", "run": {"until": 2.0}},
    status="interrupted",
    events=7,
    marks=3,
    done=2,
    end=0.5,
    metrics=(10, "ab" * 32),
    chunks={"update": 1, "evaluate": 2},
    curves=(0.1, 0.2, 2),
    devices=("cpu",),
    resumed=({"time": 0.1, "device": "cpu"},),
)


def example(sizes=(3,), widths=(2,)):
    layout = Layout.of(sizes, widths, CPU)
    versions = torch.arange(layout.numbers, dtype=torch.int32)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    state = begin(x, versions, len(x), {"v": Field(travels=True)})
    times, counts = np.array([1.5, np.inf, 2.0]), np.array([3, 0, 2**40])
    order, awake = np.array([1, 0, 2], np.int32), np.array([1, -1, -1], np.int32)
    clocks = Clocks(0.1 + 0.2, times, counts, times + 1, counts, counts + 1, times + 2, order, awake)
    return state, clocks, layout


@pytest.mark.parametrize(
    ("sizes", "widths", "names"),
    [
        ((3,), (2,), {"versions": [3, 2]}),
        ((2, 1), (1, 1), {"versions": [3, 1]}),  # in the tensor, the smaller network comes first
        ((2, 1), (2, 0), {"versions.0": [2, 2], "versions.1": [1, 0]}),
    ],
)
def test_what_is_read_is_what_was_written(sizes, widths, names, tmp_path):
    (state, clocks, layout), late = example(sizes, widths), np.array([1.0, 2.0, np.nan])
    arrays = {f"curves.{name}": late for name in ("before", "integral", "of_source")}
    checkpoint.save(Inside(tmp_path) / "a.safetensors", Snapshot(state, clocks, layout, JOURNAL, arrays))
    written = load_file(tmp_path / "a.safetensors")
    assert {name: list(t.shape) for name, t in written.items() if name.startswith("versions")} == names
    if names.keys() == {"versions"}:
        for g, part in enumerate(written["versions"].split(list(sizes))):
            assert torch.equal(part, layout.block(state.versions, g))
    found = checkpoint.load(Inside(tmp_path) / "a.safetensors", CPU)
    again, at = found.state, found.clocks
    assert found.journal == JOURNAL
    assert found.arrays.keys() == arrays.keys()
    assert all(np.array_equal(array, late, equal_nan=True) for array in found.arrays.values())
    assert again.tensors().keys() == state.tensors().keys()
    assert again.read is None
    for name, tensor in state.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    assert at.time == clocks.time  # bit for bit
    for name in (f.name for f in fields(clocks) if f.name not in ("time", "in_flight")):
        assert getattr(at, name).tolist() == getattr(clocks, name).tolist()
        assert getattr(at, name).dtype == getattr(clocks, name).dtype
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_damage_is_named(tmp_path):
    checkpoint.save(Inside(tmp_path) / "a.safetensors", Snapshot(*example(), JOURNAL))
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "junk.safetensors").write_bytes(b"no tensors here")
    for name in ("cut", "junk"):
        with pytest.raises(
            DamageError, match=f"checkpoint must be a readable safetensors file, got .*{name}.safetensors"
        ):
            checkpoint.load(Inside(tmp_path) / f"{name}.safetensors", CPU)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("versions", -1),
        ("next_update", np.nan),
        ("next_update", -1e18),
        ("next_gossip", np.nan),
        ("stamp", -1.0),
        ("updates", -1),
        ("draws", -1),
        ("order", 1 << 30),
        ("order", 2),
        ("awake", 3),
    ],
)
def test_numbers_that_would_lead_loops_astray_are_damage(name, value, tmp_path):
    state, clocks, layout = example()
    if name == "versions":
        state.versions[1] = value
    else:
        getattr(clocks, name)[0] = value
    file = Inside(tmp_path) / "a.safetensors"
    checkpoint.save(file, Snapshot(state, clocks, layout, replace(JOURNAL, curves=None)))
    with pytest.raises(DamageError, match=f"checkpoint must hold all that a run needs, got .*: .*{name}"):
        checkpoint.load(file, CPU)


@pytest.mark.parametrize("field", ["place", "kind", "sender", "snapshot", "chain", "heap", "arrive", "current", "head"])
def test_messages_that_refer_to_nothing_are_damage(field):
    in_flight = opened(3, 1, np.array([2]), 4)
    check(in_flight)
    if field == "head":
        in_flight.head[0] = 5
    elif field == "current":
        in_flight.nodes["current"][1] = 4
    else:
        in_flight.messages[field][2] = np.nan if field == "arrive" else 1 << 40
    with pytest.raises(ValueError, match=rf"clocks.in_flight.*{field}.* must be "):
        check(in_flight)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(
        OSError, match=r"checkpoint must be a file that can be read, got .*missing.safetensors: No such"
    ):
        checkpoint.load(Inside(tmp_path) / "missing.safetensors", CPU)


def test_files_of_others_are_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="checkpoint must be one that batchednodes wrote"):
        checkpoint.load(Inside(tmp_path) / "other.safetensors", CPU)
