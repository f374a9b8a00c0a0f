"""Opcodes: what the instructions of a tape are called, and how they are written as numbers.

An instruction is WIDTH integers: the operation; the sizes of three loops, outermost first; then for each of its places,
the result and two operands, the number of its base, the numbers before its first one, and the strides of the
loops; then what else the operation needs; then, of a product, what becomes of its sums, and the place of the operand d
that this takes: its base, the numbers before its first one, and its stride along rows. Beside it stands one real number
c.
"""

from enum import IntEnum, auto

SIZES = 1
"""Where the sizes of the loops begin in an instruction."""

OUT, A, B = 4, 9, 14
"""Where the result's place and those of the operands begin."""

MORE = 19
"""Where the rest begins: see the operation."""

FINISH = 24
"""Where it says what becomes of the sums of a product."""

C = 25
"""Where the place of the operand of that begins, or of a third operand."""

WIDTH = 28
"""Integers of an instruction."""


class Finish(IntEnum):
    """What becomes of the sums s of a product; o is the result, d the operand, c the number."""

    STORE = 0  # o = s
    ADD_TO = auto()  # o + c s
    BIAS = auto()  # s + d, one number for each row
    BIAS_RELU = auto()  # max(s + d, 0)
    RELU_BACK = auto()  # s where d > 0, else 0


class Op(IntEnum):
    """Operations; o is the result, a and b are the operands, c is the number."""

    COPY = 0  # o = a, and so on, number by number: operations of one operand
    FILL = auto()  # c
    SCALE = auto()  # c a
    SHIFT = auto()  # a + c
    RELU = auto()  # max(a, 0)
    EXP = auto()
    EXPM1 = auto()  # exp(a) - 1
    LOG = auto()
    LOG1P = auto()  # log(1 + a)
    ERF = auto()
    TANH = auto()
    GELU = auto()  # a F(a), F the distribution function of a standard normal number
    SIGMOID = auto()
    SQRT = auto()
    SQUARE = auto()
    INVERT = auto()  # 1 / a
    ABS = auto()
    EQUALS = auto()  # 1 where a = c, else 0
    EXCEEDS = auto()  # 1 where a > c, else 0
    BELOW = auto()  # 1 where a < c, else 0
    AT_LEAST = auto()  # 1 where a >= c, else 0
    AT_MOST = auto()  # 1 where a <= c, else 0
    ADD = auto()  # a + c b: from here on of two operands
    MULTIPLY = auto()
    DIVIDE = auto()
    RELU_BACK = auto()  # a where b > 0, else 0
    TANH_BACK = auto()  # a (1 - b^2)
    SIGMOID_BACK = auto()  # a b (1 - b)
    GELU_BACK = auto()  # a times the derivative of GELU at b
    MASK = auto()  # c where b is not 0, else a
    CHOOSE = auto()  # a where b is not 0, else o
    ADD_TO = auto()  # o + c b: from here on the operand is b, and the result is changed
    MULTIPLY_TO = auto()  # o b
    TOTAL = auto()  # o + c sum of a along the loops in which the result stays where it is; MORE: 1: c sum alone
    PRODUCT = auto()  # matrix products, one for each turn of the first loop; MORE: terms, strides of a and b along them
    LOG_SOFTMAX = auto()  # along one of two dimensions; MORE: its size, that of the other, 1: it is the inner one
    LOG_SOFTMAX_BACK = auto()  # a - exp(b) sum a, likewise
    SOFTMAX = auto()
    SOFTMAX_BACK = auto()  # b (a - sum a b), likewise
    NORM = auto()  # lines less their mean, over the root of their variance + c; then one over that; MORE: sizes of both
    NORM_BACK = auto()  # its adjoint at b, applied to a, likewise
    LABEL = auto()  # softmax of columns; then log softmax at the label b of each; MORE as for softmax
    LABEL_BACK = auto()  # adjoint of the latter, applied to c a, for labels b, at softmax d; likewise
    PICK = auto()  # o = a[index b]; MORE: distance of a's entries, and how many there are
    SPREAD = auto()  # o[index b] += a; MORE: distance of o's entries, and how many there are
    ADD_ROWS = auto()  # row b of o += c a; MORE: size of a row, and how many there are
    ROWS = auto()  # o = row b of a, likewise
    INDICES = auto()  # the same for integers
    SAME = auto()  # 1 where the integers a and b are equal, else 0
    LSTM = (
        auto()
    )  # fills blocks o, one for each turn of the first loop, see lstm.py; MORE: steps, examples, units, back
    LSTM_BACK = auto()  # gradients o of what it was computed from, at that of outputs a, from blocks b; likewise
    ARGMAX = auto()  # o = number of the largest of a along the outer of two dimensions; MORE: the sizes of both


BINARY, CHANGING = Op.ADD, Op.ADD_TO
"""The first operation of two operands, and the first that changes its result."""
