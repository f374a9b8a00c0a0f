r"""A function of the rows of a wave as a tape: instructions that are run for one row after the other.

A program runs one operation after the other, each on all rows of a wave, whose temporaries go to memory and come back.
A tape runs all operations, and all steps of an update, on one row before it turns to the next: what the row needs
stays in the core's cache, models are changed where they lie, and each thread launches one compiled loop.
"""

from batchednodes.numerics.tape.tape import Tape
from batchednodes.numerics.tape.trace import record, translated

__all__ = ["Tape", "record", "translated"]
