r"""Tapes on a GPU: one kernel for all updates of a wave.

Where a row has little to compute, an update by PyTorch's kernels is launches and traffic: each operation reads and
writes what the one before has written, for all rows at once. One kernel that runs the tape of a row, and of another one
next, reads and writes a row once.

Notation: w rows of a wave, s steps, b examples of a minibatch.
"""

import math
from collections.abc import Sequence
from types import FunctionType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from batchednodes.numerics import devices
from batchednodes.numerics.tape import gpu_kernel
from batchednodes.numerics.tape.assembler import Code
from batchednodes.numerics.tape.opcodes import BINARY, CHANGING, FINISH, MORE, OUT, SIZES, A, B, C, Finish, Op
from batchednodes.numerics.triton_kernels import jit, triton

LARGEST = 96 << 10
"""Bytes of the numbers that a tape keeps for itself above which they leave the caches of a multiprocessor [B]."""

MOST = 96
"""Instructions above which compiling a tape takes longer than some seconds, since each becomes code of its own."""

LONGEST = 1024
"""Numbers of a line that softmax or a normalization goes along, at most: a block has whole lines."""

_PROGRAMS = 8
"""Rows that a multiprocessor works on at once."""

_BLOCK, _TILE, _TERMS = 512, 64, 32
"""Numbers of a block; rows and columns of a product's tile, and its terms at a time, at most."""

_MORE = 11
"""Numbers that an instruction has room for besides its places."""

_LINE = 32
"""Numbers that the memory of a program is a multiple of, so that all begin where vectors may."""

_LEAST = 16
"""Rows, columns and terms of a tile, at least: those of a GPU's instructions."""

_LINED = ("along", "label")
"""What runs operations whose blocks have whole lines."""

_COUNTED, _PROGRAM = {"whole": 0, "looked up": 1, "steps": 3}, 2
"""What counts the rows of a tensor, see `gpu_kernel.run`; and of the memory of programs."""


def fits(code: Code, dtype: torch.dtype) -> bool:
    """Returns whether a tape is soon compiled, and keeps numbers of a type in caches, with whole lines in a block."""
    if triton is None or len(code.instructions) > MOST or code.reals * dtype.itemsize > LARGEST:
        return False
    lines = [code[MORE] for code in code.instructions if _kind(Op(code[0])) in _LINED]
    return max(lines, default=0) <= LONGEST


Way = Literal["whole", "looked up", "steps", "shared"]
"""How the numbers of a row lie in a tensor: it has a row for each of the wave, for each that may be looked up, or for
each step of the wave; or all rows have the same."""


