"""One-hot vectors that `torch.func.vmap` can make.

PyTorch's `F.one_hot` looks whether its numbers are in range, which a function of stacked examples cannot do.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from jaxtyping import Int64
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OneHot(TorchFunctionMode):
    """While it is entered, `F.one_hot` compares: a number that is out of range gives zeros."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls a function of PyTorch, or what stands for it."""
        return (_one_hot if func is F.one_hot else func)(*args, **(kwargs or {}))


def _one_hot(tensor: Int64[Tensor, " ..."], num_classes: int = -1) -> Int64[Tensor, " ..."]:
    """Returns one-hot vectors along a new last dimension.

    Raises:
        ValueError: their length is to be found in the numbers, which differ from minibatch to minibatch.
    """
    if num_classes < 0:
        raise ValueError("F.one_hot must be given num_classes, which else depends on the minibatch")
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).to(torch.int64)
