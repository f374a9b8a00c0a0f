"""Setup: what this process runs of a job, and where it goes on: all of it, or over ranks its share of the networks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch

from batchednodes.algorithms.share import Share, dealt
from batchednodes.events.timeline import Timeline
from batchednodes.numerics import devices, ranks
from batchednodes.numerics.memory import Chunks
from batchednodes.numerics.world import World
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Engine
from batchednodes.simulation.job import ComputePlan, Job
from batchednodes.simulation.lookahead import Deal, automatic_window
from batchednodes.simulation.planning.plan import Plan, plan, planned
from batchednodes.simulation.planning.preflight import Preflight, networks
from batchednodes.simulation.resume import warm_start
from batchednodes.simulation.resume.warm_start import Origin

Find = Callable[[Share | None], Snapshot | None]
"""Returns where a run goes on, as far as this process holds it; None: at its start."""


@contextmanager
def assembled(job: Job, find: Find) -> Iterator[tuple[Simulation, ComputePlan, Snapshot | Origin | None]]:
    """Yields all parts of a run, and where it goes on, or its models come from; torch has the threads that it needs."""
    made, configs = job.made, job.made.configs
    start = find(None) if job.world is None else None
    whole, need = planned(made, ranks.size())
    means = ComputePlan(Chunks(**job.told(asdict(need.chunks))), job.told(need.threads), job.told(need.copies))
    if job.world is not None:
        share, start = _dealt(job.world, work(job.made, whole), find)
        means = replace(means, share=share)
    if start is not None and start.journal.devices[-1] == devices.label(start.state.x.device):
        means = replace(means, chunks=Chunks(**start.journal.chunks))
        if job.world is None:
            means = replace(means, threads=start.journal.threads)
    own, events, data = job.own(means.share), whole, made.take()
    if means.share is not None and len(own) < len(configs):
        events, data = assembly.timeline(own), data and [data[g] for g in means.share.networks]
    if means.share is not None:
        sizes = [made.sizes[g] for g in means.share.networks]
        need = plan(own, events, sizes, means.share.ranks.size, ranks.of_machine()[1])
    need.refuse_unless_fits()
    with threads(means.threads):
        share, state = means.share, None if start is None else start.state
        group = None if share is None or share.ranks.size == 1 else share.ranks
        run = assembly.assemble(own, events, means.chunks, state, data, group, automatic_window(whole))
        run = replace(run, engine=_divided(run.engine, need.host_threads, job.told(need.ahead), share))
        branched = start is None and job.settings.run.start_from is not None
        yield run, means, _branched(job, run, share) if start is None and branched else start


def _divided(engine: Engine, threads: int, ahead: int, share: Share | None) -> Engine:
    """Returns an engine whose windows threads of the host make; over ranks each makes some, if memory holds them."""
    made = engine.divided(threads, ahead)
    if share is None or not 1 < share.ranks.size <= ahead:
        return made
    return replace(made, deal=Deal(share.ranks.rank, share.ranks.size, share.tellers.told_arrays))


def plans(made: Preflight, events: Timeline, count: int) -> list[Plan]:
    """Returns what each group of some ranks of one machine, to which networks are dealt, will do and need.

    Args:
        made: the networks.
        events: their timeline.
        count: ranks.
    """
    groups, sizes = dealt(work(made, events), count)
    found = list[Plan]()
    for numbers, together in zip(groups, sizes, strict=True):
        own = [made.configs[g] for g in numbers]
        some = events if len(own) == len(made.configs) else assembly.timeline(own)
        found.append(plan(own, some, [made.sizes[g] for g in numbers], together, count))
    return found


def _dealt(world: World, work: Sequence[float], find: Find) -> tuple[Share, Snapshot | None]:
    """Returns what this rank holds, and where it goes on: within a window all ranks must hold all networks together."""
    share = Share.of(work, world)
    start = find(share)
    if start is not None and start.journal.done and len(share.groups) > 1:
        share = Share.of(work, world, whole=True)
        start = find(share)
    return share, start


def _branched(job: Job, run: Simulation, share: Share | None) -> Origin:
    """Writes the models that the settings start from into the state of a new run; returns where they come from."""
    sizes, held = networks(job.made.configs).sizes, None if share is None else share.networks
    return warm_start.start_(run.state, run.declared, sizes, job.settings, run.cut, held)


def work(made: Preflight, events: Timeline) -> list[float]:
    """Returns how much there is to do in each network: contacts, and examples of updates, in a simulated second."""
    found = []
    for g, (c, size) in enumerate(zip(made.configs, made.sizes, strict=True)):
        part = events.networks.slice(g)
        steps, examples = c.local.shape(max(1, size.samples // c.network.nodes))
        updates = float(events.update.rate[part].sum())
        found.append(updates * (1 + steps * examples) + float(events.gossip.rate[part].sum()))
    return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets torch compute with some threads of the CPU, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
