r"""Interpreter: runs a tape for one row after the other, in compiled code, while its numbers stay in the core's cache.

Operations that go number by number work on lines: the innermost loop, a piece at a time; an operand that does not lie
without gaps is copied into a line first.

Notation: w rows, s steps, o result, a b operands, c a number.
"""

import functools
from typing import Any, no_type_check

import numpy as np
from numba import cfunc, njit, types
from numba.np.numpy_support import carray

from batchednodes.numerics.intrinsics import claim, pointer
from batchednodes.numerics.tape import ahead
from batchednodes.numerics.tape.elementwise import OPTIONS, add_up, apply, change, gather, join
from batchednodes.numerics.tape.labels import label, label_back
from batchednodes.numerics.tape.lines import (
    gelu,
    gelu_back,
    normalize,
    normalize_back,
    softmax_lines,
    softmax_lines_back,
)
from batchednodes.numerics.tape.lstm import backward, forward, places
from batchednodes.numerics.tape.matmul import BYTES, multiply
from batchednodes.numerics.tape.opcodes import BINARY, CHANGING, FINISH, MORE, OUT, SIZES, WIDTH, A, B, C, Op
from batchednodes.numerics.tape.softmax import argmax, softmax, softmax_back
from batchednodes.numerics.work_queue import LINE, home, piece

PIECE = 1024
"""Numbers of a line."""

INPUT = 4
"""Integers that say where an argument lies: its address; bytes from row to row, and from step to step; the list of rows
by which they are looked up, or 0."""

_AHEAD = 3 << 18
"""Bytes of the next row's numbers that are asked for while a row is worked on, at most: less than half of the cache
that they go to [B]."""

_AT_ONCE = 1 << 15
"""Those where all are asked for at once [B]."""

OWN = 2
"""Bases of a tape's own numbers: real ones, then integers. Arguments follow."""


@njit(inline="always", **OPTIONS)
@no_type_check
def _operand(address, step, next_line, lines, n, spare, number):  # noqa: ANN001, ANN202
    """Returns the numbers of some lines of an operand without gaps: as they lie, or copied."""
    if step == 1 and (next_line == n or lines == 1):
        return carray(pointer(address), lines * n, number)
    gather(address, step, next_line, lines, n, spare)
    return spare


@njit(inline="always", **OPTIONS)
@no_type_check
def _at(code, place, bases, size):  # noqa: ANN001, ANN202
    """Returns the address of one of an instruction's places."""
    return bases[code[place]] + code[place + 1] * size


