r"""Low rank: a row, folded into a matrix that is nearly square, by a projection on few directions.

    M = v folded to [a, b], a = ceil(sqrt(p)), filled up with zeros;    P = orthonormal basis of M Q;    C(v) = P P^T M,

Q [b, r] drawn anew for each message. What arrives is P and P^T M, r (a + b) numbers, and |v - C(v)| <= |v|.

Notation: w rows, p parameters, r rank, v rows that are compressed [w, p].

Reference:
    T. Vogels, S. P. Karimireddy, M. Jaggi, "PowerSGD: practical low-rank gradient compression for distributed
    optimization", NeurIPS 2019, which folds layer by layer, and starts from the Q of the message before.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.algorithms.compression.base import Compressor, Uniform
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class LowRank(Compressor):
    """The projection of a row, as a matrix, on a few random combinations of its columns.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.compression import LowRank
        >>> v = torch.tensor([[1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 3.0, 6.0, 9.0]])  # a matrix of rank 1
        >>> LowRank(rank=1, gamma=0.1).compress(v, lambda size: torch.full((1, size), 0.7)).round(decimals=4).tolist()
        [[1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 3.0, 6.0, 9.0]]
        >>> LowRank(rank=1, gamma=0.1).size(p=10_000, item=4)
        800
    """

    rank: int = 1
    """Rank r of what arrives; at least 1; where it is not less than that of the matrix, all arrives."""

    def __post_init__(self) -> None:
        count(self.rank, 1, "rank", high=10**6)
        super().__post_init__()

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        w, p = v.shape
        a, b = _shape(p)
        if self.rank >= b:
            return v
        kind = torch.promote_types(v.dtype, torch.float32)  # there is no QR of narrower numbers
        m = torch.nn.functional.pad(v, (0, a * b - p)).to(kind).view(w, a, b)
        q = 2 * uniform(b * self.rank).to(kind).view(w, b, self.rank) - 1
        basis = torch.linalg.qr(m @ q).Q
        return (basis @ (basis.mT @ m)).view(w, a * b)[:, :p].to(v.dtype)

    def size(self, p: int, item: int) -> int:
        a, b = _shape(p)
        return min(p, self.rank * (a + b)) * item


def _shape(p: int) -> tuple[int, int]:
    """Returns rows and columns of the matrix that p numbers are folded to."""
    a = math.isqrt(p - 1) + 1
    return a, -(-p // a)
