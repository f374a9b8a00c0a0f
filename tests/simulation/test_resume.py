"""Runs that are halted, killed, damaged, extended and branched: what goes on is what would have been."""

import itertools
import json
import os
import re
import shutil

import networkx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from batchednodes import resume, train
from batchednodes.figures.plots import plot
from batchednodes.topology import from_networkx

TINY = {
    "network": {"nodes": 8},
    "run": {"until": 6, "mark_every": 1.5, "window": 0.7, "checkpoint_every": {"time": 0.5}},
    "task": {"data": {"samples_per_node": 5, "test_samples": 30}},
    "local": {"batch_size": 3},
}
VARIANTS = {
    "push": [],
    "meet": ["gossip.exchange=meet", "update.applies=delta", "local.momentum=0.5", "local.steps=2"],
    "serial": ["executor=serial", "local.momentum=0.5"],
    "sweep": ["sweep.gossip.clock.rate=[0.5, log(n)]", "replicas=2"],
    "baseline": ["run.baseline=isolated"],
    "awake": ["gossip.scheme={kind: age_aware, wait: 0.5}", "staleness.track=3", "dtype=bfloat16"],
    "marks": ["run.mark_every=6", "run.window=null", "run.checkpoint_every.time=null"],
}


def after(calls):
    """Returns a function that asks to halt from some call on."""
    counter = itertools.count()
    return lambda: next(counter) >= calls


def same_files(one, other):
    """Compares all that two runs have come to, bit for bit."""
    first, second = (load_file(folder / "final.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor.flatten().view(torch.uint8), second[name].flatten().view(torch.uint8)), name
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    for key in ("networks", "isolated", "status"):
        assert summaries[0][key] == summaries[1][key]
    names = [{p.name for p in folder.iterdir() if "tfevents" not in p.name} for folder in (one, other)]
    assert names[0] ^ names[1] <= {"checkpoints"}  # which a halted run has


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_run_halted_again_and_again_is_bit_for_bit_the_same(options, tmp_path):
    whole = train(TINY, *options, out=tmp_path / "whole")
    part, halts = train(TINY, *options, out=tmp_path / "parts", stop=after(3)), 0
    while part.summary["status"] == "interrupted":
        halts += 1
        part = resume(tmp_path / "parts", stop=after(3 + 5 * halts))  # a few phases more each time
    assert halts > 2
    same_files(tmp_path / "whole", tmp_path / "parts")
    assert torch.equal(part.x, whole.x)
    assert all(torch.equal(a, b) for a, b in zip(part.tables, whole.tables, strict=True))
    assert part.metrics.equals(whole.metrics)
    assert part.summary["devices"] == ["cpu"]
    times = [one["time"] for one in part.summary["resumed"]]
    assert times == sorted(times)
    assert len(times) == halts


def test_checkpoints_come_by_simulated_time_and_the_newest_stay(tmp_path):
    seen = []
    train(
        TINY,
        "run.checkpoint_every.time=2",
        out=tmp_path / "run",
        watch=lambda config, progress, row: seen.append((progress.clocks.time, {p.name for p in folder.glob("*")})),
    ) if (folder := tmp_path / "run" / "checkpoints") else None
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["000002.safetensors", "000003.safetensors"]  # at 2.2 (end of a window), 4.5 (mark) and 6
    assert not any(files for time, files in seen if time < 2)


def test_checkpoints_come_by_wall_time(tmp_path):
    train(TINY, "run.checkpoint_every={minutes: 1e-9}", "run.keep_checkpoints=100", out=tmp_path / "run")
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) > 20  # one after each phase
    train(TINY, "run.checkpoint_every={time: null, minutes: 100}", out=tmp_path / "rare")
    assert not (tmp_path / "rare" / "checkpoints").exists()


def halted(tmp_path):
    """Leaves a run that was halted with three checkpoints."""
    train(TINY, "run.keep_checkpoints=3", out=tmp_path / "whole")
    parts = tmp_path / "parts"
    assert train(TINY, "run.keep_checkpoints=3", out=parts, stop=after(40)).summary["status"] == "interrupted"
    files = sorted((parts / "checkpoints").iterdir())
    assert len(files) == 3
    return parts, files


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path):
    parts, files = halted(tmp_path)
    data = bytearray(files[-1].read_bytes())
    data[-1] ^= 1  # one bit
    files[-1].write_bytes(data)
    files[-2].write_bytes(files[-2].read_bytes()[:100])
    with pytest.warns(UserWarning, match="going on from the one before") as warned:
        resume(parts)
    text = " ".join(str(w.message) for w in warned)
    assert f"{files[-1]} with another checksum: it is damaged" in text
    assert str(files[-2]) in text
    for file in files[-2:]:
        assert file.with_name(file.name + ".unusable").exists()
        file.with_name(file.name + ".unusable").unlink()
    same_files(tmp_path / "whole", parts)


