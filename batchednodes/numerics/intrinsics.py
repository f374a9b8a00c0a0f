"""What numba has no names for: to ask for memory ahead, to count in many threads at once, to call what C compiled.

Each is a function that numba compiles into the instruction itself, in the place of a call.
"""

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_INT32 = ir.IntType(32)
_PREFETCH = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _INT32, _INT32, _INT32])
"""Arguments: address, 0 to read, which caches, 1 for data."""


@no_type_check
def _place(context, builder, signature, args):  # noqa: ANN001, ANN202
    """Returns the address of an entry of a flat array; args: the array and the index."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    return builder.gep(array.data, [index])


@no_type_check
def _prefetch(builder, place, caches):  # noqa: ANN001, ANN202
    """Asks for the cache line of an address; caches: 3 for all of them, 2 for all but the first."""
    function = cgutils.get_or_insert_function(builder.module, _PREFETCH, "llvm.prefetch.p0i8")
    builder.call(function, [place, _INT32(0), _INT32(caches), _INT32(1)])


@intrinsic
@no_type_check
def fetch(typing, array, index):  # noqa: ANN001, ANN201
    """Asks for the cache line of array[index], without waiting for it; any index is harmless."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        place = builder.bitcast(_place(context, builder, signature, args), cgutils.voidptr_t)
        _prefetch(builder, place, 3)
        return context.get_dummy_value()

    return types.void(array, index), generate


@intrinsic
@no_type_check
def fetch_near(typing, address):  # noqa: ANN001, ANN201
    """Asks for the cache line of an address, int64, but not for the cache next to the core, which is small."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        _prefetch(builder, builder.inttoptr(args[0], cgutils.voidptr_t), 2)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
@no_type_check
def borrowed(typing, array):  # noqa: ANN001, ANN201
    """Returns the same array, whose owners are not counted while it is used; somebody else must own it meanwhile."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        made = context.make_array(signature.return_type)(context, builder, args[0])
        made.meminfo = cgutils.get_null_value(made.meminfo.type)
        made.parent = cgutils.get_null_value(made.parent.type)
        return made._getvalue()

    return array(array), generate


@intrinsic
@no_type_check
def claim(typing, array, index):  # noqa: ANN001, ANN201
    """Adds one to array[index], int64, at once even if other threads do so too; returns what it was before."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        place = _place(context, builder, signature, args)
        return builder.atomic_rmw("add", place, ir.IntType(64)(1), "monotonic")

    return types.int64(array, index), generate


@intrinsic
@no_type_check
def pointer(typing, address):  # noqa: ANN001, ANN201
    """Returns the pointer to an address, int64."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
@no_type_check
def call(typing, address):  # noqa: ANN001, ANN201
    """Returns what the C function at an address returns, an int; it takes nothing."""

    @no_type_check
    def generate(context, builder, signature, args):  # noqa: ANN001, ANN202
        function = ir.FunctionType(_INT32, []).as_pointer()
        return builder.sext(builder.call(builder.inttoptr(args[0], function), []), ir.IntType(64))

    return types.int64(address), generate
