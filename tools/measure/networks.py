"""Networks that the field trains, each with the shape of its data, for `measure.models`.

Notation: b examples of a minibatch, t tokens or instants of a sequence, d numbers of a token, r rank.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """A network to measure."""

    make: str
    """Function of this module that makes it."""
    features: tuple[int, ...]
    """Shape of one example."""
    batch: int = 16
    """Examples of a minibatch."""
    tokens: int | None = None
    """How many tokens there are, each of which is followed by one of them; None: examples are real numbers."""
    rows: int = 12
    """Rows of a wave: n / 8 of n = 100 nodes, or as many as are measured in seconds."""


NETWORKS = {
    "logreg": Network("logreg", (57,), 32, rows=125),
    "mlp_64": Network("mlp_64", (64,), 32, rows=125),
    "mlp_784": Network("mlp_784", (784,), 32, rows=125),
    "lenet": Network("lenet", (1, 28, 28)),
    "gn_lenet": Network("gn_lenet", (3, 32, 32)),
    "resnet8": Network("resnet8", (3, 32, 32)),
    "resnet20": Network("resnet20", (3, 32, 32)),
    "resnet18": Network("resnet18", (3, 32, 32), 8, rows=2),
    "transformer": Network("transformer", (32,), 8, tokens=64),
    "transformer_sdpa": Network("transformer_sdpa", (32,), 8, tokens=64),
    "gru": Network("gru", (20, 32)),
    "lstm": Network("lstm", (20, 32)),
    "frozen_mlp": Network("frozen_mlp", (784,), 32),
    "frozen_conv": Network("frozen_conv", (3, 32, 32)),
    "lora": Network("lora", (256,), 32),
}
"""By name; labels are 10 but for tokens."""


def logreg() -> nn.Module:
    """Returns logistic regression."""
    return nn.Linear(57, 10)


def mlp_64() -> nn.Module:
    """Returns a perceptron with 64 hidden units."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def mlp_784() -> nn.Module:
    """Returns a perceptron with 200 hidden units for images of 784 numbers."""
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))


