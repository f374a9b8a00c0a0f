"""Snapshot: all that a checkpoint holds, and the names that it has in a file.

Notation: n nodes, t tracked sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from batchednodes.algorithms.state import State
from batchednodes.algorithms.versions import Layout
from batchednodes.events.timeline import Clocks
from batchednodes.results.checkpoints.header import Header
from batchednodes.results.checkpoints.journal import RunJournal
from batchednodes.results.checkpoints.part import Part

CLOCKS = "clocks."
"""Prefix of the clocks' arrays among the tensors of a file."""

IN_FLIGHT, SLOTS = "clocks.in_flight.", "messages."
"""Prefixes of what is under way, and of the rows that it refers to."""

VERSIONS = "versions"
"""Name of the versions [n, t] among the tensors of a file; where networks differ in their numbers of tracked sources,
each has its own, "versions.0", "versions.1", and so on."""


@dataclass(frozen=True)
class Batch:
    """What a snapshot is a part of, and which."""

    nodes: tuple[int, ...]
    """Of each network."""
    tracked: tuple[int, ...]
    """Tracked sources of each network."""
    edges: tuple[int, ...] | None
    """Directed edges of each network; None: nothing lies on them."""
    part: Part


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a checkpoint holds; of a run over ranks, what this rank has of it."""

    state: State
    """Where the models lie; a copy, if it is written while the run goes on."""
    clocks: Clocks
    layout: Layout
    """Of the versions."""
    journal: RunJournal
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Results to keep beside them, on the host; of all networks, on the first rank."""
    edges: tuple[int, ...] | None = None
    """Directed edges of each network; None: nothing lies on them."""
    beside: tuple[str, ...] | None = None
    """Fields whose rows lie beside the models in those of x, in this order; None: as the state says."""
    whole: Header | None = None
    """What it is a part of, as the header of a file says; None: it is all there is."""

    @property
    def header(self) -> Header:
        """What it is, as the header of its file says."""
        own = Header(self.clocks.time, tuple(self.layout.sizes.tolist()), self.state.p, self.journal)
        return self.whole or own