@pytest.mark.parametrize("left", [0, 700])
def test_a_truncated_metrics_file_takes_the_run_back_to_what_it_holds(left, tmp_path):
    parts, _ = halted(tmp_path)
    metrics = parts / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:left])
    with pytest.warns(UserWarning, match=r"metrics.jsonl must begin as the run left it|there is no one before"):
        resume(parts)
    shutil.rmtree(parts / "checkpoints")
    shutil.rmtree(tmp_path / "whole" / "checkpoints")
    same_files(tmp_path / "whole", parts)


def test_a_run_without_a_checkpoint_goes_on_from_its_start(tmp_path):
    parts, _ = halted(tmp_path)
    shutil.rmtree(parts / "checkpoints")
    resume(parts)
    same_files(tmp_path / "whole", parts)


def test_what_a_killed_process_leaves_half_written_goes_away(tmp_path):
    parts, files = halted(tmp_path)
    for path in (files[0].with_name("000009.safetensors.partial"), parts / "final.safetensors.partial"):
        path.write_bytes(b"half")
    with (parts / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b'{"time": 99.0, "netw')
    resume(parts)
    same_files(tmp_path / "whole", parts)


def test_tensorboard_shows_each_mark_once(tmp_path):
    parts, _ = halted(tmp_path)
    board = [p for p in parts.iterdir() if "tfevents" in p.name]
    resume(parts)
    assert len([p for p in parts.iterdir() if "tfevents" in p.name]) == len(board) + 1
    shown, whole = (EventAccumulator(str(tmp_path / name), {"tensors": 0}).Reload() for name in ("parts", "whole"))
    for tag in ("loss/node_mean", "vs_updates/loss_node_mean"):
        assert [(e.step, e.value) for e in shown.Scalars(tag)] == [(e.step, e.value) for e in whole.Scalars(tag)]


def test_a_clock_that_is_set_back_hides_no_mark(tmp_path):
    train(TINY, "run.mark_every=0.5", out=tmp_path / "run", stop=after(20))
    (file,) = (tmp_path / "run").glob("events.out.*")
    _, seconds, rest = re.fullmatch(r"(.*tfevents\.)(\d+)(\..*)", file.name).groups()
    ahead = int(seconds) + 7200  # as if the clock had been two hours fast when the run began
    file = file.rename(file.with_name(f"events.out.tfevents.{ahead:010d}{rest}"))
    os.utime(file, (ahead + 60, ahead + 60))
    resume(tmp_path / "run", stop=after(9))
    resume(tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").glob("events.out.*"))
    assert len(names) > 2
    assert names[0] == file.name
    shown = EventAccumulator(str(tmp_path / "run")).Reload().Scalars("loss/node_mean")
    assert [event.step for event in shown] == list(range(0, 6001, 500))
    later = [event.wall_time for event in shown if event.wall_time > ahead]
    assert later == sorted(later)
    assert later[0] >= ahead + 60  # after the last that was written with the clock as it was
    assert len(later) < 13


def test_a_mark_that_was_recorded_after_the_checkpoint_is_purged(tmp_path):
    options = ["run.checkpoint_every.time=4", "run.mark_every=1"]
    train(TINY, *options, out=tmp_path / "run")
    for name in ("final.safetensors", "summary.json"):
        (tmp_path / "run" / name).unlink()  # as if killed after the last mark; the checkpoint is of t = 4
    resume(tmp_path / "run")
    shown = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [e.step for e in shown.Scalars("loss/node_mean")] == list(range(0, 6001, 1000))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 7


def test_a_finished_run_is_extended(tmp_path):
    whole = train(TINY, "run.until=9", out=tmp_path / "whole")
    train(TINY, out=tmp_path / "parts")
    longer = resume(tmp_path / "parts", "run.until=9")
    assert torch.equal(longer.x, whole.x)
    assert longer.metrics.equals(whole.metrics)
    assert "until: 9.0" in (tmp_path / "parts" / "config.yaml").read_text()
    assert longer.summary["networks"] == whole.summary["networks"]


def test_a_finished_run_stays_as_it_is(tmp_path):
    train(TINY, "run.baseline=isolated", out=tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    again = resume(tmp_path / "run", stop=lambda: True)
    assert again.summary == json.loads(before)
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def test_a_baseline_can_be_asked_for_later(tmp_path):
    train(TINY, out=tmp_path / "run")
    later = resume(tmp_path / "run", "run.baseline=isolated")
    assert later.summary["isolated"] == train(TINY, "run.baseline=isolated").summary["isolated"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "local.lr=0.5",
            r"local.lr must not change when a run is resumed \(run.until, .* may\), got 0.5 instead of 0.1",
        ),
        ("network.nodes=9", "network.nodes must not change when a run is resumed"),
        ("gossip.scheme.kind=freshest", "gossip.scheme.kind must not change when a run is resumed"),
        ("run.until=3", r"run.until must be at least what the run has reached, 6 \[s\], got 3"),
    ],
)
def test_what_must_not_change_is_named(override, message, tmp_path):
    train(TINY, out=tmp_path / "run")
    kept = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=message):
        resume(tmp_path / "run", override)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == kept


