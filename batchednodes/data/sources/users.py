r"""Natural splits: which of the users, or centres, that made the data are nodes.

Notation: n nodes, u users.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int64

from batchednodes.data.partitions.base import near_equal
from batchednodes.numerics import rng

Users = Literal["first", "sampled", "merged"]
"""Which users are nodes where there are more of them: the first, some drawn at random, or groups of all of them."""


def check_users(rule: Users, seed: int | None) -> None:
    """Raises ValueError if the seed of a draw of users is out of range, or would have no effect."""
    if seed is not None and rule != "sampled":
        raise ValueError(f"users_seed must be left out with users={rule}, which draws none, got {seed}")
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"users_seed must be in [0, 2^63), got {seed}")


def nodes_of(rule: Users, u: int, n: int, seed: int | None) -> Int64[np.ndarray, " u"]:
    """Returns the node that each user is, or belongs to; -1: none.

    Example:
        >>> from batchednodes.data.sources.users import nodes_of
        >>> nodes_of("first", 5, 2, None).tolist(), nodes_of("merged", 5, 2, None).tolist()
        ([0, 1, -1, -1, -1], [0, 0, 1, 1, 1])
        >>> nodes_of("sampled", 5, 2, 0).tolist()
        [-1, -1, 0, -1, 1]

    Args:
        rule: which users are nodes; groups are of users that follow each other, and as equal in number as can be.
        u: number of users.
        n: number of nodes.
        seed: of the draw of those that are sampled; None: 0.

    Raises:
        ValueError: there are fewer users than nodes.
    """
    if n > u:
        said = f"path must hold a user with training rows for each of network.nodes = {n}"
        raise ValueError(f"{said}, got {u} users: set network.nodes={u}, or fewer")
    node = np.full(u, -1)
    if rule == "merged":
        return np.repeat(np.arange(n), np.diff(near_equal(u, n)))
    kept = np.arange(n)
    if rule == "sampled":
        kept = np.sort(rng.generator(seed or 0, rng.DATA, rng.code("users")).permutation(u)[:n])
    node[kept] = np.arange(n)
    return node
