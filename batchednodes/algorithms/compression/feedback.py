r"""Compressed messages for any algorithm that mixes its model and nothing else, with what makes up for the rest.

    choco, in rounds:       x_i <- x_i + gamma sum_j W_ij (h_j - h_i),  h_i <- h_i + C(x_i - h_i);
    choco, at a meeting:    h_ij <- h_ij + C(x_i - h_ij), likewise h_ji,  x_i <- x_i + gamma w (h_ji - h_ij);
    deep_squeeze:           q_i = C(x_i + e_i),  e_i <- x_i + e_i - q_i,  x_i <- x_i + gamma sum_j W_ij (q_j - q_i);
    dcd:                    z_i = sum_j W_ij h_j + (x_i - h_i),  h_i <- h_i + C(z_i - h_i),  x_i <- h_i;
    ecd, in round 2 s:      z_i = sum_j W_ij h_j + (x_i - o_i),  h_i <- h_i + (C(o_i + s (z_i - o_i)) - h_i) / s,
                            x_i <- z_i,  o_i <- z_i,  s = 1/2, 1, 3/2, ...;
    none:                   x_i <- x_i + gamma sum_j W_ij (C(x_j) - C(x_i)), or w in place of W_ij at a contact.

h_i is what all neighbours know of x_i, h_ij what j alone does, since only these two have seen their messages; both
begin at 0, and those of dcd, which is x_i itself between rounds, and of ecd at the model, as o_i does, the model before
the update. All but these two keep the sum of models where W does. In rounds CHOCO goes in the order of its authors'
code: a node mixes what is known from the rounds before, then sends; their paper sends first, and without gradients is
one round ahead.

A class of an algorithm whose messages are compressed has the way's mixing, and all else of the algorithm's own class.

Notation: n nodes, w weight of a contact, W gossip matrix, C compressor, x models, e errors.

References:
    A. Koloskova, S. U. Stich, M. Jaggi, "Decentralized stochastic optimization and gossip algorithms with compressed
    communication", ICML 2019.
    H. Tang et al., "DeepSqueeze: decentralization meets error-compensated compression", arXiv 1907.07346, 2019.
    H. Tang, S. Gan, C. Zhang, T. Zhang, J. Liu, "Communication compression for decentralized training", NeurIPS 2018:
    dcd and ecd.
    R. Carli, F. Fagnani, P. Frasca, S. Zampieri, "Gossip consensus algorithms via quantized communication", Automatica
    46(1), 2010: without feedback.
"""

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.algorithms.compression.base import Compressor, Uncompressed
from batchednodes.events.timeline import MEET, ROUND, UPDATE
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch

_STREAM = 2
"""Stream of the draws of compressors, for `Context.uniform`."""

_SUM: dict[str, Law] = {"sum of x": lambda all_: all_["x"].sum(0)}


@dataclass(frozen=True)
class Compressed(Algorithm):
    """What is common to all ways: a compressor, and the bytes of its messages."""

    compressor: Compressor = field(default=Uncompressed(), kw_only=True)
    """What arrives of a message."""

    changing: ClassVar[bool] = True
    """Whether the graph may change: nobody keeps what neighbours have sent."""

    def payload(self, p: int, item: int) -> int:
        return self.compressor.size(p, item)

    def arriving(self, v: Tensor, k: Context) -> Tensor:
        """Returns C(v) of some rows [w, p]."""
        return self.compressor.compress(v, lambda size: k.uniform(_STREAM, size))

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch: an update by the algorithm's own form of it."""
        if e.kind != UPDATE:
            self.mixes_(rows, e)
        elif (own := getattr(super(), "event_", None)) is not None:
            own(rows, e, k)
        else:
            rows["x"][e.actor] = k.descend(rows["x"][e.actor])

    @abstractmethod
    def mixes_(self, rows: Rows, e: Any) -> None:
        """Applies a contact, or a round."""

    def seen(self, v: Tensor, e: Any, *nodes: int) -> Tensor:
        """Returns C(v) of the rows of some nodes in an event."""
        one = v.unsqueeze(0) if v.ndim == 1 else v
        made = self.compressor.compress(one, lambda size: e.draws(torch.tensor(nodes), _STREAM, size))
        return made[0] if v.ndim == 1 else made


