"""Files of state: what is read is what was written, and damage is named."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from batchednodes import checkpoint
from batchednodes.algorithms.state import begin
from batchednodes.timeline import Clocks

CPU = torch.device("cpu")


def example():
    state = begin(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), 2, momentum=True, delta=False)
    times, counts = np.array([1.5, np.inf, 2.0]), np.array([3, 0, 2**40])
    nodes = np.array([2, 0, -1], np.int32)
    return state, Clocks(0.1 + 0.2, times, counts, times + 1, counts, counts + 1, times + 2, nodes, nodes + 1)


def test_what_is_read_is_what_was_written(tmp_path):
    state, clocks = example()
    checkpoint.save(tmp_path / "a.safetensors", state, clocks)
    again, at = checkpoint.load(tmp_path / "a.safetensors", CPU)
    assert again.tensors().keys() == state.tensors().keys()
    assert again.read is None
    for name, tensor in state.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    assert at.time == clocks.time  # bit for bit
    for name in (f.name for f in fields(clocks) if f.name != "time"):
        assert getattr(at, name).tolist() == getattr(clocks, name).tolist()
        assert getattr(at, name).dtype == getattr(clocks, name).dtype
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_damage_is_named(tmp_path):
    checkpoint.save(tmp_path / "a.safetensors", *example())
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "junk.safetensors").write_bytes(b"no tensors here")
    for name in ("cut", "junk", "missing"):
        with pytest.raises(
            ValueError, match=f"checkpoint must be a readable safetensors file, got .*{name}.safetensors"
        ):
            checkpoint.load(tmp_path / f"{name}.safetensors", CPU)


def test_files_of_others_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="checkpoint must be one that batchednodes wrote"):
        checkpoint.load(tmp_path / "other.safetensors", CPU)
