"""Layers of sequences [b, t, d] and of images [b, c, h, w]."""

from random import Random

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fuzz.shapes import Call, Layer, Parametric, Shape, divisor, kernel

# --------------------------------------------------------------------------------------------------------- sequences


def _conv1d(shape: Shape, draw: Random) -> nn.Module:
    t, d = shape
    k = kernel(draw, t)[0]
    if draw.random() < 0.2:
        return Turned(nn.ConvTranspose1d(d, 2, k))
    groups = d if draw.random() < 0.3 else 1
    mode = draw.choice(["zeros", "zeros", "circular", "replicate"])
    return Turned(nn.Conv1d(d, groups * draw.randint(1, 2), k, padding=k // 2, groups=groups, padding_mode=mode))


class Turned(nn.Module):
    """Gives a layer channels first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the layer returns, channels last."""
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class First(nn.Module):
    """Returns the first thing that a layer returns."""

    def __init__(self, layer: nn.Module, copies: int = 1) -> None:
        super().__init__()
        self.layer, self.copies = layer, copies

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output."""
        return self.layer(*[x] * self.copies)[0]


def _recurrent(shape: Shape, draw: Random) -> nn.Module:
    kind, layers = draw.choice([nn.LSTM, nn.GRU, nn.RNN]), draw.randint(1, 2)
    more = {"nonlinearity": draw.choice(["tanh", "relu"])} if kind is nn.RNN else {}
    if kind is nn.LSTM and draw.random() < 0.2:
        more["proj_size"] = 2
    p = draw.choice([0.0, 0.0, 0.3]) if layers > 1 else 0.0
    made = kind(shape[1], 3, layers, batch_first=draw.random() < 0.8, dropout=p, bidirectional=draw.random() < 0.3,
                bias=draw.random() < 0.8, **more)  # fmt: skip
    return First(made)


class Cells(nn.Module):
    """Runs a cell along a sequence, in a loop of Python."""

    def __init__(self, cell: nn.Module, width: int, stacked: bool) -> None:
        super().__init__()
        self.cell, self.width, self.stacked = cell, width, stacked

    def forward(self, x: Tensor) -> Tensor:
        """Returns all states, or the last one."""
        h = None if self.stacked else x.new_zeros(len(x), self.width)
        if isinstance(self.cell, nn.LSTMCell) and h is not None:
            h = h, h
        states = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            states.append(h[0] if isinstance(h, tuple) else h)
        return torch.stack(states, 1)


def _cells(shape: Shape, draw: Random) -> nn.Module:
    return Cells(draw.choice([nn.LSTMCell, nn.GRUCell, nn.RNNCell])(shape[1], 3), 3, draw.random() < 0.5)


def _attention(shape: Shape, draw: Random) -> nn.Module:
    d, p = shape[1], draw.choice([0.0, 0.0, 0.2])
    if draw.random() < 0.5:
        options = {"bias": draw.random() < 0.8, "add_zero_attn": draw.random() < 0.2, "batch_first": True}
        return First(nn.MultiheadAttention(d, divisor(draw, d), p, **options), 3)
    causal = draw.random() < 0.5
    return Call(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=p, is_causal=causal))


def _encoder(shape: Shape, draw: Random) -> nn.Module:
    d, p = shape[1], draw.choice([0.0, 0.0, 0.1])
    options = {"norm_first": draw.random() < 0.5, "activation": draw.choice(["relu", "gelu"]), "batch_first": True}
    layer = nn.TransformerEncoderLayer(d, divisor(draw, d), 4, p, **options)
    nested = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nested if draw.random() < 0.3 else layer


def _places(shape: Shape, draw: Random) -> nn.Module:
    """Returns what adds a learned vector of each place."""
    t, d = shape
    table = nn.Embedding(t, d)
    return draw.choice([Parametric(lambda x, w: x + w[torch.arange(x.shape[1])], (t, d)), Placed(table)])


class Placed(nn.Module):
    """Adds an embedding of each place."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum."""
        return x + self.table(torch.arange(x.shape[1]))


def _pool1d(shape: Shape, draw: Random) -> nn.Module:
    k = kernel(draw, shape[0])[0]
    made = [nn.MaxPool1d(k), nn.AvgPool1d(k), nn.AdaptiveAvgPool1d(2), nn.AdaptiveMaxPool1d(1), nn.LPPool1d(2, k)]
    return Turned(draw.choice(made))


def _reduced(shape: Shape, draw: Random) -> nn.Module:
    return Call(draw.choice([lambda x: x.mean(1), lambda x: x[:, -1], lambda x: x.sum(1), lambda x: x.amax(1)]))


# ------------------------------------------------------------------------------------------------------------ images


def _conv2d(shape: Shape, draw: Random) -> nn.Module:
    c, h, w = shape
    k, padding = kernel(draw, h, w), draw.randint(0, 1)
    if draw.random() < 0.2:
        return nn.ConvTranspose2d(c, 2, k)
    groups, stride = (c if draw.random() < 0.3 else 1), draw.randint(1, 2)
    return nn.Conv2d(c, groups * draw.randint(1, 2), k, stride, padding, groups=groups, bias=draw.random() < 0.8)


def _pool2d(shape: Shape, draw: Random) -> nn.Module:
    k = kernel(draw, *shape[1:])
    made = [nn.MaxPool2d(k), nn.AvgPool2d(k), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(1), nn.LPPool2d(2, k)]
    return draw.choice(made)


def _image(shape: Shape, draw: Random) -> nn.Module:
    c, h, w = shape
    mode = draw.choice(["nearest", "bilinear"])
    made = [
        nn.GroupNorm(divisor(draw, c), c), nn.LocalResponseNorm(2), nn.Softmax2d(), nn.ZeroPad2d(1),
        nn.ReplicationPad2d(1), nn.Dropout2d(0.3), nn.ChannelShuffle(divisor(draw, c)), nn.Unfold(kernel(draw, h, w)),
        nn.Upsample(scale_factor=2, mode=mode), nn.PixelShuffle(1), nn.BatchNorm2d(c).eval(),
    ]  # fmt: skip
    return draw.choice(made)


def _crowded(shape: Shape, draw: Random) -> nn.Module:
    """Returns what makes examples depend on the others of their minibatch."""
    return draw.choice([
        nn.BatchNorm2d(shape[0], track_running_stats=False), nn.InstanceNorm2d(shape[0]),
        Call(lambda x: x - x.mean(0, keepdim=True)), Call(lambda x: x.softmax(0)), Call(lambda x: x / (1 + x.norm())),
        Call(lambda x: x + x.flip(0)), Call(lambda x: x - x[:1]),
        Call(lambda x: x * torch.linspace(0, 1, len(x)).view(-1, 1, 1, 1)),
    ])  # fmt: skip


STRUCTURED: dict[str, Layer] = {
    "conv1d": Layer(_conv1d, "sequence"),
    "recurrent": Layer(_recurrent, "sequence"),
    "cells": Layer(_cells, "sequence"),
    "attention": Layer(_attention, "sequence"),
    "encoder": Layer(_encoder, "sequence"),
    "places": Layer(_places, "sequence"),
    "pool1d": Layer(_pool1d, "sequence", jumps=True, sound=False),
    "reduced": Layer(_reduced, "sequence"),
    "conv2d": Layer(_conv2d, "image"),
    "pool2d": Layer(_pool2d, "image", jumps=True, sound=False),
    "image": Layer(_image, "image"),
    "crowded": Layer(_crowded, "image", sound=False),
}
"""All kinds, by name."""
