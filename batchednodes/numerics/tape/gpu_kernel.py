r"""The kernel that runs a tape on a GPU: each program takes one row after the other, and runs all steps of its update.

A copy of its functions is compiled for each tape, whose instructions are a constant of theirs: what is looked up or
decided by these is done while it is compiled. A row is read and written where it lies; what an instruction leaves for
later ones lies in memory of the program's own, which stays in the caches of its multiprocessor. All threads of a
program meet behind each instruction.

Instructions stand one after the other in one tuple, since Triton 3.6 knows no tuples of tuples: each is WIDTH names and
numbers, the operation and what runs it first. A place is its base, the numbers before its first one, and its strides
along three loops; see opcodes.py.

Notation: w rows of a wave, s step, o result, a b operands, c a number.
"""

from typing import no_type_check

from batchednodes.numerics.tape.gpu_values import joined, mapped, softmax, softmax_back
from batchednodes.numerics.triton_kernels import constexpr, tl

constant = (lambda k: k) if constexpr is None else constexpr

KIND = constant(1)
"""Where an instruction says what runs it."""
SIZES = constant(2)
"""Sizes of its three loops."""
OUT, A, B = constant(5), constant(10), constant(15)
"""Places of its result and operands."""
MORE = constant(20)
"""What else it needs."""
NUMBER = constant(31)
"""Its number c."""
BLOCK = constant(32)
"""Sizes of a block."""
FINISH = constant(35)
"""What becomes of the sums of a product."""
C = constant(36)
"""Place of a third operand: its base, the numbers before its first one, and its stride along rows."""
WIDTH = constant(39)
"""Of an instruction."""

codes = constant(())
"""The instructions, of the copy of these functions that is compiled for a tape."""


@no_type_check
def _first(own, tensors, places, where, place: constexpr):  # noqa: ANN001, ANN202
    """Returns the address of the first number of a place, for the row and step at hand."""
    base: constexpr = codes[place]
    apart: constexpr = places[2 * base]
    counted: constexpr = places[2 * base + 1]
    tensor = own[base] if base < 2 else tensors[base - 2]
    return tensor + where[counted] * apart + codes[place + 1]


@no_type_check
def _offset(i, sizes: constexpr, strides: constexpr):  # noqa: ANN001, ANN202
    """Returns how far the turn i of three loops, all counted through, is from a place's first number."""
    inner, middle = i % codes[sizes + 2], i // codes[sizes + 2] % codes[sizes + 1]
    outer = i // (codes[sizes + 2] * codes[sizes + 1])
    return outer * codes[strides] + middle * codes[strides + 1] + inner * codes[strides + 2]


