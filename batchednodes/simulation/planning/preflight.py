r"""Preparation: what the settings of some networks stand for, made, and refused, before PyTorch is imported.

To import PyTorch takes longer than a refusal may. Graphs, clocks, traces and, unless they are large, data are made
without it, checked as they are made, and handed to the run.

Notation: n nodes, p parameters.
"""

import csv
import ctypes
import io
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType

import numpy as np

from batchednodes import config
from batchednodes.config import Config, has_messages, sweep
from batchednodes.config.checks import check_weights
from batchednodes.config.sweep import NetworkSpec
from batchednodes.data import Dataset, DataSizes, Shards
from batchednodes.events import gaps
from batchednodes.events.gaps import Gaps
from batchednodes.events.synchronous import Barriers, Synchronous
from batchednodes.events.timeline import AFTER, ALONE, BEFORE, Timeline
from batchednodes.numerics.targets import is_own, returned
from batchednodes.numerics.values import shown
from batchednodes.results import loggers
from batchednodes.results.checkpoints.header import DamageError, believing, finite
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.paths import check_elsewhere, check_new, check_origin, check_own
from batchednodes.simulation import stopping
from batchednodes.simulation.build import datasets
from batchednodes.simulation.build.messages import traffic
from batchednodes.simulation.planning import memory_plan
from batchednodes.simulation.planning.memory_plan import MemoryBudget
from batchednodes.simulation.resume import input_files
from batchednodes.simulation.resume.rules import check_resumable, check_start
from batchednodes.topology import DoubleBinaryTree, Graph, Networks, PeerSampler, RoundLaw, RoundWeights, stack
from batchednodes.topology.graph import eigenvalue_below
from batchednodes.topology.weights import NEAR

_QUICK = 256 << 20
"""Memory of the data up to which they are loaded first [B]: some seconds' work; more, once memory is planned."""

_SIDES = {None: ALONE, "before": BEFORE, "after": AFTER}
"""Where contacts are made, by what a clock of contacts says."""

_DRIVERS, _AMD = ("libcuda.so.1", "nvcuda.dll"), Path("/dev/kfd")
"""Libraries of NVIDIA's driver, and the file of AMD's: without either PyTorch finds no device that it calls CUDA."""

_SHAPES = {
    "tree": ("a tree, n - 1 edges that connect all nodes,", "chain, star or binary_tree"),
    "two_trees": ("two trees, those of kind double_binary_tree,", "double_binary_tree"),
    "star": ("a star with node 0, the server, in its middle,", "star"),
}
"""What an algorithm asks of the graph -> the rule, and kinds that follow it."""


@dataclass(eq=False)
class Preflight:
    """Networks that can run, as far as that is known without PyTorch."""

    points: list[NetworkSpec]
    """The networks."""
    sizes: list[DataSizes]
    """Of the data of each."""
    p: int | None
    """Parameters of a model; None: only PyTorch knows."""
    events: Timeline | None
    """When what happens; None: it depends on the size of a model, which only PyTorch knows."""
    dealt: list[tuple[Dataset, Shards]] | None = field(repr=False)
    """Data of each network, and who owns them; None: they are large, and loaded later."""
    summed: dict[str, str] | None = None
    """The files, see below; None: nobody has asked."""

    @property
    def configs(self) -> list[Config]:
        """Settings of each network."""
        return [p.config for p in self.points]

    @property
    def files(self) -> dict[str, str]:
        """Path and checksum of each file and folder that the settings name; they are read when this is first asked."""
        if self.summed is None:
            self.summed = input_files.checksums(self.points)
        return self.summed

    def take(self) -> list[tuple[Dataset, Shards]] | None:
        """Returns the data, which are not kept any longer."""
        dealt, self.dealt = self.dealt, None
        return dealt


def prepare(points: Sequence[NetworkSpec]) -> Preflight:
    """Returns what the settings of some networks stand for.

    Raises:
        ValueError: a device, a graph, a trace, data or a model do not exist or cannot be used, or the run does not fit
            in memory, as far as that shows without PyTorch.
    """
    try:
        return _prepared(points)
    except ValueError as error:
        raise config.READER.located(points[0].config, error) from None


