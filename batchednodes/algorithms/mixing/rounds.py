r"""A synchronous round: all rows of a network mixed by one gossip matrix, x <- W x; by their mean where W is 1/n.

Where W has rank one, W = 1 w^T, it is never made: all rows come to the weighted mean w^T x.

Notation: n nodes of a network, p numbers of a row, t tracked sources, W gossip matrix, N versions.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor

from batchednodes.algorithms.mixing.matrix import announce_beta, by_columns
from batchednodes.numerics.memory import send
from batchednodes.topology import RoundLaw

_TOGETHER, _KEPT = 2**18, 2**22
"""Numbers of rows, and of W, that are mixed at once at most: calls for fewer take longer than their work; and of the
joined W that are kept."""


class RoundMatrix:
    """W of one network in one round, on a device.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.mixing.rounds import RoundMatrix
        >>> mean = RoundMatrix(None, torch.device("cpu"), torch.float32)
        >>> mean.times(torch.tensor([[0.0], [1.0], [5.0]])).flatten().tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(
        self, matrix: "scipy.sparse.csr_array | np.ndarray | None", device: torch.device, dtype: torch.dtype,
        blocks: "tuple[RoundMatrix, ...]" = (),
    ) -> None:  # fmt: skip
        """Takes W, with its diagonal; a vector: each of its rows; None: 1/n everywhere; and what the rows of x are.

        One of several networks side by side is block-diagonal, and has the W of each as blocks.
        """
        self.device, self.dtype, self.row, self.blocks = device, dtype, None, blocks
        self.matrix = None if isinstance(matrix, np.ndarray) else matrix
        if isinstance(matrix, np.ndarray):
            self.row = send(matrix, device).to(dtype)
            self.some = send(np.flatnonzero(torch.from_numpy(matrix).to(dtype)), device)
        elif matrix is not None:
            parts = (matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data.copy())
            begins, columns, values = (send(a, device) for a in parts)
            announce_beta()
            self.sparse = torch.sparse_csr_tensor(begins, columns, values.to(dtype), size=matrix.shape)

    def times(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """Returns W x; each column is what it would be alone, so that ranks may have some of them each."""
        return by_columns(self._times, x)

    def _times(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        if self.row is not None:
            return (self.row[self.some] @ x.index_select(0, self.some)).expand_as(x).contiguous()
        if self.matrix is None:
            return x.mean(0, keepdim=True).expand_as(x).contiguous()
        return self.sparse @ x

    def own(self, n: int) -> Float[Tensor, " n"]:
        """Returns the weights of n rows' own models."""
        diagonal = np.full(n, 1.0 / n) if self.matrix is None else self.matrix.diagonal()
        return send(diagonal, self.device).to(self.dtype)

    def received(self, sent: Shaped[Tensor, "n p"]) -> Shaped[Tensor, "n p"]:
        """Returns the sum of what the others send whom W mixes into each row."""
        if self.row is not None:
            return sent[self.some].sum(0, keepdim=True) - torch.where((self.row != 0).unsqueeze(1), sent, 0)
        if self.matrix is None:
            return sent.sum(0, keepdim=True) - sent
        others, _, here = self._around
        found = torch.zeros_like(sent)
        for k in range(others.shape[1]):
            found += torch.where(here[:, k : k + 1], sent[others[:, k]], 0)
        return found

    def of_edges(self, others: Int64[Tensor, "n d"], here: Bool[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Returns W[row, other] of all rows and d others of each, given on the host; 0 for those that are not there."""
        there = send(here, self.device)
        if self.row is not None:
            return self.row[send(others, self.device)] * there
        if self.matrix is None:
            return there.to(self.dtype) / here.shape[0]
        if not others.numel():
            return there.to(self.dtype)
        index = others.numpy()
        rows = np.broadcast_to(np.arange(index.shape[0])[:, None], index.shape)
        found = np.asarray(self.matrix[rows.ravel(), index.ravel()]).reshape(index.shape)
        return send(found, self.device).to(self.dtype) * there

    def around(self, n: int) -> tuple[Int64[Tensor, "n d"], Float[Tensor, "n d"], Bool[Tensor, "n d"]]:
        """Returns the others that W mixes into each of n rows, their weights, and which of the d places are taken."""
        if self.row is not None:
            others = self.some.expand(n, -1)
            return others, self.row[others], others != torch.arange(n, device=self.device).unsqueeze(1)
        if self.matrix is None:
            places = torch.arange(n - 1, device=self.device)
            others = places + (places >= torch.arange(n, device=self.device).unsqueeze(1))
            return others, torch.full(others.shape, 1.0 / n, dtype=self.dtype, device=self.device), others >= 0
        return self._around

    @functools.cached_property
    def _around(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.matrix is not None
        found = self.matrix.tocoo()
        off = found.row != found.col
        row, column, values = found.row[off], found.col[off], found.data[off]
        degree = np.bincount(row, minlength=self.matrix.shape[0])
        place = np.arange(row.size) - np.repeat(np.cumsum(degree) - degree, degree)
        others = np.zeros((degree.size, int(degree.max(initial=0))), np.int64)
        weights, here = np.zeros(others.shape), np.zeros(others.shape, bool)
        others[row, place], weights[row, place], here[row, place] = column, values, True
        known = (send(a, self.device) for a in (others, weights, here))
        index, w, taken = known
        return index, w.to(self.dtype), taken

    def dense(self, n: int) -> Float[Tensor, "n n"]:
        """Returns all of W, for n nodes; O(n^2), for small n."""
        if self.row is not None:
            return self.row.expand(n, n).contiguous()
        if self.matrix is None:
            return torch.full((n, n), 1.0 / n, dtype=self.dtype, device=self.device)
        return self.sparse.to_dense()

    def newest(self, versions: Int[Tensor, "n t"]) -> Int[Tensor, "n t"]:
        """Returns the largest version of each source among the rows that W mixes into each row, its own included."""
        if self.row is not None:
            return torch.maximum(versions, versions.index_select(0, self.some).amax(0, keepdim=True))
        if self.matrix is None:
            return versions.amax(0, keepdim=True).expand_as(versions).contiguous()
        new, degree = versions.clone(), np.diff(self.matrix.indptr)
        for k in range(int(degree.max(initial=0))):
            rows = np.flatnonzero(degree > k)
            other = send(self.matrix.indices[self.matrix.indptr[rows] + k].astype(np.int64), self.device)
            some = send(rows, self.device)
            new.index_copy_(0, some, torch.maximum(new.index_select(0, some), versions.index_select(0, other)))
        return new


class RoundMatrices:
    """The gossip matrices of the rounds of some networks, each made once where it does not change."""

    def __init__(
        self, weights: tuple[RoundLaw, ...], device: torch.device, dtype: torch.dtype,
        silent: tuple[tuple[int, ...], ...] | None = None,
    ) -> None:  # fmt: skip
        """Takes the law of each network, what the rows of x are, and the nodes of each from whom nothing comes."""
        self.weights, self.device, self.dtype = weights, device, dtype
        self.silent = silent or ((),) * len(weights)
        self.made: dict[tuple[int, int], RoundMatrix] = {}
        self._joined: dict[tuple[RoundMatrix, ...], RoundMatrix] = {}
        self._filled = 0

    def of(self, g: int, k: int) -> RoundMatrix:
        """Returns W of network g in round k."""
        key = (g, self.weights[g].repeats(k))
        if key not in self.made:
            self.made = {kept: one for kept, one in self.made.items() if kept[0] != g or self.weights[g].few}
            matrix = self.weights[g].matrix(k)
            if self.silent[g]:
                matrix = silenced(matrix, self.silent[g], self.weights[g].sent(k).size)
            self.made[key] = RoundMatrix(matrix, self.device, self.dtype)
        return self.made[key]

    def together(
        self, parts: Sequence[tuple[slice, RoundMatrix, int]], width: int
    ) -> Iterator[tuple[slice, RoundMatrix, int]]:
        """Yields networks and their W with small ones that lie side by side as one, by which each row is what it was.

        Many products of a few numbers each take most of their time to be called. On a CPU each row of a sparse product
        is summed alone, so its bits are the same; of other devices that is not known, and networks stay apart.

        Args:
            parts: rows of networks, W of each, and the number of its round.
            width: numbers that a row has, with those of its edges.
        """
        run, rows, filled = list[tuple[slice, RoundMatrix, int]](), 0, 0
        for nodes, matrix, k in parts:
            n, numbers = nodes.stop - nodes.start, 0 if matrix.matrix is None else matrix.matrix.nnz
            apart = matrix.matrix is None or matrix.device.type != "cpu"
            fits = (rows + n) * width <= _TOGETHER and filled + numbers <= _TOGETHER
            if run and (apart or not fits or run[-1][0].stop != nodes.start or run[-1][2] != k):
                yield self._as_one(run)
                run, rows, filled = [], 0, 0
            if apart:
                yield nodes, matrix, k
                continue
            run.append((nodes, matrix, k))
            rows, filled = rows + n, filled + numbers
        if run:
            yield self._as_one(run)

    def _as_one(self, run: Sequence[tuple[slice, RoundMatrix, int]]) -> tuple[slice, RoundMatrix, int]:
        """Returns the rows of some networks, and the block-diagonal matrix of their W."""
        key = tuple(matrix for _, matrix, _ in run)
        nodes = slice(run[0][0].start, run[-1][0].stop)
        if len(key) == 1:
            return run[0]
        if key not in self._joined:
            made = _block_diagonal(key)
            self._filled += made.nnz
            if self._filled > _KEPT:  # of graphs that change all the time
                self._joined, self._filled = {}, made.nnz
            self._joined[key] = RoundMatrix(made, self.device, self.dtype, key)
        return nodes, self._joined[key], run[0][2]


def _block_diagonal(matrices: Sequence[RoundMatrix]) -> "scipy.sparse.csr_array":
    """Returns sparse matrices along a diagonal, with the numbers of each row in the order that they had."""
    each = [one.matrix for one in matrices if one.matrix is not None]
    rows, filled = (np.cumsum([0, *sizes]) for sizes in ([m.shape[0] for m in each], [m.nnz for m in each]))
    values = np.concatenate([m.data for m in each])
    columns = np.concatenate([m.indices + first for m, first in zip(each, rows[:-1], strict=True)])
    begins = [m.indptr[:-1] + first for m, first in zip(each, filled[:-1], strict=True)]
    return scipy.sparse.csr_array((values, columns, np.concatenate([*begins, filled[-1:]])), shape=(rows[-1], rows[-1]))


def silenced(
    matrix: "scipy.sparse.csr_array | np.ndarray | None", silent: tuple[int, ...], n: int
) -> "scipy.sparse.csr_array":
    """Returns W with the weights of some nodes at others given to those others' own models.

    Example:
        >>> from batchednodes.algorithms.mixing.rounds import silenced
        >>> silenced(None, (0,), 2).toarray().tolist()
        [[0.5, 0.5], [0.0, 1.0]]
    """
    found = scipy.sparse.coo_array(np.full((n, n), 1.0 / n) if matrix is None else matrix)
    away = np.isin(found.col, silent) & (found.col != found.row)
    column = np.where(away, found.row, found.col)
    return scipy.sparse.csr_array((found.data, (found.row, column)), shape=(n, n))
