r"""Clipping of single examples' gradients, within one gradient of a minibatch.

An example's loss depends on parameters by its own outputs alone. So its gradient is f times as long where f times the
gradient comes back to its outputs; and with f = 1 all numbers are what they are without.

Notation: b examples.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _Shortened(torch.autograd.Function):
    """Leaves outputs as they are, and multiplies what comes back to them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(outputs: Tensor, factors: Tensor) -> Tensor:
        return outputs.view_as(outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *back: Any) -> tuple[Tensor, None]:
        (factors,) = ctx.saved_tensors
        return back[0] * factors.view(-1, *[1] * (back[0].ndim - 1)), None


def shortened(outputs: Float[Tensor, "b ..."], factors: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Returns the same outputs, such that the gradient of each example's loss is some times as long.

    Example:
        >>> import torch
        >>> from batchednodes.models.clipping import shortened
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        >>> shortened(x, torch.tensor([1.0, 0.5])).sum().backward()
        >>> x.grad.tolist()
        [[1.0, 1.0], [0.5, 0.5]]
    """
    found = _Shortened.apply(outputs, factors)
    assert isinstance(found, Tensor)
    return found
