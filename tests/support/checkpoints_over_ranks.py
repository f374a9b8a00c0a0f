"""Runs pieces of runs over ranks, each from what the piece before left to a checkpoint or its end; for torchrun.

Without torchrun one process does the same.
"""

import json
import resource
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from batchednodes import config
from batchednodes.algorithms.share import Share
from batchednodes.config import Every, sweep
from batchednodes.numerics import ranks
from batchednodes.numerics.memory import Chunks
from batchednodes.numerics.world import World
from batchednodes.results.checkpoints.checkpointer import Checkpointer
from batchednodes.results.checkpoints.finding import newest
from batchednodes.results.checkpoints.journal import RunJournal
from batchednodes.results.checkpoints.snapshot import Snapshot
from batchednodes.results.folder.inside import Inside
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Progress, Unobserved
from batchednodes.simulation.lookahead import automatic_window
from batchednodes.simulation.planning.preflight import prepare

CPU = torch.device("cpu")


class Halting(Unobserved):
    """Halts after some steps, as if somebody had asked for it."""

    def __init__(self, steps):
        self.left = steps

    def pause(self):
        self.left -= 1
        return self.left < 0

    def advance(self, progress):
        return self.left >= 0


def piece(world, settings, folder, until=None, halt=None, whole=False):
    """Runs from the latest state in a folder, or t = 0; returns parts of the run and how far it has come."""
    settings = config.load(settings)
    points = sweep.points(settings)
    made = prepare(points)
    share = None if world is None else Share.of([c.network.nodes for c in made.configs], world, whole)
    configs = made.configs if share is None else [made.configs[g] for g in share.networks]
    start = newest(Inside(folder), CPU, lambda _: None, share)
    batch = assembly.timeline(made.configs)
    events = batch if share is None else assembly.timeline(configs)
    chunks = Chunks(4, 4, traced=settings.local.compile == "auto")
    window = settings.run.window or automatic_window(batch)
    state = None if start is None else start.state
    run = assembly.assemble(configs, events, chunks, state, None, share and share.ranks, window)
    progress = run.engine.begin()
    if start is not None:
        j = start.journal
        progress = Progress(start.clocks, j.events, j.waves, j.marks, j.done, j.end)
    engine = run.engine if until is None else replace(run.engine, until=until)
    observer = Unobserved() if halt is None else Halting(halt)
    return run, engine.run_(run.state, progress, observer), share, made


def snapshot(run, progress, made, arrays=True):
    """Returns what a checkpoint of this process holds."""
    algorithm = run.engine.executor.algorithm
    told = {name: getattr(progress, name) for name in ("events", "waves", "marks", "done", "end")}
    how = {"chunks": {"update": 4, "evaluate": 4}, "devices": ("cpu",), "events": 0, "waves": 0}
    journal = RunJournal({"name": "a", "run": {"until": 1.0}}, **told | how)
    n = sum(c.network.nodes for c in made.configs)
    kept = {"curves.more": np.arange(float(n))} if arrays else {}
    return Snapshot(run.state, progress.clocks, algorithm.layout, journal, kept, run.edges)


def tended(checkpointer):
    """Waits until a checkpoint has its name, or cannot have it, as a run does that goes on meanwhile."""
    while checkpointer.open:
        checkpointer.tend()
        time.sleep(0.01)


def refused(world, checkpointer, held, rank):
    """Writes checkpoints on a disk that is full for one rank, then on one that is not; returns what is said of them."""
    before, raised = resource.getrlimit(resource.RLIMIT_FSIZE), None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if world.all.rank == rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        checkpointer.write(held)
        checkpointer.settle()
        checkpointer.write(held)
        tended(checkpointer)
        try:
            checkpointer.write_now(held)
        except OSError as error:
            raised = type(error).__name__
        names = [checkpointer.folder.names()]
        world.all.barrier()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        checkpointer.write(held)
        tended(checkpointer)
        world.all.barrier()
        names.append(checkpointer.folder.names())
    texts = [str(one.message) for one in warned]
    return {"warned": texts, "raised": world.all.collected(raised), "names": names}


def done(world, settings, folder, until=None, halt=None, whole=False, beside=False, full=None):
    """Runs a piece, and writes a checkpoint, at the end of the run the final state."""
    folder = Path(folder)
    run, progress, share, made = piece(world, settings, folder, until, halt, whole)
    checkpointer = Checkpointer(Inside(folder), Every(), 5, progress.clocks.time, beside, True, None, share, run.cut)
    held = snapshot(run, progress, made)
    said = {"time": progress.clocks.time, "done": progress.done}
    if full is not None:
        said |= refused(world, checkpointer, held, full)
    elif until is None and halt is None:
        checkpointer.write_final(held)
    else:
        checkpointer.write(held)
    checkpointer.close()
    return said


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("error")
    world = World(cuda=False) if ranks.size() > 1 else None
    for name, arguments in json.loads(Path(sys.argv[1]).read_text()):
        said = done(world, **arguments)
        if world is None or world.all.rank == 0:
            print(json.dumps({"case": name} | said), flush=True)
    if world is not None:
        world.close()


if __name__ == "__main__":
    main()
