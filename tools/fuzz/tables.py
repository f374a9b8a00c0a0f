"""Layers that look up: rows of tables, by indices that come with the data, or that parameters decide.

Notation: V rows of a table.
"""

from random import Random

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fuzz.shapes import Layer, Shape


class Table(nn.Module):
    """Looks rows up in a table by a function of (indices, table)."""

    def __init__(self, rows: int, width: int, function: object) -> None:
        super().__init__()
        self.table, self.function = nn.Parameter(torch.randn(rows, width)), function

    def forward(self, ids: Tensor) -> Tensor:
        """Returns what the function returns."""
        return self.function(ids, self.table)


class Hot(nn.Module):
    """Counts in one-hot vectors, which a layer then maps."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.layer = rows, nn.Linear(rows, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the image of each index."""
        hot = F.one_hot(ids, self.rows)
        return self.layer(hot.to(self.layer.weight.dtype))


class Bag(nn.Module):
    """Looks up bags: as many as there are examples, or given by offsets."""

    def __init__(self, bag: nn.EmbeddingBag, offsets: bool, weighted: bool) -> None:
        super().__init__()
        self.bag, self.offsets, self.weighted = bag, offsets, weighted

    def forward(self, ids: Tensor) -> Tensor:
        """Returns one vector for each example."""
        ids = ids.reshape(len(ids), -1)
        weights = torch.ones_like(ids, dtype=self.bag.weight.dtype) * 0.5 if self.weighted else None
        if not self.offsets:
            return self.bag(ids, per_sample_weights=weights)
        places = torch.arange(len(ids)) * ids.shape[1]
        return self.bag(ids.flatten(), places, None if weights is None else weights.flatten())


class Chain(nn.Module):
    """Looks up in a constant table what it looks up in a table."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("next", (torch.arange(rows) * 7 + 3) % rows)
        self.table = nn.Embedding(rows, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns vectors."""
        return self.table(self.next[ids])


class Learned(nn.Module):
    """Looks up by indices that parameters decide."""

    def __init__(self, rows: int, within: bool) -> None:
        super().__init__()
        self.table, self.rows, self.within = nn.Embedding(rows, 3), rows, within
        self.pace = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Returns vectors."""
        ids = (x.detach() * self.pace.detach() * 3).nan_to_num(0.0).long()
        return self.table(ids.remainder(self.rows) if self.within else ids.abs()) * self.pace


def _embedding(rows: int, draw: Random) -> nn.Module:
    odd = draw.random()
    more = {"padding_idx": draw.randrange(rows)} if odd < 0.2 else {"scale_grad_by_freq": True} if odd < 0.3 else {}
    return nn.Embedding(rows, draw.randint(1, 4), sparse=draw.random() < 0.1, **more)


def _bag(rows: int, draw: Random) -> nn.Module:
    mode, odd = draw.choice(["sum", "mean", "max"]), draw.random()
    more = (
        {"padding_idx": draw.randrange(rows)}
        if odd < 0.2
        else {"scale_grad_by_freq": mode != "max"}
        if odd < 0.3
        else {}
    )
    return Bag(nn.EmbeddingBag(rows, 3, mode=mode, **more), draw.random() < 0.4, mode == "sum" and draw.random() < 0.3)


def _counts(i: Tensor, w: Tensor) -> Tensor:
    """Returns how often each row of a table is named by each example."""
    ones = torch.ones_like(i, dtype=w.dtype).reshape(len(i), -1)
    return w.new_zeros(len(i), len(w)).scatter_add(1, i.reshape(len(i), -1), ones)


_WAYS = (
    lambda i, w: w[i], lambda i, w: w.index_select(0, i.flatten()).view(*i.shape, -1), lambda i, w: F.embedding(i, w),
    lambda i, w: w.gather(0, i.reshape(-1, 1).expand(-1, w.shape[1])).view(*i.shape, -1),
    lambda i, w: torch.take_along_dim(w, i.reshape(-1, 1), 0).view(*i.shape, -1), lambda i, w: w[i, 0],
    lambda i, w: w.flatten().take(i), lambda i, w: w[i % len(w)], lambda i, w: w[i.clamp(0, len(w) - 1)],
    lambda i, w: torch.index_select(w.T, 1, i.flatten()).T.reshape(*i.shape, -1), lambda i, w: w[i - 1],
    lambda i, w: w[-i],
    lambda i, w: _counts(i, w) @ w,
    lambda i, w: w.cumsum(0)[i] + w[i.flip(-1)], lambda i, w: w[torch.where(i > 0, i, 0)],
    lambda i, w: w[w.argsort(0)[i, 0]],
    lambda i, w: torch.stack([w[k] for k in i.unbind(-1)], -2),
    lambda i, w: (i.unsqueeze(-1) == torch.arange(len(w))).to(w.dtype) @ w,
)  # fmt: skip
"""Functions of (indices, table) that look up."""


def _lookup(rows: int, draw: Random) -> nn.Module:
    return Table(rows, 3, draw.choice(_WAYS))


def _masked(rows: int, draw: Random) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 4, 0.0, batch_first=True)
    return Padded(nn.Embedding(rows, 4), layer)


class Padded(nn.Module):
    """Attends to tokens that are not 0."""

    def __init__(self, table: nn.Embedding, layer: nn.Module) -> None:
        super().__init__()
        self.table, self.layer = table, layer

    def forward(self, ids: Tensor) -> Tensor:
        """Returns a vector of each token."""
        ids = ids.reshape(len(ids), -1)
        return self.layer(self.table(ids), src_key_padding_mask=ids == 0)


_MAKERS = {
    "embedding": _embedding, "bag": _bag, "lookup": _lookup, "masked": _masked,
    "hot": lambda rows, draw: Hot(rows), "chain": lambda rows, draw: Chain(rows, 3),
}  # fmt: skip


def tables(rows: int) -> dict[str, Layer]:
    """Returns all kinds, by name, for tables of some rows."""

    def of(name: str) -> Layer:
        return Layer(lambda shape, draw: _MAKERS[name](rows, draw), "ids", sound=name in ("embedding", "hot", "chain"))

    def learned(shape: Shape, draw: Random) -> nn.Module:
        return Learned(rows, draw.random() < 0.7)

    return {name: of(name) for name in _MAKERS} | {"learned": Layer(learned, sound=False, jumps=True)}


IDS = tuple(_MAKERS)
"""Names of those that take indices."""