def test_only_folders_of_runs_are_resumed(tmp_path):
    with pytest.raises(ValueError, match=r"DIR must be the folder of a run, got .* without a config.yaml"):
        resume(tmp_path)
    bad, slow = ["local.lr=1e30", "local.steps=3"], "update.clock={kind: deterministic, period: 3}"
    for name, options, remedy in (
        ("bad", bad, "to begin again with other settings: `batchednodes train CONFIG local.lr"),
        ("late", [*bad, slow], "to start from its last finite models with other settings: `batchednodes train CONFIG"),
    ):
        train(TINY, *options, out=tmp_path / name)
        rule = f"DIR must hold a run that can go on, got .*{name}', which diverged; {remedy}"
        with pytest.raises(ValueError, match=rule):
            resume(tmp_path / name)


LARGE = {
    "name": "large",
    "network": {"nodes": 12_500},
    "task": {"data": {"samples_per_node": 1, "features": 2, "test_samples": 5}},
    "local": {"batch_size": 1},
    "staleness": {"track": "none"},
    "run": {"until": 0.5, "mark_every": 0.5, "eval_nodes": 5},
}


def test_a_large_graph_of_networkx_is_resumed_branched_and_compared_wherever_its_folder_is(tmp_path):
    graph = networkx.circulant_graph(12_500, [1, 2, 3, 4, 5])  # 62,500 edges: 125,000 numbers
    tree = {**LARGE, "network": {"nodes": 12_500, "topology": from_networkx(graph)}}
    options = ["run.until=1", "gossip.clock.rate=1"]
    train(tree, *options, out=tmp_path / "whole")
    halted = train(tree, *options, out=tmp_path / "parts", stop=after(3))
    assert halted.summary["status"] == "interrupted"
    moved = (tmp_path / "parts").rename(tmp_path / "moved")
    assert resume(moved).summary["status"] == "finished"
    same_files(tmp_path / "whole", moved)
    again = train(moved / "config.yaml", f"run.start_from={moved}")
    assert again.summary["start"]["changed"] == {}
    with pytest.raises(
        ValueError, match=r"^network.topology.lists must not change .*, got '0 1' instead of '0 1 2.*\.\.\. "
    ):
        resume(moved, "network.topology.lists='0 1'")
    assert plot([moved], None).paths
    board = EventAccumulator(str(tmp_path / "whole"))
    board.Reload()
    shown = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert len(shown) < 50_000
    assert "characters are left out" in shown
    assert max(p.stat().st_size for p in (tmp_path / "whole").glob("events*")) < 100_000


