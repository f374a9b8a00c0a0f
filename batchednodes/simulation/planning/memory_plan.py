r"""Needs: what memory a run takes, by part, as far as its settings and the sizes of its data say; what cannot fit.

Notation: n nodes, p parameters of a row, s steps, b examples of a minibatch.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchednodes.algorithms.fields import Field
from batchednodes.config import Config, has_messages
from batchednodes.data import DataSizes, own_tests
from batchednodes.events.messages.records import LAW, MESSAGE, NODE
from batchednodes.events.messages.timeline import MessageTimeline
from batchednodes.numerics.memory import Chunks, gib
from batchednodes.results.metrics.node_table import COLUMNS
from batchednodes.simulation.build import datasets, fields

SHARE = 0.9
"""Part of the free memory that a plan may use; the rest is for what it cannot see (libraries, fragmentation)."""

_CONTACT_BYTES = 40
"""Host memory of one contact of a graph while it is made [B]: its ends, their sorted copies, the lists."""

_EVENTS = 1e12
"""The most expected events of a run: days of scheduling alone, and far below where clocks lose their precision."""

_PROGRAMS = 250
"""Minibatch steps of a run, each of a whole wave, above which a tape or program pays: to trace it takes as long as vmap
takes to find the operations of about as many steps."""

_WORTH = 1 << 20
"""Numbers that local SGD works on in one call, above which more than one thread pays: a millisecond's work."""

_WORTH_CONVOLVED = 1 << 25
"""Multiply-adds of convolutions in one call, forward, above which a second thread pays: a millisecond."""

_CACHE = 16 << 20
"""Temporaries of models of several networks that are scored in one call on the CPU [B]: more are slower than one call
for each network, since caches do not hold them."""

_SCORED = 2_000
"""Models scored in a run above which a tape of their scores pays: to trace it takes as long as hundreds of them."""

_LOOPED = 4 << 20
"""Temporaries of a model that is scored [B] up to which its scores are traced: more are long in their products, and the
trace takes two dozen times as much."""

_FED = 3
"""Copies of the examples of an update that are made for it: as they are read, as they are changed, where they lie."""
_ROWS = 16_000_000
"""The most rows of nodes of a run: a file of about 1 GiB."""

_WORKSPACE = {"cpu": 64 << 20, "cuda": 2 << 30}
"""Memory that the temporaries of one vmap call may take [B]."""

_CONVOLVED = 192 << 20
"""The same on the CPU where there are convolutions [B]: their kernels stay in the cache whatever the rows, and a call
costs some milliseconds beside its work."""


