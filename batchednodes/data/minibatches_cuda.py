r"""Minibatches drawn on a CUDA device: those of the sampler, bit for bit, since they have the same addresses.

A lane of a program is an update, and fills the places of its minibatches one after the other, as `Sampler` does. Orders
of epochs need not be begun: an entry counts from when its epoch has written it, and is its own place before.

Notation: n nodes, w nodes of a call, R rows of all nodes, m rows of one node, q position in a node's stream of samples,
e = q // m its epoch, s steps, b samples of a minibatch.
"""

import math
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from batchednodes.data.minibatches import Sampler
from batchednodes.numerics import devices, rng
from batchednodes.numerics.triton_kernels import constexpr, jit, takes, tl

NODES = 20_000
"""Nodes from which minibatches are drawn on the device: the host draws those of fewer beside the work in no time."""

_LANES = 32
"""Updates of a program: a warp, since lanes wait for each other."""


def held(n: int, samples: int) -> int:
    """Returns the bytes that a device holds to draw for n nodes, which own some samples; 0: the host draws [B]."""
    return 48 * n + 16 * samples if n >= NODES else 0


@dataclass(frozen=True, eq=False)
class DeviceSampler:
    """What draws, and what it remembers of each node's current epoch, which never changes a result."""

    sampler: Sampler
    """The same on the host."""
    tables: tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " R"], Int64[Tensor, " n1"]]
    """Its seeds, indices, rows and offsets, on the device."""
    order: Int64[Tensor, " R"]
    """Entries of orders, and above 32 bits the number of the order that wrote them."""
    dealt: Int64[Tensor, "n 3"]
    """Of each node the current epoch, the places of it that are filled, and the number of its order."""

    @staticmethod
    def of(sampler: Sampler, device: torch.device) -> "DeviceSampler | None":
        """Returns what draws the same; None where the host does."""
        plain = sampler.expected is None and sampler.epochs is None and sampler.steps_law is None and not sampler.keyed
        if not plain or len(sampler.seeds) < NODES or not takes(torch.empty(0, device=device)):
            return None
        columns = (sampler.seeds.view(np.int64), sampler.index, sampler.rows, sampler.offsets)
        seeds, index, rows, offsets = (torch.from_numpy(column).to(device) for column in columns)
        dealt = torch.tensor([-1, 0, 0], device=device).repeat(len(sampler.seeds), 1)
        return DeviceSampler(sampler, (seeds, index, rows, offsets), torch.zeros_like(rows), dealt)

    def draw(self, nodes: Int64[Tensor, " w"], counts: Int64[Tensor, " w"]) -> Int64[Tensor, "w s b"]:
        """Returns the minibatches of update number counts[k] of nodes[k], different ones, as `Sampler.draw`."""
        w, size = nodes.numel(), math.prod(self.sampler.shape)
        drawn = torch.empty((w, *self.sampler.shape), dtype=torch.int64, device=nodes.device)
        tensors = (*self.tables, self.order, self.dealt, nodes, counts, drawn)
        kind = (self.sampler.sampling == "shuffle", rng.BATCH, _LANES)
        with devices.using(nodes.device):
            _DRAW[(-(-w // _LANES),)](*tensors, w, size, *kind, num_warps=1)
        return drawn


@no_type_check
def _below(seed, node, q, bound, stream: constexpr):  # noqa: ANN001, ANN202
    """Returns what `rng.below` makes of word q % 2 of the block with the address (seed, stream, node, q // 2)."""
    low = 0xFFFFFFFF
    k0, k1, count = seed & low, seed >> 32, (q >> 1).to(tl.uint64)
    c0, c1, c2, c3 = count & low, count >> 32, node.to(tl.uint64) & low, tl.zeros_like(count) + stream
    for _ in tl.static_range(10):
        a, b = (c0 & low) * 0xD2511F53, (c2 & low) * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b, (a >> 32) ^ c3 ^ k1, a
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    word = tl.where(q % 2 == 0, (c0 << 32) | (c1 & low), (c2 << 32) | (c3 & low))
    unit = ((word >> 12).to(tl.int64).to(tl.float64) + 0.5) * 2.220446049250313e-16  # 2^-52
    return (unit * bound.to(tl.float64)).to(tl.int64)


_BELOW = jit(_below, (), ())


@no_type_check
def _draw(  # noqa: ANN202
    seeds, index, rows, offsets, order, dealt, nodes, counts, drawn, w, size,  # noqa: ANN001
    shuffles: constexpr, stream: constexpr, lanes: constexpr,
):  # fmt: skip
    """Draws the minibatches of some updates, position by position."""
    k = tl.program_id(0) * lanes + tl.arange(0, lanes)
    live = k < w
    i = tl.load(nodes + k, mask=live, other=0)
    seed, node, start = tl.load(seeds + i).to(tl.uint64), tl.load(index + i), tl.load(offsets + i)
    m = tl.load(offsets + i + 1) - start
    first = tl.load(counts + k, mask=live, other=0) * size
    end = tl.where(live, first + size, first)
    if shuffles:
        e, number = first // m, tl.load(dealt + 3 * i + 2)
        known = e * m + tl.where(tl.load(dealt + 3 * i) == e, tl.load(dealt + 3 * i + 1), 0)  # positions with a row
        begin = tl.minimum(known, first)
        for t in range(tl.max(end - begin)):
            q = begin + t
            r, deals = q % m, (q >= known) & (q < end)
            number += (deals & (r == 0)).to(tl.int64)
            other = tl.where(deals, r + _BELOW(seed, node, q, m - r, stream), r)
            a, b = tl.load(order + start + r), tl.load(order + start + other)
            a, b = tl.where(a >> 32 == number, a & 0xFFFFFFFF, r), tl.where(b >> 32 == number, b & 0xFFFFFFFF, other)
            tl.store(order + start + r, (number << 32) | b, mask=deals)
            tl.store(order + start + other, (number << 32) | a, mask=deals)
            wanted = (q >= first) & (q < end)
            tl.store(drawn + k * size + q - first, tl.load(rows + start + b, mask=wanted, other=0), mask=wanted)
        ahead = end > known
        tl.store(dealt + 3 * i, (end - 1) // m, mask=ahead)
        tl.store(dealt + 3 * i + 1, (end - 1) % m + 1, mask=ahead)
        tl.store(dealt + 3 * i + 2, number, mask=ahead)
    else:
        for t in range(size):
            row = tl.load(rows + start + _BELOW(seed, node, first + t, m, stream))
            tl.store(drawn + k * size + t, row, mask=live)


_DRAW = jit(_draw, ("w",), ("nodes", "counts"))
