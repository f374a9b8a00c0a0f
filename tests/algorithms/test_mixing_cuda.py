"""The CUDA kernels of mixing: in Triton's interpreter against sparse products, and compiled for a GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_mixing import phase

from batchednodes.algorithms.mixing import cuda, sparse
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics import devices

pytest.importorskip("triton", reason="Triton has no build for this platform")

WHERE = devices.named("auto")
"""Where kernels run: compiled on a GPU, else in the interpreter, which takes tensors of the host."""

COMPILE = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from batchednodes.algorithms import completions
from batchednodes.algorithms.mixing import cuda
from batchednodes.data import minibatches_cuda
from batchednodes.numerics import rows

WHOLE = (
    "receivers", "senders", "actors", "nodes", "place", "own", "width", "rows", "gains", "waves", "seeds", "index",
    "offsets", "order", "dealt", "counts", "drawn",
)
REAL = ("gained", "times", "diverged_at", "updated")
NUMBERS = ("count", "n", "p", "t", "w", "size", "apart", "new_apart", "steps", "b")

def build(kernel, typed, fixed, warps=4):
    types = dict.fromkeys(WHOLE, "*i64") | dict.fromkeys(REAL, "*fp64") | dict.fromkeys(NUMBERS, "i32") | typed
    types |= dict.fromkeys(fixed, "constexpr")
    signature = {name: types[name] for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, fixed)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": warps}).asm["ptx"].count("bar.sync")

def show(kernel, name, *arguments):
    print(f"{kernel}-{name}", build(*arguments))

for real, size in (("fp32", 4), ("fp64", 8)):
    typed, fixed = {"x": f"*{real}", "weights": f"*{real}"}, {"group": cuda.GROUP, "block": cuda.block(100, size, 132)}
    show("mix", real, cuda._MIX, typed, fixed, cuda.WARPS)
for whole, size in (("i16", 2), ("i32", 4)):
    typed, fixed = {"x": f"*{whole}"}, {"group": cuda.GROUP, "block": cuda.block(100, size, 132)}
    show("merge", whole, cuda._MERGE, typed, fixed, cuda.WARPS)
for real, whole in (("bf16", "i16"), ("fp64", "i32")):
    typed, fixed = {"losses": f"*{real}", "versions": f"*{whole}"}, {"tracked": True, "block": completions._BLOCK}
    show("complete", real, completions._COMPLETE, typed, fixed)
show("means", "fp32", cuda._MEANS, {"x": "*fp32", "aside": "*fp32", "weights": "*fp32"}, {"group": 4, "block": 256})
typed, fixed = {"x": "*i16", "aside": "*i16"}, {"group": 4, "block": 256}
for writes in (False, True):
    show("newest", writes, cuda._NEWEST, typed, fixed | {"writes": writes})
show("gain", "fp64", cuda._GAIN, {}, {"group": cuda._GAINS})
for shuffles in (True, False):
    fixed = {"shuffles": shuffles, "stream": 3, "lanes": 32}
    show("draw", shuffles, minibatches_cuda._DRAW, {}, fixed, 1)
for kind in ("bf16", "fp64", "i1"):
    show("write", kind, rows._WRITE, {"x": f"*{kind}", "new": f"*{kind}"}, {"group": 4, "block": 256})

sys.path.append("tests/numerics")
from test_tape import descent
for real, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
    plain, rates, p = descent("norm" if real == "fp32" else "softmax", dtype=dtype)
    tape, number = plain.taped(p, 5, rates).tape, f"*{real}"
    kinds = ["*i64" if one.kind == "ahead" else number for one in tape.sources]
    kinds = ["*i64" if one.number == 3 and kind == number else kind for one, kind in zip(tape.sources, kinds)]
    typed = {"own": (number, "*i64"), "tensors": (*kinds, number), "losses": number, "entries": "*i64"}
    places = (tape.spelled.reals, 2, tape.spelled.integers, 2, *[64, 1] * (len(kinds) + 1))
    fixed = {"places": places, "count": tape.spelled.instructions, "looked_up": True, "skip": True}
    print(f"tape-{real}", build(tape.spelled.kernel, typed, fixed) - tape.spelled.instructions)
"""


