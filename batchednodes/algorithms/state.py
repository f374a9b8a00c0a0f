"""State: everything that changes on the device during a run.

Notation: n nodes, p parameters, N versions, x models; rows: nodes and slots of messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.fields import Field, columns

OWN = ("x", "versions", "updated", "gained", "diverged_at")
"""Tensors that each run has; the others are fields."""


@dataclass(frozen=True)
class State:
    """The tensors that a run writes in place; with the clocks, a checkpoint is these and the config."""

    x: Float[Tensor, "rows width"]
    """Models of the nodes, then snapshots that messages under way refer to; behind the p parameters of each lie the
    fields that are mixed as it is."""
    versions: Int[Tensor, " numbers"]
    """N[j, c]: updates of source c that node j's model contains, at most; a block for each network, see versions.py."""
    updated: Float64[Tensor, " n"]
    """Sum of the times of each node's updates since the last mark, if it is a tracked source: what integrals of
    staleness need [s]."""
    gained: Float64[Tensor, " n"]
    """Sum over the contacts that each node received of their time and the versions gained, likewise [updates s]; less
    the sum of `updated` of the others, up to the last mark: both grow with the square of time, and differ by little."""
    diverged_at: Float64[Tensor, " n"]
    """Time of the first update of each node that saw a loss that is not finite, or where nodes are quarantined made its
    model so [s]; inf: none."""
    fields: dict[str, Tensor] = field(default_factory=dict)
    """What else each node keeps, by name; of those that travel, rows for slots of messages, too."""
    columns: dict[str, slice] = field(default_factory=dict)
    """Where the fields that are mixed lie in a row of x."""
    travels: frozenset[str] = frozenset()
    """Names of the fields that messages bring."""
    on_edges: frozenset[str] = frozenset()
    """Names of the fields with a row for each directed edge in place of each node."""

    @property
    def nodes(self) -> int:
        """Number of nodes n."""
        return self.diverged_at.numel()

    @property
    def p(self) -> int:
        """Parameters of a model."""
        return min((part.start for part in self.columns.values()), default=self.x.shape[1])

    @property
    def models(self) -> Float[Tensor, "n p"]:
        """Models of the nodes, as a view."""
        return self.x[: self.nodes, : self.p]

    @property
    def v(self) -> Float[Tensor, "rows p"] | None:
        """Momentum buffers of the same rows; None without momentum."""
        return self.fields.get("v")

    @property
    def read(self) -> Float[Tensor, "n p"] | None:
        """Model that each node had when it began to compute; None unless updates apply as deltas."""
        return self.fields.get("read")

    @property
    def age(self) -> Int64[Tensor, "rows q"] | None:
        """Minibatch steps behind each part of the same rows; None unless step sizes are divided by them."""
        return self.fields.get("age")

    def tensors(self) -> dict[str, Tensor]:
        """Returns all tensors by name; models, and fields that lie beside them, apart, as views."""
        named = {name: getattr(self, name) for name in OWN}
        if self.columns:
            named["x"] = self.x[:, : self.p]
        return named | {name: self.x[:, part] for name, part in self.columns.items()} | self.fields

    def travelling(self) -> list[str]:
        """Returns the names of the tensors with rows for slots of messages, but the versions."""
        return ["x", *self.columns, *(name for name in self.fields if name in self.travels)]


def fit_(state: State, slots: int) -> None:
    """Gives the models, and what travels with them, rows for some slots of messages, in place, if they have fewer."""
    missing = state.nodes + slots - state.x.shape[0]
    for rows in (state.x, *(state.fields[name] for name in state.travels if name in state.fields)):
        if missing > 0:
            rows.data = torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


def begin(
    x: Float[Tensor, "rows p"], versions: Int[Tensor, " numbers"], n: int, declared: Mapping[str, Field], edges: int = 0
) -> State:
    """Returns the state of n nodes at t = 0 from initial models and versions, which it takes over without a copy.

    Args:
        x: models of nodes, and rows for messages.
        versions: of both.
        n: number of nodes.
        declared: what else nodes keep.
        edges: directed edges.
    """
    updated, gained = torch.zeros(2, n, dtype=torch.float64, device=x.device)
    diverged = torch.full((n,), torch.inf, dtype=torch.float64, device=x.device)
    made = {name: started(one, x, n, edges) for name, one in declared.items()}
    return joined(State(x, versions, updated, gained, diverged, made), declared)


def started(one: Field, x: Float[Tensor, "rows p"], n: int, edges: int = 0) -> Tensor:
    """Returns a field as it is at t = 0, given the models of n nodes, rows for messages, and a number of edges."""
    rows = x[: None if one.travels else n]
    if one.start == "model":
        return rows.clone()
    dtype = x.dtype if one.dtype is None else getattr(torch, one.dtype)
    made = torch.zeros(one.rows(rows.shape[0], edges), one.numbers(x.shape[1]), dtype=dtype, device=x.device)
    if one.start == "one":
        made[:n] = 1
    return made


def joined(state: State, declared: Mapping[str, Field], cut: Cut | None = None) -> State:
    """Returns a state whose fields all lie apart with those that are mixed beside the models.

    Args:
        state: of whole rows, or of the columns that this rank has of each.
        declared: its fields.
        cut: how they are cut over ranks; None: rows are whole.

    Raises:
        ValueError: it does not have the fields that are declared.
    """
    if state.fields.keys() != declared.keys():
        raise ValueError(f"fields are {', '.join(state.fields) or 'none'}, not {', '.join(declared) or 'none'}")
    beside = [state.fields[name] for name, one in declared.items() if one.mixed]
    x = torch.cat([state.x, *beside], 1) if beside else state.x
    own = {name: state.fields[name] for name, one in declared.items() if not one.mixed}
    travels = frozenset(name for name, one in declared.items() if one.travels)
    on_edges = frozenset(name for name, one in declared.items() if one.lives == "edge")
    tensors = (state.versions, state.updated, state.gained, state.diverged_at)
    places = columns(declared, state.x.shape[1]) if cut is None else cut.beside
    return State(x, *tensors, own, places, travels, on_edges)
