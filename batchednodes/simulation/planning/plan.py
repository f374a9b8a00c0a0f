r"""Plan: events, waves and memory of a run, known before anything of size n p is allocated.

Notation: n nodes, p parameters of a row, t tracked sources, s steps, b examples of a minibatch.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from batchednodes.algorithms.context import EXAMPLES
from batchednodes.algorithms.robust import NUMBERS
from batchednodes.config import Config
from batchednodes.config.robust import gathers
from batchednodes.data import DataSizes
from batchednodes.data.minibatches_cuda import held
from batchednodes.events.messages.timeline import MessageTimeline
from batchednodes.events.synchronous import Barriers
from batchednodes.events.timeline import Timeline
from batchednodes.models.frozen import trunk
from batchednodes.models.refusal import RangeError
from batchednodes.models.stacked import Stack
from batchednodes.models.temporaries import measured
from batchednodes.numerics import devices
from batchednodes.numerics.host_threads import MOST, cores
from batchednodes.numerics.memory import Chunks
from batchednodes.numerics.torch_modes import own
from batchednodes.results.metrics.staleness import choose
from batchednodes.simulation.build import assembly, datasets, learning, personal
from batchednodes.simulation.build.learning import DTYPES
from batchednodes.simulation.build.start import counts
from batchednodes.simulation.build.statistics import check_statistics
from batchednodes.simulation.lookahead import automatic_window, depth
from batchednodes.simulation.planning import memory_plan
from batchednodes.simulation.planning.memory_plan import SHARE, MemoryBudget, misfit
from batchednodes.simulation.planning.preflight import Preflight
from batchednodes.simulation.planning.traffic import Sample, Traffic, sampled, traffic
from batchednodes.simulation.planning.traffic import memory as between
from batchednodes.simulation.prefetch import ALIVE, PART, READ

_EVENT_BYTES = 160
"""Host memory of one event while a window is made and scheduled [B]: columns, their sorted copies, places, order."""

_FOLLOWED_BYTES, _BESIDE = 64, 1024
"""Host memory of one event while versions follow at the end of its window, and of one node meanwhile [B]."""

_GATHERED = 6
"""Copies of neighbours' rows in the work of a merge rule: they are sorted, with their places, counts and sums."""


@dataclass(frozen=True)
class Plan:
    """What a run will do and need."""

    networks: int
    """Networks of the batch."""
    nodes: int
    """Nodes of all networks."""
    parameters: int
    """Parameters p of a row."""
    updates: float
    """Expected updates of the whole run."""
    gossips: float
    """Expected contacts of the whole run."""
    waves: float
    """Expected waves, extrapolated from the schedule of the run's first events."""
    flying: float | None
    """Models under way at once, at most; None: they take no time."""
    exact: bool
    """Whether that is known, since all messages of the run were followed; else it is an estimate, and a run that needs
    more rows takes them."""
    slots: int
    """Rows for such models that the run begins with."""
    memory: dict[str, int]
    """Bytes by part, on the device unless the part says host [B]."""
    available: int
    """Free memory of the device [B]."""
    device: str
    """Where the run computes."""
    chunks: Chunks
    """Rows handled at once."""
    threads: int
    """Threads of the CPU to compute with."""
    features: str
    """Shape and type of the features of an example, as the module gets them."""
    copies: bool
    """Whether there is memory to copy the state for checkpoints; else the run waits while they are written."""
    host_threads: int
    """Threads of the host that make events and their waves, beside those that compute."""
    ahead: int
    """Windows of events that are made while one runs."""
    ranks: int = 1
    """How many hold these networks together; memory is that of each of them."""
    beside: int = 1
    """Ranks of one machine, which share the memory of its host."""
    traffic: Traffic | None = None
    """What each of them says to the others; None: there is one."""

    @property
    def total(self) -> int:
        """Bytes of all parts on the device [B]."""
        return sum(size for _, size in self._parts())

    @property
    def fits(self) -> bool:
        """Whether the run may start."""
        return self.total <= SHARE * self.available

    def refuse_unless_fits(self) -> None:
        """Raises ValueError, with the numbers, if the run does not fit."""
        if not self.fits:
            raise ValueError(misfit(self._parts(), self.available, self.device, self.beside))
        hosted = [part for part in self.memory.items() if "(host)" in part[0]]
        if self.device != "cpu" and self.beside > 1:
            there = memory_plan.free_host() // self.beside
            if sum(size for _, size in hosted) > SHARE * there:
                raise ValueError(misfit(hosted, there, "cpu", self.beside))

    def _parts(self) -> list[tuple[str, int]]:
        """Returns name and bytes of each part on the device; where that is the CPU, the host's are."""
        return [part for part in self.memory.items() if self.device == "cpu" or "(host)" not in part[0]]