def lenet() -> nn.Module:
    """Returns a network like LeNet-5 for 1 x 28 x 28 images."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def _blocks() -> list[nn.Module]:
    """Returns the convolutions of GN-LeNet."""
    widths, layers = (3, 32, 32, 64), []
    for i, o in pairwise(widths):
        layers += [nn.Conv2d(i, o, 5, padding=2), nn.MaxPool2d(2), nn.GroupNorm(2, o), nn.ReLU()]
    return [*layers, nn.Flatten()]


def gn_lenet() -> nn.Module:
    """Returns GN-LeNet for 3 x 32 x 32 images.

    Reference:
        K. Hsieh, A. Phanishayee, O. Mutlu, P. Gibbons, "The non-IID data quagmire of decentralized machine learning",
        ICML 2020.
    """
    return nn.Sequential(*_blocks(), nn.Linear(1024, 10))


class Residual(nn.Module):
    """Two convolutions with group normalization, beside a way around them."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        """Makes the block of i to o channels."""
        super().__init__()
        self.first, self.second = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(2, o), nn.GroupNorm(2, o)])
        same = stride == 1 and i == o
        self.around = nn.Identity() if same else nn.Conv2d(i, o, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o g v"]:
        """Returns what the block puts out."""
        made = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(made + self.around(x))


def _resnet(widths: tuple[int, ...], each: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.GroupNorm(2, widths[0]), nn.ReLU()]
    i = widths[0]
    for k, o in enumerate(widths):
        for block in range(each):
            layers.append(Residual(i, o, 2 if k and not block else 1))
            i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, 10))


def resnet8() -> nn.Module:
    """Returns ResNet-8 with group normalization."""
    return _resnet((16, 32, 64), 1)


def resnet20() -> nn.Module:
    """Returns ResNet-20 with group normalization."""
    return _resnet((16, 32, 64), 3)


def resnet18() -> nn.Module:
    """Returns ResNet-18 of width 64 with group normalization, for 32 x 32 images."""
    return _resnet((64, 128, 256, 512), 2)


class Attention(nn.Module):
    """Causal attention of 4 heads."""

    def __init__(self, d: int, fused: bool) -> None:
        """Makes it for tokens of d numbers; fused: whether by PyTorch's one function."""
        super().__init__()
        self.inner, self.outer, self.fused = nn.Linear(d, 3 * d), nn.Linear(d, d), fused

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Returns what each token gathers from those before it."""
        b, t, d = x.shape
        q, k, v = (part.view(b, t, 4, d // 4).transpose(1, 2) for part in self.inner(x).split(d, -1))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            hidden = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            scores = (q @ k.transpose(-2, -1) * (d // 4) ** -0.5).masked_fill(hidden, -torch.inf)
            y = scores.softmax(-1) @ v
        return self.outer(y.transpose(1, 2).reshape(b, t, d))


class Transformer(nn.Module):
    """A small language model: the scores of the next token at each place."""

    def __init__(self, fused: bool, d: int = 64, tokens: int = 64, t: int = 32) -> None:
        """Makes two layers."""
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, d), nn.Parameter(0.02 * torch.randn(t, d))
        self.attentions = nn.ModuleList([Attention(d, fused) for _ in range(2)])
        self.wide = nn.ModuleList([
            nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)) for _ in range(2)
        ])  # fmt: skip
        self.norms, self.last = nn.ModuleList([nn.LayerNorm(d), nn.LayerNorm(d)]), nn.LayerNorm(d)
        self.head = nn.Linear(d, tokens)

    def forward(self, x: Int64[Tensor, "b t"]) -> Float[Tensor, "b t k"]:
        """Returns the scores."""
        h = self.tokens(x) + self.places
        for norm, attention, wide in zip(self.norms, self.attentions, self.wide, strict=True):
            h = h + attention(norm(h))
            h = h + wide(h)
        return self.head(self.last(h))


def transformer() -> nn.Module:
    """Returns a Transformer whose attention is written out."""
    return Transformer(fused=False)


def transformer_sdpa() -> nn.Module:
    """Returns a Transformer that calls `scaled_dot_product_attention`."""
    return Transformer(fused=True)


class Recurrent(nn.Module):
    """A recurrent layer, and a head on its last output."""

    def __init__(self, layer: nn.RNNBase) -> None:
        """Makes the head."""
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, 10)

    def forward(self, x: Float[Tensor, "b t i"]) -> Float[Tensor, "b 10"]:
        """Returns the scores."""
        return self.head(self.layer(x)[0][:, -1])


def gru() -> nn.Module:
    """Returns a GRU of 64 units."""
    return Recurrent(nn.GRU(32, 64, batch_first=True))


def lstm() -> nn.Module:
    """Returns an LSTM of 64 units."""
    return Recurrent(nn.LSTM(32, 64, batch_first=True))


def frozen_mlp() -> nn.Module:
    """Returns a frozen perceptron with a head to train."""
    trunk = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
    return nn.Sequential(trunk.requires_grad_(False), nn.Linear(256, 10))


def frozen_conv() -> nn.Module:
    """Returns the convolutions of GN-LeNet, frozen, with a head to train."""
    return nn.Sequential(nn.Sequential(*_blocks()).requires_grad_(False), nn.Linear(1024, 10))


class Adapted(nn.Module):
    """A frozen linear layer with an adapter of low rank."""

    def __init__(self, d: int = 256, r: int = 4) -> None:
        """Makes the adapter, whose output is nearly 0."""
        super().__init__()
        self.base = nn.Linear(d, d).requires_grad_(False)
        self.down, self.up = nn.Linear(d, r, bias=False), nn.Linear(r, d, bias=False)
        nn.init.normal_(self.up.weight, std=1e-3)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Returns the sum of both."""
        return self.base(x) + self.up(self.down(x))


def lora() -> nn.Module:
    """Returns a frozen perceptron with adapters of rank 4, and a head to train."""
    return nn.Sequential(Adapted(), nn.ReLU(), Adapted(), nn.ReLU(), nn.Linear(256, 10))
