"""Ways to apply a phase of gossip to the rows of a tensor; the sparse matrix product is the reference."""

from typing import Literal

from torch import Tensor

from batchednodes.gossip import Mixing
from batchednodes.mixing import blocks, sparse
from batchednodes.versions import Layout

Kernel = Literal["auto", "sparse"]


def takes_all(x: Tensor, kernel: Kernel) -> bool:
    """Returns whether a phase is applied to a tensor as a whole, not wave by wave."""
    return kernel == "auto" and blocks.takes(x)


def mix_(x: Tensor, phase: Mixing, kernel: Kernel) -> None:
    """Applies a phase of gossip to the models [n, p] in place, by the fastest kernel or by the reference."""
    (blocks if takes_all(x, kernel) else sparse).mix_(x, phase)


def merge_(versions: Tensor, gained: Tensor, phase: Mixing, layout: Layout, kernel: Kernel) -> None:
    """Merges versions, one flat tensor, and the moments [n] of gains in place as models are mixed, likewise."""
    (blocks if takes_all(versions, kernel) else sparse).merge_(versions, gained, phase, layout)
