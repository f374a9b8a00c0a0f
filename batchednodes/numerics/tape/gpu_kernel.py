r"""The kernel that runs a tape on a GPU: each program takes one row after the other, and runs all steps of its update.

It is compiled for the instructions of one tape, which it holds as constants: what is looked up or decided by them is
done while it is compiled. A row is read and written where it lies; what an instruction leaves for later ones lies in
memory of the program's own, which stays in the caches of its multiprocessor. All threads of a program meet behind each
instruction.

An instruction is (operation, sizes of three loops, result, first and second operand, what else it needs, its number,
sizes of a block, what runs it), see opcodes.py; a place is (base, numbers before its first one, strides along the
loops).

Notation: w rows of a wave, s step, o result, a b operands, c a number.
"""

from typing import no_type_check

from batchednodes.numerics.triton_kernels import constexpr, tl, triton

device_function = (lambda f: f) if triton is None else triton.jit


@device_function
@no_type_check
def _first(own, tensors, places, where, place: constexpr):  # noqa: ANN001, ANN202
    """Returns the address of the first number of a place, for the row and step at hand."""
    if place[0] < 2:
        address = own[place[0]] + where[2] * places[place[0]][0]
    else:
        address = tensors[place[0] - 2] + where[places[place[0]][1]] * places[place[0]][0]
    return address + place[1]


@device_function
@no_type_check
def _mapped(op: constexpr, x, c: constexpr):  # noqa: ANN001, ANN202
    """Returns an operation of one operand."""
    if op == "COPY":
        y = x
    elif op == "FILL":
        y = tl.full(x.shape, c, x.dtype)
    elif op == "SCALE":
        y = c * x
    elif op == "SHIFT":
        y = x + c
    elif op == "RELU":
        y = tl.where(x <= 0, 0.0, x)
    elif op == "SQRT":
        y = tl.sqrt(x)
    elif op == "SQUARE":
        y = x * x
    elif op == "INVERT":
        y = 1 / x
    elif op == "ABS":
        y = tl.abs(x)
    elif op == "EQUALS":
        y = (x == c).to(x.dtype)
    elif op == "EXCEEDS":
        y = (x > c).to(x.dtype)
    elif op == "BELOW":
        y = (x < c).to(x.dtype)
    elif op == "AT_LEAST":
        y = (x >= c).to(x.dtype)
    elif op == "AT_MOST":
        y = (x <= c).to(x.dtype)
    else:
        y = _function(op, x)
    return y


@device_function
@no_type_check
def _function(op: constexpr, x):  # noqa: ANN001, ANN202
    """Returns an elementary function."""
    if op == "EXP":
        y = tl.exp(x)
    elif op == "EXPM1":  # (e^x - 1) x / log e^x makes good what the difference loses
        power = tl.exp(x)
        near = (power > 0.5) & (power < 2) & (power != 1)
        close = (power - 1) * (x / tl.log(tl.where(near, power, 2.0)))
        y = tl.where(power == 1, x, tl.where(near, close, power - 1))
    elif op == "LOG":
        y = tl.log(x)
    elif op == "LOG1P":
        more = 1 + x
        close = tl.log(more) * (x / tl.where(more == 1, 1.0, more - 1))
        y = tl.where(more == 1, x, tl.where(tl.abs(x) < 1, close, tl.log(more)))
    elif op == "ERF":
        y = tl.erf(x)
    elif op == "TANH":
        power = tl.exp(-2 * tl.abs(x))
        y = (1 - power) / (1 + power)
        y = tl.where(x < 0, -y, y)
    elif op == "GELU":
        y = x * _below(x)
    else:
        tl.static_assert(op == "SIGMOID")
        y = 1 / (1 + tl.exp(-x))
    return y


