"""Checkpoints of runs over ranks: shards that any number of ranks reads, and the end in one file."""

import json
import os
import shutil
from dataclasses import fields
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints_over_ranks import done
from ranks import run
from test_fuzz_checkpoint import changed, said, written
from test_resume import TINY

from batchednodes import config
from batchednodes.algorithms.share import Share, dealt
from batchednodes.config import Every
from batchednodes.events.messages import regrouping
from batchednodes.numerics.ranks import Ranks
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.checkpointer import Checkpointer
from batchednodes.results.checkpoints.finding import latest, newest
from batchednodes.results.checkpoints.header import DamageError, check_whole, finite, header, newest_first
from batchednodes.results.folder.inside import Inside

pytestmark = pytest.mark.slow  # two starts of ranks, whose work all of them look at

CPU, SCRIPT = torch.device("cpu"), "checkpoints_over_ranks.py"
LATE = ["gossip.delay={kind: exponential, mean: 0.4}", "gossip.fifo=true"]
CASES = {
    "columns": [*LATE, "local.momentum=0.5", "gossip.merge={kind: partitioned, parts: 3}"],
    "networks": ["sweep.network.nodes=[8, 14]", "sweep.staleness.track=[5, 2]", *LATE, "dtype=bfloat16"],
    "mixed": ["algorithm.kind=push_sum", *LATE, "sweep.network.nodes=[7, 9]"],
    "edges": ["algorithm.kind=swift", "network.topology.kind=ring", "sweep.network.nodes=[5, 8]"],
    "halted": [*LATE, "local.momentum=0.5"],
}
"""Settings besides TINY; the last one is halted within a window."""


def settings(name):
    return config.to_dict(config.load(TINY, ["run.until=3", "run.mark_every=3", *CASES[name]]))


def ranks(count, jobs, place):
    """Runs jobs of the script over some ranks."""
    file = place / "jobs.json"
    file.write_text(json.dumps(jobs))
    return {one["case"]: one for one in run(count, SCRIPT, str(file))}


def begun(name, folder):
    """Returns the job of the first piece of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    first = {"halt": 9} if name == "halted" else {"until": 1.3}
    return [name, {"settings": settings(name), "folder": str(folder), **first}]


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Returns a folder with checkpoints that two ranks have left, and those of one process, with its end.

    A disk was full for the second of two ranks, which say what they saw.
    """
    place = tmp_path_factory.mktemp("left")
    full = begun("columns", place / "full")[1] | {"full": 1, "beside": True}
    told = ranks(2, [*(begun(name, place / "two" / name) for name in CASES), ["full", full]], place)
    assert told["halted"]["done"] > 0
    (place / "full.json").write_text(json.dumps(told["full"]))
    for name in CASES:
        done(None, **begun(name, place / "one" / name)[1])
        done(None, settings(name), str(place / "one" / name))
    return place


def same(one, other):
    """Compares two states: bit for bit, but for sums, whose terms have another order, and for where slots lie."""
    a, b = one.state, other.state
    assert one.journal.done == other.journal.done
    assert a.nodes == b.nodes
    assert a.tensors().keys() == b.tensors().keys()
    for name, tensor in a.tensors().items():
        found = b.tensors()[name]
        if name in ("updated", "gained"):
            assert torch.allclose(found, tensor, rtol=1e-12, atol=1e-12), name
        elif name != "versions":
            rows = a.nodes if name in ("x", "v", "w", "age") else len(tensor)
            assert torch.equal(found[:rows].nan_to_num(), tensor[:rows].nan_to_num()), name
    for g in range(one.layout.sizes.size):
        blocks = one.layout.block(a.versions, g), other.layout.block(b.versions, g)
        assert torch.equal(*(block.long() for block in blocks))
    for name in (f.name for f in fields(one.clocks) if f.name != "in_flight"):
        assert np.array_equal(getattr(one.clocks, name), getattr(other.clocks, name)), name
    if one.clocks.in_flight is not None:
        sent = [snapshot.clocks.in_flight for snapshot in (one, other)]
        assert np.array_equal(sent[0].accounts, sent[1].accounts)
        assert np.array_equal(sent[0].age, sent[1].age)
    assert {n: v.tolist() for n, v in one.arrays.items()} == {n: v.tolist() for n, v in other.arrays.items()}


def newest_of(folder):
    return checkpoint.load(newest_first(Inside(folder))[0], CPU)


