"""Clocks of some networks, put together or taken apart: networks depend on each other in nothing but their numbers.

Notation: n nodes, g networks.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from jaxtyping import Int64

from batchednodes.events.messages import regrouping
from batchednodes.events.messages.regrouping import Slots
from batchednodes.events.timeline import Clocks

_NODES = ("order", "awake")
"""What lists numbers of nodes; -1: none."""


def regrouped(
    parts: Sequence[tuple[Clocks, Int64[np.ndarray, " _"]]], wanted: Int64[np.ndarray, " g"]
) -> tuple[Clocks, Slots]:
    """Returns the clocks of some networks, and where their slots of messages were.

    Example:
        >>> import numpy as np
        >>> import batchednodes
        >>> from batchednodes.events.regrouping import regrouped
        >>> from batchednodes.simulation.build.assembly import timeline
        >>> few, many = (timeline([batchednodes.load({"network.nodes": n})]).begin() for n in (2, 3))
        >>> both, _ = regrouped([(few, np.array([2])), (many, np.array([3]))], np.array([0, 1]))
        >>> both.order.tolist()
        [0, 1, 2, 3, 4]
        >>> again, _ = regrouped([(both, np.array([2, 3]))], np.array([1]))
        >>> again.order.tolist(), bool((again.next_update == many.next_update).all())
        ([0, 1, 2], True)

    Args:
        parts: clocks that stand at one time, and the nodes of each of their networks.
        wanted: numbers of networks, among those of all parts one after the other; in the order that they are to have.

    Raises:
        ValueError: clocks stand at different times, or messages under way contradict each other.
    """
    times = {clocks.time for clocks, _ in parts}
    if len(times) > 1:
        raise ValueError(f"clocks must stand at one time, got {', '.join(map(str, sorted(times)))} [s]")
    sizes = np.concatenate([sizes for _, sizes in parts])
    first = np.cumsum(sizes) - sizes
    begins, ends = first.tolist(), np.cumsum(sizes).tolist()
    nodes = np.concatenate([np.zeros(0, np.int64), *(np.arange(begins[g], ends[g]) for g in wanted.tolist())])
    rows = np.full(int(sizes.sum()), -1)
    rows[nodes] = np.arange(nodes.size)
    found, before = dict[str, np.ndarray](), np.cumsum([0, *(int(sizes.sum()) for _, sizes in parts)])
    for name in (f.name for f in fields(Clocks) if f.name not in ("time", "in_flight")):
        columns = [getattr(clocks, name) for clocks, _ in parts]
        if name in _NODES:
            columns = [
                np.where(told >= 0, told + k, told).astype(np.int32) for told, k in zip(columns, before, strict=False)
            ]
        told = np.concatenate(columns)[nodes]
        found[name] = np.where(told >= 0, rows[told], -1).astype(told.dtype) if name in _NODES else told
    in_flight, slots = None, Slots(np.zeros(0, np.int64), np.zeros(0, np.int64))
    some = [(clocks.in_flight, sizes) for clocks, sizes in parts if clocks.in_flight is not None]
    if some:
        in_flight, slots = regrouping.regrouped(some, wanted)
    return Clocks(times.pop(), **found, in_flight=in_flight), slots
