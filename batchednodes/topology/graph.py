r"""A stored graph: contact lists in CSR form, its components, and how fast gossip over it contracts.

Graphs are arrays, and built-in ones are made as arrays: networkx has Python objects of some hundred bytes for each
edge, and would have to be turned into arrays for compiled loops all the same.

Notation: n nodes, e contacts, i a node, j its contact, W gossip matrix of the graph.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float64, Int, Int32, Int64

from batchednodes.numerics import rng

DENSE = 500
"""Largest number of nodes whose eigenvalues are computed from a dense matrix."""
STEPS = 1000
"""Longest Lanczos iteration [products with W]."""
SETTLED, CLOSE = 1e-9, 1e-4
"""Error at which it ends sooner; and that of a gap which is only shown, over the gap."""
TRUSTED = 1e-3
"""Smallest gap taken from a Lanczos iteration, in error by about 1e-5 at most; smaller: by factorisation."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Whom each node contacts: node i contacts indices[indptr[i]:indptr[i + 1]], sorted, no loops, no repeats.

    Example:
        >>> import numpy as np
        >>> from batchednodes.topology import Graph
        >>> graph = Graph.of(4, np.array([0, 0]), np.array([1, 2]))
        >>> graph.degrees.tolist(), graph.is_connected  # node 3 has no neighbour
        ([2, 1, 1, 0], False)
        >>> graph.indices[graph.indptr[0] : graph.indptr[1]].tolist()  # the neighbours of node 0
        [1, 2]
    """

    n: int
    """Number of nodes, at least 1."""
    indptr: Int64[np.ndarray, " n1"]
    """Where the contacts of each node begin, and the end of the last; n + 1 entries."""
    indices: Int32[np.ndarray, " e"]
    """The contacts; an undirected edge is stored in both directions."""
    directed: bool = False
    """Whether i may contact j while j may not contact i."""

    def __post_init__(self) -> None:
        assert self.n == self.indptr.size - 1 >= 1
        assert self.indptr[-1] == self.indices.size

    @classmethod
    def of(cls, n: int, i: Int[np.ndarray, " e"], j: Int[np.ndarray, " e"], *, directed: bool = False) -> "Graph":
        """Returns the graph in which i[k] contacts j[k], and j[k] contacts i[k] unless directed.

        Example:
            >>> import numpy as np
            >>> from batchednodes.topology import Graph
            >>> i, j = np.array([0, 1, 0]), np.array([1, 0, 0])  # one edge twice, and a loop
            >>> Graph.of(2, i, j).indices.tolist()
            [1, 0]

        Args:
            n: number of nodes, at least 1.
            i, j: the ends of each edge, 0 <= i, j < n; loops are dropped, repeats merged.
            directed: whether an edge leads one way only.

        Raises:
            ValueError: an end is no node.
        """
        for end in (i, j):
            if end.size and not (end.min() >= 0 and end.max() < n):
                raise ValueError(f"edges must join nodes of 0 .. {n - 1}, got {end.min()} .. {end.max()}")
        i, j = i.astype(np.int64)[i != j], j.astype(np.int64)[i != j]
        keys = np.sort(i * n + j if directed else np.concatenate([i * n + j, j * n + i]))
        keys = keys[np.diff(keys, prepend=-1) > 0]
        rows, columns = np.divmod(keys, n)
        indptr = np.zeros(n + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=n), out=indptr[1:])
        return cls(n, indptr, columns.astype(np.int32), directed)

    @property
    def degrees(self) -> Int64[np.ndarray, " n"]:
        """Number of contacts of each node (of a directed graph: the out-degree)."""
        return np.diff(self.indptr)

    @property
    def is_connected(self) -> bool:
        """Whether information can reach every node, if edges may be used in both directions."""
        return self.components()[0] == 1

    def components(self) -> tuple[int, Int32[np.ndarray, " n"]]:
        """Returns the number of weakly connected components, and the component of each node.

        Example:
            >>> import numpy as np
            >>> from batchednodes.topology import Graph
            >>> count, part = Graph.of(5, np.array([0, 3]), np.array([1, 4])).components()
            >>> count, part.tolist()
            (3, [0, 0, 1, 2, 2])
        """
        count, label = scipy.sparse.csgraph.connected_components(
            self.adjacency(), directed=self.directed, connection="weak"
        )
        return int(count), label.astype(np.int32)

    def adjacency(self) -> "scipy.sparse.csr_array":
        """Returns the n x n matrix with a one for each contact (row i, column j)."""
        ones = np.ones(self.indices.size)
        return scipy.sparse.csr_array((ones, self.indices, self.indptr), shape=(self.n, self.n))

    def gossip_matrix(self) -> "scipy.sparse.csr_array":
        r"""Returns the row-stochastic weights W with which a node averages over its contacts and itself.

        Undirected, Metropolis--Hastings (symmetric, doubly stochastic):
            W[i, j] = 1 / (1 + max(deg i, deg j))    for each edge {i, j};
        directed, the random walk with equal weights, itself included:
            W[i, j] = 1 / (1 + deg i)                for each contact j of i;
        in both, W[i, i] = 1 - sum_{j != i} W[i, j] > 0.

        Example:
            >>> from batchednodes.topology import Star
            >>> Star().graph(4, 0).gossip_matrix().toarray()
            array([[0.25, 0.25, 0.25, 0.25],
                   [0.25, 0.75, 0.  , 0.  ],
                   [0.25, 0.  , 0.75, 0.  ],
                   [0.25, 0.  , 0.  , 0.75]])

        Reference:
            L. Xiao, S. Boyd, S. Lall, "A scheme for robust distributed sensor fusion based on average consensus",
            IPSN 2005.
        """
        own = np.repeat(self.degrees, self.degrees)
        larger = own if self.directed else np.maximum(own, self.degrees[self.indices])
        w = scipy.sparse.csr_array((1 / (1 + larger), self.indices, self.indptr), shape=(self.n, self.n))
        return (w + scipy.sparse.diags_array(1 - w.sum(axis=1))).tocsr()

    def spectral_gap(self) -> float:
        """Returns 1 - |lambda_2|, lambda_2 the second largest eigenvalue, by modulus, of `gossip_matrix()`.

        Dimensionless, in [0, 1]: 0 for a graph that is not connected, 1 for a single node. Applying W leaves at most
        1 - gap of the distance to consensus where the graph is undirected; in the long run also where it is directed.

        Example:
            >>> from batchednodes.topology import Complete, Exponential, Ring
            >>> [round(Ring().graph(n, 0).spectral_gap(), 4) for n in (10, 100)]  # of order 1/n^2
            [0.1273, 0.0013]
            >>> [round(Exponential().graph(n, 0).spectral_gap(), 4) for n in (10, 100)]  # of order 1/log(n)
            [0.4, 0.25]

        Raises:
            ValueError: the graph is directed, has over 500 nodes, and mixes so slowly that no eigenvalue is found.
        """
        if self.n == 1 or not self.is_connected:
            return float(self.n == 1)
        return min(1.0, max(0.0, 1.0 - second_modulus(self.gossip_matrix(), self.directed)))


def second_modulus(w: "scipy.sparse.csr_array", directed: bool) -> float:
    """Returns the second largest modulus of an eigenvalue of a matrix with rows of sum 1.

    Args:
        w: of a connected graph; symmetric unless directed.
        directed: whether it is not.

    Raises:
        ValueError: it is directed, of over 500 nodes, and mixes so slowly that no eigenvalue is found.
    """
    n = w.indptr.size - 1
    if n <= DENSE:
        # W - 11'/n has the eigenvalues of W, with the 1 of the constant vector replaced by 0 (Wielandt deflation)
        flat = w.toarray() - 1 / n
        return float(np.abs(np.linalg.eigvals(flat) if directed else np.linalg.eigvalsh(flat)).max())
    start = some_vector(n)
    if directed:
        try:
            return float(np.abs(scipy.sparse.linalg.eigs(w, 2, v0=start, ncv=32, maxiter=50)[0]).min())
        except scipy.sparse.linalg.ArpackNoConvergence:
            raise ValueError(
                f"spectral gap of a directed graph with {n} nodes cannot be found: it mixes too slowly; "
                f"use an undirected graph or at most {DENSE} nodes"
            ) from None
    found = largest_modulus(w, start, 1 - TRUSTED)
    if found < 1 - TRUSTED:
        return found
    # A poorly connected graph: its eigenvalues crowd near 1, but its sparse factorisation is cheap
    near = float(scipy.sparse.linalg.eigsh(w.tocsc(), 2, sigma=1 + 1e-9, v0=start)[0].min())  # the 1, and the next
    if near >= 1 - 2 * w.diagonal().min():  # no eigenvalue is below 2 min W[i, i] - 1 (Gershgorin)
        return near
    return max(near, abs(float(scipy.sparse.linalg.eigsh(w.tocsc(), 1, sigma=-1.0, v0=start)[0][0])))


def some_vector(n: int) -> Float64[np.ndarray, " n"]:
    """Returns a vector to start iterations from: any will do, and a fixed one repeats its answer."""
    return rng.uniforms(0, rng.GRAPH, np.arange(n), 1)[:, 0] - 0.5


def largest_modulus(w: "scipy.sparse.csr_array", start: Float64[np.ndarray, " n"], enough: float = math.inf) -> float:
    """Returns the largest modulus of an eigenvalue of a symmetric W on vectors of mean 0, from below.

    Args:
        w: the constant vector is an eigenvector of it.
        start: some vector.
        enough: that it is at least so large may be all that is asked.
    """
    known, found = np.full_like(start, start.size**-0.5), 0.0
    for diagonal, beside in _lanczos(w, start, known, STEPS):
        ends = [_ritz(diagonal, beside, place) for place in (0, len(diagonal) - 1)]
        found = max(abs(value) for value, _ in ends)
        if found >= enough or all(error <= SETTLED or abs(value) + error < found for value, error in ends):
            break
    return found


def eigenvalue_below(w: "scipy.sparse.csr_array", bound: float) -> float | None:
    """Returns about the least eigenvalue of a symmetric matrix with rows of sum 1, if that is below a bound; else None.

    Args:
        w: the matrix; no entry is negative.
        bound: below 1.
    """
    if 2 * w.diagonal().min() - 1 >= bound:  # no eigenvalue is below 2 min W[i, i] - 1 (Gershgorin)
        return None
    n, found = w.indptr.size - 1, math.inf
    if n <= DENSE:
        found = float(np.linalg.eigvalsh(w.toarray())[0])
        return found if found < bound else None
    for diagonal, beside in _lanczos(w, some_vector(n), np.full(n, n**-0.5), STEPS):
        found, error = _ritz(diagonal, beside, 0)
        if error <= (CLOSE if found < bound else SETTLED) or found - error >= bound:
            break
    return found if found < bound else None


def second_eigenvalue(s: "scipy.sparse.csr_array", known: Float64[np.ndarray, " n"], steps: int) -> float | None:
    """Returns the second largest eigenvalue l of a symmetric matrix whose largest is 1, from below.

    Args:
        s: the matrix; 1 is a simple eigenvalue.
        known: its eigenvector.
        steps: the most products with the matrix.

    Returns:
        l, in error by at most 1e-4 (1 - l); None: it was not found in these steps.
    """
    known = known / math.sqrt(_dot(known, known))
    for diagonal, beside in _lanczos(s, some_vector(known.size), known, steps):
        value, error = _ritz(diagonal, beside, len(diagonal) - 1)
        if error <= CLOSE * (1 - value):
            return value
    return None


def _lanczos(
    w: "scipy.sparse.csr_array", start: Float64[np.ndarray, " n"], known: Float64[np.ndarray, " n"], steps: int
) -> Iterator[tuple[list[float], list[float]]]:
    """Yields, now and then and at last, the tridiagonal matrix of the Lanczos iteration on vectors orthogonal to one.

    It is the diagonal, and what stands beside it, with the norms of the first vector before and of the rest behind.
    Without reorthogonalisation: rounding repeats eigenvalues that have been found, and moves none.
    """
    old, new = np.zeros_like(start), start - known * _dot(known, start)
    diagonal, beside = list[float](), [math.sqrt(_dot(new, new))]
    for step in range(1, steps + 1):
        old, new = new / beside[-1], w @ (new / beside[-1]) - (beside[-1] if diagonal else 0.0) * old
        diagonal.append(_dot(old, new))
        new = new - diagonal[-1] * old
        new -= known * _dot(known, new)
        beside.append(math.sqrt(_dot(new, new)))
        ends = beside[-1] < 1e-10  # an invariant subspace: all its eigenvalues are found
        if ends or step % 25 == 0 or step == steps:
            yield diagonal, beside
        if ends:
            return


def _dot(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> float:
    """Returns the inner product; by numpy itself, since threads of BLAS may wait for milliseconds on a busy machine."""
    return float(np.einsum("i,i->", x, y))


def _ritz(diagonal: list[float], beside: list[float], place: int) -> tuple[float, float]:
    """Returns an eigenvalue of the tridiagonal matrix, and how far at most one of W is from it."""
    value, vector = scipy.linalg.eigh_tridiagonal(diagonal, beside[1:-1], select="i", select_range=(place, place))
    return float(value[0]), float(beside[-1] * abs(vector[-1, 0]))
