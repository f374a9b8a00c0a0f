r"""Quantization: every entry arrives, in fewer bits.

    sign:       C(v) = |v|_1 / p sign(v), one bit an entry;
    qsgd:       C(v) = |v|_2 sign(v) floor(s |v| / |v|_2 + u) / s, u uniform on (0, 1), divided by
                1 + min(p / s^2, sqrt(p) / s) where C need not be unbiased;
    float8:     8-bit floats of v, scaled so that the largest entry is the largest of them;
    float16:    16-bit floats.

Each but the last brings one number besides, the norm or the scale.

Notation: w rows, p parameters, s levels, v rows that are compressed [w, p].

References:
    D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnovic, "QSGD: communication-efficient SGD via gradient quantization
    and encoding", NeurIPS 2017.
    S. P. Karimireddy, Q. Rebjock, S. U. Stich, M. Jaggi, "Error feedback fixes SignSGD and other gradient compression
    schemes", ICML 2019.
    P. Micikevicius et al., "FP8 formats for deep learning", arXiv 2209.05433, 2022.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchednodes.algorithms.compression.base import Compressor, Feedback, Uniform
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class Sign(Compressor):
    """Signs, times the mean magnitude of the row; that of 0 counts as +, since it has one bit.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.compression import Sign
        >>> Sign(gamma=0.4).compress(torch.tensor([[3.0, -1.0, 2.0, -6.0]]), torch.rand).tolist()
        [[3.0, -3.0, 3.0, -3.0]]
        >>> Sign(gamma=0.4).size(p=1000, item=4)  # bits, and the mean magnitude
        129
    """

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        mean = v.abs().mean(1, keepdim=True)
        return torch.where(v < 0, -mean, mean)

    def size(self, p: int, item: int) -> int:
        return -(-p // 8) + item


@dataclass(frozen=True)
class QSGD(Compressor):
    """Multiples of a part of the row's norm, rounded at random.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.compression import QSGD
        >>> half = lambda size: torch.full((1, size), 0.5)
        >>> QSGD(levels=5, feedback="none").compress(torch.tensor([[3.0, -4.0, 0.0]]), half).tolist()
        [[3.0, -4.0, 0.0]]
        >>> QSGD(levels=7, feedback="none").size(p=1000, item=4)  # 15 values: 4 bits an entry
        504
    """

    levels: int = 16
    """Levels s of magnitude besides 0; at least 1."""

    def __post_init__(self) -> None:
        count(self.levels, 1, "levels", high=1 << 20)
        super().__post_init__()

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        s, p = self.levels, v.shape[1]
        norm = v.norm(dim=1, keepdim=True)
        scaled = torch.where(norm > 0, v.abs() / norm, 0.0) * s
        found = v.sign() * norm * ((scaled + uniform(p)).floor() / s)
        return found if self.unbiased else found / (1 + min(p / s**2, math.sqrt(p) / s))

    def size(self, p: int, item: int) -> int:
        return -(-p * (2 * self.levels).bit_length() // 8) + item  # 2 s + 1 values


@dataclass(frozen=True)
class Float8(Compressor):
    """8-bit floats, rounded to the nearest, with a scale of each message.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.compression import Float8
        >>> Float8().compress(torch.tensor([[448.0, -1.06]]), torch.rand).tolist()  # four significant bits
        [[448.0, -1.0]]
    """

    format: Literal["e4m3", "e5m2"] = "e4m3"
    """Bits of exponent and mantissa: e4m3 rounds finer, e5m2 reaches smaller entries."""

    _: KW_ONLY
    feedback: Feedback = "none"
    """As of other kinds."""

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        small = torch.float8_e4m3fn if self.format == "e4m3" else torch.float8_e5m2
        largest = v.abs().amax(1, keepdim=True)
        scale = torch.where(largest > 0, largest / torch.finfo(small).max, 1.0)
        return (v / scale).to(torch.float32).to(small).to(v.dtype) * scale

    def size(self, p: int, item: int) -> int:
        return p + item


@dataclass(frozen=True)
class Float16(Compressor):
    """16-bit floats, rounded to the nearest; what is too large for them arrives as the largest of them.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.compression import Float16
        >>> Float16().compress(torch.tensor([[1e6, 1.0001]]), torch.rand).tolist()
        [[65504.0, 1.0]]
        >>> Float16().size(p=1000, item=4)
        2000
    """

    format: Literal["float16", "bfloat16"] = "float16"
    """IEEE half precision, of 11 significant bits; or the range of float32, with 8."""

    _: KW_ONLY
    feedback: Feedback = "none"
    """As of other kinds."""

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        small = torch.float16 if self.format == "float16" else torch.bfloat16
        most = torch.finfo(small).max
        return v.clamp(-most, most).to(small).to(v.dtype)

    def size(self, p: int, item: int) -> int:
        return 2 * p