@no_type_check
def _elementwise(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Runs an operation that goes number by number."""
    block: constexpr = codes[at + BLOCK]
    kind: constexpr = codes[at + KIND]
    op: constexpr = codes[at]
    count: constexpr = codes[at + SIZES] * codes[at + SIZES + 1] * codes[at + SIZES + 2]
    o = _first(own, tensors, places, where, at + OUT)
    a, b = (
        _first(own, tensors, places, where, at + A),
        _first(own, tensors, places, where, at + B),
    )
    for begin in range(0, count, block):
        i = begin + tl.arange(0, block)
        live = i < count
        to, one = (
            o + _offset(i, at + SIZES, at + OUT + 2),
            a + _offset(i, at + SIZES, at + A + 2),
        )
        other = b + _offset(i, at + SIZES, at + B + 2)
        if op == "FILL":
            y = tl.full([block], codes[at + NUMBER], o.dtype.element_ty)
        elif op == "PICK":
            index = tl.load(other, mask=live, other=0)
            there = (index >= 0) & (index < codes[at + MORE + 1])
            y = tl.where(there, tl.load(one + index * codes[at + MORE], mask=live & there, other=0), float("nan"))
        elif op == "SAME":
            y = (tl.load(one, mask=live, other=0) == tl.load(other, mask=live, other=0)).to(o.dtype.element_ty)
        elif kind == "map":
            y = mapped(op, tl.load(one, mask=live, other=1), constexpr(codes[at + NUMBER]))
        else:
            x = tl.load(one, mask=live, other=1) if kind == "join" else tl.load(to, mask=live, other=1)
            old = tl.load(to, mask=live, other=1) if op == "CHOOSE" else x
            y = joined(op, x, tl.load(other, mask=live, other=1), old, constexpr(codes[at + NUMBER]))
        tl.store(to, y, mask=live)


@no_type_check
def _along(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Runs an operation that goes along one of two dimensions, which lie without gaps: some lines at a time."""
    block: constexpr = codes[at + BLOCK]
    columns: constexpr = codes[at + BLOCK + 1]
    op: constexpr = codes[at]
    d: constexpr = codes[at + MORE]
    m: constexpr = codes[at + MORE + 1]
    inner: constexpr = codes[at + MORE + 2]
    o = _first(own, tensors, places, where, at + OUT)
    a, b = _first(own, tensors, places, where, at + A), _first(own, tensors, places, where, at + B)
    for begin in range(0, m, block):
        j, k = begin + tl.arange(0, block), tl.arange(0, columns)
        line, there = j < m, (k < d)[None, :]
        entry = j[:, None] * d + k[None, :] if inner else k[None, :] * m + j[:, None]
        live = line[:, None] & there
        x = tl.load(a + entry, mask=live, other=0)
        if op == "ARGMAX":
            x = tl.where(there, tl.where(x == x, x, float("inf")), float("-inf"))
            tl.store(o + j, tl.argmax(x, 1).to(tl.int64), mask=line)
        elif op == "NORM":
            apart = tl.where(there, x - (tl.sum(x, 1) / d)[:, None], 0.0)
            scale = 1 / tl.sqrt(tl.sum(apart * apart, 1) / d + codes[at + NUMBER])
            tl.store(o + entry, apart * scale[:, None], mask=live)
            tl.store(o + d * m + j, scale, mask=line)
        elif op == "NORM_BACK":
            y, scale = tl.load(b + entry, mask=live, other=0), tl.load(b + d * m + j, mask=line, other=0)[:, None]
            back = x - (tl.sum(x, 1) / d)[:, None] - (tl.sum(x * y, 1) / d)[:, None] * y
            tl.store(o + entry, scale * back, mask=live)
        elif op == "SOFTMAX" or op == "LOG_SOFTMAX":
            tl.store(o + entry, softmax(op, x, there), mask=live)
        else:
            tl.store(o + entry, softmax_back(op, x, tl.load(b + entry, mask=live, other=0)), mask=live)


@no_type_check
def _labels(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Runs an operation on columns and their labels, which lie without gaps: some columns at a time."""
    block: constexpr = codes[at + BLOCK]
    numbers: constexpr = codes[at + BLOCK + 1]
    d: constexpr = codes[at + MORE]
    m: constexpr = codes[at + MORE + 1]
    o, a = _first(own, tensors, places, where, at + OUT), _first(own, tensors, places, where, at + A)
    b, p = _first(own, tensors, places, where, at + B), _first(own, tensors, places, where, at + C)
    for begin in range(0, m, block):
        j, k = (begin + tl.arange(0, block))[:, None], tl.arange(0, numbers)[None, :]
        index = tl.load(b + j, mask=j < m, other=-1)
        live, there, known = (j < m) & (k < d), k < d, (index >= 0) & (index < d)
        entry = k * m + j
        if codes[at] == "LABEL":
            x = tl.load(a + entry, mask=live, other=0)
            y = tl.sum(tl.where(k == index, softmax("LOG_SOFTMAX", x, there), 0.0), 1)[:, None]
            tl.store(o + entry, softmax("SOFTMAX", x, there), mask=live)
            tl.store(o + d * m + j, tl.where(known, y, float("nan")), mask=j < m)
        else:
            g = codes[at + NUMBER] * tl.load(a + j * codes[at + A + 4], mask=known, other=0)
            back = tl.where(k == index, g, 0.0) - tl.load(p + entry, mask=live, other=0) * g
            tl.store(o + entry, tl.where(known, back, 0.0), mask=live)


@no_type_check
def _product(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Runs matrix products, a tile of the result at a time."""
    block: constexpr = codes[at + BLOCK]
    columns: constexpr = codes[at + BLOCK + 1]
    deep: constexpr = codes[at + BLOCK + 2]
    m: constexpr = codes[at + SIZES + 1]
    n: constexpr = codes[at + SIZES + 2]
    terms: constexpr = codes[at + MORE]
    o = _first(own, tensors, places, where, at + OUT)
    a, b = (
        _first(own, tensors, places, where, at + A),
        _first(own, tensors, places, where, at + B),
    )
    for each in range(codes[at + SIZES]):
        for tile in range(tl.cdiv(m, block) * tl.cdiv(n, columns)):
            i = tile // tl.cdiv(n, columns) * block + tl.arange(0, block)
            j = tile % tl.cdiv(n, columns) * columns + tl.arange(0, columns)
            total = tl.zeros([block, columns], o.dtype.element_ty)
            for begin in range(0, terms, deep):
                k = begin + tl.arange(0, deep)
                first = (
                    a + each * codes[at + A + 2] + i[:, None] * codes[at + A + 3] + k[None, :] * codes[at + MORE + 1]
                )
                second = (
                    b + each * codes[at + B + 2] + k[:, None] * codes[at + MORE + 2] + j[None, :] * codes[at + B + 4]
                )
                x = tl.load(first, mask=(i < m)[:, None] & (k < terms)[None, :], other=0)
                y = tl.load(second, mask=(k < terms)[:, None] & (j < n)[None, :], other=0)
                total = tl.dot(x, y, total, input_precision="ieee", out_dtype=o.dtype.element_ty)
            to = o + each * codes[at + OUT + 2] + i[:, None] * codes[at + OUT + 3] + j[None, :] * codes[at + OUT + 4]
            live = (i < m)[:, None] & (j < n)[None, :]
            tl.store(to, _finished(own, tensors, places, where, total, to, i, j, live, at), mask=live)


@no_type_check
def _finished(own, tensors, places, where, total, to, i, j, live, at: constexpr):  # noqa: ANN001, ANN202
    """Returns what becomes of the sums of a tile, rows i and columns j."""
    finish: constexpr = codes[at + FINISH]
    d = _first(own, tensors, places, where, at + C) + i[:, None] * codes[at + C + 2]
    y = total
    if finish == "ADD_TO":
        y = tl.load(to, mask=live, other=0) + codes[at + NUMBER] * total
    elif finish == "RELU_BACK":
        y = tl.where(tl.load(d + j[None, :], mask=live, other=0) <= 0, 0.0, total)
    elif finish != "STORE":
        y = total + tl.load(d, mask=(i < codes[at + SIZES + 1])[:, None], other=0)
        if finish == "BIAS_RELU":
            y = tl.where(y <= 0, 0.0, y)
    return y


@no_type_check
def _total(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Adds numbers up along the loops in which the result stays where it is, which stand at MORE."""
    block: constexpr = codes[at + BLOCK]
    columns: constexpr = codes[at + BLOCK + 1]
    kept: constexpr = codes[at + SIZES] * codes[at + SIZES + 1] * codes[at + SIZES + 2]
    summed: constexpr = codes[at + MORE] * codes[at + MORE + 1] * codes[at + MORE + 2]
    o, a = (
        _first(own, tensors, places, where, at + OUT),
        _first(own, tensors, places, where, at + A),
    )
    for begin in range(0, kept, block):
        i = begin + tl.arange(0, block)
        to, one = (
            o + _offset(i, at + SIZES, at + OUT + 2),
            a + _offset(i, at + SIZES, at + A + 2),
        )
        total = tl.zeros([block], o.dtype.element_ty)
        for first in range(0, summed, columns):
            k = first + tl.arange(0, columns)
            source = one[:, None] + _offset(k, at + MORE, at + MORE + 3)[None, :]
            total += tl.sum(tl.load(source, mask=(i < kept)[:, None] & (k < summed)[None, :], other=0), 1)
        old = tl.load(to, mask=i < kept, other=0)
        total = codes[at + NUMBER] * total
        tl.store(to, total if codes[at + MORE + 9] else old + total, mask=i < kept)


@no_type_check
def _spread(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Adds numbers to those at some indices, one after the other where they may meet; see `_total`."""
    block: constexpr = codes[at + BLOCK]
    kept: constexpr = codes[at + SIZES] * codes[at + SIZES + 1] * codes[at + SIZES + 2]
    turns: constexpr = codes[at + MORE] * codes[at + MORE + 1] * codes[at + MORE + 2]
    o = _first(own, tensors, places, where, at + OUT)
    a, b = (
        _first(own, tensors, places, where, at + A),
        _first(own, tensors, places, where, at + B),
    )
    for turn in range(turns):
        one, other = (
            a + _offset(turn, at + MORE, at + MORE + 3),
            b + _offset(turn, at + MORE, at + MORE + 6),
        )
        for begin in range(0, kept, block):
            i = begin + tl.arange(0, block)
            index = tl.load(other + _offset(i, at + SIZES, at + B + 2), mask=i < kept, other=-1)
            live = (index >= 0) & (index < codes[at + MORE + 10])
            to = o + _offset(i, at + SIZES, at + OUT + 2) + index * codes[at + MORE + 9]
            more = tl.load(one + _offset(i, at + SIZES, at + A + 2), mask=live, other=0)
            tl.store(to, tl.load(to, mask=live, other=0) + more, mask=live)
        tl.debug_barrier()


@no_type_check
def _rows(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Copies rows of a table, or adds to them, one after the other."""
    block: constexpr = codes[at + BLOCK]
    op: constexpr = codes[at]
    count: constexpr = codes[at + SIZES + 2]
    long: constexpr = codes[at + MORE]
    o = _first(own, tensors, places, where, at + OUT)
    a, b = (
        _first(own, tensors, places, where, at + A),
        _first(own, tensors, places, where, at + B),
    )
    if op == "ADD_ROWS":
        for e in range(count):
            index = tl.load(b + e)
            for begin in range(0, long, block):
                i = begin + tl.arange(0, block)
                live = (i < long) & (index >= 0) & (index < codes[at + MORE + 1])
                more = codes[at + NUMBER] * tl.load(a + e * long + i, mask=live, other=0)
                to = o + index * long + i
                tl.store(to, tl.load(to, mask=live, other=0) + more, mask=live)
            tl.debug_barrier()
    else:
        for begin in range(0, count * long, block):
            i = begin + tl.arange(0, block)
            live = i < count * long
            index = tl.load(b + i // long, mask=live, other=0)
            there = live & (index >= 0) & (index < codes[at + MORE + 1])
            x = tl.load(a + index * long + i % long, mask=there, other=0)
            tl.store(o + i, x if op == "INDICES" else tl.where(there, x, float("nan")), mask=live)


@no_type_check
def _instruction(own, tensors, places, where, at: constexpr):  # noqa: ANN001, ANN202
    """Runs an instruction."""
    kind: constexpr = codes[at + KIND]
    if kind == "product":
        _product(own, tensors, places, where, at)
    elif kind == "total":
        _total(own, tensors, places, where, at)
    elif kind == "spread":
        _spread(own, tensors, places, where, at)
    elif kind == "rows":
        _rows(own, tensors, places, where, at)
    elif kind == "label":
        _labels(own, tensors, places, where, at)
    elif kind == "along":
        _along(own, tensors, places, where, at)
    else:
        _elementwise(own, tensors, places, where, at)
    tl.debug_barrier()


@no_type_check
def run(own, tensors, rows, entries, losses, w, steps, b, places: constexpr, count: constexpr,  # noqa: ANN001, ANN201
        looked_up: constexpr, skip: constexpr):  # fmt: skip
    """Runs all steps of some rows.

    Args:
        own: memory of the programs, of real numbers and of integers.
        tensors: what the tape reads and writes, the losses last.
        rows: by which those are looked up that are.
        entries: of minibatches [w, s, b].
        losses: [w]; their sums over the steps become means.
        w: rows; steps: s; b: entries of a step.
        places: of each base, numbers from row to row, and what counts the rows: 0 the wave, 1 `rows`, 2 the programs,
            3 the steps of the wave.
        count: instructions.
        looked_up: whether anything is.
        skip: whether rows do not have the steps whose first entry is below 0.
    """
    program = tl.program_id(0).to(tl.int64)
    r = program
    while r < w:
        row = tl.load(rows + r) if looked_up else r
        made = 0
        for s in range(steps):
            where = (r, row, program, r * steps + s)
            here = True
            if skip:
                here = tl.load(entries + where[3] * b) >= 0
            if here:
                for q in tl.static_range(count):
                    _instruction(own, tensors, places, where, q * WIDTH)
                made += 1
        tl.store(losses + r, tl.load(losses + r) / made)
        tl.debug_barrier()
        r += tl.num_programs(0)