@device_function
@no_type_check
def _below(x):  # noqa: ANN001, ANN202
    """Returns the probability that a standard normal number is below x."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476))


@device_function
@no_type_check
def _joined(op: constexpr, a, b, o, c: constexpr):  # noqa: ANN001, ANN202
    """Returns an operation of two operands, or what becomes of a result that one operand changes."""
    if op == "ADD":
        y = a + c * b
    elif op == "MULTIPLY":
        y = a * b
    elif op == "DIVIDE":
        y = a / b
    elif op == "RELU_BACK":
        y = tl.where(b <= 0, 0.0, a)
    elif op == "TANH_BACK":
        y = a * (1 - b * b)
    elif op == "SIGMOID_BACK":
        y = a * (1 - b) * b
    elif op == "GELU_BACK":
        y = a * (_below(b) + b * 0.3989422804014327 * tl.exp(-0.5 * b * b))
    elif op == "MASK":
        y = tl.where(b != 0, c, a)
    elif op == "CHOOSE":
        y = tl.where(b != 0, a, o)
    elif op == "ADD_TO":
        y = o + c * b
    else:
        tl.static_assert(op == "MULTIPLY_TO")
        y = o * b
    return y


@device_function
@no_type_check
def _offset(i, sizes: constexpr, strides: constexpr):  # noqa: ANN001, ANN202
    """Returns how far the turn i of three loops, all counted through, is from a place's first number."""
    inner, middle = i % sizes[2], i // sizes[2] % sizes[1]
    return i // (sizes[2] * sizes[1]) * strides[0] + middle * strides[1] + inner * strides[2]


@device_function
@no_type_check
def _elementwise(own, tensors, places, where, code: constexpr):  # noqa: ANN001, ANN202
    """Runs an operation that goes number by number."""
    op: constexpr = code[0]
    count: constexpr = code[1][0] * code[1][1] * code[1][2]
    o = _first(own, tensors, places, where, code[2])
    a, b = _first(own, tensors, places, where, code[3]), _first(own, tensors, places, where, code[4])
    for begin in range(0, count, code[7][0]):
        i = begin + tl.arange(0, code[7][0])
        live = i < count
        to, one = o + _offset(i, code[1], code[2][2]), a + _offset(i, code[1], code[3][2])
        other = b + _offset(i, code[1], code[4][2])
        if op == "FILL":
            y = tl.full([code[7][0]], code[6], o.dtype.element_ty)
        elif op == "PICK":
            index = tl.load(other, mask=live, other=0)
            there = (index >= 0) & (index < code[5][1])
            y = tl.where(there, tl.load(one + index * code[5][0], mask=live & there, other=0), float("nan"))
        elif op == "SAME":
            y = (tl.load(one, mask=live, other=0) == tl.load(other, mask=live, other=0)).to(o.dtype.element_ty)
        elif code[8] == "map":
            y = _mapped(op, tl.load(one, mask=live, other=1), code[6])
        else:
            x = tl.load(one, mask=live, other=1) if code[8] == "join" else tl.load(to, mask=live, other=1)
            old = tl.load(to, mask=live, other=1) if op == "CHOOSE" else x
            y = _joined(op, x, tl.load(other, mask=live, other=1), old, code[6])
        tl.store(to, y, mask=live)


