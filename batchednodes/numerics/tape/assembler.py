"""Assembler: collects the instructions of a tape, and decides where the numbers lie that it keeps for itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.tape import fusion
from batchednodes.numerics.tape.instruction import Instruction, without_unread
from batchednodes.numerics.tape.interpreter import OWN
from batchednodes.numerics.tape.opcodes import CHANGING, FINISH, MORE, OUT, SIZES, WIDTH, A, B, C, Op
from batchednodes.numerics.tape.strides import RANK, StridedView, favoured, loops, packed

_LINE = 16
"""Numbers that a block of a tape's own numbers begins at a multiple of: cache lines of 64 bytes or more."""

_SHORT = 8
"""Numbers of a line below which a product is copied to lines of its other dimension, unless it is added to numbers."""

_COPYING, _ONE_BY_ONE = 0.25, 0.8
"""Cost of a number that is copied to another order, in cycles: in square tiles, and where there are none."""


@dataclass(frozen=True)
class Code:
    """A tape as the interpreter reads it."""

    instructions: Int64[np.ndarray, "q 28"]
    """The q instructions, each laid out as opcodes.py says."""
    numbers: Float64[np.ndarray, " q"]
    """The real number c of each instruction."""
    reals: int
    """Real numbers that the tape keeps for itself, of one row at a time."""
    integers: int
    """Integers that it keeps for itself: indices."""


