r"""Plan: events, waves and memory of a run, known before anything of size n p is allocated.

Letters: n nodes, p parameters of a row, t tracked sources, s steps, b examples of a minibatch.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from batchednodes import assembly, dealing, problems
from batchednodes.assembly import DTYPES, Chunks
from batchednodes.config import Config, has_messages
from batchednodes.data import DataSizes
from batchednodes.engine import automatic_window, slots
from batchednodes.mail import LAW, MESSAGE, NODE
from batchednodes.memory import gib
from batchednodes.messages import Traffic
from batchednodes.minibatches import ALIVE, PART
from batchednodes.schedule import schedule
from batchednodes.stack import Stack
from batchednodes.staleness import choose
from batchednodes.timeline import MEET, Timeline

_EVENT_BYTES = 160
"""Host memory of one event while a window is made and scheduled [B]: columns, their sorted copies, places, order."""

_CONTACT_BYTES = 40
"""Host memory of one contact of a graph while it is made [B]: its ends, their sorted copies, the lists."""

_SAMPLED, _SAMPLED_MESSAGES = 4_000_000, 500_000
"""The most events from which the waves of a run are extrapolated; those of messages take longer."""

_EVENTS = 1e12
"""The most expected events of a run: days of scheduling alone, and far below where clocks lose their precision."""

_PROGRAMS = 250
"""Minibatch steps of a run, each of a whole wave, above which a tape or program pays: to trace it takes as long as vmap
takes to find the operations of about as many steps."""

_SHARE = 0.9
"""Part of the free memory that a plan may use; the rest is for what it cannot see (libraries, fragmentation)."""

_WORTH = 1 << 20
"""Numbers that local SGD works on in one call, above which more than one thread pays: a millisecond's work."""

_WORTH_CONVOLVED = 1 << 25
"""Multiply-adds of convolutions in one call, forward, above which a second thread pays: a millisecond."""

_CACHE = 16 << 20
"""Temporaries of models of several networks that are scored in one call on the CPU [B]: more are slower than one call
for each network, since caches do not hold them."""

_WORKSPACE = {"cpu": 64 << 20, "cuda": 2 << 30}
"""Memory that the temporaries of one vmap call may take [B]."""

_CONVOLVED = 192 << 20
"""The same on the CPU where there are convolutions [B]: their kernels stay in the cache whatever the rows, and a call
costs some milliseconds beside its work."""


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
    copies: bool
    """Whether there is memory to copy the state for checkpoints; else the run waits while they are written."""

    @property
    def total(self) -> int:
        """Bytes of all parts on the device [B]."""
        return sum(size for _, size in self._parts())

    @property
    def fits(self) -> bool:
        """Whether the run may start."""
        return self.total <= _SHARE * self.available

    def refuse_unless_fits(self) -> None:
        """Raises ValueError, with the numbers, if the run does not fit."""
        if not self.fits:
            raise ValueError(_misfit(self._parts(), self.available, self.device))

    def _parts(self) -> list[tuple[str, int]]:
        """Returns name and bytes of each part on the device; where that is the CPU, the host's are."""
        return [part for part in self.memory.items() if self.device == "cpu" or "(host)" not in part[0]]


def _misfit(parts: Sequence[tuple[str, int]], available: int, device: str) -> str:
    """Returns the message about parts that do not fit together."""
    largest = ", ".join(f"{name} {gib(size)}" for name, size in sorted(parts, key=lambda part: -part[1])[:3])
    needed = f"{gib(sum(size for _, size in parts))} needed with {gib(available)} free on {device}"
    remedy = "lower network.nodes, the model or staleness.track, or use a smaller dtype"
    return f"the run must fit in memory, got {needed} (largest: {largest}); {remedy}"