@own()
def screen(configs: Sequence[Config], sizes: list[DataSizes] | None = None, ranks: int = 1) -> None:
    """Checks that what the settings alone say fits in memory, before anything of the size of n is made.

    Args:
        configs: settings of each network.
        sizes: of the data of each; None: they are asked for.
        ranks: how many hold these networks together.

    Raises:
        ValueError: graphs, models, data and clocks do not fit; or the model, the data or the device does not exist.
    """
    config, where = configs[0], assembly.device(configs[0])
    found = sizes or datasets.sizes(configs)
    stack = learning.skeleton(config, found[0], DTYPES[config.dtype], where)
    personal.personal(configs, stack, where)  # patterns that name nothing are refused here
    check_statistics(config, stack)
    places = {str(place): free(place) for place in {where, torch.device("cpu")}}
    need = MemoryBudget(configs, stack.p, found, shared=stack.shared, ranks=ranks)
    memory_plan.screen(need, devices.kind(where), places)


def _neighbours(config: Config, events: Timeline) -> int:
    """Returns how many neighbours a node has at most, where something lives on edges; else 0."""
    if not type(config.method).living("edge"):
        return 0
    parts = [events.networks.slice(g) for g in range(events.networks.count)]
    graphs = [(part.stop - part.start, events.contacts.graph(part)) for part in parts]
    return max(
        n - 1 if graph is None else int((graph.degrees + np.bincount(graph.indices, minlength=n)).max() + 1) // 2
        for n, graph in graphs
    )


@own()
def planned(made: Preflight, ranks: int = 1) -> tuple[Timeline, Plan]:
    """Returns the timeline of networks that are prepared, and their plan in one process.

    Args:
        made: the networks.
        ranks: how many hold them together, so that less needs to fit in the memory of each.

    Raises:
        ValueError: as of `screen` and `plan`.
    """
    screen(made.configs, made.sizes, ranks)
    events = made.events or assembly.timeline(made.configs)
    return events, plan(made.configs, events, made.sizes)