@dataclass
class Writer:
    """Instructions that are added one after the other."""

    instructions: list[Instruction] = field(default_factory=list)
    """Those added so far, in the order in which they run."""
    blocks: list[tuple[int, bool]] = field(default_factory=list)
    """Size of each own block, and whether it holds integers; block k is base -1 - k."""
    changed: dict[int, int] = field(default_factory=dict)
    """How often each base was changed."""
    copied: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each block that is a copy, of which base, and how often that had been changed."""

    def new(self, shape: tuple[int, ...], order: Sequence[int] | None = None, integer: bool = False) -> StridedView:
        """Returns a new block for numbers of a shape, the last dimension of an order the innermost."""
        place = StridedView(-1 - len(self.blocks), shape, packed(shape, order))
        self.blocks.append((place.size, integer))
        return place

    def add(
        self, op: Op, out: StridedView, a: StridedView | None = None, b: StridedView | None = None, number: float = 0.0,
        more: Sequence[int] = (),
    ) -> StridedView:  # fmt: skip
        """Adds an operation on places of one shape; returns the result.

        Raises:
            UntraceableError: the places do not lie so that an instruction can go through them.
        """
        first = a if op == Op.TOTAL else out  # what lies without gaps along the innermost loop
        assert first is not None
        used = [place for place in (out, a, b) if place is not None]
        found = loops([first, *used], lined=not more)
        if found is None:
            long = [d for d, n in enumerate(first.shape) if n != 1 and first.strides[d] != 1]
            if len(long) < RANK or more:
                raise UntraceableError(f"{op.name} goes through more than three loops")
            d = min(long, key=lambda d: first.shape[d])
            for k in range(first.shape[d]):
                one, *operands = (place and place.part(d, k, 1).without([d]) for place in (out, a, b))
                assert one is not None
                self.add(op, one, *operands, number=number)
            return out
        sizes, (_, *strides) = found
        self.put(op, sizes, out, a, b, strides, number, more)
        return out

    def put(
        self,
        op: Op,
        sizes: Sequence[int],
        out: StridedView,
        a: StridedView | None,
        b: StridedView | None,
        strides: Sequence[Sequence[int]],
        number: float = 0.0,
        more: Sequence[int] = (),
    ) -> None:
        """Adds an instruction with loops of given sizes and strides, those of the places that it has."""
        for place in (a, b):
            if place is not None and place.base in self.copied:
                source, times = self.copied[place.base]
                if self.changed.get(source, 0) != times:
                    raise UntraceableError("what was copied has changed since")
        if CHANGING <= op <= Op.MULTIPLY_TO or op in (Op.SPREAD, Op.ADD_ROWS, Op.TOTAL) or out.base >= 0:
            self.changed[out.base] = self.changed.get(out.base, 0) + 1
        missing, zeros = a or b or out, [0, 0, 0]
        given = iter([list(s) for s in strides])
        places = (out, a or missing, b or missing)
        lined = [next(given) if place is not None else zeros for place in (out, a, b)]
        self.instructions.append(Instruction(op, sizes, places, lined, number, more))

    def copy(self, place: StridedView, order: Sequence[int] | None = None) -> StridedView:
        """Returns a copy in a new block, the last dimension of an order the innermost."""
        out = self.add(Op.COPY, self.new(place.shape, order), place)
        self.copied[out.base] = place.base, self.changed.get(place.base, 0)
        return out

    def laid(self, place: StridedView, order: Sequence[int]) -> StridedView:
        """Returns the same numbers without gaps, the last dimension of an order the innermost; copied if need be."""
        wanted = packed(place.shape, order)
        same = all(a == b or n == 1 for a, b, n in zip(place.strides, wanted, place.shape, strict=True))
        return replace(place, strides=wanted) if same else self.copy(place, order)

    def product(self, a: StridedView, b: StridedView, lanes: int, turned: bool | None = None) -> StridedView:
        """Adds a matrix product, whose vectors lie along the columns of its result or, if that is faster, its rows.

        Args:
            a: first factor [m, k], or as many [g, m, k].
            b: second factor [k, n], or [g, k, n].
            lanes: numbers of a vector.
            turned: whether the numbers that the result is added to lie along its rows; None: it is added to none.
        """
        if len(a.shape) == 3:
            return self._products(a, b, lanes)
        moved = _ONE_BY_ONE * a.shape[0] * b.shape[1]
        plain = _cost(a, b, lanes) + (moved if turned is True else 0)
        other = _cost(_turned(b), _turned(a), lanes) + (moved if turned is False else 0)
        if other <= plain - (a.strides[1] == 1):  # where both are alike, examples lie side by side
            a, b, back = _turned(b), _turned(a), True
        else:
            back = False
        out = self._tile(a, b)
        m, n = out.shape
        if turned is None and n < m and n < _SHORT:
            out = self.copy(out, (1, 0))  # long lines for what follows
        return _turned(out) if back else out

    def _products(self, a: StridedView, b: StridedView, lanes: int) -> StridedView:
        """Adds the products of as many matrices [g, m, k] and [g, k, n], like `product`."""
        first, second = a.without([0]), b.without([0])
        if _cost(_turned(second), _turned(first), lanes) <= _cost(first, second, lanes) - (a.strides[2] == 1):
            return self._tiles(b.permuted((0, 2, 1)), a.permuted((0, 2, 1))).permuted((0, 2, 1))
        return self._tiles(a, b)

    def _tiles(self, a: StridedView, b: StridedView) -> StridedView:
        """Adds products whose vectors lie along the columns of their second factors."""
        (many, m, k), n = a.shape, b.shape[2]
        b = b if b.strides[2] == 1 or n == 1 else self.copy(b, (0, 1, 2))
        out = self.new((many, m, n))
        strides = [[m * n, n, 1], [a.strides[0], a.strides[1], 0], [b.strides[0], 0, 1]]
        self.put(Op.PRODUCT, (many, m, n), out, a, b, strides, more=(k, a.strides[2], b.strides[1]))
        return out

    def _tile(self, a: StridedView, b: StridedView) -> StridedView:
        """Adds a product whose vectors lie along the columns of its second factor."""
        (m, k), n = a.shape, b.shape[1]
        b = b if b.strides[1] == 1 or n == 1 else self.copy(b, (0, 1))
        out = self.new((m, n))
        strides = [[0, n, 1], [0, a.strides[0], 0], [0, 0, 1]]
        self.put(Op.PRODUCT, (1, m, n), out, a, b, strides, more=(k, a.strides[1], b.strides[0]))
        return out

    def total(self, place: StridedView, along: Sequence[int]) -> StridedView:
        """Adds a sum along some dimensions, which keep size 1; returns its place."""
        ones = tuple(1 if d in along else size for d, size in enumerate(place.shape))
        out = self.new(ones, favoured((), ones))
        self.add(Op.FILL, out)
        order = sorted(range(len(place.shape)), key=lambda d: -place.strides[d])
        steps = [step for step, size in zip(place.strides, place.shape, strict=True) if size > 1]
        source = place if not steps or min(steps) == 1 else self.copy(place, order)
        self.add(Op.TOTAL, out.expanded(place.shape), source, number=1.0)
        return out

    def share(self, total: StridedView, place: StridedView) -> StridedView:
        """Adds the mean of a place, given its sum along some dimensions; returns its place."""
        return self.add(Op.SCALE, self.new(total.shape), total, number=total.size / place.size)

    def code(self) -> Code:
        """Returns the finished tape, without what nobody reads: blocks share memory where no instruction needs both."""
        self.instructions = fusion.fused(without_unread(self.instructions), lambda size: self.new((size,)).base)
        places, sizes = self._places()
        codes = np.zeros((len(self.instructions), WIDTH), np.int64)
        for code, one in zip(codes, self.instructions, strict=True):
            code[0], code[SIZES : SIZES + 3] = one.op, one.sizes
            for at, place, strides in zip((OUT, A, B), one.places, one.strides, strict=True):
                base, first = places[place.base] if place.base < 0 else (OWN + place.base, 0)
                code[at : at + 5] = base, first + place.offset, *strides
            code[MORE : MORE + len(one.more)] = one.more
            if one.third is not None:
                base, first = places[one.third.base] if one.third.base < 0 else (OWN + one.third.base, 0)
                code[C : C + 3] = base, first + one.third.offset, one.apart
            code[FINISH] = one.finish
        return Code(codes, np.array([one.number for one in self.instructions]), *sizes)

    def _places(self) -> tuple[dict[int, tuple[int, int]], tuple[int, int]]:
        """Returns base and first number of each block, and how many numbers and integers there are in all."""
        ends = {place.base: q for q, one in enumerate(self.instructions) for place in one.all_places}
        found: dict[int, tuple[int, int]] = {}
        live: list[tuple[int, int, bool, int]] = []  # first, after the last, integer, last instruction
        most = [0, 0]
        for q, one in enumerate(self.instructions):
            live = [block for block in live if block[3] >= q]
            base = one.places[0].base
            if base < 0 and base not in found:
                size, integer = self.blocks[-1 - base]
                first = _gap([(a, b) for a, b, kind, _ in live if kind == integer], size)
                live.append((first, first + size, integer, ends[base]))
                found[base] = int(integer), first
                most[integer] = max(most[integer], first + size)
        return found, (most[0], most[1])


def _gap(taken: list[tuple[int, int]], size: int) -> int:
    """Returns the first multiple of a line that begins that many numbers which nobody has taken."""
    first = 0
    for a, b in sorted(taken):
        if first + size <= a:
            break
        first = max(first, -(-b // _LINE) * _LINE)
    return first


def _turned(place: StridedView) -> StridedView:
    """Returns the transpose."""
    return place.permuted((1, 0))


def _cost(a: StridedView, b: StridedView, lanes: int) -> float:
    """Returns about how long a product takes whose vectors lie along the columns of b [cycles]."""
    (m, k), n = a.shape, b.shape[1]
    each = _COPYING if min(k, n) >= lanes else _ONE_BY_ONE
    return m * k * -(-n // lanes) / 2 + (0.0 if b.strides[1] == 1 or n == 1 else each * k * n)
