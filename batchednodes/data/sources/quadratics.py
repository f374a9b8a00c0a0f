r"""Quadratic losses, one a node: what theory of decentralized optimization is about.

Node i owns f_i(x) = |A_i x - B_i|^2 / 2 with the gradient A_i^T (A_i x - B_i), of all its examples at once: its d
examples are the rows of A_i, its targets those of B_i, both times sqrt(d / 2), since losses are means of squares. The
test set is d + 1 rows whose mean squared error is the mean of f_i over the nodes, whatever their number.

Reference:
    T. Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS 2021, section 5.1.

Notation: n nodes, d parameters of a model, mu curvature, zeta^2 heterogeneity, x* optimum of the mean of f_i.
"""

import math
import zipfile
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from batchednodes.data.sources import npz
from batchednodes.data.sources.base import FEATURES, NODE_WEIGHTS, WEIGHTS, Dataset, DataSizes, Source
from batchednodes.numerics import rng
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import check_sizes, count, number, shown

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")  # so that settings are read without PyTorch

_WRITE = "write one with numpy.savez(path, A=..., B=...)"

_NEAR = 1e-6
"""Slope at an optimum that is given, over that at 0 and its own curvature, up to which it is one."""


@dataclass(frozen=True)
class Quadratics(Source):
    """A quadratic loss |A_i x - B_i|^2 / 2 of each node i, with full gradients; models are x, and begin at 0.

    Without a path they are random: singular values of A_i evenly from `curvature` to 1, the optimum as far from 0 as
    `distance` says, and nodes that differ as `heterogeneity` says.

    Example:
        >>> import batchednodes
        >>> data = {"task.data": {"kind": "quadratics", "dimension": 3}, "timing.kind": "synchronous"}
        >>> run = batchednodes.train(data, {"network.nodes": 4, "local.lr": 0.5, "run.until": 300, "dtype": "float64"})
        >>> run.x.shape, bool(run.metrics["suboptimality"].iloc[-1] < 1e-20)  # a round is the mean of all models
        (torch.Size([4, 3]), True)
    """

    path: str | None = None
    """An .npz file of arrays A [n, d, d], B [n, d] and, if it is known, the optimum [d]; a relative path starts at the
    working directory; null: they are drawn."""

    dimension: int = 10
    """Parameters d of a model; at least 1."""

    heterogeneity: float = 1.0
    """zeta^2, the mean over nodes of the squared norm of their gradients at the optimum [dimensionless]; at least 0."""

    curvature: float = 0.5
    """mu, the least singular value of A_i [dimensionless]; in (0, 1]; the curvature of losses is from mu^2 to 1."""

    distance: float = 1.0
    """Distance of the optimum from 0, where models begin [dimensionless]; at least 0."""

    noise: float = 0.0
    """Length of the random part of each gradient, whose d entries are noise / sqrt(d) in size, each with a sign that is
    drawn for each node and step [dimensionless]; at least 0."""

    torch_seed: int | None = None
    """Seed of PyTorch's generator, from which the problem is drawn as the reference's public code draws it, so that its
    numbers can be compared, zeta^2 to 1e-5; in [0, 2^63); null: the run's seed draws it."""

    def __post_init__(self) -> None:
        drawn = {one.name: one.default for one in fields(self) if one.name != "path"}
        idle = [name for name, default in drawn.items() if self.path is not None and getattr(self, name) != default]
        if idle:
            raise ValueError(f"{' and '.join(idle)} must be left out where a path is given, whose arrays say it")
        check_sizes(dimension=self.dimension)
        number(self.heterogeneity, 1, "heterogeneity")
        number(self.distance, 1, "distance")
        number(self.noise, 1, "noise")
        if self.torch_seed is not None:
            count(self.torch_seed, 1, "torch_seed", low=0, high=2**63 - 1)
        number(self.curvature, 1, "curvature", high=1.0, open_low=True, open_high=False)

    def is_quadratic(self) -> bool:
        return True

    def gradient_noise(self) -> float:
        return self.noise

    def sizes(self, n: int) -> DataSizes:
        d = self.dimension if self.path is None else _shape(self.path, n)
        if self.path is None and n == 1 and self.heterogeneity:
            raise ValueError(f"heterogeneity must be 0 for one node, got {shown(self.heterogeneity)}; use more nodes")
        return DataSizes(n * d, min(n * d, d + 1), (d,), 1, is_classes=False)

    def load(self, n: int, seed: int) -> Dataset:
        sizes = self.sizes(n)
        (d,), optimum = sizes.features, None
        a, b = self._random(n, seed) if self.path is None else (_array(self.path, name) for name in ("A", "B"))
        rows = np.concatenate([a.reshape(n * d, d), b.reshape(n * d, 1)], 1)
        small = np.asarray(np.linalg.qr(rows, mode="r"))  # |small (x, -1)|^2 = sum_i |A_i x - B_i|^2
        if self.path is not None and "optimum" in _names(self.path):
            optimum = _checked(self.path, _array(self.path, "optimum"), small)
        else:
            optimum = np.linalg.lstsq(small[:, :d], small[:, d], rcond=None)[0]
        rows *= math.sqrt(d / 2)
        small *= math.sqrt(len(small) / (2 * n))
        node = np.repeat(np.arange(n, dtype=np.int64), d)
        sides = (part for side in (rows, small) for part in (side[:, :d].copy(), side[:, d:].copy()))
        return Dataset(*sides, classes=None, node=node, optimum=optimum)

    def _random(self, n: int, seed: int) -> tuple[Float64[np.ndarray, "n d d"], Float64[np.ndarray, "n d"]]:
        """Returns random A and B; the optimum of all nodes is where it is and as far as it should be."""
        d = self.dimension
        normal, apart, direction = self._normal(n, seed)
        left, _, right = np.linalg.svd(normal)
        a = left * np.linspace(self.curvature, 1.0, d) @ right
        own = np.einsum("nij,nj->ni", a, apart)
        common = np.linalg.lstsq(a.reshape(n * d, d), own.reshape(n * d), rcond=None)[0]
        own -= a @ common  # now the optimum is at 0
        slopes = np.einsum("nij,ni->nj", a, own)
        spread = (slopes**2).sum() / n
        if self.torch_seed is None:
            own *= math.sqrt(self.heterogeneity / spread) if self.heterogeneity else 0.0
        else:
            own *= _bisected(float(spread), self.heterogeneity)
        return a, own + a @ (self.distance * (direction / np.linalg.norm(direction)))

    def _normal(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns normal numbers of which A, the nodes' own optima and the direction of the common one are made."""
        d = self.dimension
        if self.torch_seed is None:
            drawn = ((FEATURES, (n, d, d)), (NODE_WEIGHTS, (n, d)), (WEIGHTS, (d,)))
            a, b, c = (rng.generator(seed, rng.DATA, key).standard_normal(shape) for key, shape in drawn)
            return a, b, c
        source = torch.Generator().manual_seed(self.torch_seed)
        shapes = ((n, d, d), (n, d, 1), (d, 1))
        a, b, c = (torch.randn(*one, generator=source, dtype=torch.float64).numpy() for one in shapes)
        return a, b[..., 0], c[..., 0]


def _bisected(spread: float, heterogeneity: float) -> float:
    """Returns the published factor of the nodes' differences, which is found by bisection, to 1e-5 of zeta^2.

    Args:
        spread: zeta^2 at a factor of 1.
        heterogeneity: zeta^2 that is wanted.
    """
    found, factor, low, high = 0.0, 1.0, 0.0, math.inf
    while abs(found**2 * spread - heterogeneity) > 1e-5 and factor != found:
        found = factor
        if found**2 * spread < heterogeneity:
            low = max(low, found)
        else:
            high = min(high, found)
        factor = 2 * found if high == math.inf else (low + high) / 2
    return found


# ------------------------------------------------------------------------------------------------------------- files


def _names(path: str) -> set[str]:
    """Returns the names of the arrays of a file."""
    with npz.opened(path, _WRITE) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def _shape(path: str, n: int) -> int:
    """Returns d, from the headers of the arrays, which are checked against one another.

    Raises:
        ValueError: an array is not there, or not of the shape that it must have for n nodes.
    """
    names = _names(path)
    for name in ("A", "B"):
        if name not in names:
            npz.fail(path, f"an array named {name}", ", ".join(sorted(names)[:10]) or "no arrays", _WRITE)
    with zipfile.ZipFile(path) as archive:
        headers = {name: npz.header(path, archive, name) for name in ("A", "B", "optimum") if name in names}
    for name, (_, dtype) in headers.items():
        if dtype.kind not in "iuf":
            npz.fail(path, f"real numbers in {name}", str(dtype), "convert it")
    shape = headers["A"][0]
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        npz.fail(path, "A of shape [nodes, d, d]", f"shape {shape}", "give each node a square matrix")
    nodes, d, _ = shape
    if nodes != n:
        npz.fail(path, f"one matrix for each of network.nodes = {n}", str(nodes), f"set network.nodes to {nodes}")
    for name, wanted in (("B", (nodes, d)), ("optimum", (d,))):
        if name in headers and math.prod(headers[name][0]) != math.prod(wanted):
            npz.fail(path, f"{name} of shape {wanted}", f"shape {headers[name][0]}", "reshape it")
    return d


def _array(path: str, name: str) -> np.ndarray:
    """Returns an array of a file, as float64."""
    with zipfile.ZipFile(path) as archive:
        found = npz.array(path, archive, name).astype(np.float64)
    if not np.isfinite(found).all():
        npz.fail(path, f"finite numbers in {name}", "others", "correct them")
    return found


def _checked(path: str, optimum: np.ndarray, small: np.ndarray) -> Float64[np.ndarray, " d"]:
    """Returns an optimum that is given.

    Raises:
        ValueError: it is none.
    """
    found, a, b = optimum.reshape(-1), small[:, :-1], small[:, -1]
    slope = np.linalg.norm(a.T @ (a @ found - b))
    if slope > _NEAR * (np.linalg.norm(a.T @ b) + np.linalg.norm(a.T @ (a @ found))):
        got = f"a slope of {slope:.3g} there"
        npz.fail(path, "an optimum at which the mean of all losses is least", got, "correct it, or leave it out")
    return found
