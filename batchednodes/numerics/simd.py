"""SIMD: LLVM code of loops whose sums stay in the core's vector registers.

Compilers do not keep a tile of sums in registers from a plain loop, so that the innermost loops of products and
convolutions are written as such code.
"""

from typing import Any, no_type_check

import llvmlite.ir

ir: Any = llvmlite.ir
"""The module `llvmlite.ir`, whose types are not written down."""

INT = ir.IntType(64)
"""Type of addresses, places and counts."""

_LANE, _BIT = ir.IntType(32), ir.IntType(1)


@no_type_check
class Emitter:
    """Writes the code of loads, stores and loops; places are counted in numbers, addresses in bytes."""

    def __init__(self, context: Any, builder: Any, number: Any, size: int) -> None:
        """Begins where a builder stands.

        Args:
            context: of numba, which knows how LLVM calls types.
            builder: of LLVM, to which the code is added.
            number: numba's type of the numbers, float32 or float64.
            size: bytes of a vector [B].
        """
        self.builder = builder
        self.scalar = context.get_value_type(number)
        self.size = number.bitwidth // 8
        self.lanes = size // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def at(self, base: Any, place: Any, kind: Any, size: int) -> Any:
        """Returns the pointer to a place after an address, as one to a kind; size: bytes of a number [B]."""
        b = self.builder
        return b.inttoptr(b.add(base, b.mul(place, INT(size))), kind.as_pointer())

    def load(self, base: Any, place: Any) -> Any:
        """Returns the vector that begins at a place."""
        return self.builder.load(self.at(base, place, self.vector, self.size), align=self.size)

    def store(self, vector: Any, base: Any, place: Any) -> None:
        """Writes a vector to a place."""
        self.builder.store(vector, self.at(base, place, self.vector, self.size), align=self.size)

    def first(self, count: Any) -> Any:
        """Returns the mask of the first numbers of a vector, some 64-bit integer of them."""
        b, kind = self.builder, ir.VectorType(INT, self.lanes)
        none, zeros = ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_LANE, self.lanes), [0] * self.lanes)
        limit = b.shuffle_vector(b.insert_element(none, count, _LANE(0)), none, zeros)
        return b.icmp_signed("<", ir.Constant(kind, list(range(self.lanes))), limit)

    def load_some(self, base: Any, place: Any, mask: Any) -> Any:
        """Returns the vector that begins at a place, with zeros, which are not read, where a mask is off."""
        b, pointer = self.builder, self.at(base, place, self.vector, self.size)
        kind = ir.FunctionType(self.vector, [pointer.type, _LANE, mask.type, self.vector])
        name = f"llvm.masked.load.{self._name}.p0{self._name}"
        load = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        return b.call(load, [pointer, _LANE(self.size), mask, ir.Constant(self.vector, None)])

    def store_some(self, vector: Any, base: Any, place: Any, mask: Any) -> None:
        """Writes a vector to a place, where a mask is on."""
        b, pointer = self.builder, self.at(base, place, self.vector, self.size)
        kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, _LANE, mask.type])
        name = f"llvm.masked.store.{self._name}.p0{self._name}"
        store = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        b.call(store, [vector, pointer, _LANE(self.size), mask])

    @property
    def _name(self) -> str:
        """How LLVM calls the type of vectors."""
        return f"v{self.lanes}f{8 * self.size}"

    def lanes_of(self, vector: Any, first: int, count: int) -> Any:
        """Returns some of the numbers of a vector, from one on, as a shorter one."""
        places = ir.Constant(ir.VectorType(_LANE, count), list(range(first, first + count)))
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)

    def integer(self, base: Any, place: Any) -> Any:
        """Returns an entry of an array of int64."""
        return self.builder.load(self.at(base, place, INT, 8))

    def fill(self, base: Any, place: Any) -> Any:
        """Returns a vector of equal numbers, the one at a place."""
        return self.repeated(self.builder.load(self.at(base, place, self.scalar, self.size)))

    def repeated(self, number: Any) -> Any:
        """Returns the vector of equal numbers that are known when the code runs."""
        b, none = self.builder, ir.Constant(self.vector, ir.Undefined)
        places = ir.Constant(ir.VectorType(_LANE, self.lanes), [0] * self.lanes)
        return b.shuffle_vector(b.insert_element(none, number, _LANE(0)), none, places)

    def equal(self, number: float) -> Any:
        """Returns the vector of equal numbers that are known."""
        return ir.Constant(self.vector, [number] * self.lanes)

    def call(self, name: str, *vectors: Any) -> Any:
        """Returns what a function of LLVM's, of vectors to one, gives."""
        module, full = self.builder.module, f"{name}.{self._name}"
        kind = ir.FunctionType(self.vector, [self.vector] * len(vectors))
        return self.builder.call(module.globals.get(full) or ir.Function(module, kind, full), vectors)

    def floor(self, vector: Any) -> Any:
        """Returns the largest whole numbers that are no larger."""
        return self.call("llvm.floor", vector)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        """Returns total + a b, rounded once where the machine can."""
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(total, product, flags=("contract",))

    def loop(self, count: Any, state: list[Any], body: Any) -> list[Any]:
        """Returns the state after a body (index, state) -> state has run `count` times."""
        b = self.builder
        before, inside, after = b.block, b.append_basic_block(), b.append_basic_block()
        b.cbranch(b.icmp_signed(">", count, INT(0)), inside, after)
        b.position_at_end(inside)
        index, old = b.phi(INT), [b.phi(value.type) for value in state]
        new, following, last = body(index, old), b.add(index, INT(1)), b.block
        for phi, first, second in zip([index, *old], [INT(0), *state], [following, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(second, last)
        b.cbranch(b.icmp_signed("<", following, count), inside, after)
        b.position_at_end(after)
        results = [b.phi(value.type) for value in state]
        for phi, first, second in zip(results, state, new, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(second, last)
        return results
