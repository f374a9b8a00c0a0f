"""VGG-11 for small images, without batch normalisation, as many papers of decentralized learning train it on CIFAR-10.

Reference:
    K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, column A
    of table 1; with two hidden layers as wide as the last block, and initial weights of K. He, X. Zhang, S. Ren, J.
    Sun, "Delving deep into rectifiers", ICCV 2015, by outputs.
"""

import math

from torch import nn

_BLOCKS = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions of each block, over those of the first; a block ends with a pool."""


def vgg11(outputs: int = 10, channels: int = 3, side: int = 32, width: int = 64, dropout: float = 0.5) -> nn.Sequential:
    """Returns the network for images of channels x side x side pixels; about 9.75 million parameters as it is.

    Example:
        >>> from batchednodes.models.vgg import vgg11
        >>> sum(w.numel() for w in vgg11().parameters())
        9750922

    Args:
        outputs: labels; at least 1.
        channels: of the images; 1 or 3.
        side: of the images [pixels]; at least 32.
        width: channels of the first block; at least 1.
        dropout: probability, in [0, 1); dimensionless.
    """
    layers, last = list[nn.Module](), channels
    for block in _BLOCKS:
        for times in block:
            convolution = nn.Conv2d(last, times * width, 3, padding=1)
            nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / (9 * times * width)))
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.ReLU()]
            last = times * width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(last * (side // 32) ** 2, last), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(last, last), nn.ReLU(), nn.Linear(last, outputs))