@pytest.mark.parametrize("name", CASES)
def test_one_process_reads_what_two_ranks_left(name, left):
    path = newest_first(Inside(left / "two" / name))[0]
    assert [file.name for file in sorted(path.path.iterdir())] == ["00000.safetensors", "00001.safetensors"]
    check_whole(path)
    found = checkpoint.load(path, CPU)
    same(checkpoint.load(Inside(left / "one" / name) / "checkpoints/000001.safetensors", CPU), found)
    assert header(path) == found.header
    assert [one for one, _ in finite(Inside(left / "two" / name))] == [path]
    assert latest(Inside(left / "two" / name), CPU).clocks.time == found.clocks.time


def lines(snapshot, name, g):
    """Returns the rows of a network in a tensor."""
    each = snapshot.edges if name in snapshot.state.on_edges else snapshot.layout.sizes
    first = np.cumsum([0, *each])
    return snapshot.state.tensors()[name][first[g] : first[g + 1]]


def held(path, count, whole=False):
    """Returns what each of some ranks holds of a checkpoint, with its group and place in it."""
    sizes = header(path).sizes
    groups, members = (((*range(len(sizes)),),), (count,)) if whole else dealt(sizes, count)
    ends = np.cumsum([0, *members])
    for g, (first, end) in enumerate(pairwise(ends.tolist())):
        for r in range(first, end):
            world = SimpleNamespace(all=Ranks(r, count))
            ranks = Ranks(r - first, end - first)
            share = Share(world, groups, g, ranks, ranks)
            yield groups[g], share.ranks, checkpoint.load(path, CPU, share)


@pytest.mark.parametrize(("count", "whole"), [(1, False), (3, False), (4, False), (3, True)])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("by", ["one", "two"])
def test_ranks_read_their_part_of_what_others_left(by, name, count, whole, left):
    if name == "halted" and not whole:
        return
    path = Inside(left / by / name) / f"checkpoints/000001{'.safetensors' if by == 'one' else ''}"
    all_, seen = checkpoint.load(path, CPU), dict[int, list]()
    first = np.cumsum([0, *all_.layout.sizes])
    for networks, own, part in held(path, count, whole):
        assert part.header == all_.header
        rows = np.concatenate([np.arange(first[g], first[g + 1]) for g in networks])
        assert np.array_equal(part.clocks.next_update, all_.clocks.next_update[rows])
        assert torch.equal(part.state.diverged_at, all_.state.diverged_at[rows])
        for total in ("updated", "gained"):
            assert torch.equal(getattr(part.state, total), getattr(all_.state, total)[rows] * (own.rank == 0))
        for k, g in enumerate(networks):
            seen.setdefault(g, []).append((part, k))
    for g, parts in seen.items():
        for field, tensor in all_.state.tensors().items():
            if tensor.ndim < 2 or field == "age":
                continue
            some = [lines(part, field, k) for part, k in parts]
            assert torch.equal(torch.cat(some, 1), lines(all_, field, g)), field
        blocks = [part.layout.block(part.state.versions, k) for part, k in parts]
        assert torch.equal(torch.cat(blocks, 1), all_.layout.block(all_.state.versions, g))


def test_what_cannot_be_dealt_to_other_ranks_is_refused_and_no_damage(tmp_path, monkeypatch):
    more = [*LATE, "sweep.network.nodes=[8, 14]", "sweep.staleness.track=[5, 2]"]
    chosen = config.to_dict(config.load(TINY, ["run.until=3", "run.mark_every=3", *more]))
    done(None, chosen, str(tmp_path), halt=9)
    path, plain = newest_first(Inside(tmp_path))[0], regrouping.owners
    assert len([*held(path, 2, whole=True)]) == 2
    monkeypatch.setattr(regrouping, "owners", lambda *given: plain(*given)[:-1])  # of one slot it is not known
    with pytest.raises(ValueError, match=r"ranks must be as many as before, 1, .* go on with 1 until") as refused:
        list(held(path, 2, whole=True))
    assert not isinstance(refused.value, DamageError)


@pytest.mark.parametrize("name", CASES)
def test_one_process_goes_on_from_what_two_ranks_left(name, left, tmp_path):
    place = shutil.copytree(left / "two" / name, tmp_path / "run")
    done(None, settings(name), str(place))
    same(newest_of(left / "one" / name), newest_of(place))


