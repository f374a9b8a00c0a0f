r"""Models of networks together: their means, how far apart they are, how long, and which are not finite.

Notation: g networks, n nodes, p parameters, x models.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.state import State
from batchednodes.numerics import devices
from batchednodes.numerics.memory import arriving
from batchednodes.topology import Networks

_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Numbers of models whose sums are taken at once: on the CPU so few that caches hold them in float64."""


def consensus(
    x: Float[Tensor, "g n p"], kept: Bool[Tensor, "g n"] | None = None, mixed: Bool[Tensor, "g p"] | None = None
) -> tuple[Float64[Tensor, "g p"], Float64[Tensor, "g n"]]:
    """Returns the mean model of each network and the distance of each model from it, summed in float64.

    Args:
        x: models.
        kept: nodes that count for the mean; None: all.
        mixed: entries that count for the distance; None: all.
    """
    mean = mean_model(x, kept)
    return mean, distances(x, mean, mixed)


def mean_model(
    x: Float[Tensor, "g n c"], kept: Bool[Tensor, "g n"] | None = None, width: int | None = None
) -> Float64[Tensor, "g c"]:
    """Returns the mean of each network's models, summed in float64.

    Args:
        x: models, or some columns of them.
        kept: nodes that count; None: all.
        width: columns of whole models, on which the order of summation depends; None: x has all.
    """
    blocks = _blocks(x, width)
    counted = [None] * len(blocks) if kept is None else kept.unsqueeze(2).split(blocks[0].shape[1], dim=1)
    total = x.new_zeros(x.shape[0], x.shape[2], dtype=torch.float64)
    for b, some in zip(blocks, counted, strict=True):
        total += (b if some is None else torch.where(some, b, 0.0)).sum(1, dtype=torch.float64)
    return total / (x.shape[1] if kept is None else kept.sum(1, keepdim=True))


def _blocks(x: Float[Tensor, "g n c"], width: int | None = None) -> tuple[Float[Tensor, "g n1 c"], ...]:
    """Returns the models of some nodes after those of others, as many at once as caches hold of whole ones."""
    whole = x.shape[0] * (width or x.shape[2])
    return x.split(max(1, _BLOCK[devices.kind(x.device)] // max(1, whole)), dim=1)


def distances(
    x: Float[Tensor, "g n p"], point: Float64[Tensor, "g p"], mixed: Bool[Tensor, "g p"] | None = None
) -> Float64[Tensor, "g n"]:
    """Returns the distance of each model from a point of its network, over all entries or some."""
    return _filled(point.new_empty(x.shape[:2]), (away.norm(dim=2) for away in _apart(x, point, mixed)))


def squares(
    x: Float[Tensor, "g n c"], point: Float64[Tensor, "g c"], mixed: Bool[Tensor, "g c"] | None, width: int
) -> Float64[Tensor, "g n"]:
    """Returns what some columns add to the squares of these distances; width: columns of whole models."""
    return _filled(point.new_empty(x.shape[:2]), (away.square().sum(2) for away in _apart(x, point, mixed, width)))


def _apart(
    x: Float[Tensor, "g n c"], point: Float64[Tensor, "g c"], mixed: Bool[Tensor, "g c"] | None,
    width: int | None = None,
) -> Iterator[Float64[Tensor, "g n1 c"]]:  # fmt: skip
    """Yields how far the models of some nodes after those of others are from a point, entry by entry."""
    for b in _blocks(x, width):
        away = b.double() - point.unsqueeze(1)
        yield away if mixed is None else torch.where(mixed.unsqueeze(1), away, 0.0)


def lengths(x: Float[Tensor, "n p"]) -> Float64[Tensor, " n"]:
    """Returns the length of each model."""
    return _filled(x.new_empty(len(x), dtype=torch.float64), (b.double().norm(dim=2) for b in _blocks(x.unsqueeze(0))))


def _filled(found: Float64[Tensor, "*_"] | Bool[Tensor, "*_"], parts: Iterator[Tensor]) -> Tensor:
    """Returns a tensor with numbers of blocks of models written into its last dimension, one block after the other.

    It is there before the first block is: numbers that stay, allocated each after its block was, would keep the next
    block from the memory of the last, and so all of them would take memory at once.
    """
    begin = 0
    for part in parts:
        found[..., begin : begin + part.shape[-1]] = part
        begin += part.shape[-1]
    return found


def norms(found: Float64[np.ndarray, " n"], networks: Networks, away: Bool[np.ndarray, " n"] | None) -> list[float]:
    """Returns the mean over the nodes of each network, but those that are away, of some lengths of models."""
    if away is None:
        return (np.add.reduceat(found, networks.offsets[:-1]) / networks.sizes).tolist()
    counted = np.where(away, 0.0, found), ~away
    sums, sizes = (np.add.reduceat(a, networks.offsets[:-1], dtype=np.float64) for a in counted)
    return (sums / sizes).tolist()


def finite(x: Float[Tensor, "n p"]) -> Bool[Tensor, " n"]:
    """Returns whether all numbers of each row are finite."""
    return _filled(x.new_empty(len(x), dtype=torch.bool), (b.isfinite().all(2) for b in _blocks(x.unsqueeze(0))))


def diverged(state: State, whole: Callable[[Tensor], Bool[Tensor, " n"]] = finite) -> list[tuple[int, float]]:
    """Returns the nodes whose loss or model is not finite, with the time when that was first seen (inf: just now).

    Args:
        state: of a run.
        whole: finds which models are finite; of columns of models, which all ranks must ask.
    """
    found = arriving([state.diverged_at, whole(state.models)])
    devices.synchronize(state.x.device)
    return unsound(*found)


def unsound(since: Float64[Tensor, " n"], sound: Int64[Tensor, " n"]) -> list[tuple[int, float]]:
    """Returns the same of when losses of each node were first not finite, and whether its model is, on the host."""
    bad = torch.nonzero(since.isfinite() | (sound == 0))[:, 0]
    return list(zip(bad.tolist(), since[bad].tolist(), strict=True))


def quarantine_(state: State, cut: Cut | None = None) -> None:
    """Takes note of the nodes whose models are not finite before the first update.

    Args:
        state: changed.
        cut: how models are cut over ranks, all of which then call this; None: they are whole.
    """
    bad = ~finite(state.models)
    state.diverged_at[bad if cut is None else cut.ranks.largest(bad.long()) > 0] = 0.0