def _prepared(points: Sequence[NetworkSpec]) -> Preflight:
    configs = [p.config for p in points]
    first = configs[0]
    loggers.check(first)
    sizes, where = datasets.sizes(configs), _device(first)
    stopping.check(first, sizes[0])
    known = first.task.model.count(sizes[0].features, sizes[0].outputs)
    need = MemoryBudget(configs, known or 0, sizes)
    memory_plan.screen(need, where, {"cpu": memory_plan.free_host()})
    events = None
    if known is not None or not any(has_messages(c) for c in configs):
        events = timeline(configs, need.p)
        memory_plan.refuse_endless(sum(events.expected(first.run.until)))
    quick = need.tensors(0, 0)["data while it is loaded (host)"] <= _QUICK
    dealt = [datasets.split(c) for c in configs] if quick else None
    return Preflight([*points], sizes, known, events, dealt)


def fresh(settings: Config, out: str | Path | None) -> Preflight:
    """Returns what the settings of a new run stand for, which leaves files in a folder; None: it leaves none.

    Raises:
        ValueError: as of `prepare`; or there are no models to start from, or none that fit; or the folder is there, or
            the settings could not be read again.
    """
    check_new(out)
    check_origin(settings.run.start_from)
    if out is not None:
        check_elsewhere(settings.run.checkpoint_folder)
        config.dump(settings)
    made = prepare(sweep.points(settings))
    if settings.run.start_from is not None:
        _check_start(settings, made, Inside(Path(settings.run.start_from)))
    return made


def _check_start(settings: Config, made: Preflight, origin: Inside) -> None:
    """Checks the models that a run starts from, as far as headers say; where they say nothing, reading them does."""
    for path, found in finite(origin):
        with suppress(DamageError), believing(path):
            check_start(settings, [c.network.nodes for c in made.configs], made.p, found)
            return


def resumable(folder: Path, settings: Config) -> Preflight:
    """Returns what the settings of a run in a folder stand for, with which it is to go on.

    Raises:
        ValueError: as of `prepare`; or the run cannot go on with these settings, or files.
        OSError: a file in the folder cannot be read.
    """
    place, points = Inside(folder), sweep.points(settings)
    check_own(place, sweep.labels(points))
    check_elsewhere(settings.run.checkpoint_folder, place)
    made = prepare(points)
    check_resumable(place, settings, made.points, made.files)
    return made


def _device(settings: Config) -> str:
    """Returns the kind of device that a run may compute on.

    Raises:
        ValueError: CUDA is asked for, and there is none; PyTorch finds out whether a device that is there has a number.
    """
    there = settings.device != "cpu" and (_AMD.exists() or any(_loads(name) for name in _DRIVERS))
    if settings.device.startswith("cuda") and not there:
        raise ValueError(
            f"device must be one of this machine, got {shown(settings.device)} with 0 CUDA devices; use auto or cpu"
        )
    return "cuda" if there else "cpu"


def _loads(library: str) -> bool:
    with suppress(OSError):
        ctypes.CDLL(library)
        return True
    return False


# --------------------------------------------------------------------------------------------------------- timelines


def networks(configs: Sequence[Config]) -> Networks:
    """Returns the disjoint networks of a batch."""
    sizes = [c.network.nodes for c in configs]
    return Networks(np.concatenate([[0], np.cumsum(sizes)]), np.array([c.seed for c in configs], np.uint64))


def timeline(configs: Sequence[Config], p: int, sent: Sequence[int] = ()) -> Timeline:
    """Returns the laws of all events.

    Args:
        configs: settings of each network.
        p, sent: parameters of a model, and how many a message of each network brings; none given: all.

    Raises:
        ValueError: settings do not fit each other, or a graph or a trace cannot be read.
    """
    batch = networks(configs)
    with datasets.section("network.topology"):
        graphs = [_graph(c) for c in configs]
    for c, graph in zip(configs, graphs, strict=True):
        check_weights(c.network.topology, c.network.weights, stored=isinstance(graph, Graph))
        _check_shape(c, graph)
    graphs = [_used(c, graph) for c, graph in zip(configs, graphs, strict=True)]
    if any(isinstance(c.timing, Synchronous) for c in configs):
        return _barriers(configs, batch, graphs)
    shares = [_shares(c, graph) for c, graph in zip(configs, graphs, strict=True)]
    with datasets.section("network.weights"):
        graphs = [_weighted(c, graph) for c, graph in zip(configs, graphs, strict=True)]
    for graph in graphs:
        _warn_if_disconnected(graph.union() if isinstance(graph, PeerSampler) else graph)
    update = [c.update.clock.gaps(c.network.nodes, c.seed, "update.clock") for c in configs]
    gossip = [
        _at_updates(laws, own)
        if c.gossip.clock.at_update()
        else c.gossip.clock.gaps(c.network.nodes, c.seed, "gossip.clock")
        for c, laws, own in zip(configs, update, shares, strict=True)
    ]
    exchange, schemes = configs[0].gossip.exchange, tuple(c.gossip.scheme for c in configs)
    if any(laws.quantiles is not None for laws in gossip) and not all(scheme.independent for scheme in schemes):
        raise ValueError("gossip.scheme.kind must be uniform with a gossip.clock of one's own; use kind uniform")
    if exchange == "push" and configs[0].method.occupies_sender():
        exchange = "split"
    sides = [_SIDES[c.gossip.clock.at_update()] for c in configs]
    plain = Timeline(
        batch,
        stack(batch, graphs),
        gaps.join(update),
        gaps.join(gossip),
        exchange,
        schemes,
        at_update=np.repeat(np.array(sides, np.int8), batch.sizes) if any(sides) else None,
        to_all=tuple(shares) if any(own is not None for own in shares) else None,
    )
    return traffic(configs, plain, sent or [p] * len(configs)) if any(has_messages(c) for c in configs) else plain