def test_three_ranks_go_on_from_what_others_left_to_an_end_in_one_file(left, tmp_path):
    jobs = list[list]()
    for by in ("one", "two"):
        for name in CASES:
            place = shutil.copytree(left / by / name, tmp_path / by / name)
            (place / "final.safetensors").unlink(missing_ok=True)
            whole = name == "halted"
            jobs.append([f"{by} {name}", {"settings": settings(name), "folder": str(place), "whole": whole}])
    ranks(3, jobs, tmp_path)
    for by in ("one", "two"):
        for name in CASES:
            found = newest_of(tmp_path / by / name)
            assert newest_first(Inside(tmp_path / by / name))[0].name == "final.safetensors"
            same(newest_of(left / "one" / name), found)


def test_damage_of_one_file_of_ranks_is_damage_of_their_checkpoint(left, tmp_path):
    place = shutil.copytree(left / "two" / "columns", tmp_path / "run")
    folder = place / "checkpoints" / "000001"
    second = folder / "00001.safetensors"
    good = second.read_bytes()
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:100], None):
        second.unlink() if bad is None else second.write_bytes(bad)
        for reads in (check_whole, lambda path: checkpoint.load(path, CPU)):
            with pytest.raises(DamageError):
                reads(Inside(place) / "checkpoints/000001")
        with pytest.warns(UserWarning, match="renamed to 000001.unusable|there is no one before"):
            assert newest(Inside(place), CPU, lambda _: None) is None
        folder.with_suffix(".unusable").rename(folder)
    second.write_bytes((left / "two" / "halted" / "checkpoints" / "000001" / "00001.safetensors").read_bytes())
    with pytest.raises(DamageError, match="its files are of different checkpoints"):
        checkpoint.load(Inside(place) / "checkpoints/000001", CPU)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", 0),
        ("files", 3),
        ("networks", [1]),
        ("networks", []),
        ("first", True),
        ("columns", {"x": [0, 5]}),
        ("columns", {"x": [5, 0]}),
        ("sources", [[0, 1], [0, 1]]),
        ("sources", [[1, 9]]),
        ("sources", [[0, 0]]),
        ("p", 9),
        ("p", None),
    ],
)
def test_what_files_of_ranks_say_of_their_part_is_true_or_damage(key, value, left, tmp_path):
    place = shutil.copytree(left / "two" / "columns" / "checkpoints" / "000001", tmp_path / "000001")
    for name in ("00000.safetensors", "00001.safetensors"):
        whole = (place / name).read_bytes()
        head = said(place / name)
        if head["__metadata__"]["about"]["part"][key] != value:
            written(changed(head, ("__metadata__", "about", "part", key), value), whole, place / name)
            with pytest.raises(DamageError, match="checkpoint must hold all that a run needs"):
                checkpoint.load(Inside(tmp_path) / "000001", CPU)
            (place / name).write_bytes(whole)
    checkpoint.load(Inside(tmp_path) / "000001", CPU)


def test_what_ranks_were_killed_over_goes_away_and_old_checkpoints_of_both_kinds(left, tmp_path):
    place = shutil.copytree(left / "two" / "columns", tmp_path / "run")
    shutil.copytree(place / "checkpoints" / "000001", place / "checkpoints" / "000002.partial")
    snapshot = newest_of(place)
    (place / "checkpoints" / "000001" / "more.safetensors").symlink_to("/dev/null")
    with pytest.raises(ValueError, match="link"):
        checkpoint.load(Inside(place) / "checkpoints/000001", CPU)
    (place / "checkpoints" / "000001" / "more.safetensors").unlink()
    checkpointer = Checkpointer(Inside(place), Every(), 2, 0.0, beside=False)
    assert os.listdir(place / "checkpoints") == ["000001"]
    checkpointer.write_now(snapshot)
    assert sorted(os.listdir(place / "checkpoints")) == ["000001", "000002.safetensors"]
    checkpointer.write_now(snapshot)
    assert sorted(os.listdir(place / "checkpoints")) == ["000002.safetensors", "000003.safetensors"]


def test_a_disk_that_is_full_for_one_of_several_ranks_leaves_no_checkpoint(left):
    told = json.loads((left / "full.json").read_text())
    assert len(told["warned"]) == 2
    assert all("no checkpoint: " in one and "00001.safetensors cannot be written" in one for one in told["warned"])
    assert told["raised"] == ["OSError"] * 2
    assert told["names"] == [[], ["000004"]]
    check_whole(Inside(left / "full") / "checkpoints/000004")
