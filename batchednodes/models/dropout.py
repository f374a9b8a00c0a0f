r"""Dropout by address: a mask is a pure function of (seed, node, update, step, call, element), never of a generator.

The key of a minibatch step is Philox's at (seed, node, update, step), see `minibatches.Sampler.keyed`; SplitMix64's
finalizer makes the bits of each element from it, by operations on integers that every device has and `torch.func.vmap`
carries.

References:
    N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.
    G. Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017 (alpha dropout).
    G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

_GOLDEN, _CALL = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
"""Odd numbers that elements, and calls, are multiplied by."""

_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))

_ALPHA = -1.7580993408473766
"""What a unit of SELU goes to far on the negative side."""


def _signed(word: int) -> int:
    """Returns the signed integer of the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Returns words shifted to the right, with zeros from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def stepped(size: int, device: torch.device) -> Int64[Tensor, " size"]:
    """Returns what elements 0, ..., size - 1 of a tensor, in row-major order, add to the key of a step."""
    return torch.arange(size, device=device) * _signed(_GOLDEN)


def mixed(z: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Returns words whose bits look random, each a function of its own."""
    for bits, factor in _MIX:
        z = (z ^ _shifted(z, bits)) * _signed(factor)
    return z ^ _shifted(z, 31)


def kept(key: Int64[Tensor, ""], call: int, shape: Sequence[int], p: float) -> Bool[Tensor, "..."]:
    """Returns which elements of a tensor a dropout keeps, each with probability 1 - p.

    Args:
        key: of the minibatch step.
        call: number of the dropout within the forward pass: 0, 1, 2, ...
        shape: of the tensor.
        p: probability of being dropped; 0 <= p <= 1.
    """
    z = mixed(key + _signed(call * _CALL % (1 << 64)) + stepped(math.prod(shape), key.device).view(*shape))
    return z >= min(round(p * 2.0**64) - (1 << 63), (1 << 63) - 1)


def drop(x: Tensor, mask: Bool[Tensor, "..."], p: float) -> Tensor:
    """Returns x where a mask keeps it, over 1 - p, and 0 elsewhere."""
    return x * mask.to(x.dtype) / (1 - p) if p < 1 else x * 0.0


def alpha_drop(x: Tensor, mask: Bool[Tensor, "..."], p: float) -> Tensor:
    """Returns x where a mask keeps it and SELU's lowest value elsewhere, scaled to the mean and variance of x."""
    if p == 1:
        return x * 0.0
    a = 1 / math.sqrt((1 - p) * (1 + p * _ALPHA**2))
    some = mask.to(x.dtype)
    return a * (x * some + _ALPHA * (1 - some)) - a * _ALPHA * p