@dataclass(frozen=True)
class Choco(Compressed):
    """CHOCO in rounds: neighbours know of a model what its messages have brought, and mix that.

    A node of a real network keeps one sum s_i = sum_j W_ij h_j of all its neighbours, which each message adds to.
    """

    fields: ClassVar[dict[str, Field]] = {"hat": Field(seen=False)}
    emits: ClassVar[tuple[str, ...]] = ("hat",)
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    laws: ClassVar[dict[str, Law]] = _SUM
    changing: ClassVar[bool] = False

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = r["x"] + self.compressor.step * (mixed["hat"] - r["hat"])
        r["hat"] = r["hat"] + self.arriving(r["x"] - r["hat"], k)

    def mixes_(self, rows: Rows, e: Any) -> None:
        x, hat = (rows[name][e.nodes] for name in ("x", "hat"))
        x += self.compressor.step * (e.matrix @ hat - hat)
        hat += self.seen(x - hat, e, *range(e.nodes.start, e.nodes.stop))


@dataclass(frozen=True)
class ChocoOnEdges(Compressed):
    """CHOCO at meetings: a node keeps what each of its neighbours knows of it, which these know, too."""

    fields: ClassVar[dict[str, Field]] = {"hat": Field(lives="edge", seen=False)}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("events",)
    writes_sender: ClassVar[bool] = True
    laws: ClassVar[dict[str, Law]] = _SUM
    changing: ClassVar[bool] = False

    def emit_(self, r: Rows, k: Context) -> Rows:
        r["hat"] = r["hat"] + self.arriving(r["x"] - r["hat"], k)
        return {"x": r["hat"]}  # of which the other lacks the last difference only

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = r["x"] + self.compressor.step * (mixed["x"] - r["hat"])

    def mixes_(self, rows: Rows, e: Any) -> None:
        x, hat, n = rows["x"], rows["hat"], e.edges.begins.numel() - 1
        sides = ((e.actor, e.peer), (e.peer, e.actor))
        ij, ji = (int((e.edges.keys == i * n + j).nonzero()) for i, j in sides)
        for at, (i, _) in zip((ij, ji), sides, strict=True):
            hat[at] += self.seen(x[i] - hat[at], e, i)
        for (i, _), own, other in zip(sides, (ij, ji), (ji, ij), strict=True):
            x[i] += self.compressor.step * e.weight * (hat[other] - hat[own])


@dataclass(frozen=True)
class DeepSqueeze(Compressed):
    """DeepSqueeze: a node keeps what its last message did not bring, and adds it to the next."""

    fields: ClassVar[dict[str, Field]] = {"error": Field(seen=False)}
    emits: ClassVar[tuple[str, ...]] = ("q",)
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    laws: ClassVar[dict[str, Law]] = _SUM

    def emit_(self, r: Rows, k: Context) -> Rows:
        v = r["x"] + r["error"]
        q = self.arriving(v, k)
        r["error"] = v - q
        r["x"] = r["x"] - self.compressor.step * q
        return {"q": q}

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = r["x"] + self.compressor.step * mixed["q"]

    def mixes_(self, rows: Rows, e: Any) -> None:
        x, error = (rows[name][e.nodes] for name in ("x", "error"))
        q = self.seen(x + error, e, *range(e.nodes.start, e.nodes.stop))
        error += x - q
        x += self.compressor.step * (e.matrix @ q - q)


@dataclass(frozen=True)
class DCD(Compressed):
    """DCD-PSGD: neighbours know each model exactly, since what changes it is what its messages bring."""

    fields: ClassVar[dict[str, Field]] = {"hat": Field(start="model", seen=False)}
    emits: ClassVar[tuple[str, ...]] = ("hat",)
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    changing: ClassVar[bool] = False

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        z = mixed["hat"] + (r["x"] - r["hat"])
        r["hat"] = r["hat"] + self.arriving(z - r["hat"], k)
        r["x"] = r["hat"]

    def mixes_(self, rows: Rows, e: Any) -> None:
        x, hat = (rows[name][e.nodes] for name in ("x", "hat"))
        hat += self.seen(e.matrix @ hat + x - 2 * hat, e, *range(e.nodes.start, e.nodes.stop))
        x[:] = hat