@dataclass(frozen=True)
class MemoryBudget:
    """What the memory of a run depends on."""

    configs: Sequence[Config]
    """Settings of each network."""
    p: int
    """Parameters of a model; 0: not known."""
    sizes: list[DataSizes]
    """Of the data of each."""
    activations: int = 0
    """Numbers that the layers put out for one example; 0: not known."""
    descending: tuple[int, int] | None = None
    """Bytes of a gradient whatever the minibatch, and for each example, of a model with frozen parts; None: what its
    layers put out says it [B]."""
    scoring: tuple[int, int] | None = None
    """The same of the outputs of a model that is scored [B]."""
    convolved: int = 0
    """Multiply-adds of convolutions for one example, likewise."""
    kept: int = 0
    """Numbers that a frozen trunk makes of one example, which are kept beside it while they are made."""
    shared: int = 0
    """Bytes of what all models share: frozen parameters and buffers [B]."""
    neighbours: int = 0
    """The most that a node has, where something lives on edges; 0: not known, about as many as the mean."""

    @property
    def item(self) -> int:
        """Bytes of one number of a model [B]."""
        return fields.BYTES[self.config.dtype]

    @property
    def nodes(self) -> int:
        """Nodes of all networks."""
        return sum(c.network.nodes for c in self.configs)

    @property
    def config(self) -> Config:
        """Settings that all networks share."""
        return self.configs[0]

    @property
    def update_row(self) -> int:
        """Temporaries of one row of a vmap call [B]: its minibatches, activations and gradients, new and old values."""
        steps, b = self.minibatches
        examples = steps * b * 8 + b * self._example(self.sizes[0])  # one step's features at a time
        examples += _FED * steps * b * self._example(self.sizes[0]) if self.is_fed else 0
        rows = 6 if self.ages == 0 else 8  # ages, and step sizes
        rows += 2 * any(c.local.proximal != 0 for c in self.configs)  # where updates began, and how far it is
        if any(c.local.privacy is not None and c.local.privacy.is_noisy() for c in self.configs):
            rows += 7 * 8 // self.item  # noise, and the integers and numbers of 8 bytes that it is made from
        each = self.neighbours or self.edges / self.nodes  # rows are filled up to those of the largest
        kept = [
            math.ceil(each if one.lives == "edge" else 1) * one.size(self.p, self.item)
            for name, one in self.declared.items() if one.seen and name not in fields.LABELS
        ]  # fmt: skip
        made = 3 * b * self.activations * self.item
        if self.descending is not None:
            made = self.descending[0] + b * self.descending[1]
        return examples + made + self.item * rows * self.p + 3 * sum(kept)

    def _example(self, data: DataSizes) -> int:
        """Returns the bytes of one example of some data on the device [B]."""
        integers = data.integers and self.config.task.model.is_own()
        features = math.prod(data.features) * (8 if integers else self.item)
        return features + (8 * math.prod(data.target_shape) if data.target_shape else data.outputs * self.item)

    @property
    def is_fed(self) -> bool:
        """Whether examples are made for each minibatch, since they lie in files or are augmented."""
        return bool(self.config.task.augment) or any(s.mapped for s in self.sizes)

    @property
    def read(self) -> int:
        """Bytes of the features of one update that are read from files, at most [B]."""
        if not any(s.mapped for s in self.sizes):
            return 0
        return self.most // 8 * math.prod(self.sizes[0].features) * (8 if self.sizes[0].integers else self.item)

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
        """Temporaries of one model that is scored [B], on the test set or on a block of test rows of its node's own."""
        tests = max(s.test_samples for s in self.sizes)
        labels = 8 * (3 * tests + 6 * self.sizes[0].outputs) if "classes" in self.config.run.metrics else 0
        whole = self.item * (self.p + 2 * tests * self.activations) + labels
        if self.scoring is not None:
            whole = (
                2 * (self.item * self.p + self.scoring[0] + min(tests, self.block or tests) * self.scoring[1]) + labels
            )
        block = own_tests.block_width(self.own_rows + self.nodes, self.nodes) if self.own_rows else 0
        own = block * (self._example(self.sizes[0]) + self.item * 2 * self.activations + 32)
        return max(whole, self.item * self.p + own)

    @property
    def own_rows(self) -> int:
        """Test rows that nodes own besides, of all networks; those that are held out are training rows less."""
        rule = self.config.task.own_tests
        if isinstance(rule, float):
            return sum(int(rule * s.samples) + c.network.nodes for s, c in zip(self.sizes, self.configs, strict=True))
        return sum(s.test_samples for s in self.sizes) if rule == "dealt" else 0

    @property
    def block(self) -> int | None:
        """Test examples of a forward pass, at most; None: all."""
        if self.scoring is None:
            return None
        most = max(1, _WORKSPACE["cpu"] // (2 * self.scoring[1]))  # the mean model is scored beside the first one
        return most if most < max(s.test_samples for s in self.sizes) else None

    def chunks(self, cuda: bool, n: int, updates: float) -> Chunks:
        """Returns the rows handled at once of n, in a run of some updates."""
        budget = _WORKSPACE["cuda" if cuda else "cpu"]
        updated = budget if cuda or not self.convolved else _CONVOLVED
        rows = self.config.local.chunk or max(1, min(n, updated // self.update_row))
        scored = max(1, min(n, budget // self.evaluated_row))
        calls = self.minibatches[0] * updates / min(rows, max(1, n // 8))  # a wave updates about n/8 nodes
        together = scored if cuda else max(1, _CACHE // self.evaluated_row)
        looped = self.config.local.compile != "off" and self.models_scored >= _SCORED
        looped = looped and self.evaluated_row <= _LOOPED
        return Chunks(
            rows, scored, together, calls >= _PROGRAMS, self.update_row, self.evaluated_row, looped, self.block
        )

    @property
    def models_scored(self) -> int:
        """Models that are scored in a run, the mean models too."""
        each = sum(1 + min(c.run.eval_nodes or c.network.nodes, c.network.nodes) for c in self.configs)
        return each * self.config.run.marks

    @property
    def node_rows(self) -> int:
        """Rows of nodes at all marks, at most; those of isolated nodes are as many again."""
        return sum(c.run.eval_nodes or c.network.nodes for c in self.configs) * self.config.run.marks

    def threads(self, rows: int, most: int) -> int:
        """Returns how many threads pay for waves of some rows: the most there are, or one.

        Small operations gain little from a second thread on an idle machine, and lose most of their speed where another
        process wants that core, since every operation then waits for a thread that does not run.
        """
        examples = rows * self.minibatches[1]
        many = examples * self.activations + rows * self.p > _WORTH
        return most if many or examples * self.convolved > _WORTH_CONVOLVED else 1

    def state(self, n: int, versions: int) -> int:
        """Returns the bytes of what a checkpoint holds; versions: theirs [B]."""
        parts = self.tensors(n, versions)
        return sum(parts[name] for name in ("models", "versions", *self.fields(n)))

    def tensors(self, n: int, versions: int) -> dict[str, int]:
        """Returns the bytes of what lives as long as the run; versions: theirs [B]."""
        samples, own = sum(s.samples for s in self.sizes), self.config.task.own_tests
        tested = [s.test_samples * (2 if own == "dealt" else 1) for s in self.sizes]
        share = own if isinstance(own, float) else 0.0
        read = [math.ceil(share * s.samples) if s.mapped else s.samples for s in self.sizes]
        rows = [(count + more, s) for count, more, s in zip(tested, read, self.sizes, strict=True)]
        copied = [(count + (s.samples if isinstance(own, float) else 0), s) for count, s in rows]
        targets = [
            (s.samples, math.prod(s.target_shape) if s.is_classes else s.outputs) for s in self.sizes if s.mapped
        ]
        stays = sum(8 * count * each for count, each in targets)  # training targets, whose features stay in files
        alone = 2 if self.config.run.baseline == "isolated" else 1
        blocks = 9 * (2 * self.own_rows + self.nodes) if self.own_rows else 0
        return {
            "models": n * self.p * self.item,
            **({"shared by all models": self.shared} if self.shared else {}),
            **self.fields(n),
            "versions": versions,
            "data": sum(count * (self._example(s) + self.item * self.kept) for count, s in rows) + stays + blocks,
            "data while it is loaded (host)": sum(count * s.numbers * 8 for count, s in copied) + stays,
            "sampler and clocks (host)": 12 * samples + 260 * n,
        } | (
            {"rows of nodes (host)": alone * self.node_rows * COLUMNS.itemsize} if self.config.run.node_metrics else {}
        )

    @property
    def edges(self) -> int:
        """About how many directed edges there are, where something lives on them."""
        if not type(self.config.method).living("edge"):
            return 0
        pairs = [(c.network.topology.contacts(c.network.nodes), c.network.nodes) for c in self.configs]
        return int(sum(stored or n * (n - 1) for stored, n in pairs))  # complete graphs store none

    @property
    def declared(self) -> dict[str, Field]:
        """What nodes keep besides their models."""
        return fields.declared(self.configs, any(c.local.momentum != 0 for c in self.configs), self.ages)

    def fields(self, n: int, travelling: bool = False) -> dict[str, int]:
        """Returns the bytes of what some nodes keep besides their models, or of what travels with as many messages."""
        kept = {name: one for name, one in self.declared.items() if one.travels or not travelling}
        sizes = {
            fields.LABELS.get(name, name): one.rows(n, self.edges) * one.size(self.p, self.item)
            for name, one in kept.items()
        }
        return dict.fromkeys(fields.LABELS.values(), 0) | sizes

    def messages(self, events: MessageTimeline, versions: int) -> dict[str, int]:
        """Returns the bytes of what is under way; versions: of one slot [B]."""
        row, room = self.p * self.item + sum(self.fields(1, travelling=True).values()), events.forecast.room
        return {
            "models under way": events.slots * (row + versions),
            "messages (host)": int(
                in_flight(events.networks.n, events.parts)
                + 3 * room * (MESSAGE.itemsize + 8 * events.parts + 8)
                + 24 * events.slots
            ),
        }

    def workspace(self, chunks: Chunks, writes: int, tracked: int, graphs: bool) -> dict[str, int]:
        """Returns the bytes of temporaries; graphs: whether updates are CUDA graphs, which have rows of their own."""
        widths = self.p * self.item + sum(one.size(self.p, self.item) for one in self.declared.values() if one.mixed)
        rows = chunks.update if self.descending is None else max(chunks.update, 2)  # a trial of the model takes two
        private = any(c.local.privacy is not None for c in self.configs)
        norms = {"norms of single examples": chunks.update * self.update_row} if private else {}
        return norms | {
            "local updates": max(rows * self.update_row, self.most) * (2 if graphs else 1),
            "evaluation": chunks.evaluate * self.evaluated_row,
            "mixing": writes * (widths + 12 * tracked + 64),
        }


def in_flight(n: int, parts: int) -> int:
    """Returns the bytes of what is known of n nodes where messages are under way: now, before and after a window."""
    return n * (2 * LAW.itemsize + 3 * (NODE.itemsize + 8 * parts))


def _tracked(config: Config) -> int:
    """Returns the number of sources whose versions a network keeps."""
    track = config.staleness.track
    return track if isinstance(track, int) else config.network.nodes if track == "all" else 0


def _contacts(configs: Sequence[Config]) -> float:
    """Returns about how many contacts the graphs of all networks store; none is made."""
    with datasets.section("network.topology"):
        return sum(c.network.topology.contacts(c.network.nodes) for c in configs)


def misfit(parts: Sequence[tuple[str, int]], available: int, device: str) -> str:
    """Returns the message about parts that do not fit together."""
    largest = ", ".join(f"{name} {gib(size)}" for name, size in sorted(parts, key=lambda part: -part[1])[:3])
    needed = f"{gib(sum(size for _, size in parts))} needed with {gib(available)} free on {device}"
    remedy = "lower network.nodes, the model or staleness.track, or use a smaller dtype"
    if any(name.startswith("data") for name, _ in sorted(parts, key=lambda part: -part[1])[:1]):
        remedy = "lower the number of samples, or leave them in their file (task.data.memory=mapped)"
    return f"the run must fit in memory, got {needed} (largest: {largest}); {remedy}"


def screen(needs: MemoryBudget, where: str, available: Mapping[str, int]) -> None:
    """Checks that what the settings alone say fits in memory, before anything of the size of n is made.

    Args:
        needs: of the run.
        where: kind of device that it computes on, "cpu" or "cuda".
        available: free memory of the places that are checked, "cpu" and "cuda:0" [B].

    Raises:
        ValueError: graphs, models, data and clocks do not fit; or a model has fewer parameters than a message parts.
    """
    rule = needs.config.gossip.merge.weighing(np.zeros(1))
    if needs.config.run.node_metrics and needs.node_rows > _ROWS:
        got = f"{needs.node_rows:,}; raise run.mark_every, or lower run.eval_nodes"
        raise ValueError(f"run.node_metrics must make at most {_ROWS:,} rows, a node and mark each, got {got}")
    if 0 < needs.p < rule.parts:
        raise ValueError(f"gossip.merge.parts must be at most the {needs.p} parameters of the model, got {rule.parts}")
    memory = needs.tensors(needs.nodes, sum(2 * c.network.nodes * _tracked(c) for c in needs.configs))
    memory |= {"local updates": max(needs.update_row, needs.most), "evaluation": needs.evaluated_row}
    if any(has_messages(c) for c in needs.configs):
        memory["messages (host)"] = in_flight(needs.nodes, rule.parts)
    memory["graphs (host)"] = int(_CONTACT_BYTES * _contacts(needs.configs))
    for place, free in available.items():
        parts = [part for part in memory.items() if where == "cpu" or ("(host)" in part[0]) == (place == "cpu")]
        if sum(size for _, size in parts) > SHARE * free:
            raise ValueError(misfit(parts, free, place))


def refuse_endless(events: float) -> None:
    """Raises ValueError if a run expects more events than anybody waits for."""
    if not events <= _EVENTS:
        raise ValueError(
            f"run.until times the rates of update.clock and gossip.clock must be at most {_EVENTS:.0e} events, got "
            f"{events:.3g}; lower run.until, the rates or network.nodes"
        )


def free_host() -> int:
    """Returns the free memory of the machine, or of its control group [B]."""
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
