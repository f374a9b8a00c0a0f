"""Ways to apply a phase of gossip to the rows of a tensor; the sparse matrix product is the reference."""

from typing import Literal

from torch import Tensor

from batchednodes.gossip import Mixing
from batchednodes.mixing import blocks, sparse

Kernel = Literal["auto", "sparse"]


def mix_(x: Tensor, phase: Mixing, kernel: Kernel) -> None:
    """Applies a phase of gossip to the models [n, p] in place, by the fastest kernel or by the reference."""
    (blocks if kernel == "auto" and blocks.takes(x) else sparse).mix_(x, phase)


def merge_(versions: Tensor, moment: Tensor, phase: Mixing, kernel: Kernel) -> None:
    """Merges versions [n, t] and their moments [n] in place as models are mixed, likewise."""
    (blocks if kernel == "auto" and blocks.takes(versions) else sparse).merge_(versions, moment, phase)
