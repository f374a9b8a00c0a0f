r"""The part of a batch that a rank holds: some of its networks, of which it may hold some columns.

Networks are dealt whole, the largest first, so that they communicate at marks only. Where they are fewer than ranks,
several ranks hold a network together, cut by columns.

Notation: G groups of ranks, R ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from batchednodes.numerics.ranks import Ranks
from batchednodes.numerics.world import World


@dataclass(frozen=True, eq=False)
class Share:
    """What this rank holds, and with whom."""

    world: World
    """All ranks of the run."""
    groups: tuple[tuple[int, ...], ...]
    """Numbers of the networks of each group of ranks, in increasing order."""
    number: int
    """Of this rank's group."""
    ranks: Ranks
    """Those of this rank's group."""
    tellers: Ranks
    """The same, for a thread beside that of the run."""

    @property
    def networks(self) -> tuple[int, ...]:
        """Numbers, among those of the whole batch, of the networks that this rank holds."""
        return self.groups[self.number]

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, and speaks to the user."""
        return self.world.all.rank == 0

    @staticmethod
    def of(work: Sequence[float], world: World, whole: bool = False) -> "Share":
        """Returns the share of this rank of networks that take some work each; all ranks must call it.

        Args:
            work: of each network.
            world: all ranks.
            whole: whether all ranks hold all networks together.
        """
        groups, sizes = ((*range(len(work)),),), (world.all.size,)
        if not whole:
            groups, sizes = dealt(work, world.all.size)
        number, ranks = world.parts(sizes)
        return Share(world, groups, number, ranks, world.parts(sizes, apart=True)[1] if max(sizes) > 1 else ranks)


def dealt(work: Sequence[float], ranks: int) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Returns the networks of each group of ranks, and how many ranks each group has.

    Args:
        work: that each network takes.
        ranks: R.

    Example:
        >>> from batchednodes.algorithms.share import dealt
        >>> dealt([1.0, 5.0, 3.0, 3.0], ranks=2)
        (((0, 1), (2, 3)), (1, 1))
        >>> dealt([1.0, 3.0], ranks=4)
        (((0,), (1,)), (1, 3))
    """
    count = min(len(work), ranks)
    groups, load = [list[int]() for _ in range(count)], [0.0] * count
    for network in sorted(range(len(work)), key=lambda g: -work[g]):
        least = min(range(count), key=lambda k: load[k])
        groups[least].append(network)
        load[least] += work[network]
    order = sorted(range(count), key=lambda k: min(groups[k]))
    sizes = [1] * count
    for _ in range(ranks - count):  # to whom has most to do
        sizes[max(range(count), key=lambda k: load[k] / sizes[k])] += 1
    return tuple(tuple(sorted(groups[k])) for k in order), tuple(sizes[k] for k in order)