def _barriers(configs: Sequence[Config], batch: Networks, graphs: list[Graph | PeerSampler | None]) -> Barriers:
    """Returns the synchronous rounds of some networks.

    Raises:
        ValueError: not all networks go by rounds, or the weights of one are not what its algorithm asks for.
    """
    made, found = [c.timing for c in configs], list[RoundLaw]()
    timings = [timing for timing in made if isinstance(timing, Synchronous)]
    if len(timings) < len(configs):
        raise ValueError(
            "sweep.timing must be of kind synchronous in every network, or in none; run separate commands for them"
        )
    for c, graph, timing in zip(configs, graphs, timings, strict=True):
        pull, stochasticity = c.gossip.exchange == "pull", type(c.method).mixing
        times = timing.period, timing.mixings
        weights = RoundWeights(c.network.nodes, graph, c.network.weights, stochasticity, pull, *times)
        own = c.method.has_own_rounds()
        with datasets.section("algorithm" if own else "network.weights"):
            law = c.method.round_law(weights, c.seed)
            found.append(returned(law, (RoundLaw,), c.method, "round_law", "algorithm"))
            law.check()
            if isinstance(graph, Graph) and not own:
                _check_eigenvalues(c, weights)
        _warn_if_disconnected(law.union())
    period = np.array([timing.period for timing in timings], float)
    each, never = np.repeat(period, batch.sizes), np.full(batch.n, math.inf)
    laws = Gaps(each, np.zeros(batch.n)), Gaps(never, np.zeros(batch.n))
    schemes = tuple(c.gossip.scheme for c in configs)
    return Barriers(batch, stack(batch, graphs), *laws, "meet", schemes, period=period, weights=tuple(found))


def names(configs: Sequence[Config]) -> str | None:
    """Returns a table, as a text, of the names that the graphs of some networks give to nodes; None: they give none.

    Where not all networks have the same graph, its first column is the number of the network.
    """
    first = configs[0].network.topology
    alike = all(c.network.topology == first for c in configs)
    with datasets.section("network.topology"):
        found = [c.network.topology.names() for c in (configs[:1] if alike else configs)]
    if not any(found):
        return None
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["node", "name"] if alike else ["network", "node", "name"])
    for g, own in enumerate(found):
        table.writerows(row if alike else (g, *row) for row in enumerate(own or []))
    return text.getvalue()


def _graph(settings: Config) -> Graph | PeerSampler | None:
    """Returns the graph of a network; None: everyone may contact everyone."""
    topology, n = settings.network.topology, settings.network.nodes
    graph = returned(
        topology.graph(n, settings.seed), (Graph, PeerSampler, NoneType), topology, "graph", "network.topology"
    )
    if isinstance(graph, Graph) and graph.n != n:
        raise ValueError(f"kind must be one whose graph has the network's {n} nodes, got one of {graph.n}")
    return graph


