r"""Sparsification: a message brings some entries, and the others count as 0.

    top_k:       the k entries of largest magnitude, and where they are;
    random_k:    k entries drawn at random, of which the receiver knows which they are, times p / k where C is unbiased.

Notation: w rows, p parameters, k entries of a message, v rows that are compressed [w, p].

References:
    D. Alistarh et al., "The convergence of sparsified gradient methods", NeurIPS 2018.
    S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory", NeurIPS 2018.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.algorithms.compression.base import Compressor, Uniform
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class TopK(Compressor):
    """The entries of largest magnitude.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.compression import TopK
        >>> top = TopK(share=0.5, gamma=0.1)
        >>> top.compress(torch.tensor([[3.0, -1.0, 2.0, -4.0]]), torch.rand).tolist()
        [[3.0, 0.0, 0.0, -4.0]]
        >>> top.size(p=10_000, item=4)  # half of the numbers, and a bit of each that says whether it is there
        21250
    """

    share: float = 0.01
    """Part of the entries, k / p [dimensionless]; in (0, 1]; k is rounded to a whole number, at least 1."""

    def __post_init__(self) -> None:
        number(self.share, 1, "share", open_low=True, high=1.0, open_high=False)
        super().__post_init__()

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        k = _entries(self.share, v.shape[1])
        return v if k == v.shape[1] else _kept(v, v.abs(), k)

    def size(self, p: int, item: int) -> int:
        k = _entries(self.share, p)
        return min(p * item, k * item + min(4 * k, -(-p // 8)))  # places by their numbers, or by a bit each


@dataclass(frozen=True)
class RandomK(Compressor):
    """Entries drawn at random, anew for each message.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.compression import RandomK
        >>> uniform = lambda size: torch.tensor([[0.9, 0.2, 0.6, 0.7]])
        >>> RandomK(share=0.5, gamma=0.1).compress(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), uniform).tolist()
        [[1.0, 0.0, 0.0, 4.0]]
        >>> RandomK(share=0.5, feedback="dcd").compress(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), uniform).tolist()
        [[2.0, 0.0, 0.0, 8.0]]
    """

    share: float = 0.01
    """Part of the entries, k / p [dimensionless]; in (0, 1]; k is rounded to a whole number, at least 1."""

    def __post_init__(self) -> None:
        number(self.share, 1, "share", open_low=True, high=1.0, open_high=False)
        super().__post_init__()

    def compress(self, v: Tensor, uniform: Uniform) -> Tensor:
        p = v.shape[1]
        k = _entries(self.share, p)
        if k == p:
            return v
        found = _kept(v, uniform(p), k)
        return found * (p / k) if self.unbiased else found

    def size(self, p: int, item: int) -> int:
        return _entries(self.share, p) * item


def _entries(share: float, p: int) -> int:
    """Returns k."""
    return max(1, round(share * p))


def _kept(v: Tensor, rank: Tensor, k: int) -> Tensor:
    """Returns rows with all but the k entries of largest rank made 0."""
    index = rank.topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(v).scatter_(1, index, v.gather(1, index))
