r"""Convolutions of stacked models as products of matrices, on any device and in any type.

A row of an image's columns is one number of a kernel, a column one place of the output (im2col), so that

    y[r, e] = weight[r] columns(x[r', e]),

and the adjoints are products too. Columns take `kernel` times the memory of x, so a few examples are taken at a time.

Notation: w rows, m rows that share their inputs (r' = r // m), b examples, c channels, u v places in a kernel, g the
gradient of y.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from batchednodes.numerics.convolution.shape import Shape

_COLUMNS = 256 << 20
"""Memory that columns may take [B]."""


def _examples(x: Tensor, weight: tuple[int, ...], places: int, groups: int) -> int:
    """Returns how many examples are taken at a time."""
    numbers = x.shape[0] * groups * weight[2] * weight[3] * weight[4] * places
    return max(1, _COLUMNS // (numbers * x.element_size()))


def _columns(x: Tensor, kernel: tuple[int, int], shape: Shape) -> Tensor:
    """Returns the columns [rows, b, g, k, l] of images [rows, b, channels, H, W].

    They are one copy: CUDA's im2col, which F.unfold calls, has a launch for each image.
    """
    (up, left), (down, right), (dy, dx) = shape.padding, shape.stride, shape.dilation
    padded, places = F.pad(x, (left, left, up, up)).contiguous(), shape.outputs(x.shape[3:], kernel)
    strides = padded.stride()
    seen = (*strides[:3], dy * strides[3], dx, down * strides[3], right)
    windows = padded.as_strided((*padded.shape[:3], *kernel, *places), seen)
    return windows.reshape(*x.shape[:2], shape.groups, -1, places[0] * places[1])


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    """Returns y [w, b, outputs, H', W'] of x [w / m, b, inputs, H, W] and weight [w, outputs, c, u, v]."""
    w, kernel = weight.shape[0], (weight.shape[3], weight.shape[4])
    places = shape.outputs(x.shape[3:], kernel)
    matrices = weight.reshape(x.shape[0], -1, shape.groups, weight.shape[1] // shape.groups, weight[0, 0].numel())
    parts = x.split(_examples(x, tuple(weight.shape), places[0] * places[1], shape.groups), 1)
    found = [torch.einsum("rmgok,rbgkl->rmbgol", matrices, _columns(part, kernel, shape)) for part in parts]
    y = torch.cat([part.flatten(0, 1) for part in found], 1).reshape(w, x.shape[1], weight.shape[1], *places)
    return y if bias is None else y + bias[:, None, :, None, None]


def weight_gradient(g: Tensor, x: Tensor, weight: tuple[int, ...], shape: Shape) -> Tensor:
    """Returns the adjoint of `forward` in a weight of some shape, at g, like y."""
    step = _examples(x, weight, g.shape[3] * g.shape[4], shape.groups)
    total = torch.zeros((), dtype=g.dtype, device=g.device)
    for a, part in zip(g.split(step, 1), x.split(step, 1), strict=True):
        outputs = a.reshape(x.shape[0], -1, a.shape[1], shape.groups, weight[1] // shape.groups, a[0, 0, 0].numel())
        total = total + torch.einsum("rmbgol,rbgkl->rmgok", outputs, _columns(part, (weight[3], weight[4]), shape))
    return total.reshape(weight)


def input_gradient(g: Tensor, weight: Tensor, size: tuple[int, int], shape: Shape) -> Tensor:
    """Returns the adjoint of `forward` in inputs [w, b, inputs, *size], at g, like y."""
    w, kernel, channels = weight.shape[0], (weight.shape[3], weight.shape[4]), weight.shape[2] * shape.groups
    matrices = weight.reshape(w, shape.groups, weight.shape[1] // shape.groups, -1)
    found = []
    for part in g.split(_examples(g, tuple(weight.shape), g.shape[3] * g.shape[4], shape.groups), 1):
        outputs = part.reshape(*part.shape[:2], *matrices.shape[1:3], -1)
        columns = torch.einsum("rgok,rbgol->rbgkl", matrices, outputs).reshape(w * part.shape[1], -1, outputs.shape[-1])
        image = F.fold(columns, size, kernel, shape.dilation, shape.padding, shape.stride)
        found.append(image.view(w, part.shape[1], channels, *size))
    return torch.cat(found, 1)
