"""Layers whose stacked computation is faster than the one that `torch.func.vmap` makes of them.

They compute what PyTorch's layers compute: where there is one model, by the same operations.
"""

from torch import nn

from batchednodes.numerics.convolution.conv2d import Conv2d
from batchednodes.numerics.convolution.group_norm import GroupNorm
from batchednodes.numerics.convolution.pooling import max_pool, max_pool_input

__all__ = ["max_pool", "max_pool_input", "replace_", "restore_"]

_FASTER: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: Conv2d, nn.GroupNorm: GroupNorm}
"""Classes of our own for classes of PyTorch."""


def replace_(module: nn.Module) -> None:
    """Gives the faster computation to layers of a module that are exactly of PyTorch's class, however deep they lie."""
    _exchange_(module, _FASTER)


def restore_(module: nn.Module) -> None:
    """Gives the layers of a module the classes of PyTorch again."""
    _exchange_(module, {ours: theirs for theirs, ours in _FASTER.items()})


def _exchange_(module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for part in module.modules():
        part.__class__ = classes.get(type(part), type(part))
