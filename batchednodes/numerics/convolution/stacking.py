"""Stacking: tensors of a vmap as those of kernels for many models, whose first dimension are the rows."""

from torch import Tensor


def rows(tensor: Tensor, dim: int | None, n: int, stacked: bool, shared: bool = False) -> Tensor:
    """Returns a tensor of a vmap over n as a stacked one.

    Args:
        tensor: one of its arguments.
        dim: the dimension of the tensor that is the vmap's; None: it has none.
        n: rows of the vmap.
        stacked: whether it is stacked already, beside that dimension.
        shared: whether one row stays one row.
    """
    if dim is None and shared and (not stacked or tensor.shape[0] == 1):
        return tensor if stacked else tensor[None]
    tensor = tensor.expand(n, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1) if stacked else tensor


def apart(tensor: Tensor, n: int, stacked: bool) -> Tensor:
    """Returns a stacked tensor with the vmap's dimension n first."""
    return tensor.unflatten(0, (n, -1)) if stacked else tensor
