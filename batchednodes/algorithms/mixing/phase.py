r"""A phase of gossip: what contacts do to rows of x, line by line and wave by wave, on the host and on the device.

The lines of a window are made from its events and their schedule, on the host; those of all its waves, updates too, lie
one after the other, and go to the device at once. A phase is a part of them.

Notation: n nodes, e lines, W waves, x models, w weight of what is read, j the row that changes, i the one that is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Tensor

from batchednodes.algorithms.mixing.lines import Columns, fill_
from batchednodes.events.timeline import MEET, Events
from batchednodes.events.waves import Schedule
from batchednodes.numerics import devices
from batchednodes.numerics.memory import sendable


@dataclass(frozen=True)
class GossipPhase:
    """Waves of lines: one for each push, pull or split, two for each meeting, and one for each update.

    Row j becomes (1 - w) x_j + w x_i; all lines of a wave read rows as they were before it. Rows from n on are slots,
    snapshots of models that are under way, and a line of one is a copy.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from batchednodes.algorithms.mixing.phase import GossipPhase
        >>> from batchednodes.events.timeline import MEET, Events
        >>> from batchednodes.events.waves import schedule
        >>> columns = (np.array([MEET], np.int8), np.array([0], np.int32), np.array([2], np.int32), np.array([-1]))
        >>> events = Events(np.array([1.5]), *columns)  # nodes 0 and 2 meet
        >>> phase, _ = GossipPhase.of(events, schedule(events, 3), 3, torch.device("cpu"))
        >>> phase.receivers.tolist(), phase.senders.tolist()  # each takes from the other
        ([0, 2], [2, 0])
    """

    receivers: Int64[Tensor, " e"]
    """Row j that each line changes. Of a split the sender's row changes, too."""
    senders: Int64[Tensor, " e"]
    """Row i that it reads besides."""
    actors: Int64[Tensor, " e"]
    """The node that made the contact, whose weight counts; where messages are under way, the one whose model is read,
    or whose data. Of the same network as the rows; of an update without messages all three are its node."""
    weights: Float[Tensor, " e"]
    """w of each line; dimensionless. On the host without messages NaN: then it is that of the actor, see `on`."""
    times: Float64[Tensor, " e"]
    """Instant of each line [s]."""
    waves: Int64[np.ndarray, " W1"]
    """On the host: wave k holds the lines waves[k]:waves[k + 1], in the order of time; of updates, in that of rows."""
    nodes: int
    """n, rows of x that are nodes."""
    pairs: bool = False
    """Whether lines 2k and 2k + 1 are the two sides of one meeting."""
    sent: Float64[Tensor, " e"] | None = None
    """When what is read was sent [s]; None where models are exchanged at once, and there are no copies."""
    part: Int64[Tensor, " e"] | None = None
    """Which part of it counts: the number of a part of the model, or of the draw of its entries; -1: all; -2: all, and
    the node that takes it begins to compute from it. None likewise."""
    tables: int = 1
    """Number of tables of versions that each wave is cut into, see `by_table`."""
    cut: Int64[np.ndarray, " c1"] | None = None
    """On the host: where these parts of waves begin; None: `waves`."""
    begins: Int64[Tensor, " W1"] | None = None
    """`waves` but for a constant, where the lines are, or will be, but on the host; None there."""
    host: "GossipPhase | None" = None
    """The same lines on the host, of lines on another device; it does not know of contacts that do nothing since."""
    idle: Bool[Tensor, " e"] | None = None
    """Lines of contacts that were made to do nothing, see `without`; None: there are none."""
    before: Int64[Tensor, " e"] | None = None
    """`senders` before that; None likewise."""

    @property
    def here(self) -> "GossipPhase":
        """The same lines on the host, but for what `without` changes: what is asked of them waits for no device."""
        return self if self.host is None else self.host

    @property
    def contacted(self) -> Int64[Tensor, " e"]:
        """Row that each line is a contact with, also where it does nothing."""
        return self.senders if self.before is None else self.before

    @property
    def cuts(self) -> Int64[np.ndarray, " c1"]:
        """Where the lines of each table of each wave begin: those of table a in wave k are number k tables + a."""
        return self.waves if self.cut is None else self.cut

    @staticmethod
    def of(
        events: Events, plan: Schedule, nodes: int, device: torch.device, threads: int = 1
    ) -> "tuple[GossipPhase, np.ndarray]":
        """Returns the lines of a schedule on the host, and the counts of its updates, line by line.

        Args:
            events: of a window.
            plan: their schedule.
            nodes: rows of x that are nodes.
            device: where the lines will go.
            threads: at work at once; the lines are the same whatever they are.
        """
        message, meetings = events.message, int(np.count_nonzero(events.kind == MEET))
        e, pairs = len(events) + meetings, meetings > 0
        rows, times = sendable((3, e), torch.int64, device), sendable((e,), torch.float64, device)
        sizes = np.diff(plan.waves)
        waves = np.append(0, np.cumsum(sizes * np.where(plan.updates | (not pairs), 1, 2)))
        counts, order = np.empty(sizes[plan.updates].sum(), np.int64), np.empty(0 if message is None else e, np.int64)
        out = Columns(rows.numpy(), times.numpy(), counts, order)
        fill_(out, events, plan.wave, waves, plan.updates, threads)
        weights, sent, part = torch.full((), torch.nan).expand(e), None, None
        if message is not None:
            weights, sent, part = (
                sendable((e,), dtype, device).copy_(torch.from_numpy(column[order]))
                for column, dtype in (
                    (message.weight, torch.float64), (message.sent, torch.float64), (message.part, torch.int64)
                )
            )  # fmt: skip
        begins = None
        if devices.is_cuda(device):
            begins = sendable(waves.shape, torch.int64, device).copy_(torch.from_numpy(waves))
        lines = (rows[0], rows[1], rows[2], weights, times, waves, nodes, pairs, sent, part)
        return GossipPhase(*lines, begins=begins), counts

    @staticmethod
    def updates(
        actors: Int64[np.ndarray, " e"], times: Float64[np.ndarray, " e"], waves: Int64[np.ndarray, " W1"], nodes: int,
        device: torch.device,
    ) -> "GossipPhase":  # fmt: skip
        """Returns lines that are all updates, on the host.

        Args:
            actors: node of each.
            times: its instant [s].
            waves: wave k holds the updates waves[k]:waves[k + 1].
            nodes: rows of x that are nodes.
            device: where the lines will go.
        """
        row = sendable(actors.shape, torch.int64, device).copy_(torch.from_numpy(actors))
        time = sendable(times.shape, torch.float64, device).copy_(torch.from_numpy(times))
        return GossipPhase(row, row, row, torch.full((), torch.nan).expand(row.shape), time, waves, nodes)

    def on(self, device: torch.device, weight: Float[Tensor, " n"]) -> "GossipPhase":
        """Returns the same on a device, with weights of the models' dtype.

        Args:
            device: of the models.
            weight: w of each node, that of the contacts it makes, where no message says it.
        """
        j, i, actors, times = (
            column.to(device, non_blocking=True) for column in (self.receivers, self.senders, self.actors, self.times)
        )
        moved: dict[str, Any] = {"receivers": j, "senders": i, "actors": actors, "times": times}
        if devices.is_cuda(device):
            moved |= {"host": self}
            moved |= {} if self.begins is None else {"begins": self.begins.to(device, non_blocking=True)}
        if self.sent is None or self.part is None:
            return replace(self, **moved, weights=weight[actors])
        weights, sent, part = (a.to(device, non_blocking=True) for a in (self.weights, self.sent, self.part))
        return replace(self, **moved, weights=weights.to(weight.dtype), sent=sent, part=part)

    def between(self, first: int, last: int) -> "GossipPhase":
        """Returns waves first, ..., last - 1, as views."""
        a, b = int(self.waves[first]), int(self.waves[last])
        cut = None if self.cut is None else self.cut[first * self.tables : last * self.tables + 1] - a
        return GossipPhase(
            self.receivers[a:b], self.senders[a:b], self.actors[a:b], self.weights[a:b], self.times[a:b],
            self.waves[first : last + 1] - a, self.nodes, self.pairs,
            None if self.sent is None else self.sent[a:b], None if self.part is None else self.part[a:b],
            self.tables, cut, None if self.begins is None else self.begins[first : last + 1],
            None if self.host is None else self.host.between(first, last),
            None if self.idle is None else self.idle[a:b], None if self.before is None else self.before[a:b],
        )  # fmt: skip

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yields the first line of each wave, and the one after its last."""
        return pairwise(self.waves.tolist())

    def copies(self) -> Bool[Tensor, " e"]:
        """Returns which lines are copies into slots."""
        return self.receivers >= self.nodes

    def without(self, since: Float64[Tensor, " n"]) -> "GossipPhase":
        """Returns the same phase with the contacts of some nodes made to do nothing, to either side.

        Each of their lines reads, with weight 0, the row that it changes: x_j <- 1 x_j + 0 x_j is x_j where that is
        finite, and max(N_j, N_j) is N_j. A weight of 0 alone would not do: 0 times infinity is NaN.

        Args:
            since: when each node was cut off; inf: it is not. A model that was sent before still counts.
        """
        off = since.isfinite()
        if self.sent is None:
            idle = off[self.receivers] | off[self.senders]
        else:
            idle = off[self.receivers.clamp(max=self.nodes - 1)] | (since[self.actors] <= self.sent)
            idle &= ~self.copies()
        return self._idling(idle)

    def among(self, some: Bool[Tensor, " n"]) -> "GossipPhase":
        """Returns the same phase with all contacts made to do nothing but those of two of some nodes; copies stay."""
        idle = ~(some[self.receivers.clamp(max=self.nodes - 1)] & some[self.actors])
        if self.sent is None:
            idle = ~(some[self.receivers] & some[self.senders])
        else:
            idle &= ~self.copies()
        return self._idling(idle)

    def _idling(self, idle: Bool[Tensor, " e"]) -> "GossipPhase":
        senders = torch.where(idle, self.receivers, self.senders)
        return replace(
            self, senders=senders, weights=torch.where(idle, 0.0, self.weights), idle=idle, before=self.senders
        )

    def silenced(self, silent: Bool[Tensor, " n"]) -> "GossipPhase":
        """Returns the same phase with what comes from some nodes made to do nothing, as `without` does it.

        Of a meeting with such a node, its own side takes place all the same; copies of what is under way are made.

        Args:
            silent: of all nodes, from whom nothing comes.
        """
        idle = silent[self.senders if self.sent is None else self.actors] & ~self.copies()
        idle &= self.senders != self.receivers  # what does nothing already, or an update
        senders = torch.where(idle, self.receivers, self.senders)
        idle_before = idle if self.idle is None else idle | self.idle
        return replace(
            self, senders=senders, weights=torch.where(idle, 0.0, self.weights), idle=idle_before, before=self.contacted
        )

    def by_table(self, table: Int32[np.ndarray, " n"], count: int, updates: Bool[np.ndarray, " W"]) -> "GossipPhase":
        """Sorts the lines of each wave of gossip, on the host, by the table in which the versions of their rows lie.

        Lines of each network stay in the order of time. Rows must be nodes.

        Args:
            table: number of the table of each node.
            count: number of tables.
            updates: which waves are updates, and stay as they are.

        Returns:
            The same lines, in their memory, with their `cuts`.
        """
        wave = np.repeat(np.arange(self.waves.size - 1), np.diff(self.waves))
        part = wave * count + np.where(updates[wave], 0, table[self.receivers.numpy()])
        order = torch.from_numpy(np.argsort(part, kind="stable"))
        for column in (self.receivers, self.senders, self.actors, self.times):
            column.copy_(column[order])
        cut = np.searchsorted(part[order.numpy()], np.arange((self.waves.size - 1) * count + 1))
        return replace(self, tables=count, cut=cut)