@own()
def plan(
    configs: Sequence[Config], events: Timeline, sizes: list[DataSizes] | None = None, ranks: int = 1, beside: int = 1
) -> Plan:
    """Returns the plan of a batch of networks.

    Args:
        configs: settings of each network.
        events: their timeline.
        sizes: of the data of each; None: they are asked for.
        ranks: how many hold these networks together, each some columns of them: memory is then that of each.
        beside: ranks of one machine, which share the memory of its host.

    Raises:
        ValueError: a setting does not fit the others, or the device or a file does not exist.
    """
    config, where = configs[0], assembly.device(configs[0])
    sizes = sizes or datasets.sizes(configs)
    here = torch.device("cpu") if sizes[0].integers else where  # CUDA does not survive a token that is out of range
    stack = learning.skeleton(config, sizes[0], DTYPES[config.dtype], here)
    updates, gossips = events.expected(config.run.until)
    memory_plan.refuse_endless(updates + gossips)
    most = _neighbours(config, events)
    need = MemoryBudget(configs, stack.p, sizes, shared=stack.shared, neighbours=most, ranks=ranks)
    messages = _mail(need, events, (tables := _versions(need, events)).slot)
    sample = sampled(events, config)
    need, kind = _measured(need, stack, here, free(where))
    chunks = need.chunks(devices.is_cuda(where), need.nodes, updates)
    host, ahead, memory = _hosted(
        need, events, _memory(need, events, (tables, sample, chunks), where) | messages, where
    )
    copy = _copy(need, tables.rows, memory, where)
    return Plan(
        networks=events.networks.count,
        nodes=need.nodes,
        parameters=stack.p,
        updates=updates,
        gossips=gossips,
        waves=sample.per_event * (updates + gossips),
        **_under_way(events),
        memory=memory | {"copy for checkpoints (host)": copy or 0},
        available=free(where) if devices.is_cuda(where) else free(where) // beside,
        device=str(where),
        chunks=chunks,
        threads=config.run.threads or need.threads(min(chunks.update, need.nodes // 8), torch.get_num_threads()),
        features=f"{list(sizes[0].features)} of {str(kind).removeprefix('torch.')}",
        copies=copy is not None,
        host_threads=host,
        ahead=ahead,
        ranks=ranks,
        beside=beside,
        traffic=traffic(need, sample, *events.expected(1.0)) if ranks > 1 else None,
    )


def _memory(
    need: MemoryBudget, events: Timeline, known: "tuple[_VersionTables, Sample, Chunks]", where: torch.device
) -> dict[str, int]:
    """Returns the bytes of what a run takes, by part, but for messages and what the host makes ahead."""
    tables, sample, chunks = known
    found = need.tensors(need.nodes, tables.rows) | _isolated(need) | between(need, sample)
    found |= need.workspace(chunks, sample.writes, tables.width, devices.is_cuda(where))
    return found | _neighbourhoods(need, events, where) | _asked(need, where)


def _under_way(events: Timeline) -> dict[str, Any]:
    """Returns what a plan says of models under way."""
    if not isinstance(events, MessageTimeline):
        return {"flying": None, "exact": True, "slots": 0}
    return {"flying": events.forecast.flying, "exact": events.forecast.exact, "slots": events.slots}


@dataclass(frozen=True)
class _VersionTables:
    """What the versions of tracked sources take."""

    width: int
    """Sources of the network that tracks most."""
    slot: int
    """Bytes of the versions of one model under way [B]."""
    rows: int
    """Bytes of those of all nodes [B]."""


def _versions(need: MemoryBudget, events: Timeline) -> _VersionTables:
    """Returns what the versions of the sources that each network tracks take."""
    item = counts(events, need.config).itemsize
    sources = choose(events.networks, [c.staleness.track for c in need.configs])
    rows = int((events.networks.sizes * sources.widths).sum())
    return _VersionTables(sources.width, sources.width * item, rows * item)


def _measured(need: MemoryBudget, stack: Stack, here: torch.device, available: int) -> tuple[MemoryBudget, torch.dtype]:
    """Returns the budget with what layers make of one example, and the type of its features as the module gets them.

    Where the models do not fit in what is available [B], so may no example, and nothing is run: the budget stays as it
    is.
    """
    config, data, dtype = need.config, need.sizes[0], DTYPES[need.config.dtype]
    if need.nodes * stack.p * dtype.itemsize > available:
        return need, dtype
    kind = learning.feature_type(config, data, stack)
    example = (data.features, kind, here, learning.examples(data, kind) if data.integers else None)
    with suppress(RangeError), learning.pointed_to_integers(config, data, dtype):  # all rows are checked later
        need = replace(need, activations=stack.activations(*example), convolved=stack.convolved(*example))
        two = learning.examples(data, kind).to(here)
        found = None if need.is_fed else trunk(stack, two)
        if found is not None:
            example = (found.shape, dtype, here)
            sizes = {"activations": found.head.activations(*example), "convolved": found.head.convolved(*example)}
            need = replace(need, **sizes, kept=math.prod(found.shape))
        elif stack.shared:
            with suppress(Exception):  # what vmap does not carry so is tried in other ways, and refused, before a run
                need = replace(need, **dict(zip(("descending", "scoring"), measured(stack, two), strict=True)))
    return need, kind


def _mail(need: MemoryBudget, events: Timeline, versions: int) -> dict[str, int]:
    """Returns the bytes of messages under way, by part; versions: those of one slot [B].

    Raises:
        ValueError: they do not fit in the memory of the host, where they begin at once.
    """
    if not isinstance(events, MessageTimeline):
        return {}
    found, there = need.messages(events, versions), free(torch.device("cpu"))
    if found["messages (host)"] > there:
        raise ValueError(misfit([*found.items()], there, "cpu"))
    return found


def _hosted(
    need: MemoryBudget, events: Timeline, memory: dict[str, int], where: torch.device
) -> tuple[int, int, dict[str, int]]:
    """Returns how many threads make windows, how many of these are made ahead, and memory with that of windows.

    Args:
        need: with the settings, whose `run.threads` bounds these threads, too.
        events: the timeline.
        memory: bytes of all else [B]; windows are made ahead as far as it leaves room for them.
        where: the device.
    """
    threads = min(need.config.run.threads or MOST, cores())
    ahead = depth(threads, sum(events.expected(_window(need.config, events))), need.ranks)
    whole = memory | _ahead(need, events, where, ahead)
    held = sum(size for part, size in whole.items() if where.type == "cpu" or "(host)" in part)
    if ahead > 1 and held > SHARE * free(torch.device("cpu")):
        ahead, whole = 1, memory | _ahead(need, events, where, 1)
    return threads, ahead, whole


def _window(config: Config, events: Timeline) -> float:
    """Returns the longest simulated time of a window [s]."""
    return min(config.run.until, config.run.window or automatic_window(events))


def _ahead(need: MemoryBudget, events: Timeline, where: torch.device, ahead: int) -> dict[str, int]:
    """Returns the bytes of what is made before it is needed: events of some windows, their waves, and minibatches."""
    (updates, gossips), span = events.expected(1.0), _window(need.config, events)
    most = need.most + need.read
    part = min(READ if need.read else PART, int(most * span * updates))
    made, tracked = span * (updates + gossips), any(c.staleness.track != "none" for c in need.configs)
    followed = made * _FOLLOWED_BYTES + need.nodes * _BESIDE if tracked else 0
    drawing = 0 if need.is_fed else held(need.nodes, sum(s.samples for s in need.sizes))
    return {
        "timeline and schedule (host)": int((1 + ahead) * made * _EVENT_BYTES + followed),  # one runs
        "minibatches drawn ahead (host)": (ALIVE + ahead) * part,
        "minibatches": min(part, PART) + drawing if devices.is_cuda(where) else 0,
    }


def _isolated(need: MemoryBudget) -> dict[str, int]:
    """Returns the bytes of the baseline's nodes, whose run begins when this one has ended, and is still there."""
    if need.config.run.baseline != "isolated":
        return {}
    return {"isolated nodes": sum(size for part, size in need.tensors(need.nodes, 0).items() if "(host)" not in part)}


def _neighbourhoods(need: MemoryBudget, events: Timeline, where: torch.device) -> dict[str, int]:
    """Returns the bytes of what rounds know of neighbours, and of the rows of some of them, if they are gathered."""
    if not isinstance(events, Barriers):
        return {}
    tables, rows = 0, 0
    for c, weights in zip(need.configs, events.weights, strict=True):
        if gathers(c):
            w, n = weights.matrix(0), c.network.nodes
            most = n - 1 if w is None or isinstance(w, np.ndarray) else int(np.diff(w.indptr).max())
            tables += n * most * (8 + need.item + 1)
            some = min(n * most * need.p, max(NUMBERS[devices.kind(where)], most * need.p))
            rows = max(rows, _GATHERED * need.item * some)
    return {"neighbourhoods": tables + rows} if rows else {}


def _asked(need: MemoryBudget, where: torch.device) -> dict[str, int]:
    """Returns the bytes of what rounds know of edges, of models that nodes ask for, and of examples to score them on.

    The numbers of these are as if all nodes owned as many.
    """
    if not type(need.config.method).asks_some():
        return {}
    samples, features = sum(s.samples for s in need.sizes), math.prod(need.sizes[0].features)
    each = need.neighbours * need.p
    models = _GATHERED * need.item * min(need.nodes * each, max(NUMBERS[devices.kind(where)], each))
    examples = min(samples, max(EXAMPLES[devices.kind(where)] // max(1, features), -(-samples // need.nodes)))
    scored = examples * need.item * (2 * features + 3 * need.activations)
    return {"models asked for": need.nodes * need.neighbours * (25 + need.item) + models + scored + 8 * samples}


def _copy(need: MemoryBudget, versions: int, memory: dict[str, int], where: torch.device) -> int | None:
    """Returns the bytes of the copy from which checkpoints are written; None: there is no memory for one."""
    every = need.config.run.checkpoint_every
    copy = need.state(need.nodes, versions) if every.time is not None or every.minutes is not None else 0
    hosted = sum(size for part, size in memory.items() if where.type == "cpu" or "(host)" in part)
    return copy if hosted + copy <= SHARE * free(torch.device("cpu")) else None


def free(where: torch.device) -> int:
    """Returns the free memory of a device [B]; on the host, that of the machine or of its control group."""
    return devices.free(where) if devices.is_cuda(where) else memory_plan.free_host()
