r"""Links: how long messages take from each node to each other, as measured.

Notation: n nodes, i sender, j receiver, r rows.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit

from batchednodes.numerics import rng
from batchednodes.numerics.values import shown
from batchednodes.topology import Graph

LINK = np.dtype([("receiver", np.int64), ("time", np.float64), ("delay", np.float64)])
"""A row of a trace: to whom, from when on [s], and how long [s]."""


@dataclass(frozen=True)
class Links:
    """The delays of each link of a network.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.links.traces import Links
        >>> columns = dict(zip(("from", "to", "delay"), np.array([[0, 1, 0.1], [0, 1, 0.3], [1, 0, 2.0]]).T))
        >>> Links.of(columns, 2, "gossip.delay.path", "delays.txt").late().tolist()  # mean delay of each sender [s]
        [0.2, 2.0]
    """

    begins: Int64[np.ndarray, " n1"]
    """Where the rows of each sender begin, and the end of the last."""
    rows: np.ndarray
    """LINK of each row [r], in the order of senders, receivers, and times."""
    timed: bool
    """Whether a row holds from its time on; else a message takes one of those of its link."""

    @classmethod
    def of(cls, columns: dict[str, Float64[np.ndarray, " r"]], n: int, key: str, source: str) -> "Links":
        """Returns the links that rows give.

        Args:
            columns: "from", "to", "delay", and "time" if each row holds from a time on.
            n: number of nodes.
            key: of the setting.
            source: name of the file.

        Raises:
            ValueError: a row is not of two nodes, or a link has two delays at one time.
        """
        i, j, delay = (columns[name] for name in ("from", "to", "delay"))
        time = columns.get("time", np.zeros(i.size))
        whole = (i == np.floor(i)) & (j == np.floor(j)) & (np.minimum(i, j) >= 0) & (np.maximum(i, j) < n)
        good = whole & (i != j) & (delay >= 0) & (time >= 0)
        if not good.all():
            bad = shown(" ".join(f"{v[np.argmin(good)]:g}" for v in columns.values()))
            rule = f"rows of two nodes of 0 .. {n - 1}, and other numbers from 0 on"
            raise ValueError(f"{key} must have {rule}, got {bad} in {source}")
        order = np.lexsort((time, j, i))
        i, j, delay, time = i[order].astype(np.int64), j[order].astype(np.int64), delay[order], time[order]
        again = np.flatnonzero((np.diff(i) == 0) & (np.diff(j) == 0) & (np.diff(time) == 0))
        if "time" in columns and again.size:
            a = again[0]
            got = f"two from {i[a]} to {j[a]} at {time[a]:g} [s]"
            raise ValueError(f"{key} must give a link one delay at a time, got {got} in {source}")
        rows = np.empty(i.size, LINK)
        rows["receiver"], rows["time"], rows["delay"] = j, time, delay
        return cls(np.searchsorted(i, np.arange(n + 1)), rows, "time" in columns)

    def check(self, graph: Graph | None, replies: bool, key: str) -> None:
        """Refuses a network with a link that has no delay.

        Args:
            graph: whom each node may contact; None: everyone.
            replies: whether messages go back, too.
            key: of the setting.

        Raises:
            ValueError: a link has no delay.
        """
        n = self.begins.size - 1
        keys = np.unique(self._senders() * n + self.rows["receiver"])
        if graph is None:
            needed = self._all_of(np.bincount(keys // n, minlength=n) < n - 1)
        else:
            needed = np.repeat(np.arange(n), graph.degrees) * n + graph.indices
        if replies:
            needed = np.concatenate([needed, needed % n * n + needed // n])
        missing = np.setdiff1d(needed, keys)
        if missing.size:
            i, j = divmod(int(missing[0]), n)
            raise ValueError(f"{key} must give each link of the network a delay, got none from node {i} to {j}")

    def late(self) -> Float64[np.ndarray, " n"]:
        """Returns the mean over the links of each sender of the mean delay, or the largest where it changes [s]."""
        i, n = self._senders(), self.begins.size - 1
        if not i.size:
            return np.zeros(n)
        first = np.flatnonzero(np.append(True, (np.diff(i) != 0) | (np.diff(self.rows["receiver"]) != 0)))
        if self.timed:
            delays = np.maximum.reduceat(self.rows["delay"], first)
        else:
            delays = np.add.reduceat(self.rows["delay"], first) / np.diff(first, append=i.size)
        return np.bincount(i[first], delays, n) / np.maximum(1, np.bincount(i[first], minlength=n))

    def _senders(self) -> Int64[np.ndarray, " r"]:
        return np.repeat(np.arange(self.begins.size - 1), np.diff(self.begins))

    def _all_of(self, some: np.ndarray) -> Int64[np.ndarray, " k"]:
        """Returns i n + j for the first of some nodes i and all others j."""
        n = self.begins.size - 1
        if not some.any():
            return np.zeros(0, np.int64)
        i = int(np.argmax(some))
        return i * n + np.delete(np.arange(n), i)


@njit(nogil=True, cache=True)
@no_type_check
def on_link(i, j, now, bits, timed, begins, rows):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the delay of a message from i to j [s]: that of the time, or one of the link's by 64 random bits."""
    first = _first(j, begins[i], begins[i + 1], rows)
    end = _first(j + 1, first, begins[i + 1], rows)
    if not timed:
        return rows[first + rng.below(bits, end - first)].delay
    last = end
    while last - first > 1:  # the last row whose time has come; the first one, before
        middle = (first + last) // 2
        if rows[middle].time <= now:
            first = middle
        else:
            last = middle
    return rows[first].delay


@njit(nogil=True, cache=True)
@no_type_check
def _first(j, low, high, rows):  # noqa: ANN001, ANN202
    """Returns the first of some rows whose receiver is j or later."""
    while low < high:
        middle = (low + high) // 2
        if rows[middle].receiver < j:
            low = middle + 1
        else:
            high = middle
    return low