def _weighted(settings: Config, graph: Graph | PeerSampler | None) -> Graph | PeerSampler | None:
    """Returns what chooses peers on a graph; itself where they are uniform, or all are contacted."""
    if not isinstance(graph, Graph) or settings.gossip.clock.to_all():
        return graph
    weights = settings.network.weights
    found = returned(weights.chooser(graph), (PeerSampler, NoneType), weights, "chooser", "network.weights")
    if is_own(type(weights)) and found is not None and found.share().max() > 1 + NEAR:
        node = int(found.share().argmax())
        got = f"{found.share()[node]:g} for node {node}"
        raise ValueError(f"kind must be one whose probabilities of a node sum to at most 1, got {got}")
    return found or graph


def _shares(settings: Config, graph: Graph | PeerSampler | None) -> RoundWeights | None:
    """Returns how much each neighbour counts in a network whose nodes contact all of theirs; None: they do not."""
    if not settings.gossip.clock.to_all():
        return None
    if isinstance(graph, PeerSampler):
        rule = "network.topology.kind must be one that does not change with gossip.clock.peers=all"
        raise ValueError(f"{rule}; use another graph")
    pull = settings.gossip.exchange == "pull"
    found = RoundWeights(settings.network.nodes, graph, settings.network.weights, "row", pull, 1.0)
    with datasets.section("network.weights"):
        found.check()
    return found


def _at_updates(updates: Gaps, shares: RoundWeights | None) -> Gaps:
    """Returns laws of as many contacts as nodes make at their updates: one at each, or with all neighbours."""
    if shares is None:
        return updates
    graph = shares.graph
    assert not isinstance(graph, PeerSampler)
    degrees = np.full(shares.n, shares.n - 1) if graph is None else graph.degrees
    return updates.thinned(degrees.astype(float))


def _check_shape(c: Config, graph: Graph | PeerSampler | None) -> None:
    """Raises ValueError where an algorithm that is for graphs of one shape gets another."""
    shape, n = c.algorithm.shape(), c.network.nodes
    if shape == "any" or n < 3:
        return
    kind, fits, edges = config.READER.plain(c.algorithm, "algorithm")["kind"], False, n * (n - 1) // 2
    if isinstance(graph, Graph):
        both = graph.adjacency().maximum(graph.adjacency().T).tocsr()
        edges, trees = int(both.nnz) // 2, DoubleBinaryTree().graph(n, c.seed)
        tree = edges == n - 1 and graph.is_connected
        same = np.array_equal(graph.indptr, trees.indptr) and np.array_equal(graph.indices, trees.indices)
        fits = {"tree": tree, "two_trees": same, "star": tree and int(both.indptr[1]) == n - 1}[shape]
    if not fits:
        got = "a graph that changes" if isinstance(graph, PeerSampler) else f"{edges} edges of {n} nodes"
        rule, remedy = _SHAPES[shape]
        raise ValueError(f"network.topology must be {rule} with algorithm.kind={kind}, got {got}; use kind {remedy}")


def _used(c: Config, graph: Graph | PeerSampler | None) -> Graph | PeerSampler | None:
    """Returns who contacts whom: on a star whose hub answers, all others the hub."""
    if c.algorithm.shape() != "star":
        return graph
    others = np.arange(1, c.network.nodes)
    return Graph.of(c.network.nodes, others, 0 * others, directed=True)


def _check_eigenvalues(c: Config, weights: RoundWeights) -> None:
    """Raises ValueError where the symmetric W of all rounds has an eigenvalue below what an algorithm bears."""
    bound, w = type(c.method).least_eigenvalue, weights.matrix(0)
    if bound <= -1 or w is None or abs(w - w.T).max() > NEAR:
        return
    found = eigenvalue_below(w, bound - NEAR)
    if found is not None:
        kind = config.READER.plain(c.algorithm, "algorithm")["kind"]
        rule = f"kind must give W no eigenvalue below {bound:.6g} with algorithm.kind={kind}, which would diverge"
        raise ValueError(f"{rule}, got {found:.3g}; use kind constant with a smaller value, or exact_diffusion")


def _warn_if_disconnected(graph: Graph | None) -> None:
    if graph is None:
        return
    count, label = graph.components()
    if count > 1:
        sizes, firsts = np.bincount(label), np.unique(label, return_index=True)[1]
        named = [f"node {i} and {size - 1} others" for i, size in zip(firsts[:5], sizes[:5], strict=True)]
        more = ", ..." if count > 5 else ""
        warnings.warn(
            f"network.topology is not connected: {count} components (those of {', '.join(named)}{more}), the largest "
            f"with {sizes.max()} nodes; they never learn from each other",
            stacklevel=2,
        )