class Spelled(NamedTuple):
    """A tape as the kernel takes it."""

    kernel: Any
    """What runs it, compiled when it is first called."""
    instructions: int
    """How many there are."""
    reals: int
    """Real numbers that a program keeps for itself."""
    integers: int
    """Integers likewise."""

    @staticmethod
    def of(code: Code, numbers: np.ndarray) -> "Spelled":
        """Returns a tape's instructions, with their numbers."""
        each = zip(code.instructions.tolist(), numbers.tolist(), strict=True)
        kernel = _compiled(tuple(part for one, c in each for part in _spelled(one, c)))
        reals = -(-code.reals // _LINE) * _LINE
        return Spelled(kernel, len(code.instructions), max(_LINE, reals), max(1, code.integers))


def run_(
    spelled: Spelled,
    found: Sequence[Tensor],
    lie: Sequence[Way],
    entries: Int64[Tensor, "w s b"],
    rows: Int64[Tensor, " w"] | None,
    skip: bool,
) -> Float[Tensor, " w"]:
    """Runs a tape; returns the mean loss of each row over its steps.

    Args:
        spelled: the tape.
        found: the tensors that it reads and writes.
        lie: how the numbers of a row lie in each.
        entries: of minibatches.
        rows: by which rows are looked up; None: they are those of the wave.
        skip: whether rows do not have the steps whose first entry is below 0.
    """
    (w, s, b), device = entries.shape, entries.device
    losses = torch.zeros(w, dtype=found[0].dtype, device=device)
    programs = min(w, _PROGRAMS * devices.cores(device))
    own = losses.new_empty(programs * spelled.reals), entries.new_empty(programs * spelled.integers)
    places = [spelled.reals, _PROGRAM, spelled.integers, _PROGRAM]
    for tensor, way in zip(found, lie, strict=True):
        if way == "shared":
            places += 0, _COUNTED["whole"]
        else:
            places += tensor.numel() // max(1, w * s if way == "steps" else len(tensor)), _COUNTED[way]
    with devices.using(device):
        spelled.kernel[(programs,)](
            own, (*found, losses), entries if rows is None else rows, entries, losses, w, s, b,
            (*places, 1, _COUNTED["whole"]), spelled.instructions, rows is not None, skip,
        )  # fmt: skip
    return losses


def _compiled(instructions: tuple[Any, ...]) -> Any:
    """Returns the kernel for some instructions, a copy of that of gpu_kernel.py."""
    scope = vars(gpu_kernel) | {"codes": gpu_kernel.constant(instructions)}
    for name, function in vars(gpu_kernel).items():
        if isinstance(function, FunctionType) and function.__module__ == gpu_kernel.__name__:
            copy = FunctionType(function.__code__, scope, name)
            copy.__annotations__, copy.__module__ = function.__annotations__, function.__module__
            kernel = name == gpu_kernel.run.__name__
            scope[name] = jit(copy, ("w", "steps", "b"), ("rows", "entries")) if kernel else jit(copy, (), ())
    return scope[gpu_kernel.run.__name__]


def _kind(op: Op) -> str:
    """Returns what runs an operation."""
    if op in (Op.PRODUCT, Op.TOTAL, Op.SPREAD):
        return op.name.lower()
    if op in (Op.ADD_ROWS, Op.ROWS, Op.INDICES):
        return "rows"
    if op in (Op.PICK, Op.SAME):
        return "look"
    if op in (Op.LABEL, Op.LABEL_BACK):
        return "label"
    if op == Op.ARGMAX or Op.LOG_SOFTMAX <= op <= Op.NORM_BACK:
        return "along"
    return "map" if op < BINARY else "join" if op < CHANGING else "change"


def _spelled(code: list[int], c: float) -> list[Any]:
    """Returns an instruction as the kernel takes it."""
    op, sizes, more = Op(code[0]), code[SIZES : SIZES + 3], code[MORE:FINISH]
    kind, out, a, b = _kind(op), *(code[at : at + 5] for at in (OUT, A, B))
    block = [_power(math.prod(sizes), 1, _BLOCK), 1, 1]
    if kind == "product":
        block = [*(_power(size, _LEAST, _TILE) for size in sizes[1:]), _power(more[0], _LEAST, _TERMS)]
    elif kind in _LINED:
        d = _power(more[0], 1, LONGEST)
        block = [max(1, min(_power(more[1], 1, _BLOCK), 4 * _BLOCK // d)), d, 1]
        more = [*more[:2], 1] if op in (Op.NORM, Op.NORM_BACK) else more
    elif kind == "rows":
        block[0] = _power(more[0] * (1 if op == Op.ADD_ROWS else sizes[2]), 1, _BLOCK)
    elif kind in ("total", "spread"):  # the loops in which the result stays where it is stand apart
        stays = [step == 0 for step in out[2:]]
        turns = [size if still else 1 for size, still in zip(sizes, stays, strict=True)]
        sizes = [1 if still else size for size, still in zip(sizes, stays, strict=True)]
        block[0] = _power(math.prod(sizes), 1, _BLOCK)
        block[1] = min(_power(math.prod(turns), 1, _BLOCK), max(1, 4 * _BLOCK // block[0]))
        more = [*turns, *a[2:], *b[2:], *more[:2]]
    last = [Finish(code[FINISH]).name, *code[C : C + 3]]
    return [op.name, kind, *sizes, *out, *a, *b, *more, *[0] * (_MORE - len(more)), c, *block, *last]


def _power(size: int, least: int, most: int) -> int:
    """Returns the power of two from a size on, between two of them."""
    return max(least, min(most, 1 << max(0, size - 1).bit_length()))
