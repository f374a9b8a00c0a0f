"""Algorithms of one's own that keep something of each neighbour, or of what has come."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import MEET, UPDATE


@dataclass(frozen=True)
class NewestOfNeighbours(Algorithm):
    """Averages with the newest model that has come from each neighbour, then trains."""

    fields: ClassVar[dict[str, Field]] = {"newest": Field(lives="edge"), "known": Field(width=1, lives="edge")}
    timing: ClassVar[tuple[str, ...]] = ("events",)

    def update_(self, r: Rows, k: Context) -> None:
        known = r["known"] * k.neighbours.unsqueeze(2)
        r["x"] = k.descend((r["x"] + (known * r["newest"]).sum(1)) / (1 + known.sum(1)))

    def combine(self, own: Rows, other: Rows, w: Any) -> Rows:
        return other

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["newest"], r["known"] = mixed["x"], torch.ones_like(r["known"])

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        n = e.edges.begins.numel() - 1
        if e.kind == UPDATE:
            mine = e.edges.keys // n == e.actor
            known, newest = rows["known"][mine], rows["newest"][mine]
            mean = (rows["x"][e.actor] + (known * newest).sum(0)) / (1 + known.sum())
            rows["x"][e.actor] = k.descend(mean)
            return
        sides = ((e.actor, e.origin, e.peer), (e.peer, e.peer, e.actor))
        for row, i, j in sides[: 2 if e.kind == MEET else 1]:
            at = int((e.edges.keys == j * n + i).nonzero())
            rows["newest"][at], rows["known"][at] = rows["x"][row], 1.0


@dataclass(frozen=True)
class Inbox(Algorithm):
    """Averages with all models that have come since the last update, then trains."""

    fields: ClassVar[dict[str, Field]] = {"sum": Field(lives="inbox"), "count": Field(width=1, lives="inbox")}

    def emit_(self, r: Rows, k: Context) -> Rows:
        return {"sum": r["x"], "count": torch.ones_like(r["x"][:, :1])}

    def update_(self, r: Rows, k: Context) -> None:
        r["x"] = k.descend((r["x"] + r["sum"]) / (1 + r["count"]))


@dataclass(frozen=True)
class Middle(Algorithm):
    """Takes, entry by entry, the middle of its own and its neighbours' numbers, or the lower one of two."""

    timing: ClassVar[tuple[str, ...]] = ("rounds",)

    def gather(self, own: Rows, others: Rows, w: Any, here: Any) -> Rows:
        far = torch.where(here.unsqueeze(2), others["x"], torch.nan)
        return {"x": torch.cat([own["x"].unsqueeze(1), far], 1).nanmedian(1).values}

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        x = rows["x"]
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
            return
        linked = e.matrix + torch.eye(len(e.matrix)) > 0
        x[e.nodes] = torch.stack([x[e.nodes][some].median(0).values for some in linked])


@dataclass(frozen=True)
class Aged(Algorithm):
    """Averages with all models that have come, in numbers of types of their own, and forgets with time."""

    fields: ClassVar[dict[str, Field]] = {
        "sum": Field(lives="inbox", dtype="float64"),
        "count": Field(width=1, lives="inbox", dtype="int64"),
        "before": Field(),
    }
    timing: ClassVar[tuple[str, ...]] = ("events",)
    elapses: ClassVar[bool] = True

    def emit_(self, r: Rows, k: Context) -> Rows:
        return {"sum": 2 * r["x"] - r["before"], "count": torch.ones_like(r["x"][:, :1])}

    def update_(self, r: Rows, k: Context) -> None:
        mean = (r["x"] + r["sum"].to(r["x"].dtype)) / (1 + r["count"])
        r["before"], r["x"] = r["x"], k.descend(mean * torch.exp(-0.1 * k.elapsed))


@dataclass(frozen=True)
class Noting(Algorithm):
    """Notes at the edges of a sender what it has sent, to which its updates draw it back."""

    fields: ClassVar[dict[str, Field]] = {"last": Field(lives="edge"), "sent": Field(1, dtype="int64", lives="edge")}
    timing: ClassVar[tuple[str, ...]] = ("events",)
    writes_sender: ClassVar[bool] = True

    def emit_(self, r: Rows, k: Context) -> Rows:
        r["last"], r["sent"] = r["x"], r["sent"] + 1
        return {"x": r["x"]}

    def update_(self, r: Rows, k: Context) -> None:
        noted = (r["sent"] > 0) & k.neighbours.unsqueeze(2)
        back = torch.where(noted, r["x"].unsqueeze(1) - r["last"], 0) / (1 + r["sent"])
        r["x"] = k.descend(r["x"] - 0.1 * back.sum(1))
