r"""An algorithm on whole waves at once, with the versions of its models.

At an update of node i:      what the algorithm does to row i,                 N[i, i] <- N[i, i] + 1;
at a write of j from i:      what it makes of both, as (1 - w) x_j + w x_i,    N[j, :] <- max(N[j, :], N[i, :]).

Local SGD and linear mixing, of `gossip_sgd`, are the fast path: rows are trained where they lie. With `applies: delta`,
its update is computed from the model r_i that the node had when it began to compute, at its previous completion:
x_i <- x_i + (LocalSGD(r_i) - r_i), then r_i <- x_i (stale gradients).

Notation: n nodes, w rows of a wave, p parameters, s steps, b examples, x models, v momentum buffers, r = read.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Tensor

from batchednodes.algorithms import over_ranks
from batchednodes.algorithms.base import Rows
from batchednodes.algorithms.completions import complete_
from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.local_sgd import LocalSGD, taken
from batchednodes.algorithms.mixing import Ages, Entries, Kernel, follow_, follows, merge_, partial
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.mixing.rounds import RoundMatrices, RoundMatrix
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.algorithms.round_step import mix_round_, newest_
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.algorithms.versions import Layout
from batchednodes.data.minibatches_cuda import DeviceSampler
from batchednodes.events.messages.records import JOINED
from batchednodes.models.feed import Drawn
from batchednodes.models.problem import Problem
from batchednodes.numerics.memory import Chunk, send
from batchednodes.numerics.rows import some, write_


@dataclass(frozen=True)
class UpdateWave:
    """Updates of different nodes, none of which depends on another."""

    nodes: Int64[np.ndarray, " w"]
    """Rows of x, on the host."""
    counts: Int64[np.ndarray, " w"]
    """Number of the update among those of its node: 0, 1, 2, ..."""
    times: Float64[np.ndarray, " w"]
    """Completion times [s]."""


@dataclass(frozen=True)
class Round:
    """Ends of synchronous rounds of some networks, at one instant."""

    firsts: Int32[np.ndarray, " g"]
    """The first node of each."""
    numbers: Int64[np.ndarray, " g"]
    """Number of the round of each: 0, 1, ..."""
    time: float
    """Instant [s]."""


@dataclass(frozen=True)
class Waves:
    """An algorithm's choices for a batch of networks; all that changes is in `State`."""

    rowwise: Rowwise
    problem: Problem
    descent: LocalSGD
    rates: Hyperparameters
    weight: Float[Tensor, " n"]
    """w of each node, that of the contacts it makes; dimensionless."""
    layout: Layout
    """Where the versions of each node lie."""
    own: Int64[Tensor, " n"]
    """Place of each node's count of its own updates among the versions; -1: not tracked."""
    chunk: Chunk
    """Rows that descend at once, at most."""
    kernel: Kernel
    """How phases of gossip are applied."""
    quarantine: bool = False
    """Whether a node whose loss or model became non-finite in an update is cut off: contacts with it do nothing."""
    entries: Entries | None = None
    """Which entries of a model a message brings; None: all."""
    carries: bool = False
    """Whether messages bring momentum buffers, for nodes that train them."""
    replaces: bool = False
    """Whether a node takes a model that it has trained in place of its own, with the momentum buffer."""
    ages: Ages | None = None
    """How step sizes are divided by ages; None: they are not."""
    rounds: RoundMatrices | None = None
    """How rows are mixed in synchronous rounds; None: there are none."""
    drawing: DeviceSampler | None = None
    """What draws minibatches on the device; None: the host does."""
    silent: Bool[Tensor, " n"] | None = None
    """Nodes from whom nothing comes; None: there are none."""
    cut: Cut | None = None
    """How the state is cut over ranks; None: this process has all."""

    def update_(
        self,
        state: State,
        wave: UpdateWave,
        rows: Int64[Tensor, " w"],
        nodes: Int64[Tensor, " w"],
        times: Float64[Tensor, " w"],
        examples: Drawn | None = None,
    ) -> None:
        """Updates the nodes of a wave, in chunks; over ranks each those that it is dealt, by `Cut.counts`.

        Args:
            state: changed.
            wave: on the host.
            rows: rows of x that they train, on the device: those of the nodes, or slots of messages.
            nodes: its nodes, on the device.
            times: its times, on the device [s].
            examples: minibatches of the nodes that this rank is dealt; None: they are drawn now.
        """
        if self.cut is None:
            self._update_(state, wave, rows, nodes, times, examples)
        else:

            def some_(state: State, k: slice) -> None:
                part = UpdateWave(wave.nodes[k], wave.counts[k], wave.times[k])
                at = torch.arange(part.nodes.size, device=rows.device)
                self.whole._update_(state, part, at, nodes[k], times[k], examples)

            edges = self.whole.rowwise.edges if state.on_edges & self.trained else None
            names = sorted(state.fields.keys() & self.trained)
            over_ranks.update_(self.cut, state, names, (wave.nodes, nodes, rows), edges, some_)
            complete_(state, nodes, times, torch.zeros_like(times), self.own)  # counts those of this rank's sources
        if self.ages is not None and state.age is not None:
            state.age.index_add_(0, rows, self.ages.steps[nodes].unsqueeze(1).expand(-1, state.age.shape[1]))

    def _update_(
        self, state: State, wave: UpdateWave, rows: Tensor, nodes: Tensor, times: Tensor, examples: Drawn | None
    ) -> None:
        """Updates the nodes of a wave, but for the ages of their models."""
        counts = send(wave.counts, rows.device) if self.counts else nodes  # else any will do

        def drawn(part: slice) -> Tensor:
            if examples is not None:
                return self.problem.placed(examples[part])
            if self.drawing is not None:
                return self.drawing.draw(nodes[part], counts[part])
            return self.problem.draw(wave.nodes[part], wave.counts[part])

        if self.rowwise.fused_update:
            self.chunk.run_(
                rows.numel(), drawn, lambda k, index: self._fused_(state, rows[k], nodes[k], times[k], counts[k], index)
            )
        elif self.plain:
            self._train_(state, rows, nodes, times, counts, drawn)
        else:
            self.chunk.run_(
                rows.numel(),
                lambda k: self.rowwise.updated(state, rows[k], nodes[k], times[k], counts[k], drawn(k)),
                lambda k, new: self._replace_(state, rows[k], nodes[k], times[k], wave.nodes[k], *new),
            )

    def _train_(
        self, state: State, rows: Tensor, nodes: Tensor, times: Tensor, counts: Tensor, drawn: Callable[[slice], Tensor]
    ) -> None:
        """Runs local SGD, and nothing else: where rows lie, if a tape does it, which needs no temporaries."""
        factor = self.rates.factor(nodes, counts, times)

        def rates(part: slice) -> Hyperparameters:
            kept = {name: state.fields[name].index_select(0, rows[part]) for name in self.kept}
            return self.rates.of(some(nodes, part), None if factor is None else factor[part], kept)

        lie = state.read is None and self.rates.proximal is None  # updates begin from rows where they lie
        replays = lie and self.descent.graphs is not None and factor is None
        if lie and self.descent.in_place:
            self.chunk.run_(
                rows.numel(),
                drawn,
                lambda k, index: self._descend_(state, some(rows, k), some(nodes, k), some(times, k), index, rates(k)),
            )
        else:
            self.chunk.run_(
                rows.numel(),
                lambda k: (
                    self._replayed(state, rows[k], nodes[k], drawn(k))
                    if replays
                    else self._descended(state, rows[k], nodes[k], drawn(k), rates(k))
                ),
                lambda k, new: self._write_(state, rows[k], nodes[k], times[k], new),
            )

    @functools.cached_property
    def whole(self) -> "Waves":
        """The same, on whole rows that lie apart."""
        return replace(self, rowwise=self.rowwise.whole, cut=None)

    @functools.cached_property
    def trained(self) -> frozenset[str]:
        """Names of the fields that updates may see or change, and ranks do not all have."""
        hidden = {name for name, one in self.rowwise.declared.items() if not one.seen}
        every = {*self.rowwise.declared, "v", "read", *self.kept} - hidden
        return frozenset({"v", "read", *self.kept} if self.plain else every)

    @property
    def plain(self) -> bool:
        """Whether an update is local SGD, and nothing else."""
        return self.rowwise.algorithm.plain() and not self.rowwise.algorithm.elapses

    @property
    def counts(self) -> bool:
        """Whether it matters how many updates a node has made."""
        scheduled = self.rates.schedule is not None and self.rates.schedule.by == "updates"
        return not self.plain or scheduled or self.drawing is not None

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the fields that the optimizer keeps."""
        return () if self.rates.optimizer is None else tuple(type(self.rates.optimizer).fields)

    def _fused_(self, state: State, rows: Tensor, nodes: Tensor, times: Tensor, counts: Tensor, index: Tensor) -> None:
        """Updates some rows where they lie, by the algorithm's tape."""
        losses = self.rowwise.fused_update[0](state, rows, nodes, times, counts, index)
        self._complete_(state, rows, nodes, times, losses)

    def _replace_(
        self, state: State, rows: Tensor, nodes: Tensor, times: Tensor, updated: np.ndarray, r: Rows,
        losses: Float[Tensor, " w"],
    ) -> None:  # fmt: skip
        """Writes what an update made of some rows; updated: the nodes, on the host."""
        self.rowwise.write_(state, rows, r, updated=updated)
        self._complete_(state, rows, nodes, times, losses)

    def _descended(
        self, state: State, rows: Tensor, nodes: Tensor, index: Int64[Tensor, "w s b"], rates: Hyperparameters
    ) -> "_Descended":
        """Returns what an update makes of some rows, and writes nothing."""
        x = (state.x if state.read is None else state.read).index_select(0, rows)  # r_i, or x_i itself
        v = None if state.v is None else state.v.index_select(0, rows)
        start = None if state.read is None else x.clone()
        if self.ages is not None and state.age is not None:
            rates = replace(rates, age=state.age[rows][:, self.ages.part].to(x.dtype))
        loss = self.descent.run_(x, v, index, rates)
        if start is not None:
            x = state.x[rows] + (x - start)
        return _Descended(x, v, rates.kept, loss)

    def _replayed(self, state: State, rows: Tensor, nodes: Tensor, index: Int64[Tensor, "w s b"]) -> "_Descended":
        """Returns the same by CUDA graphs, which take rows where they lie; it holds until the next call."""
        assert self.descent.graphs is not None
        whole = replace(self.rates, kept={name: state.fields[name] for name in self.kept})
        tensors = taken(state.x, state.v, index, whole)
        where = [None if t is index else rows if t.ndim == 2 else nodes for t in tensors]
        with torch.no_grad():
            made, losses = self.descent.graphs.of(tensors, where)
        kept = dict(zip(self.kept, made[len(made) - len(self.kept) :], strict=True))
        return _Descended(made[0], None if state.v is None else made[4], kept, losses)

    def _descend_(
        self,
        state: State,
        rows: Tensor,
        nodes: Tensor,
        times: Tensor,
        index: Int64[Tensor, "w s b"],
        rates: Hyperparameters,
    ) -> None:
        """Updates some rows where they lie."""
        losses = self.descent.run_at_(state.x, state.v, rows, index, rates)
        self._complete_(state, rows, nodes, times, losses)

    def _write_(self, state: State, rows: Tensor, nodes: Tensor, times: Tensor, new: "_Descended") -> None:
        """Writes what an update made of some rows."""
        if state.read is not None:
            write_(state.read, rows, new.x)
        write_(state.x, rows, new.x)
        if state.v is not None and new.v is not None:
            write_(state.v, rows, new.v)
        for name, value in new.kept.items():
            write_(state.fields[name], rows, value)
        self._complete_(state, rows, nodes, times, new.losses)

    def _complete_(self, state: State, rows: Tensor, nodes: Tensor, times: Tensor, losses: Float[Tensor, " w"]) -> None:
        """Takes note of updates whose rows are written; in quarantine models, too, must be finite."""
        if self.quarantine:
            low, high = state.x.index_select(0, rows).aminmax(dim=1)  # with the fields beside the models
            losses = torch.where(low.isfinite() & high.isfinite(), losses, torch.nan)
        complete_(state, nodes, times, losses, self.own)

    def mix_(self, state: State, phase: GossipPhase) -> None:
        """Applies a phase of gossip to models and versions."""
        if self.quarantine:
            phase = phase.without(state.diverged_at)
        if self.silent is not None:
            phase = phase.silenced(self.silent)
        first = 0
        for wave, joining in self._joins(state, phase):
            self._mix_(state, phase.between(first, wave + 1))
            assert state.read is not None
            write_(state.read, joining, state.x.index_select(0, joining))
            first = wave + 1
        if first < phase.waves.size - 1:
            self._mix_(state, phase.between(first, phase.waves.size - 1) if first else phase)

    def _joins(self, state: State, phase: GossipPhase) -> list[tuple[int, Int64[Tensor, " w"]]]:
        """Returns the waves in which nodes take models that they begin to compute from, and these nodes."""
        if state.read is None or phase.part is None:
            return []
        here, device = phase.here, phase.receivers.device
        assert here.part is not None
        found = (here.part == JOINED).nonzero().flatten()
        wave = np.searchsorted(phase.waves, found.numpy(), side="right") - 1
        nodes = here.receivers[found]
        return [(int(k), send(nodes[torch.from_numpy(wave == k)], device)) for k in np.unique(wave)]

    def _mix_(self, state: State, phase: GossipPhase) -> None:
        if self.entries is None:
            one_sided = phase.pairs and self.silent is not None  # which the fast kernels of meetings are not
            self.rowwise.mix_(state, phase, "sparse" if one_sided else self.kernel)
        else:
            partial.mix_(state.x, phase, self.entries)
        if self.ages is not None and state.age is not None:
            self.ages.merge_(state.age, phase)
        if self.carries and phase.sent is not None:
            for name in ("v", *self.kept):
                if name in state.fields:
                    _carry_(state.fields[name], phase, self.replaces)
        if state.versions.numel():
            merge_(state.versions, state.gained, phase, self.layout, self.kernel)

    def follows(self, state: State, lines: GossipPhase) -> bool:
        """Returns whether versions had better follow at the end of a window's lines, see `follow_`."""
        later = self.kernel == "auto" and not self.quarantine and self.rounds is None and self.silent is None
        return later and state.versions.numel() > 0 and follows(state.versions, lines)

    def follow_(self, state: State, lines: GossipPhase) -> None:
        """Makes versions what they are after some lines, which have been applied to all else."""
        follow_(state.versions, state.gained, state.updated, lines, self.layout, self.own)

    def round_(self, state: State, phase: Round) -> None:
        """Mixes all rows of the networks whose rounds end: small ones together where each is mixed as it is alone."""
        assert self.rounds is not None
        networks, numbers = self.layout.network[phase.firsts].tolist(), phase.numbers.tolist()
        rows = [slice(a, a + int(self.layout.sizes[g])) for a, g in zip(phase.firsts.tolist(), networks, strict=True)]
        parts = [*zip(rows, map(self.rounds.of, networks, numbers), numbers, strict=True)]
        if self.rowwise.mixes_together and (self.cut is None or self.rowwise.by_columns):
            for nodes, matrix, k in self.rounds.together(parts, self.rowwise.width):
                mix_round_(self.rowwise, state, nodes, matrix, (k, phase.time))
            asked = [None] * len(parts)
        else:
            asked = [self._mixed_apart_(state, part, phase.time) for part in parts]
        for g, (nodes, matrix, _), others in zip(networks, parts, asked, strict=True):
            if self.layout.widths[g]:
                newest_(state, self.layout.block(state.versions, g), nodes, (matrix, others), phase.time)

    def _mixed_apart_(
        self, state: State, part: tuple[slice, RoundMatrix, int], time: float
    ) -> Int64[Tensor, "n s"] | None:
        """Mixes all rows of one network; returns as `mix_round_` does."""
        nodes, matrix, k = part
        mix = functools.partial(mix_round_, self.rowwise, nodes=nodes, matrix=matrix, at=(k, time))
        if self.cut is None:
            return mix(state)
        return over_ranks.round_(self.cut, state, nodes, self.rowwise.edges, mix)


@dataclass(frozen=True, eq=False)
class _Descended:
    """What an update makes of some rows."""

    x: Float[Tensor, "w p"]
    """New models."""
    v: Float[Tensor, "w p"] | None
    """New momentum buffers; None without momentum."""
    kept: Mapping[str, Tensor]
    """What the optimizer keeps."""
    losses: Float[Tensor, " w"]
    """What they saw."""


def _carry_(v: Float[Tensor, "rows p"], phase: GossipPhase, replaces: bool) -> None:
    """Copies momentum buffers into slots, and where models replace others, those with them."""
    for a, b in phase.spans():
        j, i = phase.receivers[a:b], phase.senders[a:b]
        kept = (j < phase.nodes) & (not replaces)
        write_(v, j, torch.where(kept.unsqueeze(1), v[j], v[i]))
