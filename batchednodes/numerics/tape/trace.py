r"""Tracing: from a minibatch step in Python to its tape, which is compared with it.

What depends on the entries of minibatches alone is computed ahead for a whole wave; all else becomes instructions.

Notation: w rows of a wave, b examples of a minibatch, p parameters.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions

from batchednodes.numerics import devices, fx_program
from batchednodes.numerics.fx_program import Arguments, Function, UntraceableError
from batchednodes.numerics.tape import gpu
from batchednodes.numerics.tape.from_aten import Translator
from batchednodes.numerics.tape.fx_nodes import constant, own_tables_, shape_of
from batchednodes.numerics.tape.opcodes import Op
from batchednodes.numerics.tape.strides import StridedView, packed
from batchednodes.numerics.tape.tape import ENTRIES, NUMBERS, Source, Tape

_ATEN = torch.ops.aten

_APART = (
    _ATEN.mse_loss,
    _ATEN.mse_loss_backward,
    _ATEN.leaky_relu,
    _ATEN.leaky_relu_backward,
    _ATEN.silu,
    _ATEN.silu_backward,
    _ATEN.elu,
    _ATEN.elu_backward,
    _ATEN.softplus,
    _ATEN.softplus_backward,
)
"""Operations that are taken apart into those that there are instructions for."""

_REFUSED = (torch.ops.batchednodes.convolve.default, torch.ops.batchednodes.group_norm.default)
"""Operations that end a trace at once, since the tape of all else would be of no use."""


def _apart() -> dict[Any, Callable[..., Any]]:
    """Returns what takes them apart; and GELU, where it is the approximation by tanh."""
    table: dict[Any, Callable[..., Any]] = dict(get_decompositions(_APART))
    for name in ("gelu", "gelu_backward"):
        op = getattr(_ATEN, name).default
        table[op] = partial(_approximate, get_decompositions([op])[op])
    return table | {op: partial(_refuse, op) for op in _REFUSED}


def _refuse(op: Any, *args: Any, **kwargs: Any) -> Any:
    raise UntraceableError(f"there is no instruction for {op}")


def _approximate(apart: Callable[..., Any], *args: Any, approximate: str = "none") -> Any:
    return NotImplemented if approximate == "none" else apart(*args, approximate=approximate)


_SIZE, _VIEW = _ATEN.sym_size.int, _ATEN.view.default


def record(function: Function, arguments: Arguments, lists: Sequence[int] | None = None, large: bool = False) -> Tape:
    """Returns the tape of a minibatch step.

    Args:
        function: maps (x [w, p], entries [w, b], more) to the losses [w]; it may write into arguments shaped as x.
        arguments: gives new arguments.
        lists: number of the list of rows by which each argument is looked up, 0: by none; None: those that are shaped
            as the first one are looked up by the first list.
        large: whether rows have much to compute, see `fx_program.joint`.

    Raises:
        UntraceableError: some operation has no instruction, or the tape gives other values than the function.
    """
    tape = translated(function, arguments, lists, large)
    fx_program.compare(function, tape.step_, arguments, large or tape.cuda)
    return tape


def translated(
    function: Function, arguments: Arguments, lists: Sequence[int] | None = None, large: bool = False
) -> Tape:
    """Returns a tape likewise, which nobody has compared with the function yet."""
    with fx_program.untraceable():
        joint = fx_program.joint(function, arguments, _apart(), large)
        own_tables_(joint.graph)
        return _Recorder(joint, lists).tape()


class _Recorder:
    """What is known while the tape of a graph is made."""

    def __init__(self, joint: fx.GraphModule, lists: Sequence[int] | None) -> None:
        self.lists, self.joint, self.nodes = lists, joint, [node for node in joint.graph.nodes if "shapes" in node.meta]
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.dtype = inputs[0].meta["val"].dtype
        self.cuda = devices.is_cuda(inputs[0].meta["val"].device)
        if self.dtype not in NUMBERS or (self.cuda and max(lists or [0]) > 1):
            raise UntraceableError("tapes are for numbers of float32 or float64, on CUDA with one list of rows")
        self.inputs, self.sources = inputs, []
        self.constants: list[Tensor] = []
        self.known = dict[fx.Node, Tensor]()
        told = {node for node, number in zip(inputs, lists or [], strict=False) if number == 0 and node.users}
        self.told = [node for node in inputs if node in told - {inputs[ENTRIES]} and shape_of(node) is not None]
        self.early = _depending_on(self.nodes, {inputs[ENTRIES]}) | _depending_on(self.nodes, {*self.told}, narrow=True)
        self.results: list[fx.Node] = []
        self.translator = Translator(self.dtype)

    def tape(self) -> Tape:
        """Returns the tape."""
        output = next(node for node in self.joint.graph.nodes if node.op == "output")
        for node in self.nodes:
            if node is not output and node not in self.early:
                self._read(node)
                if node.op == "call_function" and node not in self.translator.found:
                    self.translator.translate(node)
        loss = self.translator.found.get(output.args[0])
        if not isinstance(loss, StridedView) or loss.shape != ():
            raise UntraceableError("its result is not one number for each row")
        writer = self.translator.writer
        writer.add(Op.ADD_TO, StridedView(len(self.sources), (), ()), None, loss, 1.0)
        code = writer.code()
        if self.cuda and not gpu.fits(code, self.dtype):
            raise UntraceableError("rows keep more numbers than the caches of a multiprocessor have room for")
        sizes = code.instructions[:, 1:4].prod(1)
        numbers = code.numbers.astype(NUMBERS[self.dtype])
        return Tape(
            code, numbers, tuple(self.sources), self._ahead(), tuple(self.constants), self.dtype, int(sizes.sum()),
            self.cuda, (ENTRIES, *map(self.inputs.index, self.told)),
        )  # fmt: skip

    def _read(self, node: fx.Node) -> None:
        """Gives places to what a node takes from outside the tape."""
        if node.op == "placeholder":
            if node is not self.inputs[ENTRIES] and node.users:
                self._place(node, "argument", self.inputs.index(node))
            return
        value = getattr(self.joint, str(node.target)) if node.op == "get_attr" else constant(node, self.known)
        if isinstance(value, Tensor):
            self.known[node] = value
            self.constants.append((value.to(self.dtype) if value.dtype == torch.bool else value).contiguous())
            self._place(node, "constant", len(self.constants) - 1)
        for source in node.all_input_nodes:
            if source in self.early and source not in self.translator.found:
                self.results.append(source)
                self._place(source, "ahead", len(self.results) - 1)

    def _place(self, node: fx.Node, kind: Literal["argument", "ahead", "constant"], number: int) -> None:
        value, shape = node.meta["val"], shape_of(node)
        if value.dtype not in (self.dtype, torch.int64, torch.bool) or (
            kind == "argument" and value.dtype == torch.bool
        ):
            raise UntraceableError(f"{node.name} has numbers of another type")
        whole = tuple(value.shape) if shape is None else shape
        self.translator.found[node] = StridedView(len(self.sources), whole, packed(whole))
        alike = kind == "argument" and shape is not None and shape == shape_of(self.inputs[0])
        given = int(alike) if self.lists is None or kind != "argument" else self.lists[number]
        self.sources.append(Source(kind, number, shape is None, given))

    def _ahead(self) -> fx.GraphModule | None:
        """Returns what is computed from the entries of minibatches, or from what rows are told, for a whole wave."""
        graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
        made[self.inputs[ENTRIES]] = entries = graph.placeholder("entries")
        made |= {node: graph.placeholder(node.name) for node in self.told}
        for node in self.joint.graph.nodes:
            if node.target is _SIZE:
                made[node] = graph.call_function(node.target, (entries, 0))
            elif node in self.early or (node.op == "call_function" and "shapes" not in node.meta):
                made[node] = graph.node_copy(node, lambda n: made[n])
        results = [made[node] for node in self.results]
        graph.output(tuple(_real(graph, node, self.dtype) for node in results))
        graph.eliminate_dead_code()
        plain = (
            len(results) == 1
            and not self.told
            and all(node.target in (_VIEW, operator.mul, _SIZE) for node in graph.nodes if node.op == "call_function")
        )
        return None if plain else fx.GraphModule(torch.nn.Module(), graph)


def _real(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    """Returns a node whose truth values are numbers."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dtype != torch.bool:
        return node
    return graph.call_function(_ATEN._to_copy.default, (node,), {"dtype": dtype})


def _depending_on(nodes: Sequence[fx.Node], roots: set[fx.Node], narrow: bool = False) -> set[fx.Node]:
    """Returns the nodes that depend on some arguments and on no other one, with the constants that they need.

    Args:
        nodes: of the graph.
        roots: the arguments.
        narrow: whether only those count that are one number for each row.
    """
    found, constants = set(roots), set[fx.Node]()
    for node in nodes:
        sources = {source for source in node.all_input_nodes if "shapes" in source.meta}
        if node.op == "call_function" and sources <= found | constants:
            if sources <= constants:
                constants.add(node)
            elif not narrow or (node.meta["shapes"][1] is not None and math.prod(node.meta["shapes"][1][1:]) == 1):
                found.add(node)
    needed = found - roots
    for node in reversed(nodes):
        if node in needed:
            needed.update(source for source in node.all_input_nodes if source in constants)
    return needed