@njit(**OPTIONS)
@no_type_check
def _elementwise(op, code, bases, c, size, spares, number):  # noqa: ANN001, ANN202
    """Runs an operation that goes number by number: on as many lines, or as much of one, as a piece holds."""
    n0, n1, n2 = code[SIZES], code[SIZES + 1], code[SIZES + 2]
    o, a, b = _at(code, OUT, bases, size), _at(code, A, bases, size), _at(code, B, bases, size)
    together = max(1, PIECE // n2) if code[OUT + 3] == n2 else 1
    for i in range(n0):
        for j in range(0, n1, together):
            for f in range(0, n2, PIECE):
                lines, n = min(together, n1 - j), min(PIECE, n2 - f)
                to = o + (i * code[OUT + 2] + j * code[OUT + 3] + f * code[OUT + 4]) * size
                first = a + (i * code[A + 2] + j * code[A + 3] + f * code[A + 4]) * size
                second = b + (i * code[B + 2] + j * code[B + 3] + f * code[B + 4]) * size
                out = carray(pointer(to), lines * n, number)
                if op == Op.COPY:
                    gather(first, code[A + 4], code[A + 3], lines, n, out)
                elif op == Op.FILL:
                    apply(op, out, spares[0], c, lines * n)
                elif op == Op.GELU:
                    gelu(out, _operand(first, code[A + 4], code[A + 3], lines, n, spares[0], number))
                elif op < BINARY:
                    apply(op, out, _operand(first, code[A + 4], code[A + 3], lines, n, spares[0], number), c, lines * n)
                else:
                    other = _operand(second, code[B + 4], code[B + 3], lines, n, spares[1], number)
                    if op >= CHANGING:
                        change(op, out, other, c, lines * n)
                    else:
                        own = _operand(first, code[A + 4], code[A + 3], lines, n, spares[0], number)
                        if op == Op.GELU_BACK:
                            gelu_back(out, own, other)
                        else:
                            join(op, out, own, other, c, lines * n)


@njit(**OPTIONS)
@no_type_check
def _total(code, bases, c, size, number):  # noqa: ANN001, ANN202
    """Adds numbers up along the loops in which the result stays where it is."""
    n0, n1, n2 = code[SIZES], code[SIZES + 1], code[SIZES + 2]
    o, a = _at(code, OUT, bases, size), _at(code, A, bases, size)
    for i in range(n0):
        for j in range(n1):
            to = o + (i * code[OUT + 2] + j * code[OUT + 3]) * size
            first = a + (i * code[A + 2] + j * code[A + 3]) * size
            if code[OUT + 4] == 0:
                total, found = carray(pointer(to), 1, number), c * add_up(first, n2, number(0))
                total[0] = found if code[MORE] else total[0] + found
            else:
                line = carray(pointer(first), (n2 - 1) * code[A + 4] + 1, number)
                change(Op.ADD_TO, carray(pointer(to), n2, number), line, c, n2)


@njit(**OPTIONS)
@no_type_check
def _indexed(op, code, bases, size, number):  # noqa: ANN001, ANN202
    """Runs an operation that looks integers up; an index beyond what there is gives NaN, or is left out."""
    n0, n1, n2 = code[SIZES], code[SIZES + 1], code[SIZES + 2]
    wide = 8 if op == Op.SAME else size
    o, a, b = _at(code, OUT, bases, size), _at(code, A, bases, wide), _at(code, B, bases, 8)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                to = o + (i * code[OUT + 2] + j * code[OUT + 3] + k * code[OUT + 4]) * size
                source = a + (i * code[A + 2] + j * code[A + 3] + k * code[A + 4]) * wide
                place = b + (i * code[B + 2] + j * code[B + 3] + k * code[B + 4]) * 8
                index = carray(pointer(place), 1, np.int64)[0]
                inside = 0 <= index < code[MORE + 1]
                if op == Op.SAME:
                    same = carray(pointer(source), 1, np.int64)[0] == index
                    carray(pointer(to), 1, number)[0] = 1 if same else 0
                elif op == Op.PICK:
                    found = np.nan
                    if inside:
                        found = carray(pointer(source + index * code[MORE] * size), 1, number)[0]
                    carray(pointer(to), 1, number)[0] = found
                elif inside:
                    carray(pointer(to + index * code[MORE] * size), 1, number)[0] += carray(pointer(source), 1, number)[
                        0
                    ]


@njit(**OPTIONS)
@no_type_check
def _take(code, bases, size, number, missing):  # noqa: ANN001, ANN202
    """Copies rows of numbers of some bytes; a row that there is not is of numbers that stand for missing ones."""
    count, long = code[SIZES + 2], code[MORE]
    o, a, b = _at(code, OUT, bases, size), _at(code, A, bases, size), _at(code, B, bases, 8)
    index = carray(pointer(b), count, np.int64)
    if long == 1:
        found, numbers = carray(pointer(o), count, number), carray(pointer(a), code[MORE + 1], number)
        for e in range(count):
            k = index[e]
            found[np.uintp(e)] = numbers[np.uintp(k)] if 0 <= k < code[MORE + 1] else missing
        return
    for e in range(count):
        line = carray(pointer(o + e * long * size), long, number)
        if 0 <= index[e] < code[MORE + 1]:
            row = carray(pointer(a + index[e] * long * size), long, number)
            for i in range(long):
                line[np.uintp(i)] = row[np.uintp(i)]
        else:
            for i in range(long):
                line[np.uintp(i)] = missing


@njit(**OPTIONS)
@no_type_check
def _add_rows(code, bases, c, size, number):  # noqa: ANN001, ANN202
    """Adds rows of numbers to those at some indices; what there is no row for is left out."""
    count, long = code[SIZES + 2], code[MORE]
    o, a, b = _at(code, OUT, bases, size), _at(code, A, bases, size), _at(code, B, bases, 8)
    index = carray(pointer(b), count, np.int64)
    for e in range(count):
        if 0 <= index[e] < code[MORE + 1]:
            row = carray(pointer(o + index[e] * long * size), long, number)
            change(Op.ADD_TO, row, carray(pointer(a + e * long * size), long, number), c, long)


@njit(**OPTIONS)
@no_type_check
def _along(op, code, bases, c, size, spares, number):  # noqa: ANN001, ANN202
    """Runs an operation that goes along one of two dimensions."""
    d, m = code[MORE], code[MORE + 1]
    o, a, b = _at(code, OUT, bases, size), _at(code, A, bases, size), _at(code, B, bases, size)
    out, first = carray(pointer(o), d * m, number), carray(pointer(a), d * m, number)
    second = carray(pointer(b), d * m, number)
    if op == Op.NORM:
        normalize(out, first, carray(pointer(o + d * m * size), m, number), c, d, m)
    elif op == Op.NORM_BACK:
        normalize_back(out, first, second, carray(pointer(b + d * m * size), m, number), d, m)
    elif op == Op.SOFTMAX or op == Op.LOG_SOFTMAX:
        if code[MORE + 2]:
            softmax_lines(op == Op.SOFTMAX, out, first, d, m)
        else:
            softmax(op == Op.SOFTMAX, out, first, d, m, spares)
    elif code[MORE + 2]:
        softmax_lines_back(op == Op.SOFTMAX_BACK, out, first, second, d, m)
    else:
        softmax_back(op == Op.SOFTMAX_BACK, out, first, second, d, m, spares)


@njit(**OPTIONS)
@no_type_check
def _recurrent(op, code, bases, size, number):  # noqa: ANN001, ANN202
    """Runs an LSTM, or its adjoint."""
    t, b, h, back = code[MORE], code[MORE + 1], code[MORE + 2], code[MORE + 3] != 0
    for i in range(code[SIZES]):
        o, first = _at(code, OUT, bases, size), _at(code, A, bases, size) + i * code[A + 2] * size
        block = _at(code, B, bases, size) + i * code[B + 2] * size
        if op == Op.LSTM:
            whole = places(t, b, h)[-1]
            forward(first, carray(pointer(o + i * code[OUT + 2] * size), whole, number), t, b, h, back)
        else:
            whole = (t * b + 1) * 4 * h + 2 * b * h
            backward(first, block, carray(pointer(o + i * code[OUT + 2] * size), whole, number), t, b, h, back)


@njit(**OPTIONS)
@no_type_check
def _labels(op, code, bases, c, size, spares, number):  # noqa: ANN001, ANN202
    """Runs an operation on columns and their labels."""
    d, m = code[MORE], code[MORE + 1]
    o, a = _at(code, OUT, bases, size), carray(pointer(_at(code, A, bases, size)), d * m, number)
    labels = carray(pointer(_at(code, B, bases, 8)), m, np.int64)
    if op == Op.LABEL:
        label(o, a, carray(pointer(o + d * m * size), m, number), labels, d, m, spares)
    else:
        p = carray(pointer(_at(code, C, bases, size)), d * m, number)
        label_back(carray(pointer(o), d * m, number), a, code[A + 4], labels, p, c, d, m, spares)


@njit(**OPTIONS)
@no_type_check
def _products(code, bases, c, size, later):  # noqa: ANN001, ANN202
    """Runs matrix products."""
    o, a, b = _at(code, OUT, bases, size), _at(code, A, bases, size), _at(code, B, bases, size)
    for i in range(code[SIZES]):
        multiply(o + i * code[OUT + 2] * size, code[OUT + 3], a + i * code[A + 2] * size, code[A + 3], code[MORE + 1],
                 b + i * code[B + 2] * size, code[MORE + 2], code[SIZES + 1], code[SIZES + 2], code[MORE], size, c,
                 code[FINISH], _at(code, C, bases, size), code[C + 2], later)  # fmt: skip


@njit(**OPTIONS)
@no_type_check
def _step(codes, numbers, bases, spares, later, number):  # noqa: ANN001, ANN202
    """Runs all instructions once."""
    size = spares.itemsize
    for q in range(codes.shape[0]):
        code, op = codes[q], codes[q, 0]
        if op < Op.TOTAL:
            _elementwise(op, code, bases, numbers[q], size, spares, number)
            continue
        if op == Op.TOTAL:
            _total(code, bases, numbers[q], size, number)
            continue
        if op == Op.PRODUCT:
            _products(code, bases, numbers[q], size, later)
        elif op <= Op.NORM_BACK:
            _along(op, code, bases, numbers[q], size, spares, number)
        elif op <= Op.LABEL_BACK:
            _labels(op, code, bases, numbers[q], size, spares, number)
        elif op == Op.ADD_ROWS:
            _add_rows(code, bases, numbers[q], size, number)
        elif op == Op.ROWS:
            _take(code, bases, size, number, number(np.nan))
        elif op == Op.INDICES:
            _take(code, bases, 8, np.int64, np.int64(0))
        elif op == Op.LSTM or op == Op.LSTM_BACK:
            _recurrent(op, code, bases, size, number)
        elif op == Op.ARGMAX:
            d, m = code[MORE], code[MORE + 1]
            places = carray(pointer(_at(code, OUT, bases, 8)), m, np.int64)
            argmax(places, carray(pointer(_at(code, A, bases, size)), d * m, number), d, m, spares)
        else:
            _indexed(op, code, bases, size, number)


@njit(**OPTIONS)
@no_type_check
def _times(codes, lanes):  # noqa: ANN001, ANN202
    """Returns about how many tiles the products of a step have."""
    times = 0
    for q in range(codes.shape[0]):
        if codes[q, 0] == Op.PRODUCT:
            times += codes[q, SIZES] * ((codes[q, SIZES + 1] + 7) // 8) * (codes[q, SIZES + 2] // (2 * lanes) + 1)
    return times


@njit(**OPTIONS)
@no_type_check
def _rows(head, task, parts, number):  # noqa: ANN001, ANN202
    """Runs the tape for rows until none is left; arguments: see `run_`."""
    count, inputs, w, steps, together, b = head[2], head[5], head[7], head[8], head[11], head[13]
    codes, numbers = carray(pointer(head[1]), (count, WIDTH), np.int64), carray(pointer(head[3]), count, number)
    table = carray(pointer(head[4]), (inputs, INPUT), np.int64)
    rows = carray(pointer(head[6]), (table[:, 3].max(), w), np.int64)
    part, own = home(task, parts), claim(task, 0)
    spares = carray(pointer(head[9] + own * head[10]), (2, PIECE), number)
    bases = np.empty(OWN + inputs, np.int64)
    bases[0] = head[9] + own * head[10] + 2 * PIECE * spares.itemsize
    bases[1] = head[9] + own * head[10] + head[14]
    loss = carray(pointer(table[inputs - 1, 0]), w, number)
    later, times = np.zeros(ahead.RANGES + 2 * inputs, np.int64), steps * _times(codes, BYTES // spares.itemsize)
    block = piece(task, (w + together - 1) // together, part, parts)
    while block >= 0:
        for r in range(block * together, min(w, (block + 1) * together)):
            made = 0
            ahead.begin(later)
            for k in range(inputs if r + 1 < w else 0):
                if table[k, 3] != 0:
                    address = table[k, 0] + rows[table[k, 3] - 1, r + 1] * table[k, 1]
                    ahead.want(later, address, table[k, 1], _AHEAD if times > 0 else _AT_ONCE)
            ahead.share(later, times)
            if times == 0:
                ahead.ask(later)
            for s in range(steps):
                if head[12] != 0 and carray(pointer(head[12] + (r * steps + s) * b * 8), 1, np.int64)[0] < 0:
                    continue
                for k in range(inputs):
                    row = rows[table[k, 3] - 1, r] if table[k, 3] != 0 else r
                    bases[OWN + k] = table[k, 0] + row * table[k, 1] + s * table[k, 2]
                _step(codes, numbers, bases, spares, later, number)
                made += 1
            loss[r] /= made
        block = piece(task, (w + together - 1) // together, part, parts)


@functools.cache
def kernel(number: type) -> Any:
    """Returns the compiled function that runs tapes on numbers of a type, for `work_queue.run`.

    Its orders are: address of the instructions, and how many; address of their numbers; address of the table of
    arguments, and how many, the losses [w] the last; address of the lists of rows [lists, w] that are looked up; w; s;
    address of the memory of the threads, bytes of each; rows of a piece of work; address of entries [w, s, b] of which
    a first one below 0 says that there is no such step, or 0, and b; bytes of a thread's memory before its integers.
    """

    @cfunc(types.void(types.voidptr), cache=True)
    @no_type_check
    def runs(data):  # noqa: ANN001, ANN202
        head = carray(data, LINE, np.int64)
        parts = head[15]
        _rows(head, carray(data, LINE * (1 + parts), np.int64), parts, number)

    return runs
