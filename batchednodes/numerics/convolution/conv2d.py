r"""Convolutions of stacked models: `F.conv2d` where there is one model, kernels of our own where vmap runs many.

vmap makes one grouped convolution of many, which is no faster than one after the other. Here a convolution is one of
three products, each an adjoint of the others, so that derivatives of any order are among them:

    y = weight * x + bias,    input gradient (g, weight),    weight gradient (g, x).

On the CPU in float32 and float64 they are computed directly (direct.py), wide ones by PyTorch's own kernels, row by row
(library.py); elsewhere as products of matrices (matmul.py). Stacked tensors have one dimension more, the first; inputs
[w / m, ...] are shared by m rows each.

Notation: w rows, b examples, y outputs, x inputs, g gradient of the outputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.library import custom_op
from torch.nn.grad import conv2d_input, conv2d_weight

from batchednodes.numerics.convolution import direct, library, matmul
from batchednodes.numerics.convolution.shape import Pair, Shape
from batchednodes.numerics.convolution.stacking import apart, rows
from batchednodes.numerics.convolution.threading import each_part

Dims = tuple[Any, ...]
"""Where each argument has the dimension of a vmap; None: nowhere; of a tuple, a tuple of them."""

_STACKED = 5
"""Dimensions of stacked inputs and weights."""


def _is_direct(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def outputs(x: Tensor, weight: Tensor, bias: Tensor | None, numbers: list[int], last: bool = False) -> Tensor:
    """Returns stacked outputs [w, b, ...] of stacked inputs and weights; `last`: laid out as `library.laid` says."""
    shape = Shape.of(numbers)
    if not _is_direct(x):
        return library.laid(matmul.forward(x, weight, bias, shape), last)
    w, o, *kernel = weight.shape
    row = x.shape[1] * math.prod(shape.outputs(x.shape[3:], kernel[1:])) * o * math.prod(kernel)
    if w and library.takes(x, row, o, x.shape[2]):
        return library.forward(x.detach(), weight.detach(), bias, shape, last)
    y, work = _convolve_fake(x, weight, bias, numbers), w * row
    start = weight.new_zeros(weight.shape[:2]) if bias is None else bias
    arrays = [t.detach().contiguous().numpy() for t in (x, weight, start)]
    each_part(y.shape[0], work, direct.forward, *arrays, *shape.arguments, y.numpy())
    return library.laid(y, last)


_convolve = custom_op("batchednodes::convolve", outputs, mutates_args=())


@_convolve.register_fake
def _convolve_fake(x: Tensor, weight: Tensor, bias: Tensor | None, numbers: list[int], last: bool = False) -> Tensor:
    places = Shape.of(numbers).outputs(x.shape[3:], weight.shape[3:])
    return library.blank(x, (weight.shape[0], x.shape[1], weight.shape[1], *places), last)


def input_gradient(g: Tensor, weight: Tensor, size: list[int], numbers: list[int], last: bool = False) -> Tensor:
    """Returns the gradient of inputs [w, b, channels, *size]."""
    shape = Shape.of(numbers)
    if not _is_direct(g):
        return library.laid(matmul.input_gradient(g, weight, (size[0], size[1]), shape), last)
    w, work = g.shape[0], g.numel() * math.prod(weight.shape[2:])
    if w and library.takes(g, work // w, g.shape[2], weight.shape[2] * shape.groups, back=True):
        return library.input_gradient(g.detach(), weight.detach(), (size[0], size[1]), shape, last)
    out, arrays = _input_fake(g, weight, size, numbers), [t.detach().contiguous().numpy() for t in (g, weight)]
    each_part(out.shape[0], work, direct.input_gradient, *arrays, *shape.arguments, out.numpy())
    return library.laid(out, last)


_input = custom_op("batchednodes::convolution_input", input_gradient, mutates_args=())


@_input.register_fake
def _input_fake(g: Tensor, weight: Tensor, size: list[int], numbers: list[int], last: bool = False) -> Tensor:
    return library.blank(g, (*g.shape[:2], weight.shape[2] * Shape.of(numbers).groups, *size), last)


def weight_gradient(g: Tensor, x: Tensor, size: list[int], numbers: list[int], last: bool = False) -> Tensor:
    """Returns the gradient of weights [w, outputs, c, *size], which are laid out as ever."""
    shape = Shape.of(numbers)
    w, o, weights = g.shape[0], g.shape[2], (g.shape[0], g.shape[2], x.shape[2] // shape.groups, *size)
    if not _is_direct(g):
        return matmul.weight_gradient(g, x, weights, shape)
    work = g.numel() * math.prod(weights[2:])
    if w and library.takes(g, work // w, o, x.shape[2]):
        return library.weight_gradient(g.detach(), x.detach(), weights, shape, last)
    out = g.new_empty(weights)
    arrays = [t.detach().contiguous().numpy() for t in (g, x)]
    each_part(out.shape[0], work, direct.weight_gradient, *arrays, *shape.arguments, out.numpy())
    return out


_weight = custom_op("batchednodes::convolution_weight", weight_gradient, mutates_args=())


@_weight.register_fake
def _weight_fake(g: Tensor, x: Tensor, size: list[int], numbers: list[int], last: bool = False) -> Tensor:
    return g.new_empty(g.shape[0], g.shape[2], x.shape[2] // Shape.of(numbers).groups, *size)


class _Convolve(Function):
    """Outputs."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        if weight.ndim == _STACKED:
            return _convolve(x, weight, bias, shape.numbers)
        return F.conv2d(x, weight, bias, *shape.arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.shape = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight), (need_x, need_weight, need_bias, _) = gradients, ctx.saved_tensors, ctx.needs_input_grad
        of_x = of_weight = of_bias = None
        if need_x:
            of_x = _InputGradient.apply(g, weight, x.shape[-2:], ctx.shape)
            if weight.ndim == _STACKED:
                of_x = of_x.unflatten(0, (x.shape[0], -1)).sum(1)
        if need_weight:
            of_weight = _WeightGradient.apply(g, x, weight.shape[-2:], ctx.shape)
        if need_bias:
            of_bias = g.sum((-4, -2, -1))
        return of_x, of_weight, of_bias, None

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *args: Any) -> tuple[Tensor, int]:
        x, weight, bias, shape = args
        n, stacked = info.batch_size, weight.ndim - (in_dims[1] is not None) == _STACKED
        if in_dims[1] is None and in_dims[2] is None and not stacked:
            x = x.movedim(in_dims[0] or 0, 0)
            return _Convolve.apply(x.flatten(0, 1), weight, bias, shape).unflatten(0, (n, -1)), 0
        x = rows(x, in_dims[0], n, stacked, shared=True)
        bias = None if bias is None else rows(bias, in_dims[2], n, stacked)
        return apart(_Convolve.apply(x, rows(weight, in_dims[1], n, stacked), bias, shape), n, stacked), 0


