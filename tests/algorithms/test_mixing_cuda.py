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
import triton
from triton.backends.compiler import GPUTarget
from batchednodes.algorithms.mixing import cuda as c

def build(kernel, tables, more):
    places = {name: "*i64" for name in ("rows", "others", "waves")}
    source = triton.compiler.ASTSource(kernel, tables | places | more, {"group": c.GROUP, "block": c.BLOCK})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

for real in ("fp32", "fp64"):
    ptx = build(c._MIX, {name: f"*{real}" for name in ("x", "keep", "take")}, {"count": "i32", "p": "i32"})
    print(real, ptx.count("bar.sync"))
for whole in ("i16", "i32"):
    ptx = build(c._MERGE, {"versions": f"*{whole}", "widths": "*i64", "gains": "*i64"}, {"count": "i32"})
    print(whole, ptx.count("bar.sync"))
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
def test_blocks_of_columns_mix_as_sparse_products_do(exchange, dtype):
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(60, generator=generator, dtype=dtype)
    mixing, contacts = phase(60, exchange, 3, weight)
    assert np.diff(mixing.waves).max() > cuda.GROUP
    assert len(contacts) > 100
    x = torch.randn(60, 2 * cuda.BLOCK + 5, generator=generator, dtype=dtype)
    expected = x.clone()
    there = x.to(WHERE)
    cuda.mix_(there, mixing.on(WHERE, weight.to(WHERE)))
    sparse.mix_(expected, mixing)
    most = 4 * torch.finfo(dtype).eps * float(expected.abs().max())  # some processors round the two products once
    assert (there.cpu() - expected).abs().max() <= most


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
@pytest.mark.parametrize("exchange", ["push", "meet"])
def test_blocks_of_columns_merge_as_tables_do(exchange, dtype):
    generator = torch.Generator().manual_seed(2)
    weight = torch.full((40,), 0.5)
    mixing, _ = phase(40, exchange, 5, weight)
    layout, moved = (Layout.of([40], [cuda.BLOCK + 3], device) for device in (torch.device("cpu"), WHERE))
    versions = torch.randint(0, 30_000, (layout.numbers,), generator=generator, dtype=dtype)
    expected, gained = versions.clone(), torch.zeros(2, 40, dtype=torch.float64)
    there, gained_there = versions.to(WHERE), gained[0].to(WHERE)
    cuda.merge_(there, gained_there, mixing.on(WHERE, weight.to(WHERE)), moved)
    gained[0] = gained_there.cpu()
    sparse.merge_(expected, gained[1], mixing, layout)
    assert torch.equal(there.cpu(), expected)
    assert torch.allclose(gained[0], gained[1], rtol=1e-13, atol=0)  # the same terms in another order
    assert (gained[0] > 0).any()


def test_networks_of_several_widths_stay_in_their_rows():
    layout = Layout.of([2, 3], [3, cuda.BLOCK + 2], WHERE)
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
    barriers = dict(line.split() for line in said.splitlines())
    assert barriers.keys() == {"fp32", "fp64", "i16", "i32"}
    assert all(int(count) >= 2 for count in barriers.values())


def test_the_choice_depends_on_sizes():
    assert cuda.worth(writes=900, waves=15, p=1_000, size=4, cores=132)
    assert cuda.worth(writes=900, waves=15, p=100_000, size=4, cores=132)
    assert not cuda.worth(writes=2_000_000, waves=20, p=10, size=4, cores=132)  # many nodes, tiny models
    assert not cuda.takes(torch.zeros(3, 3), 3, phase(3, "push", 0, torch.full((3,), 0.5))[0])  # no CUDA here
