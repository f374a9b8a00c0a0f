r"""Gossip matrices: one wave of gossip as a sparse, row-stochastic matrix W, so that the wave is x <- W x.

A wave is a list of writes (j, i): row j becomes (1 - w) x_j + w x_i, all right-hand sides as they were before the wave.
A push i -> j is one write (j, i), a pull is one of the puller, a meeting two: (i, j) and (j, i), with one weight, so
that it keeps the mean. No row is written twice in a wave; rows that no write touches keep their value, and are not
stored.

Notation: n nodes, e writes of a wave, p parameters, W gossip matrix, w weight of the other's model in a write.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.numerics.rows import write_

_TOGETHER = 64
"""Columns that libraries work on at a time, or fewer: four vectors of AVX-512."""


@dataclass(frozen=True)
class GossipMatrix:
    """The rows of W that differ from the identity, as sparse CSR.

    Example:
        >>> import torch
        >>> from batchednodes import GossipMatrix
        >>> matrix = GossipMatrix.of(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.5]), n=3)  # of 0 to 1
        >>> matrix.dense().tolist()
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> matrix.apply_(x)
        >>> x.flatten().tolist()
        [0.0, 0.5, 2.0]

    Reference:
        S. Boyd, A. Ghosh, B. Prabhakar, D. Shah, "Randomized gossip algorithms", IEEE Trans. Inf. Theory 52(6), 2006.
    """

    rows: Int64[Tensor, " e"]
    """Rows that change, each once."""
    matrix: Tensor
    """These rows of W, sparse CSR [e, n]; each sums to 1; dimensionless."""

    @staticmethod
    def of(
        receivers: Int64[Tensor, " e"], senders: Int64[Tensor, " e"], weights: Float[Tensor, " e"], n: int
    ) -> "GossipMatrix":
        """Returns W of the writes x_j <- (1 - w) x_j + w x_i.

        Args:
            receivers: rows j, each at most once.
            senders: row i of each write; i = j only with w = 0, see `GossipPhase.without`.
            weights: w of each write, 0 <= w <= 1, dimensionless; sets the dtype of W.
            n: number of rows of x.
        """
        size = receivers.numel()
        return GossipMatrix(receivers, _csr(_begins(size, receivers.device), *_entries(receivers, senders, weights), n))

    def apply_(self, x: Float[Tensor, "n p"]) -> None:
        """Writes W x into x."""
        write_(x, self.rows, by_columns(lambda some: self.matrix @ some, x))

    def dense(self) -> Float[Tensor, "n n"]:
        """Returns all of W, with the identity where nothing changes; O(n^2), for small n."""
        w = torch.eye(self.matrix.shape[1], dtype=self.matrix.dtype, device=self.rows.device)
        w[self.rows] = self.matrix.to_dense()
        return w


def matrices(phase: GossipPhase, n: int) -> Iterator[GossipMatrix]:
    """Yields the gossip matrix of each wave of a phase, for n rows.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from batchednodes.algorithms.mixing.matrix import matrices
        >>> from batchednodes.algorithms.mixing.phase import GossipPhase
        >>> receivers, senders, times = torch.tensor([1, 2]), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.float64)
        >>> phase = GossipPhase(receivers, senders, senders, torch.full((2,), 0.5), times, np.array([0, 1, 2]), nodes=3)
        >>> first, second = (matrix.dense() for matrix in matrices(phase, 3))  # 0 pushes to 1, then 1 to 2
        >>> (second @ first).tolist()
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]
    """
    columns, values = _entries(phase.receivers, phase.senders, phase.weights)
    begins = _begins(int(np.diff(phase.waves).max(initial=0)), columns.device)
    for a, b in phase.spans():
        matrix = _csr(begins[: b - a + 1], columns[2 * a : 2 * b], values[2 * a : 2 * b], n)
        yield GossipMatrix(phase.receivers[a:b], matrix)


def by_columns(product: Callable[[Tensor], Tensor], x: Float[Tensor, "n p"]) -> Float[Tensor, "m p"]:
    """Returns what a product with all columns of x is, each of which rounds as if it were alone.

    Libraries round by how many columns there are, those that are left over from whole vectors otherwise than others:
    so there are none, but columns of zeros behind them.

    Args:
        product: maps x, with any number of columns, to as many.
        x: any.
    """
    size = x.shape[1] - x.shape[1] % _TOGETHER
    if size == x.shape[1]:
        return product(x)
    rest = x.new_zeros(x.shape[0], _TOGETHER)
    rest[:, : x.shape[1] - size] = x[:, size:]
    found = product(rest)[:, : x.shape[1] - size]
    return torch.cat([product(x[:, :size]), found], 1) if size else found.contiguous()


@functools.cache
def announce_beta() -> None:
    """Lets torch say, once and to nobody, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_csr_tensor([0, 1], [0], [1.0], size=(1, 1), check_invariants=False)


def _entries(receivers: Tensor, senders: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns columns and values of the two entries of each row, in order of columns.

    The columns are int32, which MKL and cuSPARSE take as they are.
    """
    swap = (senders < receivers).unsqueeze(1)
    columns = torch.stack([receivers, senders], 1)
    values = torch.stack([1 - weights, weights], 1)
    columns, values = torch.where(swap, columns.flip(1), columns), torch.where(swap, values.flip(1), values)
    return columns.flatten().int(), values.flatten()


def _begins(size: int, device: torch.device) -> Tensor:
    return torch.arange(0, 2 * size + 1, 2, dtype=torch.int32, device=device)


def _csr(begins: Tensor, columns: Tensor, values: Tensor, n: int) -> Tensor:
    """Returns the CSR matrix with two entries a row."""
    announce_beta()
    return torch.sparse_csr_tensor(begins, columns, values, size=(begins.numel() - 1, n), check_invariants=False)
