"""Ways to apply a phase of gossip to the rows of a tensor; the sparse matrix product is the reference."""

from types import ModuleType
from typing import Literal

from torch import Tensor

from batchednodes.algorithms.mixing import cpu, cuda, sparse
from batchednodes.algorithms.mixing.followed import follow_, follows
from batchednodes.algorithms.mixing.partial import Ages, Entries, parts
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout

__all__ = ["Ages", "Entries", "Kernel", "follow_", "follows", "merge_", "mix_", "parts", "takes_all"]

Kernel = Literal["auto", "sparse"]


def takes_all(x: Tensor, kernel: Kernel) -> bool:
    """Returns whether a phase is applied to a tensor as a whole, not wave by wave."""
    return kernel == "auto" and cpu.takes(x)


def mix_(x: Tensor, phase: GossipPhase, kernel: Kernel) -> None:
    """Applies a phase of gossip to the models [n, p] in place, by the fastest kernel or by the reference."""
    _choose(x, kernel).mix_(x, phase)


def merge_(versions: Tensor, gained: Tensor, phase: GossipPhase, layout: Layout, kernel: Kernel) -> None:
    """Merges versions, one flat tensor, and the moments [n] of gains in place as models are mixed, likewise."""
    _choose(versions, kernel).merge_(versions, gained, phase, layout)


def _choose(x: Tensor, kernel: Kernel) -> ModuleType:
    """Returns the module that applies phases to a tensor."""
    if takes_all(x, kernel):
        return cpu
    return cuda if kernel == "auto" and cuda.takes(x) else sparse