def test_settings_too_long_to_be_resumed_are_refused_before_the_run(tmp_path):
    edges = {"kind": "edges", "i": [0] * 62_500, "j": [1] * 62_500}
    tree = {**LARGE, "network": {"nodes": 12_500, "topology": edges}}
    with pytest.raises(
        ValueError, match=r"^network.topology.[ij] must be shorter: .* 120,000 values and 16 MiB, got 125,\d{3} "
    ):
        train(tree, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_branch_starts_from_the_models_of_another_run(tmp_path):
    first = train(TINY, out=tmp_path / "first")
    second = train(TINY, f"run.start_from={tmp_path / 'first'}", "local.lr=0.01", "seed=5", out=tmp_path / "second")
    last, begin = first.metrics.iloc[-1], second.metrics.iloc[0]
    assert begin["time"] == 0
    assert begin["consensus_distance"] == last["consensus_distance"]  # the models, whatever the test set
    assert second.summary["start"] == {
        "folder": str(tmp_path / "first"), "time": 6.0, "changed": {"seed": [0, 5], "local.lr": [0.1, 0.01]},
    }  # fmt: skip
    shutil.rmtree(tmp_path / "first")
    assert resume(tmp_path / "second").summary["start"] == second.summary["start"]


def test_a_branch_of_one_network_serves_each_of_a_sweep(tmp_path):
    first = train(TINY, out=tmp_path / "first")
    start = f"run.start_from={tmp_path / 'first'}"
    swept = train(TINY, start, "sweep.local.lr=[0.1, 0.2]", "update.applies=delta").metrics
    assert (swept["consensus_distance"][:2] == first.metrics["consensus_distance"].iloc[-1]).all()


def test_a_branch_starts_from_the_last_finite_models(tmp_path):
    options = ["local.lr=1e4", "run.until=60", "run.mark_every=60"]
    result = train(TINY, *options, out=tmp_path / "bad")
    assert result.summary["status"] == "diverged"
    again = train(TINY, f"run.start_from={tmp_path / 'bad'}", "local.lr=0")
    assert again.x.isfinite().all()
    assert 0 < again.summary["start"]["time"] < 60


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.start_from=nowhere", "run.start_from must be the folder of a run, got 'nowhere' without a state"),
        (
            "network.nodes=9",
            "run.start_from must name a run of networks with 9 nodes, got 8 .network.nodes=8.*; or of one",
        ),
        ("task.model={kind: mlp}", "task.model.kind must be that of the run that run.start_from names, 'linear', got"),
        ("task.data.features=3", "run.start_from must name a run of models with 4 parameters, got 11"),
    ],
)
def test_what_a_branch_cannot_take_over_is_named(override, message, tmp_path):
    train(TINY, out=tmp_path / "first")
    with pytest.raises(ValueError, match=message):
        train(TINY, f"run.start_from={tmp_path / 'first'}", override, out=tmp_path / "second")
    assert not (tmp_path / "second").exists()


@pytest.mark.cuda
def test_a_run_moves_between_devices(tmp_path):
    whole = train(TINY, "device=cpu", "dtype=float64")
    train(TINY, "device=cpu", "dtype=float64", out=tmp_path / "run", stop=after(40))
    moved = resume(tmp_path / "run", "device=cuda")
    assert moved.summary["devices"] == ["cpu", torch.cuda.get_device_name()]
    assert np.allclose(moved.x.cpu(), whole.x, rtol=1e-12, atol=1e-12)  # the same sums in another order
    assert torch.equal(moved.versions.cpu(), whole.versions)


def curves(folder):
    """Returns the step and the tags of each event of each file of TensorBoard in a folder, file by file."""
    found = []
    for path in sorted(folder.glob("events.out.*"), key=lambda path: path.stat().st_mtime_ns):
        shown = EventAccumulator(str(path))
        shown.Reload()
        found.append({tag: [e.step for e in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]})
    return found


def test_throughput_is_shown_from_the_first_mark_after_a_pause(tmp_path):
    train(TINY, out=tmp_path / "run", stop=after(25))
    resume(tmp_path / "run")
    first, second = curves(tmp_path / "run")
    assert second["loss/node_mean"][0] == first["loss/node_mean"][-1] + 1500  # milliseconds
    assert second["run/events_per_second"] == second["loss/node_mean"]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    train(TINY, out=tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    resume(tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
