"""Functions of the user's own, called by compiled loops by address, so that the loops stay compiled and cached.

A call for each number costs a third of what a law costs, so that many at once go through one loop, compiled with the
function inside.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int64
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from batchednodes.numerics.intrinsics import pointer

_REAL, _INT = ir.DoubleType(), ir.IntType(64)
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
    return _compiled(_plain(function), _plain(function), types.float64(*[types.float64] * len(arguments)), arguments)


@cache
def together(function: Callable[..., float]) -> int:
    """Returns where a loop lies that calls a function of three numbers for many nodes, see `fill`.

    Raises:
        ValueError: numba cannot compile it.
    """
    value = numba.njit(error_model="numpy")(_plain(function))

    @no_type_check
    def loop(size, nodes, a, b, out):  # noqa: ANN001, ANN202  (numba infers the types)
        some, values = numba.carray(pointer(nodes), size, np.uint64), numba.carray(pointer(out), size, np.float64)
        first, second = numba.carray(pointer(a), 1, np.float64), numba.carray(pointer(b), 1, np.float64)
        for k in range(size):
            values[k] = value(values[k], first[some[k]], second[some[k]])

    return _compiled(loop, _plain(function), types.void(*[types.int64] * 5), LAW)


def _plain(function: Any) -> Any:
    """Returns the Python function of one that may be `@njit`."""
    return getattr(function, "py_func", function)


def _compiled(function: Any, users: Any, signature: Any, arguments: Sequence[str]) -> int:
    """Returns where a function lies once it is compiled; users: that of the user's, which it calls, or is."""
    try:
        made = numba.cfunc(signature, error_model="numpy")(function)
    except Exception as error:  # whatever numba says of the user's function
        reason = " ".join(str(error).split())[:300]
        name = getattr(users, "__qualname__", repr(users))
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


@intrinsic
@no_type_check
def _call_loop(typing, where, size, nodes, a, b, out):  # noqa: ANN001, ANN202
    """Calls the loop at an address; all else are integers, too: a number, and addresses of arrays."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        function = ir.FunctionType(ir.VoidType(), [_INT] * 5).as_pointer()
        builder.call(builder.inttoptr(args[0], function), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@numba.njit(nogil=True, cache=True)
@no_type_check
def fill(where, nodes, a, b, values):  # noqa: ANN001, ANN201  (numba infers the types)
    """Puts, in the place of each number u of some nodes, the value of a function f(u, a, b) with the node's parameters.

    Args:
        where: address of the function's loop, see `together`.
        nodes: their numbers, without a sign.
        a: first parameter of all nodes.
        b: second parameter.
        values: u; receives the values.
    """
    _call_loop(where, values.size, nodes.ctypes.data, a.ctypes.data, b.ctypes.data, values.ctypes.data)


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
