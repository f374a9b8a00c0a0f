r"""Look-ups: indices that a model makes of its data are checked for all examples before a run.

Under vmap the tables of all nodes lie side by side, so that an index beyond the own one may reach that of another node.
A forward pass that looks something up is traced without computing it; what leads from the features to the indices is
run over all examples.

Notation: S examples.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from batchednodes.data.sources.mapped import MappedRows
from batchednodes.models.stacked import Stack
from batchednodes.models.stand_ins import StandIns
from batchednodes.numerics import torch_modes

_ROWS = 256
"""Examples of one call, at most."""

_ALONG = (
    *("index_select", "gather", "scatter", "scatter_add", "scatter_reduce"),
    *("index_add", "index_copy", "index_fill", "index_reduce"),
)
"""Functions of (tensor, dimension, index), of which index_fill alone takes a negative index."""

_FLAT = ("take", "put")
"""Functions of (tensor, index into all of its elements)."""

_TUPLES = ("index", "index_put", "_unsafe_index", "_unsafe_index_put")
"""Functions of (tensor, an index or None for each of its dimensions)."""

_TABLES = ("embedding", "_embedding_bag", "_embedding_bag_forward_only")
"""Functions of (table, indices of its rows)."""

_UNPOOLED = ("max_unpool2d", "max_unpool3d")
"""Functions of (values, indices into what they make, its sizes)."""

_LAST = {"_ctc_loss": ("ctc_loss", 0), "multilabel_margin_loss_forward": ("multilabel_margin_loss", -1)}
"""Losses, as they are called and from which label on, of (scores of classes along the last dimension, labels)."""

_LABELS = {"nll_loss_forward": "nll_loss", "nll_loss2d_forward": "nll_loss", "multi_margin_loss": "multi_margin_loss"}
"""Losses, as they are called, of (scores of classes along the second dimension, or the only one, labels)."""

_IGNORED = 4
"""Place of the label that counts for nothing among the arguments of nll_loss."""


class _Lookup(NamedTuple):
    """Indices of a function, and what they must lie in."""

    name: str
    index: Any
    """A node of a graph, or a tensor."""
    low: int
    size: int
    ignored: int | None = None
    """An index beside the range that is taken for none."""

    def words(self, index: Tensor) -> str | None:
        """Returns which value of the index is out of range, in words; None: none is."""
        out = (index < self.low) | (index >= self.size)
        beyond = index[out if self.ignored is None else out & (index != self.ignored)]
        if beyond.numel() == 0:
            return None
        return f"index {int(beyond[0])}, where {self.name} takes {self.low} to {self.size - 1}"


class _OutOfRangeError(Exception):
    """An index is out of range; the message says which."""


def _lookups(function: object, args: Sequence[Any], tensor: Callable[[Any], Any]) -> list[_Lookup]:
    """Returns what a function of ATen looks up.

    Args:
        function: that is called.
        args: of the call.
        tensor: makes a tensor of an argument; of another argument, anything else.
    """
    first = tensor(args[0]) if args else None
    if not isinstance(function, torch._ops.OpOverload) or not isinstance(first, Tensor):
        return []
    name, shape, found = function.overloadpacket.__name__.rstrip("_"), first.shape, list[_Lookup]()
    if name in _TABLES:
        found = [_Lookup(name.removeprefix("_").removesuffix("_forward_only"), args[1], 0, shape[0])]
    elif name in _ALONG:
        size = shape[args[1]] if shape else 1
        found = [_Lookup(name, args[2], -size if name == "index_fill" else 0, size)]
    elif name in _FLAT:
        found = [_Lookup(name, args[1], -shape.numel(), shape.numel())]
    elif name in _TUPLES:
        pairs = zip(args[1], shape, strict=False)
        found = [_Lookup("indexing", k, -size, size) for k, size in pairs if k is not None]
    elif name in _LAST:
        found = [_Lookup(_LAST[name][0], args[1], _LAST[name][1], shape[-1])]
    elif name in _UNPOOLED:
        found = [_Lookup(name, args[1], 0, math.prod(args[2]))]
    elif name in _LABELS:
        ignored = args[_IGNORED] if name.startswith("nll") else None
        found = [_Lookup(_LABELS[name], args[1], 0, shape[1 if len(shape) > 1 else 0], ignored)]
    return [one for one in found if tensor(one.index).dtype != torch.bool]


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
        row = stack.start(features.device)
        forwards = [_forward(stack, module) for module in (stack.skeleton, stack.scorer)]
        forwards = [forward for forward in forwards if _looks_up(forward, row, features[:_FEW])]
        try:
            passes = [_Pass.of(forward, row, features[:_ROWS]) for forward in forwards]
        except (Exception, SystemExit):  # of a forward that asks for values, which a trace has not
            return Lookups(lambda some: _first_words(_checked(forward, row, some) for forward in forwards), True)
        found = [one for one in passes if one.lookups or one.guarded]
        if not found:
            return None
        return Lookups(lambda some: _first_words(one.words(some) for one in found), any(one.guarded for one in found))

    def fault(self, features: np.ndarray | MappedRows, send: Callable[[np.ndarray], Tensor]) -> tuple[int, str] | None:
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


_FEW = 2
"""Examples on which a module is run to see whether it looks anything up."""


def _first_words(found: Iterable[str | None]) -> str | None:
    return next((said for said in found if said is not None), None)


Forward = Callable[[Tensor, Tensor], Tensor]
"""Maps parameters and features to what a module puts out."""


def _forward(stack: Stack, module: nn.Module) -> Forward:
    """Returns the forward pass of a module, with the stand-ins that it has under vmap."""

    def forward(row: Tensor, features: Tensor) -> Tensor:
        with StandIns(torch.zeros((), dtype=torch.int64), stacked=True):
            return stack.forward(module, stack.views(row), features)

    return forward


def _looks_up(forward: Forward, row: Tensor, features: Tensor) -> bool:
    """Returns whether a pass looks something up, or cannot tell."""
    try:
        with torch.no_grad(), torch_modes.generators(), _Watch() as watch:
            forward(row, features)
    except (Exception, SystemExit):  # whatever the user's forward raises; among that, an index out of range
        return True
    return watch.seen


def _checked(forward: Forward, row: Tensor, some: Tensor) -> str | None:
    """Returns which index is out of range, as a pass says that is run."""
    try:
        with torch.no_grad(), torch_modes.generators(), _Watch():
            forward(row, some)
    except _OutOfRangeError as error:
        return str(error)
    except (Exception, SystemExit):  # other faults are found, and named, where the model is tried
        return None
    return None


class _Watch(TorchDispatchMode):
    """Checks each index before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Says that no compiler need be told to leave this out, see `trial._Draws`."""
        return False

    def __torch_dispatch__(self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        for one in _lookups(func, args, lambda arg: arg):
            self.seen = True
            said = one.words(one.index)
            if said is not None:
                raise _OutOfRangeError(said)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Pass:
    """A forward pass up to its indices."""

    indices: "_Indices"
    """Maps the features of `rows` examples to the indices of each look-up, and checks them on the way."""
    lookups: int
    """How many look-ups there are whose indices the features decide, and parameters do not."""
    rows: int
    guarded: bool

    @staticmethod
    def of(forward: Forward, row: Tensor, features: Tensor) -> "_Pass":
        """Returns the pass on examples like those given; raises whatever a trace refuses."""

        def ranged(row: Tensor, features: Tensor) -> Tensor:
            with _Ranged():
                return forward(row, features)

        make = make_fx(functionalize(ranged), tracing_mode="fake", _allow_non_fake_inputs=True)
        module = make(row, features)
        graph = module.graph
        weights, inputs = (node for node in graph.nodes if node.op == "placeholder")
        learned, given = _after(graph, weights), _after(graph, inputs)
        calls = (node for node in graph.nodes if node.op == "call_function")
        found = [one for node in calls for one in _lookups(node.target, node.args, _value)]
        found = [one for one in found if one.index in given | learned]
        own = tuple(one for one in found if one.index not in learned)
        return _Pass(_Indices.of(module, inputs, own), len(own), len(features), len(own) < len(found))

    def words(self, some: Tensor) -> str | None:
        """Returns which index of some examples, of which there are at most `rows`, is out of range; None: none is."""
        try:
            self.indices.run(some[torch.arange(self.rows) % len(some)])
        except _OutOfRangeError as error:
            return str(error)
        return None


def _value(arg: Any) -> Any:
    return arg.meta.get("val") if isinstance(arg, fx.Node) else None


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


class _Indices(fx.Interpreter):
    """The part of a graph that leads from the features to the indices of some look-ups."""

    def __init__(self, module: fx.GraphModule, lookups: Mapping[fx.Node, Sequence[_Lookup]]) -> None:
        super().__init__(module)
        self.lookups, self.extra_traceback = lookups, False

    @staticmethod
    def of(module: fx.GraphModule, inputs: fx.Node, lookups: Sequence[_Lookup]) -> "_Indices":
        """Cuts that part out of the graph of a module."""
        needed = {one.index for one in lookups}
        for node in reversed(module.graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        part, made, checks = fx.Graph(), dict[fx.Node, fx.Node](), defaultdict[fx.Node, list[_Lookup]](list)
        made[inputs] = part.placeholder("features")
        for node in module.graph.nodes:
            if node in needed and node is not inputs:
                made[node] = part.node_copy(node, lambda n: made[n])
        part.output(tuple(made[one.index] for one in lookups))
        for one in lookups:
            checks[made[one.index]].append(one)
        return _Indices(fx.GraphModule(module, part), checks)

    def run_node(self, n: fx.Node) -> Any:
        """Computes a node, and checks it where it is an index."""
        made = super().run_node(n)
        said = _first_words(one.words(made) for one in self.lookups.get(n, ()))
        if said is not None:
            raise _OutOfRangeError(said)
        return made
