"""Rows of a tensor, written where they lie.

Where algorithms must be deterministic, PyTorch sorts the rows that it writes on CUDA first, by a dozen kernels, since
some might be the same. Those of a wave are not: one kernel writes them.

Notation: w rows, p columns.
"""

from typing import no_type_check

from jaxtyping import Int64, Shaped
from torch import Tensor

from batchednodes.numerics import devices
from batchednodes.numerics.triton_kernels import constexpr, jit, takes, tl, triton

_TILE = 1024
"""Numbers that a program writes."""


def write_(x: Shaped[Tensor, "rows p"], rows: Int64[Tensor, " w"], new: Shaped[Tensor, "w p"]) -> None:
    """Writes some rows of a tensor, which must be different ones.

    Example:
        >>> import torch
        >>> from batchednodes.numerics.rows import write_
        >>> x = torch.zeros(3, 2)
        >>> write_(x, torch.tensor([2, 0]), torch.ones(2, 2))
        >>> x.tolist()
        [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    (w, p), along = new.shape, x.stride(1) == new.stride(1) == 1
    if not takes(x) or not along or x.dtype != new.dtype:
        x.index_copy_(0, rows, new)
    elif new.numel():
        programs, *tile = tiles(w, p)
        with devices.using(x.device):
            _WRITE[(programs,)](x, rows, new, w, p, x.stride(0), new.stride(0), *tile)


def tiles(w: int, p: int) -> tuple[int, int, int]:
    """Returns how many tiles cover w rows of p numbers, and the rows and columns of each, powers of two."""
    block = min(_TILE, triton.next_power_of_2(p))
    return -(-w // (_TILE // block)) * -(-p // block), _TILE // block, block


def some(values: Shaped[Tensor, "w ..."], part: slice) -> Shaped[Tensor, "v ..."]:
    """Returns some rows, from one on; where all are asked for, the tensor as it is: a view would cost microseconds."""
    whole = part.start == 0 and part.step is None and part.stop >= values.shape[0]
    return values if whole else values[part]


@no_type_check
def _write(x, rows, new, w, p, apart, new_apart, group: constexpr, block: constexpr):  # noqa: ANN001, ANN202
    """Writes some columns of some rows, as many as a tile has; rows lie `apart`."""
    across = tl.cdiv(p, block)
    k = tl.program_id(0) // across * group + tl.arange(0, group)
    columns = tl.program_id(0) % across * block + tl.arange(0, block)
    mask = (k < w)[:, None] & (columns < p)[None, :]
    j = tl.load(rows + k, mask=k < w, other=0)
    source = new + k.to(tl.int64)[:, None] * new_apart + columns[None, :]
    tl.store(x + j[:, None] * apart + columns[None, :], tl.load(source, mask=mask), mask=mask)


_WRITE = jit(_write, ("w",), ("rows", "new"))
