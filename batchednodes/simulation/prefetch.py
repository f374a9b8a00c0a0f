"""Minibatches of a window's updates, drawn beside the work: those of some waves while others are at work.

Notation: u updates, s steps, b examples of a minibatch.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
import torch

from batchednodes.algorithms.waves import UpdateWave
from batchednodes.models.feed import Drawn
from batchednodes.models.problem import Problem
from batchednodes.numerics.memory import BackgroundWorker, sendable

PART = 32 << 20
"""Most memory of the minibatches that are drawn at once [B]; those of a larger wave are drawn as it runs."""

READ = 64 << 20
"""The same where features are read from files [B]: what is read as a wave runs, the wave waits for."""

ALIVE = 2
"""Parts that there are at once, at most: one at work, and the next one; besides the first of each window made ahead."""

Own = Callable[[int], slice]
"""Which rows of a wave are this process's, by the size of the wave."""


def dealt(rank: int, ranks: int) -> Own:
    """Returns which rows of a wave a rank trains where waves are dealt evenly: [w r / R, w (r + 1) / R).

    Example:
        >>> from batchednodes.simulation.prefetch import dealt
        >>> [dealt(rank, 3)(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
    """
    return lambda size: slice(size * rank // ranks, size * (rank + 1) // ranks)


class Minibatches:
    """Those of the waves of updates of a window: the first part is drawn at once, each other one during that before it.

    All are functions of addresses, so that it does not matter where the window is taken up again.
    """

    def __init__(
        self,
        problem: Problem,
        waves: Sequence[UpdateWave],
        device: torch.device,
        host: BackgroundWorker,
        own: Own | None = None,
    ) -> None:
        """Draws the first part.

        Args:
            problem: what is learned, and says what draws.
            waves: of updates, in order.
            device: where the minibatches go.
            host: the thread that draws.
            own: which rows of a wave of some updates this process trains; None: all.
        """
        self._problem, self._device, self._host = problem, device, host
        rows = [slice(None) if own is None else own(wave.nodes.size) for wave in waves]
        self._waves = [(wave.nodes[some], wave.counts[some]) for wave, some in zip(waves, rows, strict=True)]
        read = 0 if problem.feed is None else problem.feed.bytes_read
        self._size, self._part = 8 * math.prod(problem.drawer.drawn) + read, READ if read else PART  # of one update
        self._begins = np.cumsum([0, *(nodes.size for nodes, _ in self._waves)]).tolist()
        self._firsts = self._cut()
        first = self._draw(0) if waves else self._nothing()
        self._now, self._drawn = -1, self._nothing()
        self._next: tuple[int, Callable[[], Drawn]] = 0, lambda: first

    def of(self, k: int) -> Drawn | None:
        """Returns the minibatches of wave k, of this process's rows only, on the device but for features from files.

        None: they are more than a part. The memory of other parts is given back, so waves come in order.
        """
        begin, end = self._begins[k : k + 2]
        if (end - begin) * self._size > self._part:
            return None
        part = bisect_right(self._firsts, k) - 1
        if part != self._now:
            self._take(part)
        before = self._begins[self._firsts[part]]
        return self._drawn[begin - before : end - before]

    def _cut(self) -> list[int]:
        """Returns the first wave of each part, and beyond the last one the number of waves."""
        firsts = [0]
        for k in range(1, len(self._waves)):
            if (self._begins[k + 1] - self._begins[firsts[-1]]) * self._size > self._part:
                firsts.append(k)
        return [*firsts, len(self._waves)]

    def _take(self, part: int) -> None:
        """Moves a part to the device, and has the next one drawn."""
        (number, ready), self._drawn = self._next, self._nothing()
        drawn = ready() if number == part else self._draw(part)
        self._now, self._drawn = part, Drawn(drawn.index.to(self._device, non_blocking=True), drawn.features)
        self._next = part + 1, self._host.submit(self._draw, part + 1)

    def _draw(self, part: int) -> Drawn:
        """Returns a part's minibatches, in memory that goes to the device at once; none beyond the last part.

        Nor of a wave that is larger than a part, and one by itself.
        """
        waves = self._waves[slice(*self._firsts[part : part + 2])] if part + 1 < len(self._firsts) else ()
        size = sum(nodes.size for nodes, _ in waves)
        if not 0 < size * self._size <= self._part:
            return self._nothing()
        drawer, feed = self._problem.drawer, self._problem.feed
        found = sendable((size, *drawer.drawn), torch.int64, self._device)
        nodes, counts = (np.concatenate(of) for of in zip(*waves, strict=True))
        drawer.draw(nodes, counts, found.numpy())
        return Drawn(found, None if feed is None else feed.gathered(found))

    def _nothing(self) -> Drawn:
        """Returns no minibatches."""
        return Drawn(torch.empty(0, *self._problem.drawer.drawn, dtype=torch.int64))