@device_function
@no_type_check
def _along(own, tensors, places, where, code: constexpr):  # noqa: ANN001, ANN202
    """Runs an operation that goes along one of two dimensions, which lie without gaps: some lines at a time."""
    op: constexpr = code[0]
    d: constexpr = code[5][0]
    m: constexpr = code[5][1]
    inner: constexpr = code[5][2]
    o = _first(own, tensors, places, where, code[2])
    a, b = _first(own, tensors, places, where, code[3]), _first(own, tensors, places, where, code[4])
    for begin in range(0, m, code[7][0]):
        j, k = begin + tl.arange(0, code[7][0]), tl.arange(0, code[7][1])
        live = (j < m)[:, None] & (k < d)[None, :]
        at = j[:, None] * d + k[None, :] if inner else k[None, :] * m + j[:, None]
        x = tl.load(a + at, mask=live, other=0)
        if op == "ARGMAX":
            x = tl.where(live, tl.where(x == x, x, float("inf")), float("-inf"))
            tl.store(o + j, tl.argmax(x, 1).to(tl.int64), mask=j < m)
        elif op == "SOFTMAX" or op == "LOG_SOFTMAX":
            top = tl.max(tl.where((k < d)[None, :], x, float("-inf")), 1)[:, None]
            power = tl.where((k < d)[None, :], tl.exp(x - top), 0.0)
            total = tl.sum(power, 1)[:, None]
            y = power / total if op == "SOFTMAX" else x - top - tl.log(total)
            tl.store(o + at, y, mask=live)
        elif op == "NORM":
            apart = tl.where(live, x - (tl.sum(x, 1) / d)[:, None], 0.0)
            scale = 1 / tl.sqrt(tl.sum(apart * apart, 1) / d + code[6])
            tl.store(o + at, apart * scale[:, None], mask=live)
            tl.store(o + d * m + j, scale, mask=j < m)
        else:
            y = tl.load(b + at, mask=live, other=0)
            if op == "SOFTMAX_BACK":
                back = y * (x - tl.sum(x * y, 1)[:, None])
            elif op == "LOG_SOFTMAX_BACK":
                back = x - tl.exp(y) * tl.sum(x, 1)[:, None]
            else:
                tl.static_assert(op == "NORM_BACK")
                scale = tl.load(b + d * m + j, mask=j < m, other=0)[:, None]
                back = scale * (x - (tl.sum(x, 1) / d)[:, None] - (tl.sum(x * y, 1) / d)[:, None] * y)
            tl.store(o + at, back, mask=live)


@device_function
@no_type_check
def _product(own, tensors, places, where, code: constexpr):  # noqa: ANN001, ANN202
    """Runs matrix products, a tile of the result at a time."""
    m: constexpr = code[1][1]
    n: constexpr = code[1][2]
    terms: constexpr = code[5][0]
    o = _first(own, tensors, places, where, code[2])
    a, b = _first(own, tensors, places, where, code[3]), _first(own, tensors, places, where, code[4])
    for each in range(code[1][0]):
        for tile in range(tl.cdiv(m, code[7][0]) * tl.cdiv(n, code[7][1])):
            i = tile // tl.cdiv(n, code[7][1]) * code[7][0] + tl.arange(0, code[7][0])
            j = tile % tl.cdiv(n, code[7][1]) * code[7][1] + tl.arange(0, code[7][1])
            total = tl.zeros([code[7][0], code[7][1]], o.dtype.element_ty)
            for begin in range(0, terms, code[7][2]):
                k = begin + tl.arange(0, code[7][2])
                first = a + each * code[3][2][0] + i[:, None] * code[3][2][1] + k[None, :] * code[5][1]
                second = b + each * code[4][2][0] + k[:, None] * code[5][2] + j[None, :] * code[4][2][2]
                x = tl.load(first, mask=(i < m)[:, None] & (k < terms)[None, :], other=0)
                y = tl.load(second, mask=(k < terms)[:, None] & (j < n)[None, :], other=0)
                total = tl.dot(x, y, total, input_precision="ieee", out_dtype=o.dtype.element_ty)
            to = o + each * code[2][2][0] + i[:, None] * code[2][2][1] + j[None, :] * code[2][2][2]
            tl.store(to, total, mask=(i < m)[:, None] & (j < n)[None, :])


@device_function
@no_type_check
def _total(own, tensors, places, where, code: constexpr):  # noqa: ANN001, ANN202
    """Adds numbers up along the loops in which the result stays where it is, which stand in `code[5]`."""
    kept: constexpr = code[1][0] * code[1][1] * code[1][2]
    summed: constexpr = code[5][0][0] * code[5][0][1] * code[5][0][2]
    o, a = _first(own, tensors, places, where, code[2]), _first(own, tensors, places, where, code[3])
    for begin in range(0, kept, code[7][0]):
        i = begin + tl.arange(0, code[7][0])
        to, one = o + _offset(i, code[1], code[2][2]), a + _offset(i, code[1], code[3][2])
        total = tl.load(to, mask=i < kept, other=0)
        for first in range(0, summed, code[7][1]):
            k = first + tl.arange(0, code[7][1])
            source = one[:, None] + _offset(k, code[5][0], code[5][1])[None, :]
            total += tl.sum(tl.load(source, mask=(i < kept)[:, None] & (k < summed)[None, :], other=0), 1)
        tl.store(to, total, mask=i < kept)


