"""Functions of the user's own, called by compiled loops by address, so that the loops stay compiled and cached.

A call costs about 2 ns; loops into which the function itself is compiled were no faster by more.
"""

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int64
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_REAL = ir.DoubleType()
_KEPT: list[Any] = []
"""What was compiled; it must outlive the loops that know its address."""

LAW = ("a uniform number", "a", "b")
"""What an inverse CDF takes: two parameters of a node, and no more, stand in the tables of compiled loops."""


@cache
def address(function: Callable[..., float], *arguments: str) -> int:
    """Returns where a function of some real numbers, which returns one, lies once it is compiled.

    Args:
        function: plain Python that numba can compile, with `math` and other `@njit` functions; or itself `@njit`.
        arguments: what the numbers are that it takes, in a word each.

    Raises:
        ValueError: numba cannot compile it.
    """
    plain = getattr(function, "py_func", function)
    try:
        made = numba.cfunc(types.float64(*[types.float64] * len(arguments)), error_model="numpy")(plain)
    except Exception as error:  # whatever numba says of the user's function
        reason = " ".join(str(error).split())[:300]
        name = getattr(plain, "__qualname__", repr(plain))
        raise ValueError(
            f"must take {len(arguments)} numbers ({', '.join(arguments)}) and be such that numba compiles it, got "
            f"{name}: {reason}"
        ) from error
    _KEPT.append(made)
    assert made.address is not None
    return made.address


@no_type_check
def _caller(count):  # noqa: ANN001, ANN202
    """Returns the part of an intrinsic that calls the function at an address with some real numbers."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        function = ir.FunctionType(_REAL, [_REAL] * count).as_pointer()
        given = [
            context.cast(builder, one, kind, types.float64)
            for one, kind in zip(args[1:], signature.args[1:], strict=True)
        ]
        return builder.call(builder.inttoptr(args[0], function), given)

    return generate


@intrinsic
@no_type_check
def of_three(typing, where, x, a, b):  # noqa: ANN001, ANN201
    """Returns the value of the function of three numbers at an address, int64."""
    return types.float64(where, x, a, b), _caller(3)


@intrinsic
@no_type_check
def of_four(typing, where, x, y, a, b):  # noqa: ANN001, ANN201
    """Returns the value of the function of four numbers at an address, int64."""
    return types.float64(where, x, y, a, b), _caller(4)


def each(n: int, *values: Any) -> list[Float64[np.ndarray, " n"]]:
    """Returns parameters of n nodes, each of which may be one number for all.

    Raises:
        ValueError: one is neither one number nor n of them.
    """
    found = [np.array(value, np.float64) for value in values]
    for one in found:
        if one.shape not in ((), (n,)):
            raise ValueError(
                f"must have parameters of {n} nodes, one number for each or for all, got {list(one.shape)}"
            )
    return [np.ascontiguousarray(np.broadcast_to(one, n)) for one in found]


def called(where: int, *numbers: float) -> float:
    """Returns the value of the function at an address."""
    kind = ctypes.CFUNCTYPE(ctypes.c_double, *[ctypes.c_double] * len(numbers))
    return kind(where)(*numbers)


PROBES = np.array([2.0**-53, 1e-9, 0.01, 0.25, 0.5, 0.75, 0.99, 1 - 1e-9, 1 - 2.0**-53])
"""Values of a uniform number at which a law is tried."""


@numba.njit(nogil=True, cache=True)
@no_type_check
def _least(where, probes, a, b):  # noqa: ANN001, ANN202  (numba infers the types)
    """Returns the first value that is no time for one of some laws, and its law; else 0 and -1."""
    for i in range(a.size):
        for u in probes:
            value = of_three(where, u, a[i], b[i])
            if not value >= 0.0:
                return value, i
    return 0.0, -1


def law(
    function: Callable[..., float], a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Returns the address of an inverse CDF for each node, tried at a few probabilities for all of them.

    Args:
        function: of a uniform number in (0, 1) and two parameters, see `LAW`; its values are times [s].
        a: first parameter of each node.
        b: second parameter.

    Raises:
        ValueError: numba cannot compile it, or it returns what is no time.
    """
    where = address(function, *LAW)
    value, node = _least(where, PROBES, a, b)
    if node >= 0:
        got = f"{value:g} for parameters {a[node]:g} and {b[node]:g} of node {node}"
        raise ValueError(f"must return non-negative times [s], got {got}")
    assert not math.isnan(value)
    return np.full(a.size, where, np.int64)