def screen(configs: Sequence[Config], sizes: list[DataSizes] | None = None) -> None:
    """Checks that what the settings alone say fits in memory, before anything of the size of n is made.

    Args:
        configs: settings of each network.
        sizes: of the data of each; None: they are asked for.

    Raises:
        ValueError: graphs, models, data and clocks do not fit; or the model, the data or the device does not exist.
    """
    config, where = configs[0], assembly.device(configs[0])
    dtype, sizes = DTYPES[config.dtype], sizes or dealing.sizes(configs)
    stack = problems.skeleton(config, sizes[0], dtype, where)
    n = sum(c.network.nodes for c in configs)
    versions = sum(2 * c.network.nodes * _tracked(c) for c in configs)
    memory = _Needs(configs, stack, sizes, 0, 0, dtype.itemsize).tensors(n, versions)
    if any(has_messages(c) for c in configs):
        memory["mail (host)"] = _mail(n, config.gossip.merge.weighing(np.zeros(1)).parts)
    memory["graphs (host)"] = int(_CONTACT_BYTES * sum(assembly.contacts(configs)))
    for place in {where, torch.device("cpu")}:
        parts = [
            part for part in memory.items() if where.type == "cpu" or ("(host)" in part[0]) == (place.type == "cpu")
        ]
        if sum(size for _, size in parts) > _SHARE * free(place):
            raise ValueError(_misfit(parts, free(place), str(place)))


def _mail(n: int, parts: int) -> int:
    """Returns the bytes of what is known of n nodes where messages are under way: now, before and after a window."""
    return n * (2 * LAW.itemsize + 3 * (NODE.itemsize + 8 * parts))


def _tracked(config: Config) -> int:
    """Returns the number of sources whose versions a network keeps."""
    track = config.staleness.track
    return track if isinstance(track, int) else config.network.nodes if track == "all" else 0


