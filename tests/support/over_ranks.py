"""Runs cases over ranks, each also on one rank, and says of each what of the two is not the same; for torchrun."""

import json
import sys
from contextlib import closing
from pathlib import Path

import torch

from batchednodes import config
from batchednodes.algorithms.over_ranks import sent_by_contacts, sent_by_update
from batchednodes.algorithms.waves import UpdateWave
from batchednodes.config import sweep
from batchednodes.events.synchronous import Barriers
from batchednodes.numerics.memory import BackgroundWorker, Chunks
from batchednodes.numerics.ranks import Ranks
from batchednodes.numerics.world import World
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning.preflight import prepare


def ended(settings, traced, ranks=None):
    """Returns a run at its end, of which some ranks have some columns each; None: this one has all."""
    made = prepare(sweep.points(settings))
    events = made.events or assembly.timeline(made.configs)
    chunks = Chunks(int(settings.local.chunk or 64), 64, traced=traced)
    run = assembly.assemble(made.configs, events, chunks, None, made.take(), ranks)
    if ranks is not None:
        ranks.account.bytes = ranks.account.exchanges = 0
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    return run


def gathered(run):
    """Returns all tensors of a run, whole, by name, on all ranks; those of nodes, since slots may hold anything."""
    state, cut, layout = run.state, run.cut, run.engine.executor.algorithm.layout
    blocks = [layout.block(state.versions, g) for g in range(layout.sizes.size)]
    found = {"x": state.x[: state.nodes], "updated": state.updated, "gained": state.gained}
    found["diverged_at"] = state.diverged_at
    for name, rows in state.fields.items():
        found[name] = rows if name in state.on_edges else rows[: state.nodes]
    if cut is not None:
        found = {name: cut.joined(t.contiguous(), cut.widths[name]) if name in cut.widths and name != "age" else t
                 for name, t in found.items()}  # fmt: skip
        found |= {name: cut.ranks.total(found[name]) for name in ("updated", "gained")}
        widths = [int(cut.ranks.total(torch.tensor([block.shape[1]]))) for block in blocks]
        blocks = [cut.joined(block.contiguous(), width) for block, width in zip(blocks, widths, strict=True)]
    return found | {f"versions {g}": block.long() for g, block in enumerate(blocks)}


def differences(alone, many):
    """Returns what of two runs is not the same, in words: of sums of times but for the order of their terms."""
    said = list[str]()
    if alone.keys() != many.keys():
        return [f"has {[*many]}, not {[*alone]}"]
    for name, one in alone.items():
        other = many[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            said.append(f"{name} is {[*other.shape]} of {other.dtype}, not {[*one.shape]} of {one.dtype}")
        elif name in ("updated", "gained"):
            far = (one - other).abs() / one.abs().clamp(min=1)
            said += [f"{name} is {float(far.max())} apart"] * bool((far > 1e-12).any())
        elif not torch.equal(one.nan_to_num(), other.nan_to_num()):
            rows = (one != other).flatten(1).any(1) if one.ndim > 1 else one != other
            said.append(
                f"{name} differs in {int(rows.sum())} of {len(rows)} rows, by {float((one - other).abs().max())}"
            )
    return said


def expected(run):
    """Returns the bytes that this rank should send to others in a run of contacts, and by how many exchanges."""
    waves, cut, state = run.engine.executor.algorithm, run.cut, run.state
    items = {"x": state.x.element_size()} | {
        name: t.element_size() for name, t in state.fields.items() if name != "age"
    }
    seen = {name: size for name, size in items.items() if name == "x" or name in waves.trained}
    inboxes = {name: items.pop(name) for name in waves.rowwise.algorithm.living("inbox")}
    edges, both = waves.rowwise.edges, waves.rowwise.algorithm.writes_sender
    on_edges = {name: size for name, size in seen.items() if name in state.on_edges}
    on_nodes = {name: size for name, size in seen.items() if name not in state.on_edges}
    total, exchanges, clocks = 0, 0, run.engine.timeline.begin()
    with closing(BackgroundWorker()) as host:
        for until, _ in run.engine._ends(0.0, None, Unobserved()):
            events, clocks = run.engine.timeline.window(clocks, until)
            window = run.engine.executor.prepare(events, clocks, state, host)
            for phase in window.phases:
                if isinstance(phase, UpdateWave):
                    each = () if edges is None else edges.around(torch.from_numpy(phase.nodes))[1]
                    owned = [int(part.sum()) for part in each.split(cut.counts(len(each)))] if len(each) else []
                    total += sent_by_update(cut, phase.nodes.size, on_nodes, on_edges, owned)
                    exchanges += 2
                elif not waves.rowwise.by_columns:
                    some = window.lines.between(phase.start, phase.stop)
                    for a, b in some.spans():
                        live = (some.receivers[a:b] < some.nodes) & (some.senders[a:b] != some.receivers[a:b])
                        if live.any():
                            total += sent_by_contacts(cut, int(live.sum()), items, some.pairs, both, inboxes)
                            exchanges += 2
    return [total, exchanges]


def compared(ranks, name, settings, overrides, traced):
    """Returns what a case says; traced: whether steps go by tapes, which take seconds to record."""
    loaded = config.load(settings, overrides)
    try:
        run = ended(loaded, traced, ranks)
    except ValueError as error:
        return {"case": name, "refused": str(error)}
    sent, many = [ranks.account.bytes, ranks.account.exchanges], gathered(run)
    said = {"case": name, "fused": len(run.engine.executor.algorithm.rowwise.fused)}
    if ranks.rank == 0:
        said["wrong"] = differences(gathered(ended(loaded, traced)), many)
    if not isinstance(run.engine.timeline, Barriers):
        said |= {"sent": sent, "expected": expected(run)}
    return said


def main():
    """Compares the cases of a file, one after the other."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    world = World(cuda=False)
    for name, *case in json.loads(Path(sys.argv[1]).read_text()):
        ranks = Ranks(world.all.rank, world.all.size)
        try:
            said = compared(ranks, name, *case)
        except Exception as error:
            error.add_note(f"in case {name!r}")  # the others would wait for this rank for ever
            raise
        each = world.all.collected(said)
        if each is not None:
            print(json.dumps({"ranks": each}), flush=True)
    world.close()


if __name__ == "__main__":
    main()