class _InputGradient(Function):
    """Gradient of the inputs."""

    @staticmethod
    def forward(g: Tensor, weight: Tensor, size: Sequence[int], shape: Shape) -> Tensor:
        if weight.ndim == _STACKED:
            return _input(g, weight, list(size), shape.numbers)
        inputs = (g.shape[0], weight.shape[1] * shape.groups, *size)
        return conv2d_input(inputs, weight, g, *shape.arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        g, weight, _, ctx.shape = inputs
        ctx.save_for_backward(g, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (g, weight), need = gradients, ctx.saved_tensors, ctx.needs_input_grad
        of_g = _Convolve.apply(x, weight, None, ctx.shape) if need[0] else None
        of_weight = _WeightGradient.apply(g, x, weight.shape[-2:], ctx.shape) if need[1] else None
        return of_g, of_weight, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *args: Any) -> tuple[Tensor, int]:
        g, weight, size, shape = args
        n, stacked = info.batch_size, weight.ndim - (in_dims[1] is not None) == _STACKED
        if in_dims[1] is None and not stacked:
            g = g.movedim(in_dims[0] or 0, 0)
            return _InputGradient.apply(g.flatten(0, 1), weight, size, shape).unflatten(0, (n, -1)), 0
        g, weight = rows(g, in_dims[0], n, stacked), rows(weight, in_dims[1], n, stacked)
        return apart(_InputGradient.apply(g, weight, size, shape), n, stacked), 0


class _WeightGradient(Function):
    """Gradient of the weights."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, size: Sequence[int], shape: Shape) -> Tensor:
        if g.ndim == _STACKED:
            return _weight(g, x, list(size), shape.numbers)
        weights = (g.shape[1], x.shape[1] // shape.groups, *size)
        return conv2d_weight(x, weights, g, *shape.arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        g, x, _, ctx.shape = inputs
        ctx.save_for_backward(g, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (g, x), need = gradients, ctx.saved_tensors, ctx.needs_input_grad
        of_g = _Convolve.apply(x, weight, None, ctx.shape) if need[0] else None
        of_x = None
        if need[1]:
            of_x = _InputGradient.apply(g, weight, x.shape[-2:], ctx.shape)
            if g.ndim == _STACKED:
                of_x = of_x.unflatten(0, (x.shape[0], -1)).sum(1)
        return of_g, of_x, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *args: Any) -> tuple[Tensor, int]:
        g, x, size, shape = args
        n, stacked = info.batch_size, g.ndim - (in_dims[0] is not None) == _STACKED
        g, x = rows(g, in_dims[0], n, stacked), rows(x, in_dims[1], n, stacked, shared=True)
        return apart(_WeightGradient.apply(g, x, size, shape), n, stacked), 0


class Conv2d(nn.Conv2d):
    """The computation of `nn.Conv2d`, with kernels of our own where many models are stacked."""

    def way(self, x: Tensor, y: Tensor) -> str:
        """Returns how many such layers are computed, in words; x, y: what goes into one for a minibatch, and out."""
        (o, c, *kernel), b = self.weight.shape, x.shape[:-3].numel()
        if not _is_direct(x):
            return "products of matrices"
        if not library.takes(x, y.numel() * c * math.prod(kernel), o, c * self.groups):
            return "kernels of our own"
        shape, _ = self._shape()
        return library.WORDS[library.way(shape, (o, c, *kernel), tuple(y.shape[-2:]), b)]

    def _shape(self) -> tuple[Shape, bool]:
        """Returns the shape, and whether inputs are padded before."""
        total = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        padding = tuple(t // 2 for t in total) if self.padding == "same" else (0, 0)
        if not isinstance(self.padding, str):
            padding = self.padding
        before = self.padding_mode != "zeros" or (self.padding == "same" and any(t % 2 for t in total))
        padding = (0, 0) if before else padding
        return Shape(_pair(self.stride), _pair(padding), _pair(self.dilation), self.groups), before

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shape, before = self._shape()
        if before:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, self._reversed_padding_repeated_twice, mode)
        if input.ndim == 3:  # one example
            return _Convolve.apply(input[None], weight, bias, shape)[0]
        return _Convolve.apply(input, weight, bias, shape)


def _pair(numbers: Sequence[int]) -> Pair:
    a, b = numbers
    return int(a), int(b)