def plan(configs: Sequence[Config], events: Timeline, sizes: list[DataSizes] | None = None) -> Plan:
    """Returns the plan of a batch of networks.

    Args:
        configs: settings of each network.
        events: their timeline.
        sizes: of the data of each; None: they are asked for.

    Raises:
        ValueError: a setting does not fit the others, or the device or a file does not exist.
    """
    config, where = configs[0], assembly.device(configs[0])
    dtype = DTYPES[config.dtype]
    sizes = sizes or dealing.sizes(configs)
    stack = problems.skeleton(config, sizes[0], dtype, where)
    updates, gossips = events.expected(config.run.until)
    _refuse_endless(updates + gossips)
    item = assembly.counts(events, config).itemsize
    sources = choose(events.networks, [c.staleness.track for c in configs])
    needs = _Needs(configs, stack, sizes, 0, 0, dtype.itemsize)
    mail = needs.messages(events, int(sources.width) * item) if isinstance(events, Traffic) else {}
    if mail.get("mail (host)", 0) > free(torch.device("cpu")):  # begun below
        raise ValueError(_misfit([*mail.items()], free(torch.device("cpu")), "cpu"))
    per_event, writes = _sample(events, config)
    models = events.networks.n * stack.p * dtype.itemsize
    example, known = (sizes[0].features, dtype, where), models <= free(where)
    activations = stack.activations(*example) if known else 0
    convolved = stack.convolved(*example) if known else 0
    needs = replace(needs, activations=activations, convolved=convolved)
    chunks = needs.chunks(where.type == "cuda", events.networks.n, updates)
    span = min(config.run.until, config.run.window or automatic_window(events))
    window = span * sum(events.expected(1.0))
    versions = int((events.networks.sizes * sources.widths).sum()) * item
    memory = needs.tensors(events.networks.n, versions) | mail
    memory |= needs.workspace(chunks, writes, sources.width, where.type == "cuda")
    memory["timeline and schedule (host)"] = int(2 * window * _EVENT_BYTES)  # one runs, one is made
    part = needs.part(span * events.expected(1.0)[0])
    memory["minibatches drawn ahead (host)"] = ALIVE * part
    memory["minibatches"] = part if where.type == "cuda" else 0
    waves = per_event * (updates + gossips)
    name = str(where)
    threads = config.run.threads or needs.threads(min(chunks.update, events.networks.n // 8))
    every = config.run.checkpoint_every
    copy = needs.state(events.networks.n, versions) if every.time is not None or every.minutes is not None else 0
    hosted = sum(size for part, size in memory.items() if where.type == "cpu" or "(host)" in part)
    copies = hosted + copy <= _SHARE * free(torch.device("cpu"))
    memory["copy for checkpoints (host)"] = copy if copies else 0
    return Plan(
        events.networks.count,
        events.networks.n,
        stack.p,
        updates,
        gossips,
        waves,
        events.forecast.flying if isinstance(events, Traffic) else None,
        not isinstance(events, Traffic) or events.forecast.exact,
        events.slots if isinstance(events, Traffic) else 0,
        memory,
        free(where),
        name,
        chunks,
        threads,
        copies,
    )


def _refuse_endless(events: float) -> None:
    if not events <= _EVENTS:
        raise ValueError(
            f"run.until times the rates of update.clock and gossip.clock must be at most {_EVENTS:.0e} events, got "
            f"{events:.3g}; lower run.until, the rates or network.nodes"
        )


def _sample(events: Timeline, config: Config) -> tuple[float, int]:
    """Returns waves per event, and the most writes of a gossip wave, from the start of the run.

    The start is a few updates of each node long, but at least 200,000 and at most four million events, or half a
    million where messages are under way.
    """
    updates, gossips = events.expected(1.0)
    rate, few = updates + gossips, 4 * events.networks.n / updates if updates else math.inf
    most = _SAMPLED_MESSAGES if isinstance(events, Traffic) else _SAMPLED
    span = min(config.run.until, max(200_000 / rate, min(few, most / rate))) if rate else config.run.until
    some, after = events.window(events.begin(), span)
    if len(some) == 0:
        return 1.0, 0
    made = schedule(some, events.networks.n + slots(after))
    sizes = np.diff(made.waves)
    writes = sizes[~made.updates].max(initial=0) * (2 if MEET in some.kind else 1)
    return sizes.size / len(some), int(writes)


@dataclass(frozen=True)
class _Needs:
    """What the memory of a run depends on."""

    configs: Sequence[Config]
    stack: Stack
    sizes: list[DataSizes]
    activations: int
    convolved: int
    item: int

    @property
    def config(self) -> Config:
        """Settings that all networks share."""
        return self.configs[0]

    @property
    def update_row(self) -> int:
        """Temporaries of one row of a vmap call [B]: its minibatches, activations and gradients, new and old values."""
        data, (steps, b) = self.sizes[0], self.minibatches
        example = int(np.prod(data.features)) + data.outputs
        examples = steps * b * 8 + b * example * self.item  # one step's features at a time
        rows = 6 if self.ages == 0 else 8  # ages, and step sizes
        return examples + self.item * (3 * b * self.activations + rows * self.stack.p)

    @property
    def ages(self) -> int:
        """Numbers for each model by which step sizes are divided."""
        rule = self.config.gossip.merge.weighing(np.zeros(1))
        return rule.parts if rule.divides else 0

    @property
    def minibatches(self) -> tuple[int, int]:
        """Steps of an update, and examples of a minibatch; with epochs, those of a node with as many as the mean."""
        mean = max(-(-s.samples // c.network.nodes) for s, c in zip(self.sizes, self.configs, strict=True))
        return self.config.local.shape(max(1, mean))

    @property
    def most(self) -> int:
        """Bytes of the minibatches of one update, at most: with epochs, those of a node that owns all that it can."""
        most = max(s.samples - c.network.nodes + 1 for s, c in zip(self.sizes, self.configs, strict=True))
        return 8 * math.prod(self.config.local.shape(max(1, most)))

    @property
    def evaluated_row(self) -> int:
        """Temporaries of one model that is scored [B]."""
        tests = max(s.test_samples for s in self.sizes)
        return self.item * (self.stack.p + 2 * tests * self.activations)

    def chunks(self, cuda: bool, n: int, updates: float) -> Chunks:
        """Returns the rows handled at once of n, in a run of some updates."""
        budget = _WORKSPACE["cuda" if cuda else "cpu"]
        updated = budget if cuda or not self.convolved else _CONVOLVED
        rows = self.config.local.chunk or max(1, min(n, updated // self.update_row))
        scored = max(1, min(n, budget // self.evaluated_row))
        calls = self.minibatches[0] * updates / min(rows, max(1, n // 8))  # a wave updates about n/8 nodes
        together = scored if cuda else max(1, _CACHE // self.evaluated_row)
        return Chunks(rows, scored, together, calls >= _PROGRAMS, self.update_row, self.evaluated_row)

    def threads(self, rows: int) -> int:
        """Returns how many threads pay for waves of some rows: all of them, or one.

        Small operations gain little from a second thread on an idle machine, and lose most of their speed where another
        process wants that core, since every operation then waits for a thread that does not run.
        """
        examples = rows * self.minibatches[1]
        many = examples * self.activations + rows * self.stack.p > _WORTH
        return torch.get_num_threads() if many or examples * self.convolved > _WORTH_CONVOLVED else 1

    def part(self, updates: float) -> int:
        """Returns the most bytes of minibatches that are drawn at once, of a window of some updates."""
        return min(PART, int(self.most * updates))

    def state(self, n: int, versions: int) -> int:
        """Returns the bytes of what a checkpoint holds; versions: theirs [B]."""
        parts = self.tensors(n, versions)
        return sum(parts[name] for name in ("models", "momentum", "models read (delta)", "ages", "versions"))

    def tensors(self, n: int, versions: int) -> dict[str, int]:
        """Returns the bytes of what lives as long as the run; versions: theirs [B]."""
        row, some_momentum = n * self.stack.p * self.item, any(c.local.momentum != 0 for c in self.configs)
        samples = sum(s.samples for s in self.sizes)
        rows = sum((s.samples + s.test_samples) * (int(np.prod(s.features)) + s.outputs) for s in self.sizes)
        return {
            "models": row,
            "momentum": row if some_momentum else 0,
            "models read (delta)": row if self.config.update.applies == "delta" else 0,
            "ages": 8 * n * self.ages,
            "versions": versions,
            "data": rows * self.item,
            "data while it is loaded (host)": rows * 8,
            "sampler and clocks (host)": 12 * samples + 260 * n,
        }

    def messages(self, events: Traffic, versions: int) -> dict[str, int]:
        """Returns the bytes of what is under way; versions: of one slot [B]."""
        row, momentum = self.stack.p * self.item, any(c.local.momentum != 0 for c in self.configs)
        room = events.forecast.room
        return {
            "models under way": events.slots * (row * (2 if momentum else 1) + 8 * self.ages + versions),
            "mail (host)": int(
                _mail(events.networks.n, events.parts)
                + 3 * room * (MESSAGE.itemsize + 8 * events.parts + 8)
                + 24 * events.slots
            ),
        }

    def workspace(self, chunks: Chunks, writes: int, tracked: int, graphs: bool) -> dict[str, int]:
        """Returns the bytes of temporaries; graphs: whether updates are CUDA graphs, which have rows of their own."""
        return {
            "local updates": max(chunks.update * self.update_row, self.most) * (2 if graphs else 1),
            "evaluation": chunks.evaluate * self.evaluated_row,
            "mixing": writes * (self.stack.p * self.item + 12 * tracked + 64),
        }


def free(where: torch.device) -> int:
    """Returns the free memory of a device [B]; on the host, that of the machine or of its control group."""
    if where.type == "cuda":
        return torch.cuda.mem_get_info(where)[0]
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        stat = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        found.append(int(limit.read_text()) - int(used.read_text()) + int(stat.get("inactive_file", 0)))  # page cache
    return max(0, min(found))