@device_function
@no_type_check
def _spread(own, tensors, places, where, code: constexpr):  # noqa: ANN001, ANN202
    """Adds numbers to those at some indices, one after the other where they may meet; see `_total`."""
    kept: constexpr = code[1][0] * code[1][1] * code[1][2]
    turns: constexpr = code[5][0][0] * code[5][0][1] * code[5][0][2]
    o = _first(own, tensors, places, where, code[2])
    a, b = _first(own, tensors, places, where, code[3]), _first(own, tensors, places, where, code[4])
    for turn in range(turns):
        one, other = a + _offset(turn, code[5][0], code[5][1]), b + _offset(turn, code[5][0], code[5][2])
        for begin in range(0, kept, code[7][0]):
            i = begin + tl.arange(0, code[7][0])
            index = tl.load(other + _offset(i, code[1], code[4][2]), mask=i < kept, other=-1)
            live = (index >= 0) & (index < code[5][4])
            to = o + _offset(i, code[1], code[2][2]) + index * code[5][3]
            more = tl.load(one + _offset(i, code[1], code[3][2]), mask=live, other=0)
            tl.store(to, tl.load(to, mask=live, other=0) + more, mask=live)
        tl.debug_barrier()


@device_function
@no_type_check
def _rows(own, tensors, places, where, code: constexpr):  # noqa: ANN001, ANN202
    """Copies rows of a table, or adds to them, one after the other."""
    op: constexpr = code[0]
    count: constexpr = code[1][2]
    long: constexpr = code[5][0]
    o = _first(own, tensors, places, where, code[2])
    a, b = _first(own, tensors, places, where, code[3]), _first(own, tensors, places, where, code[4])
    if op == "ADD_ROWS":
        for e in range(count):
            index = tl.load(b + e)
            for begin in range(0, long, code[7][0]):
                i = begin + tl.arange(0, code[7][0])
                live = (i < long) & (index >= 0) & (index < code[5][1])
                more = code[6] * tl.load(a + e * long + i, mask=live, other=0)
                to = o + index * long + i
                tl.store(to, tl.load(to, mask=live, other=0) + more, mask=live)
            tl.debug_barrier()
    else:
        for begin in range(0, count * long, code[7][0]):
            i = begin + tl.arange(0, code[7][0])
            live = i < count * long
            index = tl.load(b + i // long, mask=live, other=0)
            there = live & (index >= 0) & (index < code[5][1])
            x = tl.load(a + index * long + i % long, mask=there, other=0)
            tl.store(o + i, x if op == "INDICES" else tl.where(there, x, float("nan")), mask=live)


@device_function
@no_type_check
def _instruction(own, tensors, places, where, code: constexpr):  # noqa: ANN001, ANN202
    """Runs an instruction."""
    kind: constexpr = code[8]
    if kind == "product":
        _product(own, tensors, places, where, code)
    elif kind == "total":
        _total(own, tensors, places, where, code)
    elif kind == "spread":
        _spread(own, tensors, places, where, code)
    elif kind == "rows":
        _rows(own, tensors, places, where, code)
    elif kind == "along":
        _along(own, tensors, places, where, code)
    else:
        _elementwise(own, tensors, places, where, code)
    tl.debug_barrier()


@no_type_check
def run(own, tensors, rows, entries, losses, w, steps, b, places: constexpr, codes: constexpr, count: constexpr,  # noqa: ANN001, ANN201
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
        codes: the instructions.
        count: how many.
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
                    _instruction(own, tensors, places, where, codes[q])
                made += 1
        tl.store(losses + r, tl.load(losses + r) / made)
        tl.debug_barrier()
        r += tl.num_programs(0)
