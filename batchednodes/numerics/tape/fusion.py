r"""Fusion: instructions that go through the numbers of others right behind them become parts of these.

What becomes of a product's sums is done while they are in registers: a bias and a rectifier, or what a rectifier makes
of a gradient, or a step of models by it. Cross entropy is one instruction forward and one back. All but the latter
rounds as the instructions one by one do.

Notation: q place of an instruction, m rows and n columns of a product, d numbers of a column.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from batchednodes.numerics.tape.instruction import Instruction
from batchednodes.numerics.tape.opcodes import Finish, Op
from batchednodes.numerics.tape.strides import StridedView

_NOWHERE = (0, 0, 0)
"""Strides of a place that an instruction goes through by itself."""


def fused(instructions: Sequence[Instruction], new: Callable[[int], int]) -> list[Instruction]:
    """Returns instructions that compute the same.

    Args:
        instructions: of a tape, all of whose results are read.
        new: gives the base of another block of real numbers.
    """
    tape = _Tape(list(instructions), new)
    for join in (_label_, _total_, _scale_, _finish_):
        for q in range(len(tape.listed)):
            join(tape, q)
    return [one for one in tape.listed if one is not None]


class _Tape:
    """Instructions, some of which are gone."""

    def __init__(self, instructions: list[Instruction], new: Callable[[int], int]) -> None:
        self.listed: list[Instruction | None] = [*instructions]
        self.new = new

    def writers(self, base: int) -> list[int]:
        """Returns which instructions write into a block."""
        return [q for q, one in enumerate(self.listed) if one is not None and one.places[0].base == base]

    def readers(self, base: int) -> list[int]:
        """Returns which instructions read a block."""
        found = [(q, one) for q, one in enumerate(self.listed) if one is not None]
        return [q for q, one in found if any(place.base == base for place in one.reads)]

    def made(self, place: StridedView, q: int, ops: Sequence[Op]) -> tuple[int, Instruction] | None:
        """Returns what alone writes a block that an instruction q alone reads, if it is one of some operations.

        Nothing that it reads has changed until then.
        """
        if place.base >= 0 or self.readers(place.base) != [q]:
            return None
        writers = self.writers(place.base)
        one = self.listed[writers[0]] if len(writers) == 1 else None
        if one is None or one.op not in ops or not self.still(writers[0], q):
            return None
        return writers[0], one

    def still(self, p: int, q: int) -> bool:
        """Returns whether nothing that an instruction p reads is changed by those after it and before q."""
        one = self.listed[p]
        assert one is not None
        others = [other.places[0] for other in self.listed[p + 1 : q] if other is not None]
        return not any(_meet(place, other) for place in one.reads for other in others)


def _ends(place: StridedView) -> tuple[int, int]:
    """Returns the first and the last number of a place."""
    steps = [(size - 1) * step for size, step in zip(place.shape, place.strides, strict=True)]
    return place.offset, place.offset + sum(steps)


def _meet(a: StridedView, b: StridedView) -> bool:
    """Returns whether two places may have a number in common."""
    (a_first, a_last), (b_first, b_last) = _ends(a), _ends(b)
    return a.base == b.base and a_first <= b_last and b_first <= a_last


def _label_(tape: _Tape, q: int) -> None:
    """Makes one instruction of the adjoint of log softmax and the numbers at labels that it is applied to."""
    back = tape.listed[q]
    if back is None or back.op != Op.LOG_SOFTMAX_BACK or back.more[2]:
        return
    spread, soft = tape.writers(back.places[1].base), tape.writers(back.places[2].base)
    picks = [k for k in tape.readers(back.places[2].base) if k != q]
    filling = _zeros(tape, spread[:-1]) if tape.readers(back.places[1].base) == [q] else None
    if filling is None or len(soft) != 1 or len(picks) != 1 or not soft[0] < picks[0] < q:
        return
    forward, pick, seeds = (tape.listed[k] for k in (soft[0], picks[0], spread[-1]))
    assert forward is not None
    assert pick is not None
    assert seeds is not None
    d, m, *_ = back.more
    one = ((1, 1, m), (m, d))
    fits = forward.op == Op.LOG_SOFTMAX and pick.op == Op.PICK and seeds.op == Op.SPREAD
    alike = (tuple(pick.sizes), tuple(pick.more)) == one == (tuple(seeds.sizes), tuple(seeds.more))
    counted = all(tuple(k.strides[2]) == (0, 0, 1) and k.places[2] == pick.places[2] for k in (pick, seeds))
    whole = pick.strides[0][2] == pick.strides[1][2] == seeds.strides[0][2] == 1 and len(tape.writers(pick.places[0].base)) == 1
    first = pick.places[1].offset == 0 and seeds.places[0].offset == 0
    if not (fits and alike and counted and whole and first and tape.still(soft[0], picks[0]) and tape.still(spread[-1], q)):
        return
    base, labels = tape.new(d * m + m), pick.places[2]
    p = StridedView(base, (d, m), (m, 1))
    at_labels = StridedView(base, (m,), (1,), d * m)
    tape.listed[picks[0]] = Instruction(
        Op.LABEL, (1, 1, 1), (p, forward.places[1], labels), (_NOWHERE, _NOWHERE, _NOWHERE), 0.0, (d, m)
    )
    tape.listed[q] = Instruction(
        Op.LABEL_BACK, (1, 1, 1), (back.places[0], seeds.places[1], labels),
        (_NOWHERE, seeds.strides[1], _NOWHERE), 1.0, (d, m), third=p,
    )  # fmt: skip
    for k in (*soft, *filling, spread[-1]):
        tape.listed[k] = None
    _replace_(tape, pick.places[0].base, at_labels)


def _zeros(tape: _Tape, writers: list[int]) -> list[int] | None:
    """Returns the instructions that fill a block with zeros, if that is what some do."""
    if len(writers) != 1:
        return None
    one = tape.listed[writers[0]]
    assert one is not None
    if one.op == Op.COPY and tape.readers(one.places[1].base) == writers:
        found = _zeros(tape, tape.writers(one.places[1].base))
        return None if found is None else [*found, *writers]
    return writers if one.op == Op.FILL and one.number == 0 else None


def _replace_(tape: _Tape, base: int, place: StridedView) -> None:
    """Replaces a block of numbers, which lie without gaps, by a part of another one."""

    def moved(one: StridedView) -> StridedView:
        return replace(one, base=place.base, offset=one.offset + place.offset) if one.base == base else one

    for q, one in enumerate(tape.listed):
        if one is not None:
            first, second, third = (moved(k) for k in one.places)
            tape.listed[q] = replace(one, places=(first, second, third))


def _total_(tape: _Tape, q: int) -> None:
    """Makes one instruction of a sum and the zeros that it is added to."""
    one = tape.listed[q]
    if one is None or one.op != Op.TOTAL or not _along_lines(one):
        return
    writers = tape.writers(one.places[0].base)
    zeros = _zeros(tape, writers[:-1]) if one.places[0].base < 0 and writers[-1] == q else None
    if zeros is not None and len(zeros) == 1:
        tape.listed[zeros[0]], tape.listed[q] = None, replace(one, more=(1,))


def _along_lines(one: Instruction) -> bool:
    """Returns whether each sum of a total is along one line."""
    return one.strides[0][2] == 0 and all(
        step or size == 1 for step, size in zip(one.strides[0][:2], one.sizes[:2], strict=True)
    )


def _power(c: float) -> bool:
    """Returns whether a product by a number is exact."""
    return c != 0 and abs(math.frexp(c)[0]) == 0.5


def _scale_(tape: _Tape, q: int) -> None:
    """Makes one instruction of the product by a number and another one, or a sum."""
    one = tape.listed[q]
    if one is None or one.op not in (Op.SCALE, Op.LABEL_BACK, Op.ADD_TO):
        return
    k = 2 if one.op == Op.ADD_TO else 1
    found = tape.made(one.places[k], q, (Op.SCALE, Op.TOTAL))
    if found is None or not (_power(one.number) or _power(found[1].number)):
        return
    p, first = found
    c = one.number * first.number
    if first.op == Op.TOTAL:
        if not any(first.more) or one.op == Op.LABEL_BACK or (made := _laid(first, one, k)) is None:
            return
        strides = [made, *first.strides[1:]]
        more = (0,) if one.op == Op.ADD_TO else first.more
        merged = replace(first, places=(one.places[0], *first.places[1:]), strides=strides, number=c, more=more)
    else:
        step = _lined(first, one, k)
        if step is None:
            return
        places, strides = list(one.places), list(one.strides)
        places[k], strides[k] = first.places[1], (0, 0, step)
        if one.op in (Op.SCALE, Op.ADD_TO):
            places[3 - k] = first.places[1]  # it has one operand
        merged = replace(one, places=(places[0], places[1], places[2]), strides=strides, number=c)
    tape.listed[p], tape.listed[q] = None, merged


def _lined(first: Instruction, one: Instruction, k: int) -> int | None:
    """Returns the step of the numbers that a first instruction scales along the line of another one, its operand k."""
    if tuple(first.sizes[:2]) != (1, 1) or first.places[0].offset:
        return None
    if first.sizes[2] == 1:
        return 0
    counted = one.strides[k][2] == first.strides[0][2] == 1 and one.places[k].offset == 0
    count = one.more[1] if one.op == Op.LABEL_BACK else one.sizes[2]
    return first.strides[1][2] if counted and count == first.sizes[2] and tuple(one.sizes[:2]) == (1, 1) else None


def _laid(total: Instruction, one: Instruction, k: int) -> tuple[int, int, int] | None:
    """Returns the strides of sums that another instruction scales, its operand k, in its result."""
    if tuple(one.sizes[:2]) != (1, 1) or one.places[k].offset or total.places[0].offset:
        return None
    if one.sizes[2] == 1 == total.sizes[0] * total.sizes[1]:
        return _NOWHERE
    lines = total.sizes[0] == 1 and total.sizes[1] == one.sizes[2] and total.strides[0][1] == one.strides[k][2] == 1
    return (0, one.strides[0][2], 0) if lines else None


def _finish_(tape: _Tape, q: int) -> None:
    """Makes one instruction of a product and what becomes of its sums."""
    one = tape.listed[q]
    if one is None:
        return
    for k in {Op.ADD: (1, 2), Op.RELU: (1,), Op.RELU_BACK: (1,), Op.ADD_TO: (2,)}.get(one.op, ()):
        found = tape.made(one.places[k], q, (Op.PRODUCT,))
        merged = None if found is None else _finished(found[1], one, k)
        if found is not None and merged is not None:
            tape.listed[found[0]], tape.listed[q] = None, merged
            return


def _finished(product: Instruction, one: Instruction, k: int) -> Instruction | None:
    """Returns a product with what another instruction makes of its sums, which are the operand k of that.

    None: there is no such instruction.
    """
    _, m, n = product.sizes
    sums, out = one.places[k], one.places[0]
    dims = [d for d, size in enumerate(sums.shape) if size > 1]
    where = [(sums.shape[d], sums.strides[d]) for d in dims]
    if product.sizes[0] != 1 or min(m, n) < 2 or sums.offset or where not in ([(m, n), (n, 1)], [(n, 1), (m, n)]):
        return None
    i, j = dims if where[0][1] == n and where[1][1] == 1 else dims[::-1]
    third = one.places[3 - k] if one.op in (Op.ADD, Op.RELU_BACK) else None
    step = None if third is None else (third.strides[i], third.strides[j])
    before = product.finish
    finish = {
        Op.ADD: Finish.BIAS if before == Finish.STORE and one.number == 1 and step is not None and step[1] == 0 else None,
        Op.RELU: {Finish.BIAS: Finish.BIAS_RELU}.get(before),
        Op.RELU_BACK: Finish.RELU_BACK if before == Finish.STORE and step is not None and step[1] == 1 else None,
        Op.ADD_TO: Finish.ADD_TO if before == Finish.STORE else None,
    }[one.op]
    own = [place for place in product.reads if _meet(place, out)]
    if finish is None or out.strides[j] != 1 or own or (third is not None and len(third.shape) != len(sums.shape)):
        return None
    strides = [(0, out.strides[i], 1), *product.strides[1:]]
    apart = product.apart if step is None else step[0]
    return replace(
        product, places=(out, *product.places[1:]), strides=strides, number=one.number, finish=finish,
        third=product.third if third is None else third, apart=apart,
    )  # fmt: skip
