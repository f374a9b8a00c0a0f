"""One instruction of a tape, before it is known where the numbers lie that the tape keeps for itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchednodes.numerics.tape.opcodes import Finish, Op
from batchednodes.numerics.tape.strides import StridedView


@dataclass(frozen=True)
class Instruction:
    """One instruction before its places are known."""

    op: Op
    sizes: Sequence[int]
    """Of its three loops."""
    places: tuple[StridedView, StridedView, StridedView]
    """Result and operands; one that it does not have is another one of them."""
    strides: Sequence[Sequence[int]]
    """Of the places, along the loops."""
    number: float
    more: Sequence[int]
    finish: Finish = Finish.STORE
    """What becomes of the sums of a product."""
    third: StridedView | None = None
    """The operand of that, or a third one."""
    apart: int = 0
    """Its stride along rows."""

    @property
    def all_places(self) -> list[StridedView]:
        """Its places, the result first."""
        return [*self.places, *([] if self.third is None else [self.third])]

    @property
    def reads(self) -> list[StridedView]:
        """The operands."""
        return [place for place in self.all_places[1:] if place != self.places[0]]


def without_unread(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Returns the instructions whose results are arguments, or read by later ones."""
    read: set[int] = set()
    kept: list[Instruction] = []
    for one in reversed(instructions):
        if one.places[0].base >= 0 or one.places[0].base in read:
            kept.append(one)
            read.update(place.base for place in one.reads)
    return kept[::-1]
