"""Modules of a user's own, for tests of `model: {kind: python}`."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Counter(nn.Module):
    """Counts its calls in a buffer: state that rows cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


class Branching(nn.Module):
    """Branches on its data, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if y.sum() > 0 else -y


class Noisy(nn.Module):
    """Draws random numbers in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + torch.randn_like(x))


class Tied(nn.Module):
    """Uses one weight twice, keeps a buffer and a frozen layer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(width, 1)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(self.frozen(x)))))) * self.scale


class Centred(nn.Module):
    """Subtracts the mean of the minibatch from each example."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - x.mean(0, keepdim=True))


def small_cnn(channels: int = 3) -> nn.Module:
    """A convolutional classifier of 8x8 images with 10 labels."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, channels, 3), nn.GroupNorm(1, channels), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(channels * 9, 10),
    )  # fmt: skip


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 1))


def empty() -> nn.Module:
    return nn.Flatten()


def not_a_module() -> int:
    return 3


class Distances(nn.Module):
    """Puts out the distance to a centre, whose second derivative PyTorch does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.ones(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.centre, p=1.5)


def nowhere() -> nn.Module:
    """A linear module whose weights are not finite."""
    module = nn.Linear(4, 1)
    nn.init.constant_(module.bias, torch.inf)
    return module


class Dropped(nn.Module):
    """Drops inputs, a hidden layer, twice by one layer, and the same in evaluation mode if asked."""

    def __init__(self, p: float = 0.3, width: int = 4, outputs: int = 1, *, always: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, 6), nn.Linear(6, outputs)
        self.drop, self.p, self.always = nn.Dropout(p), p, always

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(torch.tanh(self.first(self.drop(x))))
        return self.last(F.alpha_dropout(hidden, self.p, self.training or self.always))


class Tokens(nn.Module):
    """Puts out a vector for each sequence of tokens `base`, base + 1, ..., or logits of the next token for each."""

    def __init__(self, vocabulary: int = 5, outputs: int = 2, base: int = 0, each: bool = False) -> None:
        super().__init__()
        self.vectors, self.linear = nn.Embedding(vocabulary, 4), nn.Linear(4, outputs)
        self.base, self.each = base, each

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.vectors(x - self.base)
        return self.linear(vectors if self.each else vectors.mean(1))


class Hot(nn.Module):
    """A linear function of one-hot vectors."""

    def __init__(self, vocabulary: int = 5, outputs: int = 2) -> None:
        super().__init__()
        self.linear, self.vocabulary = nn.Linear(max(1, vocabulary), outputs), vocabulary

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.one_hot(x, self.vocabulary).to(self.linear.weight.dtype).mean(1))


def pixels(classes: int = 3, last: bool = True) -> nn.Module:
    """Logits of each pixel of a grey image, with classes in the last dimension, or in PyTorch's place."""

    class Pixels(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y.movedim(1, -1) if last else y

    return Pixels(1, classes, 3, padding=1)


def flat(features: int = 3, outputs: int = 2) -> nn.Module:
    """A linear model, which takes real numbers only."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, outputs))


class Tiny(nn.Module):
    """Learns numbers that are too small to be normal, if `local.lr` is 1e-40, beside random ones that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 4)
        self.last = nn.Linear(4, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))
