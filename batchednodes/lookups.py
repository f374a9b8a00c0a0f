r"""Look-ups: indices that a model makes of its data are checked for all examples before a run.

Under vmap the tables of all nodes lie side by side, so that an index beyond the own one may reach that of another node.
A forward pass is traced without computing it; what leads from the features to the indices is run over all examples.

Letters: S examples, b examples of a call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from batchednodes.stack import Stack
from batchednodes.stand_ins import StandIns

_ROWS = 256
"""Examples of one call, at most."""

_ALONG = (
    *("index_select", "gather", "scatter", "scatter_add", "scatter_reduce"),
    *("index_add", "index_copy", "index_fill", "index_reduce"),
)
"""Functions of (tensor, dimension, index), which take no negative index."""

_FLAT = ("take", "put")
"""Functions of (tensor, index into all of its elements)."""

_TUPLES = ("index", "index_put", "_unsafe_index", "_unsafe_index_put")
"""Functions of (tensor, an index or None for each of its dimensions)."""


class _Lookup(NamedTuple):
    """Indices of a forward pass, and what they must lie in."""

    name: str
    index: fx.Node
    low: int
    size: int


@dataclass(frozen=True)
class Lookups:
    """What a module looks up, in training and in evaluation mode."""

    words: Callable[[Tensor], str | None]
    """Says of some examples on the CPU, as the module gets them, which index is out of range; None: all are within."""
    guarded: bool
    """Whether rows of a table are looked up by indices that parameters decide, which training may change."""

    @staticmethod
    def of(stack: Stack, features: Tensor) -> "Lookups | None":
        """Returns what the module of a stack on the CPU looks up; None: nothing that data or training decide.

        Args:
            stack: whose module runs.
            features: some examples, as the module gets them.
        """
        try:
            passes = [_Pass.of(stack, module, features[:_ROWS]) for module in (stack.skeleton, stack.scorer)]
        except (Exception, SystemExit):  # of a forward that asks for values, which a trace has not
            return Lookups(_whole(stack), guarded=False)
        found = [one for one in passes if one.lookups or one.guarded]

        def words(some: Tensor) -> str | None:
            return next((said for one in found if (said := one.words(some)) is not None), None)

        return Lookups(words, any(one.guarded for one in found)) if found else None

    def fault(self, features: np.ndarray, send: Callable[[np.ndarray], Tensor]) -> tuple[int, str] | None:
        """Returns the first example whose index is out of range, and which index; None: there is none.

        Args:
            features: of all examples [S, ...].
            send: makes of some of them what the module gets, on the CPU.
        """
        for first in range(0, len(features), _ROWS):
            last = min(len(features), first + _ROWS)
            some = send(features[first:last])
            said = self.words(some)
            while said is not None and len(some) > 1:
                half = len(some) // 2
                early = self.words(some[:half])
                some, first = (some[half:], first + half) if early is None else (some[:half], first)
                said = early or self.words(some) or said
            if said is not None:
                return first, said
        return None


def _whole(stack: Stack) -> Callable[[Tensor], str | None]:
    """Returns what says which index is out of range by running the module forward."""
    row = torch.zeros(stack.p, dtype=stack.dtype)

    def words(some: Tensor) -> str | None:
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                stack.call(row, some)
                stack.score(row, some, stacked=False)
        except IndexError as error:
            return str(error).strip().splitlines()[0][:200]
        except (Exception, SystemExit):  # other faults are found, and named, where the model is tried
            return None
        return None

    return words


@dataclass(frozen=True)
class _Pass:
    """A forward pass up to its indices."""

    indices: fx.GraphModule
    """Maps the features of `rows` examples to the indices of each look-up."""
    lookups: tuple[_Lookup, ...]
    """Those whose indices the features decide, and parameters do not."""
    rows: int
    guarded: bool

    @staticmethod
    def of(stack: Stack, module: nn.Module, features: Tensor) -> "_Pass":
        """Returns the pass of a module on examples like those given; raises whatever a trace refuses."""

        def forward(row: Tensor, features: Tensor) -> Tensor:
            key = torch.zeros((), dtype=torch.int64)
            with _Ranged(), StandIns(key, stacked=True):
                return functional_call(module, stack.views(row), (features,))

        row = torch.zeros(stack.p, dtype=stack.dtype)
        make = make_fx(functionalize(forward), tracing_mode="fake", _allow_non_fake_inputs=True)
        graph = make(row, features).graph
        weights, inputs = (node for node in graph.nodes if node.op == "placeholder")
        learned, given = _after(graph, weights), _after(graph, inputs)
        found = [one for one in _lookups(graph) if one.index in given | learned]
        own = tuple(one for one in found if one.index not in learned)
        return _Pass(_cut(graph, inputs, own), own, len(features), len(own) < len(found))

    def words(self, some: Tensor) -> str | None:
        """Returns which index of some examples, of which there are at most `rows`, is out of range; None: none is."""
        try:
            found = self.indices(some[torch.arange(self.rows) % len(some)])
        except (IndexError, RuntimeError) as error:  # of an index that leads to others
            return str(error).strip().splitlines()[0][:200]
        for lookup, index in zip(self.lookups, found, strict=True):
            out = index[(index < lookup.low) | (index >= lookup.size)]
            if out.numel():
                return f"index {int(out[0])}, where {lookup.name} takes {lookup.low} to {lookup.size - 1}"
        return None


class _Ranged(TorchFunctionMode):
    """Traces a function that bends an index into range as a look-up."""

    def __torch_function__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Returns what a function returns, by a look-up."""
        if func in (torch.take_along_dim, Tensor.take_along_dim):
            return _along(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _along(t: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    if dim is None:
        t, indices, dim = t.flatten(), indices.flatten(), 0
    size = t.shape[dim]
    shape = list(torch.broadcast_shapes(*(x.select(dim, 0).shape for x in (t, indices))))
    shape.insert(dim % t.ndim, -1)
    return t.expand(shape).gather(dim, torch.where(indices < 0, indices + size, indices).expand(shape))


def _after(graph: fx.Graph, source: fx.Node) -> set[fx.Node]:
    """Returns a node and all that depend on it."""
    found = {source}
    for node in graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _lookups(graph: fx.Graph) -> Iterator[_Lookup]:
    """Yields the look-ups of a traced pass."""
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target.overloadpacket.__name__
        first = node.args[0] if node.args else None
        shape = (
            first.meta["val"].shape if isinstance(first, fx.Node) and isinstance(first.meta.get("val"), Tensor) else ()
        )
        found: list[_Lookup] = []
        if name == "embedding":
            found = [_Lookup(name, node.args[1], 0, shape[0])]
        elif name in _ALONG:
            found = [_Lookup(name, node.args[2], 0, shape[node.args[1]] if shape else 1)]
        elif name in _FLAT:
            found = [_Lookup(name, node.args[1], -shape.numel(), shape.numel())]
        elif name in _TUPLES:
            found = [
                _Lookup("indexing", k, -size, size)
                for k, size in zip(node.args[1], shape, strict=False)
                if k is not None
            ]
        yield from (one for one in found if one.index.meta["val"].dtype != torch.bool)


def _cut(graph: fx.Graph, inputs: fx.Node, lookups: Sequence[_Lookup]) -> fx.GraphModule:
    """Returns the part of a graph that leads from the features to the indices of some look-ups."""
    needed = {one.index for one in lookups}
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    part, made = fx.Graph(), dict[fx.Node, fx.Node]()
    made[inputs] = part.placeholder("features")
    for node in graph.nodes:
        if node in needed and node is not inputs:
            made[node] = part.node_copy(node, lambda n: made[n])
    part.output(tuple(made[one.index] for one in lookups))
    return fx.GraphModule(graph.owning_module, part)