@pytest.fixture(params=[True, False], ids=["at once", "wave by wave"])
def _small_groups(request, monkeypatch):
    """Lets few nodes have waves of several groups, which are applied at once or wave by wave."""
    monkeypatch.setattr(cuda, "GROUP", 16)
    monkeypatch.setattr(cuda, "_GAINS", 16)
    monkeypatch.setattr(cuda, "worth", lambda *_: request.param)


@pytest.mark.usefixtures("_small_groups")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
def test_kernels_mix_as_sparse_products_do(exchange, dtype):
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(60, generator=generator, dtype=dtype)
    mixing, contacts = phase(60, exchange, 3, weight)
    assert np.diff(mixing.waves).max() > cuda.GROUP
    assert len(contacts) > 100
    x = torch.randn(60, 2 * 64 + 5, generator=generator, dtype=dtype)
    expected = x.clone()
    there = x.to(WHERE)
    cuda.mix_(there, mixing.on(WHERE, weight.to(WHERE)))
    sparse.mix_(expected, mixing)
    most = 4 * torch.finfo(dtype).eps * float(expected.abs().max())  # some processors round the two products once
    assert (there.cpu() - expected).abs().max() <= most


@pytest.mark.usefixtures("_small_groups")
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
@pytest.mark.parametrize("exchange", ["push", "meet"])
def test_kernels_merge_as_tables_do(exchange, dtype):
    generator = torch.Generator().manual_seed(2)
    weight = torch.full((40,), 0.5)
    mixing, _ = phase(40, exchange, 5, weight)
    layout, moved = (Layout.of([40], [64 + 3], device) for device in (torch.device("cpu"), WHERE))
    versions = torch.randint(0, 30_000, (layout.numbers,), generator=generator, dtype=dtype)
    expected, gained = versions.clone(), torch.zeros(2, 40, dtype=torch.float64)
    there, gained_there = versions.to(WHERE), gained[0].to(WHERE)
    cuda.merge_(there, gained_there, mixing.on(WHERE, weight.to(WHERE)), moved)
    gained[0] = gained_there.cpu()
    sparse.merge_(expected, gained[1], mixing, layout)
    assert torch.equal(there.cpu(), expected)
    assert torch.allclose(gained[0], gained[1], rtol=1e-13, atol=0)  # the same terms in another order
    assert (gained[0] > 0).any()


@pytest.mark.usefixtures("_small_groups")
def test_networks_of_several_widths_stay_in_their_rows():
    layout = Layout.of([2, 3], [3, 64 + 2], WHERE)
    versions = torch.arange(layout.numbers, dtype=torch.int32, device=WHERE)
    before = versions.clone()
    j, i = torch.tensor([0, 2], device=WHERE), torch.tensor([1, 4], device=WHERE)
    waves, times = np.array([0, 2]), torch.ones(2, dtype=torch.float64, device=WHERE)
    gained = torch.zeros(5, dtype=torch.float64, device=WHERE)
    cuda.merge_(versions, gained, GossipPhase(j, i, j, j.float(), times, waves, 5), layout)
    for g, (own, other) in enumerate(((0, 1), (0, 2))):
        table = layout.block(before, g).clone()
        table[own] = torch.maximum(table[own], table[other])
        assert torch.equal(layout.block(versions, g), table)


def test_kernels_compile_for_a_gpu_and_keep_their_barriers():
    real = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, env=real).stdout
    barriers = {name: int(count) for name, count in (line.split() for line in said.splitlines())}
    assert len(barriers) == 17
    assert all(count >= 0 for name, count in barriers.items() if name.startswith("tape"))  # one behind each instruction
    assert all(count >= 2 for name, count in barriers.items() if name.startswith(("mix", "merge-")))
    assert barriers["gain-fp64"] >= 1


def test_the_choice_depends_on_sizes():
    assert cuda.worth(writes=900, waves=15, p=1_000, size=4, cores=132)
    assert cuda.worth(writes=900, waves=15, p=100_000, size=4, cores=132)
    assert not cuda.worth(writes=2_000_000, waves=20, p=10, size=4, cores=132)  # many nodes, tiny models
    assert not cuda.takes(torch.zeros(3, 3))  # no CUDA here
