"""Layers whose stacked computation is faster than the one that `torch.func.vmap` makes of them.

They compute what PyTorch's layers compute: where there is one model, by the same operations.
"""

from torch import nn

from batchednodes.layers.convolution import Conv2d


def replace_(module: nn.Module) -> None:
    """Gives the faster computation to layers of a module that are exactly `nn.Conv2d`, however deep they lie."""
    for part in module.modules():
        if type(part) is nn.Conv2d:
            part.__class__ = Conv2d


def restore_(module: nn.Module) -> None:
    """Gives the layers of a module the classes of PyTorch again."""
    for part in module.modules():
        if type(part) is Conv2d:
            part.__class__ = nn.Conv2d
