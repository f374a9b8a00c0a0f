"""Layers whose stacked computation is faster than the one that `torch.func.vmap` makes of them.

They compute what PyTorch's layers compute: where there is one model, by the same operations.
"""

from torch import nn

from batchednodes.numerics.convolution.conv2d import Conv2d


def replace_(module: nn.Module) -> None:
    """Gives the faster computation to layers of a module that are exactly `nn.Conv2d`, however deep they lie."""
    _exchange_(module, nn.Conv2d, Conv2d)


def restore_(module: nn.Module) -> None:
    """Gives the layers of a module the classes of PyTorch again."""
    _exchange_(module, Conv2d, nn.Conv2d)


def _exchange_(module: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    for part in module.modules():
        if type(part) is old:
            part.__class__ = new
