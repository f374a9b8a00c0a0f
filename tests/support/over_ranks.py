"""Runs cases over ranks, each also on one rank, and says of each what of the two is not the same; for torchrun."""

import json
import sys
import traceback
from dataclasses import replace

import torch

from batchednodes import config
from batchednodes.config import sweep
from batchednodes.numerics.world import World
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning.plan import plan
from batchednodes.simulation.planning.preflight import prepare


def ended(settings, ranks=None):
    """Returns a run at its end, of which some ranks have some columns each; None: this one has all."""
    made = prepare(sweep.points(settings))
    events = made.events or assembly.timeline(made.configs)
    chunks = plan(made.configs, events, made.sizes).chunks
    chunks = replace(chunks, traced=settings.local.compile == "auto")
    run = assembly.assemble(made.configs, events, chunks, None, made.take(), ranks)
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
    """Returns what of two runs is not the same, in words: bit for bit, sums of times but for the order of their terms."""
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


def compared(ranks, name, settings, overrides):
    """Returns what a case says."""
    try:
        loaded = config.load(settings, overrides)
        run = ended(loaded, ranks)
        before = ranks.account.bytes, ranks.account.exchanges
        many = gathered(run)
        said = {"sent": before, "fused": len(run.engine.executor.algorithm.rowwise.fused)}
        return {"case": name, "wrong": differences(gathered(ended(loaded)), many)} | said
    except ValueError as error:
        return {"case": name, "wrong": [], "refused": str(error)}


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    world = World(cuda=False)
    for case in json.loads(open(sys.argv[1]).read()):
        try:
            said = compared(world.all, *case)
        except Exception:
            said = {"case": case[0], "wrong": [traceback.format_exc(limit=-6)]}
        each = world.all.collected(said)
        if each is not None:
            wrong = [f"rank {r}: {one}" for r, said in enumerate(each) for one in said["wrong"]]
            print(json.dumps(each[0] | {"wrong": wrong, "sent": [one.get("sent") for one in each]}), flush=True)
    world.close()


if __name__ == "__main__":
    main()