@dataclass(frozen=True)
class ECD(Compressed):
    """ECD-PSGD: messages bring models that are extrapolated ever further, and neighbours average what comes of them."""

    fields: ClassVar[dict[str, Field]] = {
        "hat": Field(start="model", seen=False),
        "old": Field(start="model", seen=False),
    }
    emits: ClassVar[tuple[str, ...]] = ("hat",)
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    changing: ClassVar[bool] = False

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        s = (k.round + 1) / 2
        z = mixed["hat"] + (r["x"] - r["old"])
        r["hat"] = (1 - 1 / s) * r["hat"] + self.arriving((1 - s) * r["old"] + s * z, k) / s
        r["x"] = r["old"] = z

    def mixes_(self, rows: Rows, e: Any) -> None:
        x, hat, old = (rows[name][e.nodes] for name in ("x", "hat", "old"))
        s = (e.number + 1) / 2
        x += e.matrix @ hat - old
        arrived = self.seen(old + s * (x - old), e, *range(e.nodes.start, e.nodes.stop))
        hat += (arrived - hat) / s
        old[:] = x


@dataclass(frozen=True)
class Direct(Compressed):
    """No feedback: compressed models are mixed, and each node adds the difference that this makes to its own."""

    def emit_(self, r: Rows, k: Context) -> Rows:
        q = self.arriving(r["x"], k)
        r["x"] = r["x"] - self.compressor.step * q
        return {"x": q}

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = r["x"] + self.compressor.step * mixed["x"]

    def mixes_(self, rows: Rows, e: Any) -> None:
        x, gamma = rows["x"], self.compressor.step
        if e.kind == ROUND:
            q = self.seen(x[e.nodes], e, *range(e.nodes.start, e.nodes.stop))
            x[e.nodes] += gamma * (e.matrix @ q - q)
            return
        mine, theirs = self.seen(x[e.peer], e, e.peer), self.seen(x[e.actor], e, e.origin)
        x[e.peer] += gamma * e.weight * (theirs - mine)
        if e.kind == MEET:
            x[e.actor] += gamma * e.weight * (mine - theirs)


WAYS: dict[str, tuple[type[Compressed], type[Compressed]]] = {
    "choco": (ChocoOnEdges, Choco),
    "deep_squeeze": (DeepSqueeze, DeepSqueeze),
    "dcd": (DCD, DCD),
    "ecd": (ECD, ECD),
    "none": (Direct, Direct),
}
"""Feedback -> the way of events, and that of rounds."""


def allows(algorithm: Algorithm) -> bool:
    """Returns whether messages of an algorithm may be compressed: they bring its model, whose mean is all they make.

    Example:
        >>> from batchednodes.algorithms.compression.feedback import allows
        >>> from batchednodes.algorithms.gossip_sgd import GossipSGD
        >>> from batchednodes.algorithms.push_sum import PushSum
        >>> allows(GossipSGD()), allows(PushSum())
        (True, False)
    """
    cls = type(algorithm)
    return cls.linear() and cls.emits == ("x",) and cls.mixing != "column"


def compressed(algorithm: Algorithm, compressor: Compressor, rounds: bool) -> Algorithm:
    """Returns an algorithm with compressed messages, one that allows it; itself where nothing is compressed.

    Example:
        >>> from batchednodes.algorithms.compression import TopK
        >>> from batchednodes.algorithms.compression.feedback import compressed
        >>> from batchednodes.algorithms.gossip_sgd import GossipSGD
        >>> choco = compressed(GossipSGD(), TopK(gamma=0.04), rounds=True)
        >>> [*choco.declared()], choco.payload(p=10_000, item=4)  # what a node keeps; bytes in place of 40,000
        (['hat'], 800)

    Args:
        algorithm: what an update does, and what its class asks of W.
        compressor: what arrives, and the feedback.
        rounds: whether nodes mix in synchronous rounds; else at single contacts.
    """
    if compressor.exact:
        return algorithm
    settings = {one.name: getattr(algorithm, one.name) for one in fields(algorithm)}
    return _class(WAYS[compressor.feedback][rounds], type(algorithm))(**settings, compressor=compressor)


@functools.cache
def _class(way: type[Compressed], of: type[Algorithm]) -> Callable[..., Algorithm]:
    """Returns the class of an algorithm that mixes in a way, named as its own is."""
    double = "double" in (way.mixing, of.mixing)
    kept = _SUM if way is Direct and of.mixing == "double" else way.laws
    declared = {
        "fields": {**of.fields, **way.fields},
        "mixing": "double" if double else of.mixing,
        "timing": tuple(one for one in of.timing if one in way.timing),
        "laws": kept | {name: law for name, law in of.laws.items() if name != "sum of x"},
        **{name: getattr(of, name) for name in ("contact", "descends", "elapses", "__module__", "__qualname__")},
        "__doc__": of.__doc__,
    }
    return dataclass(frozen=True)(type(of.__name__, (way, of), declared))
