r"""Fusion: instructions that go through the numbers of others right behind them become parts of these.

What becomes of a product's sums is done while they are in registers: a bias and a rectifier, or what a rectifier makes
of a gradient, or a step of models by it. Cross entropy is one instruction forward and one back. All but the latter
rounds as the instructions one by one do.

Notation: p q places of instructions, m rows and n columns of a product, d numbers of a column of m.
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
        for q, one in enumerate(tape.listed):
            if one is not None:
                join(tape, q, one)
    return [one for one in tape.listed if one is not None]


class _Tape:
    """Instructions, some of which are gone."""

    def __init__(self, instructions: list[Instruction], new: Callable[[int], int]) -> None:
        self.listed: list[Instruction | None] = [*instructions]
        self.new = new

    def __getitem__(self, q: int) -> Instruction:
        one = self.listed[q]
        assert one is not None
        return one

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
        if len(writers) != 1 or self[writers[0]].op not in ops or not self.still(writers[0], q):
            return None
        return writers[0], self[writers[0]]

    def still(self, p: int, q: int) -> bool:
        """Returns whether nothing that an instruction p reads is changed by those after it and before q."""
        others = [other.places[0] for other in self.listed[p + 1 : q] if other is not None]
        return not any(_meet(place, other) for place in self[p].reads for other in others)

    def zeros(self, writers: Sequence[int]) -> list[int] | None:
        """Returns the instructions that fill a block with zeros, if that is all that its writers do; else None."""
        if len(writers) != 1:
            return None
        one = self[writers[0]]
        if one.op == Op.COPY and self.readers(one.places[1].base) == writers:
            found = self.zeros(self.writers(one.places[1].base))
            return None if found is None else [*found, *writers]
        return [*writers] if one.op == Op.FILL and one.number == 0 else None


def _ends(place: StridedView) -> tuple[int, int]:
    """Returns the first and the last number of a place."""
    steps = [(size - 1) * step for size, step in zip(place.shape, place.strides, strict=True)]
    return place.offset, place.offset + sum(steps)


def _meet(a: StridedView, b: StridedView) -> bool:
    """Returns whether two places may have a number in common."""
    (a_first, a_last), (b_first, b_last) = _ends(a), _ends(b)
    return a.base == b.base and a_first <= b_last and b_first <= a_last


def _label_(tape: _Tape, q: int, back: Instruction) -> None:
    """Makes one instruction of log softmax at labels, and one of its adjoint."""
    found = _at_labels(tape, q, back) if back.op == Op.LOG_SOFTMAX_BACK and not back.more[2] else None
    if found is None:
        return
    soft, pick, spread, zeros = found
    (d, m, *_), labels, picked = back.more, tape[pick].places[2], tape[pick].places[0].base
    base = tape.new(d * m + m)
    p, logarithms = StridedView(base, (d, m), (m, 1)), StridedView(base, (m,), (1,), d * m)
    seeds, strides = tape[spread].places[1], (_NOWHERE, tape[spread].strides[1], _NOWHERE)
    forward = Instruction(Op.LABEL, (1, 1, 1), (p, tape[soft].places[1], labels), (_NOWHERE,) * 3, 0.0, (d, m))
    tape.listed[q] = Instruction(
        Op.LABEL_BACK, (1, 1, 1), (back.places[0], seeds, labels), strides, 1.0, (d, m), third=p
    )
    for k in (soft, *zeros, spread):
        tape.listed[k] = None
    tape.listed[pick] = forward
    for k, one in enumerate(tape.listed):
        if one is not None:
            tape.listed[k] = _moved(one, picked, logarithms)


def _at_labels(tape: _Tape, q: int, back: Instruction) -> tuple[int, int, int, list[int]] | None:
    """Returns which instructions compute log softmax, pick its numbers at labels, and spread gradients over these.

    The last ones fill with zeros what is spread into. None: an adjoint q is of something else.
    """
    g, y = back.places[1].base, back.places[2].base
    spread, soft, picks = tape.writers(g), tape.writers(y), [k for k in tape.readers(y) if k != q]
    zeros = tape.zeros(spread[:-1]) if tape.readers(g) == [q] else None
    if zeros is None or len(soft) != 1 or len(picks) != 1 or not soft[0] < picks[0] < q:
        return None
    forward, pick, seeds = tape[soft[0]], tape[picks[0]], tape[spread[-1]]
    if (forward.op, pick.op, seeds.op) != (Op.LOG_SOFTMAX, Op.PICK, Op.SPREAD) or pick.places[2] != seeds.places[2]:
        return None
    d, m, *_ = back.more
    counted = _of_columns(pick, 1, d, m) and _of_columns(seeds, 0, d, m) and pick.strides[0][2] == 1
    alone = len(tape.writers(pick.places[0].base)) == 1
    if not (counted and alone and tape.still(soft[0], picks[0]) and tape.still(spread[-1], q)):
        return None
    return soft[0], picks[0], spread[-1], zeros


def _of_columns(one: Instruction, k: int, d: int, m: int) -> bool:
    """Returns whether an instruction looks one number of each column of its place k up, one column after the other."""
    whole = (tuple(one.sizes), tuple(one.more)) == ((1, 1, m), (m, d)) and one.places[k].offset == 0
    return whole and one.strides[k][2] == 1 and tuple(one.strides[2]) == (0, 0, 1)


def _moved(one: Instruction, base: int, to: StridedView) -> Instruction:
    """Returns an instruction whose places in a block lie in a part of another one."""
    first, second, third = (
        replace(place, base=to.base, offset=place.offset + to.offset) if place.base == base else place
        for place in one.places
    )
    return replace(one, places=(first, second, third))


def _total_(tape: _Tape, q: int, one: Instruction) -> None:
    """Makes one instruction of sums along lines and the zeros that they are added to."""
    base, stays = one.places[0].base, one.strides[0]
    lines = stays[2] == 0 and all(step or size == 1 for step, size in zip(stays[:2], one.sizes[:2], strict=True))
    writers = tape.writers(base)
    if one.op == Op.TOTAL and lines and base < 0 and writers[-1] == q:
        zeros = tape.zeros(writers[:-1])
        if zeros is not None and len(zeros) == 1:
            tape.listed[zeros[0]], tape.listed[q] = None, replace(one, more=(1,))


def _exact(c: float) -> bool:
    """Returns whether a product by a number is a power of two, and so exact."""
    return c != 0 and abs(math.frexp(c)[0]) == 0.5


def _scale_(tape: _Tape, q: int, one: Instruction) -> None:
    """Makes one instruction of what a number scales, or sums, and what comes next."""
    k = {Op.SCALE: 1, Op.LABEL_BACK: 1, Op.ADD_TO: 2}.get(one.op)
    found = None if k is None else tape.made(one.places[k], q, (Op.SCALE, Op.TOTAL))
    if k is None or found is None or not (_exact(one.number) or _exact(found[1].number)):
        return
    p, first = found
    merged = (_scaled if first.op == Op.SCALE else _summed)(first, one, k)
    if merged is not None:
        tape.listed[p], tape.listed[q] = None, replace(merged, number=one.number * first.number)


def _scaled(first: Instruction, one: Instruction, k: int) -> Instruction | None:
    """Returns an instruction on what a first one scales, its operand k, without that; None: there is none."""
    if tuple(first.sizes[:2]) != (1, 1) or first.places[0].offset:
        return None
    step = 0  # along the line of one number
    if first.sizes[2] != 1:
        count = one.more[1] if one.op == Op.LABEL_BACK else one.sizes[2]
        along = one.strides[k][2] == first.strides[0][2] == 1 and one.places[k].offset == 0
        if not along or count != first.sizes[2] or tuple(one.sizes[:2]) != (1, 1):
            return None
        step = first.strides[1][2]
    places, strides = list(one.places), list(one.strides)
    places[k], strides[k] = first.places[1], (0, 0, step)
    if one.op != Op.LABEL_BACK:
        places[3 - k] = first.places[1]  # it has one operand
    return replace(one, places=(places[0], places[1], places[2]), strides=strides)


def _summed(first: Instruction, one: Instruction, k: int) -> Instruction | None:
    """Returns the sums of a first instruction as another one scales them, its operand k; None: there are none such."""
    sums = first.sizes[0] * first.sizes[1]
    if not any(first.more) or one.op == Op.LABEL_BACK or one.places[k].offset or first.places[0].offset:
        return None
    if first.sizes[0] != 1 or tuple(one.sizes) != (1, 1, sums):
        return None
    if sums != 1 and not first.strides[0][1] == one.strides[k][2] == 1:
        return None
    strides = [(0, one.strides[0][2], 0), *first.strides[1:]]
    more = (0,) if one.op == Op.ADD_TO else first.more
    return replace(first, places=(one.places[0], *first.places[1:]), strides=strides, more=more)


def _finish_(tape: _Tape, q: int, one: Instruction) -> None:
    """Makes one instruction of a product and what becomes of its sums."""
    for k in {Op.ADD: (1, 2), Op.RELU: (1,), Op.RELU_BACK: (1,), Op.ADD_TO: (2,)}.get(one.op, ()):
        found = tape.made(one.places[k], q, (Op.PRODUCT,))
        merged = None if found is None else _finished(found[1], one, k)
        if found is not None and merged is not None:
            tape.listed[found[0]], tape.listed[q] = None, merged
            return


def _finished(product: Instruction, one: Instruction, k: int) -> Instruction | None:
    """Returns a product with what another instruction makes of its sums, its operand k; None: there is none such."""
    (_, m, n), sums, out = product.sizes, one.places[k], one.places[0]
    dims = [d for d, size in enumerate(sums.shape) if size > 1]
    lie = [(sums.shape[d], sums.strides[d]) for d in dims]
    if product.sizes[0] != 1 or min(m, n) < 2 or sums.offset or sorted(lie) != sorted([(m, n), (n, 1)]):
        return None
    i, j = dims if lie == [(m, n), (n, 1)] else dims[::-1]
    third = one.places[3 - k] if one.op in (Op.ADD, Op.RELU_BACK) else None
    if third is not None and third.base == sums.base:
        return None
    finish = _way(product.finish, one, None if third is None else third.strides[j])
    if finish is None or out.strides[j] != 1 or any(_meet(place, out) for place in product.reads):
        return None
    if third is None:
        third, apart = product.third, product.apart
    else:
        apart = third.strides[i]
    strides = [(0, out.strides[i], 1), *product.strides[1:]]
    places = (out, *product.places[1:])
    return replace(product, places=places, strides=strides, number=one.number, finish=finish, third=third, apart=apart)


def _way(before: Finish, one: Instruction, step: int | None) -> Finish | None:
    """Returns what becomes of sums that another instruction changes; None: nothing that products do.

    Args:
        before: what becomes of them without it.
        one: the instruction.
        step: the stride of its other operand along columns.
    """
    if one.op == Op.RELU:
        return Finish.BIAS_RELU if before == Finish.BIAS else None
    if before != Finish.STORE:
        return None
    if one.op == Op.ADD:
        return Finish.BIAS if step == 0 and one.number == 1 else None
    if one.op == Op.RELU_BACK:
        return Finish.RELU_BACK if step == 1 else None
    return Finish.ADD_TO
