r"""Traffic: what ranks that hold networks together say to each other, and the memory that it takes.

Only what looks at whole rows communicates. Of a wave of w rows each of R ranks is dealt w / R, takes their other
columns, and gives these back: with W bytes a row, a rank sends

    (1 - 1/R) w W / R   to let others have rows,      (1 - 1/R) w (W' + 8 R) / R   to give rows back,

W' bytes of what is written, and when each node diverged. All this is known from the schedule; to
the byte, with the columns that a rank has, `over_ranks.sent_by_update` says it.

Notation: R ranks, n nodes, p parameters, w rows of a wave, W bytes of a whole row.
"""

import math
from dataclasses import dataclass

import numpy as np

from batchednodes.algorithms.base import Algorithm
from batchednodes.config import Config
from batchednodes.config.own_metrics import PythonMetric
from batchednodes.config.robust import is_robust
from batchednodes.events.messages.timeline import MessageTimeline
from batchednodes.events.rounds import Rounds
from batchednodes.events.synchronous import Barriers
from batchednodes.events.timeline import MEET, Timeline
from batchednodes.events.waves import schedule
from batchednodes.simulation.engine import slots
from batchednodes.simulation.planning.memory_plan import MemoryBudget

_COPIES = 4
"""Copies of the rows of a wave while they are exchanged: as they are sent, as they come, whole, and as they go back."""


_SAMPLED, _SAMPLED_MESSAGES = 4_000_000, 500_000
"""The most events from which the waves of a run are extrapolated; those of messages take longer."""


@dataclass(frozen=True)
class Sample:
    """What the start of a run says of its waves."""

    per_event: float
    """Waves for each event."""
    writes: int
    """Most writes of a wave of contacts."""
    updates: int
    """Most updates of a wave."""
    updating: float
    """Waves of updates for each update."""
    mixing: float
    """Waves of contacts for each contact."""


@dataclass(frozen=True)
class Traffic:
    """What one of the ranks says a simulated second, on average; all ranks say about as much."""

    bytes: float
    """Bytes sent to other ranks [B/s]."""
    exchanges: float
    """Collectives that bring them [1/s]."""


def sampled(events: Timeline, config: Config) -> Sample:
    """Returns what the start of the run says of its waves.

    The start is a few updates of each node long, but at least 200,000 and at most four million events, or half a
    million where messages are under way.
    """
    if isinstance(events, Barriers):  # all nodes update at once, then all rows are mixed
        n = events.networks.n
        return Sample(2.0 / (n + 1), n, n, 1.0 / n, 0.0)
    updates, gossips = events.expected(1.0)
    rate, few = updates + gossips, 4 * events.networks.n / updates if updates else math.inf
    most = _SAMPLED_MESSAGES if isinstance(events, MessageTimeline) else _SAMPLED
    span = min(config.run.until, max(200_000 / rate, min(few, most / rate))) if rate else config.run.until
    some, after = events.window(events.begin(), span)
    if len(some) == 0:
        return Sample(1.0, 0, 0, 0.0, 0.0)
    made = schedule(some, events.networks.n + slots(after))
    sizes, sides = np.diff(made.waves), 2 if MEET in some.kind else 1
    kinds = sizes[made.updates], sizes[~made.updates]
    largest = (int(kind.max(initial=0)) for kind in kinds)
    per_update, per_contact = (kind.size / max(1, int(kind.sum())) for kind in kinds)
    updated, mixed = largest
    return Sample(sizes.size / len(some), mixed * sides, updated, per_update, per_contact)


def traffic(need: MemoryBudget, sample: Sample, updates: float, contacts: float) -> Traffic:
    """Returns what ranks say, given updates and contacts a simulated second [1/s]."""
    ranks, config = need.ranks, need.config
    row, share = _row(need), (1 - 1 / ranks) / ranks
    if isinstance(config.timing, Rounds):
        return _of_rounds(need, updates, row)
    said = Traffic(updates * share * (2 * row + 8 * ranks), 2 * sample.updating * updates)
    if is_product(config):
        return said
    meets, both = config.gossip.exchange == "meet", type(config.method).writes_sender
    rows = 2 if meets else 3 + both  # of a contact: those that are read, and those that are written
    lines = 2 * contacts if meets else contacts
    return Traffic(said.bytes + lines * share * row * rows, said.exchanges + 2 * sample.mixing * contacts)


def _of_rounds(need: MemoryBudget, updates: float, row: int) -> Traffic:
    """Returns the same of rounds: an update of all nodes, then, if mixing is no product, all rows to all ranks."""
    ranks = need.ranks
    rounds, said = updates / need.nodes, updates * (1 - 1 / ranks) / ranks * (2 * row + 8 * ranks)
    if is_product(need.config):
        return Traffic(said, 2 * rounds)
    return Traffic(said + updates * row * (ranks - 1) / ranks, 3 * rounds)


def is_product(config: Config) -> bool:
    """Returns whether mixing acts on every column alike, so that ranks need not communicate for it."""
    return type(config.method).linear() and not is_robust(config)


def memory(need: MemoryBudget, sample: Sample) -> dict[str, int]:
    """Returns the bytes of what one of some ranks holds besides its columns."""
    if need.ranks == 1:
        return {}
    config, row, n = need.config, _row(need), need.nodes
    wave = (
        n if isinstance(config.timing, Rounds) else max(sample.updates, 0 if is_product(config) else 2 * sample.writes)
    )
    found = {"rows of waves between ranks": _COPIES * need.share(wave * row)}
    if isinstance(config.timing, Rounds) and not is_product(config):
        found["whole rows in rounds"] = 2 * n * row
    if type(config.method).model is not Algorithm.model or type(config.method).flows():
        found["models that are scored"] = need.share(n * need.p * need.item)
    scored = max(min(c.run.eval_nodes or c.network.nodes, c.network.nodes) for c in need.configs)
    own = any(isinstance(metric, PythonMetric) for metric in config.run.metrics)
    found["whole models at marks"] = 3 * need.p * need.item * scored if own else 0
    return found


def _row(need: MemoryBudget) -> int:
    """Returns the bytes of a whole row, with all that updates see of it."""
    kept = [one.rows(need.nodes, need.edges) * one.size(need.p, need.item)
            for one in need.declared.values() if one.seen or one.mixed]  # fmt: skip
    return need.p * need.item + sum(kept) // max(1, need.nodes)
