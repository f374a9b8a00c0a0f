r"""Elementary functions of vectors, as LLVM code, for loops that compilers make no vectors of: see elementary.py."""

import math
from typing import Any, no_type_check

from batchednodes.numerics.simd import Emitter, ir
from batchednodes.numerics.tape.elementary import HIGH_32, HIGH_64, LOG2E, LOW_32, LOW_64


@no_type_check
def _split(emit: Emitter, x: Any) -> tuple[Any, Any]:
    """Returns 2^k and e^r - 1 for x = k log 2 + r between bounds, beyond which x is moved to them; NaN stays."""
    b, short = emit.builder, emit.size == 4
    lowest, highest = (-87.0, 88.0) if short else (-708.0, 709.0)
    high, low, terms = (HIGH_32, LOW_32, 7) if short else (HIGH_64, LOW_64, 13)
    bits, bias, shift = (ir.IntType(32), 127, 23) if short else (ir.IntType(64), 1023, 52)
    for bound, sign in ((lowest, "<"), (highest, ">")):
        x = b.select(b.fcmp_ordered(sign, x, emit.equal(bound)), emit.equal(bound), x)
    k = emit.floor(emit.add_product(emit.equal(0.5), x, emit.equal(LOG2E)))
    r = emit.add_product(emit.add_product(x, k, emit.equal(-high)), k, emit.equal(-low))
    rest = emit.equal(1 / math.factorial(terms))
    for i in range(terms - 1, 0, -1):
        rest = emit.add_product(emit.equal(1 / math.factorial(i)), r, rest)
    kind = ir.VectorType(bits, emit.lanes)
    whole = b.add(b.fptosi(k, kind), ir.Constant(kind, [bias] * emit.lanes))
    power = b.bitcast(b.shl(whole, ir.Constant(kind, [shift] * emit.lanes)), emit.vector)
    return power, b.fmul(rest, r)


@no_type_check
def exp(emit: Emitter, x: Any) -> Any:
    """Returns e^x of a vector of numbers that are at most 0; 0 where numbers of the type would soon lose digits."""
    b, (power, rest) = emit.builder, _split(emit, x)
    below = b.fcmp_ordered("<", x, emit.equal(-87.0 if emit.size == 4 else -708.0))
    value = b.select(below, emit.equal(0.0), emit.add_product(power, power, rest))
    return b.select(b.fcmp_unordered("uno", x, x), x, value)


@no_type_check
def _logistic(emit: Emitter, x: Any) -> Any:
    """Returns 1 + e^-x; beyond bounds it stays, so that products of two are finite, whose inverse is below rounding."""
    b, one, most = emit.builder, emit.equal(1.0), emit.equal(43.0 if emit.size == 4 else 350.0)
    turned = b.fneg(x)
    power, rest = _split(emit, b.select(b.fcmp_ordered(">", turned, most), most, turned))
    return b.fadd(one, emit.add_product(power, power, rest))


@no_type_check
def _hyperbolic(emit: Emitter, x: Any) -> tuple[Any, Any]:
    """Returns numerator e^(2|x|) - 1, so that digits stay, and denominator of the hyperbolic tangent of |x|."""
    b, most = emit.builder, emit.equal(40.0)
    twice = emit.call("llvm.fabs", b.fadd(x, x))
    power, rest = _split(emit, b.select(b.fcmp_ordered(">", twice, most), most, twice))
    grown = emit.add_product(b.fsub(power, emit.equal(1.0)), power, rest)
    return grown, b.fadd(grown, emit.equal(2.0))


@no_type_check
def tanh(emit: Emitter, x: Any) -> Any:
    """Returns the hyperbolic tangent of a vector."""
    over, under = _hyperbolic(emit, x)
    return emit.call("llvm.copysign", emit.builder.fdiv(over, under), x)


@no_type_check
def sigmoids(emit: Emitter, x: Any, y: Any) -> tuple[Any, Any]:
    """Returns 1 / (1 + e^-x) and 1 / (1 + e^-y) of vectors, by one division, which takes longer than all else."""
    b, first, second = emit.builder, _logistic(emit, x), _logistic(emit, y)
    inverse = b.fdiv(emit.equal(1.0), b.fmul(first, second))
    return b.fmul(inverse, second), b.fmul(inverse, first)


@no_type_check
def tanh_and_sigmoid(emit: Emitter, x: Any, y: Any) -> tuple[Any, Any]:
    """Returns tanh x and 1 / (1 + e^-y) of vectors, likewise."""
    b, (over, under), other = emit.builder, _hyperbolic(emit, x), _logistic(emit, y)
    inverse = b.fdiv(emit.equal(1.0), b.fmul(under, other))
    return emit.call("llvm.copysign", b.fmul(over, b.fmul(inverse, other)), x), b.fmul(inverse, under)
