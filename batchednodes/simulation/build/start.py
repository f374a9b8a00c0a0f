r"""The state at which a run begins: models drawn node by node, and what is declared besides; or one that is given.

Over ranks no process ever has all models: whole rows of some nodes are made at a time, of which it keeps its columns.

Notation: n nodes of all networks, p parameters, m directed edges, x models.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.edge_rows import EdgeRows
from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.over_ranks import SAME
from batchednodes.algorithms.state import State, begin, joined
from batchednodes.algorithms.versions import Layout, dtype_for
from batchednodes.config import Config
from batchednodes.events.messages.timeline import MessageTimeline
from batchednodes.events.timeline import Timeline
from batchednodes.models.problem import Problem
from batchednodes.results.metrics.consensus import quarantine_
from batchednodes.simulation.build.learning import DTYPES

_BLOCK = 1 << 22
"""Numbers of whole rows that are made at once where only some of their columns are kept."""


@dataclass(frozen=True)
class Start:
    """What the first state of some networks depends on."""

    configs: tuple[Config, ...]
    events: Timeline
    problem: Problem
    layout: Layout
    """Of the versions of this process."""
    declared: dict[str, Field]
    edges: EdgeRows | None
    cut: Cut | None
    """How tensors are cut over ranks; None: this process has all."""

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self.events.networks.n

    @property
    def m(self) -> int:
        """Number of directed edges that have rows."""
        return 0 if self.edges is None else self.edges.count

    def begun(self) -> State:
        """Returns the state at t = 0."""
        config = self.configs[0]
        slots = self.events.slots if isinstance(self.events, MessageTimeline) else 0
        versions = self.layout.zeros(counts(self.events, config))
        if self.cut is None:
            x = self._empty(self.n + slots)
            x[self.n :] = 0
            for g, c in enumerate(self.configs):
                self._init_(c, x[self.events.networks.slice(g)])
            made = begin(x, versions, self.n, self.declared, self.m)
        else:
            made = self._columns(self.cut, slots, versions)
        if config.run.on_divergence == "quarantine":
            quarantine_(made, self.cut)  # a user's model may begin with anything
        return made

    def given(self, state: State) -> State:
        """Returns a state that is given, of this rank's columns where there are several, as runs have it.

        Raises:
            ValueError: it does not fit the settings.
        """
        p = self.problem.stack.p if self.cut is None else self.cut.models.stop - self.cut.models.start
        shape, room, fields = (self.n, p), self.layout.room, {*self.declared}
        found = tuple(state.models.shape), state.versions.numel(), {*state.fields, *state.columns}
        on_edges = (k for k, one in self.declared.items() if one.lives == "edge" and k in state.fields)
        if found != (shape, room, fields) or any(len(state.fields[k]) != self.m for k in on_edges):
            raise ValueError(
                f"the checkpoint must fit the settings: models {list(shape)} and {room} versions, got models "
                f"{list(state.models.shape)} and {state.versions.numel()} versions; did data or the model's code "
                "change?"
            )
        return state if state.travels else joined(state, self.declared, self.cut)

    def whole(self, state: State) -> State:
        """Returns a state for trials, of whole rows: the given one, or one whose rows are all as that of a node."""
        if self.cut is None:
            return state
        x = self._empty(1)
        self._init_(self.configs[0], x)
        one = begin(x, state.versions[:0], 1, self.declared, 1)
        fields = {name: t.expand(self.m if name in one.on_edges else self.n, -1) for name, t in one.fields.items()}
        columns = (state.updated, state.gained, state.diverged_at)
        return State(one.x.expand(self.n, -1), one.versions, *columns, fields, one.columns, one.travels, one.on_edges)

    def _columns(self, cut: Cut, slots: int, versions: Tensor) -> State:
        """Returns this rank's columns of the state at t = 0."""
        parts = {name: slice(0, width) if name in SAME else cut.columns(width) for name, width in cut.widths.items()}
        like = self._empty(0)
        none = begin(like, versions, self.n, self.declared, 0)
        rows = {name: self.n + slots * (name == "x" or name in none.travels) for name in parts}
        rows |= dict.fromkeys(none.on_edges, self.m)
        kinds = {"x": like.dtype} | {name: t.dtype for name, t in none.fields.items()}
        made = {
            name: torch.zeros(rows[name], part.stop - part.start, dtype=kinds[name], device=like.device)
            for name, part in parts.items()
        }
        for nodes, x in self.models():
            block = begin(x, versions[:0], len(x), self.declared, 0)
            for name, part in parts.items():
                if name not in none.on_edges:
                    made[name][nodes] = (block.x if name == "x" else block.fields[name])[:, part]
        fields = {name: made[name] for name in none.fields}
        own = (versions, none.updated, none.gained, none.diverged_at)
        return State(made["x"], *own, fields, cut.beside, none.travels, none.on_edges)

    def models(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields initial models of all nodes, whole, those of some at a time, with their numbers."""
        for g, c in enumerate(self.configs):
            nodes = self.events.networks.slice(g)
            apart = "first" in inspect.signature(c.task.model.init_).parameters
            size = max(1, _BLOCK // self.problem.stack.p) if apart else nodes.stop - nodes.start
            for first in range(nodes.start, nodes.stop, size):
                some = slice(first, min(first + size, nodes.stop))
                x = self._empty(some.stop - some.start)
                self._init_(c, x, first - nodes.start)
                yield some, x

    def _empty(self, rows: int) -> Tensor:
        where, dtype = self.problem.features.device, DTYPES[self.configs[0].dtype]
        return torch.empty(rows, self.problem.stack.p, dtype=dtype, device=where)

    def _init_(self, config: Config, x: Tensor, first: int = 0) -> None:
        """Writes the initial models of some nodes of a network, from one on."""
        run, model = self.problem, config.task.model
        outputs = run.classes or run.targets.shape[1]
        more = {"first": first} if first else {}  # a user's class need not take it
        model.init_(x, run.stack, config.seed, run.shape, outputs, **more)


def counts(events: Timeline, config: Config) -> torch.dtype:
    """Returns the type of versions in which the counts of a run surely fit."""
    return dtype_for(float(events.update.rate.max()) * config.run.until)
