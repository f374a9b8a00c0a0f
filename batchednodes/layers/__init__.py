"""Layers whose stacked computation is faster than the one that `torch.func.vmap` makes of them.

They compute what PyTorch's layers compute: where there is one model, by the same operations.
"""

import torch
from torch import nn

from batchednodes.layers.convolution import Conv2d
from batchednodes.layers.pooling import MaxPool2d


def replace_(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Gives layers of a module, exactly of these classes, the faster computation for a type of numbers and a device."""
    for part in module.modules():
        if type(part) is nn.Conv2d:
            part.__class__ = Conv2d
        elif type(part) is nn.MaxPool2d and not part.return_indices:
            if device.type == "cpu" and dtype in (torch.float32, torch.float64):
                part.__class__ = MaxPool2d


def restore_(module: nn.Module) -> None:
    """Gives the layers of a module the classes of PyTorch again."""
    for part in module.modules():
        if type(part) is Conv2d:
            part.__class__ = nn.Conv2d
        elif type(part) is MaxPool2d:
            part.__class__ = nn.MaxPool2d
